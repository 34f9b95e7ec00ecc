"""The fully sampled centre of k-space, from which coil maps and virtual coils are computed."""

from itertools import accumulate

import torch
from torch import Tensor


def calibration_blocks(kspace: Tensor, mask: Tensor, n_acs: Tensor | None = None, limit: int = 24) -> list[Tensor]:
    """Cut the calibration block out of each item of a batch.

    Parameters
    ----------
    kspace : ``(batch, coil, h, w)`` complex.
    mask : ``(batch, 1, 1 or h, w)`` bool, True where k-space was measured.
    n_acs : ``(batch,)`` largest number of columns to use; None: all.
    limit : largest number of samples in either direction.

    Returns
    -------
    blocks : a view ``(coil, rows, columns)`` of ``kspace`` for each item, empty if the centre was not sampled.
    """
    sampled = mask[:, 0].expand(-1, kspace.shape[-2], -1).cpu()  # inspected sample by sample, which is slow on a GPU
    counts = [None] * len(kspace) if n_acs is None else n_acs.tolist()
    regions = (calibration_region(m, n, limit) for m, n in zip(sampled, counts, strict=True))
    return [k[:, rows, columns] for k, (rows, columns) in zip(kspace, regions, strict=True)]


def calibration_region(sampled: Tensor, n_acs: int | None = None, limit: int = 24) -> tuple[slice, slice]:
    """Rows and columns of the largest fully sampled block that holds the centre of k-space.

    Parameters
    ----------
    sampled : ``(h, w)`` bool; a line mask is the same in every row.
    n_acs : largest number of columns; None: only ``limit`` applies.
    limit : largest number of samples in either direction.
    """
    center = sampled.shape[0] // 2
    width = limit if n_acs is None else min(limit, n_acs)
    run = _run(sampled[:, sampled.shape[1] // 2], limit)
    # rows whose central sample was measured, from the centre outwards; asymmetric echoes have more on one side
    rows = sorted(range(run.start, run.stop), key=lambda row: (abs(row - center), row))
    columns = [_run(row, width) for row in accumulate(sampled[rows], torch.logical_and)]
    if not columns:
        return run, slice(0, 0)
    n = 1 + max(range(len(rows)), key=lambda i: (i + 1) * (columns[i].stop - columns[i].start))
    return slice(min(rows[:n]), max(rows[:n]) + 1), columns[n - 1]


def principal_coils(block: Tensor, n: int) -> Tensor:
    """Compute weights ``(n, coil)`` of the virtual coils with most of the energy of a block ``(coil, ...)``.

    The rows are orthonormal and sorted by energy. The largest weight of each row is real and positive, which fixes its
    phase.
    """
    data = block.flatten(1)
    weights = torch.linalg.eigh(data @ data.mH)[1].mH.flip(0)[:n]
    largest = weights.gather(1, weights.abs().argmax(1, keepdim=True))
    return weights * torch.polar(torch.ones_like(largest.real), -largest.angle())


def _run(sampled: Tensor, limit: int) -> slice:
    """The run of sampled positions ``(w,)`` about the centre, at most ``limit`` long and as central as possible."""
    center = len(sampled) // 2
    first = center - int(sampled[:center].flip(0).long().cumprod(0).sum())
    last = center + int(sampled[center:].long().cumprod(0).sum())
    if not sampled[center]:
        return slice(center, center)
    n = min(last - first, limit)
    start = min(max(center - n // 2, first), last - n)
    return slice(start, start + n)
