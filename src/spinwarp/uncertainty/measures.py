"""Measures of predicted standard deviations: arrays of pixels in, numbers and curves out."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

#: nominal coverages over which the calibration error is the mean: the middles of 50 equal parts of (0, 1)
FINE_LEVELS = (np.arange(50) + 0.5) / 50
#: fractions of pixels that sparsification leaves out
FRACTIONS = np.arange(20) / 20
# Values that vary less than this fraction of their mean are constant to float32, and what is left is rounding.
_LEAST_SPREAD = 1e-6


def gaussian_factor(level: float) -> float:
    """Return how many standard deviations to either side hold the fraction ``level`` of a Gaussian: 1.96 for .95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def error_ratio(error: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return |error| / std in double precision: 0 where there is no error, infinite for an error with a std of 0.

    An interval of k standard deviations covers a pixel if its ratio is at most k.
    """
    size = np.abs(error, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size == 0, 0.0, size / std.astype(np.float64))


def coverage(ratio: np.ndarray, factors: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the fraction of pixels whose error is at most each of ``factors`` standard deviations; NaN without any."""
    if ratio.size == 0:
        return np.full(len(factors), np.nan)
    return np.searchsorted(np.sort(ratio), factors, side="right") / ratio.size


def calibration_error(ratio: np.ndarray) -> float:
    """Return the mean difference of observed and nominal coverage over the Gaussian intervals of :data:`FINE_LEVELS`.

    It is 0 for Gaussian errors of the predicted standard deviation, and a half if every interval covers all or nothing.

    References
    ----------
    Kuleshov et al., "Accurate uncertainties for deep learning using calibrated regression", ICML 2018, section 3.5:
    there squared and for one-sided intervals; here for central ones, as errors in a picture are read.
    """
    return float(np.abs(coverage(ratio, [gaussian_factor(level) for level in FINE_LEVELS]) - FINE_LEVELS).mean())


def sparsification(error: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return the RMSE of the remaining pixels when those of largest ``by`` are left out, relative to the RMSE of all.

    Pixels of equal ``by`` count with their mean square, the expectation over their order. NaN where there is no error.

    Parameters
    ----------
    error : ``(n,)``.
    by : ``(n,)`` the uncertainty of each pixel; the size of the error itself gives the oracle, the lowest possible
        curve.

    Returns
    -------
    curve : at each of :data:`FRACTIONS` left out. It begins at 1, and stays there if ``by`` carries no information.

    References
    ----------
    Ilg et al., "Uncertainty estimates and multi-hypotheses networks for optical flow", ECCV 2018, section 4.1.
    """
    squares = np.square(error, dtype=np.float64)
    if not squares.any():
        return np.full(len(FRACTIONS), np.nan)
    _, group, counts = np.unique(by, return_inverse=True, return_counts=True)
    n_kept = np.concatenate([[0], np.cumsum(counts)])
    sums = np.concatenate([[0], np.cumsum(np.bincount(group.ravel(), weights=squares))])
    kept = (1 - FRACTIONS) * error.size
    return np.sqrt(np.interp(kept, n_kept, sums) / kept / (sums[-1] / error.size))


def area(curve: np.ndarray) -> float:
    """Return the mean height of a curve over :data:`FRACTIONS`, by the trapezoidal rule."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


def correlation(error: np.ndarray, std: np.ndarray) -> float:
    """Return the Pearson correlation of |error| and std; NaN if either is constant.

    Even the best std stays far below 1: a Gaussian error of known standard deviation is often small by chance.
    """
    if error.size < 2:
        return math.nan
    pixels = np.stack([np.abs(error, dtype=np.float64), std.astype(np.float64)])
    mean = pixels.mean(1, keepdims=True)
    centred = pixels - mean
    spread = np.sqrt(np.square(centred).mean(1))
    if (spread <= _LEAST_SPREAD * mean[:, 0]).any():
        return math.nan
    return float((centred[0] * centred[1]).mean() / spread.prod())
