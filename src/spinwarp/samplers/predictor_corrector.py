"""Predictor-corrector sampling with a data step after each (score-MRI)."""

import math

import torch
from torch import Tensor

from spinwarp.progress import report
from spinwarp.samplers.diffusion_step import descend
from spinwarp.samplers.noise import ChainNoise
from spinwarp.samplers.problem import Problem
from spinwarp.samplers.schedules import Schedule, geometric
from spinwarp.solvers import norm

LEVELS = geometric(10.0, 0.01, 500)


@torch.no_grad()
def predictor_corrector(
    problem: Problem, noise: ChainNoise, *, schedule: Schedule = LEVELS, snr: float = 0.16, data_step: float = 1.0
) -> Tensor:
    """Step along the reverse diffusion, correct by one Langevin step, and move towards the data after each of the two.

        predict: x <- x + (sigma^2 - sigma'^2) score + sqrt(sigma^2 - sigma'^2) n
        correct: x <- x + e score + sqrt(2 e) n,  e = 2 (snr |n| / |score|)^2
        data:    x <- x + data_step A^H (y - A x)

    For a single coil and ``data_step`` 1 the data step replaces the measured lines.

    Not a posterior sampler: the data step ignores the noise of the data. For a Gaussian prior and two coils the std
    along the measured directions is anything from 0 to 4 times the exact one. Elsewhere it is 0.95 to 1.24 times.

    Parameters
    ----------
    schedule : falling noise levels. The paper has 2000 from 378 to 0.01. Do not start above the levels that the prior
        was trained for.
    snr : of the corrector's step.
    data_step : 0 to 1.

    Returns
    -------
    Tensor : samples ``(chain, *shape)``.

    Raises
    ------
    InputError : if the denoiser gives NaN.

    References
    ----------
    Chung and Ye, "Score-based diffusion models for accelerated MRI", 2022, algorithms 2 and 3. Song et al.,
    "Score-based generative modeling through stochastic differential equations", 2021, algorithms 2 and 4.
    """
    total = 2 * len(schedule) - 1
    x = schedule[0] * noise(problem.shape)
    for i, sigma, lower in descend(schedule):
        square = sigma**2 - lower**2
        x = x + square * problem.score(x, sigma)
        report(2 * i + 1, total)
        if lower > 0:
            x = x + math.sqrt(square) * noise(problem.shape)
        x = x + data_step * problem.residual(x)
        if lower > 0:
            score, draw = problem.score(x, lower), noise(problem.shape)
            report(2 * i + 2, total)
            step = 2 * (snr * norm(draw) / norm(score)).square()  # (chain, 1, ...)
            x = x + step * score + (2 * step).sqrt() * draw
            x = x + data_step * problem.residual(x)
    return x
