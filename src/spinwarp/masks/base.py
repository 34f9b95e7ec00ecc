"""What a mask is, and what all masks of lines and all masks of points share."""

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
    columns, which the calibration of the coils may use (of points, the side of the largest square in the centre). The
    generator is a ``RandomState`` because its stream is frozen: the same seed gives the reference's masks on every
    machine and in every year.
    """

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask."""
        ...


@runtime_checkable
class IndependentMask(Mask, Protocol):
    """A mask of lines that are drawn independently of one another, each with a probability that is known."""

    def density(self, shape: tuple[int, int]) -> Tensor:
        """Return the probability ``(w,)``, above 0, of each column of k-space of ``shape`` = (h, w)."""
        ...


def seed_of(name: str) -> tuple[int, ...]:
    """Seed that the fastMRI reference makes of a file name (with its ``.h5``)."""
    return tuple(map(ord, name))


def distance_from_center(shape: tuple[int, ...]) -> np.ndarray:
    """Distance of all positions ``shape`` to the centre of k-space; 1 at the edge of each direction."""
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    squares = (((axis - size // 2) / (size / 2)) ** 2 for axis, size in zip(axes, shape, strict=True))
    return np.sqrt(sum(squares, np.zeros(shape)))


def central(size: int, n_center: int) -> slice:
    """Where the reference puts the ``n_center`` central of ``size`` positions."""
    first = (size - n_center + 1) // 2
    return slice(first, first + n_center)


class CenteredMask(ABC):
    """A fully sampled centre and accelerations, of which each mask draws one pair.

    Parameters
    ----------
    center_fractions : share of each phase-encoding direction that the centre takes, one for each acceleration.
    accelerations : nominal accelerations; with several, each mask draws one pair.

    Raises
    ------
    InputError : if the lists differ in length, or a centre alone already samples as much as the acceleration allows
        (``center_fraction >= 1 / acceleration`` of lines), where the reference divides by zero or goes astray.
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
                    f"center_fraction={fraction} at acceleration={acceleration} cannot be: the centre alone would "
                    f"sample at least as much as 1/{acceleration} = {1 / acceleration:.3g} of the {self.positions}; "
                    f"lower mask.center_fractions or mask.accelerations"
                )
        self.center_fractions = tuple(float(f) for f in center_fractions)
        self.accelerations = tuple(accelerations)

    @property
    def nominal_acceleration(self) -> float:
        """The acceleration asked for; NaN for a mix."""
        return float(self.accelerations[0]) if len(set(self.accelerations)) == 1 else float("nan")

    def draw_pair(self, n_positions: int, generator: RandomState) -> tuple[float, int]:
        """Draw the share of the centre and the acceleration for k-space of ``n_positions``."""
        # the reference draws the pair even when there is only one, so the stream needs this call
        choice = generator.randint(len(self.center_fractions))
        fraction, acceleration = self.center_fractions[choice], self.accelerations[choice]
        if n_positions < 2 * acceleration:
            raise InputError(
                f"{n_positions} {self.positions} are too few for a mask of acceleration {acceleration}; it takes at "
                f"least {2 * acceleration}"
            )
        return fraction, acceleration

    @abstractmethod
    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask, and the number of central columns."""


class LineMask(CenteredMask):
    """Phase-encoding lines outside a fully sampled centre (``fastmri/data/subsample.py``)."""

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask ``(1, w)`` for k-space of ``shape`` = (h, w), and its number of central columns."""
        width = shape[-1]
        fraction, acceleration = self.draw_pair(width, generator)
        n_center = self.n_center(width, fraction, acceleration)
        columns = self.outer_lines(width, acceleration, n_center, generator)
        columns[central(width, n_center)] = True
        return torch.from_numpy(columns)[None], n_center

    def n_center(self, width: int, center_fraction: float, acceleration: int) -> int:  # noqa: ARG002
        """Number of columns of the fully sampled centre."""
        return round(width * center_fraction)

    @abstractmethod
    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Draw the bool columns ``(width,)`` outside the centre; those inside do not matter."""


class PlaneMask(CenteredMask):
    """Points outside a fully sampled central rectangle: both directions encode phase, as in a 3-D scan.

    Every mask samples exactly ``round(h w / acceleration)`` of all h w positions.
    """

    positions = "positions"
    n_directions = 2

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask of ``shape`` = (h, w), and the side of the largest square in its centre.

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
                f"the {n_rows}x{n_columns} central positions of {h}x{w} leave nothing of the share of acceleration "
                f"{acceleration}; lower mask.center_fractions"
            )
        center = np.zeros(shape, dtype=bool)
        center[central(h, n_rows), central(w, n_columns)] = True
        points = self.outer_points(center, n_outer, generator)
        return torch.from_numpy(points | center), min(n_rows, n_columns)

    @abstractmethod
    def outer_points(self, center: np.ndarray, n_outer: int, generator: RandomState) -> np.ndarray:
        """Draw ``n_outer`` bool points ``(h, w)`` outside the bool centre ``(h, w)``; those inside do not matter."""
