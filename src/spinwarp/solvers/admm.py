"""The alternating direction method of multipliers for a quadratic data term."""

from collections.abc import Callable

import torch
from torch import Tensor

from spinwarp.operators import LinearOperator
from spinwarp.solvers.batched import Converged, per_item
from spinwarp.solvers.conjugate_gradient import conjugate_gradient
from spinwarp.solvers.trace import Callback


def admm(
    normal: Callable[[Tensor], Tensor],
    rhs: Tensor,
    transform: LinearOperator,
    proximal: Callable[[Tensor], Tensor],
    x0: Tensor,
    *,
    penalty: float | Tensor,
    inner_iterations: int = 5,
    iterations: int = 20,
    tolerance: float = 0.0,
    trace: Callback | None = None,
) -> Tensor:
    """Minimise 1/2 |A x - y|^2 + g(K x) for every item of a batch.

    Each iteration solves ``(A^H A + penalty K^H K) x = A^H y + penalty K^H (z - u)`` by a few conjugate gradient steps
    from the last x, then sets ``z = prox_g(K x + u)``. The norm of A is not needed.

    Parameters
    ----------
    normal : x to A^H A x.
    rhs : A^H y, ``(batch, *shape)``.
    transform : K.
    proximal : proximal map of g / penalty.
    x0 : start, ``(batch, *shape)``.
    penalty : a number or ``(batch,)``; for g = weight |.|_1, each iteration zeroes coefficients below the threshold
        ``weight / penalty``.
    inner_iterations : conjugate gradient steps in each iteration.
    iterations, tolerance, trace : as for :func:`spinwarp.solvers.fista`.

    References
    ----------
    Boyd et al., "Distributed optimization and statistical learning via ADMM", 2011, section 3.1.1.
    """
    penalty = per_item(penalty, x0)
    x = x0
    z = proximal(transform(x0))  # with z = K x0, an x0 that fits the data would not move and look converged
    scaled_dual = torch.zeros_like(z)
    converged = Converged(tolerance)

    def system(v: Tensor) -> Tensor:
        return normal(v) + penalty * transform.normal(v)

    for i in range(iterations):
        target = rhs + penalty * transform.adjoint(z - scaled_dual)
        new = conjugate_gradient(system, target, x, iterations=inner_iterations)
        moved = transform(new) + scaled_dual
        z = proximal(moved)
        scaled_dual = moved - z
        x = converged.hold(new, x)
        if trace is not None:
            trace(i + 1, x)
        if converged.all:
            break
    return x
