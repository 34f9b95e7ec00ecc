"""Measured samples that a method does not see, so that it can be judged without a reference."""

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.errors import InputError


def hold_out(acquisition: Acquisition, one_in: int = 5) -> Tensor:
    """Choose which measured samples are held out: whole lines of a line mask, points of a plane mask.

    Of the samples outside the centre, in the order in which they lie, every ``one_in``-th, so that near and far ones on
    both sides are among them. The choice depends on the mask alone, and on that of each item by itself.

    Parameters
    ----------
    acquisition : its mask alone is looked at.
    one_in : one sample of so many; at least two.

    Returns
    -------
    held : bool, shaped as the sampling mask, True where held out.

    Raises
    ------
    InputError : if there are too few samples outside the centre.
    """
    n_acs = acs_columns(acquisition.mask)
    held = torch.zeros_like(acquisition.mask)
    columns = acquisition.mask.shape[-1]
    for item, mask, n in zip(held, acquisition.mask, n_acs.tolist(), strict=True):
        # of a long calibration block, as where everything is sampled, only the middle is always kept
        center = min(n, max(8, columns // 10))
        lines = mask[0].any(0, keepdim=True)
        whole = torch.equal(
            mask[0], lines & mask[0].any(1, keepdim=True)
        )  # rows may be missing, as of asymmetric echoes
        outside = (lines if whole else mask[0]).clone()
        top = max((len(outside) - center + 1) // 2, 0)
        first = (columns - center + 1) // 2
        outside[top : top + center, first : first + center] = False
        positions = outside.nonzero()[one_in // 2 :: one_in]
        if not len(positions):
            raise InputError(
                "choosing by prediction holds out sampled lines, and outside the centre there are too few; give the "
                "weight as a number, recon.weight=0.01, or the number of iterations, recon.stop=fixed"
            )
        chosen = torch.zeros_like(outside)
        chosen[positions[:, 0], positions[:, 1]] = True
        item[0] = chosen & mask[0]
    return held
