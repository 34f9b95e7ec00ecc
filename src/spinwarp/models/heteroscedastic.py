"""A U-Net that says with every pixel how wrong it may be (Nix and Weigend 1994; Kendall and Gal, NeurIPS 2017)."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from spinwarp.acquisition import Acquisition, Reconstruction, center_crop
from spinwarp.models.unet import MagnitudeUNet

# In deviations of the zero-filled image, some .2 % of its range. bf16 rounds the mean by as much, and the weight
# 1 / std^2 that a Gaussian likelihood gives the air would drown the rest if it had no bound.
LEAST_STD = 0.01


class HeteroscedasticUNet(MagnitudeUNet):
    """A :class:`MagnitudeUNet` with a second channel: the standard deviation of each pixel.

    std = softplus(channel) + least std, in deviations of the zero-filled image, then in the units of the data. Trained
    by a likelihood it learns the error that remains on images like those of training (aleatoric: what the data leave
    open); it does not know what it has not seen. Outside the reconstruction size, where the zero-filled image is
    kept and nothing is claimed, the deviation is zero.

    Parameters
    ----------
    channels, pools, dropout : of the U-Net.
    """

    out_channels: ClassVar[int] = 2

    def forward(self, acquisition: Acquisition) -> Reconstruction:
        """Return the image ``(batch, h, w)`` complex and the deviation of its magnitude."""
        image, output, unit = self.restore(acquisition)
        std = torch.zeros_like(image.real)
        inside = center_crop(std, (output.shape[-2], output.shape[-1]))
        # in full precision under autocast too: a small deviation is the logarithm's steep end
        inside[:] = (F.softplus(output[:, 1].float()) + LEAST_STD) * unit
        return Reconstruction(image=image, std=std)
