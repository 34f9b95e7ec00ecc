"""How well the standard deviations that a method claims agree with the errors that it makes."""

import torch
from torch import Tensor

#: what is brighter than this share of the volume's data range is foreground
FOREGROUND = 0.05
#: an error is covered if it lies within so many standard deviations
N_STD = 2.0
# Deviations that vary less than this share of their mean are constant to float32, and what is left is rounding.
_LEAST_SPREAD = 1e-6


def foreground(target: Tensor, data_range: Tensor) -> Tensor:
    """Return where there is something to be uncertain of: the target above 5 % of the volume's data range.

    The background is left out since it is air, often most of the picture. There both error and deviation are next to
    nothing: that alone correlates them and flatters. Or a method sets the air to zero, deviation and all, and every
    speck of noise in the target lies outside, which spoils the coverage.

    Parameters
    ----------
    target : ``(batch, h, w)`` magnitudes.
    data_range : ``(batch,)`` the largest value of each item's volume.
    """
    return target > FOREGROUND * data_range.view(-1, *(1 for _ in target.shape[1:]))


class Calibration:
    """Errors against claimed standard deviations, gathered slice by slice in constant memory.

    For Gaussian errors of exactly the claimed deviation, the coverage is .954. Mean and deviation of a few draws of an
    exact posterior are themselves uncertain and cover less: .93 for 16 draws, .90 for 8, .65 for 2. More than that says
    that a method claims too large errors, less that it is too sure of itself.

    Pixels of a slice are not independent, so the numbers of one volume vary more than its number of pixels suggests.
    """

    def __init__(self) -> None:
        self._n = 0
        self._n_covered = 0
        self._mean = torch.zeros(2, dtype=torch.float64)  # of |error| and std
        self._scatter = torch.zeros(2, 2, dtype=torch.float64)  # sums of products of deviations from the means

    def update(self, error: Tensor, std: Tensor, foreground: Tensor) -> None:
        """Add pixels.

        Parameters
        ----------
        error : image minus target, of any shape.
        std : the claimed standard deviation, of that shape.
        foreground : bool of that shape; other pixels do not count.
        """
        pixels = torch.stack([error[foreground].abs(), std[foreground]]).detach().double().cpu()  # (2, n)
        n = pixels.shape[1]
        if n == 0:
            return
        mean = pixels.mean(1)
        centred = pixels - mean[:, None]
        # Parts are joined about their means (Chan et al., 1979): sums of squares would cancel for nearly equal values.
        step = mean - self._mean
        total = self._n + n
        self._scatter += centred @ centred.T + torch.outer(step, step) * (self._n * n / total)
        self._mean += step * (n / total)
        self._n = total
        self._n_covered += int((pixels[0] <= N_STD * pixels[1]).sum())

    @property
    def coverage(self) -> float:
        """Share of foreground pixels whose absolute error lies within two standard deviations; NaN without any."""
        return self._n_covered / self._n if self._n else float("nan")

    @property
    def correlation(self) -> float:
        """Pearson correlation of absolute error and deviation over the foreground; NaN where either is constant.

        Far below 1 for the best deviation too: even a Gaussian error of known deviation is often small by chance.
        """
        if self._n < 2:
            return float("nan")
        spread = (self._scatter.diagonal() / self._n).sqrt()
        if (spread <= _LEAST_SPREAD * self._mean).any():
            return float("nan")
        return float(self._scatter[0, 1] / self._n / spread.prod())
