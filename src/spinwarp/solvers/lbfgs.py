"""Limited-memory BFGS for smooth, possibly non-convex objectives, for each item of a batch independently."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spinwarp.solvers.batched import inner, norm, per_item

Objective = Callable[[Tensor], Tensor]

_HALVINGS = 12
_DECREASE = 1e-4  # Armijo: fraction of the predicted decrease that a step must achieve


def lbfgs(
    objective: Objective, x0: Tensor, *, history: int = 10, first: float = 1.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Minimise f(x); yield the iterates and their values ``(batch,)``, starting with ``x0``, until all items converge.

    The value of an item never increases. A step is halved until it lowers the value enough. If no step does, for
    example at a minimum within rounding, the item has converged and stays. Every iterate lies in ``x0`` plus the span
    of the previous gradients; of all minima of a convex quadratic, this finds the one nearest to ``x0``.

    Parameters
    ----------
    objective : ``(batch, *shape)`` real to ``(batch,)``, differentiable; the value of an item depends on it alone.
    x0 : ``(batch, *shape)`` real.
    history : number of pairs of steps and gradient changes that approximate the curvature.
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
            # this comparison also rejects values that are not finite
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
        # pairs without positive curvature are useless; a weight of zero leaves them out
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
    """Apply the inverse Hessian by the two-loop recursion; ``pairs`` hold step, gradient change, 1 / their product."""
    alphas = []
    for step, change, weight in reversed(pairs):
        alpha = weight * inner(step, gradient)
        gradient = gradient - alpha * change
        alphas.append(alpha)
    result = scale * gradient
    for (step, change, weight), alpha in zip(pairs, reversed(alphas), strict=True):
        result = result + (alpha - weight * inner(change, result)) * step
    return result
