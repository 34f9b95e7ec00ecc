"""One of several masks, drawn anew each time."""

from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.masks.base import Mask


class MixedMask:
    """Draws one of several masks and lets it sample: training on all of them makes a network that knows them all.

    Parameters
    ----------
    masks : the masks.
    weights : relative frequency of each; None: all are equally frequent.

    Raises
    ------
    InputError : if there is no mask, or the weights are not one positive number for each.
    """

    nominal_acceleration = float("nan")  # it is a mix

    def __init__(self, masks: Sequence[Mask], weights: Sequence[float] | None = None) -> None:
        weights = [1.0] * len(masks) if weights is None else weights
        if not masks or len(weights) != len(masks) or not all(w > 0 for w in weights):
            raise InputError(
                f"a mixed mask needs one or more mask.masks and a positive weight for each; got {len(masks)} masks "
                f"and weights={list(weights)}"
            )
        self.masks = tuple(masks)
        self.shares = np.array(weights, float) / sum(weights)

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask for k-space of ``shape`` = (h, w), and its number of central columns."""
        return self.masks[generator.choice(len(self.masks), p=self.shares)](shape, generator)
