"""Measured samples that are held out of a fit, to judge a method without a reference."""

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.errors import InputError


def hold_out(acquisition: Acquisition, holdout_every: int = 5) -> Tensor:
    """Choose which measured samples to hold out: whole lines of a line mask, points of a plane mask.

    Every ``holdout_every``-th sample outside the centre is held out, in order of position. This covers both sides and
    all distances from the centre. Each item's choice depends on its own mask and nothing else.

    Parameters
    ----------
    acquisition : only its mask is used.
    holdout_every : hold out one sample in this many; at least two.

    Returns
    -------
    held : bool, of the shape of the sampling mask, True where held out.

    Raises
    ------
    InputError : if there are too few samples outside the centre.
    """
    n_acs = acs_columns(acquisition.mask)
    held = torch.zeros_like(acquisition.mask)
    columns = acquisition.mask.shape[-1]
    for item, mask, n in zip(held, acquisition.mask, n_acs.tolist(), strict=True):
        # of a long calibration block, as in full sampling, only the middle is never held out
        center = min(n, max(8, columns // 10))
        lines = whole_lines(mask[0])
        outside = (mask[0] if lines is None else lines).clone()
        top = max((len(outside) - center + 1) // 2, 0)
        first = (columns - center + 1) // 2
        outside[top : top + center, first : first + center] = False
        positions = outside.nonzero()[holdout_every // 2 :: holdout_every]
        if not len(positions):
            raise InputError(
                "there are too few sampled lines outside the centre to hold some out; give the weight as a number, "
                "such as recon.weight=0.01, or a fixed number of iterations with recon.stop=fixed"
            )
        chosen = torch.zeros_like(outside)
        chosen[positions[:, 0], positions[:, 1]] = True
        item[0] = chosen & mask[0]
    return held


def whole_lines(mask: Tensor) -> Tensor | None:
    """Return the lines ``(1, w)`` of a mask ``(1 or h, w)`` of whole lines, or None if it samples single points.

    Rows may be missing from a line mask, as with asymmetric echoes.
    """
    lines = mask.any(0, keepdim=True)
    return lines if torch.equal(mask, lines & mask.any(1, keepdim=True)) else None
