"""Lines or points drawn with a Gaussian density about the centre of k-space."""

from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState

from spinwarp.errors import InputError
from spinwarp.masks.base import LineMask, PlaneMask, central, distance_from_center


class GaussianLineMask(LineMask):
    """Lines drawn without replacement, the likelier the nearer to the centre; their number is exactly the nominal one.

    Parameters
    ----------
    center_fractions, accelerations : as of every :class:`LineMask`.
    std : standard deviation of the density, as a share of the half width.

    Raises
    ------
    InputError : if ``std`` is not positive.

    Notes
    -----
    Toolkits differ in the width: DIRECT (``direct/common/subsample.py``) takes 6 sqrt(w / 2) lines in one direction and
    in two, a share of .53 at 256 and .47 at 320; ATOMMIC a full width at half maximum of .7, a share of .30; deepinv,
    after Schlemper et al. 2018, .2 on a constant floor that keeps the edge sampled. The default lies between them: a
    line at the edge is drawn 4 % as often as one at the centre.
    """

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[int], std: float = 0.4) -> None:
        super().__init__(center_fractions, accelerations)
        self.std = _positive(std)

    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Draw the lines that the centre leaves."""
        center = np.zeros(width, dtype=bool)
        center[central(width, n_center)] = True
        return _draw(center, round(width / acceleration) - n_center, self.std, generator)


class GaussianPlaneMask(PlaneMask):
    """Points drawn without replacement, the likelier the nearer to the centre; their number is exactly the nominal one.

    Parameters
    ----------
    center_fractions, accelerations : as of every :class:`PlaneMask`.
    std : standard deviation of the density, as a share of the half extent of each direction; see
        :class:`GaussianLineMask` for what others take.

    Raises
    ------
    InputError : if ``std`` is not positive.
    """

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[int], std: float = 0.4) -> None:
        super().__init__(center_fractions, accelerations)
        self.std = _positive(std)

    def outer_points(self, center: np.ndarray, n_outer: int, generator: RandomState) -> np.ndarray:
        """Draw the points that the centre leaves."""
        return _draw(center, n_outer, self.std, generator)


def _positive(std: float) -> float:
    if not std > 0:
        raise InputError(f"mask.std is a positive share of the half width; got {std}")
    return std


def _draw(center: np.ndarray, n: int, std: float, generator: RandomState) -> np.ndarray:
    """Draw ``n`` positions outside ``center``, one after the other, each with the density of what is left.

    The n largest of log density + Gumbel noise are distributed so (Efraimidis and Spirakis, "Weighted random sampling
    with a reservoir", 2006). In the logarithm no density is too small.
    """
    keys = generator.gumbel(size=center.shape) - (distance_from_center(center.shape) / std) ** 2 / 2
    keys[center] = -np.inf
    drawn = np.zeros(center.size, dtype=bool)
    drawn[np.argsort(keys, axis=None)[center.size - n :]] = True
    return drawn.reshape(center.shape)
