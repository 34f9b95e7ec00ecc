"""The index of a data set: what its files hold, read once and cached until a file changes."""

import hashlib
import importlib
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from spinwarp.acquisition import Header
from spinwarp.data.fastmri.ismrmrd import LONGEST, Geometry, geometry
from spinwarp.data.measurement import coils_misplaced
from spinwarp.data.patients import named_patient
from spinwarp.data.sampling import check_mask, padding_has_signal, warn_once_per_folder
from spinwarp.errors import InputError
from spinwarp.files import LARGEST_RATIO, atomic_write, cache_folder, unreadable, warn_once

log = logging.getLogger(__name__)
_VERSION = 3  # raise it when scan() reads something else
_TARGETS = ("reconstruction_rss", "reconstruction_esc")  # of several coils, and of one: there the second goes first
_READ = ("kspace", *_TARGETS, "mask", "geometry", "maps")
_MANY = 100  # new files, which take long enough to say so
_TOLERANCE = 1e-3  # of the attribute max, relative to the target's largest value


@dataclass(frozen=True)
class Entry:
    """What the index stores of one file; outdated when the file's size or modification time differs."""

    mtime_ns: int
    size: int
    n_slices: int
    shape: tuple[int, int, int, int, int]
    data_range: float
    target: str | None
    fields: dict[str, object]
    patient: str | None = None

    @property
    def header(self) -> Header:
        """The header of every slice of the file."""
        # JSON has lists where the header has tuples
        return Header(**{k: tuple(v) if isinstance(v, list) else v for k, v in self.fields.items()})  # type: ignore[arg-type]


def index(paths: list[Path], provenance: str) -> dict[Path, Entry]:
    """Return the entry of each file; opens only files that are new or have changed since the last call.

    The index is stored in :func:`spinwarp.files.cache_folder`.

    Raises
    ------
    InputError : on the first file that is not a volume in the fastMRI layout.
    """
    cache = _cache_path(paths, provenance)
    known = _load_index(cache)
    fresh: dict[Path, Entry] = {}
    if len(paths) - len(known) > _MANY:
        log.info("the targets of %d files in %s are read once, for the index", len(paths), paths[0].parent)
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise unreadable(path, error, "cannot be found ({reason})") from error
        entry = known.get(path)
        if entry is None or (entry.mtime_ns, entry.size) != (status.st_mtime_ns, status.st_size):
            entry = scan(path, provenance)
        fresh[path] = entry
    if fresh != known:
        _save_index(cache, fresh)
    return fresh


