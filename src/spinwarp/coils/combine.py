"""From the images of several coils to one."""

import torch
from torch import Tensor

from spinwarp import channels


def root_sum_of_squares(coil_images: Tensor) -> Tensor:
    """Magnitude ``(batch, h, w)`` of ``(batch, coil, h, w)``; its gradient is finite at zero."""
    return channels.root_sum_of_squares(coil_images, dim=1)


def with_phase_of(magnitude: Tensor, reference: Tensor) -> Tensor:
    """Complex image of a real ``magnitude`` (sign kept) and the phase of ``reference``; no gradient to the phase."""
    return magnitude * torch.polar(torch.ones_like(magnitude), reference.detach().angle())


def combine(coil_images: Tensor, maps: Tensor | None) -> Tensor:
    """Complex image whose magnitude is the root sum of squares, as fastMRI's targets are.

    The phase is that of the combination with the coil maps; without maps, that of the coil that is strongest overall.

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
