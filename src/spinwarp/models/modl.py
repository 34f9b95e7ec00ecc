"""MoDL: a denoiser and exact data consistency in turn, with the same weights every time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.models.complex_network import ComplexNetwork
from spinwarp.operators import sense
from spinwarp.solvers import conjugate_gradient


class MoDL(ComplexNetwork):
    """Model-based deep learning: a denoiser and data consistency in turn, from ``x = A^H y``.

    ``z = x + net(x)``, then ``x = argmin_x |A x - y|^2 + lambda |x - z|^2 = (A^H A + lambda)^-1 (A^H y + lambda z)``.

    Data consistency is a few conjugate gradients from z; gradients flow through them. With given maps they keep no
    coil images for the backward pass, so that nearly all memory is the network's.

    Parameters
    ----------
    regulariser : makes the network, complex ``(batch, 1, h, w)`` to what is to be added; one, shared by all unrolls.
        It must commute with a change of scale.
    n_unrolls : how often denoiser and data consistency take turns.
    cg_iterations : conjugate gradients of each data consistency.
    weight : lambda at the start of training, positive; it is learned, as its logarithm.
    checkpoint : keep no features of the network for the backward pass, compute them again: memory for one unroll
        instead of ``n_unrolls``, a third more time.

    Raises
    ------
    InputError : if there are no unrolls or conjugate gradients, or the weight is not positive.

    References
    ----------
    Aggarwal, Mani and Jacob, "MoDL: model-based deep learning architecture for inverse problems", IEEE TMI 2019.
    """

    def __init__(
        self,
        regulariser: Callable[[], nn.Module],
        n_unrolls: int = 10,
        cg_iterations: int = 10,
        weight: float = 0.05,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if n_unrolls < 1 or cg_iterations < 1:
            raise InputError(f"a MoDL has at least one unroll and one CG step; got {n_unrolls} and {cg_iterations}")
        if not 0 < weight < math.inf:
            raise InputError(f"weight={weight} must be positive: it is learned as its logarithm")
        self.regulariser = regulariser()
        self.n_unrolls = n_unrolls
        self.cg_iterations = cg_iterations
        self.log_weight = nn.Parameter(torch.tensor(math.log(weight)))
        self.checkpoint = checkpoint

    def forward(self, acquisition: Acquisition) -> Tensor:
        """Return the image ``(batch, h, w)`` complex.

        Raises
        ------
        InputError : if several coils come without maps.
        """
        operator = sense(acquisition)
        weight = self.log_weight.exp()
        backprojection = operator.adjoint(acquisition.kspace)

        def system(x: Tensor) -> Tensor:
            return operator.normal(x) + weight * x

        image = backprojection
        for _ in range(self.n_unrolls):
            denoised = image + self._residual(image)
            target = backprojection + weight * denoised
            image = conjugate_gradient(system, target, denoised, iterations=self.cg_iterations)
        return image

    def _residual(self, image: Tensor) -> Tensor:
        """What the network adds to ``(batch, h, w)``."""
        if self.checkpoint and torch.is_grad_enabled():
            residual: Tensor = recomputed(self.regulariser, image[:, None], use_reentrant=False)
        else:
            residual = self.regulariser(image[:, None])
        return residual[:, 0]
