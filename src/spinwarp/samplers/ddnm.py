"""Denoising diffusion with the null space of the operator."""

import math

import torch
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.progress import report
from spinwarp.samplers.data_step import solve
from spinwarp.samplers.diffusion_step import ddim_fresh, ddim_kept, descend
from spinwarp.samplers.noise import ChainNoise
from spinwarp.samplers.problem import Problem
from spinwarp.samplers.schedules import Schedule, karras

LEVELS = karras(10.0, 0.01, 100)


@torch.no_grad()
def ddnm(
    problem: Problem,
    noise: ChainNoise,
    *,
    schedule: Schedule = LEVELS,
    eta: float = 0.85,
    cg_iterations: int = 10,
    cg_tolerance: float = 1e-3,
) -> Tensor:
    """Denoise, replace what the data measured, and add the noise of the next level.

        x0 = D(x_t) + g A^+ (y - A D(x_t)),  g = min(1, t / noise_std),  t = eta sigma' sqrt(1 - sigma'^2 / sigma^2)
        x_t' = x0 + sqrt(sigma'^2 - t^2) (x_t - D(x_t)) / sigma + t n

    This is DDNM+: the noise of the data counts as part of the new noise, so n is smaller in the range of A^H. If a step
    adds less noise than the data have, the data are given less weight. It is exact for operators whose singular values
    are 0 or 1. Others, multi-coil ones among them, amplify the noise of the data by their inverse.

    Not a posterior sampler: it fits the data including their noise. For a Gaussian prior and two coils the std along
    the measured directions is below 0.01 times the exact one. Elsewhere it is 0.97 to 1.02 times at data noise .01 and
    .05, and 0.85 times at .2.

    Parameters
    ----------
    eta : fraction of the noise that is drawn anew in each step, above 0 and at most 1.
    cg_iterations, cg_tolerance : of the conjugate gradients that apply the pseudo-inverse; stopping early regularises
        it.

    Returns
    -------
    Tensor : samples ``(chain, *shape)``.

    Raises
    ------
    InputError : if ``eta`` is out of range or the denoiser gives NaN.

    References
    ----------
    Wang, Yu and Zhang, "Zero-shot image restoration using denoising diffusion null-space model", ICLR 2023, equations
    13 and 17 to 19, in variance-exploding form. 100 steps and eta 0.85 are theirs.
    """
    if not 0 < eta <= 1:
        raise InputError(f"eta must be above 0 and at most 1; got {eta} (with 0 the data have no effect)")
    x = schedule[0] * noise(problem.shape)
    for i, sigma, lower in descend(schedule):
        denoised = problem.denoise(x, sigma)
        report(i + 1, len(schedule))
        x, fresh = denoised + ddim_kept(sigma, lower, eta) * (x - denoised), ddim_fresh(sigma, lower, eta)
        if fresh > 0:
            gain, draw = min(1.0, fresh / problem.noise_std), fresh * noise(problem.shape)
            # the part of the new noise that the noise of the data already contributes
            less = 1 - math.sqrt(1 - min(1.0, problem.noise_std / fresh) ** 2)
            against = gain * problem.backprojection - problem.operator.normal(gain * denoised + less * draw)
            x = x + draw + solve(problem, against, 0.0, iterations=cg_iterations, tolerance=cg_tolerance)
    return x
