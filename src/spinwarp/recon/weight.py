"""The weight of a prior, chosen from the measured data alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.channels import double
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import hold_out
from spinwarp.operators import sense
from spinwarp.operators.sense import coil_maps
from spinwarp.preparation import with_virtual_coils

Solve = Callable[[Acquisition, Tensor], Tensor]

# the part of the problem on which weights are tried
_ROWS, _SHARE = 64, 4  # at least so many rows, and one in so many
_COILS = 6
_TIE = 0.99  # of the most signal, at which a block nearer to the centre is taken


def held_out_weight(solve: Solve, problem: Acquisition, weights: Sequence[float]) -> Tensor:
    """Return the weight ``(batch,)`` with the smallest estimated error of the whole k-space.

    One in five of the sampled lines outside the centre is held out (:func:`spinwarp.masks.hold_out`). Their prediction
    from the other lines estimates the error of all positions that were not sampled. At the fitted lines, the residual
    shows how far a strong prior has moved the image away from the data. The noise of the held-out samples adds the same
    to all weights, so no noise level is needed and coloured noise does no harm.

    The error is followed downhill from the middle weight to its minimum, and a parabola through the logarithms refines
    that. Every weight takes a solve, so they are tried on a part of the problem (:func:`part_of`).

    Parameters
    ----------
    solve : problem and weight ``(batch,)`` to the image.
    problem : scaled data with maps.
    weights : from strong to weak.

    Raises
    ------
    InputError : if nothing is sampled outside the centre.

    References
    ----------
    Ward, "Compressed sensing with cross validation", IEEE Trans. Inf. Theory 2009, for the held-out part.
    """
    problem = part_of(problem)
    held = hold_out(problem)
    kept = problem.mask & ~held
    training = replace(problem, mask=kept, kspace=problem.kspace * kept)
    operator = sense(replace(problem, mask=torch.ones_like(problem.mask)))
    # the held-out samples stand for all samples that are not fitted
    ratio = (~kept).flatten(1).sum(1) / held.flatten(1).sum(1)
    importance = kept + held * ratio.view(-1, 1, 1, 1)
    curves: list[dict[int, float]] = [{} for _ in held]  # number of the weight to logarithm of the error
    wanted: int | None = len(weights) // 2
    while wanted is not None:
        image = solve(training, torch.full((len(held),), weights[wanted], device=held.device))
        error = (operator(image) - problem.kspace).abs().square()
        for curve, value in zip(curves, double(error * importance).flatten(1).sum(1).log().tolist(), strict=True):
            curve[wanted] = value
        wanted = next((i for curve in curves if (i := _descend(curve, len(weights))[1]) is not None), None)
    logarithms = [math.log(weight) for weight in weights]
    chosen = [math.exp(_refined(curve, _descend(curve, len(weights))[0], logarithms)) for curve in curves]
    return torch.tensor(chosen).to(held.device)


def part_of(problem: Acquisition) -> Acquisition:
    """Return a smaller problem of the same kind: the rows with the most signal, and fewer coils.

    Undersampling by lines does not couple the rows of an image, so a block of rows is a scan of its own, with the same
    mask, noise and scale. Virtual coils keep the units too. Masks of points couple the rows, so all rows stay; without
    a sampled centre all coils stay.

    Parameters
    ----------
    problem : scaled data with maps.
    """
    h = problem.kspace.shape[-2]
    n_rows = max(_ROWS, -(-h // _SHARE // 16) * 16)
    if problem.mask.shape[-2] == 1 and n_rows < h:
        problem = _block_of_rows(problem, n_rows)
    if problem.kspace.shape[1] > _COILS and bool(acs_columns(problem.mask).all()):
        problem = with_virtual_coils(problem, _COILS)
    return problem


def _block_of_rows(problem: Acquisition, n_rows: int) -> Acquisition:
    """Cut, for each item, the rows with the most signal out of k-space and maps; near ties go to the centre."""
    rows, maps = ifftc(problem.kspace, (-2,)), coil_maps(problem)
    h = rows.shape[-2]
    energy = double(rows.abs().square()).sum((1, 3)).cpu()  # (b, h)
    firsts = sorted(range(0, h - n_rows + 1, max(n_rows // 8, 1)), key=lambda first: abs(first + (n_rows - h) / 2))
    seen = torch.stack([energy[:, first : first + n_rows].sum(1) for first in firsts], dim=1)
    chosen = (seen >= _TIE * seen.amax(1, keepdim=True)).int().argmax(1)  # the first of them

    def block(x: Tensor) -> Tensor:
        parts = [one[:, firsts[i] : firsts[i] + n_rows] for one, i in zip(x, chosen.tolist(), strict=True)]
        return torch.stack(parts)

    return replace(problem, kspace=fftc(block(rows), (-2,)) * problem.mask, maps=block(maps))


def _descend(curve: Mapping[int, float], n: int) -> tuple[int, int | None]:
    """Follow a curve of ``n`` points downhill from its middle, weaker weights first.

    Returns
    -------
    The lowest point, and the point whose value is needed to go on; None at a minimum, whose neighbours are known.
    """
    start = n // 2
    for step in (1, -1):
        i = start
        while 0 <= i + step < n:
            if i + step not in curve:
                return i, i + step
            if not curve[i + step] < curve[i]:
                break
            i += step
        if i != start:
            return i, None
    return start, None


def _refined(curve: Mapping[int, float], i: int, log_weights: Sequence[float]) -> float:
    """Return where the parabola through the smallest value and its neighbours is smallest, within half a step.

    The result is rounded to a quarter of a step: anything finer would follow the noise and depend on rounding errors.
    """
    if not 0 < i < len(log_weights) - 1:
        return log_weights[i]
    left, middle, right = (curve[j] for j in (i - 1, i, i + 1))
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return log_weights[i] + min(max(round(4 * shift), -2), 2) / 4 * (log_weights[i + 1] - log_weights[i])
