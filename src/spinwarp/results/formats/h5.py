"""Images as HDF5 in fastMRI's submission layout."""

from pathlib import Path

from spinwarp.results.formats.volume import Record, Volume
from spinwarp.results.images import read_origin, read_slices, write_reconstruction


def path_of(folder: Path, name: str) -> Path:
    """Return the file."""
    return folder / f"{name}.h5"


def write(path: Path, volume: Volume) -> None:
    """Write the images, and their standard deviations and half widths beside them."""
    record = volume.record
    origin = {"method": record.method, "mask": record.mask, "input": record.input, "settings": record.settings}
    if volume.acceleration is not None:
        origin["acceleration"] = f"{volume.acceleration:.2f}"
    write_reconstruction(
        path.parent, path.name, volume.images, volume.std, volume.interval, origin, list(record.slices)
    )


def read_record(path: Path) -> Record | None:
    """Return what made the images."""
    found = read_origin(path)
    if not {"method", "mask", "input"} <= found.keys():
        return None
    slices = tuple(read_slices(path))
    return Record(found["method"], found["mask"], found["input"], found.get("settings", ""), slices)
