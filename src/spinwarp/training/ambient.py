"""Ambient training of score models: a prior of whole images, learned from undersampled scans alone."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Acquisition, Example, Reconstruction, center_crop, item_acquisition, slice_generator
from spinwarp.coils import noise_level
from spinwarp.errors import InputError
from spinwarp.fourier import fftc
from spinwarp.operators import sense
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.preparation import LEAST_NOISE, prior_scale, with_image_phase
from spinwarp.samplers import ChainNoise, Problem, chain_generators
from spinwarp.training.images import size_of
from spinwarp.training.score import ScoreModule
from spinwarp.training.self_supervised import check_split_of, given_and_compared

#: draws whose mean is compared with held-out lines in validation
VALIDATION_DRAWS = 2


class AmbientScoreModule(ScoreModule):
    """Trains a :class:`Denoiser` on images that it draws itself from the posterior of undersampled scans.

    This is expectation maximisation: draw an image of each scan, likely under the prior so far and consistent with what
    was measured, then learn from these images. The likelihood of the measured data rises with each round, and at its
    maximum the prior explains all scans. The noise of the scans is part of the likelihood, so the prior is one of
    images without noise. Every frequency has to be measured in some scans.

    A step draws one image for each scan of its batch, keeps it, and learns from random ones of those kept last, as
    :class:`ScoreModule` learns from whole images. The first steps learn from the images of a classical method.

    Ambient diffusion, which this replaces, trains on images with gaps instead (Aali et al., ICLR 2025). Such a denoiser
    fills gaps that a sampler's images do not have, and draws from it diverged.

    Validation reconstructs from a part of the lines, and compares with those held out (``data.supervision=split``).
    ``val/loss`` is the fraction of their weighted energy that is missed. The images that were kept are not in the
    checkpoint: a resumed training draws new ones.

    Parameters
    ----------
    net, optimizer, schedule, log_sigma_mean, log_sigma_std, scale_jitter, ema_decay, logarithmic : see
        :class:`ScoreModule`.
    sampler : of :mod:`spinwarp.samplers`; ``sampler(problem, noise)`` to draws ``(chain, h, w)``.
    first : makes the images of the first steps, from acquisitions with coil maps.
    first_steps : how many steps learn from its images.
    n_images : images that a step learns from.
    n_kept : images that are kept, over all sizes.
    flip : probability of mirroring the images of a step along each axis.

    Raises
    ------
    InputError : if a number is out of range, or the denoiser is one of magnitudes.

    References
    ----------
    Rozet, Andry, Lanusse and Louppe, "Learning diffusion priors from observations by expectation maximization",
    NeurIPS 2024, arXiv 2405.13712: algorithm 1, there in rounds over the whole set.
    """

    whole_images = False
    without_references: ClassVar[bool] = True

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        sampler: Callable[..., Tensor],
        first: Callable[[Acquisition], Reconstruction],
        schedule: Callable[[float], float] | None = None,
        log_sigma_mean: float = -1.0,
        log_sigma_std: float = 1.3,
        scale_jitter: float = 0.05,
        ema_decay: float = 0.995,
        logarithmic: bool = False,
        first_steps: int = 200,
        n_images: int = 6,
        n_kept: int = 96,
        flip: float = 0.5,
    ) -> None:
        super().__init__(net, optimizer, schedule, log_sigma_mean, log_sigma_std, scale_jitter, ema_decay, logarithmic)
        if self.net.channels != "complex":
            raise InputError("a prior of undersampled scans is one of complex images; set model.net.channels=complex")
        if first_steps < 0 or not 1 <= n_images <= n_kept or not 0 <= flip <= 1:
            raise InputError(
                f"first_steps={first_steps} is at least 0, n_images={n_images} from 1 to n_kept={n_kept}, and "
                f"flip={flip} a probability"
            )
        self.sampler = sampler
        self.first = first
        self.first_steps = first_steps
        self.n_images = n_images
        self.flip = flip
        self._kept: deque[Tensor] = deque(maxlen=n_kept)

    def nearly_real(self, n_coils: int) -> bool | None:  # noqa: ARG002
        """Whether the images come without the phase of the low-resolution image: always."""
        return True

    def images(self, example: Example) -> Tensor:
        """Draw an image of each scan, keep it, and return ``(n_images or fewer, h, w)`` of those kept."""
        check_split_of(example)  # which tells that references are hidden
        acquisition = in_prior_units(example)
        if self.global_step < self.first_steps:
            with torch.no_grad():
                self._kept.extend(self.first(acquisition).image)
        else:
            for i in range(len(example)):
                self._kept.extend(self.draws(item_acquisition(acquisition, i), 1))
        alike = [image for image in self._kept if image.shape == acquisition.kspace.shape[-2:]]
        images = torch.stack([alike[i] for i in torch.randperm(len(alike))[: self.n_images].tolist()])
        mirrored = [dim for dim in (-2, -1) if torch.rand(()) < self.flip]
        return images.flip(mirrored)

    def draws(self, acquisition: Acquisition, n: int, generator: Generator | None = None) -> Tensor:
        """Draw ``(n, h, w)`` images of a batch of one, in the units of the prior, with the averaged network."""
        assert acquisition.noise_std is not None
        kspace = acquisition.kspace
        size = (kspace.shape[-2], kspace.shape[-1])
        problem = Problem(self.average, sense(acquisition), kspace, float(acquisition.noise_std), size)
        seeds = torch.randint(2**62, (n,), generator=generator).tolist()
        drawn = self.sampler(problem, ChainNoise(chain_generators(seeds, kspace.device)))
        return drawn * (coil_maps(acquisition) != 0).any(1)  # elsewhere no coil sees the image

    def validation_step(self, example: Example, batch_idx: int) -> Tensor | None:  # type: ignore[override]  # noqa: ARG002
        """Reconstruct from the input lines of the split, always with the same noise.

        Metrics, if there is a target, are those of these images. They decide nothing.
        """
        acquisition, split = in_prior_units(example), check_split_of(example)
        given, measured = given_and_compared(acquisition, split)
        generator = slice_generator(0, example, "cpu")
        images = torch.stack([
            self.draws(item_acquisition(given, i), VALIDATION_DRAWS, generator).mean(0) for i in range(len(example))
        ])  # fmt: skip
        held_out = split.weight * ~split.mask
        missed = held_out * (fftc(expand(images, coil_maps(acquisition))) - measured)
        energy = (held_out * measured).abs().square().sum().clamp_min(torch.finfo(torch.float32).tiny)
        self.validation_loss.update(missed.abs().square().sum() / energy, example.volume, example.slice)
        self._size = size_of(measured)
        if example.target is None:
            nothing = torch.zeros_like(measured[:, 0].real)  # a target of zeros is none, and its metrics are NaN
            self.metrics.update(nothing, nothing, example.data_range, example.volume, example.slice)
            return None
        images = images.abs() * prior_scale(example.acquisition).view(-1, 1, 1)
        images = center_crop(images, size_of(example.target))
        self.metrics.update(images, example.target, example.data_range, example.volume, example.slice)
        return images


def in_prior_units(example: Example) -> Acquisition:
    """Return the acquisition as a prior sees it: divided by its scale, with its noise level, and nearly real.

    Raises
    ------
    InputError : if the centre was not sampled, or there are several coils and no maps.
    """
    acquisition, _ = with_image_phase(example.acquisition)
    scale, level = prior_scale(acquisition), acquisition.noise_std
    if level is None:
        level = noise_level(acquisition.kspace, acquisition.mask)
    kspace = acquisition.kspace / scale.view(-1, 1, 1, 1)
    return replace(acquisition, kspace=kspace, noise_std=(level / scale).clamp_min(LEAST_NOISE))
