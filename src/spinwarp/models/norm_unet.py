"""The U-Net on complex images that regularises a VarNet (Sriram et al., arXiv 2004.06688)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from spinwarp.channels import to_channels, to_complex
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.models.unet import UNet


class NormUNet(ComplexNetwork):
    """U-Net on real and imaginary parts, each normalised to zero mean and unit deviation and back.

    It therefore commutes with a change of scale and needs no external scale.

    Parameters
    ----------
    channels, pools, dropout : of the U-Net.
    """

    def __init__(self, channels: int = 18, pools: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        # the reference pads to a multiple of 16 for any depth, and published weights were trained this way
        self.multiple = max(16, 2**pools)
        self.unet = UNet(2, 2, channels, pools, dropout)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, 1, h, w)`` complex to the same."""
        x = to_channels(image)  # (b, 2, h, w)
        mean = x.mean((-2, -1), keepdim=True)
        # an all-zero image (the blank start) has a deviation of zero; it stays zero
        std = x.std((-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        x, (h, w), (top, left) = self._pad((x - mean) / std)
        x = self.unet(x)[..., top : top + h, left : left + w]
        return to_complex(x * std + mean)

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """Zero-pad about the centre; also return the size and the corner of the original image."""
        h, w = x.shape[-2:]
        extra_h, extra_w = -h % self.multiple, -w % self.multiple
        top, left = extra_h // 2, extra_w // 2
        return F.pad(x, (left, extra_w - left, top, extra_h - top)), (h, w), (top, left)
