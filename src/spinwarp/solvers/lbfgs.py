"""Limited-memory BFGS for smooth objectives that are not convex, each item of a batch on its own."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spinwarp.solvers.batched import inner, norm, per_item

Objective = Callable[[Tensor], Tensor]

_HALVINGS = 12
_DECREASE = 1e-4  # Armijo: share of the predicted decrease that a step must give


def lbfgs(
    objective: Objective, x0: Tensor, *, history: int = 10, first: float = 1.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the iterates of ``min f(x)`` and their values ``(batch,)``, from ``x0`` on, until every item has arrived.

    An item's value never grows: a step is halved until it lowers the value by enough, and where no such step is found,
    as at a minimum to rounding, the item has arrived and stays. Every iterate lies in ``x0`` plus the span of the
    gradients met so far, so that of all minima of a convex quadratic the one nearest to ``x0`` is found.

    Parameters
    ----------
    objective : ``(batch, *shape)`` real to ``(batch,)``, differentiable; an item's value depends on that item alone.
    x0 : ``(batch, *shape)`` real.
    history : pairs of steps and gradient changes that stand for the curvature.
    first : length of the first step, in the units of ``x``.

    References
    ----------
    Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Program. 1989.
    """
    x = x0.detach()
    value, gradient = _value_and_gradient(objective, x)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    scale = first / norm(gradient).clamp_min(torch.finfo(x.dtype).tiny)
    moving = torch.ones_like(scale, dtype=torch.bool)
    yield x, value
    while True:
        direction = -_inverse_hessian(gradient, pairs, scale)
        slope = inner(gradient, direction)
        length = torch.ones_like(slope)
        for _ in range(_HALVINGS):
            new_value, new_gradient = _value_and_gradient(objective, x + length * direction)
            # written so that a value that is not finite is refused
            accepted = per_item(new_value, x) <= per_item(value, x) + _DECREASE * length * slope
            if (accepted | ~moving).all():
                break
            length = torch.where(accepted, length, length / 2)
        moving = accepted = accepted & moving & (slope < 0)
        if not moving.any():
            return
        length = torch.where(accepted, length, 0.0)
        step = length * direction
        change = torch.where(accepted, new_gradient - gradient, 0.0)
        curvature = inner(step, change)
        # pairs without positive curvature say nothing; their weight of zero leaves them out of the product
        useful = curvature > 1e-8 * norm(step) * norm(change)
        pairs.append((step, change, torch.where(useful, 1 / torch.where(useful, curvature, 1.0), 0.0)))
        del pairs[:-history]
        scale = torch.where(useful, curvature / inner(change, change).clamp_min(torch.finfo(x.dtype).tiny), scale)
        x = x + step
        value = torch.where(accepted.flatten(), new_value, value)
        gradient = torch.where(accepted, new_gradient, gradient)
        yield x, value


def _value_and_gradient(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = objective(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def _inverse_hessian(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """The two-loop recursion; ``pairs`` are steps, gradient changes and the inverses of their products."""
    weights = []
    for step, change, weight in reversed(pairs):
        share = weight * inner(step, gradient)
        gradient = gradient - share * change
        weights.append(share)
    result = scale * gradient
    for (step, change, weight), share in zip(pairs, reversed(weights), strict=True):
        result = result + (share - weight * inner(change, result)) * step
    return result
