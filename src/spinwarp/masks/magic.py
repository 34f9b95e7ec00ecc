"""Equispaced lines that use the conjugate symmetry of k-space (Defazio 2019, arXiv 1912.01101)."""

import numpy as np
from numpy.random import RandomState

from spinwarp.masks.base import LineMask


class MagicMask(LineMask):
    """Every ``acceleration``-th line; the halves are offset, which keeps sampled lines from mirroring each other."""

    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:  # noqa: ARG002
        """Draw the offset and place the lines on both halves."""
        return _mirrored_lines(width, acceleration, generator.randint(0, acceleration))


class MagicFractionMask(LineMask):
    """Like :class:`MagicMask`, with a spacing that brings the realised acceleration near the nominal one."""

    def n_center(self, width: int, center_fraction: float, acceleration: int) -> int:
        """Return the number of central columns: at least one, at most as many as the acceleration allows."""
        return max(min(round(width * center_fraction), round(width / acceleration)), 1)

    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Place the lines outside the centre."""
        n_left = round(width / acceleration) - n_center
        if n_left <= 0:
            return np.zeros(width, dtype=bool)
        spacing = round(width / n_left)
        return _mirrored_lines(width, spacing, generator.randint(0, spacing))


def _mirrored_lines(width: int, spacing: int, offset: int) -> np.ndarray:
    if offset % 2 == 0:
        positive_offset, negative_offset = offset + 1, offset + 2
    else:
        positive_offset, negative_offset = offset + 2, offset - 1
    positive = np.zeros((width + 1) // 2, dtype=bool)
    negative = np.zeros(width // 2, dtype=bool)
    positive[positive_offset::spacing] = True
    negative[negative_offset::spacing] = True
    return np.fft.fftshift(np.concatenate([positive, negative[::-1]]))
