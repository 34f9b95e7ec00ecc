"""Sparsity of the image itself: few bright pixels, as in an angiogram."""

from dataclasses import dataclass

from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.operators import LinearOperator, sense, squared_norm_bound
from spinwarp.recon.regularised import Regularised
from spinwarp.solvers import fista, per_item, soft_threshold
from spinwarp.solvers.trace import Callback


def l1_image(
    operator: LinearOperator,
    kspace: Tensor,
    weight: float | Tensor,
    *,
    lipschitz: float | Tensor = 1.0,
    x0: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 0.0,
    trace: Callback | None = None,
) -> Tensor:
    """Return ``argmin_x 1/2 |A x - y|^2 + weight |x|_1``, the modulus of complex pixels.

    Parameters
    ----------
    operator, kspace : A and y ``(batch, coil, h, w)``.
    weight : a number or ``(batch,)``, at least zero.
    lipschitz : bound of |A|^2; a number or ``(batch,)``.
    x0 : start; A^H y if None.
    iterations, tolerance, trace : as for :func:`spinwarp.solvers.fista`.

    References
    ----------
    Lustig, Donoho and Pauly, "Sparse MRI", MRM 2007.
    """
    rhs = operator.adjoint(kspace)
    threshold = per_item(weight / lipschitz, rhs)
    return fista(
        lambda x: operator.normal(x) - rhs,
        lambda v: soft_threshold(v, threshold),
        rhs if x0 is None else x0,
        step=1 / lipschitz,
        iterations=iterations,
        tolerance=tolerance,
        trace=trace,
    )


@dataclass(eq=False)
class L1Image(Regularised):
    """``R(x) = |x|_1``. FISTA needs more iterations than ADMM."""

    iterations: int = 100

    def solve(self, problem: Acquisition, weight: Tensor) -> Tensor:
        """Solve for the image."""
        return l1_image(
            sense(problem),
            problem.kspace,
            weight,
            lipschitz=squared_norm_bound(problem),
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