@contextmanager
def open_volume(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; an error names the file and says what is wrong with it.

    Raises
    ------
    InputError : if the file is missing, locked, truncated, not HDF5, has no k-space, or needs a filter that is missing.
    """
    try:
        with h5py.File(path, "r") as file:
            _check_links(path, file)
            if not isinstance(file.get("kspace"), h5py.Dataset):
                names = ", ".join(file)[:200] or "nothing"
                raise InputError(f"{path} has no dataset 'kspace' (it has {names}); the fastMRI layout is expected")
            _load_filters(path, file)
            yield file
    except InputError:
        raise
    # h5py raises many types of errors on damaged metadata
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
        raise unreadable(path, error, "is truncated or not HDF5 ({reason}); copy or download it again") from error


def _lies_here(file: h5py.File, name: str) -> bool:
    """Whether a data set is absent, or stored in this very file without filters, so that nothing can be missing.

    This asks HDF5 itself: a file is opened for each slice, and h5py's objects would take a millisecond of that.
    """
    links, key = file.id.links, name.encode()
    if not links.exists(key):
        return True
    if links.get_info(key).type != h5py.h5l.TYPE_HARD:
        return False
    stored = h5py.h5o.open(file.id, key)
    if not isinstance(stored, h5py.h5d.DatasetID):
        return False
    settings = stored.get_create_plist()
    return bool(settings.get_layout() != h5py.h5d.VIRTUAL and settings.get_nfilters() == 0)


def _check_links(path: Path, file: h5py.File) -> None:
    """Refuse a file whose data lies in another file that is missing; HDF5 would read zeros of a virtual data set."""
    for name in _READ:
        if _lies_here(file, name):
            continue
        link, dataset = file.get(name, getlink=True), file.get(name)
        missing = ""
        if dataset is None and isinstance(link, h5py.SoftLink | h5py.ExternalLink):
            missing = f"{getattr(link, 'filename', '')}{link.path}"
        elif isinstance(dataset, h5py.Dataset) and dataset.is_virtual:
            sources = {source.file_name for source in dataset.virtual_sources()} - {"."}
            there = (path.parent, Path())  # where HDF5 looks
            gone = [s for s in sorted(sources) if "%" not in s and not any((one / s).exists() for one in there)]
            missing = ", ".join(gone[:3])
        if missing:
            raise InputError(f"{path}: its {name} lies in {missing}, which is not there; copy that file beside it too")


def _load_filters(path: Path, file: h5py.File) -> None:
    """Load the filters that the file's data sets need, or name the missing one; ``hdf5plugin`` registers its own."""
    for name in _READ:
        if _lies_here(file, name) or not isinstance(file.get(name), h5py.Dataset):
            continue
        settings = file[name].id.get_create_plist()
        for code, _, _, described in (settings.get_filter(i) for i in range(settings.get_nfilters())):
            if h5py.h5z.filter_avail(code):
                continue
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")
            if not h5py.h5z.filter_avail(code):
                words = described.decode(errors="replace").split(";")[0][:60] or "unnamed"
                raise InputError(
                    f"{path}: its {name} is compressed by a filter that is not installed here ({words}, HDF5 filter "
                    f"{code}); install it with: pip install hdf5plugin"
                )


def scan(path: Path, provenance: str) -> Entry:
    """Read the index entry of one file; ``provenance`` is used if the file does not state its own."""
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
        if coils_misplaced(n_coils, w):
            warn_once_per_folder(
                path,
                f"its k-space {shape} is read as {n_coils} coils of {h}x{w} pixels",
                "if the axes are in another order, store it as (slice, coil, h, w)",
            )
        if "mask" in file:
            check_mask(path, file["mask"], shape)
            _check_stored(path, file["mask"])
        names = _TARGETS if n_coils > 1 else _TARGETS[::-1]
        target = next((name for name in names if name in file), None)
        if target:
            _check_target(path, file[target], shape)
        if target and target != names[0]:
            warn_once_per_folder(
                path, f"there is no {names[0]}, the usual target of such data", f"{target} is used instead"
            )
        target_shape = file[target].shape[-2:] if target else (h, w)
        data_range = _data_range(path, file, target)
        if not (np.isfinite(data_range) and data_range > 0):
            raise InputError(f"{path}: the largest value of its target ('max') is {data_range:g}; remove the file")
        padding = _attribute(path, file, "padding_left", int), _attribute(path, file, "padding_right", int)
        patient = _text(file, "patient_id").strip() or named_patient(path.stem)
        stated, orientation, contrast = (_text(file, name) for name in ("provenance", "orientation", "acquisition"))
        from_header = Geometry()
        if "ismrmrd_header" in file:
            from_header = geometry(path, _header_text(path, file["ismrmrd_header"]), (h, w))
        columns = from_header.columns
        if padding[0] is not None and padding[1] is not None:
            columns = int(padding[0]), int(padding[1])
        if columns is not None and not 0 <= columns[0] < columns[1] <= w:
            raise InputError(
                f"{path}: acquired columns {columns[0]}..{columns[1]} lie outside its {w} columns of k-space; set its "
                f"attributes padding_left and padding_right to the first acquired column and the one after the last, "
                f"or remove them"
            )
        if columns not in (None, (0, w)) and padding_has_signal(file["kspace"], columns):
            so = f"they are wrong, and all {w} columns count as acquired"
            warn_once_per_folder(path, "k-space has signal outside the columns that its header calls acquired", so)
            columns = None
    header = Header(
        provenance=stated or provenance,
        source=path.name,
        reconstruction_size=(int(target_shape[0]), int(target_shape[1])) if target else from_header.size,
        acquired_columns=columns,
        voxel_size=from_header.voxel_size,
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
        patient,
    )


def _data_range(path: Path, file: h5py.File, target: str | None) -> float:
    """The largest value of the target: the attribute ``max`` may be that of another one, or of unscaled images."""
    stated = _attribute(path, file, "max", float)
    if target is None:
        return 1.0 if stated is None else stated
    found = float(max(np.fmax.reduce(image, axis=None) for image in file[target]))
    if stated is not None and not math.isclose(stated, found, rel_tol=_TOLERANCE):
        so = f"the largest value ({found:g}) is used, not max ({stated:g})"
        warn_once_per_folder(path, f"the attribute max is not the largest value of {target}", so)
    return found


def _check_target(path: Path, target: h5py.Dataset | h5py.Group, shape: tuple[int, ...]) -> None:
    found = getattr(target, "shape", None)
    fits = found is not None and len(found) == 3 and found[0] == shape[0] and 0 not in found
    if not found or not (fits and found[1] <= shape[-2] and found[2] <= shape[-1] and target.dtype.kind in "iuf"):
        raise InputError(
            f"{path}: {target.name[1:]} {found} does not fit k-space {shape}; expected {shape[0]} real images of "
            f"at most {shape[-2]}x{shape[-1]}"
        )
    _check_stored(path, target)


def _check_stored(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse a data set whose shape is larger than its stored bytes can hold, before memory is allocated for it."""
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > LARGEST_RATIO * stored and not dataset.is_virtual:
        raise InputError(
            f"{path}: {dataset.name[1:]} has shape {dataset.shape}, {dataset.nbytes / 1e9:.3g} GB, but only "
            f"{stored} bytes are stored; it is unfinished or damaged; copy or make it again"
        )


def _header_text(path: Path, dataset: h5py.Dataset | h5py.Group) -> object:
    """Return a header as bytes or text, stored as a string or as an array of bytes; None if it is neither."""
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        return None
    if dataset.nbytes > LONGEST:
        raise InputError(f"{path}: its ISMRMRD header is longer than {LONGEST} bytes; remove it from the file")
    value = np.asarray(dataset[()])
    if value.dtype in (np.uint8, np.int8):
        return value.tobytes()
    return value.item() if value.size == 1 else None


def _attribute(path: Path, file: h5py.File, name: str, type_: type[float] | type[int]) -> float | None:
    """Return an attribute that must be one number; None if it is absent."""
    if name not in file.attrs:
        return None
    value = file.attrs[name]
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iuf" or not np.isfinite(number).all():
        raise InputError(
            f"{path}: its attribute {name!r} is {str(value)[:60]!r}, expected a number; repair or remove it"
        )
    return type_(number.item())


def _text(file: h5py.File, name: str) -> str:
    """Return a text attribute; an empty string if it is absent or not text."""
    value = file.attrs.get(name, "")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return str(value)[:200] if isinstance(value, str | np.integer) else ""


def _cache_path(paths: list[Path], provenance: str) -> Path:
    asked = [str(_VERSION), provenance, *(str(p.resolve()) for p in paths)]
    key = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]
    return cache_folder() / f"index-{key}.json"


def _load_index(cache: Path) -> dict[Path, Entry]:
    try:
        stored = json.loads(cache.read_text())
        entries = {Path(p): Entry(**{**e, "shape": tuple(e["shape"])}) for p, e in stored.items()}
        for entry in entries.values():
            hash(entry.patient)  # raises on a list, which comparisons cannot use
            _ = entry.header, entry.n_slices + sum(entry.shape) + entry.mtime_ns + entry.size, float(entry.data_range)
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        log.warning("the index %s cannot be read and is made again", cache)
        return {}
    return entries


def _save_index(cache: Path, entries: dict[Path, Entry]) -> None:
    try:
        with atomic_write(cache) as temporary:
            temporary.write_text(json.dumps({str(path): asdict(entry) for path, entry in entries.items()}))
    except OSError as error:  # the index only saves time; a read-only home folder is no reason to stop
        warn_once(f"the index {cache} cannot be written ({error}); files are scanned at each start")
