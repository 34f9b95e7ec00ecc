"""Noise2Recon: a few scans with references, and many without."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Acquisition, Example
from spinwarp.errors import InputError
from spinwarp.training.stein import with_level
from spinwarp.training.supervised import Loss, SupervisedModule


class Noise2ReconModule(SupervisedModule):
    """Supervised training where there is a reference; elsewhere the image must not change when noise is added.

    Of a scan without a reference, the network makes an image f(y), and f(y + n) with noise n added to the measured
    samples. The loss compares their magnitudes; f(y) counts as the reference, so no gradient flows through it.
    ``data.reference_rate`` says how many scans keep their reference. Validation is supervised.

    Parameters
    ----------
    net, loss, optimizer, schedule, reference_batch : see :class:`SupervisedModule`.
    weight : of the loss of scans without a reference (lambda).
    noise : range of the strength of n, drawn uniformly for each batch, in units of the noise of the scan.

    Raises
    ------
    InputError : if a number is out of range.

    References
    ----------
    Desai et al., "Noise2Recon: enabling SNR-robust MRI reconstruction with semi-supervised and self-supervised
    learning", MRM 2023.
    """

    some_without_references: ClassVar[bool] = True

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[float], float] | None = None,
        reference_batch: int | None = None,
        weight: float = 0.1,
        noise: tuple[float, float] = (1.0, 4.0),
    ) -> None:
        super().__init__(net, loss, optimizer, schedule, reference_batch)
        if weight < 0 or len(noise) != 2 or not 0 <= noise[0] <= noise[1]:
            raise InputError(
                f"model.weight={weight} is at least 0, and model.noise={list(noise)} is a range of two such numbers"
            )
        self.weight = weight
        self.noise = noise

    def training_step(self, example: Example, batch_idx: int) -> Tensor:
        """One step, with or without references."""
        if example.target is not None:
            return super().training_step(example, batch_idx)
        loss = self.weight * self.consistency_loss(with_level(example))
        self.log("train/consistency", loss, batch_size=len(example))
        return loss

    def consistency_loss(self, acquisition: Acquisition) -> Tensor:
        """Return the loss of the image of noisier samples; its reference is the image of the samples themselves."""
        level = acquisition.noise_std
        assert level is not None
        low, high = self.noise
        strength = low + (high - low) * torch.rand((), device=level.device)
        noise = (strength * level).view(-1, 1, 1, 1) * torch.randn_like(acquisition.kspace) * acquisition.mask
        total = level * (1 + strength.square()).sqrt()
        with torch.no_grad():
            reference = self.net(acquisition).abs()
        noisier = self.net(replace(acquisition, kspace=acquisition.kspace + noise, noise_std=total)).abs()
        peak = reference.flatten(1).amax(1)
        return self.loss(noisier, reference, torch.where(peak > 0, peak, 1.0))
