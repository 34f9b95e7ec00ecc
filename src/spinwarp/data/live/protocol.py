"""The messages of the MRD streaming protocol, which the online interfaces of scanners speak.

A message begins with its number, two bytes. All numbers are little-endian. Specification:
https://ismrmrd.readthedocs.io/en/latest/mrd_messages.html; the structures are those of ``ismrmrd.h``.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

from spinwarp.data.raw.mrd import HEAD
from spinwarp.errors import InputError
from spinwarp.geometry import Geometry

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT = 1, 2, 3, 4, 5
ACQUISITION, IMAGE, WAVEFORM = 1008, 1022, 1026
LARGEST = 2**26  # bytes of a message; a readout of 128 coils and 4096 samples has 2**22

# numbers of flags of readouts; the bit of flag n has the value 2 ** (n - 1)
LAST_IN_SLICE, NOISE, CALIBRATION, CALIBRATION_AND_IMAGE = 8, 19, 20, 21

_TEXTS = {CONFIG_TEXT: "configuration", HEADER: "header", TEXT: "text"}
_PLACE = [
    *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position"))
]
#: the header of an image, 198 bytes
IMAGE_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("data_type", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", (3,)),
        ("field_of_view", "<f4", (3,)),
        ("channels", "<u2"),
        *_PLACE,
        *((name, "<u2") for name in ("average", "slice", "contrast", "phase", "repetition", "set")),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        *((name, "<u2") for name in ("image_type", "image_index", "image_series_index")),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
        ("attribute_string_len", "<u4"),
    ]
)
_FLOAT, _MAGNITUDE = 5, 1  # data type and image type


@dataclass(frozen=True)
class Readout:
    """One readout.

    Parameters
    ----------
    head : a record of :data:`HEAD`.
    samples : ``(coil, samples)`` complex64.
    """

    head: np.void
    samples: np.ndarray


def has(readout: Readout, flag: int) -> bool:
    """Return whether a readout has the flag of this number."""
    return bool(int(readout.head["flags"]) >> (flag - 1) & 1)


def receive(read: Callable[[int], bytes]) -> tuple[int, str | Readout | None]:
    """Read one message: its number, and its text or readout; None if it has none, or one that nobody needs.

    Parameters
    ----------
    read : returns exactly that many bytes.

    Raises
    ------
    InputError : if it is no message of this protocol, or longer than :data:`LARGEST`.
    """
    (number,) = struct.unpack("<H", read(2))
    if number == CONFIG_FILE:
        return number, read(1024).partition(b"\0")[0].decode(errors="replace")
    if number in _TEXTS:
        (length,) = struct.unpack("<I", read(4))
        return number, _limited(read, length, _TEXTS[number]).rstrip(b"\0").decode(errors="replace")
    if number == CLOSE:
        return number, None
    if number == ACQUISITION:
        head = np.frombuffer(read(HEAD.itemsize), HEAD)[0]
        coils, samples = int(head["active_channels"]), int(head["number_of_samples"])
        _limited(read, 4 * samples * int(head["trajectory_dimensions"]), "trajectory")
        content = _limited(read, 8 * coils * samples, "readout")
        return number, Readout(head, np.frombuffer(content, "<c8").reshape(coils, samples))
    if number == WAVEFORM:
        samples, channels = struct.unpack("<28xHH8x", read(40))
        _limited(read, 4 * samples * channels, "waveform")
        return number, None
    raise InputError(f"message {number} is none that raw data consist of; is the client one of the MRD protocol?")


def _limited(read: Callable[[int], bytes], length: int, what: str) -> bytes:
    if length > LARGEST:
        raise InputError(f"a {what} of {length / 1e6:.0f} MB is longer than any; a message has at most 67 MB")
    return read(length)


def image_message(
    image: np.ndarray,
    source: np.void,
    place: Geometry | None,
    voxel_size: tuple[float, float, float],
    series: int,
    index: int,
    texts: Mapping[str, str],
) -> bytes:
    """Return the message with one magnitude image.

    Parameters
    ----------
    image : ``(h, w)`` float32; x of the protocol is the readout, the rows.
    source : the header of a readout of this image.
    place : of the image; None: the place that the readout states.
    voxel_size : (readout, phase, slice) in mm, or zeros.
    series, index : numbers of the series, and of the image in it, from 1.
    texts : attributes of the image.
    """
    head = np.zeros((), IMAGE_HEAD)
    for name in ("measurement_uid", "acquisition_time_stamp", "physiology_time_stamp", "user_int", "user_float"):
        head[name] = source[name]
    for name, *_ in _PLACE:
        head[name] = source[name]
    if place is not None:
        head["position"], head["slice_dir"] = place.position, place.slice
        head["read_dir"], head["phase_dir"] = place.readout, place.phase
    for name in ("average", "slice", "contrast", "phase", "repetition", "set"):
        head[name] = source["idx"][name]
    attributes = "".join(f"<meta><name>{k}</name><value>{escape(v)}</value></meta>" for k, v in texts.items())
    content = f"<?xml version='1.0'?><ismrmrdMeta>{attributes}</ismrmrdMeta>".encode()
    head["version"], head["data_type"], head["image_type"], head["channels"] = 1, _FLOAT, _MAGNITUDE, 1
    head["matrix_size"] = (*image.shape, 1)
    head["field_of_view"] = np.multiply((*image.shape, 1), voxel_size)
    head["image_series_index"], head["image_index"] = series, index
    head["attribute_string_len"] = len(content)
    pixels = np.ascontiguousarray(image.T, "<f4").tobytes()  # the readout runs fastest
    return struct.pack("<H", IMAGE) + head.tobytes() + struct.pack("<Q", len(content)) + content + pixels


def text_message(text: str) -> bytes:
    """Return the message with a text for the operator."""
    content = text.encode()
    return struct.pack("<HI", TEXT, len(content)) + content


def close_message() -> bytes:
    """Return the message that nothing follows."""
    return struct.pack("<H", CLOSE)
