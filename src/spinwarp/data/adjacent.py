"""Slices with those beside them, for networks that see several at once (2.5-D)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from spinwarp.acquisition import Acquisition, Example
from spinwarp.errors import InputError
from spinwarp.files import warn_once

_APART = 1.05  # of the distance of the centres to the thickness: more than rounding


def adjacent_indices(index: int, n_slices: int, n_adjacent: int) -> list[int]:
    """Return the indices of ``n_adjacent`` slices about one of a volume; at its edges the last slice is repeated."""
    half = n_adjacent // 2
    return [min(max(i, 0), n_slices - 1) for i in range(index - half, index + half + 1)]


def with_adjacent(slices: Sequence[Example]) -> Example:
    """Return the middle one of an odd number of slices, each a batch of one, with the acquisitions of the others.

    The log says once for each volume if its slices do not touch.

    Raises
    ------
    InputError : if the shapes of their k-space differ.
    """
    middle = len(slices) // 2
    acquisitions = [example.acquisition for example in slices]
    shapes = {tuple(a.kspace.shape) for a in acquisitions}
    if len(shapes) > 1:
        raise InputError(
            f"adjacent slices of {slices[middle].volume[0]} have k-space of different shapes "
            f"({', '.join(map(str, sorted(shapes)))}); set data.n_adjacent=1 and take a network of one slice"
        )
    _say_of_gaps(slices[middle].volume[0], acquisitions)
    others = tuple(acquisitions[:middle] + acquisitions[middle + 1 :])
    return replace(slices[middle], acquisition=replace(acquisitions[middle], adjacent=others))


def _say_of_gaps(volume: str, acquisitions: Sequence[Acquisition]) -> None:
    headers = [a.headers[0] for a in acquisitions if a.headers]
    for one, other in pairwise(headers):
        if one.geometry is None or other.geometry is None or one is other or one.voxel_size is None:
            continue
        distance = float(np.linalg.norm(np.subtract(other.geometry.position, one.geometry.position)))
        thickness = one.voxel_size[2]
        if distance > _APART * thickness:
            warn_once(
                f"the slices of {volume} do not touch: {thickness:g} mm thick, their centres {distance:.3g} mm apart"
            )
