"""Equispaced lines: fastMRI's brain masks."""

import numpy as np
from numpy.random import RandomState

from spinwarp.errors import InputError
from spinwarp.masks.base import LineMask


class EquispacedMask(LineMask):
    """Equal spacing, chosen such that lines and centre together give the nominal acceleration.

    This is fastMRI's ``equispaced_fraction``, which its leaderboard called "equispaced".
    """

    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Draw the offset and place the lines."""
        if n_center * acceleration >= width:
            raise InputError(
                f"the {n_center} central columns of {width} leave no line to draw at acceleration {acceleration}; "
                f"lower mask.center_fractions"
            )
        spacing = acceleration * (n_center - width) / (n_center * acceleration - width)
        offset = generator.randint(0, round(spacing))
        columns = np.zeros(width, dtype=bool)
        columns[np.around(np.arange(offset, width - 1, spacing)).astype(int)] = True
        return columns


class LiteralEquispacedMask(LineMask):
    """Every ``acceleration``-th line plus the centre; the realised acceleration is therefore below the nominal one.

    This is fastMRI's ``equispaced``: about 3.2 at a nominal 4.
    """

    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:  # noqa: ARG002
        """Draw the offset and place the lines."""
        offset = generator.randint(0, acceleration)
        columns = np.zeros(width, dtype=bool)
        columns[offset::acceleration] = True
        return columns
