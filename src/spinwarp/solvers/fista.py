"""Accelerated proximal gradient descent with restarts."""

from collections.abc import Callable

import torch
from torch import Tensor

from spinwarp.solvers.batched import Converged, inner, per_item
from spinwarp.solvers.trace import Callback


def fista(
    gradient: Callable[[Tensor], Tensor],
    proximal: Callable[[Tensor], Tensor],
    x0: Tensor,
    *,
    step: float | Tensor = 1.0,
    iterations: int = 100,
    tolerance: float = 0.0,
    restart: bool = True,
    momentum: float = 1.0,
    trace: Callback | None = None,
) -> Tensor:
    """Minimise f(x) + g(x), f smooth and g with a simple proximal map, for every item of a batch.

    Parameters
    ----------
    gradient : x to the gradient of f, for example A^H (A x - y).
    proximal : v to argmin_x 1/2 |x - v|^2 + step g(x).
    x0 : start, ``(batch, *shape)``.
    step : at most 1 / the Lipschitz constant of the gradient; a number or ``(batch,)``.
    iterations : largest number of iterations.
    tolerance : an item stops when its change is at most this fraction of its norm.
    restart : drop the momentum when it points uphill (the gradient scheme); without restarts the objective oscillates.
    momentum : upper bound of the momentum, at most one. Choose less than one if ``proximal`` differs from call to call,
        because full momentum amplifies such differences and rounding errors (Schmidt, Le Roux and Bach, NIPS 2011).
    trace : called with the number of each iteration and its x.

    References
    ----------
    Beck and Teboulle, SIAM J. Imaging Sci. 2009. O'Donoghue and Candès, Found. Comput. Math. 2015, equation 13.
    """
    x = ahead = x0
    step = per_item(step, x0)
    age = torch.ones_like(inner(x0.detach(), x0.detach()))
    converged = Converged(tolerance)
    for i in range(iterations):
        new = proximal(ahead - step * gradient(ahead))
        if restart:
            with torch.no_grad():  # the choice of the branch has no gradient
                age = torch.where(inner(ahead - new, new - x) > 0, 1.0, age)
        older, age = age, (1 + torch.sqrt(1 + 4 * age.square())) / 2
        new = converged.hold(new, x)
        ahead = new + ((older - 1) / age).clamp_max(momentum) * (new - x)
        x = new
        if trace is not None:
            trace(i + 1, x)
        if converged.all:
            break
    return x
