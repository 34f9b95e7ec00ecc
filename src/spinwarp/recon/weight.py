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

_WORSE = 2  # weights in a row that predict worse, after which no weaker one is tried


def held_out_weight(solve: Solve, problem: Acquisition, weights: Sequence[float]) -> Tensor:
    """Weight ``(batch,)`` with the smallest estimated error of the whole k-space.

    One in five of the sampled lines outside the centre is held out (:func:`spinwarp.masks.hold_out`). How well the
    image from the others predicts them estimates its error wherever nothing was sampled; where something was, the
    residual shows what a strong prior has bent away from the data. The noise of the held-out samples adds to all
    weights alike, so no noise level is needed and coloured noise does no harm. The minimum is refined by a parabola
    through the logarithms.

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
    # the held-out samples stand for all that the training lacks
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
    """Whether the last weights all predict worse than the best before them, for each item."""
    if len(errors) <= _WORSE:
        return torch.zeros(errors.shape[1], dtype=torch.bool, device=errors.device)
    best = errors.argmin(0)
    return best < len(errors) - _WORSE


def _refined(curve: Tensor, log_weights: Tensor) -> Tensor:
    """Where the parabola through the smallest value of a curve and its neighbours is smallest, within half a step.

    Taken to a quarter of a step: finer would follow the noise, and rounding would move it.
    """
    i = _first_minimum(curve)
    if not 0 < i < len(curve) - 1:
        return log_weights[i]
    left, middle, right = curve[i - 1 : i + 2]
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    return log_weights[i] + (4 * shift).round().clamp(-2, 2) / 4 * (log_weights[i + 1] - log_weights[i])


def _first_minimum(curve: Tensor) -> int:
    """Where the curve is smallest up to where the search for this item alone would have ended."""
    for end in range(_WORSE + 1, len(curve) + 1):
        best = int(curve[:end].argmin())
        if best < end - _WORSE:
            return best
    return int(curve.argmin())
