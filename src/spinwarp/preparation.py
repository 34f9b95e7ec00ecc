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
_PRIOR_BLOCK = 8  # every usual mask samples it whole, so that training and reconstruction see one scale

#: central lines that the phase of the image is taken from, where there are as many: those of the 4x masks
PHASE_LINES = 12


def check_preparation(maps: str, virtual_coils: int | None) -> None:
    """Raise an :class:`InputError` unless :func:`prepared` takes these options."""
    if maps not in MAPS:
        raise InputError(f"maps={maps!r} is not one of {', '.join(MAPS)}")
    if virtual_coils is not None and virtual_coils < 1:
        raise InputError(f"virtual_coils={virtual_coils} cannot be; give at least 1, or null to keep all coils")


def prepared(acquisition: Acquisition, maps: str, whiten: bool, virtual_coils: int | None) -> Acquisition:
    """Return the acquisition with coil maps, in the coils that its problem is solved with."""
    acquisition = with_maps(acquisition, maps)
    if whiten:
        acquisition = with_white_noise(acquisition)
    if virtual_coils is not None:
        acquisition = with_virtual_coils(acquisition, virtual_coils)
    return acquisition


def with_maps(acquisition: Acquisition, maps: str) -> Acquisition:
    """Return the acquisition with coil maps; the input is left as it was.

    Maps are known up to one phase per pixel. Estimated ones take that of the maps that came with the acquisition,
    where some did, so that images of all methods can be compared as complex numbers.

    Parameters
    ----------
    maps : ``espirit`` or ``low_resolution`` estimates them from the autocalibration lines, ``given`` takes those of
        the acquisition. A single coil has a map of ones.

    Raises
    ------
    InputError : if there are several coils and neither maps nor autocalibration lines to make them from.
    """
    kspace = acquisition.kspace
    if kspace.shape[1] == 1 and acquisition.maps is None:
        return replace(acquisition, maps=torch.ones_like(kspace))
    if maps == "given":
        if acquisition.maps is None:
            raise InputError("recon.maps=given, but the data comes without coil maps; choose recon.maps=espirit")
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
    """Whiten k-space and maps by the noise in the corners of k-space; the image keeps its units.

    The mean level of the noise stays what it was, and with it the maps' sum of squares near one: weights keep their
    meaning.
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
    """Move the phase of the low-resolution image into the maps, so that the image that is left is nearly positive.

    Parameters
    ----------
    most : largest number of central columns for that image; None: all that are sampled.

    Returns
    -------
    The acquisition with these maps, and the phase ``(batch, h, w)`` as complex numbers of magnitude one, by which the
    image has to be multiplied in the end.

    Raises
    ------
    InputError : if there are fewer than two autocalibration lines, or several coils and no maps.
    """
    n_acs = acs_columns(acquisition.mask).clamp_max(most or acquisition.mask.shape[-1])
    maps = coil_maps(acquisition)
    if int(n_acs.min()) < 2:
        raise InputError(
            f"this method takes the phase of the image from the central lines, of which this mask has "
            f"{int(n_acs.min())} for sure; use a mask with a centre, such as mask=equispaced_4x"
        )
    image = reduce(low_resolution_images(acquisition.kspace, n_acs), maps)
    phase = torch.where(image == 0, 1, torch.sgn(image))
    return replace(acquisition, maps=expand(phase, maps)), phase


def generator_units(acquisition: Acquisition) -> tuple[Acquisition, Tensor]:
    """Put an acquisition into the units of generators: image of about unit brightness and little phase.

    The brightness is :func:`spinwarp.preparation.prior_scale`. The phase is that of the image of the 12 central
    lines, which moves into the coil maps; a generator need not learn what every scan measures anew.

    Returns
    -------
    The acquisition, and by what ``(batch, h, w)`` complex its image has to be multiplied in the end.

    Raises
    ------
    InputError : if there are no autocalibration lines, or several coils and no maps.
    """
    scale = prior_scale(acquisition).view(-1, 1, 1)
    turned, phase = with_image_phase(acquisition, PHASE_LINES)
    return replace(turned, kspace=turned.kspace / scale[:, None]), scale * phase


def prior_scale(acquisition: Acquisition) -> Tensor:
    """Scale ``(batch,)`` by which images are divided before a generative prior sees them.

    The root mean square of the image that the central 8 by 8 samples of k-space make. Nearly all the energy of an
    image lies there: on 73 axial brains its ratio to the root mean square of the whole image varied by 2 %. The
    percentile of a zero-filled image, which others take (Jalal et al., arXiv 2108.01368), depends on the mask.
    """
    h, w = acquisition.kspace.shape[-2:]
    top, left = max((h - _PRIOR_BLOCK + 1) // 2, 0), max((w - _PRIOR_BLOCK + 1) // 2, 0)
    block = acquisition.kspace[..., top : top + _PRIOR_BLOCK, left : left + _PRIOR_BLOCK]
    energy = (block.real.square() + block.imag.square()).sum((1, 2, 3))
    return torch.where(energy > 0, energy / (h * w), 1.0).sqrt()


def data_scale(acquisition: Acquisition) -> Tensor:
    """Scale ``(batch,)`` of the measured data, as BART finds it, so that its weights are ours.

    It is the 90th percentile of the root sum of squares of the low-resolution coil images, or their maximum where
    that stands out of them (more than twice as far above the percentile as the percentile is above the median). The
    images are those of the central block, at most 32 by 32, where it is fully sampled; zero-filled ones otherwise.

    References
    ----------
    BART (mrirecon/bart), ``src/sense/optcom.c``, ``estimate_scaling_norm``.
    """
    items = zip(acquisition.kspace, acquisition.mask, acs_columns(acquisition.mask).tolist(), strict=True)
    return torch.stack([_scale(kspace, mask, n) for kspace, mask, n in items])


def _scale(kspace: Tensor, mask: Tensor, n_acs: int) -> Tensor:
    h, w = kspace.shape[-2:]
    columns = min(n_acs, _BLOCK, w)
    rows = min(int(acs_columns(mask.expand(-1, h, -1).mT[None])), _BLOCK)  # of lines all; of asymmetric echoes fewer
    top, left = (h - rows + 1) // 2, (w - columns + 1) // 2  # where masks put their centre
    block = kspace[:, top : top + rows, left : left + columns] if n_acs > 1 else kspace
    # the energy of an orthonormal transform spreads over as many pixels as there are samples
    gain = (block.shape[-2] * block.shape[-1] / (h * w)) ** 0.5
    magnitude = root_sum_of_squares(ifftc(block)[None]).flatten().sort().values * gain
    n = len(magnitude)
    median, percentile, largest = magnitude[n // 2], magnitude[int(n * 0.9)], magnitude[-1]
    scale = torch.where(largest - percentile < 2 * (percentile - median), percentile, largest)
    return torch.where(scale > 0, scale, 1.0)
