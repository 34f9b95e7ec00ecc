"""Combine the images of several coils into one."""

import torch
from torch import Tensor

from spinwarp import channels

_TINY = torch.finfo(torch.float32).tiny
_EXPLAINED = 0.1  # fraction of the magnitude that the maps explain, below which the phase gets no gradient


def root_sum_of_squares(coil_images: Tensor) -> Tensor:
    """Combine ``(batch, coil, h, w)`` to magnitudes ``(batch, h, w)``; the gradient is finite at zero."""
    return channels.root_sum_of_squares(coil_images, dim=1)


def with_phase_of(magnitude: Tensor, reference: Tensor) -> Tensor:
    """Give a real, possibly negative ``magnitude`` the phase of ``reference``, through which no gradient flows."""
    return magnitude * torch.polar(torch.ones_like(magnitude), reference.detach().angle())


def combine(coil_images: Tensor, maps: Tensor | None) -> Tensor:
    """Combine coils to a complex image whose magnitude is the root sum of squares, as in fastMRI's targets.

    The phase comes from the combination with the coil maps, and gradients flow through it, as losses on k-space need.
    Without maps it is that of the strongest coil, without gradients.

    Parameters
    ----------
    coil_images : ``(batch, coil, h, w)`` complex.
    maps : ``(batch, coil, h, w)`` complex, or None.

    Returns
    -------
    image : ``(batch, h, w)`` complex.
    """
    if coil_images.shape[1] == 1 and maps is None:
        return coil_images[:, 0]
    magnitude = root_sum_of_squares(coil_images)
    if maps is not None:
        combined = (coil_images * maps.detach().conj()).sum(1) / magnitude.detach().clamp_min(_TINY)
        # a phase of almost nothing has an endless gradient
        seen = torch.where(combined.detach().abs() > _EXPLAINED, combined, combined.detach())
        return torch.polar(magnitude, seen.angle())
    strongest = coil_images.detach().abs().square().sum((-2, -1)).argmax(1)
    return with_phase_of(magnitude, coil_images[torch.arange(len(coil_images), device=strongest.device), strongest])
