"""Conjugate gradients for Hermitian positive semidefinite systems."""

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

    The error, in the norm of ``normal``, never increases. Gradients flow through the iterations to ``rhs``, ``x0`` and
    the tensors that ``normal`` uses.

    Parameters
    ----------
    normal : Hermitian, positive semidefinite; for example x to A^H A x.
    rhs : ``(batch, *shape)``, real or complex.
    x0 : start; zero if None.
    iterations : largest number of iterations.
    tolerance : an item stops when the norm of its residual is at most ``tolerance`` times that of ``rhs``. It always
        stops when only rounding errors are left.
    trace : called with the number of each iteration and its x.

    References
    ----------
    Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 1952.
    """
    x = torch.zeros_like(rhs) if x0 is None else x0
    residual = rhs if x0 is None else rhs - normal(x0)
    direction = residual
    energy = inner(residual, residual)
    # rounding errors may lie in the null space of normal, where steps would be unbounded
    enough = max(tolerance, 10 * torch.finfo(energy.dtype).eps) ** 2 * inner(rhs, rhs)
    smallest = torch.finfo(energy.dtype).tiny
    active, length, steepest = energy > enough, energy, torch.zeros_like(energy)
    for i in range(iterations):
        active = active & (energy > enough)
        if tolerance > 0 and not active.any():
            break
        image = normal(direction)
        curvature = inner(direction, image)
        with torch.no_grad():  # in the null space the curvature is rounding error, and a step would be unbounded
            steepest = torch.maximum(steepest, curvature / length.clamp_min(smallest))
            active = active & (curvature > 10 * torch.finfo(energy.dtype).eps * steepest * length)
        # an exactly solved item has energy 0 and does not move; clamping avoids 0/0 in its gradient
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
