"""The U-Net on complex images that regularises a VarNet (Sriram et al., arXiv 2004.06688)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spinwarp.channels import to_channels, to_complex
from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.models.unet import UNet


class NormUNet(ComplexNetwork):
    """U-Net on real and imaginary parts, normalised to zero mean and unit deviation and back.

    It therefore commutes with a change of scale and needs no external scale. The two parts of a single image are
    normalised separately, as in E2E-VarNet. Several images share one mean and one deviation: one of them may be zero.

    Parameters
    ----------
    channels, pools, dropout : of the U-Net.
    in_images, out_images : complex images of the input and output.
    """

    def __init__(
        self, channels: int = 18, pools: int = 4, dropout: float = 0.0, in_images: int = 1, out_images: int = 1
    ) -> None:
        super().__init__()
        # the reference pads to a multiple of 16 for any depth, and published weights were trained this way
        self.multiple = max(16, 2**pools)
        self.over = (-2, -1) if in_images == out_images == 1 else (-3, -2, -1)
        self.unet = UNet(2 * in_images, 2 * out_images, channels, pools, dropout)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, in_images, h, w)`` complex to ``(batch, out_images, h, w)``."""
        x = to_channels(image)  # (b, 2 * in_images, h, w)
        mean = x.mean(self.over, keepdim=True)
        # an all-zero image (the blank start) has a deviation of zero; it stays zero
        std = x.std(self.over, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        x, (h, w), (top, left) = padded((x - mean) / std, self.multiple)
        x = self.unet(x)[..., top : top + h, left : left + w]
        return to_complex(x * std + mean)


class PlainUNet(NormUNet):
    """:class:`NormUNet` as the network of a :class:`~spinwarp.models.cascades.CascadeNet`.

    Parameters
    ----------
    in_images, out_images : complex images of the input and output.
    n_code : numbers that describe the scan; it takes none.
    channels, pools, dropout : of the U-Net.

    Raises
    ------
    InputError : if ``n_code`` is not 0.
    """

    def __init__(
        self,
        in_images: int,
        out_images: int,
        n_code: int = 0,
        channels: int = 18,
        pools: int = 4,
        dropout: float = 0.0,
    ) -> None:
        if n_code:
            raise InputError("a PlainUNet takes no conditioning; use a PromptUNet, or model.net.conditioning=null")
        super().__init__(channels, pools, dropout, in_images, out_images)

    def forward(  # type: ignore[override]
        self,
        image: Tensor,
        history: Sequence[Sequence[Tensor]] = (),  # noqa: ARG002
        code: Tensor | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``(batch, in_images, h, w)`` to ``(batch, out_images, h, w)``; it hands no features on."""
        return super().forward(image), ()


def padded(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
    """Zero-pad about the centre to a multiple; also return the size and the corner of the original image."""
    h, w = x.shape[-2:]
    extra_h, extra_w = -h % multiple, -w % multiple
    top, left = extra_h // 2, extra_w // 2
    return F.pad(x, (left, extra_w - left, top, extra_h - top)), (h, w), (top, left)
