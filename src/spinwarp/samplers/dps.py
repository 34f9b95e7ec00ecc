"""Diffusion posterior sampling, with the gradient through the network."""

import torch
from torch import Tensor

from spinwarp.progress import report
from spinwarp.samplers.diffusion_step import descend, renoise
from spinwarp.samplers.noise import ChainNoise
from spinwarp.samplers.problem import Problem
from spinwarp.samplers.schedules import Schedule, karras
from spinwarp.solvers import norm

LEVELS = karras(10.0, 0.01, 1000)


def dps(problem: Problem, noise: ChainNoise, *, schedule: Schedule = LEVELS, scale: float = 10.0) -> Tensor:
    """Step along the reverse diffusion, and against the gradient of the residual at the denoised image.

        x_t' = ancestral step from x_t  -  scale * gradient in x_t of |y - A D(x_t)|

    The only sampler here that differentiates the network.

    Not a posterior sampler: the length of the pull does not depend on the noise of the data, which it fits too. For a
    Gaussian prior the std along the measured directions is 0.01 to 2.5 times the exact one, almost the same for all
    noise levels of the data. Elsewhere it is 0.9 to 1 times.

    Parameters
    ----------
    schedule : falling noise levels; the method needs many.
    scale : about how far a step moves the image, in Euclidean norm. 10 suits images of 320x320. The right value grows
        with the square root of the number of pixels, and falls with the number of levels.

    Returns
    -------
    Tensor : samples ``(chain, *shape)``.

    Raises
    ------
    InputError : if the denoiser gives NaN.

    References
    ----------
    Chung et al., "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023, algorithm 1, in
    variance-exploding form. 1000 steps and scale 10 as in InverseBench.
    """
    x = schedule[0] * noise(problem.shape)
    for i, sigma, lower in descend(schedule):
        with torch.enable_grad():
            x.requires_grad_()
            denoised = problem.denoise(x, sigma)
            misfit = norm(problem.data - problem.operator(denoised)).sum()  # a term per chain: gradients stay separate
            (pull,) = torch.autograd.grad(misfit, x)
        report(i + 1, len(schedule))
        x, denoised = x.detach(), denoised.detach()
        x = renoise(denoised, x, denoised, sigma, lower, noise, 1.0)
        if lower > 0:
            x = x - scale * pull
    return x
