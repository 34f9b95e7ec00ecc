"""What a prior is trained on: whole images, in the units that reconstruction will give it."""

import torch
from torch import Tensor

from spinwarp.acquisition import Example
from spinwarp.coils import combine, low_resolution_maps
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.preparation import prior_scale

#: central lines that coil maps are made of, as of an accelerated scan
MAP_LINES = 12


def full_images(example: Example) -> Tensor:
    """Complex images ``(batch, h, w)`` of fully sampled examples, divided by :func:`prior_scale`.

    The phase of an image of several coils is relative to their maps, and those of a full scan hold all of it. An
    accelerated scan has maps from a few central lines, which leave some phase to the image: so do those taken here.

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
    """Check that examples are fully sampled; a prior knows nothing of masks.

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
                f"a prior is trained on whole images, and {example.volume[i]} is undersampled; train with "
                f"mask=none on fully sampled scans"
            )


def size_of(images: Tensor) -> tuple[int, int]:
    """``(h, w)`` of images."""
    return images.shape[-2], images.shape[-1]
