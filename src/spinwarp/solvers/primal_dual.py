"""Primal-dual splitting for a smooth term and a norm of a linear transform."""

from collections.abc import Callable

from torch import Tensor

from spinwarp.operators import LinearOperator
from spinwarp.solvers.batched import Converged, per_item
from spinwarp.solvers.trace import Callback


def primal_dual(
    gradient: Callable[[Tensor], Tensor],
    transform: LinearOperator,
    dual_proximal: Callable[[Tensor], Tensor],
    x0: Tensor,
    *,
    transform_norm: float,
    dual_step: float | Tensor,
    lipschitz: float | Tensor = 1.0,
    iterations: int = 100,
    tolerance: float = 0.0,
    trace: Callback | None = None,
) -> Tensor:
    """Minimise f(x) + g(K x), f smooth, for every item of a batch, without solving linear systems.

    With f = 0 (``lipschitz=0``) this is Chambolle and Pock's algorithm (PDHG); Condat and Vu added the gradient step on
    f. The primal step is the largest that converges: ``1 / step = lipschitz / 2 + dual_step |K|^2``.

    Parameters
    ----------
    gradient : x to the gradient of f, for example A^H (A x - y).
    transform : K.
    dual_proximal : proximal map of ``dual_step`` times the conjugate of g; if g is a norm, the projection on the unit
        ball of the dual norm, for any step.
    x0 : start, ``(batch, *shape)``.
    transform_norm : upper bound of the spectral norm |K|.
    dual_step : a number or ``(batch,)``. It decides the speed; try the ratio of the dual's size to the image's.
    lipschitz : Lipschitz constant of the gradient; a number or ``(batch,)``.
    iterations, tolerance, trace : as for :func:`spinwarp.solvers.fista`.

    References
    ----------
    Chambolle and Pock, J. Math. Imaging Vis. 2011. Condat, J. Optim. Theory Appl. 2013, algorithm 3.1.
    """
    x = x0
    primal_step = 1 / (per_item(lipschitz, x0) / 2 + per_item(dual_step, x0) * transform_norm**2)
    image = transform(x0)
    dual_step = per_item(dual_step, image)
    dual = dual_proximal(dual_step * image)  # from zeros, an x0 that fits the data would not move and look converged
    converged = Converged(tolerance)
    for i in range(iterations):
        new = x - primal_step * (gradient(x) + transform.adjoint(dual))
        dual = dual_proximal(dual + dual_step * transform(2 * new - x))
        x = converged.hold(new, x)
        if trace is not None:
            trace(i + 1, x)
        if converged.all:
            break
    return x
