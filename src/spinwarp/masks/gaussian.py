"""Lines or points drawn from a Gaussian density around the centre of k-space."""

from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState

from spinwarp.errors import InputError
from spinwarp.masks.base import LineMask, PlaneMask, central, distance_from_center


class GaussianLineMask(LineMask):
    """Lines drawn without replacement from a Gaussian density; their number is exactly the nominal one.

    Parameters
    ----------
    center_fractions, accelerations : as of every :class:`LineMask`.
    std : standard deviation of the density, as a fraction of half the width.

    Raises
    ------
    InputError : if ``std`` is not positive.

    Notes
    -----
    Toolkits differ in ``std``. DIRECT (``direct/common/subsample.py``) uses 6 sqrt(w / 2) lines, in one and in two
    directions: 0.53 at 256 and 0.47 at 320. ATOMMIC uses a full width at half maximum of 0.7, which is 0.30. deepinv,
    after Schlemper et al. 2018, uses 0.2 plus a constant that keeps the edge sampled. The default lies in between: a
    line at the edge is drawn 4 % as often as one at the centre.
    """

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[int], std: float = 0.4) -> None:
        super().__init__(center_fractions, accelerations)
        self.std = _positive(std)

    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Draw the lines outside the centre."""
        center = np.zeros(width, dtype=bool)
        center[central(width, n_center)] = True
        return _draw(center, round(width / acceleration) - n_center, self.std, generator)


class GaussianPlaneMask(PlaneMask):
    """Points drawn without replacement from a Gaussian density; their number is exactly the nominal one.

    Parameters
    ----------
    center_fractions, accelerations : as of every :class:`PlaneMask`.
    std : standard deviation of the density, as a fraction of half the extent of each direction; the notes of
        :class:`GaussianLineMask` list what other toolkits use.

    Raises
    ------
    InputError : if ``std`` is not positive.
    """

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[int], std: float = 0.4) -> None:
        super().__init__(center_fractions, accelerations)
        self.std = _positive(std)

    def outer_points(self, center: np.ndarray, n_outer: int, generator: RandomState) -> np.ndarray:
        """Draw the points outside the centre."""
        return _draw(center, n_outer, self.std, generator)


def _positive(std: float) -> float:
    if not std > 0:
        raise InputError(f"mask.std is a positive fraction of half the width; got {std}")
    return std


def _draw(center: np.ndarray, n: int, std: float, generator: RandomState) -> np.ndarray:
    """Draw ``n`` positions outside ``center`` without replacement, with probabilities proportional to the density.

    The n largest values of log density + Gumbel noise are such a draw (Efraimidis and Spirakis, "Weighted random
    sampling with a reservoir", 2006). The logarithm keeps small densities from underflowing.
    """
    keys = generator.gumbel(size=center.shape) - (distance_from_center(center.shape) / std) ** 2 / 2
    keys[center] = -np.inf
    drawn = np.zeros(center.size, dtype=bool)
    drawn[np.argsort(keys, axis=None)[center.size - n :]] = True
    return drawn.reshape(center.shape)
