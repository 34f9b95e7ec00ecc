"""The MRI forward model A = M F S: coil maps, Fourier transform, sampling mask."""

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.fourier import circular_filter, fftc, ifftc
from spinwarp.operators.linear import LinearOperator


def sense(acquisition: Acquisition) -> LinearOperator:
    """Build the operator from image ``(batch, h, w)`` to measured k-space ``(batch, coil, h, w)``.

    A line mask is constant along the readout, so the transform along the readout cancels in A^H A and ``normal``
    takes one-dimensional transforms only. Costs microseconds to build and keeps the gradient of learned maps.

    Raises
    ------
    InputError : if several coils come without maps.

    References
    ----------
    Pruessmann et al., "SENSE: sensitivity encoding for fast MRI", MRM 1999.
    """
    maps, mask = coil_maps(acquisition), acquisition.mask
    line_mask = mask.shape[-2] == 1

    def forward(image: Tensor) -> Tensor:
        return fftc(expand(image, maps)) * mask

    def adjoint(kspace: Tensor) -> Tensor:
        return reduce(ifftc(kspace * mask), maps)

    def gram(image: Tensor) -> Tensor:
        return reduce(circular_filter(expand(image, maps), mask, (-1,) if line_mask else (-2, -1)), maps)

    return LinearOperator(forward=forward, adjoint=adjoint, gram=gram)


def coil_maps(acquisition: Acquisition) -> Tensor:
    """Return the maps of an acquisition; ones for a single coil without maps."""
    if acquisition.maps is not None:
        return acquisition.maps
    n_coils = acquisition.kspace.shape[1]
    if n_coils != 1:
        raise InputError(
            f"{n_coils} coils and no coil maps: choose data.maps=low_resolution or give maps with the acquisition"
        )
    return torch.ones_like(acquisition.kspace)


def squared_norm_bound(acquisition: Acquisition) -> Tensor:
    """Bound ``(batch,)`` of |A|^2, at most the largest sum over coils of |S|^2: one, for normalised maps."""
    bound = coil_maps(acquisition).abs().square().sum(1).flatten(1).amax(1)
    return torch.where(bound > 0, bound, 1.0)  # the maps of an empty slice may be zero, and steps divide by it


def expand(image: Tensor, maps: Tensor) -> Tensor:
    """Image ``(batch, h, w)`` to coil images ``(batch, coil, h, w)``."""
    return image[:, None] * maps


def reduce(coil_images: Tensor, maps: Tensor) -> Tensor:
    """Coil images ``(batch, coil, h, w)`` to the image ``(batch, h, w)``: the adjoint of :func:`expand`."""
    return (coil_images * maps.conj()).sum(1)
