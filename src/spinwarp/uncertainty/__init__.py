"""Whether the uncertainty that a method claims is the one that it has. Tensors alone: no model, no file."""

from spinwarp.uncertainty.calibration import CURVE_LEVELS, Calibration, foreground, local_intensity, rank_histogram
from spinwarp.uncertainty.conformal import FACTORS, conformal_factor
from spinwarp.uncertainty.measures import SHARES, gaussian_factor

__all__ = [
    "CURVE_LEVELS",
    "FACTORS",
    "SHARES",
    "Calibration",
    "conformal_factor",
    "foreground",
    "gaussian_factor",
    "local_intensity",
    "rank_histogram",
]
