"""Volumes in the fastMRI HDF5 layout: the official knee and brain sets, and every set converted to it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Example
from spinwarp.data.fastmri.index import Entry, index, open_volume, scan
from spinwarp.data.fastmri.layout import read_geometry, read_maps
from spinwarp.data.sampling import read_slice
from spinwarp.data.source import SPLITS, Volume, check_split
from spinwarp.errors import InputError
from spinwarp.files import is_folder, list_files, user_path


class Files(Protocol):
    """Where the HDF5 files of a data set are, and how to get them."""

    def prepare(self) -> None:
        """Make, download or convert the files."""
        ...

    def files(self, split: str) -> list[Path]:
        """List the files of a split in a fixed order."""
        ...


class Folders:
    """Files that exist already, in one folder per split, as the official sets unpack.

    Parameters
    ----------
    root : folder of the data set.
    train, val, test : folders of ``*.h5`` or ``*.hdf5`` inside ``root``; any may be left out.
    hint : where to get the data; added to the error if a folder is missing.
    """

    def __init__(
        self, root: str, train: str | None = None, val: str | None = None, test: str | None = None, hint: str = ""
    ) -> None:
        self.root = user_path(root)
        self.folders = {"train": train, "val": val, "test": test}
        self.hint = hint

    def prepare(self) -> None:
        """Do nothing; listing the files reports missing folders."""

    def files(self, split: str) -> list[Path]:
        """Return the sorted HDF5 files of a split.

        Raises
        ------
        InputError : if the folder is missing or has no HDF5 files.
        """
        check_split(split)
        folder = self.folders[split]
        if folder is None:
            raise InputError(f"this data set has no {split} folder; give data.source.files.{split}=FOLDER")
        path = self.root / folder
        if not is_folder(path):
            raise InputError(f"there is no folder {path} for the {split} split. {self.hint}".rstrip())
        files = list_files(path, (".h5", ".hdf5"))
        if not files:
            raise InputError(f"the folder {path} of the {split} split has no .h5 files. {self.hint}".rstrip())
        return files


class OneFolder:
    """Files in the sub-folders ``train``, ``val`` and ``test`` of a folder, or all of them for testing without any.

    Parameters
    ----------
    path : the folder.
    """

    def __init__(self, path: str) -> None:
        self.path = user_path(path)

    def prepare(self) -> None:
        """Do nothing; listing the files reports missing folders."""

    def files(self, split: str) -> list[Path]:
        """Return the sorted HDF5 files of a split.

        Raises
        ------
        InputError : if there are none.
        """
        check_split(split)
        if not is_folder(self.path):
            raise InputError(f"there is no folder {self.path}; data.source.path must name one with .h5 files")
        split_up = any(is_folder(self.path / name) for name in SPLITS)
        folder = self.path / split if split_up else self.path
        files = list_files(folder, (".h5", ".hdf5")) if is_folder(folder) else []
        if not split_up and split != "test":
            raise InputError(
                f"{self.path} has no sub-folders train, val and test, so its files are for testing only; sort them "
                f"into sub-folders, each patient into one"
            )
        if not files:
            raise InputError(f"{folder} has no .h5 files; spinwarp-convert makes them from raw data")
        return files


@dataclass(eq=False)
class FastMRIFiles:
    """A data set of volumes in the fastMRI layout.

    A file is opened for each slice and closed again. No handle stays open, which keeps workers and thousands of files
    safe. An index in the cache folder holds shapes and headers, and notices when a file changes.

    Parameters
    ----------
    name : name of the data set in the results.
    files : where the files are.
    provenance : of files that do not state their own; the official sets come from scanners.
    """

    reads_anew: ClassVar[bool] = True

    name: str
    files: Files
    provenance: str = "scanner"

    def __post_init__(self) -> None:
        self._entries: dict[Path, Entry] = {}

    def prepare(self) -> None:
        """Make or download the files."""
        self.files.prepare()

    def volumes(self, split: str) -> list[Volume]:
        """List the volumes of a split, sorted by name; opens only new or changed files.

        Raises
        ------
        InputError : on the first file that is not a volume in this layout.
        """
        entries = index(self.files.files(split), self.provenance)
        self._entries.update(entries)
        return [Volume(path.name, path, entry.n_slices, entry.shape, entry.patient) for path, entry in entries.items()]

    def read(self, volume: Volume, slice_index: int) -> Example:
        """Read one slice as a batch of one; its mask is True where :func:`read_slice` finds measured samples.

        Raises
        ------
        InputError : if the file is damaged, its k-space or target is not finite, or its mask belongs to other data.
        """
        entry = self._entries.get(volume.path) or scan(volume.path, self.provenance)
        header = entry.header
        with open_volume(volume.path) as file:
            kspace, mask = read_slice(
                volume.path, file["kspace"], file.get("mask"), slice_index, header.acquired_columns
            )
            header = replace(header, geometry=read_geometry(volume.path, file, slice_index))
            maps = read_maps(volume.path, file, slice_index)
            target = None if entry.target is None else np.asarray(file[entry.target][slice_index], dtype=np.float32)
        if target is not None and not np.isfinite(target).all():
            raise InputError(f"{volume.path} has NaN or infinite pixels in the target of slice {slice_index}")
        return Example(
            acquisition=Acquisition(
                kspace=torch.from_numpy(kspace)[None],
                mask=torch.from_numpy(mask)[None, None],
                maps=maps,
                headers=(header,),
            ),
            target=None if target is None else torch.from_numpy(target)[None],
            data_range=torch.tensor([entry.data_range]),
            volume=(volume.name,),
            slice=(slice_index,),
            target_type=() if entry.target is None else (entry.target.removeprefix("reconstruction_"),),
        )


class FastMRIFolder(FastMRIFiles):
    """A folder of volumes in the fastMRI layout, such as ``spinwarp-convert`` writes; see :class:`OneFolder`.

    Parameters
    ----------
    path : the folder.
    """

    def __init__(self, path: str) -> None:
        super().__init__(user_path(path).resolve().name, OneFolder(path), "unknown")
