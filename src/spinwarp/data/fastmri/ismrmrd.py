"""The parts of a volume's ISMRMRD header that fastMRI's reader uses."""

import logging
import math
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from spinwarp.errors import InputError

_log = logging.getLogger(__name__)
_NOTHING = "all columns count as acquired, and the size is that of the target or k-space"
LONGEST = 16 * 2**20  # bytes; the headers of scanners have about ten thousand


class Geometry(NamedTuple):
    """What a header says; None for what it does not say.

    Parameters
    ----------
    size : of the reconstruction, (h, w) in pixels.
    columns : first acquired column and the one after the last.
    voxel_size : (h, w, slice) in mm, of the image reconstructed from k-space.
    """

    size: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    voxel_size: tuple[float, float, float] | None = None


def geometry(path: Path, xml: object, shape: tuple[int, int]) -> Geometry:
    """Read reconstruction size, acquired columns and voxel size from a header, independently of each other.

    As in fastMRI's reader, the first acquired column is ``encodedSpace y // 2 - center`` of kspace_encoding_step_1, and
    the last is ``maximum`` columns after it; both are clipped to k-space. As in fastMRI's transforms
    (``UnetDataTransform``, and the VarNet inference script), if reconSpace is wider than k-space the image is cropped
    to a square of k-space's width. If there are several encodings, the first one whose encodedSpace has the shape of
    k-space is used, or else the first.

    A value that cannot be used is None. One log line names the file, every such field, and what is assumed instead.

    Parameters
    ----------
    path : of the volume, for messages.
    xml : the header as stored in the file, bytes or text, in any namespace.
    shape : (h, w) of k-space.

    Raises
    ------
    InputError : if the header is longer than :data:`LONGEST` or declares a document type, which no scanner writes.
    """
    notes: list[str] = []
    root = header_root(path, xml, notes)
    found = Geometry() if root is None else _read(root, shape, notes)
    if notes:
        _log.warning("%s: in its ISMRMRD header, %s", path, "; ".join(notes))
    return found


def header_root(path: Path, xml: object, notes: list[str]) -> ElementTree.Element | None:
    """Parse a header, in any encoding; None if that fails, and why is added to ``notes``.

    Raises
    ------
    InputError : if the header is longer than :data:`LONGEST` or declares a document type, which no scanner writes.
    """
    if not isinstance(xml, bytes | str):
        notes.append(f"there is no text: {_NOTHING}")
        return None
    if len(xml) > LONGEST:
        raise InputError(f"{path}: its ISMRMRD header is longer than {LONGEST} bytes; remove it from the file")
    if isinstance(xml, bytes) and xml[:2] in (b"\xff\xfe", b"\xfe\xff"):  # byte order mark of UTF-16
        xml = xml.decode("utf-16", errors="replace")
    parser = ElementTree.XMLParser(target=_NoDocumentType())
    try:
        parser.feed(xml.strip("\0\ufeff \t\r\n") if isinstance(xml, str) else xml.strip(b"\0 \t\r\n"))
        return parser.close()
    except _DocumentTypeError as error:
        raise InputError(f"{path}: its ISMRMRD header {error}; repair or remove it") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        notes.append(f"the XML cannot be read ({str(error)[:200]}): {_NOTHING}")
        return None


def _read(root: ElementTree.Element, shape: tuple[int, int], notes: list[str]) -> Geometry:
    encodings = root.findall(".//{*}encoding")
    if not encodings:
        notes.append(f"there is no encoding: {_NOTHING}")
        return Geometry()
    fitting = [i for i, encoding in enumerate(encodings) if _matrix(encoding, "encodedSpace") == shape]
    encoding = encodings[fitting[0] if fitting else 0]
    if len(encodings) > 1:
        notes.append(f"there are {len(encodings)} encodings; number {(fitting or [0])[0] + 1} is used")
    size = columns = voxel_size = None
    recon = _matrix(encoding, "reconSpace", notes)
    if recon is None:
        notes.append("the size is that of the target or k-space")
    else:
        square = (shape[1], shape[1]) if recon[1] > shape[1] else recon
        size = min(square[0], shape[0]), min(square[1], shape[1])
        if size != recon:
            notes.append(f"reconSpace is {recon}, larger than k-space {shape}: the size is {size}")
    try:
        columns = _columns(encoding, shape[1], notes)
    except ValueError as error:
        notes.append(f"{error}: all columns count as acquired")
    # an image interpolated for viewing has other voxels than the one reconstructed from k-space
    space = "encodedSpace" if size != recon and fitting else "reconSpace"
    try:
        voxel = [
            number(encoding, f"{where}/fieldOfView_mm/{axis}") / count(encoding, f"{where}/matrixSize/{axis}")
            for where, axis in ((space, "x"), (space, "y"), ("reconSpace", "z"))
        ]
        voxel_size = (voxel[0], voxel[1], voxel[2]) if all(voxel) else None  # zero mm stands for unknown
    except ValueError as error:
        notes.append(f"{error}: the voxel size is unknown")
    return Geometry(size, columns, voxel_size)


def _columns(encoding: ElementTree.Element, width: int, notes: list[str]) -> tuple[int, int]:
    """Return the first acquired column and the one after the last.

    Raises
    ------
    ValueError : if they are unknown; the message says why.
    """
    encoded = count(encoding, "encodedSpace/matrixSize/y")
    if encoded != width:
        raise ValueError(f"encodedSpace has {encoded} columns and k-space {width}")
    limits = "encodingLimits/kspace_encoding_step_1"
    zero = encoded // 2 - whole(encoding, f"{limits}/center")
    first, last = zero, zero + whole(encoding, f"{limits}/maximum") + 1
    inside = max(first, 0), min(last, width)
    if inside[0] >= inside[1]:
        raise ValueError(f"{limits} makes columns {first}..{last} of {width}")
    if inside != (first, last):
        notes.append(f"{limits} makes columns {first}..{last} of {width}: {inside[0]}..{inside[1]} count as acquired")
    return inside


def _matrix(encoding: ElementTree.Element, space: str, notes: list[str] | None = None) -> tuple[int, int] | None:
    try:
        return count(encoding, f"{space}/matrixSize/x"), count(encoding, f"{space}/matrixSize/y")
    except ValueError as error:
        if notes is not None:
            notes.append(str(error))
        return None


def number(encoding: ElementTree.Element, where: str) -> float:
    """Return a number of at least zero below an element; ``where`` joins tags by slashes.

    Raises
    ------
    ValueError : if it is missing or something else.
    """
    text = encoding.findtext("/".join(f"{{*}}{tag}" for tag in where.split("/")))
    if text is None:
        raise ValueError(f"{where} is missing")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 <= value < 2**31):
        raise ValueError(f"{where} is {text.strip()[:40]!r}")
    return value


def whole(encoding: ElementTree.Element, where: str) -> int:
    """Return a whole number; see :func:`number`."""
    if (value := number(encoding, where)) != int(value):
        raise ValueError(f"{where} is {value:g}, which is not whole")
    return int(value)


def count(encoding: ElementTree.Element, where: str) -> int:
    """Return a whole number of at least one; see :func:`number`."""
    if (value := whole(encoding, where)) < 1:
        raise ValueError(f"{where} is {value}")
    return value


class _DocumentTypeError(ValueError):
    """A header declares a document type, whose entities may expand to any length or refer to other files."""


class _NoDocumentType(ElementTree.TreeBuilder):
    """Builds the tree, and refuses a document type."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:  # noqa: ARG002
        raise _DocumentTypeError("declares a document type, which no scanner writes")
