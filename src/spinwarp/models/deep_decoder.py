"""Deep Decoder: an untrained decoder without spatial convolutions; only upsampling couples pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.models.conv_decoder import Pointwise, decoder_sizes


class DeepDecoder(nn.Module):
    """G_theta(z): blocks of 1x1 convolution, bilinear upsampling, ReLU and batch normalisation from a fixed random z.

    ``forward`` takes no argument: z is a buffer, drawn from torch's generator like the weights.

    Parameters
    ----------
    size : (h, w) of the output.
    out_channels : of the output; two for a complex image.
    channels : of every block; 368 in the MRI comparison of the ConvDecoder's authors.
    layers : number of blocks; 10 in that comparison.
    input_size : (h, w) of z, drawn from U[0, 1].

    Raises
    ------
    InputError : if there are no layers or no channels.

    References
    ----------
    Heckel and Hand, "Deep Decoder: concise image representations from untrained non-convolutional networks", ICLR 2019.
    """

    z: Tensor

    def __init__(
        self,
        size: Sequence[int],
        out_channels: int,
        channels: int = 64,
        layers: int = 6,
        input_size: Sequence[int] = (16, 16),
    ) -> None:
        super().__init__()
        if layers < 1 or channels < 1:
            raise InputError(
                f"a Deep Decoder has at least one layer and one channel; got layers={layers}, channels={channels}"
            )
        blocks: list[nn.Module] = []
        for inner in decoder_sizes(input_size, size, layers):
            blocks += [
                Pointwise(channels, channels, bias=False),
                nn.Upsample(inner, mode="bilinear", align_corners=False),
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
