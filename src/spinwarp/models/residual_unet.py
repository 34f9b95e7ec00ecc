"""A residual U-Net without biases: the restoration network of :class:`spinwarp.models.unrolled.UnrolledNet`."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.channels import to_channels, to_complex
from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.models.denoiser import Denoiser

Layer = TypeVar("Layer", bound=nn.Conv2d | nn.ConvTranspose2d)


class ResidualUNet(nn.Module):
    """Residual blocks on a few levels, convolutions and ReLUs only; any image size.

    There are no biases and no normalisation, so the network commutes with a change of scale: what it learned at one
    noise level relative to the image it applies at any brightness (Mohan et al., "Robust and interpretable blind image
    denoising via bias-free convolutional neural networks", ICLR 2020). What it does in one place depends on the
    surroundings only, so it may be trained on blocks of rows.

    Patches of 2 by 2 pixels become channels, because the full resolution is the most expensive level (Zhang et al.,
    FFDNet, IEEE TIP 2018). The levels are those of DRUNet (Zhang et al., arXiv 2008.13751).

    Parameters
    ----------
    in_channels, out_channels : of the input and output.
    widths : channels of each level, from fine to coarse; each level halves the image.
    blocks : residual blocks of each level, on the way down and again on the way up.
    periodic : beyond the first column comes the last. Columns are the phase direction, along which aliasing leaves the
        image on one side and enters it on the other. A width that the levels do not divide gets a few copied columns
        on either side, which comes close. Otherwise zeros come beyond the edges, as they always do beyond the rows.

    Raises
    ------
    InputError : if there is no level or no block.
    """

    def __init__(
        self, in_channels: int, out_channels: int, widths: Sequence[int], blocks: int = 1, periodic: bool = False
    ) -> None:
        super().__init__()
        if not widths or blocks < 1:
            raise InputError(
                f"a residual U-Net has at least one level and one block; got widths={list(widths)}, blocks={blocks}"
            )
        self.multiple = 2 ** len(widths)
        self.periodic = periodic
        self.first = _convolution(4 * in_channels, widths[0])
        *finer, coarsest = widths
        self.down = nn.ModuleList(_blocks(n, blocks) for n in finer)
        self.shrink = nn.ModuleList(
            _scaled(nn.Conv2d(n, m, 2, stride=2, bias=False), 4 * n) for n, m in pairwise(widths)
        )
        self.bottom = _blocks(coarsest, blocks)
        self.grow = nn.ModuleList(
            _scaled(nn.ConvTranspose2d(m, n, 2, stride=2, bias=False), m) for n, m in reversed([*pairwise(widths)])
        )
        self.up = nn.ModuleList(_blocks(n, blocks) for n in reversed(finer))
        # a small output at first: an unrolled network then starts as its data consistency
        self.last = _convolution(widths[0], 4 * out_channels, gain=0.1)
        for module in self.modules():
            if isinstance(module, _Convolution):
                module.periodic = periodic

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, h, w)`` to ``(batch, out_channels, h, w)``."""
        h, w = x.shape[-2:]
        more_h, more_w, left = -h % self.multiple, -w % self.multiple, 0
        if self.periodic and more_w:
            left = (more_w + self.multiple) // 2  # on each side, so that both edges see across
            x = x[..., torch.arange(-left, w + more_w + self.multiple - left, device=x.device) % w]
            more_w = 0
        x = F.pixel_unshuffle(F.pad(x, (0, more_w, 0, more_h)), 2)
        # channels last saves a CPU a third of the time; all layers keep this order
        x = self.first(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            x = blocks(x)
            skips.append(x)
            x = shrink(x)
        x = self.bottom(x)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            x = blocks(grow(x) + skips.pop())
        return F.pixel_shuffle(self.last(x), 2)[..., :h, left : left + w]


class ComplexResidualUNet(ComplexNetwork):
    """:class:`ResidualUNet` on complex images, with the noise level as another channel.

    Parameters
    ----------
    widths, blocks, periodic : of the :class:`ResidualUNet`.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128), blocks: int = 1, periodic: bool = False) -> None:
        super().__init__()
        self.unet = ResidualUNet(3, 2, widths, blocks, periodic)

    def forward(self, image: Tensor, noise_std: Tensor) -> Tensor:
        """``(batch, 1, h, w)`` complex and noise levels ``(batch,)`` to a residual of the same shape."""
        level = noise_std.view(-1, 1, 1, 1).expand(-1, 1, *image.shape[-2:])
        return to_complex(self.unet(torch.cat([to_channels(image), level], dim=1)))


class BiasFreeDenoiser(Denoiser):
    """``D(x, sigma) = x + net(x, sigma)`` with a :class:`ComplexResidualUNet`: a prior of images of any size.

    It needs no preconditioning, because the network commutes with a change of scale.

    Parameters
    ----------
    widths, blocks : of the :class:`ResidualUNet`.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128), blocks: int = 1) -> None:
        super().__init__(ComplexResidualUNet(widths, blocks))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise complex images ``(batch, h, w)`` at noise levels ``(batch,)``, or one for all."""
        return x + self.network(x[:, None], sigma.to(x.real.dtype).expand(len(x)))[:, 0]


class _Convolution(nn.Conv2d):
    """3 by 3, without bias; zeros beyond the edges, but for the columns if ``periodic``."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, kernel_size=3, padding=1, bias=False)
        self.periodic = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.periodic:
            return super().forward(x)
        # F.pad(mode="circular") takes several times as long as this copy
        return F.conv2d(torch.cat([x[..., -1:], x, x[..., :1]], -1), self.weight, padding=(1, 0))


class _ResidualBlock(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.one, self.two = _convolution(n, n), _convolution(n, n, gain=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(x)))


def _blocks(n: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(n) for _ in range(number)))


def _convolution(n_in: int, n_out: int, gain: float = 1.0) -> _Convolution:
    return _scaled(_Convolution(n_in, n_out), 9 * n_in, gain)


def _scaled(layer: Layer, fan_in: int, gain: float = 1.0) -> Layer:
    """Let the output have ``gain`` times the size of the input; torch's default shrinks it at each layer."""
    nn.init.normal_(layer.weight, std=gain * fan_in**-0.5)
    return layer
