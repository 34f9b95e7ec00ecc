"""One of several masks, picked at random for each draw."""

from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.masks.base import Mask


class MixedMask:
    """Picks one of several masks for each draw, to train one network for all of them.

    Parameters
    ----------
    masks : the masks.
    weights : relative frequency of each; None: all are equally likely.

    Raises
    ------
    InputError : if there is no mask, or ``weights`` does not hold one positive number for each mask.
    """

    nominal_acceleration = float("nan")  # the masks may differ

    def __init__(self, masks: Sequence[Mask], weights: Sequence[float] | None = None) -> None:
        weights = [1.0] * len(masks) if weights is None else weights
        if not masks or len(weights) != len(masks) or not all(w > 0 for w in weights):
            raise InputError(
                f"a mixed mask needs one or more mask.masks and a positive weight for each; got {len(masks)} masks "
                f"and weights={list(weights)}"
            )
        self.masks = tuple(masks)
        self.probabilities = np.array(weights, float) / sum(weights)

    def __call__(self, shape: tuple[int, int], generator: RandomState) -> tuple[Tensor, int]:
        """Draw a mask for k-space of ``shape`` = (h, w); return it and its number of central columns."""
        return self.masks[generator.choice(len(self.masks), p=self.probabilities)](shape, generator)
