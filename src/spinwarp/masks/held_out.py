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
    held = torch.zeros_like(acquisition.mask)
    for item, mask in zip(held, acquisition.mask, strict=True):
        positions = _outside(mask)[holdout_every // 2 :: holdout_every]
        if not len(positions):
            raise InputError(
                "there are too few sampled lines outside the centre to hold some out; give the weight as a number, "
                "such as recon.weight=0.01, or a fixed number of iterations with recon.stop=fixed"
            )
        item[0] = _chosen(positions, mask)
    return held


def draw_held_out(mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Draw which measured samples to hold out: whole lines of a line mask, points of a plane mask.

    Parameters
    ----------
    mask : ``(1, 1, 1 or h, w)`` bool, True where k-space was measured.
    fraction : of the lines or points outside the centre, rounded to a whole number of them.
    generator : on the CPU.

    Returns
    -------
    held : bool, of the shape of the mask, True where held out; False everywhere if there are too few.
    """
    outside = _outside(mask[0])
    drawn = torch.randperm(len(outside), generator=generator)[: round(fraction * len(outside))]
    return _chosen(outside[drawn.to(outside.device)], mask[0])[None, None]


def _outside(mask: Tensor) -> Tensor:
    """Return the positions ``(n, 2)`` of the lines or points of a mask ``(1, 1 or h, w)`` outside its centre."""
    n_acs, columns = int(acs_columns(mask[None])), mask.shape[-1]
    # of a long calibration block, as in full sampling, only the middle is never held out
    center = min(n_acs, max(8, columns // 10))
    lines = whole_lines(mask[0])
    outside = (mask[0] if lines is None else lines).clone()
    top = max((len(outside) - center + 1) // 2, 0)
    first = (columns - center + 1) // 2
    outside[top : top + center, first : first + center] = False
    return outside.nonzero()


def _chosen(positions: Tensor, mask: Tensor) -> Tensor:
    """Return the samples ``(1 or h, w)`` of a mask at these positions of :func:`_outside`."""
    lines = whole_lines(mask[0])
    chosen = torch.zeros_like(mask[0] if lines is None else lines)
    chosen[positions[:, 0], positions[:, 1]] = True
    return chosen & mask[0]


def whole_lines(mask: Tensor) -> Tensor | None:
    """Return the lines ``(1, w)`` of a mask ``(1 or h, w)`` of whole lines, or None if it samples single points.

    Rows may be missing from a line mask, as with asymmetric echoes.
    """
    lines = mask.any(0, keepdim=True)
    return lines if torch.equal(mask, lines & mask.any(1, keepdim=True)) else None
