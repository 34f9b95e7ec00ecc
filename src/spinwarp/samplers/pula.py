"""Preconditioned unadjusted Langevin sampling with the exact likelihood."""

import math

import torch
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.progress import report
from spinwarp.samplers.data_step import backprojected_noise, gaussian_draw, solve
from spinwarp.samplers.noise import ChainNoise
from spinwarp.samplers.problem import Problem
from spinwarp.samplers.schedules import LANGEVIN, Schedule
from spinwarp.solvers.batched import Converged

# (noise_std / sigma)^2 below which a step takes three iterations at most. With eight coils, 4x and noise .01 that saved
# a third of the applications of A^H A, and changed the error of the mean by less than 1 %.
FAR = 1e-3


@torch.no_grad()
def pula(
    problem: Problem,
    noise: ChainNoise,
    *,
    schedule: Schedule = LANGEVIN,
    steps_per_level: int = 1,
    gamma: float = 1.0,
    denoise_last: bool = True,
    cg_iterations: int = 10,
    cg_tolerance: float = 0.03,
    tolerance: float = 0.0,
) -> Tensor:
    """Sample the posterior: p_sigma(x) p(y|x) for falling sigma, p_sigma the prior blurred by CN(0, sigma^2).

        x <- x + M (gamma (score + A^H (y - A x) / s^2) + sqrt(2 gamma) e)
        M = (A^H A / s^2 + sigma^-2)^-1,  e = A^H n1 / s + n2 / sigma,  n1, n2 ~ CN(0, 1),  s = noise_std

    The published update, but for three things that take its bias away and cost nothing:

    - e is the mean of the draws of this and of the last step. For a Gaussian the chain then has the right variance at
      any step; with fresh draws alone it has 1 / (1 - gamma / 2) times it, and the denoiser sees more noise than sigma.
    - The step from one level to the next, sigma' = r sigma, also adds (1 - r) M score. Without data that is the step of
      the probability flow. Langevin steps alone leave in x much of the noise that the lower level should not have.
    - The chains start from CN(0, sigma_max^2) p(y|x), not from noise: one solve, no network.

    For a Gaussian prior and 100 network evaluations, at data noise .01, .05 and .2, the std is within 1 % of the exact
    one where the data decide and 1 to 3 % above it where they are silent, and the mean is within 0.2 std. The squared
    error of the mean is 0.1 dB above that of the exact mean, with 50 evaluations 0.2 dB and with 25 0.4 dB. The
    published update at noise .01 has a std 7 and 10 % too large with gamma .5, and 2 and 80 % with gamma .1.

    Modes of the prior that are further apart than they are wide keep the weights they have when sigma has fallen to
    their distance: what the data say about them counts as it does at that level, and more levels mend it slowly. Modes
    about which the data say nothing get their weights right.

    Parameters
    ----------
    schedule : falling noise levels. The last should lie at or below ``noise_std``, or what it leaves must not matter.
    steps_per_level : network evaluations at each level.
    gamma : step, above 0 and below 2. At 1 what the data or the noise level decide forgets its past in one step.
    denoise_last : return D(x, sigma_min): one network evaluation more, without which the sample keeps noise of the
        level sigma_min wherever the data are silent.
    cg_iterations : at most so many applications of A^H A for the one solve of a step, and three where sigma is far
        above noise_std. A solve that ends early leaves to the prior what the data see weakly, and lower levels mend it.
        With eight coils at 4x and data noise .01, 5 instead of 10 made the error of the image 0.9 dB larger.
    cg_tolerance : of the solve, roughly as a part of the std that a step's noise has; for each chain.
    tolerance : a chain ends when its denoised image changes by at most so much of its norm from level to level. It then
        is that image, which lacks the spread of the levels left out. Zero: never.

    Returns
    -------
    Tensor : samples ``(chain, *shape)``.

    Raises
    ------
    InputError : if ``gamma`` is out of range or the denoiser gives NaN.

    References
    ----------
    Blumenthal, Holliber, Tamir and Uecker, "Fast and robust diffusion posterior sampling for MR image reconstruction
    using the preconditioned unadjusted Langevin algorithm", arXiv 2512.05791. Averaged noise: Leimkuhler and Matthews,
    "Rational construction of stochastic numerical methods for molecular sampling", 2013, equation 10. Noise of
    covariance M by the same solve: Papandreou and Yuille, "Gaussian sampling by local perturbations", 2010.
    """
    if not 0 < gamma < 2:
        raise InputError(f"pula is stable for steps gamma between 0 and 2, not {gamma}; 1 is a good value")
    s, spread = problem.noise_std, math.sqrt(gamma / 2)
    levels = [sigma for sigma in schedule for _ in range(steps_per_level)]
    total = len(levels) + denoise_last
    converged = Converged(tolerance)
    final = torch.zeros_like(problem.backprojection)
    x = gaussian_draw(
        problem, noise, final, levels[0], iterations=3 * cg_iterations, tolerance=cg_tolerance * s / levels[0]
    )
    old_data, old_image = backprojected_noise(problem, noise), levels[0] * noise(problem.shape)
    for i, (sigma, lower) in enumerate(zip(levels, [*levels[1:], levels[-1]], strict=True)):
        denoised = problem.denoise(x, sigma)
        report(i + 1, total)
        if (i + 1) % steps_per_level == 0:
            final = converged.hold(denoised, final)
            if converged.all:
                return final
        new_data, new_image = backprojected_noise(problem, noise), lower * noise(problem.shape)
        weight, drop = (s / sigma) ** 2, 1 - lower / sigma
        # half of the drop gives back to the old noise what the flow took of it beside the rest: exact to second order
        e_image, e_data = (1 + drop / 2) * old_image + new_image, old_data + new_data
        # The step that the prior alone would make, and what the data say against it: that lies in the range of A^H, so
        # where the data are silent the step is right from the start, however early the solve ends.
        step = (gamma + drop) * (denoised - x) + spread * e_image
        against = gamma * problem.backprojection - problem.operator.normal(gamma * x + step) + (spread * s) * e_data
        accuracy = cg_tolerance * min(1.0, math.sqrt(weight))  # M is smallest where the right-hand side is largest
        # far above the noise of the data no solve converges, and what is left undone there is done again below
        most = cg_iterations if weight > FAR else min(cg_iterations, 3)
        x = x + step + solve(problem, against, weight, iterations=most, tolerance=accuracy)
        old_data, old_image = new_data, new_image
    if denoise_last:
        x = problem.denoise(x, levels[-1])
        report(total, total)
    return converged.hold(x, final)
