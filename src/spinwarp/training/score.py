"""Training of score models: a denoiser that knows the noise level, learned from images alone."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Example, center_crop, slice_generator
from spinwarp.errors import InputError
from spinwarp.models.denoiser import Denoiser
from spinwarp.preparation import prior_scale
from spinwarp.samplers import ChainNoise, chain_generators, unconditional
from spinwarp.training.averaging import ramped
from spinwarp.training.base import NetworkModule
from spinwarp.training.images import full_images, size_of

#: noise levels of the validation loss; the metrics are those of images denoised at the middle one
LEVELS = (0.1, 0.4, 1.6)
_LEAST_ERROR = 1e-4  # below it the logarithm stops to reward


class ScoreModule(NetworkModule):
    """Trains a :class:`Denoiser` by denoising score matching on whole complex images.

    Validation, pictures and samples use ``average``, the exponential moving average of the weights. Images are divided
    by :func:`spinwarp.preparation.prior_scale`, as reconstruction does.

    Parameters
    ----------
    net : the denoiser.
    optimizer : makes the optimizer of the parameters.
    schedule : factor on the learning rate as a function of training progress.
    log_sigma_mean, log_sigma_std : of the normal distribution of the logarithm of the noise level.
    scale_jitter : standard deviation of the logarithm of a random factor on each image, since the brightness of an
        unknown image is known only approximately.
    ema_decay : of the moving average, per step; less in the first steps.
    every_phase : whether images of one coil have every phase that scans have. Reconstruction may then give the prior
        whichever it likes.
    logarithmic : minimise the mean logarithm of each image's error instead of the weighted error. Weak and strong noise
        then pull equally, however small the error is that the network can reach; validation stays the weighted error.

    Raises
    ------
    InputError : if a number is out of range, or ``net`` is not a :class:`Denoiser`.

    References
    ----------
    Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), arXiv 2206.00364: weights
    and distribution of the levels, there with a ``sigma_data`` of one half. Vincent, "A connection between score
    matching and denoising autoencoders", Neural Computation 2011.
    """

    whole_images = True
    net: Denoiser

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[float], float] | None = None,
        log_sigma_mean: float = -1.0,
        log_sigma_std: float = 1.3,
        scale_jitter: float = 0.05,
        ema_decay: float = 0.999,
        logarithmic: bool = False,
        every_phase: bool = False,
    ) -> None:
        super().__init__(net, optimizer, schedule)
        if not isinstance(net, Denoiser):
            raise InputError(f"a score model's net is a spinwarp.models.denoiser.Denoiser; got {type(net).__name__}")
        if log_sigma_std <= 0 or scale_jitter < 0 or not 0 <= ema_decay < 1:
            raise InputError(
                f"log_sigma_std={log_sigma_std} is above 0, scale_jitter={scale_jitter} at least 0, "
                f"ema_decay={ema_decay} in [0, 1)"
            )
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.log_sigma_mean = log_sigma_mean
        self.log_sigma_std = log_sigma_std
        self.scale_jitter = scale_jitter
        self.ema_decay = ema_decay
        self.logarithmic = logarithmic
        self.every_phase = every_phase
        self._size: tuple[int, int] | None = None  # of the images validated last, and so of the samples

    def nearly_real(self, n_coils: int) -> bool | None:
        """Whether images of scans of ``n_coils`` come without the phase of the low-resolution image.

        The maps of several coils take it up, see :func:`spinwarp.training.images.full_images`.
        :class:`spinwarp.recon.posterior.Posterior` has to give the prior such images too. None: nobody knows, for
        images of one coil have the phase of the scan or of the simulation.
        """
        return True if n_coils > 1 else False if self.every_phase else None

    def images(self, example: Example) -> Tensor:
        """Return images ``(batch, h, w)`` in the units of the prior: complex, or magnitudes."""
        images = full_images(example)
        return images.abs() if self.net.channels == "magnitude" else images

    def training_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Take one step."""
        images = self.images(example)
        scale, sigma = self.draw(len(images))
        images = images * scale.view(-1, 1, 1)
        errors = self.matching_errors(self.net, images, sigma, torch.randn_like(images))
        loss = (errors + _LEAST_ERROR).log().mean() if self.logarithmic else errors.mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(example))
        return loss

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw factors on the brightness ``(n,)`` and noise levels ``(n,)``."""
        scale = (torch.randn(n, device=self.device) * self.scale_jitter).exp()
        # one uniform number spread evenly over the batch: every batch has strong and weak noise in the same proportion
        uniform = torch.arange(n, device=self.device) + torch.rand((), device=self.device)
        normal = torch.special.ndtri(((uniform / n) % 1).clamp(1e-4, 1 - 1e-4))
        return scale, (self.log_sigma_mean + self.log_sigma_std * normal).exp()

    def matching_errors(self, net: Denoiser, images: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Return the weighted squared error of each denoised image ``(batch,)``; about one if untrained."""
        sigma = sigma.view(-1, 1, 1)
        # sigma is that of complex noise; a real image gets only its real part, which has half the variance
        per_part = sigma if images.is_complex() else sigma / 2**0.5
        noisy = images + per_part * noise
        error = (net(noisy, per_part.flatten()) - images).abs().square()
        weight = (per_part.square() + net.sigma_data**2) / (per_part * net.sigma_data).square()
        return (weight * error).mean((-2, -1))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the average after each step, not at the end of the batch, when checkpoints may be written already."""
        super().optimizer_step(*args, **kwargs)
        step = self.trainer.global_step + 1
        decay = ramped(self.ema_decay, step)
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

    def validation_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Denoise at fixed levels, with the same noise in every validation.

        Returns the magnitude ``(batch, h', w')`` inside the target's crop, in the units of the data.
        """
        images = self.images(example)
        scale = prior_scale(example.acquisition).view(-1, 1, 1)
        generator = slice_generator(0, example, str(images.device))
        noise = torch.randn(images.shape, dtype=images.dtype, device=images.device, generator=generator)
        levels = [torch.full((len(images),), level, device=images.device) for level in LEVELS]
        loss = torch.stack([self.matching_errors(self.average, images, sigma, noise) for sigma in levels]).mean()
        self.validation_loss.update(loss, example.volume, example.slice)
        self._size = size_of(images)
        size = self._size if example.target is None else size_of(example.target)
        denoised = center_crop(self.average(images + LEVELS[1] * noise, levels[1]).abs() * scale, size)
        clean = center_crop(images.abs() * scale, size)
        self.metrics.update(denoised, clean, example.data_range, example.volume, example.slice)
        return denoised

    @torch.no_grad()
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw ``n`` images ``(n, h, w)`` complex of the size validated last, in the units of the prior.

        Raises
        ------
        InputError : if no image has been validated yet.
        """
        if self._size is None:
            raise InputError("samples have the size of the validation images; validate first")
        seeds = torch.randint(2**62, (n,), generator=generator, device=self.device).tolist()
        return unconditional(self.average, ChainNoise(chain_generators(seeds, self.device)), self._size)
