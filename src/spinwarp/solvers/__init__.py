"""Iterative solvers: plain functions over operators, batched, of any image shape, differentiable.

Every item of a batch has its own step sizes and stopping point, so its result does not depend on the other items. Loops
run for a fixed number of iterations, or end earlier if a ``tolerance`` is given and every item has reached it.
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
    "Trace", "admm", "conjugate_gradient", "fista", "inner", "largest_eigenvalue", "norm", "per_item", "primal_dual",
    "project_ball", "soft_threshold",
]  # fmt: skip
