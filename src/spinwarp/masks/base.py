"""The protocol of a mask, and the base classes of line masks and point masks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from spinwarp.errors import InputError


class Mask(Protocol):
    """Draws sampling masks: ``mask((h, w), generator)``.

    Returns the bool mask, ``(1, w)`` for lines or ``(h, w)`` for points, and the number of fully sampled central
    columns, which coil calibration may use. For points that number is the side of the largest fully sampled central
    square. The generator is a ``RandomState`` because its stream is frozen: a seed gives the masks of the fastMRI
    reference on every machine and with every version of numpy.
    """

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask."""
        ...


@runtime_checkable
class IndependentMask(Mask, Protocol):
    """A line mask that samples each column independently of the others, with a known probability."""

    def density(self, shape: tuple[int, int]) -> Tensor:
        """Return the probability ``(w,)``, above 0, that each column of k-space of ``shape`` = (h, w) is sampled."""
        ...


def seed_of(name: str) -> tuple[int, ...]:
    """Return the seed that the fastMRI reference derives from a file name (including ``.h5``)."""
    return tuple(map(ord, name))


def distance_from_center(shape: tuple[int, ...]) -> np.ndarray:
    """Return the distance of each position to the centre of k-space; 1 at the edge of each direction."""
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    squares = (((axis - size // 2) / (size / 2)) ** 2 for axis, size in zip(axes, shape, strict=True))
    return np.sqrt(sum(squares, np.zeros(shape)))


def central(size: int, n_center: int) -> slice:
    """Return where the fastMRI reference puts the ``n_center`` central positions out of ``size``."""
    first = (size - n_center + 1) // 2
    return slice(first, first + n_center)


class CenteredMask(ABC):
    """Base of masks with a fully sampled centre; each draw picks one pair of centre fraction and acceleration.

    Parameters
    ----------
    center_fractions : fraction of each phase-encoding direction that the centre takes, one for each acceleration.
    accelerations : nominal accelerations.

    Raises
    ------
    InputError : if the lists differ in length, or the centre alone samples as much as the acceleration allows (for
        lines ``center_fraction >= 1 / acceleration``). There the reference divides by zero or gives wrong masks.
    """

    positions = "columns"
    n_directions = 1  # of phase encoding

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[int]) -> None:
        if len(center_fractions) != len(accelerations) or not accelerations:
            raise InputError(
                f"a mask needs one center_fraction for each acceleration; got center_fractions="
                f"{list(center_fractions)} and accelerations={list(accelerations)}"
            )
        for fraction, acceleration in zip(center_fractions, accelerations, strict=True):
            if not acceleration >= 1:
                raise InputError(f"an acceleration is at least 1; got {acceleration}")
            if not (fraction >= 0 and fraction**self.n_directions < 1 / acceleration):
                raise InputError(
                    f"center_fraction={fraction} at acceleration={acceleration} is impossible: the centre alone would "
                    f"sample at least as much as 1/{acceleration} = {1 / acceleration:.3g} of the {self.positions}; "
                    f"lower mask.center_fractions or mask.accelerations"
                )
        self.center_fractions = tuple(float(f) for f in center_fractions)
        self.accelerations = tuple(accelerations)

    @property
    def nominal_acceleration(self) -> float:
        """The requested acceleration; NaN if there are several."""
        return float(self.accelerations[0]) if len(set(self.accelerations)) == 1 else float("nan")

    def draw_pair(self, n_positions: int, generator: RandomState) -> tuple[float, int]:
        """Draw the centre fraction and the acceleration for k-space of ``n_positions``."""
        # the reference makes this draw even when there is only one pair, so the same stream needs it
        choice = generator.randint(len(self.center_fractions))
        fraction, acceleration = self.center_fractions[choice], self.accelerations[choice]
        if n_positions < 2 * acceleration:
            raise InputError(
                f"{n_positions} {self.positions} are too few for a mask of acceleration {acceleration}, which needs "
                f"at least {2 * acceleration}"
            )
        return fraction, acceleration

    @abstractmethod
    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask; return it and its number of central columns."""


class LineMask(CenteredMask):
    """Phase-encoding lines outside a fully sampled centre (``fastmri/data/subsample.py``)."""

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask ``(1, w)`` for k-space of ``shape`` = (h, w); return it and its number of central columns."""
        width = shape[-1]
        fraction, acceleration = self.draw_pair(width, generator)
        n_center = self.n_center(width, fraction, acceleration)
        columns = self.outer_lines(width, acceleration, n_center, generator)
        columns[central(width, n_center)] = True
        return torch.from_numpy(columns)[None], n_center

    def n_center(self, width: int, center_fraction: float, acceleration: int) -> int:  # noqa: ARG002
        """Return the number of columns of the fully sampled centre."""
        return round(width * center_fraction)

    @abstractmethod
    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Draw the bool columns ``(width,)`` outside the centre; values inside it are ignored."""


class PlaneMask(CenteredMask):
    """Points outside a fully sampled central rectangle, for 3-D scans, where both directions encode phase.

    Every mask samples exactly ``round(h w / acceleration)`` of the h w positions.
    """

    positions = "positions"
    n_directions = 2

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask of ``shape`` = (h, w); return it and the side of the largest square in its centre.

        Raises
        ------
        InputError : if the centre leaves no point to draw, or k-space has too few positions.
        """
        h, w = shape
        fraction, acceleration = self.draw_pair(h * w, generator)
        n_rows, n_columns = round(h * fraction), round(w * fraction)
        n_outer = round(h * w / acceleration) - n_rows * n_columns
        if n_outer < 1:
            raise InputError(
                f"the {n_rows}x{n_columns} central positions of {h}x{w} leave no point to draw at "
                f"acceleration {acceleration}; lower mask.center_fractions"
            )
        center = np.zeros(shape, dtype=bool)
        center[central(h, n_rows), central(w, n_columns)] = True
        points = self.outer_points(center, n_outer, generator)
        return torch.from_numpy(points | center), min(n_rows, n_columns)

    @abstractmethod
    def outer_points(self, center: np.ndarray, n_outer: int, generator: RandomState) -> np.ndarray:
        """Draw ``n_outer`` bool points ``(h, w)`` outside the bool ``center`` ``(h, w)``; values inside are ignored."""
