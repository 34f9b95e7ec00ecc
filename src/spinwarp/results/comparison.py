"""The comparison of several result folders; results that must not be compared are refused."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spinwarp.errors import InputError
from spinwarp.results.calibration import CALIBRATION, CalibrationCurves, read_calibration
from spinwarp.results.images import EXAMPLES, ExampleSlice, read_examples
from spinwarp.results.rows import RESULTS, Row, read_rows
from spinwarp.results.table import Group, group_of

# What methods must agree in for each volume, and its name in the error.
_PROTOCOL = {"target_type": "target type", "crop": "crop", "n_slices": "number of slices", "input_sha256": "input hash"}


@dataclass(frozen=True)
class Picture:
    """One slice by every method of a group: method -> example."""

    group: Group
    volume: str
    slice: int
    examples: dict[str, ExampleSlice]


@dataclass(frozen=True)
class Comparison:
    """Several result folders side by side.

    Parameters
    ----------
    rows : of all folders; a method that occurs twice in a group has its folder's name appended.
    pictures : the slices that all methods of a group have, sorted by group, volume and slice.
    warnings : sentences for the reader.
    calibrations : group -> method -> calibration of its standard deviation, for methods that predict one.
    folders : (group, method) -> result folder.
    """

    rows: list[Row]
    pictures: list[Picture]
    warnings: list[str]
    calibrations: dict[Group, dict[str, CalibrationCurves]]
    folders: dict[tuple[Group, str], Path]


@dataclass(frozen=True)
class _Folder:
    path: Path
    name: str
    rows: list[Row]
    examples: list[ExampleSlice]
    calibration: CalibrationCurves | None


def compare(folders: Sequence[Path]) -> Comparison:
    """Read result folders and put them side by side.

    Rows are compared within a :class:`Group` (data set, split, mask, nominal acceleration). All its methods must have
    reconstructed the same volumes from the same inputs, and been measured in the same way.

    Raises
    ------
    InputError : if a folder is given twice or has no results, or the protocols of methods in a group differ.
    """
    warnings: list[str] = []
    loaded = _unique_methods([_load(folder, name, warnings) for folder, name in _short_names(folders).items()])
    rows = [row for folder in loaded for row in folder.rows]
    origin = {(group_of(row), row.method): folder.name for folder in loaded for row in folder.rows}
    groups: dict[Group, dict[str, dict[str, Row]]] = {}
    for row in rows:
        volumes = groups.setdefault(group_of(row), {}).setdefault(row.method, {})
        if row.volume in volumes:
            where = origin[group_of(row), row.method]
            raise InputError(f"{where} holds {row.method} on volume {row.volume} twice; evaluate into an empty folder")
        volumes[row.volume] = row
    for group, methods in groups.items():
        _check_protocol(group, methods, origin)
    if len(loaded) > 1 and all(len(methods) == 1 for methods in groups.values()):
        listed = "; ".join(map(str, groups))
        warnings.append(f"no two folders share data set, split and mask, so nothing is compared ({listed})")
    paths = {(group_of(row), row.method): folder.path for folder in loaded for row in folder.rows}
    return Comparison(rows, _pictures(loaded, warnings), warnings, _calibrations(loaded), paths)


def _short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return for every folder the shortest end of its path that distinguishes it from the others."""
    resolved = [folder.resolve() for folder in folders]
    for folder, full in zip(folders, resolved, strict=True):
        if resolved.count(full) > 1:
            raise InputError(f"{folder} is given twice; name every result folder once")
    names = {}
    for folder, full in zip(folders, resolved, strict=True):
        n = 1
        while sum(other.parts[-n:] == full.parts[-n:] for other in resolved) > 1:
            n += 1
        names[folder] = "/".join(full.parts[-n:])
    return names


def _load(folder: Path, name: str, warnings: list[str]) -> _Folder:
    if not (folder / RESULTS).exists() and any(folder.glob("*.h5")):
        raise InputError(
            f"{folder} has images of reconstruct.py, which have no reference and so no {RESULTS}; to see them side by "
            f"side: python -m spinwarp.report FOLDER FOLDER --out report.html"
        )
    rows = read_rows(folder / RESULTS)
    if not rows:
        raise InputError(f"{folder / RESULTS} holds no volume; let the evaluation finish or leave the folder out")
    path = folder / EXAMPLES
    calibration = read_calibration(folder / CALIBRATION) if (folder / CALIBRATION).exists() else None
    if path.exists():
        return _Folder(folder, name, rows, read_examples(path), calibration)
    warnings.append(f"{path} does not exist, so {name} is in the table but in no picture")
    return _Folder(folder, name, rows, [], calibration)


