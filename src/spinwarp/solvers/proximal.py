"""Proximal maps and projections of the sparsity methods."""

import torch
from torch import Tensor

from spinwarp.channels import root_sum_of_squares


def soft_threshold(x: Tensor, threshold: float | Tensor, dim: int | None = None) -> Tensor:
    """Shrink magnitudes by ``threshold`` and keep the phase: the proximal map of ``threshold |x|_1``.

    Parameters
    ----------
    x : real or complex.
    threshold : a number or a tensor that broadcasts to ``x``.
    dim : shrink the Euclidean norm over this dimension instead, as for isotropic total variation.
    """
    return x * (1 - threshold / _at_least(threshold, x, dim))


def project_ball(x: Tensor, radius: float | Tensor, dim: int | None = None) -> Tensor:
    """Limit magnitudes to ``radius`` and keep the phase: the dual of :func:`soft_threshold`.

    Parameters
    ----------
    x, dim : as for :func:`soft_threshold`.
    radius : a number or a tensor that broadcasts to ``x``; zero gives zero.
    """
    return x * (radius / _at_least(radius, x, dim))


def _at_least(smallest: float | Tensor, x: Tensor, dim: int | None) -> Tensor:
    """Return magnitudes, at least ``smallest`` and never zero, which keeps quotients and their gradients finite."""
    magnitude = x.abs() if dim is None else root_sum_of_squares(x, dim, keepdim=True)
    return magnitude.clamp_min(smallest).clamp_min(torch.finfo(magnitude.dtype).tiny)
