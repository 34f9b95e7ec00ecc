"""Ambient training of score models: a prior of whole images, learned from undersampled scans alone."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import (
    Acquisition,
    Example,
    Reconstruction,
    Split,
    center_crop,
    item,
    item_acquisition,
    slice_generator,
)
from spinwarp.coils import noise_level
from spinwarp.errors import InputError
from spinwarp.fourier import fftc
from spinwarp.operators import sense
from spinwarp.operators.sense import coil_maps, expand
from spinwarp.preparation import LEAST_NOISE, PHASE_LINES, prior_scale, with_image_phase
from spinwarp.samplers import ChainNoise, Problem, chain_generators
from spinwarp.training.images import size_of
from spinwarp.training.score import ScoreModule
from spinwarp.training.self_supervised import check_split_of, given_and_compared
from spinwarp.training.stein import say_measured

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
    ``val/loss`` is the fraction of their weighted energy that is missed; that of all lines if none is held out. The
    images that were kept are not in the checkpoint, since they are of patients: a resumed training draws new ones, and
    does not end bit for bit as if it had never stopped. Each process keeps its own.

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
        _split_of(example)  # which tells that references are hidden
        acquisition = in_prior_units(example)
        if self.global_step < self.first_steps:
            with torch.no_grad():
                drawn = self.first(acquisition).image * _seen(acquisition)
        else:
            drawn = torch.cat([self.draws(item_acquisition(acquisition, i), 1) for i in range(len(example))])
        self._kept.extend(image for image in drawn if image.any())  # an empty slice has nothing to learn from
        alike = [image for image in self._kept if image.shape == drawn.shape[-2:]] or list(drawn)
        images = torch.stack([alike[i] for i in torch.randperm(len(alike))[: self.n_images].tolist()])
        mirrored = [dim for dim in (-2, -1) if torch.rand(()) < self.flip]
        return images.flip(mirrored)

    def draws(self, acquisition: Acquisition, n: int, generator: Generator | None = None) -> Tensor:
        """Draw ``(n, h, w)`` images of a batch of one, in the units of the prior, with the averaged network."""
        assert acquisition.noise_std is not None
        self.average.eval()  # training switches dropout on in all parts of a module
        kspace = acquisition.kspace
        size = (kspace.shape[-2], kspace.shape[-1])
        problem = Problem(self.average, sense(acquisition), kspace, float(acquisition.noise_std), size)
        seeds = torch.randint(2**62, (n,), generator=generator).tolist()
        return self.sampler(problem, ChainNoise(chain_generators(seeds, kspace.device))) * _seen(acquisition)

    def validation_step(self, example: Example, batch_idx: int) -> Tensor | None:  # type: ignore[override]  # noqa: ARG002
        """Reconstruct from the input lines of the split, always with the same noise.

        Metrics, if there is a target, are those of these images. They decide nothing.
        """
        acquisition, split = in_prior_units(example), _split_of(example)
        given, measured = given_and_compared(acquisition, split)
        generators = [slice_generator(0, item(example, i), "cpu") for i in range(len(example))]
        images = torch.stack([
            self.draws(item_acquisition(given, i), VALIDATION_DRAWS, generator).mean(0)
            for i, generator in enumerate(generators)
        ])  # fmt: skip
        held_out = acquisition.mask & ~split.mask  # not the padding, which split compares too
        compared = split.weight * torch.where(held_out.flatten(1).any(1).view(-1, 1, 1, 1), held_out, acquisition.mask)
        missed = compared * (fftc(expand(images, coil_maps(acquisition))) - measured)
        energies = [part.abs().square().sum((1, 2, 3)) for part in (missed, compared * measured)]
        for i, (error, energy) in enumerate(zip(*energies, strict=True)):
            loss = torch.where(energy > 0, error / energy, 0)  # an empty slice
            self.validation_loss.update(loss, example.volume[i : i + 1], example.slice[i : i + 1])
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
    acquisition, _ = with_image_phase(example.acquisition, PHASE_LINES)
    scale, level = prior_scale(acquisition), acquisition.noise_std
    if level is None:
        say_measured()
        level = noise_level(acquisition.kspace, acquisition.mask)
    kspace = acquisition.kspace / scale.view(-1, 1, 1, 1)
    return replace(acquisition, kspace=kspace, noise_std=(level / scale).clamp_min(LEAST_NOISE))


def _split_of(example: Example) -> Split:
    split = check_split_of(example)
    if split.noise is not None:
        raise InputError("the noise of the scans is part of how these images are drawn; set data.supervision=split")
    return split


def _seen(acquisition: Acquisition) -> Tensor:
    """Where a coil sees the image ``(batch, h, w)``; elsewhere a draw is of the prior alone."""
    return (coil_maps(acquisition) != 0).any(1)
