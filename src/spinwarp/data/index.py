"""What the files of a data set hold, read once and remembered until a file changes."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from spinwarp.acquisition import Header
from spinwarp.data.ismrmrd import LONGEST, Geometry, geometry
from spinwarp.data.sampling import check_mask, warn_once
from spinwarp.errors import InputError
from spinwarp.files import whole_file

log = logging.getLogger(__name__)
_VERSION = 2  # raise it when scan() reads something else
_TARGETS = ("reconstruction_rss", "reconstruction_esc")  # of several coils, and of one: there the second goes first
_LARGEST_RATIO = 1100  # of declared to stored bytes; deflate, which packs tightest, ends at 1032


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
                names = ", ".join(file)[:200] or "nothing"
                raise InputError(f"{path} has no dataset 'kspace' (it has {names}); the fastMRI layout is expected")
            yield file
    except InputError:
        raise
    # h5py tells of damaged metadata with many kinds of errors
    except (
        OSError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        if not path.exists():
            raise InputError(f"there is no file {path}") from error
        reason = " ".join(str(error).split())[:200]
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
        _check_stored(path, file["kspace"])
        if "mask" in file:
            check_mask(path, file["mask"], shape)
            _check_stored(path, file["mask"])
        names = _TARGETS if n_coils > 1 else _TARGETS[::-1]
        target = next((name for name in names if name in file), None)
        if target:
            _check_target(path, file[target], shape)
        if target and target != names[0]:
            warn_once(path, f"there is no {names[0]}, which is the target of such data", f"{target} is taken for it")
        target_shape = file[target].shape[-2:] if target else (h, w)
        data_range = _data_range(path, file, target)
        if not (np.isfinite(data_range) and data_range > 0):
            raise InputError(f"{path}: the largest value of its target ('max') is {data_range:g}; remove the file")
        padding = _attribute(path, file, "padding_left", int), _attribute(path, file, "padding_right", int)
        stated, orientation, contrast = (_text(file, name) for name in ("provenance", "orientation", "acquisition"))
        told = Geometry()
        if "ismrmrd_header" in file:
            dataset = file["ismrmrd_header"]
            scalar = isinstance(dataset, h5py.Dataset) and dataset.shape in ((), (1,)) and dataset.nbytes <= LONGEST
            told = geometry(path, np.asarray(dataset[()]).item() if scalar else None, (h, w))
    columns = told.columns
    if padding[0] is not None and padding[1] is not None:
        columns = int(padding[0]), int(padding[1])
    if columns is not None and not 0 <= columns[0] < columns[1] <= w:
        raise InputError(f"{path}: acquired columns {columns[0]}..{columns[1]} lie outside its {w} columns of k-space")
    header = Header(
        provenance=stated or provenance,
        source=path.name,
        reconstruction_size=(int(target_shape[0]), int(target_shape[1])) if target else told.size,
        acquired_columns=columns,
        voxel_size=told.voxel_size,
        orientation=orientation or None,
        contrast=contrast or None,
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


def _data_range(path: Path, file: h5py.File, target: str | None) -> float:
    """The largest value of the target: the attribute ``max`` may be that of another one."""
    stated = _attribute(path, file, "max", float)
    if target is None:
        return 1.0 if stated is None else stated
    found = float(max(np.fmax.reduce(image, axis=None) for image in file[target]))
    if stated is not None and not math.isclose(stated, found, rel_tol=1e-3):
        so = f"the largest value is used ({found:g}, not {stated:g})"
        warn_once(path, f"the attribute max is not the largest value of {target}", so)
        return found
    return found if stated is None else stated


def _check_target(path: Path, target: h5py.Dataset | h5py.Group, shape: tuple[int, ...]) -> None:
    found = getattr(target, "shape", None)
    fits = found is not None and len(found) == 3 and found[0] == shape[0] and 0 not in found
    if not found or not (fits and found[1] <= shape[-2] and found[2] <= shape[-1] and target.dtype.kind in "iuf"):
        raise InputError(
            f"{path}: {target.name[1:]} {found} does not fit k-space {shape}; expected are {shape[0]} real images of "
            f"at most {shape[-2]}x{shape[-1]}"
        )
    _check_stored(path, target)


def _check_stored(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse a data set that claims to hold more than can be in the file: its shape would be believed as memory."""
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > _LARGEST_RATIO * stored and not dataset.is_virtual:
        raise InputError(
            f"{path}: {dataset.name[1:]} has shape {dataset.shape}, {dataset.nbytes / 1e9:.3g} GB, but only "
            f"{stored} bytes are stored; it is unfinished or damaged, copy or make it again"
        )


def _attribute(path: Path, file: h5py.File, name: str, kind: type[float] | type[int]) -> float | None:
    """Return an attribute that must be one number, None where it is absent."""
    if name not in file.attrs:
        return None
    value = file.attrs[name]
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iuf" or not np.isfinite(number).all():
        raise InputError(
            f"{path}: its attribute {name!r} is {str(value)[:60]!r}, expected a number; repair or remove it"
        )
    return kind(number.item())


def _text(file: h5py.File, name: str) -> str:
    """Return an attribute that must be a text, an empty one where it is absent or something else."""
    value = file.attrs.get(name, "")
    if isinstance(value, bytes):  # a text of fixed length
        value = value.decode(errors="replace")
    return value[:200] if isinstance(value, str) else ""


def _cache_path(paths: list[Path], provenance: str) -> Path:
    root = Path(os.environ.get("SPINWARP_CACHE", Path.home() / ".cache" / "spinwarp"))
    asked = [str(_VERSION), provenance, *(str(p.resolve()) for p in paths)]
    key = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]
    return root / f"index-{key}.json"


def _load_index(cache: Path) -> dict[Path, Entry]:
    try:
        stored = json.loads(cache.read_text())
        entries = {Path(p): Entry(**{**e, "shape": tuple(e["shape"])}) for p, e in stored.items()}
        for entry in entries.values():
            _ = entry.header, entry.n_slices + sum(entry.shape) + entry.mtime_ns + entry.size, float(entry.data_range)
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        log.warning("the index %s cannot be read and is made anew", cache)
        return {}
    return entries


def _save_index(cache: Path, entries: dict[Path, Entry]) -> None:
    try:
        with whole_file(cache) as temporary:
            temporary.write_text(json.dumps({str(path): asdict(entry) for path, entry in entries.items()}))
    except OSError as error:  # an index only saves time; a read-only home is no reason to stop
        log.warning("the index %s cannot be written (%s); files are scanned at each start", cache, error)
