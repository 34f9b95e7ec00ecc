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
                f"an image of {x.shape[-2]}x{x.shape[-1]} is too small for a U-Net with {self.pools} poolings; it "
                f"takes at least {2 ** (self.pools + 1)} pixels a side, or fewer pools"
            )
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.avg_pool2d(x, kernel_size=2)
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


class MagnitudeUNet(ComplexNetwork):
    """U-Net from the zero-filled root-sum-of-squares magnitude to the magnitude image.

    Works inside the reconstruction size, on each image's own mean and standard deviation, clamped to +-6 of them, as
    the fastMRI baseline. The result is pasted into the zero-filled image, whose phase it keeps, so that it is
    an image like any other and the scale is the measured one.
    """

    #: channels that the U-Net returns; the first is the image
    out_channels: ClassVar[int] = 1

    def __init__(self, channels: int = 32, pools: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.unet = UNet(1, self.out_channels, channels, pools, dropout)

    def forward(self, acquisition: Acquisition) -> Tensor | Reconstruction:
        """Return the image ``(batch, h, w)`` complex."""
        return self.restore(acquisition)[0]

    def restore(self, acquisition: Acquisition) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image ``(batch, h, w)``, all that the U-Net said inside the crop, and in what units.

        Returns
        -------
        The complex image; ``(batch, out_channels, h', w')`` in units of the deviation, in the precision of the
        network; the deviation of the zero-filled image ``(batch, 1, 1)``.
        """
        zero_filled = combine(ifftc(acquisition.kspace), acquisition.maps)
        magnitude = center_crop(zero_filled.abs(), reconstruction_size(acquisition))
        mean, std = statistics(magnitude)
        # under autocast the network's output is of half precision; the product with std is float32 again
        output = self.unet(((magnitude - mean) / std).clamp(-6, 6)[:, None])
        image = zero_filled.clone()
        inside = center_crop(image, reconstruction_size(acquisition))
        inside[:] = with_phase_of(output[:, 0] * std + mean, inside)
        return image, output, std


def statistics(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(batch, 1, 1)`` of each image, the deviation never zero."""
    mean = magnitude.mean((-2, -1), keepdim=True)
    std = magnitude.std((-2, -1), keepdim=True)
    return mean, std.clamp_min(torch.finfo(magnitude.dtype).tiny)


def reconstruction_size(acquisition: Acquisition) -> tuple[int, int]:
    """Size of the viewed image, which the header may give; k-space's own size otherwise."""
    h, w = acquisition.kspace.shape[-2:]
    size = acquisition.headers[0].reconstruction_size if acquisition.headers else None
    return (h, w) if size is None else (min(h, size[0]), min(w, size[1]))


def _double_conv(n_in: int, n_out: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [
            nn.Conv2d(n, n_out, kernel_size=3, padding=1, bias=False),
            nn.InstanceNorm2d(n_out),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout2d(dropout),
        ]
    return nn.Sequential(*layers)


def _upsample(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(n_in, n_out, kernel_size=2, stride=2, bias=False),
        nn.InstanceNorm2d(n_out),
        nn.LeakyReLU(0.2, inplace=True),
    )
