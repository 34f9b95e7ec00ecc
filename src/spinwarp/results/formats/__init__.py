"""The files that images are written to: one module a format, each with ``path_of``, ``write`` and ``read_record``."""

import importlib
from pathlib import Path
from typing import Protocol, cast

from spinwarp.errors import InputError
from spinwarp.results.formats.volume import Patient, Record, Series, Volume

__all__ = ["FORMATS", "Format", "Patient", "Record", "Series", "Volume", "writer"]

FORMATS = ("h5", "nifti", "dicom", "png")


class Format(Protocol):
    """What each module of this folder offers."""

    @staticmethod
    def path_of(folder: Path, name: str) -> Path:
        """Return the file or folder that the images of the measured file ``name`` go to."""
        ...

    @staticmethod
    def write(path: Path, volume: Volume) -> None:
        """Write a volume, whole or not at all."""
        ...

    @staticmethod
    def read_record(path: Path) -> Record | None:
        """Return what made the images at ``path``; None if they are not from here."""
        ...


def writer(name: str) -> Format:
    """Return the writer of one of :data:`FORMATS`.

    Raises
    ------
    InputError : if its library is missing.
    """
    try:
        return cast(Format, importlib.import_module(f"spinwarp.results.formats.{name}"))
    except ImportError as error:
        raise InputError(
            f"format={name} needs {error.name}; install it with: pip install 'spinwarp[{name}]'"
        ) from error
