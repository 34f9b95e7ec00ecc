"""Conjugate gradients for symmetric positive systems."""

from collections.abc import Callable

import torch
from torch import Tensor

from spinwarp.solvers.batched import inner
from spinwarp.solvers.trace import Callback


def conjugate_gradient(
    normal: Callable[[Tensor], Tensor],
    rhs: Tensor,
    x0: Tensor | None = None,
    *,
    iterations: int = 30,
    tolerance: float = 0.0,
    trace: Callback | None = None,
) -> Tensor:
    """Solve ``normal(x) = rhs`` for every item of a batch.

    The error in the norm of ``normal`` never grows from one iteration to the next. Gradients flow to ``rhs``, ``x0``
    and whatever ``normal`` holds, through the iterations.

    Parameters
    ----------
    normal : Hermitian, positive semidefinite; x to A^H A x, say.
    rhs : ``(batch, *shape)``, real or complex.
    x0 : start; zero if None.
    iterations : at most so many.
    tolerance : an item stops when the norm of its residual is at most ``tolerance`` times that of ``rhs``; at rounding
        it stops in any case.
    trace : called with the number of each iteration and its x.

    References
    ----------
    Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 1952.
    """
    x = torch.zeros_like(rhs) if x0 is None else x0
    residual = rhs if x0 is None else rhs - normal(x0)
    direction = residual
    energy = inner(residual, residual)
    # what rounding leaves of the residual may lie where normal is singular: steps along it have no end
    enough = max(tolerance, 10 * torch.finfo(energy.dtype).eps) ** 2 * inner(rhs, rhs)
    smallest = torch.finfo(energy.dtype).tiny
    active, length, steepest = energy > enough, energy, torch.zeros_like(energy)
    for i in range(iterations):
        active = active & (energy > enough)
        if tolerance > 0 and not active.any():
            break
        image = normal(direction)
        curvature = inner(direction, image)
        with torch.no_grad():  # along what normal does not see the curvature is rounding, and a step has no end
            steepest = torch.maximum(steepest, curvature / length.clamp_min(smallest))
            active = active & (curvature > 10 * torch.finfo(energy.dtype).eps * steepest * length)
        # an item that is exactly solved has energy 0 and stays; clamping keeps 0/0 out of its gradient
        step = active * energy / curvature.clamp_min(smallest)
        x = torch.addcmul(x, step, direction)
        residual = torch.addcmul(residual, step, image, value=-1)
        energy, before = inner(residual, residual), energy
        ratio = energy / before.clamp_min(smallest)
        direction = torch.addcmul(residual, ratio, direction)
        length = (energy + ratio.square() * length).detach()  # residual and direction are orthogonal
        if trace is not None:
            trace(i + 1, x)
    return x
