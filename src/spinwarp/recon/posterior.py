"""Reconstruction with a score model: images drawn from the posterior, their mean and their spread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from spinwarp.acquisition import Acquisition, Reconstruction, item_acquisition
from spinwarp.channels import PRECISIONS, autocast
from spinwarp.coils import noise_level
from spinwarp.errors import InputError
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.loading import load_network
from spinwarp.operators import sense
from spinwarp.operators.sense import coil_maps
from spinwarp.preparation import (
    LEAST_NOISE,
    PHASE_LINES,
    check_preparation,
    prepared,
    prior_scale,
    with_image_phase,
    with_maps,
)
from spinwarp.progress import part
from spinwarp.recon.base import Reconstructor
from spinwarp.recon.map_refinement import with_refined_maps
from spinwarp.recon.samples import from_samples
from spinwarp.samplers import ChainNoise, Problem, chain_generators

Sampler = Callable[..., Tensor]

#: draws whose mean refines the coil maps
ROUGH_DRAWS = 2


@dataclass(eq=False)
class Posterior(Reconstructor):
    """Draw images from the posterior, likely under the prior and consistent with the data, by :mod:`spinwarp.samplers`.

    The image is the mean of the draws: the posterior mean has the smallest expected squared error. ``std`` is the
    standard deviation of the draws. It is that of the posterior only if the sampler is exact, and only for images like
    those that the prior was trained on.

    Every chain has its own seed, drawn from the generator. All items of a batch use the same seeds, and an item does
    not depend on its neighbours.

    Parameters
    ----------
    path : a checkpoint of ``train.py model=score``.
    sampler : ``sampler(problem, noise)`` to draws ``(chain, h, w)``.
    n_samples : draws of each slice, at most.
    chains_at_once : draws that run as one batch; fewer need less memory.
    tolerance : stop drawing once the standard error of the mean, over the pixels, is at most this fraction of the norm
        of the mean; checked after every ``chains_at_once`` draws. Zero: draw all.
    noise_std : of the complex noise of a k-space sample, in the units of the data. None: that of the acquisition, or
        else an estimate from the scan itself (:func:`spinwarp.coils.noise_level`).
    maps, whiten, virtual_coils : see :class:`spinwarp.recon.regularised.Regularised`. The phase of maps that come with
        the data decides the phase of the final image. The prior sees it too if its file does not say which phase it
        was trained on, or with ``maps=given``.
    refine_maps : how often estimated coil maps are refined by the mean of two draws before the others are drawn, see
        :func:`spinwarp.recon.map_refinement.with_refined_maps`. Maps of few central lines limit the draws more than the
        prior does.
    precision : inside the network: ``32``, ``bf16``, or ``auto``, which is bf16 on devices that support it natively.
    trusted : packages beside spinwarp from which the checkpoint may build its network.

    Raises
    ------
    InputError : if an option is out of range, or the file holds no score model; when called, if a prior of nearly real
        images meets a scan whose mask leaves out the centre.

    References
    ----------
    Jalal et al., "Robust compressed sensing MRI with deep generative priors", NeurIPS 2021, arXiv 2108.01368.
    """

    path: str
    sampler: Sampler
    n_samples: int = 8
    chains_at_once: int = 8
    tolerance: float = 0.0
    noise_std: float | None = None
    maps: str = "espirit"
    refine_maps: int = 0
    whiten: bool = False
    virtual_coils: int | None = None
    precision: str | int = "32"  # YAML reads 32 as a number
    trusted: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_preparation(self.maps, self.virtual_coils)
        if self.n_samples < 1 or self.chains_at_once < 1 or self.tolerance < 0:
            raise InputError(
                f"n_samples={self.n_samples} and chains_at_once={self.chains_at_once} are at least 1, "
                f"tolerance={self.tolerance} at least 0"
            )
        if self.refine_maps < 0:
            raise InputError(f"refine_maps={self.refine_maps} counts rounds; give 0 to leave the coil maps as they are")
        self.precision = str(self.precision)
        if self.precision not in PRECISIONS:
            raise InputError(f"precision={self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.noise_std is not None and not 0 < self.noise_std < float("inf"):
            raise InputError(f"noise_std={self.noise_std} must be above 0 and finite; give null to estimate it")
        denoiser, record = load_network(self.path, self.trusted)
        if not isinstance(denoiser, Denoiser):
            raise InputError(
                f"{self.path} holds a {type(denoiser).__name__}, not a score model; train one with model=score"
            )
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.nearly_real: bool | None = record.get("nearly_real")
        if self.nearly_real not in (None, True, False):
            raise InputError(f"{self.path} says nearly_real={self.nearly_real!r}, which is true, false or null")
        self.record = {key: value for key, value in record.items() if key != "name"}  # the sampler names the method

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        """Draw from the posterior of every item of a batch."""
        device = generator.device if generator is not None else None
        seeds = torch.randint(2**62, (self.n_samples,), generator=generator, device=device).tolist()
        few = seeds[:ROUGH_DRAWS]
        with torch.no_grad():
            estimated = self.maps != "given" and acquisition.kspace.shape[1] > 1
            acquisition, phase = self.prepare(acquisition)
            rounds = self.refine_maps if estimated else 0
            total = rounds * len(few) + len(seeds)
            for i in range(rounds):
                with part(i * len(few), total, len(few)):
                    rough = from_samples(self.draws(acquisition, few)).image
                acquisition = with_refined_maps(acquisition, rough)
            with part(rounds * len(few), total, len(seeds)):
                drawn = self.draws(acquisition, seeds)
            return from_samples([image * turn for image, turn in zip(drawn, phase, strict=True)])

    def prepare(self, acquisition: Acquisition) -> tuple[Acquisition, Tensor]:
        """Return the problem, and the phase ``(batch, h, w)`` that its images lack beside those of the acquisition.

        Maps of the acquisition decide the phase of its images. A prior whose record says whether it is ``nearly_real``
        sees the images that it was trained on whatever these maps are: without a smooth phase, or with the phase that
        the estimated maps leave.
        """
        maps, given = self.maps, acquisition.maps
        phase = torch.ones_like(acquisition.kspace[:, 0])
        if maps != "given" and given is not None and self.nearly_real is not None:
            acquisition = with_maps(replace(acquisition, maps=None), maps)
            turn = torch.sgn((coil_maps(acquisition) * given.conj()).sum(1))
            maps, phase = "given", torch.where(turn == 0, 1, turn)
        return prepared(acquisition, maps, self.whiten, self.virtual_coils), phase

    def draws(self, acquisition: Acquisition, seeds: Sequence[int]) -> list[Tensor]:
        """Draw ``(as many as seeds or fewer, h, w)`` images of every item, in the units of the data."""
        phase = torch.ones_like(acquisition.kspace[:, 0])
        if self.denoiser.channels == "magnitude" or self.nearly_real:
            most = PHASE_LINES if self.denoiser.channels == "complex" else None  # as many as in training
            acquisition, phase = with_image_phase(acquisition, most)
        scale = prior_scale(acquisition)
        noise = (self.noise(acquisition) / scale).clamp_min(LEAST_NOISE).tolist()
        problem = replace(acquisition, kspace=acquisition.kspace / scale.view(-1, 1, 1, 1))
        n = len(noise)
        # where the maps are zero no coil sees the image, so the draws would be of the prior alone
        factor = scale.view(-1, 1, 1) * phase * (coil_maps(acquisition) != 0).any(1)
        drawn = []
        for i in range(n):
            with part(i, n):
                drawn.append(self.draw(item_acquisition(problem, i), noise[i], seeds) * factor[i])
        return drawn

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Run the denoiser in the chosen precision."""
        with autocast(str(self.precision), x.device):
            image: Tensor = self.denoiser(x, sigma)
        return image

    def noise(self, acquisition: Acquisition) -> Tensor:
        """Return the noise level ``(batch,)`` in the units of the data."""
        if self.noise_std is not None:
            return torch.full((len(acquisition.kspace),), self.noise_std, device=acquisition.kspace.device)
        if acquisition.noise_std is not None:
            return acquisition.noise_std
        return noise_level(acquisition.kspace, acquisition.mask)

    def draw(self, item: Acquisition, noise_std: float, seeds: Sequence[int]) -> Tensor:
        """Draw ``(n_samples or fewer, h, w)`` images of a single item, in the units of the prior."""
        device = item.kspace.device
        problem = Problem(self.denoise, sense(item), item.kspace, noise_std, tuple(item.kspace.shape[-2:]))
        drawn: list[Tensor] = []
        for first in range(0, len(seeds), self.chains_at_once):
            group = seeds[first : first + self.chains_at_once]
            with part(first, len(seeds), len(group)):
                drawn.append(self.sampler(problem, ChainNoise(chain_generators(group, device))))
            samples = torch.cat(drawn)
            if len(samples) > 1 and self.tolerance > 0:
                error = samples.std(0).square().sum() / len(samples)
                if error <= (self.tolerance * samples.mean(0).abs()).square().sum():
                    break
        return torch.cat(drawn)
