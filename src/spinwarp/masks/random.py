"""Random lines: fastMRI's knee masks."""

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.masks.base import LineMask, central


class RandomMask(LineMask):
    """Each column outside the centre is sampled independently; the expected acceleration is the nominal one."""

    def outer_lines(self, width: int, acceleration: int, n_center: int, generator: RandomState) -> np.ndarray:
        """Draw the columns."""
        return generator.uniform(size=width) < _probability(width, acceleration, n_center)

    def density(self, shape: tuple[int, int]) -> Tensor:
        """Return the probability ``(w,)`` of each column of k-space of ``shape`` = (h, w); 1 in the centre.

        Raises
        ------
        InputError : if the mask has several pairs: drawing the pair first makes its lines depend on each other.
        """
        self.check_one_pair()
        width = shape[-1]
        n_center = self.n_center(width, self.center_fractions[0], self.accelerations[0])
        density = torch.full((width,), _probability(width, self.accelerations[0], n_center))
        density[central(width, n_center)] = 1
        return density

    def check_one_pair(self) -> None:
        """Raise an :class:`InputError` if the mask has several pairs, for then it has no :meth:`density`."""
        if len(set(zip(self.center_fractions, self.accelerations, strict=True))) > 1:
            raise InputError(
                f"a mix of masks (accelerations={list(self.accelerations)}) has no density, since a mask does not say "
                f"which pair drew it; choose one acceleration, such as mask=random_4x"
            )


def _probability(width: int, acceleration: int, n_center: int) -> float:
    """Return the probability of a column outside the centre."""
    return (width / acceleration - n_center) / max(width - n_center, 1)
