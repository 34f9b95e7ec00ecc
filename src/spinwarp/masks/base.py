"""What a mask is, and what all line masks of the fastMRI reference share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from spinwarp.errors import InputError


class Mask(Protocol):
    """Draws sampling masks: ``mask((h, w), generator)``.

    Returns the bool mask ``(1, w)`` for lines or ``(h, w)``, and the number of fully sampled central columns, which
    the calibration of the coils may use. The generator is a ``RandomState`` because its stream is frozen: the same
    seed gives the reference's masks on every machine and in every year.
    """

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask."""
        ...


def seed_of(name: str) -> tuple[int, ...]:
    """Seed that the fastMRI reference makes of a file name (with its ``.h5``)."""
    return tuple(map(ord, name))


class LineMask(ABC):
    """Phase-encoding lines outside a fully sampled centre (``fastmri/data/subsample.py``).

    Parameters
    ----------
    center_fractions : share of the columns that the centre takes, one for each acceleration.
    accelerations : nominal accelerations; with several, each mask draws one pair.

    Raises
    ------
    InputError : if the lists differ in length, or a centre alone already has more columns than the acceleration
        allows (``center_fraction >= 1 / acceleration``), where the reference divides by zero or goes astray.
    """

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[int]) -> None:
        if len(center_fractions) != len(accelerations) or not accelerations:
            raise InputError(
                f"a mask needs one center_fraction for each acceleration; got center_fractions="
                f"{list(center_fractions)} and accelerations={list(accelerations)}"
            )
        for fraction, acceleration in zip(center_fractions, accelerations, strict=True):
            if not acceleration >= 1:
                raise InputError(f"an acceleration is at least 1; got {acceleration}")
            if not 0 <= fraction < 1 / acceleration:
                raise InputError(
                    f"center_fraction={fraction} at acceleration={acceleration} cannot be: the centre alone would "
                    f"sample at least as much as 1/{acceleration} = {1 / acceleration:.3g} of the columns; "
                    f"lower mask.center_fractions or mask.accelerations"
                )
        self.center_fractions = tuple(float(f) for f in center_fractions)
        self.accelerations = tuple(accelerations)

    @property
    def nominal_acceleration(self) -> float:
        """The acceleration asked for; NaN for a mix."""
        return float(self.accelerations[0]) if len(set(self.accelerations)) == 1 else float("nan")

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask ``(1, w)`` for k-space of ``shape`` = (h, w), and its number of central columns."""
        width = shape[-1]
        # the reference draws the pair even when there is only one, so the stream needs this call
        choice = generator.randint(len(self.center_fractions))
        acceleration = self.accelerations[choice]
        n_center = self.n_center(width, self.center_fractions[choice], acceleration)
        if width < 2 * acceleration:
            raise InputError(
                f"{width} columns are too few for a mask of acceleration {acceleration}; it takes at least "
                f"{2 * acceleration}"
            )
        columns = self.outer_lines(width, acceleration, n_center, generator)
        first = (width - n_center + 1) // 2
        columns[first : first + n_center] = True
        return torch.from_numpy(columns)[None], n_center

    def n_center(self, width: int, center_fraction: float, acceleration: int) -> int:  # noqa: ARG002
        """Number of columns of the fully sampled centre."""
        return round(width * center_fraction)

    @abstractmethod
    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Draw the bool columns ``(width,)`` outside the centre; those inside do not matter."""
