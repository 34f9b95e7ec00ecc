"""What the files of a data set hold, read once and remembered until a file changes."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np

from spinwarp.acquisition import Header
from spinwarp.errors import InputError
from spinwarp.files import whole_file

log = logging.getLogger(__name__)
_VERSION = 1  # raise it when scan() reads something else
_TARGETS = ("reconstruction_rss", "reconstruction_esc")
_XML = {"i": "http://www.ismrm.org/ISMRMRD"}


@dataclass(frozen=True)
class Entry:
    """What the index keeps of one file; stale when the file's size or time of change differs."""

    mtime_ns: int
    size: int
    n_slices: int
    shape: tuple[int, int, int, int, int]
    data_range: float
    target: str | None
    fields: dict[str, object]

    @property
    def header(self) -> Header:
        """The header of every slice of the file."""
        # JSON has lists where the header has tuples
        return Header(**{k: tuple(v) if isinstance(v, list) else v for k, v in self.fields.items()})  # type: ignore[arg-type]


def index(paths: list[Path], provenance: str) -> dict[Path, Entry]:
    """Return the entry of each file; only files that are new or changed since the last call are opened.

    The index lies under ``$SPINWARP_CACHE`` or ``~/.cache/spinwarp``.

    Raises
    ------
    InputError : on the first file that is no volume of the fastMRI layout.
    """
    cache = _cache_path(paths, provenance)
    known = _load_index(cache)
    fresh: dict[Path, Entry] = {}
    for path in paths:
        status = path.stat()
        entry = known.get(path)
        if entry is None or (entry.mtime_ns, entry.size) != (status.st_mtime_ns, status.st_size):
            entry = scan(path, provenance)
        fresh[path] = entry
    if fresh != known:
        _save_index(cache, fresh)
    return fresh


@contextmanager
def open_volume(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, with one clear sentence for what cannot be read.

    Raises
    ------
    InputError : if the file is missing, truncated, not HDF5 or has no k-space.
    """
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("kspace"), h5py.Dataset):
                names = ", ".join(file) or "nothing"
                raise InputError(f"{path} has no dataset 'kspace' (it has {names}); the fastMRI layout is expected")
            yield file
    except InputError:
        raise
    # h5py tells of damaged metadata with many kinds of errors
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        if not path.exists():
            raise InputError(f"there is no file {path}") from error
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is truncated or not HDF5 ({reason}); copy or download it again") from error


def scan(path: Path, provenance: str) -> Entry:
    """Read what the index keeps of one file; ``provenance`` is that of files that do not say it themselves."""
    with open_volume(path) as file:
        status = path.stat()
        shape = file["kspace"].shape
        if len(shape) not in (3, 4) or not np.iscomplexobj(np.empty(0, file["kspace"].dtype)) or 0 in shape:
            raise InputError(
                f"{path}: kspace has shape {shape} and type {file['kspace'].dtype}; (slice, [coil,] h, w) complex is "
                f"expected"
            )
        n_slices, n_coils, (h, w) = shape[0], shape[1] if len(shape) == 4 else 1, shape[-2:]
        attributes = dict(file.attrs)
        target = next((name for name in _TARGETS if name in file), None)
        target_shape = file[target].shape[-2:] if target else (h, w)
        if target and (file[target].shape[0] != n_slices or target_shape[0] > h or target_shape[1] > w):
            raise InputError(f"{path}: {target} {file[target].shape} does not fit k-space {shape}")
        data_range = attributes.get("max")
        if data_range is None:
            data_range = max((float(image[()].max()) for image in file[target]), default=0.0) if target else 1.0
        data_range = float(data_range)
        if not (np.isfinite(data_range) and data_range > 0):
            raise InputError(f"{path}: the largest value of its target ('max') is {data_range:g}; remove the file")
        xml = file["ismrmrd_header"][()] if "ismrmrd_header" in file else None
    size, columns, voxel = _ismrmrd(path, xml, (h, w))
    if "padding_left" in attributes and "padding_right" in attributes:
        columns = int(attributes["padding_left"]), int(attributes["padding_right"])
    if columns is not None and not 0 <= columns[0] < columns[1] <= w:
        raise InputError(f"{path}: acquired columns {columns[0]}..{columns[1]} lie outside its {w} columns of k-space")
    header = Header(
        provenance=str(attributes.get("provenance", provenance)),
        source=path.name,
        reconstruction_size=(int(target_shape[0]), int(target_shape[1])) if target else size,
        acquired_columns=columns,
        voxel_size=voxel,
        orientation=str(attributes.get("orientation", "")) or None,
        contrast=str(attributes.get("acquisition", "")) or None,
    )
    th, tw = header.reconstruction_size or (h, w)
    shape5 = (int(n_coils), int(h), int(w), int(th), int(tw))
    return Entry(
        status.st_mtime_ns,
        status.st_size,
        int(n_slices),
        shape5,
        float(data_range),
        target,
        json.loads(json.dumps(asdict(header))),
    )


def _ismrmrd(
    path: Path, xml: bytes | None, shape: tuple[int, int]
) -> tuple[tuple[int, int] | None, tuple[int, int] | None, tuple[float, float, float] | None]:
    """Reconstruction size, acquired columns and voxel size of the ISMRMRD header, as fastMRI's reader takes them."""
    if xml is None:
        return None, None, None
    try:
        root = ElementTree.fromstring(xml)

        def number(where: str) -> float:
            text = root.findtext("i:encoding/" + "/".join(f"i:{tag}" for tag in where.split("/")), namespaces=_XML)
            return float(text or "")

        size = int(number("reconSpace/matrixSize/x")), int(number("reconSpace/matrixSize/y"))
        voxel = tuple(
            number(f"reconSpace/fieldOfView_mm/{axis}") / number(f"reconSpace/matrixSize/{axis}") for axis in "xyz"
        )
        encoded = int(number("encodedSpace/matrixSize/y"))
        center = int(number("encodingLimits/kspace_encoding_step_1/center"))
        maximum = int(number("encodingLimits/kspace_encoding_step_1/maximum"))
    except (ElementTree.ParseError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path}: its ISMRMRD header cannot be read ({error})") from error
    first = encoded // 2 - center
    columns = (first, first + maximum + 1) if encoded == shape[1] else None
    return (
        (min(size[0], shape[0]), min(size[1], shape[1])),
        columns,
        (voxel[0], voxel[1], voxel[2]) if all(voxel) else None,
    )


def _cache_path(paths: list[Path], provenance: str) -> Path:
    root = Path(os.environ.get("SPINWARP_CACHE", Path.home() / ".cache" / "spinwarp"))
    asked = [str(_VERSION), provenance, *(str(p.resolve()) for p in paths)]
    key = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]
    return root / f"index-{key}.json"


def _load_index(cache: Path) -> dict[Path, Entry]:
    try:
        stored = json.loads(cache.read_text())
        entries = {Path(p): Entry(**{**e, "shape": tuple(e["shape"])}) for p, e in stored.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        log.warning("the index %s cannot be read and is made anew", cache)
        return {}
    return entries


def _save_index(cache: Path, entries: dict[Path, Entry]) -> None:
    try:
        with whole_file(cache) as temporary:
            temporary.write_text(json.dumps({str(path): asdict(entry) for path, entry in entries.items()}))
    except OSError as error:  # an index only saves time; a read-only home is no reason to stop
        log.warning("the index %s cannot be written (%s); files are scanned at each start", cache, error)
