"""A U-Net that predicts a standard deviation for every pixel (Nix and Weigend 1994; Kendall and Gal, NeurIPS 2017)."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from spinwarp.acquisition import Acquisition, Reconstruction, center_crop
from spinwarp.models.unet import MagnitudeUNet

# In units of the zero-filled image's standard deviation; about 0.2 % of its range, which is also the rounding error of
# bf16. Without this bound, a Gaussian likelihood would give the air a weight 1 / std^2 that outweighs everything else.
LEAST_STD = 0.01


class HeteroscedasticUNet(MagnitudeUNet):
    """A :class:`MagnitudeUNet` with a second channel: the standard deviation of each pixel.

    std = softplus(channel) + least std, in units of the zero-filled image's deviation, then in the units of the data.
    Trained with a likelihood, it learns the error that remains on images like the training images (aleatoric
    uncertainty); it does not know about images unlike them. Outside the reconstruction size, where the zero-filled
    image is kept, the deviation is zero.

    Parameters
    ----------
    channels, pools, dropout : of the U-Net.
    """

    out_channels: ClassVar[int] = 2

    def forward(self, acquisition: Acquisition) -> Reconstruction:
        """Return the image ``(batch, h, w)`` complex and the standard deviation of its magnitude."""
        image, output, unit = self.restore(acquisition)
        std = torch.zeros_like(image.real)
        inside = center_crop(std, (output.shape[-2], output.shape[-1]))
        # full precision even under autocast: the logarithm of a small deviation is steep
        inside[:] = (F.softplus(output[:, 1].float()) + LEAST_STD) * unit
        return Reconstruction(image=image, std=std)
