"""A convolutional variational autoencoder of complex images."""

from collections.abc import Sequence

from torch import Tensor

from spinwarp.channels import to_channels, to_complex
from spinwarp.errors import InputError
from spinwarp.models.generator import ImageGenerator, Size, decoder, doubled, encoder, pad_to_multiple, padded_size


class VAE(ImageGenerator):
    """Encodes images to mean and variance of a latent and decodes latents; real and imaginary parts are channels.

    The latent is a small image, with ``latent_channels`` numbers for each block of ``2^levels`` pixels a side. One
    network therefore makes images of any size, including heads that it has not seen; a single latent vector would need
    far more training data.

    Parameters
    ----------
    size : default ``(h, w)`` of the images.
    channels : of the features at full resolution, doubled at each halving up to ``max_channels``.
    levels : number of halvings.
    latent_channels : latents per pixel of the smallest features; an image of h by w has
        ``latent_channels * h * w / 4^levels`` latents.
    max_channels : see ``channels``.

    Raises
    ------
    InputError : if a number is below one.

    References
    ----------
    Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014.
    """

    def __init__(
        self,
        size: Sequence[int],
        channels: int = 16,
        levels: int = 4,
        latent_channels: int = 16,
        max_channels: int = 128,
    ) -> None:
        super().__init__(size)
        if latent_channels < 1:
            raise InputError(f"a VAE has at least one latent channel; got {latent_channels}")
        widths = doubled(channels, levels, max_channels)
        self.latent_channels = latent_channels
        self.block = 2**levels
        self.encoder = encoder(widths, 2 * latent_channels)
        self.decoder = decoder(latent_channels, widths)

    def latent_shape(self, size: Size | None = None) -> tuple[int, int, int]:
        """Shape of the latent of one image of any size."""
        h, w = padded_size(size or self.size, self.block)
        return self.latent_channels, h // self.block, w // self.block

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance ``(batch, *latent_shape)`` of the latents of ``(batch, h, w)`` complex."""
        features = self.encoder(pad_to_multiple(to_channels(images[:, None]), self.block))
        # under autocast the network returns half precision; exponentials need full precision
        mean, log_variance = features.float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def generate(self, z: Tensor, size: Size | None = None) -> Tensor:
        """Make images: ``(batch, *latent_shape(size))`` to ``(batch, h, w)`` complex64."""
        h, w = size or self.size
        return to_complex(self.decoder(z)[..., :h, :w])[:, 0]
