"""Measured samples that a fit does not see, so that it can be judged without a reference."""

import torch
from torch import Tensor

from spinwarp.acquisition import acs_columns


def hold_out(mask: Tensor, share: float = 0.1, n_acs: Tensor | None = None) -> Tensor:
    """Choose which measured samples are held out: the same ones for the same mask.

    Of a line mask whole columns outside the autocalibration lines are taken, evenly spread over their order of distance
    from the centre: k-space decays, and far columns alone would say little of the image. Of a plane mask points are
    taken, drawn by a fixed seed outside the central block as high as the autocalibration columns are many.

    Parameters
    ----------
    mask : ``(batch, 1, 1 or h, w)`` bool, True where k-space was measured.
    share : of the samples outside the centre; at least one is held out where there is more than one.
    n_acs : ``(batch,)`` number of central columns; None: read off the mask.

    Returns
    -------
    held : like ``mask``, True where held out; nowhere True where there is nothing to spare.
    """
    n_center = acs_columns(mask) if n_acs is None else n_acs
    rows, columns = mask.shape[-2:]
    held = torch.zeros(mask.shape, dtype=torch.bool, device=mask.device)
    for i, n in enumerate(n_center.tolist()):
        outside = mask[i, 0].clone()
        top, left = max((rows - n + 1) // 2, 0), max((columns - n + 1) // 2, 0)
        outside[top : top + n, left : left + n] = False
        samples = outside.flatten().nonzero()[:, 0]
        n_held = max(round(share * len(samples)), 1) if share > 0 and len(samples) > 1 else 0
        if rows > 1:
            order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
        else:
            order = (samples - columns // 2).abs().argsort(stable=True)
        # the middle of each of n_held equal runs
        chosen = ((torch.arange(n_held) + 0.5) * len(samples) / max(n_held, 1)).long()
        held[i, 0].view(-1)[samples[order.to(samples.device)[chosen]]] = True
    return held
