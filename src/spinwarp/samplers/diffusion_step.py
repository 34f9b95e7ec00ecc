"""The step from one noise level to the next that the samplers of the reverse diffusion share."""

import math
from collections.abc import Iterator

from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.samplers.noise import ChainNoise
from spinwarp.samplers.schedules import Schedule


def descend(schedule: Schedule) -> Iterator[tuple[int, float, float]]:
    """Yield the number of a step, its noise level and the next level; the last step goes to zero noise."""
    yield from ((i, *pair) for i, pair in enumerate(zip(schedule, (*schedule[1:], 0.0), strict=True)))


def ddim_fresh(sigma: float, lower: float, eta: float) -> float:
    """Return the std of the new noise of a DDIM step: 0 for eta 0 (the probability flow), the ancestral one for 1.

    Raises
    ------
    InputError : unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta is between 0 and 1; got {eta}")
    return eta * lower * math.sqrt(1 - (lower / sigma) ** 2)


def ddim_kept(sigma: float, lower: float, eta: float) -> float:
    """Return the fraction of the noise x - D(x) that a DDIM step keeps."""
    return math.sqrt(lower**2 - ddim_fresh(sigma, lower, eta) ** 2) / sigma


def renoise(
    image: Tensor, x: Tensor, denoised: Tensor, sigma: float, lower: float, noise: ChainNoise, eta: float
) -> Tensor:
    """Step to ``image`` with noise of the next level: partly the noise that the denoiser found in x, partly new.

        x' = image + sqrt(lower^2 - t^2) (x - denoised) / sigma + t n,   t = eta lower sqrt(1 - lower^2 / sigma^2)

    This is DDIM in its variance-exploding form.

    Parameters
    ----------
    image : estimate of the noise-free image; plain DDIM if it is ``denoised``.

    References
    ----------
    Song, Meng and Ermon, "Denoising diffusion implicit models", 2021, equations 12 and 16.
    """
    moved = image + ddim_kept(sigma, lower, eta) * (x - denoised)
    fresh = ddim_fresh(sigma, lower, eta)
    return moved + fresh * noise(tuple(x.shape[1:])) if fresh > 0 else moved
