"""Iterative solvers: plain functions over operators, batched, of any image shape, differentiable.

Every item of a batch has step sizes and a stopping point of its own, so that a batch equals its items. Loops run for
a fixed number of iterations, and end sooner where a ``tolerance`` is given and every item has met it.
"""

from spinwarp.solvers.admm import admm
from spinwarp.solvers.batched import inner, norm, per_item
from spinwarp.solvers.conjugate_gradient import conjugate_gradient
from spinwarp.solvers.fista import fista
from spinwarp.solvers.power_iteration import largest_eigenvalue
from spinwarp.solvers.primal_dual import primal_dual
from spinwarp.solvers.proximal import project_ball, soft_threshold
from spinwarp.solvers.trace import Trace

__all__ = [
    "Trace",
    "admm",
    "conjugate_gradient",
    "fista",
    "inner",
    "largest_eigenvalue",
    "norm",
    "per_item",
    "primal_dual",
    "project_ball",
    "soft_threshold",
]
