"""Noise schedules: falling noise levels, as plain numbers.

Every level is the standard deviation of complex noise. A level that occurs several times gets several steps.
"""

import math

from spinwarp.errors import InputError

Schedule = tuple[float, ...]


def geometric(sigma_max: float, sigma_min: float, n_levels: int) -> Schedule:
    """Return levels of constant ratio.

    Raises
    ------
    InputError : unless sigma_max > sigma_min > 0 and n_levels is at least 2.

    References
    ----------
    Song and Ermon, "Generative modeling by estimating gradients of the data distribution", 2019.
    """
    check(sigma_max, sigma_min, n_levels)
    ratio = math.log(sigma_min / sigma_max)
    return tuple(sigma_max * math.exp(ratio * i / (n_levels - 1)) for i in range(n_levels))


def karras(sigma_max: float, sigma_min: float, n_levels: int, rho: float = 7.0) -> Schedule:
    """Return levels whose rho-th roots are equally spaced: more of them at low noise.

    Raises
    ------
    InputError : unless sigma_max > sigma_min > 0 and n_levels is at least 2.

    References
    ----------
    Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, equation 5.
    """
    check(sigma_max, sigma_min, n_levels)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return tuple((first + (last - first) * i / (n_levels - 1)) ** rho for i in range(n_levels))


def jalal(last_steps: int = 4) -> Schedule:
    """Return the 3975 published steps: of 2311 geometric levels from 232 to 0.0066, those from number 1156 (1.23) on.

    Each level gets three steps up to number 1800 and ``last_steps`` after it: 4 for brain and abdomen, 3 for the knee
    (3465 steps). The published levels are those of each real component. Here they are used unchanged as levels of
    complex noise.

    References
    ----------
    Jalal et al., "Robust compressed sensing MRI with deep generative priors", 2021, and its released configuration.
    """
    levels = geometric(232.0, 0.0066, 2311)
    return tuple(sigma for i, sigma in enumerate(levels) if i >= 1156 for _ in range(3 if i <= 1800 else last_steps))


def check(sigma_max: float, sigma_min: float, n_levels: int) -> None:
    """Check that these numbers make a schedule.

    Raises
    ------
    InputError : unless sigma_max > sigma_min > 0 and n_levels is at least 2.
    """
    if not (sigma_max > sigma_min > 0 and n_levels >= 2):
        raise InputError(
            f"a noise schedule falls from sigma_max to sigma_min > 0 in at least 2 levels, not from {sigma_max} to "
            f"{sigma_min} in {n_levels}"
        )


LANGEVIN = geometric(10.0, 0.01, 69)
"""For samplers of the posterior at every level: 70 network evaluations with the last denoising."""

DIFFUSION = karras(10.0, 0.01, 50)
"""For samplers that step from level to level along the reverse diffusion."""
