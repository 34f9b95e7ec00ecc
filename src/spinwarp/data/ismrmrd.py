"""The ISMRMRD header of a volume, as far as fastMRI's reader looks at it."""

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from spinwarp.errors import InputError

_XML = {"i": "http://www.ismrm.org/ISMRMRD"}
LONGEST = 16 * 2**20  # bytes; headers of scanners have some ten thousand


class Geometry(NamedTuple):
    """What a header tells; None where it does not.

    Parameters
    ----------
    size : of the reconstruction, (h, w) in pixels.
    columns : first acquired column and the one after the last.
    voxel_size : (h, w, slice) in mm.
    """

    size: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    voxel_size: tuple[float, float, float] | None = None


def geometry(path: Path, xml: object, shape: tuple[int, int]) -> Geometry:
    """Read reconstruction size, acquired columns and voxel size off the header.

    Parameters
    ----------
    path : of the volume, for messages.
    xml : the header as the file has it.
    shape : (h, w) of k-space.

    Raises
    ------
    InputError : if it is no such XML, declares a document type, or its numbers cannot be.
    """
    text = xml.encode() if isinstance(xml, str) else xml
    if not isinstance(text, bytes) or len(text) > LONGEST:
        raise InputError(f"{path}: its ISMRMRD header is no text of at most {LONGEST} bytes; remove it from the file")
    parser = ElementTree.XMLParser(target=_NoDocumentType())
    try:
        parser.feed(text)
        root = parser.close()

        def number(where: str) -> float:
            found = root.findtext("i:encoding/" + "/".join(f"i:{tag}" for tag in where.split("/")), namespaces=_XML)
            value = float(found or "")
            if not (math.isfinite(value) and 0 <= value < 2**31):
                raise ValueError(f"{where} is {value:g}")
            return value

        size = int(number("reconSpace/matrixSize/x")), int(number("reconSpace/matrixSize/y"))
        if min(size) < 1:
            raise ValueError(f"reconSpace/matrixSize is {size[0]}x{size[1]}")
        voxel = tuple(
            number(f"reconSpace/fieldOfView_mm/{axis}") / number(f"reconSpace/matrixSize/{axis}") for axis in "xyz"
        )
        encoded = int(number("encodedSpace/matrixSize/y"))
        center = int(number("encodingLimits/kspace_encoding_step_1/center"))
        maximum = int(number("encodingLimits/kspace_encoding_step_1/maximum"))
    except (ElementTree.ParseError, ValueError, ZeroDivisionError, LookupError) as error:
        raise InputError(
            f"{path}: its ISMRMRD header cannot be read ({str(error)[:200]}); repair or remove it"
        ) from error
    first = encoded // 2 - center
    return Geometry(
        (min(size[0], shape[0]), min(size[1], shape[1])),
        (first, first + maximum + 1) if encoded == shape[1] else None,
        (voxel[0], voxel[1], voxel[2]) if all(voxel) else None,
    )


class _NoDocumentType(ElementTree.TreeBuilder):
    """Builds the tree, but of no document with a type: its entities may unpack to any length or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:  # noqa: ARG002
        raise ValueError("it declares a document type, which no scanner writes")
