"""A plain CNN from k-space to image without any physics, to show what goes wrong without a Fourier transform."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.channels import root_sum_of_squares, to_channels, to_complex
from spinwarp.coils import combine
from spinwarp.models.complex_network import ComplexNetwork, Layers


class NaiveCNN(ComplexNetwork):
    """Convolutions applied to the k-space of each coil as if it were an image, then the root sum of squares.

    A convolution sees a few neighbours, but every pixel of the image depends on all of k-space. This network is meant
    to fail.

    Parameters
    ----------
    channels : feature maps of the hidden layers.
    n_layers : number of convolutions, at least two.
    kernel_size : of every convolution, odd.
    """

    def __init__(self, channels: int = 64, n_layers: int = 6, kernel_size: int = 5) -> None:
        super().__init__()
        widths = [2, *[channels] * (n_layers - 1)]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Conv2d(n_in, n_out, kernel_size, padding=kernel_size // 2), nn.ReLU(inplace=True)]
        self.layers = Layers(*layers, nn.Conv2d(widths[-1], 2, kernel_size, padding=kernel_size // 2))

    def forward(self, acquisition: Acquisition) -> Tensor:
        """Return the image ``(batch, h, w)`` complex."""
        kspace = acquisition.kspace
        b, c, h, w = kspace.shape
        # k-space and image have the same root mean square, so one scale serves input and output
        scale = root_sum_of_squares(kspace.flatten(1), dim=1) / (h * w) ** 0.5
        scale = scale.clamp_min(torch.finfo(torch.float32).tiny).view(b, 1, 1, 1)
        features = self.layers(to_channels((kspace / scale).reshape(b * c, 1, h, w)))
        return combine(to_complex(features).reshape(b, c, h, w) * scale, acquisition.maps)
