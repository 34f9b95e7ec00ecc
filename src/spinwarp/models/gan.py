"""Generator and discriminator of a generative adversarial network of complex images."""

from collections.abc import Sequence

from torch import Tensor, nn

from spinwarp.channels import to_channels, to_complex
from spinwarp.errors import InputError
from spinwarp.models.generator import ImageGenerator, Size, decoder, doubled, encoder, pad_to_multiple, padded_size


class GAN(ImageGenerator):
    """Generator from a single vector for the whole image, which therefore has a fixed size.

    Parameters
    ----------
    size : ``(h, w)`` of the images.
    n_latents : length of z.
    channels : of the features at full resolution, doubled at each halving up to ``max_channels``.
    levels : number of halvings between the image and the features that z is mapped to.
    max_channels : see ``channels``.

    Raises
    ------
    InputError : if a number is below one.

    References
    ----------
    Radford, Metz and Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
    networks" (DCGAN), ICLR 2016; here with residual blocks, without normalisation.
    """

    def __init__(
        self,
        size: Sequence[int],
        n_latents: int = 256,
        channels: int = 16,
        levels: int = 4,
        max_channels: int = 128,
    ) -> None:
        super().__init__(size)
        if n_latents < 1:
            raise InputError(f"a GAN has at least one latent; got {n_latents}")
        widths = doubled(channels, levels, max_channels)
        h, w = padded_size(self.size, 2**levels)
        self.n_latents = n_latents
        self.first = nn.Sequential(
            nn.Linear(n_latents, widths[-1] * (h >> levels) * (w >> levels)),
            nn.Unflatten(1, (widths[-1], h >> levels, w >> levels)),
        )
        self.decoder = decoder(widths[-1], widths)

    def latent_shape(self, size: Size | None = None) -> tuple[int]:
        """Shape of the latent of one image.

        Raises
        ------
        InputError : if the size differs from that of the generator.
        """
        if size is not None and tuple(size) != self.size:
            raise InputError(
                f"this GAN makes images of {self.size[0]}x{self.size[1]}, but {size[0]}x{size[1]} are needed; train "
                f"one of that size (model.net.size=[{size[0]},{size[1]}]), or a VAE or flow, which make any size"
            )
        return (self.n_latents,)

    def generate(self, z: Tensor, size: Size | None = None) -> Tensor:
        """Make images: ``(batch, n_latents)`` to ``(batch, h, w)`` complex64."""
        self.latent_shape(size)
        h, w = self.size
        return to_complex(self.decoder(self.first(z))[..., :h, :w])[:, 0]


class Discriminator(nn.Module):
    """One number for each image, large for images that look real.

    Parameters
    ----------
    channels, levels, max_channels : as for :class:`GAN`.

    Raises
    ------
    InputError : if a number is below one.
    """

    def __init__(self, channels: int = 16, levels: int = 4, max_channels: int = 128) -> None:
        super().__init__()
        widths = doubled(channels, levels, max_channels)
        self.block = 2**levels
        self.layers = encoder(widths, widths[-1])
        self.last = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, h, w)`` complex to ``(batch,)``."""
        features = self.layers(pad_to_multiple(to_channels(images[:, None]), self.block))
        score: Tensor = self.last(nn.functional.silu(features).mean((-2, -1)))
        return score[:, 0].float()
