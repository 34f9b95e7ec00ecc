"""The volumes of a report: the images of every method with errors, intervals and what lies outside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spinwarp.errors import InputError
from spinwarp.figures.uncertainty import half_width, outside
from spinwarp.results import (
    RECONSTRUCTIONS,
    RESULTS,
    TARGETS,
    ExampleSlice,
    ReconstructedVolume,
    Row,
    group_of,
    read_origin,
    read_reconstruction,
    read_target,
)
from spinwarp.results.comparison import Comparison


@dataclass(frozen=True, eq=False)
class Picture:
    """One slice by one method, ``(h, w)`` each; what is unknown is None.

    Parameters
    ----------
    image : magnitude.
    error : its distance to the target.
    half_width : of the predicted interval.
    outside : bool, the foreground pixels whose error exceeds the half width.
    """

    image: np.ndarray
    error: np.ndarray | None = None
    half_width: np.ndarray | None = None
    outside: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class PageVolume:
    """One volume by all methods.

    Parameters
    ----------
    group : what its methods share, such as data set and mask.
    name : of the volume.
    slices : indices in the measured volume.
    targets : slice -> ``(h, w)``, for those whose target the results hold.
    foregrounds : slice -> number of pixels, for the same.
    pictures : method -> slice -> picture.
    intervals : method -> what its half width is, such as ``2 std``.
    data_range : the largest value of the target volume; NaN without a target.
    """

    group: str
    name: str
    slices: list[int]
    targets: dict[int, np.ndarray]
    foregrounds: dict[int, int]
    pictures: dict[str, dict[int, Picture]]
    intervals: dict[str, str]
    data_range: float


@dataclass(frozen=True)
class Source:
    """Where the images of one volume are: files of reconstructions and of targets, and example slices.

    Parameters
    ----------
    group, name : of the volume.
    files : method -> file of reconstructions.
    rows : method -> line of ``results.csv``; empty for results without a reference.
    target : file of the targets, or None.
    examples : slice -> method -> example, for want of files.
    """

    group: str
    name: str
    files: Mapping[str, Path]
    rows: Mapping[str, Row] = field(default_factory=dict)
    target: Path | None = None
    examples: Mapping[int, Mapping[str, ExampleSlice]] = field(default_factory=dict)


def evaluated(comparison: Comparison) -> list[Source]:
    """Return the volumes of result folders of ``evaluate.py``; those without any image are left out."""
    rows: dict[tuple[str, str], dict[str, Row]] = {}
    for row in comparison.rows:
        rows.setdefault((str(group_of(row)), row.volume), {})[row.method] = row
    sources = []
    for (group, volume), methods in rows.items():
        name = volume if volume.endswith(".h5") else f"{volume}.h5"
        folders = {method: comparison.folders[group_of(row), method] for method, row in methods.items()}
        files = {m: f / RECONSTRUCTIONS / name for m, f in folders.items() if (f / RECONSTRUCTIONS / name).is_file()}
        targets = [f / TARGETS / name for f in folders.values() if (f / TARGETS / name).is_file()]
        pictures = [p for p in comparison.pictures if str(p.group) == group and p.volume == volume]
        if files or pictures:
            examples = {p.slice: p.examples for p in pictures}
            sources.append(Source(group, volume, files, methods, targets[0] if files and targets else None, examples))
    return sources


def reconstructed(paths: Sequence[Path]) -> list[Source]:
    """Return the volumes of files of ``reconstruct.py``: those of one scan, mask and shape are put side by side.

    Raises
    ------
    InputError : if a file cannot be read.
    """
    groups: dict[tuple[str, str, str, str], dict[str, Path]] = {}
    for path in paths:
        origin, volume = read_origin(path), read_reconstruction(path)
        mask, rate = origin.get("mask", ""), origin.get("acceleration", "")
        parts = ["as measured" if mask == "none" else f"mask {mask}" if mask else "", f"R {rate}" if rate else ""]
        group = ", ".join(part for part in (*parts, origin.get("data", "")) if part) or "origin unknown"
        # another patient's scan may have the same name
        key = (group, path.stem, f"{volume.images.shape} {volume.slices}", origin.get("input", ""))
        methods = groups.setdefault(key, {})
        method = origin.get("method", "unknown method")
        methods[f"{method} ({path.parent.name})" if method in methods else method] = path
    return [Source(group, name, files) for (group, name, *_), files in groups.items()]


def files_of(path: Path) -> list[Path]:
    """Return the files of reconstructions that an argument without ``results.csv`` names; none if it has one.

    Raises
    ------
    InputError : if there is nothing to show.
    """
    if path.is_dir() and not (path / RESULTS).exists():
        found = sorted(p for p in path.glob("*.h5") if not p.stem.endswith("_unfinished"))
        if not found:
            remedy = "give a folder of evaluate.py or of reconstruct.py"
            raise InputError(f"{path} has neither {RESULTS} nor .h5 files; {remedy}")
        return found
    if not path.is_dir() and path.suffix != ".h5":
        what = "is no folder of results and no .h5 file" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; give a folder of evaluate.py, or an .h5 file of reconstruct.py")
    return [] if path.is_dir() else [path]


def read(source: Source) -> PageVolume:
    """Read the images of a volume, cropped as for the metrics.

    Raises
    ------
    InputError : if a file cannot be read, or contradicts ``results.csv``.
    """
    found = {method: _reconstruction(path, source.rows.get(method)) for method, path in source.files.items()}
    slices = sorted({i for volume in found.values() for i in volume.slices} or source.examples)
    targets, foregrounds, data_range = _targets(source, slices)
    pictures: dict[str, dict[int, Picture]] = {}
    intervals = {method: volume.interval for method, volume in found.items() if volume.interval}
    for method, volume in found.items():
        halves = volume.half_width
        for n, i in enumerate(volume.slices):
            half = None if halves is None else halves[n]
            pictures.setdefault(method, {})[i] = _picture(volume.images[n], half, targets.get(i), foregrounds.get(i))
    for method, i, example in _only_examples(source, found):
        half = None
        if example.std is not None:
            half, intervals[method] = half_width(example)
        error = np.abs(example.reconstruction - example.target)
        pictures.setdefault(method, {})[i] = Picture(example.reconstruction, error, half, outside(example))
    shapes = {p.image.shape for of in pictures.values() for p in of.values()} | {t.shape for t in targets.values()}
    if len(shapes) > 1:
        listed = " and ".join(sorted(f"{h}x{w}" for h, w in shapes))
        raise InputError(f"the images of {source.name} have the sizes {listed}; evaluate its methods again")
    counts = {i: 0 if inside is None else int(inside.sum()) for i, inside in foregrounds.items()}
    return PageVolume(source.group, source.name, slices, targets, counts, pictures, intervals, data_range)


def _only_examples(source: Source, found: Mapping[str, ReconstructedVolume]) -> Iterator[tuple[str, int, ExampleSlice]]:
    """Yield the example slices of methods without a file of reconstructions."""
    for i, methods in source.examples.items():
        yield from ((method, i, example) for method, example in methods.items() if method not in found)


def _reconstruction(path: Path, row: Row | None) -> ReconstructedVolume:
    volume = read_reconstruction(path)
    if row is None:
        return volume
    if len(volume.images) != row.n_slices:
        count = f"{len(volume.images)} slices, {RESULTS} counts {row.n_slices}"
        raise InputError(f"{path} holds {count}; evaluate {row.method} again")
    return ReconstructedVolume(
        _cropped(volume.images, row, path),
        volume.slices,
        None if volume.half_width is None else _cropped(volume.half_width, row, path),
        volume.interval,
    )


def _cropped(images: np.ndarray, row: Row, path: Path) -> np.ndarray:
    """Return the middle of the images, of the size that was judged."""
    try:
        h, w = map(int, row.crop.split("x"))
    except ValueError:
        raise InputError(f"crop is {row.crop!r} in the {RESULTS} of {path}, expected a size such as 320x320") from None
    top, left = (images.shape[1] - h) // 2, (images.shape[2] - w) // 2
    if min(h, w) < 1 or min(top, left) < 0:
        raise InputError(f"{path} holds images of {images.shape[1]}x{images.shape[2]}, {RESULTS} says {row.crop}")
    return images[:, top : top + h, left : left + w]


def _targets(
    source: Source, slices: Sequence[int]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray | None], float]:
    """Return target and foreground of each slice that has one, and the largest value of the target volume."""
    if source.target is not None:
        target, inside = read_target(source.target)
        if len(target) != len(slices):
            raise InputError(
                f"{source.target} holds {len(target)} slices, the reconstructions {len(slices)}; evaluate again"
            )
        return dict(zip(slices, target, strict=True)), dict(zip(slices, inside, strict=True)), float(target.max())
    firsts = {i: next(iter(methods.values())) for i, methods in source.examples.items()}
    ranges = [example.data_range for example in firsts.values()] or [float("nan")]
    return {i: e.target for i, e in firsts.items()}, {i: e.foreground for i, e in firsts.items()}, ranges[0]


def _picture(
    image: np.ndarray, half: np.ndarray | None, target: np.ndarray | None, inside: np.ndarray | None
) -> Picture:
    if target is None or target.shape != image.shape:
        return Picture(image, None, half)
    error = np.abs(image - target)
    missed = None if half is None or inside is None or not inside.any() else (error > half) & inside
    return Picture(image, error, half, missed)
