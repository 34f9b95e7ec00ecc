"""MoDL: alternates a denoiser and exact data consistency, with the same weights each time."""

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
    """Model-based deep learning: alternates a denoiser and data consistency, starting from ``x = A^H y``.

    ``z = x + net(x)``, then ``x = argmin_x |A x - y|^2 + lambda |x - z|^2 = (A^H A + lambda)^-1 (A^H y + lambda z)``.

    Data consistency takes a few conjugate gradient steps from z; gradients flow through them. With given maps they
    store no coil images for the backward pass, so the network takes nearly all of the memory.

    Parameters
    ----------
    regulariser : makes the network that all unrolls share, from a complex image ``(batch, 1, h, w)`` to the residual to
        add. It must commute with a change of scale.
    n_unrolls : number of alternations of denoiser and data consistency.
    cg_iterations : conjugate gradient steps of each data consistency.
    weight : lambda at the start of training, positive; its logarithm is learned.
    checkpoint : recompute the network's features in the backward pass instead of storing them: memory for one unroll
        instead of ``n_unrolls``, and a third more time.

    Raises
    ------
    InputError : if there are no unrolls or conjugate gradient steps, or the weight is not positive.

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
            raise InputError(f"weight={weight} must be positive, because its logarithm is learned")
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
        """Compute what the network adds to the image ``(batch, h, w)``."""
        if self.checkpoint and torch.is_grad_enabled():
            residual: Tensor = recomputed(self.regulariser, image[:, None], use_reentrant=False)
        else:
            residual = self.regulariser(image[:, None])
        return residual[:, 0]
