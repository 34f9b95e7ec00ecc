"""The linear systems that the samplers solve to use the data."""

import torch
from torch import Tensor

from spinwarp.samplers.noise import ChainNoise
from spinwarp.samplers.problem import Problem
from spinwarp.solvers import conjugate_gradient


def solve(problem: Problem, rhs: Tensor, weight: float, *, iterations: int, tolerance: float = 0.0) -> Tensor:
    """Solve (A^H A + weight) z = rhs by conjugate gradients, starting at zero.

    With weight = noise_std^2 / sigma^2 it applies M / noise_std^2, M = (A^H A / noise_std^2 + sigma^-2)^-1. If the
    iterations end early, z stays near zero in directions that the data hardly measure. Pass a right-hand side for the
    correction to an image, not for the image itself.

    Parameters
    ----------
    rhs : ``(chain, *shape)``.
    weight : positive.
    iterations : at most; each applies A^H A once.
    tolerance : of the residual's norm relative to that of ``rhs``, for each chain.
    """
    normal = problem.operator.normal
    return conjugate_gradient(
        lambda z: torch.add(normal(z), z, alpha=weight), rhs, iterations=iterations, tolerance=tolerance
    )


def towards_data(problem: Problem, image: Tensor, weight: float, *, iterations: int, tolerance: float = 0.0) -> Tensor:
    """Return argmin_x |y - A x|^2 + weight |x - image|^2, starting at ``image``."""
    return image + solve(problem, problem.residual(image), weight, iterations=iterations, tolerance=tolerance)


def gaussian_draw(
    problem: Problem, noise: ChainNoise, center: Tensor, sigma: float, *, iterations: int, tolerance: float = 0.0
) -> Tensor:
    """Draw from CN(x; center, sigma^2) p(y|x), normalised: ``(chain, *shape)``.

    Perturbation and optimisation: draw u from the first factor, add noise of the data's own level to the data, and
    return argmin_x |y + noise - A x|^2 / noise_std^2 + |x - u|^2 / sigma^2. This is exact if the system is solved. If
    the solve stops early, directions that the data hardly measure keep their value in u.

    References
    ----------
    Papandreou and Yuille, "Gaussian sampling by local perturbations", 2010.
    """
    draw = center + sigma * noise(problem.shape)
    rhs = problem.residual(draw) + problem.noise_std * backprojected_noise(problem, noise)
    weight = (problem.noise_std / sigma) ** 2
    return draw + solve(problem, rhs, weight, iterations=iterations, tolerance=tolerance)


def backprojected_noise(problem: Problem, noise: ChainNoise) -> Tensor:
    """Draw A^H n with n ~ CN(0, 1): an image of covariance A^H A."""
    operator = problem.operator
    return operator.noise(noise) if operator.noise else operator.adjoint(noise(tuple(problem.data.shape[1:])))
