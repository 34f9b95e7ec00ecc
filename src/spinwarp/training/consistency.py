"""Training with a second look at the same scan, made worse: the image should stay the same (VORTEX)."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spinwarp.acquisition import Acquisition, Example, center_crop
from spinwarp.coils import noise_level
from spinwarp.errors import InputError
from spinwarp.training.images import size_of
from spinwarp.training.supervised import Loss, SupervisedModule, target_of


class MoreNoise:
    """Adds white noise to the measured samples, a few times as strong as that of the scan.

    Parameters
    ----------
    factor : range of its standard deviation, in units of that of the scan.

    Raises
    ------
    InputError : if the range is not positive.
    """

    def __init__(self, factor: Sequence[float] = (1.0, 5.0)) -> None:
        self.factor = _range(factor, "factor")

    def __call__(self, acquisition: Acquisition) -> Acquisition:
        """Return the noisier acquisition; the random numbers are torch's own."""
        kspace, mask = acquisition.kspace, acquisition.mask
        given = acquisition.noise_std
        level = noise_level(kspace.detach(), mask) if given is None else given
        added = level * _uniform(self.factor, len(kspace), kspace.device)
        noise = torch.randn_like(kspace) * added.view(-1, 1, 1, 1) * acquisition.sampling
        noise_std = None if given is None else (given.square() + added.square()).sqrt()
        adjacent = tuple(map(self, acquisition.adjacent))
        return replace(acquisition, kspace=kspace + noise, noise_std=noise_std, adjacent=adjacent)


class Motion:
    """Gives the even and the odd lines of the phase direction each a random phase.

    This is what a patient does to a scan who moves between two interleaved acquisitions.

    Parameters
    ----------
    alpha : range of the strength; the phases are uniform in ``[-alpha pi, alpha pi]``.

    Raises
    ------
    InputError : if the range is not positive.
    """

    def __init__(self, alpha: Sequence[float] = (0.2, 0.5)) -> None:
        self.alpha = _range(alpha, "alpha")

    def __call__(self, acquisition: Acquisition) -> Acquisition:
        """Return the acquisition with motion; the random numbers are torch's own."""
        kspace = acquisition.kspace
        alpha = _uniform(self.alpha, len(kspace), kspace.device)
        phases = math.pi * alpha[:, None] * (2 * torch.rand(len(kspace), 2, device=kspace.device) - 1)
        turns = torch.polar(torch.ones_like(phases), phases)[
            :, torch.arange(kspace.shape[-1], device=kspace.device) % 2
        ]  # (b, w)
        adjacent = tuple(map(self, acquisition.adjacent))
        return replace(acquisition, kspace=kspace * turns[:, None, None], adjacent=adjacent)


class ConsistencyModule(SupervisedModule):
    """Adds ``weight * |f(T y) - f(y)|`` to the loss, a mean over pixels in units of the data range.

    T makes the scan worse, by noise or motion, and no gradient flows through ``f(y)``. The network learns to undo what
    happens to scans outside the training set. A step takes two passes through the network.

    Parameters
    ----------
    net, loss, optimizer, schedule, reference_batch : see :class:`~spinwarp.training.SupervisedModule`.
    worse : makes an acquisition worse, such as :class:`MoreNoise` and :class:`Motion`.
    weight : of the second term.

    Raises
    ------
    InputError : if the weight is negative.

    References
    ----------
    Desai et al., "VORTEX: physics-driven data augmentations using consistency training for robust accelerated MRI
    reconstruction", MIDL 2022.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        worse: Callable[[Acquisition], Acquisition],
        schedule: Callable[[float], float] | None = None,
        reference_batch: int | None = None,
        weight: float = 0.1,
    ) -> None:
        super().__init__(net, loss, optimizer, schedule, reference_batch)
        if not weight >= 0:
            raise InputError(f"model.weight of the consistency is at least 0; got {weight}")
        self.worse = worse
        self.weight = weight

    def loss_and_magnitude(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return the loss, in training with the consistency, and the magnitude inside the target's crop."""
        loss, magnitude = super().loss_and_magnitude(example)
        if not self.training:
            return loss, magnitude
        other = center_crop(self.net(self.worse(example.acquisition)).abs(), size_of(target_of(example)))
        change = (other - magnitude.detach()).abs() / example.data_range.view(-1, 1, 1)
        return loss + self.weight * change.mean(), magnitude


def _range(values: Sequence[float], name: str) -> tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] <= values[1] < math.inf:
        raise InputError(f"{name} is a range of two positive numbers, low and high; got {list(values)}")
    return float(values[0]), float(values[1])


def _uniform(bounds: tuple[float, float], n: int, device: torch.device) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(n, device=device)
