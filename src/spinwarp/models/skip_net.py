"""The hourglass of the deep image prior: an untrained encoder and decoder with narrow skip connections."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.models.conv_decoder import Pointwise


class SkipNet(nn.Module):
    """G_theta(z): z has the size of the output, is halved ``levels`` times and upsampled again bilinearly.

    On the way up, each level normalises the joined skip and deeper features, then convolves 3x3 and 1x1. Halving rounds
    odd sizes up, and upsampling restores them exactly. ``forward`` takes no argument: z is a buffer, drawn from torch's
    generator like the weights.

    Parameters
    ----------
    size : (h, w) of the output; both more than ``2^levels``.
    out_channels : of the output; two for a complex image.
    channels : of every level; 256 in the MRI comparison of the ConvDecoder's authors, which gives their 31.5 million
        parameters with 8 levels and a kernel of 5.
    levels : number of halvings.
    skip_channels : of each skip connection.
    kernel_down : size of the kernels on the way down.
    input_channels : of z, drawn from U[0, 0.1].

    Raises
    ------
    InputError : if there are no levels or channels, the kernel is even or the size is too small for the levels.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Deep image prior", CVPR 2018.
    """

    z: Tensor

    def __init__(
        self,
        size: Sequence[int],
        out_channels: int,
        channels: int = 32,
        levels: int = 4,
        skip_channels: int = 4,
        kernel_down: int = 3,
        input_channels: int = 32,
    ) -> None:
        super().__init__()
        if min(levels, channels, skip_channels, input_channels) < 1 or kernel_down % 2 == 0:
            raise InputError(
                f"a skip net needs at least one level, one channel of each type and odd kernels; got levels={levels}, "
                f"{channels=}, {skip_channels=}, {input_channels=}, {kernel_down=}"
            )
        if min(size) <= 2**levels:  # normalising a single pixel would give zero
            raise InputError(
                f"an image of {size[0]}x{size[1]} is too small for a skip net of {levels} levels; take fewer levels"
            )
        inputs = [input_channels] + [channels] * (levels - 1)
        self.skip = nn.ModuleList(_conv(n, skip_channels, 1) for n in inputs)
        self.down = nn.ModuleList(
            nn.Sequential(_conv(n, channels, kernel_down, stride=2), _conv(channels, channels, kernel_down))
            for n in inputs
        )
        joined = channels + skip_channels
        self.up = nn.ModuleList(
            nn.Sequential(_norm(joined), _conv(joined, channels, 3), _conv(channels, channels, 1)) for _ in inputs
        )
        self.head = Pointwise(channels, out_channels)
        self.register_buffer("z", 0.1 * torch.rand(1, input_channels, *size))

    def forward(self) -> Tensor:
        """Return the image ``(1, out_channels, h, w)``."""
        x, skips = self.z, []
        for skip, down in zip(self.skip, self.down, strict=True):
            skips.append(skip(x))
            x = down(x)
        for up in self.up:
            beside = skips.pop()
            x = F.interpolate(x, size=beside.shape[-2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([beside, x], dim=1))
        out: Tensor = self.head(x)
        return out


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        Pointwise(n_in, n_out) if kernel == 1 else nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2),
        _norm(n_out),
        nn.LeakyReLU(0.2, inplace=True),
    )


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)
