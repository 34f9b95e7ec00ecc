"""Conformal intervals: predicted standard deviations scaled to give new volumes the promised coverage."""

import math
from collections.abc import Sequence

import numpy as np

from spinwarp.errors import InputError

#: factors of the predicted standard deviation among which the conformal one is chosen: steps of .96 % from .01 to 1000,
#: of five digits, so that files hold them exactly
FACTORS = np.array([float(f"{factor:.5g}") for factor in np.logspace(-2, 3, 1201)])


def conformal_factor(factors: np.ndarray, exceedances: Sequence[np.ndarray], level: float) -> float:
    """Return the smallest of ``factors`` that promises the coverage ``level`` on a new volume.

        lambda = inf { l : n / (n + 1) mean_i L_i(l) + 1 / (n + 1) <= alpha },   alpha = 1 - level

    where L_i(l) is the fraction of foreground pixels of calibration volume i whose error exceeds l standard deviations.
    Pixels of a scan resemble one another, so volumes, not pixels, are taken as exchangeable: the new volume and those
    of calibration could have come in any order. Then the *expected* fraction of its foreground outside the interval is
    at most alpha (and at least alpha - 2 / (n + 1) if errors are continuous, but for the steps of the grid). A single
    volume may have more. Volumes that differ from those of calibration have no guarantee.

    Parameters
    ----------
    factors : of the predicted standard deviation, increasing, such as :data:`FACTORS`.
    exceedances : of each calibration volume, the fraction L_i at every factor.
    level : the promised coverage, between 0 and 1.

    Raises
    ------
    InputError : if the level is not between 0 and 1, there are fewer than 1 / alpha - 1 volumes, or no factor is large
        enough, as where a standard deviation of zero is predicted for an error.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei and Schuster, "Conformal risk control", ICLR 2024, arXiv 2208.02814: equation 4,
    theorems 1 and 2, with the fraction of pixels outside as the loss.
    """
    if not 0 < level < 1:
        raise InputError(f"conformal_level={level} is not a coverage; give a number between 0 and 1, such as 0.9")
    n, alpha = len(exceedances), 1 - level
    slack = 1e-9  # 1 - .9 is a little less than 1 / 10
    needed = math.ceil(1 / alpha - 1 - slack)
    if n < needed:
        raise InputError(
            f"a coverage of {level:g} needs at least {needed} calibration volumes, got {n}; calibrate on more or lower "
            f"conformal_level"
        )
    outside = np.mean(exceedances, axis=0)
    enough = np.flatnonzero(n * outside + 1 <= alpha * (n + 1) + slack)
    if not len(enough):
        raise InputError(
            f"no scaling covers {level:g}: {outside[-1]:.1%} of the foreground errors exceed even {factors[-1]:g} "
            f"predicted standard deviations, which are next to zero there; lower conformal_level or mend the method"
        )
    return float(factors[enough[0]])
