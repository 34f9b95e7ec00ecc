"""From an acquisition to the problem that a method solves: coil maps, white noise, fewer coils, scale."""

from dataclasses import replace

import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.coils import (
    border_covariance,
    compress,
    compression_matrix,
    espirit_maps,
    low_resolution_images,
    low_resolution_maps,
    root_sum_of_squares,
    whiten,
)
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.operators.sense import coil_maps, expand, reduce

MAPS = ("espirit", "low_resolution", "given")
_BLOCK = 32
_PRIOR_BLOCK = 8  # every usual mask samples all of it, so training and reconstruction use the same scale

#: smallest noise level of the data, as a fraction of the image's root mean square: no data are exact
LEAST_NOISE = 1e-3
#: largest number of central lines that give the phase of the image: those of the 4x masks
PHASE_LINES = 12


def check_preparation(maps: str, virtual_coils: int | None) -> None:
    """Raise an :class:`InputError` unless :func:`prepared` takes these options."""
    if maps not in MAPS:
        raise InputError(f"maps={maps!r} is not one of {', '.join(MAPS)}")
    if virtual_coils is not None and virtual_coils < 1:
        raise InputError(f"virtual_coils={virtual_coils} must be at least 1, or null to keep all coils")


def prepared(acquisition: Acquisition, maps: str, whiten: bool, virtual_coils: int | None) -> Acquisition:
    """Return the acquisition with coil maps, whitened and compressed as the options ask."""
    acquisition = with_maps(acquisition, maps)
    if whiten:
        acquisition = with_white_noise(acquisition)
    if virtual_coils is not None:
        acquisition = with_virtual_coils(acquisition, virtual_coils)
    return acquisition


def with_maps(acquisition: Acquisition, maps: str) -> Acquisition:
    """Return the acquisition with coil maps; the input is not modified.

    Maps are determined up to a phase at each pixel. If the acquisition comes with maps, estimated ones take their
    phase, so that images of all methods can be compared as complex numbers.

    Parameters
    ----------
    maps : ``espirit`` or ``low_resolution`` estimates them from the autocalibration lines; ``given`` uses those of the
        acquisition. A single coil has a map of ones.

    Raises
    ------
    InputError : if there are several coils, no maps, and no autocalibration lines to estimate them from.
    """
    kspace = acquisition.kspace
    if kspace.shape[1] == 1 and acquisition.maps is None:
        return replace(acquisition, maps=torch.ones_like(kspace))
    if maps == "given":
        if acquisition.maps is None:
            raise InputError("recon.maps=given, but the data has no coil maps; choose recon.maps=espirit")
        return acquisition
    if maps == "low_resolution":
        estimated = low_resolution_maps(kspace, acs_columns(acquisition.mask))
    else:
        estimated, _ = espirit_maps(kspace, acquisition.mask)
    if acquisition.maps is not None:
        phase = torch.sgn((estimated.conj() * acquisition.maps).sum(1, keepdim=True))
        estimated = estimated * torch.where(phase == 0, 1, phase)
    return replace(acquisition, maps=estimated)


def with_white_noise(acquisition: Acquisition) -> Acquisition:
    """Whiten k-space and maps by the noise of the scan itself; the image keeps its units.

    The mean noise level stays the same, so the sum of squares of the maps stays near one and the weights of priors keep
    their meaning.
    """
    covariance = border_covariance(acquisition.kspace, acquisition.mask)
    level = covariance.diagonal(dim1=-2, dim2=-1).real.mean(-1).sqrt()
    return replace(whiten(acquisition, covariance / level.square().view(-1, 1, 1)), noise_std=level)


def with_virtual_coils(acquisition: Acquisition, n_virtual: int) -> Acquisition:
    """Compress k-space and maps to at most ``n_virtual`` coils by the energy of the calibration block."""
    n = min(n_virtual, acquisition.kspace.shape[1])
    matrix = compression_matrix(acquisition.kspace, acquisition.mask, None, n)
    maps = None if acquisition.maps is None else compress(acquisition.maps, matrix)
    return replace(acquisition, kspace=compress(acquisition.kspace, matrix), maps=maps)


