"""Collects readouts as they come, and tells which slices are complete."""

import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from spinwarp.data.fastmri.ismrmrd import count, header_root, number, whole
from spinwarp.data.live.protocol import CALIBRATION, CALIBRATION_AND_IMAGE, LAST_IN_SLICE, NOISE, Readout, has
from spinwarp.errors import InputError

log = logging.getLogger("spinwarp")
# the bits of navigators, phase correction, feedback, dummy scans, surface coil correction, phase stabilisation
_NO_IMAGE = sum(2 ** (n - 1) for n in (23, 24, 26, 27, 28, 29, 30, 31))
_NOISE_READOUTS = 64  # are enough
_BESIDE = 2000  # bytes that Python keeps beside a readout
_MOST_LINES = 2**16  # of a slab; with more, the flag counts


class Key(NamedTuple):
    """Which image a readout belongs to."""

    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int


@dataclass
class _Slice:
    """The readouts of an image, how often each line came, and how many came as often as there are averages."""

    readouts: list[Readout] = field(default_factory=list)
    times: Counter[tuple[int, int]] = field(default_factory=Counter)
    n_whole: int = 0


class LiveScan:
    """The readouts of one measurement that are not reconstructed yet.

    A slice is complete when all lines between the encoding limits have come, as often as there are averages. If the
    header names an acceleration, it is complete with the readout that is flagged as its last; else at the end of the
    measurement.

    Parameters
    ----------
    name : of the connection, for messages.
    xml : the header of the measurement.
    limit : bytes that it may hold.

    Raises
    ------
    InputError : if the header cannot be read.
    """

    def __init__(self, name: str, xml: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.noise: list[Readout] = []
        self._slices: dict[Key, _Slice] = {}
        self._calibration: dict[int, list[Readout]] = {}
        self._done: set[Key] = set()
        self._bytes = 0
        notes: list[str] = []
        root = header_root(Path(name), xml, notes)
        encoding = None if root is None else root.find("{*}encoding")
        if encoding is None:
            raise InputError(f"{name}: the header cannot be read ({(notes or ['it has no encoding'])[0][:200]})")
        try:
            self._samples = math.prod(count(encoding, f"encodedSpace/matrixSize/{axis}") for axis in "xyz")
        except ValueError as error:
            raise InputError(f"{name}: in the header, {error}") from error
        mode = encoding.findtext("{*}parallelImaging/{*}calibrationMode") or ""
        self._separate = mode.strip().lower() in ("separate", "external")
        self._expected: set[tuple[int, int]] = set()
        first, second = (_limits(encoding, f"kspace_encoding_step_{step}") for step in (1, 2))
        if encoding.find("{*}encodingLimits/{*}kspace_encoding_step_1") is None or _is_accelerated(encoding):
            log.info("%s: a slice is complete with the readout that is flagged as its last", name)
        elif len(first) * len(second) <= _MOST_LINES:
            self._expected = {(a, b) for a in first for b in second}
        self._averages = len(_limits(encoding, "average"))

    def add(self, readout: Readout) -> Key | None:
        """Take a readout; return the slice that it completes, if it does.

        Raises
        ------
        InputError : if it is empty or not finite, more would be in memory than the limit allows, or the slice was
            complete already.
        """
        idx, is_noise = readout.head["idx"], has(readout, NOISE)
        if int(readout.head["flags"]) & _NO_IMAGE:
            return None
        if not readout.samples.size:
            raise InputError(f"{self.name}: a readout has no samples")
        if not np.isfinite(readout.samples).all():
            raise InputError(f"{self.name}: a readout has NaN or infinite samples")
        key = Key(*(int(idx[name]) for name in Key._fields))
        if not is_noise and key in self._done:
            raise InputError(
                f"{self.name}: a readout of slice {key.slice} came when its image was made already; either the "
                f"encodingLimits of the header are too small, or the flag of the last readout in a slice came too early"
            )
        if is_noise and len(self.noise) == _NOISE_READOUTS:
            return None
        self._bytes += _size(readout)
        if self._bytes > self.limit:
            raise InputError(
                f"{self.name}: the readouts of unfinished slices take more than {self.limit / 1e9:.3g} GB; start the "
                f"server with a larger memory_gb or fewer connections, or measure slice by slice"
            )
        if is_noise:
            self.noise.append(readout)
            return None
        if self._separate and has(readout, CALIBRATION) and not has(readout, CALIBRATION_AND_IMAGE):
            self._calibration.setdefault(key.slice, []).append(readout)
            return None
        if 8 * self._samples * len(readout.samples) > self.limit:
            raise InputError(
                f"{self.name}: k-space of {self._samples} samples and {len(readout.samples)} coils takes more than "
                f"{self.limit / 1e9:.3g} GB; start the server with a larger memory_gb or fewer connections"
            )
        one = self._slices.setdefault(key, _Slice())
        one.readouts.append(readout)
        line = int(idx["kspace_encode_step_1"]), int(idx["kspace_encode_step_2"])
        one.times[line] += 1
        one.n_whole += line in self._expected and one.times[line] == self._averages
        complete = one.n_whole == len(self._expected) if self._expected else has(readout, LAST_IN_SLICE)
        return key if complete else None

    def take(self, key: Key) -> list[Readout]:
        """Remove a slice; return its readouts in the order in which they came, and before them its calibration."""
        readouts = self._slices.pop(key).readouts
        self._bytes -= sum(map(_size, readouts))
        self._done.add(key)
        return self._calibration.get(key.slice, []) + readouts

    def rest(self) -> list[Key]:
        """Return the slices that are not complete, at the end of the measurement."""
        if self._slices and self._expected:
            n = len(self._expected) * self._averages
            for key, one in sorted(self._slices.items()):
                log.warning("%s: slice %d ends with %d of %d lines", self.name, key.slice, len(one.readouts), n)
        return sorted(self._slices)


def _limits(encoding: Element, name: str) -> range:
    """Return what a counter runs through; zero alone if the header does not say."""
    where = f"encodingLimits/{name}"
    try:
        return range(whole(encoding, f"{where}/minimum"), whole(encoding, f"{where}/maximum") + 1)
    except ValueError:
        return range(1)


def _is_accelerated(encoding: Element) -> bool:
    for step in (1, 2):
        try:
            if number(encoding, f"parallelImaging/accelerationFactor/kspace_encoding_step_{step}") > 1:
                return True
        except ValueError:  # not stated
            continue
    return False


def _size(readout: Readout) -> int:
    return readout.head.nbytes + readout.samples.nbytes + _BESIDE
