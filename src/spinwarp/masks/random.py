"""Random lines: fastMRI's knee masks."""

import numpy as np
from numpy.random import RandomState

from spinwarp.masks.base import LineMask


class RandomMask(LineMask):
    """Each column outside the centre is sampled independently; the expected acceleration is the nominal one."""

    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Draw the columns."""
        probability = (width / acceleration - n_center) / max(width - n_center, 1)
        return generator.uniform(size=width) < probability
