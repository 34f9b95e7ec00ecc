"""The norm of an operator by power iteration."""

from collections.abc import Callable

import torch
from torch import Tensor

from spinwarp.solvers.batched import inner, norm


def largest_eigenvalue(normal: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int = 30) -> Tensor:
    """Return the largest eigenvalue ``(batch,)`` of a Hermitian positive semidefinite map by power iteration.

    The estimate is too small, by a few percent after thirty iterations. If its inverse is a step size, leave a margin.
    For ``A.normal`` it is the squared norm of A and the Lipschitz constant of A^H (A x - y).

    Parameters
    ----------
    normal : x to A^H A x.
    start : ``(batch, *shape)``, not orthogonal to the eigenvector; for example A^H y or noise.
    """
    x = start
    value = torch.zeros_like(norm(start))
    for _ in range(iterations):
        x = x / norm(x).clamp_min(torch.finfo(value.dtype).tiny)
        image = normal(x)
        value = inner(x, image)
        x = image
    return value.flatten()
