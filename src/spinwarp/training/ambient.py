"""Ambient training of score models: a prior of whole images, learned from undersampled scans alone."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Acquisition, Example, Split, center_crop, slice_generator
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.models.denoiser import Denoiser
from spinwarp.operators.sense import coil_maps, expand, reduce
from spinwarp.preparation import prior_scale
from spinwarp.training.images import size_of
from spinwarp.training.score import LEVELS, ScoreModule
from spinwarp.training.self_supervised import check_split_of
from spinwarp.training.stein import check_precision, probe, with_level

log = logging.getLogger(__name__)
_STEP = 1e-2  # of the derivative, in units of the noise of the scan


class AmbientScoreModule(ScoreModule):
    """Trains a :class:`Denoiser` on the split of each example (:mod:`spinwarp.data.split`), without whole images.

    A further mask holds out some of the measured lines. The denoiser gets the zero-filled image of the others, with
    noise of level sigma on all lines. The loss compares the k-space of what it returns with all that was measured:
    held-out lines, weighted by their probabilities, stand for all that are missing. The denoiser therefore learns what
    it would learn from such images of whole scans: the image without noise and without gaps. If everything is measured
    and nothing held out, this is the training of :class:`ScoreModule`.

    The noise is white because a sampler's is; noise with the gaps of the scan would be too weak for its level.

    Parameters
    ----------
    net, optimizer, schedule, log_sigma_mean, log_sigma_std, scale_jitter, ema_decay : see :class:`ScoreModule`.
    gsure : subtract what the loss gains by keeping the noise of the scan itself, which is in the input and in the
        measured lines alike, by Stein's lemma. The noise level must be known. A step takes a second pass.

    Raises
    ------
    InputError : if the denoiser is one of magnitudes.

    References
    ----------
    Aali et al., "Ambient diffusion posterior sampling: solving inverse problems with diffusion models trained on
    corrupted data" (A-DPS), ICLR 2025. Kawar et al., "GSURE-based diffusion model training with corrupted data", TMLR
    2024. Neither weights held-out lines by their probabilities.
    """

    whole_images = False
    without_references = True

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[float], float] | None = None,
        log_sigma_mean: float = -1.0,
        log_sigma_std: float = 1.3,
        scale_jitter: float = 0.05,
        ema_decay: float = 0.999,
        gsure: bool = False,
    ) -> None:
        super().__init__(net, optimizer, schedule, log_sigma_mean, log_sigma_std, scale_jitter, ema_decay)
        if self.net.channels != "complex":
            raise InputError("a prior of undersampled scans is one of complex images; set model.net.channels=complex")
        self.gsure = gsure

    def on_fit_start(self) -> None:
        """Say what is known of such priors; refuse a precision in which the derivative would be lost."""
        super().on_fit_start()
        log.warning(
            "draws from a prior of undersampled scans diverge so far: it denoises, but do not reconstruct with it "
            "(docs/self_supervised.md)"
        )
        if self.gsure:
            check_precision(self)

    def training_step(self, example: Example, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Take one step."""
        acquisition, split = self.measured(example)
        scale, sigma = self.draw(len(example))
        noise = torch.randn_like(acquisition.kspace)
        signs = probe(replace(acquisition, mask=split.mask)) if self.gsure else None
        loss = self.ambient_loss(self.net, brighter(acquisition, scale), split, sigma, noise, signs)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(example))
        return loss

    def measured(self, example: Example) -> tuple[Acquisition, Split]:
        """Return the acquisition in the units of the prior, and its split."""
        split = check_split_of(example)
        acquisition = with_level(example) if self.gsure else example.acquisition
        return brighter(acquisition, 1 / prior_scale(acquisition)), split

    def ambient_loss(
        self, net: Denoiser, acquisition: Acquisition, split: Split, sigma: Tensor, noise: Tensor, signs: Tensor | None
    ) -> Tensor:
        """Return the weighted squared error of the denoised images on what was measured.

        Parameters
        ----------
        net : the denoiser.
        acquisition : measured samples, in the units of the prior.
        split : what the denoiser gets, and how much each sample counts.
        sigma : ``(batch,)`` noise levels.
        noise : ``(batch, coil, h, w)`` of unit variance, added to all lines with these levels.
        signs : of a probe, for the term of GSURE; None: no such term.
        """
        maps, level = coil_maps(acquisition), sigma.view(-1, 1, 1, 1)

        def denoised(kspace: Tensor) -> Tensor:
            return fftc(expand(net(reduce(ifftc(kspace * split.mask + level * noise), maps), sigma), maps))

        kspace = denoised(acquisition.kspace)
        error = (split.weight * (kspace - acquisition.kspace)).abs().square().sum(1)
        if signs is not None:
            assert acquisition.noise_std is not None
            step = _STEP * acquisition.noise_std.view(-1, 1, 1, 1)
            product = (signs.conj() * (denoised(acquisition.kspace + step * signs) - kspace)).real.sum(1)
            error = error + 2 / _STEP * acquisition.noise_std.view(-1, 1, 1) * product
        weight = (sigma.square() + net.sigma_data**2) / (sigma * net.sigma_data).square()
        return (weight.view(-1, 1, 1) * error).mean()

    def validation_step(self, example: Example, batch_idx: int) -> Tensor | None:  # type: ignore[override]  # noqa: ARG002
        """Collect the loss on held-out lines at fixed levels, always with the same noise.

        The metrics are those of the denoised zero-filled image of all measured lines at the middle level, if there is a
        target. They decide nothing.
        """
        acquisition, split = self.measured(example)
        generator = slice_generator(0, example, str(acquisition.kspace.device))
        kspace = acquisition.kspace
        noise = torch.randn(kspace.shape, dtype=kspace.dtype, device=kspace.device, generator=generator)
        signs = probe(replace(acquisition, mask=split.mask), generator) if self.gsure else None
        losses = [
            self.ambient_loss(self.average, acquisition, split, sigma.expand(len(example)), noise, signs)
            for sigma in torch.tensor(LEVELS, device=kspace.device)
        ]
        self.validation_loss.update(torch.stack(losses).mean(), example.volume, example.slice)
        self._size = size_of(kspace)
        if example.target is None:
            nothing = torch.zeros_like(kspace[:, 0].real)  # a target of zeros is none, and its metrics are NaN
            self.metrics.update(nothing, nothing, example.data_range, example.volume, example.slice)
            return None
        level = torch.full((len(example),), LEVELS[1], device=kspace.device)
        noisy = reduce(ifftc((kspace + LEVELS[1] * noise) * acquisition.mask), coil_maps(acquisition))
        scale = prior_scale(example.acquisition).view(-1, 1, 1)
        denoised = center_crop(self.average(noisy, level).abs() * scale, size_of(example.target))
        self.metrics.update(denoised, example.target, example.data_range, example.volume, example.slice)
        return denoised


def brighter(acquisition: Acquisition, factor: Tensor) -> Acquisition:
    """Return an acquisition of samples and noise times a factor ``(batch,)``."""
    level = acquisition.noise_std
    return replace(
        acquisition,
        kspace=acquisition.kspace * factor.view(-1, 1, 1, 1),
        noise_std=None if level is None else level * factor,
    )
