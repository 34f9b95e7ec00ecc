"""Whether the uncertainty that a method claims is the one that it has, and what its error is where no truth is known.

Tensors and functions alone: no model, no file.
"""

from spinwarp.metrics import foreground
from spinwarp.uncertainty.calibration import CURVE_LEVELS, Calibration, Ranks, local_intensity, ranks_of
from spinwarp.uncertainty.conformal import FACTORS, conformal_factor
from spinwarp.uncertainty.density import adapted_density
from spinwarp.uncertainty.measures import SHARES, gaussian_factor
from spinwarp.uncertainty.sure import Risk, compensated, sure, white_sure

__all__ = [
    "CURVE_LEVELS",
    "FACTORS",
    "SHARES",
    "Calibration",
    "Ranks",
    "Risk",
    "adapted_density",
    "compensated",
    "conformal_factor",
    "foreground",
    "gaussian_factor",
    "local_intensity",
    "ranks_of",
    "sure",
    "white_sure",
]
