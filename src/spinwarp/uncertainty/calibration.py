"""How well the standard deviations that a method predicts agree with its errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spinwarp.metrics import foreground
from spinwarp.uncertainty.conformal import FACTORS
from spinwarp.uncertainty.measures import (
    area,
    calibration_error,
    correlation,
    coverage,
    error_ratio,
    gaussian_factor,
    sparsification,
)

#: an error is covered if it is within this many standard deviations
N_STD = 2.0
#: nominal coverages of the Gaussian intervals whose observed coverage is in a row of the results
LEVELS = (0.5, 0.8, 0.9, 0.95)
#: nominal coverages of the curve
CURVE_LEVELS = (*(round(0.05 * i, 2) for i in range(1, 20)), 0.99)
_WINDOW = 5  # pixels: the square over which the intensity is averaged


def local_intensity(magnitude: Tensor) -> Tensor:
    """Return the mean of ``magnitude (batch, h, w)`` over 5x5 pixels, of fewer at the rim.

    The baseline of every predicted standard deviation: errors are larger where the image is bright, and it knows
    nothing else.
    """
    mean: Tensor = F.avg_pool2d(magnitude[:, None], _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
    return mean[:, 0]


@dataclass(frozen=True)
class Ranks:
    """How many of ``n_samples`` draws lie below the target, ``(batch, h, w)`` whole numbers."""

    below: Tensor
    n_samples: int

    def histogram(self, where: Tensor) -> np.ndarray:
        """Count how often the target is larger than 0, 1, ..., n draws, over the pixels ``(batch, h, w)`` bool.

        The histogram is flat if the draws come from the distribution of the target. It is a bowl if they lie too close
        together, a hill if they lie too far apart, and a slope if they are biased.

        References
        ----------
        Talagrand et al. 1997; Hamill, "Interpretation of rank histograms for verifying ensemble forecasts", Monthly
        Weather Review 129, 2001.
        """
        return np.bincount(self.below[where].numpy(), minlength=self.n_samples + 1)


def ranks_of(samples: Tensor, target: Tensor) -> Ranks:
    """Rank the target ``(batch, h, w)`` among draws ``(n_samples, batch, h, w)``; ties count half."""
    below = ((samples < target).sum(0) + (samples <= target).sum(0)) // 2
    return Ranks(below.to(torch.int32), len(samples))


class Calibration:
    """Errors against predicted standard deviations over the foreground of one volume; it keeps all pixels.

    If errors are Gaussian with exactly the predicted standard deviation, two of them cover .954. The standard deviation
    of a few draws of an exact posterior is itself uncertain, and the ratio follows Student's t: two cover .94 for 16
    draws, .91 for 8, .70 for 2. A method with a higher coverage predicts too large errors; with a lower one, too small
    ones.

    As a baseline, everything is also measured for a standard deviation proportional to the local intensity. It is
    scaled so that its mean square over the volume equals the mean squared error. That needs the truth, so the baseline
    is generous.

    Pixels of a slice are not independent, so the numbers of one volume vary more than its number of pixels suggests.
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []  # (3, n): error, std, intensity
        self._ranks: list[np.ndarray | None] = []

    def update(
        self, magnitude: Tensor, std: Tensor, target: Tensor, data_range: Tensor, ranks: Ranks | None = None
    ) -> None:
        """Add slices.

        Parameters
        ----------
        magnitude, target : ``(batch, h, w)``.
        std : ``(batch, h, w)`` the predicted standard deviation of the magnitude.
        data_range : ``(batch,)`` the largest value of each item's volume.
        ranks : of the target among the draws that give ``std``, see :func:`ranks_of`, or None.
        """
        where = foreground(target, data_range)
        parts = (magnitude - target, std, local_intensity(magnitude))
        self._parts.append(torch.stack([part[where] for part in parts]))
        self._ranks.append(None if ranks is None else ranks.histogram(where))

    def numbers(self) -> dict[str, Any]:
        """Return what a row of the results holds; NaN where there is nothing to measure.

        ``coverage`` is that of two standard deviations, ``coverage_50`` and so on those of Gaussian intervals of these
        levels. See :mod:`spinwarp.uncertainty.measures` for the others.
        """
        error, std, intensity = self._pixels()
        ratio = error_ratio(error, std)
        fractions = coverage(ratio, [N_STD, *map(gaussian_factor, LEVELS)]).tolist()
        names = ["coverage", *(f"coverage_{100 * level:.0f}" for level in LEVELS)]
        return {
            **dict(zip(names, fractions, strict=True)),
            "calibration_error": calibration_error(ratio),
            "sparsification": area(sparsification(error, std)),
            "sparsification_oracle": area(sparsification(error, np.abs(error))),
            "error_correlation": correlation(error, std),
            "intensity_calibration_error": calibration_error(error_ratio(error, intensity)),
            "intensity_sparsification": area(sparsification(error, intensity)),
            "intensity_correlation": correlation(error, intensity),
        }

    def curves(self) -> dict[str, Any]:
        """Return what ``calibration.json`` holds of a volume, see :class:`spinwarp.results.VolumeCurves`."""
        error, std, intensity = self._pixels()
        ratio = error_ratio(error, std)
        factors = [gaussian_factor(level) for level in CURVE_LEVELS]
        # the first bin takes what is at most the first factor, the last what is above the last
        bins = np.bincount(np.searchsorted(FACTORS, ratio), minlength=len(FACTORS) + 1)
        return {
            "n_pixels": error.size,
            "coverage": coverage(ratio, factors).tolist(),
            "intensity_coverage": coverage(error_ratio(error, intensity), factors).tolist(),
            "sparsification": sparsification(error, std).tolist(),
            "sparsification_oracle": sparsification(error, np.abs(error)).tolist(),
            "intensity_sparsification": sparsification(error, intensity).tolist(),
            "ranks": self._rank_histogram(),
            "ratios": bins.tolist(),
        }

    def _pixels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return error, predicted standard deviation and that of the baseline, ``(n,)`` each."""
        if not self._parts:
            return np.zeros(0), np.zeros(0), np.zeros(0)
        error, std, intensity = torch.cat(self._parts, 1).numpy().astype(np.float64)
        square = np.square(intensity).sum()
        return error, std, intensity * np.sqrt(np.square(error).sum() / square) if square > 0 else intensity

    def _rank_histogram(self) -> list[int] | None:
        """Return the sum over the slices; None if one has no samples, or their numbers differ."""
        counts = [ranks for ranks in self._ranks if ranks is not None]
        if len(counts) < max(len(self._ranks), 1) or len({len(ranks) for ranks in counts}) > 1:
            return None
        total: list[int] = np.sum(counts, axis=0).tolist()
        return total
