"""Decomposed diffusion sampling: conjugate gradients at the denoised estimate."""

import torch
from torch import Tensor

from spinwarp.progress import report
from spinwarp.samplers.data_step import towards_data
from spinwarp.samplers.diffusion_step import descend, renoise
from spinwarp.samplers.noise import ChainNoise
from spinwarp.samplers.problem import Problem
from spinwarp.samplers.schedules import DIFFUSION, Schedule


@torch.no_grad()
def dds(
    problem: Problem,
    noise: ChainNoise,
    *,
    schedule: Schedule = DIFFUSION,
    data_weight: float = 5.0,
    cg_iterations: int = 5,
    eta: float = 0.85,
) -> Tensor:
    """Denoise, step towards the data by conjugate gradients, and add the noise of the next level.

        x0 = argmin_x |x - D(x_t)|^2 + data_weight |y - A x|^2, by ``cg_iterations`` steps
        x_t' = x0 + noise by DDIM with eta

    The fast one: 20 to 50 network evaluations, and no gradient through the network.

    Not a posterior sampler: the weight is the same at all levels and does not depend on the noise of the data, which it
    fits too. For a Gaussian prior the std along the measured directions is 0.1 to 0.25 times the exact one at data
    noise .01, and close to zero at .2. Elsewhere it is 0.87 to 1.05 times.

    Parameters
    ----------
    data_weight : gamma of the paper.
    cg_iterations : of each step; a step applies A^H A once more than this.
    eta : fraction of the noise that is drawn anew in each step, 0 to 1.

    Returns
    -------
    Tensor : samples ``(chain, *shape)``.

    Raises
    ------
    InputError : if ``eta`` is out of range or the denoiser gives NaN.

    References
    ----------
    Chung, Lee and Ye, "Decomposed diffusion sampler for accelerating large-scale inverse problems", ICLR 2024,
    arXiv 2303.05754, algorithm 2, in variance-exploding form.
    """
    x = schedule[0] * noise(problem.shape)
    for i, sigma, lower in descend(schedule):
        denoised = problem.denoise(x, sigma)
        report(i + 1, len(schedule))
        image = towards_data(problem, denoised, 1 / data_weight, iterations=cg_iterations)
        x = renoise(image, x, denoised, sigma, lower, noise, eta)
    return x
