"""Base class and building blocks of generators, which map a standard normal latent to an image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork

Size = tuple[int, int]


class ImageGenerator(ComplexNetwork, ABC):
    """``G(z)``: map a latent ``z ~ N(0, 1)`` to a complex image in units of :func:`spinwarp.preparation.prior_scale`.

    Parameters
    ----------
    size : default ``(h, w)`` of the images.

    Attributes
    ----------
    invertible : whether ``G`` is one to one, with as many latents as real numbers in the image. Then ``G`` can make any
        image, and the prior only says how far its latent is from zero.

    Raises
    ------
    InputError : if the size is not two positive numbers.
    """

    invertible = False

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"the size of a generator's images is (h, w), two positive numbers; got {list(size)}")
        self.size: Size = (int(size[0]), int(size[1]))

    @abstractmethod
    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        """Shape of the latent of one image of ``size``, by default the generator's own.

        Raises
        ------
        InputError : if the generator cannot make images of that size.
        """

    @abstractmethod
    def generate(self, z: Tensor, size: Size | None = None) -> Tensor:
        """Make images: ``(batch, *latent_shape(size))`` to ``(batch, h, w)`` complex64."""


def padded_size(size: Size, multiple: int) -> Size:
    """Round both sides up to a multiple of a number."""
    h, w = (-(-n // multiple) * multiple for n in size)
    return h, w


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of ``(batch, channel, h, w)`` up to multiples of a number."""
    h, w = x.shape[-2:]
    larger_h, larger_w = padded_size((h, w), multiple)
    if (larger_h, larger_w) == (h, w):
        return x
    return F.pad(x, (0, larger_w - w, 0, larger_h - h), mode="replicate")


class Residual(nn.Module):
    """``x + conv(silu(conv(silu(x))))``, the identity at the start of training.

    Without normalisation, networks of these blocks are smooth in their input everywhere, as latent optimisation needs.
    A normalisation would divide by zero where every feature map is constant, as at z = 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, h, w)`` to the same."""
        silu = torch.nn.functional.silu
        out: Tensor = x + self.second(silu(self.first(silu(x))))
        return out


def encoder(widths: Sequence[int], n_out: int) -> nn.Sequential:
    """Layers from the two channels of an image to ``n_out``, halving the image for each width after the first."""
    layers: list[nn.Module] = [nn.Conv2d(2, widths[0], 3, padding=1)]
    for n, wider in pairwise(widths):
        layers += [Residual(n), nn.Conv2d(n, wider, 3, stride=2, padding=1)]
    return nn.Sequential(*layers, Residual(widths[-1]), nn.Conv2d(widths[-1], n_out, 1))


def decoder(n_in: int, widths: Sequence[int]) -> nn.Sequential:
    """Layers from ``n_in`` channels to the two of an image: :func:`encoder` in reverse."""
    layers: list[nn.Module] = [nn.Conv2d(n_in, widths[-1], 3, padding=1), Residual(widths[-1])]
    for wider, n in pairwise(reversed(widths)):
        layers += [nn.Conv2d(wider, 4 * n, 3, padding=1), nn.PixelShuffle(2), Residual(n)]
    return nn.Sequential(*layers, nn.Conv2d(widths[0], 2, 3, padding=1))


def doubled(channels: int, levels: int, most: int) -> list[int]:
    """Channels of each level: doubled at each halving of the image, up to ``most``.

    Raises
    ------
    InputError : if one of the numbers is below one.
    """
    if min(channels, levels, most) < 1:
        raise InputError(
            f"channels, levels and max_channels of a generator must be at least 1; got {channels}, {levels} and {most}"
        )
    return [min(channels * 2**level, most) for level in range(levels + 1)]
