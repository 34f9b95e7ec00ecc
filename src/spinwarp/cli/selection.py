"""Which volumes and slices a command takes: ``n_volumes=5``, ``slices=3``, ``slices=[3,4]``, ``slices=10:20``."""

import re
from collections.abc import Sequence

from spinwarp.data.source import Volume
from spinwarp.errors import InputError


def slice_indices(slices: Sequence[int] | int | str | None, n_slices: int) -> list[int]:
    """Return the indices that ``slices`` names in a volume of ``n_slices``, without those beyond its end.

    Parameters
    ----------
    slices : an index, several, or a Python range ``START:STOP``, where either end may be omitted; None: all.
    n_slices : of the volume.

    Raises
    ------
    InputError : if it is none of these, or empty.
    """
    if slices is None:
        return list(range(n_slices))
    if isinstance(slices, int):
        slices = [slices]
    if isinstance(slices, str):
        found = re.fullmatch(r"(\d*):(\d*)", slices)
        if not found:
            raise InputError(f"slices={slices} is not a range; give slices=START:STOP, or indices such as slices=[3,4]")
        start, stop = (int(text) if text else None for text in found.groups())
        if stop is not None and stop <= (start or 0):
            raise InputError(f"slices={slices} contains no slice; STOP, one past the last slice, must be above START")
        return list(range(n_slices))[start:stop]
    if not slices:
        raise InputError("slices=[] names no slice; leave it out for all, or give indices such as slices=[3,4]")
    if min(slices) < 0:
        raise InputError(f"slices={list(slices)} has a negative index; slices are counted from 0")
    return [index for index in slices if index < n_slices]


def select(
    volumes: Sequence[Volume], n_volumes: int | None, slices: Sequence[int] | int | str | None
) -> tuple[dict[str, list[int]], str]:
    """Return the selected slices of each selected volume, and a name for the selection; empty if it is everything.

    Volumes are spread evenly over the sorted split, because the first brains of fastMRI all have one contrast.
    A volume with none of the slices is left out.

    Raises
    ------
    InputError : if nothing is left, or an index is beyond the end of every volume.
    """
    slices = [slices] if isinstance(slices, int) else slices
    if n_volumes is not None and n_volumes < 1:
        raise InputError(f"n_volumes={n_volumes} must be at least 1; leave it out for all volumes")
    n = min(len(volumes), n_volumes or len(volumes))
    spread = [volumes[i * len(volumes) // n] for i in range(n)]
    # in the order of the volume, each once
    chosen = {v.name: sorted(set(slice_indices(slices, v.n_slices))) for v in spread}
    chosen = {name: indices for name, indices in chosen.items() if indices}
    longest = max((v.n_slices for v in spread), default=0)
    if not chosen or (isinstance(slices, Sequence) and not isinstance(slices, str) and max(slices) >= longest):
        raise InputError(f"no volume has slices={slices}; the longest has slices 0 to {longest - 1}")
    parts = []
    if len(chosen) < len(volumes):
        parts.append(f"{len(chosen)} of {len(volumes)} volumes")
    if any(len(chosen[v.name]) < v.n_slices for v in spread if v.name in chosen):
        parts.append(f"slices {slices if isinstance(slices, str) else ','.join(map(str, sorted(set(slices or []))))}")
    return chosen, ", ".join(parts)
