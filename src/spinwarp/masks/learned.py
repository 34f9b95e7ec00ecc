"""A sampling mask that is learned together with a network (LOUPE)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor, nn

from spinwarp.errors import InputError
from spinwarp.masks.base import central

_SLOPE = 5.0  # of the sigmoid from a logit to a probability, as in LOUPE
_SURE = 1e-6  # a probability closer than this to 0 or 1 would get no gradient


class LearnedMask(nn.Module):
    """Lines or points with learned probabilities, exactly as many in every draw; the centre is always sampled.

    The sigmoids of the logits are rescaled to the budget: a sum of exactly ``round(positions / acceleration)``. A draw
    is a systematic sample: the cumulative probability passes one more whole number at each position that is sampled.
    Each position then has its own probability, and the number is exact. Lines are drawn in their order, which also
    spreads them evenly; points in random order. For the gradient the draw counts as its probability (straight through).

    K-space of another size than ``size`` gets the probabilities by linear interpolation.

    Parameters
    ----------
    acceleration : nominal and realised, up to rounding.
    center_fraction : fraction of each phase-encoding direction that the centre takes.
    size : (1, w) for lines, (h, w) for points.
    learning_rate : of the logits, which the learning rate of a network would hardly move; it follows the same schedule.

    Raises
    ------
    InputError : if the acceleration is below 1, the centre alone takes the budget, or the learning rate is not
        positive.

    References
    ----------
    Bahadir, Wang, Dalca and Sabuncu, "Deep-learning-based optimization of the under-sampling pattern in MRI" (LOUPE),
    IEEE TCI 2020; Zhang et al., "Extending LOUPE for k-space under-sampling pattern optimization in multi-coil MRI",
    MLMIR 2020; Bengio, Léonard and Courville, arXiv 1308.3432 (straight through); Madow, Ann. Math. Stat. 1949
    (systematic samples).
    """

    def __init__(
        self, acceleration: float, center_fraction: float, size: Sequence[int], learning_rate: float = 0.003
    ) -> None:
        super().__init__()
        if not 0 < learning_rate < math.inf:
            raise InputError(f"mask.learning_rate={learning_rate} must be positive")
        if len(size) != 2 or min(size) < 1 or size[1] < 2:
            raise InputError(f"mask.size is [1, w] for lines or [h, w] for points; got {list(size)}")
        self.nominal_acceleration = float(acceleration)
        self.center_fraction = center_fraction
        self.learning_rate = learning_rate
        self.size = (int(size[0]), int(size[1]))
        self.logits = nn.Parameter(torch.zeros(self.size))
        self._budget(self.size)

    def forward(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a bool mask ``(1, w)`` or ``(h, w)`` for k-space of ``shape`` = (h, w), as every mask does."""
        with torch.no_grad():
            probability = self.probability(shape)
            return _systematic(probability, generator), self.n_center(shape)

    def relaxed(self, shape: tuple[int, int], generator: RandomState) -> Tensor:
        """Draw a mask of exact zeros and ones ``(1 or h, w)`` float32, whose gradient goes to the probabilities."""
        probability = self.probability(shape)
        drawn = _systematic(probability.detach(), generator).to(probability)
        return drawn + (probability - probability.detach())

    def probability(self, shape: tuple[int, int]) -> Tensor:
        """Return the probability of each line ``(1, w)`` or point ``(h, w)`` of k-space; its sum is the budget."""
        positions = self._positions(shape)
        n_outer, center = self._budget(positions)
        logits: Tensor = self.logits
        if positions != self.size:
            logits = F.interpolate(logits[None, None], positions, mode="bilinear", align_corners=True)[0, 0]
        outside = torch.ones(positions, dtype=torch.bool, device=logits.device)
        outside[center] = False
        raw = torch.sigmoid(_SLOPE * logits).clamp(_SURE, 1 - _SURE)[outside]
        share, mean = n_outer / raw.numel(), raw.mean()
        # either way all stay between 0 and 1, and their mean becomes the share
        scaled = torch.where(mean > share, raw * share / mean, 1 - (1 - raw) * (1 - share) / (1 - mean))
        return torch.ones(positions, device=logits.device).masked_scatter(outside, scaled)

    def n_center(self, shape: tuple[int, int]) -> int:
        """Return the number of columns in the centre; of points, the side of the square in it."""
        h, w = self._positions(shape)
        columns = round(w * self.center_fraction)
        return columns if h == 1 else min(round(h * self.center_fraction), columns)

    def _positions(self, shape: tuple[int, int]) -> tuple[int, int]:
        return (1, shape[1]) if self.size[0] == 1 else shape

    def _budget(self, positions: tuple[int, int]) -> tuple[int, tuple[slice, slice]]:
        """Return the number of samples outside the centre, and where the centre is."""
        h, w = positions
        rows, columns = (1 if h == 1 else round(h * self.center_fraction)), round(w * self.center_fraction)
        n_outer = round(h * w / self.nominal_acceleration) - rows * columns if self.nominal_acceleration >= 1 else -1
        if n_outer < 1 or self.center_fraction < 0:
            raise InputError(
                f"a learned mask of acceleration {self.nominal_acceleration:g} has {h * w} positions and "
                f"{rows * columns} in its centre, which leaves none to learn; lower mask.center_fraction or "
                f"mask.acceleration (at least 1)"
            )
        return n_outer, (slice(0, 1) if h == 1 else central(h, rows), central(w, columns))


def _systematic(probability: Tensor, generator: RandomState) -> Tensor:
    """Draw exactly ``sum(probability)`` positions, each with its probability; bool of the same shape."""
    p = probability.cpu().numpy().astype(np.float64).ravel()
    drawn = p >= 1
    order = np.flatnonzero(~drawn)
    if probability.shape[0] > 1:
        order = generator.permutation(order)
    total = np.cumsum(p[order])
    n = round(total[-1])
    total *= n / total[-1]
    total[-1] = n  # free of rounding errors
    drawn[order] = np.diff(np.floor(total + generator.uniform()), prepend=0) > 0
    return torch.from_numpy(drawn.reshape(probability.shape)).to(probability.device)