def with_image_phase(acquisition: Acquisition, most: int | None = None) -> tuple[Acquisition, Tensor]:
    """Move the phase of the low-resolution image into the maps; the remaining image is nearly positive.

    Parameters
    ----------
    most : largest number of central columns for the low-resolution image; None: all that are sampled.

    Returns
    -------
    The acquisition with these maps, and the phase ``(batch, h, w)`` as complex numbers of magnitude one. Multiply the
    final image by it.

    Raises
    ------
    InputError : if there are fewer than two autocalibration lines, or several coils and no maps.
    """
    n_acs = acs_columns(acquisition.mask).clamp_max(most or acquisition.mask.shape[-1])
    maps = coil_maps(acquisition)
    if int(n_acs.min()) < 2:
        raise InputError(
            f"this method takes the phase of the image from at least 2 central lines, but the mask samples "
            f"{int(n_acs.min())}; use a mask with a centre, such as mask=equispaced_4x"
        )
    image = reduce(low_resolution_images(acquisition.kspace, n_acs), maps)
    phase = torch.where(image == 0, 1, torch.sgn(image))
    return replace(acquisition, maps=expand(phase, maps)), phase


def generator_units(acquisition: Acquisition) -> tuple[Acquisition, Tensor]:
    """Convert an acquisition to the units of generators: an image of about unit brightness and little phase.

    The brightness is :func:`spinwarp.preparation.prior_scale`. The phase of the image of the 12 central lines moves
    into the coil maps. A generator then need not learn the phase, which differs from scan to scan.

    Returns
    -------
    The acquisition, and the complex factor ``(batch, h, w)`` by which to multiply its final image.

    Raises
    ------
    InputError : if there are no autocalibration lines, or several coils and no maps.
    """
    scale = prior_scale(acquisition).view(-1, 1, 1)
    turned, phase = with_image_phase(acquisition, PHASE_LINES)
    return replace(turned, kspace=turned.kspace / scale[:, None]), scale * phase


def prior_scale(acquisition: Acquisition) -> Tensor:
    """Return the scale ``(batch,)`` by which images are divided before a generative prior sees them.

    It is the root mean square of the image of the central 8 by 8 samples of k-space. They hold nearly all the energy of
    an image: on 73 axial brains the ratio to the root mean square of the whole image varied by 2 %. Others take a
    percentile of the zero-filled image (Jalal et al., arXiv 2108.01368), which depends on the mask.
    """
    h, w = acquisition.kspace.shape[-2:]
    top, left = max((h - _PRIOR_BLOCK + 1) // 2, 0), max((w - _PRIOR_BLOCK + 1) // 2, 0)
    block = acquisition.kspace[..., top : top + _PRIOR_BLOCK, left : left + _PRIOR_BLOCK]
    energy = (block.real.square() + block.imag.square()).sum((1, 2, 3))
    return torch.where(energy > 0, energy / (h * w), 1.0).sqrt()


def data_scale(acquisition: Acquisition) -> Tensor:
    """Return the scale ``(batch,)`` of the measured data as BART computes it, so that the same weights apply.

    It is the 90th percentile of the root sum of squares of the low-resolution coil images. If their maximum is more
    than twice as far above this percentile as the percentile is above the median, it is the maximum. The images come
    from the central block, at most 32 by 32, if it is fully sampled; otherwise they are zero-filled.

    References
    ----------
    BART (mrirecon/bart), ``src/sense/optcom.c``, ``estimate_scaling_norm``.
    """
    items = zip(acquisition.kspace, acquisition.mask, acs_columns(acquisition.mask).tolist(), strict=True)
    return torch.stack([_scale(kspace, mask, n) for kspace, mask, n in items])


def _scale(kspace: Tensor, mask: Tensor, n_acs: int) -> Tensor:
    h, w = kspace.shape[-2:]
    columns = min(n_acs, _BLOCK, w)
    rows = min(int(acs_columns(mask.expand(-1, h, -1).mT[None])), _BLOCK)  # all, but fewer in an asymmetric echo
    top, left = (h - rows + 1) // 2, (w - columns + 1) // 2  # where masks put their centre
    block = kspace[:, top : top + rows, left : left + columns] if n_acs > 1 else kspace
    # the energy of an orthonormal transform spreads over as many pixels as there are samples
    gain = (block.shape[-2] * block.shape[-1] / (h * w)) ** 0.5
    magnitude = root_sum_of_squares(ifftc(block)[None]).flatten().sort().values * gain
    n = len(magnitude)
    median, percentile, largest = magnitude[n // 2], magnitude[int(n * 0.9)], magnitude[-1]
    scale = torch.where(largest - percentile < 2 * (percentile - median), percentile, largest)
    return torch.where(scale > 0, scale, 1.0)
