"""CG-SENSE: least squares over all coils, with a little Tikhonov damping."""

from dataclasses import dataclass

from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.operators import LinearOperator, sense
from spinwarp.recon.regularised import Regularised
from spinwarp.solvers import conjugate_gradient, per_item
from spinwarp.solvers.trace import Callback


def cg_sense(
    operator: LinearOperator,
    kspace: Tensor,
    weight: float | Tensor,
    *,
    x0: Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 0.0,
    trace: Callback | None = None,
) -> Tensor:
    """Return ``argmin_x 1/2 |A x - y|^2 + weight/2 |x|^2`` by conjugate gradients.

    Parameters
    ----------
    operator, kspace : A and y ``(batch, coil, h, w)``.
    weight : a number or ``(batch,)``. With zero, the noise grows with every iteration once the image is found.
    x0, iterations, tolerance, trace : as for :func:`spinwarp.solvers.conjugate_gradient`.

    References
    ----------
    Pruessmann et al., "Advances in sensitivity encoding with arbitrary k-space trajectories", MRM 2001.
    """
    rhs = operator.adjoint(kspace)
    damping = per_item(weight, rhs)
    return conjugate_gradient(
        lambda x: operator.normal(x) + damping * x, rhs, x0, iterations=iterations, tolerance=tolerance, trace=trace
    )


@dataclass(eq=False)
class CGSense(Regularised):
    """``R(x) = 1/2 |x|^2``.

    Here ``tolerance`` is that of the residual. A loose one stops weak weights early and hides what they do to the
    noise.
    """

    iterations: int = 100
    tolerance: float = 1e-5

    def solve(self, problem: Acquisition, weight: Tensor) -> Tensor:
        """Solve for the image."""
        return cg_sense(sense(problem), problem.kspace, weight, iterations=self.iterations, tolerance=self.tolerance)
