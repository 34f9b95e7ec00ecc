"""The weight of a prior, chosen from the measured data alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.channels import double
from spinwarp.masks import hold_out
from spinwarp.operators import sense

Solve = Callable[[Acquisition, Tensor], Tensor]

_WORSE = 2  # stop after this many weights in a row that predict worse


def held_out_weight(solve: Solve, problem: Acquisition, weights: Sequence[float]) -> Tensor:
    """Return the weight ``(batch,)`` with the smallest estimated error of the whole k-space.

    One in five of the sampled lines outside the centre is held out (:func:`spinwarp.masks.hold_out`). Their prediction
    from the other lines estimates the error of all positions that were not sampled. At the fitted lines, the residual
    shows how far a strong prior has moved the image away from the data. The noise of the held-out samples adds the same
    to all weights, so no noise level is needed and coloured noise does no harm. A parabola through the logarithms
    refines the minimum.

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
    held = hold_out(problem)
    kept = problem.mask & ~held
    training = replace(problem, mask=kept, kspace=problem.kspace * kept)
    operator = sense(replace(problem, mask=torch.ones_like(problem.mask)))
    # the held-out samples stand for all samples that are not fitted
    ratio = (~kept).flatten(1).sum(1) / held.flatten(1).sum(1)
    importance = kept + held * ratio.view(-1, 1, 1, 1)
    errors: list[Tensor] = []
    for weight in weights:
        image = solve(training, torch.full((len(held),), weight, device=held.device))
        error = (operator(image) - problem.kspace).abs().square()
        errors.append(double(error * importance).flatten(1).sum(1))
        if _past_minimum(torch.stack(errors)).all():
            break
    curves = torch.stack(errors).log()
    log_weights = torch.tensor(weights, dtype=curves.dtype, device=curves.device).log()
    return torch.stack([_refined(curve, log_weights) for curve in curves.T]).exp().float().to(held.device)


def _past_minimum(errors: Tensor) -> Tensor:
    """Tell for each item whether the last weights all predict worse than the best one before them."""
    if len(errors) <= _WORSE:
        return torch.zeros(errors.shape[1], dtype=torch.bool, device=errors.device)
    best = errors.argmin(0)
    return best < len(errors) - _WORSE


def _refined(curve: Tensor, log_weights: Tensor) -> Tensor:
    """Return where the parabola through the smallest value and its neighbours is smallest, within half a step.

    The result is rounded to a quarter of a step: anything finer would follow the noise and depend on rounding errors.
    """
    i = _first_minimum(curve)
    if not 0 < i < len(curve) - 1:
        return log_weights[i]
    left, middle, right = curve[i - 1 : i + 2]
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    return log_weights[i] + (4 * shift).round().clamp(-2, 2) / 4 * (log_weights[i + 1] - log_weights[i])


def _first_minimum(curve: Tensor) -> int:
    """Return the minimum that the search for this item alone would have found."""
    for end in range(_WORSE + 1, len(curve) + 1):
        best = int(curve[:end].argmin())
        if best < end - _WORSE:
            return best
    return int(curve.argmin())
