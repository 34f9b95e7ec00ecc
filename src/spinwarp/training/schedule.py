"""Learning-rate schedules: the factor on the learning rate as a function of training progress from 0 to 1."""

import math

from spinwarp.errors import InputError


class Constant:
    """No change."""

    def __call__(self, progress: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0


class Step:
    """Drop by ``gamma`` after the fraction ``at`` of training; fastMRI: 0.1 after 40 of 50 epochs."""

    def __init__(self, at: float = 0.8, gamma: float = 0.1) -> None:
        self.at = at
        self.gamma = gamma

    def __call__(self, progress: float) -> float:
        """Return 1 before the drop and ``gamma`` after it."""
        return 1.0 if progress < self.at else self.gamma


class Cosine:
    """Rise linearly over the fraction ``warmup`` of training, then fall along a cosine to ``floor``.

    Raises
    ------
    InputError : if ``warmup`` is not in [0, 1).
    """

    def __init__(self, warmup: float = 0.05, floor: float = 0.01) -> None:
        if not 0 <= warmup < 1:
            raise InputError(f"warmup is a fraction of training in [0, 1); got {warmup}")
        self.warmup = warmup
        self.floor = floor

    def __call__(self, progress: float) -> float:
        """Return the factor."""
        if progress < self.warmup:
            return self.floor + (1 - self.floor) * progress / self.warmup
        falling = min((progress - self.warmup) / (1 - self.warmup), 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * falling))


class WarmupDecay:
    """Rise linearly over the fraction ``warmup`` of training, stay, then fall linearly to zero over the last ``decay``.

    The value does not depend on the length of training before the fall. A run can therefore be continued for longer,
    and ended whenever its results are good enough (Hägele et al., "Scaling laws and compute-optimal training beyond
    fixed training durations", NeurIPS 2024).

    Raises
    ------
    InputError : if the fractions are not in [0, 1), or together more than 1.
    """

    def __init__(self, warmup: float = 0.02, decay: float = 0.2) -> None:
        if not (0 <= warmup < 1 and 0 <= decay < 1 and warmup + decay <= 1):
            raise InputError(f"warmup and decay are fractions of training, at most 1 together; got {warmup}, {decay}")
        self.warmup = warmup
        self.decay = decay

    def __call__(self, progress: float) -> float:
        """Return the factor."""
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-3)
        return 1.0 if progress < 1 - self.decay else max((1 - progress) / self.decay, 0.0)
