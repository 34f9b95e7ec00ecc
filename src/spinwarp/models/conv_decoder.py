"""ConvDecoder: an untrained convolutional decoder whose structure is a prior for images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spinwarp.errors import InputError


class ConvDecoder(nn.Module):
    """G_theta(z): blocks of nearest upsampling, 3x3 convolution, ReLU and batch normalisation from a fixed random z.

    The last block does not upsample; a 1x1 convolution makes the outputs. The module represents a single image: z is a
    buffer, ``forward`` takes no argument, and fitting the image means fitting theta. The constructor draws the weights
    and z from torch's generator.

    Parameters
    ----------
    size : (h, w) of the output.
    out_channels : of the output; two for a complex image.
    channels : of every block; 160 in the paper, 256 in the authors' notebook.
    layers : number of blocks.
    input_size : (h, w) of z, drawn from U[0, 1].

    Raises
    ------
    InputError : if there are fewer than two layers or no channels.

    References
    ----------
    Darestani and Heckel, "Accelerated MRI with un-trained neural networks", IEEE TCI 2021.
    """

    z: Tensor

    def __init__(
        self,
        size: Sequence[int],
        out_channels: int,
        channels: int = 32,
        layers: int = 8,
        input_size: Sequence[int] = (8, 4),
    ) -> None:
        super().__init__()
        if layers < 2 or channels < 1:
            raise InputError(
                f"a ConvDecoder has at least two layers and one channel; got layers={layers}, channels={channels}"
            )
        blocks: list[nn.Module] = []
        for inner in [*decoder_sizes(input_size, size, layers - 1), None]:
            blocks += [
                nn.Upsample(inner, mode="nearest") if inner else nn.Identity(),
                nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
                nn.ReLU(inplace=True),
                nn.BatchNorm2d(channels, track_running_stats=False),
            ]
        self.body = nn.Sequential(*blocks)
        self.head = Pointwise(channels, out_channels, bias=False)
        self.register_buffer("z", torch.rand(1, channels, *input_size))

    def forward(self) -> Tensor:
        """Return the image ``(1, out_channels, h, w)``."""
        out: Tensor = self.head(self.body(self.z))
        return out


class Pointwise(nn.Linear):
    """A 1x1 convolution as a matrix product: half the time of torch's convolution for one image on one thread."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_features, h, w)`` to ``(batch, out_features, h, w)``."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def decoder_sizes(first: Sequence[int], last: Sequence[int], steps: int) -> list[tuple[int, int]]:
    """Sizes after each of ``steps`` upsamplings by the same factor, from ``first`` (not included) to exactly ``last``.

    The n-th is ``ceil(first * (last / first)^(n / steps))``, as the authors compute it.
    """
    factors = [(b / a) ** (1 / steps) for a, b in zip(first, last, strict=True)]
    inner = [tuple(math.ceil(f**n * a) for f, a in zip(factors, first, strict=True)) for n in range(1, steps)]
    return [(h, w) for h, w in [*inner, tuple(last)]]
