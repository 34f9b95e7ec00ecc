"""Differences of neighbouring pixels: the discrete gradient of total variation."""

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from spinwarp.operators.linear import LinearOperator


def finite_difference(periodic: bool = False) -> LinearOperator:
    """Build the operator from images ``(batch, *shape)`` to their forward differences ``(batch, ndim, *shape)``.

    ``shape`` has any number ``ndim`` of dimensions, so the operator works for slices and volumes. Its squared norm is
    at most ``4 * ndim``, which periodic images of even size reach.

    Parameters
    ----------
    periodic : whether the first pixel follows the last one; otherwise the last difference is zero.

    References
    ----------
    Rudin, Osher and Fatemi, "Nonlinear total variation based noise removal algorithms", Physica D 1992.
    """

    def difference(image: Tensor, dim: int) -> Tensor:
        neighbour = image.narrow(dim, 0 if periodic else image.shape[dim] - 1, 1)
        return torch.diff(image, dim=dim, append=neighbour)

    def negative_divergence(part: Tensor, dim: int) -> Tensor:
        n = part.shape[dim]
        if periodic:
            return -torch.diff(part, dim=dim, prepend=part.narrow(dim, n - 1, 1))
        # the last difference is always zero, so its coefficient does not count
        zero = torch.zeros_like(part.narrow(dim, 0, 1))
        return -torch.diff(part.narrow(dim, 0, n - 1), dim=dim, prepend=zero, append=zero)

    def forward(image: Tensor) -> Tensor:
        return torch.stack([difference(image, dim) for dim in range(1, image.ndim)], dim=1)

    def adjoint(differences: Tensor) -> Tensor:
        return sum_of(negative_divergence(part, dim) for dim, part in enumerate(differences.unbind(1), start=1))

    def gram(image: Tensor) -> Tensor:
        return sum_of(negative_divergence(difference(image, dim), dim) for dim in range(1, image.ndim))

    def sum_of(parts: Iterable[Tensor]) -> Tensor:
        return functools.reduce(torch.add, parts)

    return LinearOperator(forward=forward, adjoint=adjoint, gram=gram)
