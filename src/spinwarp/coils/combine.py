"""Combine the images of several coils into one."""

import torch
from torch import Tensor

from spinwarp import channels


def root_sum_of_squares(coil_images: Tensor) -> Tensor:
    """Combine ``(batch, coil, h, w)`` to magnitudes ``(batch, h, w)``; the gradient is finite at zero."""
    return channels.root_sum_of_squares(coil_images, dim=1)


def with_phase_of(magnitude: Tensor, reference: Tensor) -> Tensor:
    """Give a real, possibly negative ``magnitude`` the phase of ``reference``, through which no gradient flows."""
    return magnitude * torch.polar(torch.ones_like(magnitude), reference.detach().angle())


def combine(coil_images: Tensor, maps: Tensor | None) -> Tensor:
    """Combine coils to a complex image whose magnitude is the root sum of squares, as in fastMRI's targets.

    The phase comes from the combination with the coil maps, or without maps from the strongest coil.

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
        return with_phase_of(magnitude, (coil_images.detach() * maps.detach().conj()).sum(1))
    strongest = coil_images.detach().abs().square().sum((-2, -1)).argmax(1)
    return with_phase_of(magnitude, coil_images[torch.arange(len(coil_images), device=strongest.device), strongest])
