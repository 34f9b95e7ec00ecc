"""Read MRD files: HDF5 with an XML header and a list of readouts.

Only the headers of the readouts are read at first, and the samples of a slice when it is asked for.
"""

import logging
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from spinwarp.data.fastmri.ismrmrd import LONGEST
from spinwarp.data.raw.lines import Lines
from spinwarp.data.raw.mrd import HEAD, mrd_scan
from spinwarp.errors import InputError
from spinwarp.files import as_input_error

log = logging.getLogger(__name__)
_BLOCK = 256  # readouts read at once
_HEAP, _SIZE = b"GCOL\x01\0\0\0", struct.Struct("<Q")


def open_mrd(path: Path) -> Lines:
    """Open an MRD file.

    Raises
    ------
    InputError : if it is damaged, or its trajectory is not supported.
    """
    _check_heaps(path)
    with as_input_error(path, "MRD file", "convert or copy it again"), h5py.File(path, "r") as file:
        group = _group(path, file)
        text = _xml(path, file, group)
        heads = _heads(path, file[f"{group}/data"])
    return Lines(path, mrd_scan(path, text, heads, lambda indices: _samples(path, group, heads, indices)))


def _group(path: Path, file: h5py.File) -> str:
    """Return the name of the group that holds the measurement, usually ``dataset``."""
    names = [name for name, item in file.items() if isinstance(item, h5py.Group) and is_readouts(item.get("data"))]
    if not names:
        raise InputError(f"{path} has no readouts (a group with the data sets 'xml' and 'data'), as MRD files have")
    if len(names) > 1:
        log.warning("%s holds %d measurements; the last, %s, is read", path.name, len(names), names[-1])
    return names[-1]


def is_readouts(data: object) -> bool:
    """Return whether something in an HDF5 file is a list of readouts with headers."""
    return isinstance(data, h5py.Dataset) and data.dtype.names is not None and {"head", "data"} <= set(data.dtype.names)


def _check_heaps(path: Path) -> None:
    """Refuse a file whose heaps of samples are damaged: HDF5 reads some of them in a loop without end.

    A collection begins with its signature and size; each of its objects has a header of 16 bytes, the last 8 of which
    are its size, and is padded to 8 bytes (HDF5 File Format Specification, III.E).

    Raises
    ------
    InputError : if an object reaches beyond its collection, or a collection beyond the file.
    """
    with (
        as_input_error(path, "MRD file", "convert or copy it again"),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        start = content.find(_HEAP)
        while start >= 0:
            (size,) = _SIZE.unpack_from(content, start + 8)
            at, end = start + 16, start + size
            whole_heap = size >= 16 and end <= len(content)
            while whole_heap and at + 16 <= end:
                (length,) = _SIZE.unpack_from(content, at + 8)
                free = content[at : at + 2] == b"\0\0"  # the last object, whose size counts its header
                at += length if free else 16 + -(-length // 8) * 8
                whole_heap = at == end if free else at <= end
            if not whole_heap:
                raise InputError(f"{path} is damaged at byte {at} or not whole; convert or copy it again")
            start = content.find(_HEAP, end)


def _xml(path: Path, file: h5py.File, group: str) -> object:
    stored = file[group].get("xml")
    if not isinstance(stored, h5py.Dataset) or stored.size != 1 or stored.nbytes > LONGEST:
        raise InputError(f"{path} has no XML header ({group}/xml), as MRD files have; convert it again")
    return np.asarray(stored[()]).reshape(-1)[0]


def _heads(path: Path, data: h5py.Dataset) -> np.ndarray:
    """Read the headers of all readouts, without their samples."""
    stored, names = data.dtype["head"], HEAD.names or ()
    missing = [name for name in names if name not in (stored.names or ())]
    if missing or data.ndim != 1 or not data.size:
        raise InputError(f"{path}: its list of readouts is empty or lacks {', '.join(missing[:3]) or 'readouts'}")
    if data.size * HEAD.itemsize > 64 * max(data.id.get_storage_size(), 1) + 2**20:
        raise InputError(f"{path}: it lists {data.size} readouts, but hardly any bytes are stored; copy it again")
    found = np.zeros(data.size, HEAD)
    at = 0
    for heads in _blocks(data):
        block = found[at : at + len(heads)]
        for name in names:
            block[name] = heads[name]
        at += len(heads)
    return found


def _blocks(data: h5py.Dataset) -> Iterator[np.ndarray]:
    """Read headers block by block: HDF5 also reads the samples when it is asked for headers alone."""
    if data.chunks is None or data.id.get_create_plist().get_nfilters():
        for start in range(0, data.size, _BLOCK):
            yield data.fields("head")[start : start + _BLOCK]
        return
    fields = data.dtype.fields or {}
    layout = {"names": ["head"], "formats": [data.dtype["head"]], "offsets": [fields["head"][1]]}
    stored = np.dtype({**layout, "itemsize": data.id.get_type().get_size()})  # type: ignore[call-overload]
    for start in range(0, data.size, data.chunks[0]):
        _, raw = data.id.read_direct_chunk((start,))
        yield np.frombuffer(raw, stored)["head"][: data.size - start]


def _samples(path: Path, group: str, heads: np.ndarray, indices: np.ndarray) -> Iterator[np.ndarray]:
    with as_input_error(path, "MRD file", "convert or copy it again"), h5py.File(path, "r") as file:
        data = file[f"{group}/data"].fields("data")
        for index in indices.tolist():
            shape = int(heads["active_channels"][index]), int(heads["number_of_samples"][index])
            stored = np.asarray(data[index], np.float32)
            if stored.size != 2 * shape[0] * shape[1]:
                raise InputError(
                    f"{path}: readout {index} has {stored.size // 2} samples, but its header says {shape[0]} coils "
                    f"with {shape[1]} each; copy or convert it again"
                )
            yield stored.view(np.complex64).reshape(shape)