def _unique_methods(folders: Sequence[_Folder]) -> list[_Folder]:
    """Append the folder's name to a method that several folders have in the same group."""
    owners: dict[tuple[Group, str], set[str]] = {}
    for folder in folders:
        for row in folder.rows:
            owners.setdefault((group_of(row), row.method), set()).add(folder.name)
    renamed = []
    for folder in folders:
        shared = {row.method for row in folder.rows if len(owners[group_of(row), row.method]) > 1}
        names = {method: f"{method} ({folder.name})" for method in shared}
        rows = [dataclasses.replace(row, method=names.get(row.method, row.method)) for row in folder.rows]
        examples = [dataclasses.replace(e, method=names.get(e.method, e.method)) for e in folder.examples]
        curves = folder.calibration
        if curves is not None:
            curves = dataclasses.replace(curves, method=names.get(curves.method, curves.method))
        renamed.append(_Folder(folder.path, folder.name, rows, examples, curves))
    return renamed


def _check_protocol(group: Group, methods: dict[str, dict[str, Row]], origin: dict[tuple[Group, str], str]) -> None:
    first, *others = methods
    for other in others:
        pair = f"{origin[group, first]} ({first}) and {origin[group, other]} ({other})"
        remedy = f"on {group}; evaluate both with the same data, mask and crop settings"
        if unpaired := sorted(methods[first].keys() ^ methods[other].keys()):
            raise InputError(
                f"{pair} cover different volumes, such as {unpaired[0]} ({len(unpaired)} are in one only) {remedy}"
            )
        for volume, row in methods[first].items():
            for field, words in _PROTOCOL.items():
                ours, theirs = getattr(row, field), getattr(methods[other][volume], field)
                if ours != theirs:
                    raise InputError(f"{pair} differ in {words} of volume {volume}: {ours} and {theirs} {remedy}")


def _calibrations(folders: Sequence[_Folder]) -> dict[Group, dict[str, CalibrationCurves]]:
    result: dict[Group, dict[str, CalibrationCurves]] = {}
    for folder in folders:
        if (curves := folder.calibration) is None:
            continue
        group = Group(curves.dataset, curves.split, curves.mask, f"{curves.acceleration_nominal:g}")
        if (group, curves.method) not in {(group_of(row), row.method) for row in folder.rows}:
            found = f"{curves.method} on {group}, which its results.csv lacks"
            raise InputError(f"calibration.json of {folder.name} is of {found}; evaluate into an empty folder")
        result.setdefault(group, {})[curves.method] = curves
    return result


def _pictures(folders: Sequence[_Folder], warnings: list[str]) -> list[Picture]:
    """Gather the examples of each slice; keep the slices for which all methods of the group with examples have one."""
    pictures: dict[tuple[Group, str, int], dict[str, ExampleSlice]] = {}
    methods: dict[Group, set[str]] = {}
    for folder in folders:
        groups = {(row.method, row.volume): group_of(row) for row in folder.rows}
        for example in folder.examples:
            group = groups.get((example.method, example.volume))
            if group is None:
                found = f"{example.method} on {example.volume}, which its results.csv lacks"
                raise InputError(f"examples.h5 of {folder.name} shows {found}; evaluate into an empty folder")
            methods.setdefault(group, set()).add(example.method)
            pictures.setdefault((group, example.volume, example.slice), {})[example.method] = example
    common = {key: examples for key, examples in pictures.items() if len(examples) == len(methods[key[0]])}
    for group in methods:
        if not any(key[0] == group for key in common):
            warnings.append(f"the folders of {group} have no example slice in common, so no picture is drawn")
    for (_, volume, index), examples in common.items():
        first, *others = examples.values()
        for other in others:
            same_shape = first.target.shape == other.target.shape == other.reconstruction.shape
            if not same_shape or not np.allclose(
                first.target, other.target, rtol=1e-4, atol=1e-4 * first.data_range, equal_nan=True
            ):
                pair = f"{first.method} and {other.method} have different targets"
                raise InputError(f"{pair} for slice {index} of volume {volume}; evaluate both on the same data")
    return [Picture(*key, common[key]) for key in sorted(common)]
