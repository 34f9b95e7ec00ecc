"""The MRI forward model A = M F S: coil maps, Fourier transform, sampling mask."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.fourier import circular_filter, fft_order, fftc, ifftc
from spinwarp.operators.linear import Draw, LinearOperator


def sense(acquisition: Acquisition) -> LinearOperator:
    """Build the operator from image ``(batch, h, w)`` to measured k-space ``(batch, coil, h, w)``.

    A line mask is constant along the readout, so the transform along the readout cancels in A^H A and ``normal``
    takes one-dimensional transforms only. Costs one copy of the maps to build and keeps the gradient of learned ones.

    Raises
    ------
    InputError : if several coils come without maps.

    References
    ----------
    Pruessmann et al., "SENSE: sensitivity encoding for fast MRI", MRM 1999.
    """
    maps, mask = coil_maps(acquisition), acquisition.mask
    line_mask = mask.shape[-2] == 1
    conjugate = maps.conj().resolve_conj()  # a product with conjugates not written out costs half as much again

    def forward(image: Tensor) -> Tensor:
        return fftc(expand(image, maps)) * mask

    def adjoint(kspace: Tensor) -> Tensor:
        return over_coils(lambda y, part: (ifftc(y * mask) * part).sum(1), kspace, conjugate)

    def gram(image: Tensor) -> Tensor:
        dims = (-1,) if line_mask else (-2, -1)

        def seen(part: Tensor, conj: Tensor) -> Tensor:
            return (circular_filter(expand(image, part), mask, dims) * conj).sum(1)

        return over_coils(seen, maps, conjugate, size=image)

    def noise(draw: Draw) -> Tensor:
        # the transform along the readout keeps white noise white, and what is not measured needs none
        columns = fft_order(mask)[0, 0, 0].nonzero()[:, 0]
        drawn = draw((maps.shape[1], maps.shape[2], len(columns)))

        def image(n: Tensor, part: Tensor) -> Tensor:
            kspace = n.new_zeros(*n.shape[:3], maps.shape[3]).index_copy_(-1, columns, n)
            return (torch.fft.ifft(kspace, norm="ortho") * part).sum(1)

        return over_coils(image, drawn, conjugate)

    return LinearOperator(
        forward=forward, adjoint=adjoint, gram=gram, noise=noise if line_mask and len(mask) == 1 else None
    )


#: complex numbers whose coil images a CPU's cache holds; a fresh block of memory costs more than a transform
CACHE = 2**18


def over_coils(function: Callable[..., Tensor], *coils: Tensor, size: Tensor | None = None) -> Tensor:
    """Sum images made of coils ``(batch, coil, h, w)``: of as many at once as a CPU's cache holds, of all on a GPU."""
    one = (coils[0][:, 0] if size is None else size).numel()
    n = max(1, CACHE // max(one, 1)) if coils[0].device.type == "cpu" else coils[0].shape[1]
    return functools.reduce(torch.add, (function(*part) for part in zip(*(x.split(n, 1) for x in coils), strict=True)))


def coil_maps(acquisition: Acquisition) -> Tensor:
    """Return the maps of an acquisition; ones for a single coil without maps."""
    if acquisition.maps is not None:
        return acquisition.maps
    n_coils = acquisition.kspace.shape[1]
    if n_coils != 1:
        raise InputError(
            f"{n_coils} coils and no coil maps, which this method needs. They are made where the mask samples the "
            f"centre of k-space and data.maps is low_resolution (of reconstruct.py: maps=low_resolution)"
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
