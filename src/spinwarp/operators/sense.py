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
    needs only one-dimensional transforms. Building the operator copies the maps once; gradients reach learned maps.

    Raises
    ------
    InputError : if there are several coils and no maps.

    References
    ----------
    Pruessmann et al., "SENSE: sensitivity encoding for fast MRI", MRM 1999.
    """
    maps, mask, soft = coil_maps(acquisition), acquisition.sampling, acquisition.soft_mask is not None
    line_mask = mask.shape[-2] == 1
    conjugate = maps.conj().resolve_conj()  # a product with a lazy conjugate takes 50 % longer

    def forward(image: Tensor) -> Tensor:
        return fftc(expand(image, maps)) * mask

    def adjoint(kspace: Tensor) -> Tensor:
        # what is measured was multiplied by a soft mask already; twice would hide unsampled lines from its gradient
        measured = kspace + (kspace * mask - kspace).detach() if soft else kspace * mask
        return over_coils(lambda y, part: (ifftc(y) * part).sum(1), measured, conjugate)

    def gram(image: Tensor) -> Tensor:
        dims = (-1,) if line_mask else (-2, -1)

        def seen(part: Tensor, conj: Tensor) -> Tensor:
            return (circular_filter(expand(image, part), mask, dims) * conj).sum(1)

        return over_coils(seen, maps, conjugate, size=image)

    def noise(draw: Draw) -> Tensor:
        # the transform along the readout keeps white noise white; only measured columns need noise
        columns = fft_order(mask)[0, 0, 0].nonzero()[:, 0]
        drawn = draw((maps.shape[1], maps.shape[2], len(columns)))

        def image(n: Tensor, part: Tensor) -> Tensor:
            kspace = n.new_zeros(*n.shape[:3], maps.shape[3]).index_copy_(-1, columns, n)
            return (torch.fft.ifft(kspace, norm="ortho") * part).sum(1)

        return over_coils(image, drawn, conjugate)

    return LinearOperator(
        forward=forward, adjoint=adjoint, gram=gram, noise=noise if line_mask and len(mask) == 1 else None
    )


#: complex numbers that fit into a CPU's cache; allocating more memory costs more than a transform
CACHE = 2**18


def over_coils(function: Callable[..., Tensor], *coils: Tensor, size: Tensor | None = None) -> Tensor:
    """Sum ``function`` over coils ``(batch, coil, h, w)``: on a CPU as many at once as its cache holds."""
    one = (coils[0][:, 0] if size is None else size).numel()
    n = max(1, CACHE // max(one, 1)) if coils[0].device.type == "cpu" else coils[0].shape[1]
    return functools.reduce(torch.add, (function(*part) for part in zip(*(x.split(n, 1) for x in coils), strict=True)))


def coil_maps(acquisition: Acquisition) -> Tensor:
    """Return the coil maps of an acquisition, or ones for a single coil without maps."""
    if acquisition.maps is not None:
        return acquisition.maps
    n_coils = acquisition.kspace.shape[1]
    if n_coils != 1:
        raise InputError(
            f"{n_coils} coils and no coil maps, but this method needs them. Use a mask that samples the centre of "
            f"k-space, and data.maps=low_resolution (in reconstruct.py: maps=low_resolution)"
        )
    return torch.ones_like(acquisition.kspace)


def squared_norm_bound(acquisition: Acquisition) -> Tensor:
    """Upper bound ``(batch,)`` of |A|^2: the largest sum over coils of |S|^2, which is one for normalised maps."""
    bound = coil_maps(acquisition).abs().square().sum(1).flatten(1).amax(1)
    return torch.where(bound > 0, bound, 1.0)  # an empty slice may have maps of zeros, and step sizes divide by this


def expand(image: Tensor, maps: Tensor) -> Tensor:
    """Multiply an image ``(batch, h, w)`` by coil maps to get coil images ``(batch, coil, h, w)``."""
    return image[:, None] * maps


def reduce(coil_images: Tensor, maps: Tensor) -> Tensor:
    """Combine coil images ``(batch, coil, h, w)`` to an image ``(batch, h, w)``: the adjoint of :func:`expand`."""
    return (coil_images * maps.conj()).sum(1)
