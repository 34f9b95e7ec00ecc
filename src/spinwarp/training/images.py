"""The images that a prior is trained on, in the units in which reconstruction uses it."""

import torch
from torch import Tensor

from spinwarp.acquisition import Example
from spinwarp.coils import combine, low_resolution_maps
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.preparation import prior_scale

#: central lines from which coil maps are computed, as in an accelerated scan
MAP_LINES = 12


def full_images(example: Example) -> Tensor:
    """Return complex images ``(batch, h, w)`` of fully sampled examples, divided by :func:`prior_scale`.

    Coil maps from a full scan would take up all of the phase. In an accelerated scan they come from a few central lines
    and leave some phase to the image. Here, too, they are computed from a few lines.

    Raises
    ------
    InputError : if the examples are undersampled.
    """
    check_whole(example)
    acquisition = example.acquisition
    kspace, maps = acquisition.kspace, acquisition.maps
    if kspace.shape[1] > 1:
        n_lines = min(MAP_LINES, kspace.shape[-1])
        maps = low_resolution_maps(kspace, torch.full((len(kspace),), n_lines, device=kspace.device))
    images = combine(ifftc(kspace), maps)
    return images / prior_scale(acquisition).view(-1, 1, 1)


def check_whole(example: Example) -> None:
    """Check that examples are fully sampled, as the training of a prior needs.

    Raises
    ------
    InputError : if they are undersampled.
    """
    acquisition = example.acquisition
    for i, mask in enumerate(acquisition.mask):
        header = acquisition.headers[i] if acquisition.headers else None
        columns = header.acquired_columns if header is not None else None
        acquired = mask if columns is None else mask[..., columns[0] : columns[1]]
        if not acquired.all():
            raise InputError(
                f"a prior is trained on fully sampled images, and {example.volume[i]} is undersampled; train with "
                f"mask=none on fully sampled scans"
            )


def size_of(images: Tensor) -> tuple[int, int]:
    """Return ``(h, w)`` of images."""
    return images.shape[-2], images.shape[-1]
