"""Sparsity of the image's wavelet coefficients: edges at every scale, smooth regions between them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.operators import LinearOperator, sense, squared_norm_bound, wavelet
from spinwarp.recon.regularised import Regularised
from spinwarp.solvers import fista, per_item, soft_threshold
from spinwarp.solvers.trace import Callback

# Multiples of the inverse powers of the root of x^3 = x + 1 cover a plane most evenly (Roberts' sequence).
_IRRATIONAL = (0.7548776662466927, 0.5698402909980532, 0.4301597090019468)
_PERIOD = 16  # of the shifts, in pixels: that of the finest four levels
_MOMENTUM = 0.9  # with shifts; a larger one amplifies their differences, and PSNR falls after some 70 iterations


def l1_wavelet(
    operator: LinearOperator,
    kspace: Tensor,
    weight: float | Tensor,
    *,
    name: str = "db2",
    levels: int | None = None,
    shifts: bool = True,
    lipschitz: float | Tensor = 1.0,
    x0: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 0.0,
    trace: Callback | None = None,
) -> Tensor:
    """Return ``argmin_x 1/2 |A x - y|^2 + weight |W x|_1``, W an orthogonal wavelet transform.

    Parameters
    ----------
    operator, kspace : A and y ``(batch, coil, h, w)``.
    weight : a number or ``(batch,)``, at least zero.
    name, levels : see :func:`spinwarp.operators.wavelet`.
    shifts : shift the image against the wavelet grid, differently in each iteration. A fixed grid leaves blocks in the
        image, shifts leave none. The result then roughly minimises the penalty averaged over all positions.
    lipschitz, x0, iterations, tolerance, trace : as for :func:`spinwarp.recon.l1_image.l1_image`.

    References
    ----------
    Lustig, Donoho and Pauly, "Sparse MRI", MRM 2007. Coifman and Donoho, "Translation-invariant de-noising", 1995.
    """
    rhs = operator.adjoint(kspace)
    transform = wavelet(tuple(rhs.shape[1:]), name, levels)
    threshold = per_item(weight / lipschitz, rhs)

    def shrink(x: Tensor) -> Tensor:
        return transform.adjoint(soft_threshold(transform(x), threshold))

    return fista(
        lambda x: operator.normal(x) - rhs,
        _shifted(shrink) if shifts else shrink,
        rhs if x0 is None else x0,
        step=1 / lipschitz,
        iterations=iterations,
        tolerance=tolerance,
        momentum=_MOMENTUM if shifts else 1.0,
        trace=trace,
    )


def _shifted(shrink: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply ``shrink`` at a different position in each call, in a fixed order."""
    count = itertools.count()

    def apply(x: Tensor) -> Tensor:
        step = next(count)
        dims = tuple(range(1, x.ndim))
        shift = [int(step * _IRRATIONAL[d % 3] % 1 * _PERIOD) for d in range(len(dims))]
        return torch.roll(shrink(torch.roll(x, shift, dims)), [-s for s in shift], dims)

    return apply


@dataclass(eq=False)
class L1Wavelet(Regularised):
    """``R(x) = |W x|_1``.

    Parameters
    ----------
    weight, maps, whiten, virtual_coils, iterations, tolerance : see :class:`Regularised`.
    wavelet, levels, shifts : see :func:`l1_wavelet`.
    """

    iterations: int = 200
    wavelet: str = "db2"
    levels: int | None = None
    shifts: bool = True

    def solve(self, problem: Acquisition, weight: Tensor) -> Tensor:
        """Solve for the image."""
        return l1_wavelet(
            sense(problem),
            problem.kspace,
            weight,
            name=self.wavelet,
            levels=self.levels,
            shifts=self.shifts,
            lipschitz=squared_norm_bound(problem),
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
