"""Training of generators: networks that turn a latent into an image, learned from images alone."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Example, center_crop, slice_generator
from spinwarp.coils import combine
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.models.flow import Flow
from spinwarp.models.generator import ImageGenerator
from spinwarp.models.vae import VAE
from spinwarp.preparation import generator_units
from spinwarp.training.base import NetworkModule
from spinwarp.training.images import check_whole, size_of
from spinwarp.training.supervised import target_of

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class GeneratorModule(NetworkModule):
    """Trains a generator on whole complex images in the units of :func:`spinwarp.preparation.generator_units`.

    Their low-resolution phase is removed, because every scan measures it and it says nothing about the head. The
    generator learns the rest of the phase.

    Validation measures how well the generator represents unseen images: ``val/ssim`` compares the target with what
    ``restore`` of a subclass makes of the image.

    Parameters
    ----------
    net : the generator.
    optimizer : makes the optimizer of the parameters.
    schedule : factor on the learning rate as a function of training progress.

    Raises
    ------
    InputError : if ``net`` is not of the type ``net_type``.
    """

    whole_images = True
    #: the type that ``net`` must have
    net_type: ClassVar[type] = ImageGenerator
    net: ImageGenerator

    def __init__(
        self, net: nn.Module, optimizer: MakeOptimizer, schedule: Callable[[float], float] | None = None
    ) -> None:
        super().__init__(net, optimizer, schedule)
        if not isinstance(net, self.net_type):
            raise InputError(
                f"{type(self).__name__} trains a {self.net_type.__name__} of spinwarp.models; got {type(net).__name__}"
            )

    @abstractmethod
    def training_loss(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the loss of normalised complex images ``(batch, h, w)``; ``generator`` draws the random numbers."""

    @abstractmethod
    def restore(self, images: Tensor) -> Tensor:
        """Return what the prior makes of images ``(batch, h, w)``, for validation to compare with them."""

    def images(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return images ``(batch, h, w)`` in the units of the generator, and the factor back to those of the data."""
        check_whole(example)
        acquisition, unit = generator_units(example.acquisition)
        return combine(ifftc(acquisition.kspace), acquisition.maps), unit

    def training_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """One step."""
        loss = self.training_loss(self.images(example)[0])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(example))
        return loss

    def validation_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Collect the metrics of the batch, with the same random numbers every time; return magnitudes to draw."""
        (images, unit), target = self.images(example), target_of(example)
        generator = slice_generator(0, example, str(images.device))
        self.validation_loss.update(self.training_loss(images, generator), example.volume, example.slice)
        magnitude = center_crop((self.restore(images) * unit).abs(), size_of(target))
        self.metrics.update(magnitude, target, example.data_range, example.volume, example.slice)
        return magnitude

    @torch.no_grad()
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw ``n`` complex images ``(n, h, w)`` of the generator's own size, in the units of the prior."""
        device = next(self.net.parameters()).device
        z = torch.randn(n, *self.net.latent_shape(), generator=generator, device=device)
        return self.net.generate(z)


class VAEModule(GeneratorModule):
    """Maximises the evidence lower bound; the decoder's noise level is the residual of the batch.

    The loss, in nats per real number of the image, is ``1/2 log(2 pi e mse) + KL / n``: the decoder is a Gaussian with
    one variance for all pixels, at its best value for the batch. The two terms therefore need no weight.

    ``val/ssim`` compares the target with the decoded mean of its latent: how well the range covers an unseen image.

    References
    ----------
    Rybkin, Daniilidis and Levine, "Simple and effective VAE training with calibrated decoders", ICML 2021.
    """

    net_type = VAE
    net: VAE

    def training_loss(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the negative evidence lower bound in nats per real number."""
        mean, log_variance = self.net.encode(images)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        made = self.net.generate(mean + (log_variance / 2).exp() * noise, size_of(images))
        mse = torch.view_as_real(made - images).square().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()
        n_numbers = 2 * images[0].numel()
        return 0.5 * (2 * math.pi * math.e * mse).log() + divergence / n_numbers

    def restore(self, images: Tensor) -> Tensor:
        """Decode the mean of the latents of the images."""
        return self.net.generate(self.net.encode(images)[0], size_of(images))


class FlowModule(GeneratorModule):
    """Maximises the likelihood of images with a little noise; without noise the density has no bound.

    The loss is the negative log-likelihood in nats per real number of the image.

    ``val/ssim`` compares the target with a noisy image that the flow has denoised. As ``p`` is the density of noisy
    images, ``x + sigma^2 grad log p(x)`` is the mean of the clean images given ``x`` (Tweedie). The inverse would tell
    nothing: an invertible network returns every image exactly.

    Parameters
    ----------
    net, optimizer, schedule : see :class:`GeneratorModule`.
    noise_std : of the complex noise, ``E |n|^2 = noise_std^2``, in units of images whose root mean square is about
        one; above zero.

    Raises
    ------
    InputError : if there is no noise, or ``net`` is no flow.
    """

    net_type = Flow
    net: Flow

    def __init__(
        self,
        net: nn.Module,
        optimizer: MakeOptimizer,
        schedule: Callable[[float], float] | None = None,
        noise_std: float = 0.03,
    ) -> None:
        super().__init__(net, optimizer, schedule)
        if not noise_std > 0:
            raise InputError(f"noise_std={noise_std} must be above zero: without noise the likelihood has no bound")
        self.noise_std = noise_std

    def log_density(self, images: Tensor) -> Tensor:
        """Return ``log p`` of images ``(batch, h, w)``, in nats ``(batch,)``."""
        z, log_det = self.net.encode(images)
        return log_det - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def training_loss(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the negative log-likelihood in nats per real number."""
        return -self.log_density(self.noisy(images, generator)).mean() / (2 * images[0].numel())

    def restore(self, images: Tensor) -> Tensor:
        """Add noise to the images, the same every time, and denoise them."""
        with torch.inference_mode(False), torch.enable_grad():  # Lightning validates without gradients
            noisy = self.noisy(images, torch.Generator(images.device).manual_seed(0)).clone().requires_grad_()
            (score,) = torch.autograd.grad(self.log_density(noisy).sum(), noisy)
        # torch's gradient is d/dx + i d/dy; the noise of each part has variance sigma^2/2
        return (noisy + self.noise_std**2 / 2 * score).detach()

    def noisy(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Add noise to images."""
        noise = torch.randn(images.shape, dtype=images.dtype, device=images.device, generator=generator)
        return images + self.noise_std * noise
