"""From the readouts of one slice to its acquisition, as from a file of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spinwarp.acquisition import Acquisition
from spinwarp.data.live.protocol import Readout
from spinwarp.data.raw.lines import Lines
from spinwarp.data.raw.mrd import HEAD, mrd_scan


def read_slices(name: str, xml: str, readouts: Sequence[Readout]) -> list[Acquisition]:
    """Return what readouts of one slice and of the noise make, as batches of one; a slab makes several slices.

    Parameters
    ----------
    name : of the connection, for messages.
    xml : the header of the measurement.
    readouts : of the noise, and those of one slice or slab, calibration included.

    Raises
    ------
    InputError : if they contradict each other, or the trajectory is not supported.
    """
    heads = np.array([readout.head for readout in readouts], HEAD)
    scan = mrd_scan(Path(name), xml, heads, lambda indices: (readouts[i].samples for i in indices))
    lines = Lines(Path(name), scan)
    return [lines.read(index) for index in range(lines.n_slices)]
