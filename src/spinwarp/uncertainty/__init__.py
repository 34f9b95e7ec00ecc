"""Whether the uncertainty that a method claims is the one that it has. Tensors alone: no model, no file."""

from spinwarp.uncertainty.calibration import Calibration, foreground

__all__ = ["Calibration", "foreground"]
