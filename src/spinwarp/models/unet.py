"""The U-Net of the fastMRI baselines (Ronneberger 2015; Zbontar et al., arXiv 1811.08839)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Reconstruction, center_crop
from spinwarp.coils import combine, with_phase_of
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.models.complex_network import ComplexNetwork


class UNet(nn.Module):
    """Encoder and decoder with skip connections on real channels; any size of at least ``2^(pools + 1)``.

    Parameters
    ----------
    in_channels, out_channels : of the input and output.
    channels : of the first level, doubled at each pooling.
    pools : number of poolings.
    dropout : probability of dropping a feature map.
    """

    def __init__(
        self, in_channels: int, out_channels: int, channels: int = 32, pools: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(pools + 1)]
        self.pools = pools
        self.down = nn.ModuleList(
            _double_conv(n_in, n_out, dropout)
            for n_in, n_out in zip([in_channels, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottom = _double_conv(widths[-2], widths[-1], dropout)
        self.up = nn.ModuleList(_upsample(2 * n, n) for n in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_double_conv(2 * n, n, dropout) for n in reversed(widths[:-1]))
        self.head = nn.Conv2d(channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, h, w)`` to ``(batch, out_channels, h, w)``."""
        if min(x.shape[-2:]) < 2 ** (self.pools + 1):
            raise InputError(
                f"an image of {x.shape[-2]}x{x.shape[-1]} is too small for a U-Net with {self.pools} poolings; use "
                f"at least {2 ** (self.pools + 1)} pixels a side, or fewer pools"
            )
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = _halve(x)
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            skip = skips.pop()
            x = up(x)
            missing_h, missing_w = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
            if missing_h or missing_w:  # an odd size lost its last row or column to the pooling
                x = F.pad(x, (0, missing_w, 0, missing_h), mode="reflect")
            x = merge(torch.cat([x, skip], dim=1))
        out: Tensor = self.head(x)
        return out


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation by torch's group normalisation, which takes a quarter of the time on a CPU (torch 2.13).

    In half precision it is torch's own, because autocast makes group normalisation float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, channels, h, w)`` with mean zero and variance one in every channel."""
        if x.dtype in (torch.float16, torch.bfloat16):
            return super().forward(x)
        return F.group_norm(x, x.shape[1], eps=self.eps)


class MagnitudeUNet(ComplexNetwork):
    """U-Net from the zero-filled root-sum-of-squares magnitude to the magnitude image.

    Like the fastMRI baseline, it works inside the reconstruction size, on images normalised by their own mean and
    standard deviation and clamped to +-6. The result replaces the magnitude of the zero-filled image there and keeps
    its phase, so the output is a complex image of full size in the units of the data.
    """

    #: channels of the U-Net's output; the first is the image
    out_channels: ClassVar[int] = 1

    def __init__(self, channels: int = 32, pools: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.unet = UNet(1, self.out_channels, channels, pools, dropout)

    def forward(self, acquisition: Acquisition) -> Tensor | Reconstruction:
        """Return the image ``(batch, h, w)`` complex."""
        return self.restore(acquisition)[0]

    def restore(self, acquisition: Acquisition) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image, the output of the U-Net inside the crop, and the unit of the output.

        Returns ------- The complex image ``(batch, h, w)``; the output ``(batch, out_channels, h', w')`` in the
        precision of the network; its unit ``(batch, 1, 1)``, the standard deviation of the zero-filled image.
        """
        zero_filled = combine(ifftc(acquisition.kspace), acquisition.maps)
        magnitude = center_crop(zero_filled.abs(), reconstruction_size(acquisition))
        mean, std = statistics(magnitude)
        # under autocast the network returns half precision; the product with std is float32 again
        output = self.unet(((magnitude - mean) / std).clamp(-6, 6)[:, None])
        image = zero_filled.clone()
        inside = center_crop(image, reconstruction_size(acquisition))
        inside[:] = with_phase_of(output[:, 0] * std + mean, inside)
        return image, output, std


def statistics(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(batch, 1, 1)`` of each image; the deviation is never zero."""
    mean = magnitude.mean((-2, -1), keepdim=True)
    std = magnitude.std((-2, -1), keepdim=True)
    return mean, std.clamp_min(torch.finfo(magnitude.dtype).tiny)


def reconstruction_size(acquisition: Acquisition) -> tuple[int, int]:
    """Size of the reconstructed image: that of the header, at most that of k-space, which is also the default."""
    h, w = acquisition.kspace.shape[-2:]
    size = acquisition.headers[0].reconstruction_size if acquisition.headers else None
    return (h, w) if size is None else (min(h, size[0]), min(w, size[1]))


def _halve(x: Tensor) -> Tensor:
    """Mean over squares of two by two pixels; an odd last row or column is left out."""
    if x.requires_grad or x.dtype != torch.float32 or x.device.type != "cpu":
        return F.avg_pool2d(x, kernel_size=2)
    # torch's pooling takes three to ten times as long on a CPU, but its gradient is simpler
    h, w = (n // 2 * 2 for n in x.shape[-2:])
    rows = x[..., 0:h:2, :] + x[..., 1:h:2, :]
    return (rows[..., 0:w:2] + rows[..., 1:w:2]).mul_(0.25)


def _double_conv(n_in: int, n_out: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [
            nn.Conv2d(n, n_out, kernel_size=3, padding=1, bias=False),
            InstanceNorm(n_out),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout2d(dropout),
        ]
    return nn.Sequential(*layers)


def _upsample(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(n_in, n_out, kernel_size=2, stride=2, bias=False),
        InstanceNorm(n_out),
        nn.LeakyReLU(0.2, inplace=True),
    )
