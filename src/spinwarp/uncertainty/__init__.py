"""Whether predicted standard deviations agree with the errors, and the error itself where no truth is known.

Tensors and functions alone: no model, no file.
"""

from spinwarp.metrics import foreground
from spinwarp.uncertainty.calibration import CURVE_LEVELS, Calibration, Ranks, local_intensity, ranks_of
from spinwarp.uncertainty.conformal import FACTORS, conformal_factor
from spinwarp.uncertainty.density import adapted_density
from spinwarp.uncertainty.measures import FRACTIONS, gaussian_factor
from spinwarp.uncertainty.sure import Risk, compensated, sure, white_sure

__all__ = [
    "CURVE_LEVELS", "FACTORS", "FRACTIONS", "Calibration", "Ranks", "Risk", "adapted_density", "compensated",
    "conformal_factor", "foreground", "gaussian_factor", "local_intensity", "ranks_of", "sure", "white_sure",
]  # fmt: skip
