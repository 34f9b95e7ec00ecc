"""The measured files that ``input=`` names: one file, a folder or a pattern."""

import glob
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from spinwarp.errors import InputError
from spinwarp.files import is_folder, list_files, user_path

#: of the files that are taken from a folder
SUFFIXES = (".h5", ".hdf5", ".mrd", ".npy", ".dat", ".cfl", ".mat")
_BRUKER = ("fid", "ser", "rawdata.job0")  # the raw data in a folder that is one scan


def measured_files(text: str) -> dict[Path, Path]:
    """Return the measured files, each with the folder of its images relative to that of all results.

    Parameters
    ----------
    text : a file, a folder whose files are all taken, or a pattern such as ``scans/**/*.h5``, where ``**`` stands for
        folders at any depth.

    Raises
    ------
    InputError : if nothing is found, or two files would have the same name in the results.
    """
    path = user_path(text)
    if not path.exists() and glob.has_magic(text):
        found_there = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - a Path takes no whole pattern
        paths = sorted(found for found in found_there if _is_scan(found))
        missing = f"no file matches input={text}"
    elif is_folder(path) and not _is_scan(path):
        paths = list_files(path, SUFFIXES)
        missing = f"the folder {path} has no file ending in {', '.join(SUFFIXES)}; for folders below it, give a pattern"
    else:
        return {path: Path()}
    if not paths:
        raise InputError(missing)
    common = Path(os.path.commonpath([found.parent for found in paths]))
    results = {found: found.parent.relative_to(common) for found in paths}
    named: dict[Path, Path] = {}
    for found, folder in results.items():
        if (other := named.setdefault(folder / found.stem, found)) != found:
            raise InputError(f"the images of {other} and {found} would have the same name; rename one")
    return results


def _is_scan(path: Path) -> bool:
    return path.is_file() or any((path / name).is_file() for name in _BRUKER)


def named_files(config: Any) -> Iterator[Path]:
    """Yield the files that a plain configuration names anywhere, such as the weights of a network."""
    if isinstance(config, str):
        with suppress(OSError):  # such as a text that is too long for a name
            if Path(config).is_file():
                yield Path(config)
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from named_files(value)
