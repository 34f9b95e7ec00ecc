"""The data set ``ulf_brain``: raw k-space of human brains at 0.055 T, converted to the fastMRI layout.

This is the raw data of the figures of Liu et al., "A low-cost and shielding-free ultra-low-field brain MRI scanner",
Nature Communications 12, 2021, doi:10.1038/s41467-021-27317-1; GitHub bispmri/Ultra-low-field-MRI-Scanner, CC0 1.0.
``manifest.tsv`` pins every file by commit, size and SHA-256.
"""

import io
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.io import loadmat

from spinwarp.acquisition import Header
from spinwarp.data.fastmri.layout import write_volume
from spinwarp.data.source import check_split
from spinwarp.data.ulf.pinned import PinnedFile, check_pinned, fetch_pinned, find_pinned, read_manifest
from spinwarp.errors import InputError
from spinwarp.files import as_input_error, user_path

_log = logging.getLogger(__name__)

MANIFEST = Path(__file__).with_name("manifest.tsv")
ADDRESS = "https://raw.githubusercontent.com"
_TEST = ("7A",)
_READOUT = 128  # samples along the readout in every protocol; phase encoding takes 126 (FSE, FLAIR) or 196 (GRE)


@dataclass(frozen=True)
class Scan:
    """One file of the manifest and what its path says about it.

    Parameters
    ----------
    file : its line of the manifest.
    patient, figure : ``S6A`` for ``Supplementary Figure 6A``; nothing but the figure of the paper identifies a patient.
    contrast : ``FSE``, ``GRE`` or ``FLAIR``.
    orientation : ``axial``, ``coronal`` or ``sagittal``.
    path : the converted volume.
    """

    file: PinnedFile
    patient: str
    figure: str
    contrast: str
    orientation: str
    path: Path


class UltraLowFieldBrains:
    """Brains at 0.055 T, single channel, fully sampled; split by patient.

    Each patient has FSE, FLAIR (128 x 126) and GRE (128 x 196), four axial slices each. Figures 4A and 4B, coronal and
    sagittal, are outside the training distribution and in ``root/other_orientations``: ``test=["4A", "4B"]``.

    Findings in the data:

    - The phase-encoding axis is the one that does not have 128 samples. The lines that were never acquired (axial
      files) lie along it, and the noise level has steps and tapers along it (4A, 4B); along the other axis the noise
      is level. It becomes ``w``. This transposes the sagittal scans and the FSE of 4B; their heads lie on the side.
    - Columns at the borders are empty: the first of FSE and GRE, the first five and last four of FLAIR. They hold
      rounding residue (1e-15). They are set to zero and are not in ``acquired_columns``.
    - The k-space peak lies 0 to 3 samples from N // 2. This is a true phase ramp of the image and is kept.
    - The authors removed electromagnetic interference and weighted k-space. The noise of FSE and FLAIR falls
      several-fold from the centre of phase encoding to its borders, and neighbouring slices share noise (correlation
      0.8 to 0.9). Noise estimated at the borders is too low, and four slices count for less than four samples.
    - GRE voxels are narrower along ``w`` at the same field of view, so heads look wide. No file states voxel sizes.

    Parameters
    ----------
    root : folder of the converted volumes.
    source : folder that has the ``.mat`` files; None: download them, after asking.
    train, test : patients, as ``6A`` or ``Figure 6A``.
    val : patients; None: every axial patient on disk that is not in ``train`` or ``test``, except 7A, which is always
        kept for testing. If there is none, the training patients, with a warning.
    manifest : list of the files.
    address : base address; files are downloaded from ``OWNER/NAME/COMMIT/path`` below it.

    Raises
    ------
    InputError : if a patient is unknown or in two splits.
    """

    name = "ulf_brain"

    def __init__(
        self,
        root: str | Path,
        source: str | Path | None = None,
        train: Sequence[str] = ("6A", "6B"),
        val: Sequence[str] | None = None,
        test: Sequence[str] = _TEST,
        manifest: str | Path = MANIFEST,
        address: str = ADDRESS,
    ) -> None:
        self.root = user_path(root)
        self.source = None if source is None else user_path(source)
        self.train, self.test = [_short(p) for p in train], [_short(p) for p in test]
        self.val = None if val is None else [_short(p) for p in val]
        origin, listed = read_manifest(Path(manifest))
        self.url = f"{address}/{origin}"
        self.scans = [_scan(file, self.root) for file in listed]
        self._warned = False
        self._needed = [*self.train, *(self.val or ()), *self.test]
        if unknown := set(self._needed) - {scan.patient for scan in self.scans}:
            known = ", ".join(dict.fromkeys(scan.patient for scan in self.scans))
            raise InputError(f"ulf_brain has no patient {', '.join(sorted(unknown))}; choose from {known}")
        if twice := {patient for patient in self._needed if self._needed.count(patient) > 1}:
            raise InputError(f"ulf_brain has {', '.join(sorted(twice))} in two splits; a patient belongs to one")

    def prepare(self) -> None:
        """Convert the missing volumes of the splits; downloads only after a yes on the terminal.

        Raises
        ------
        InputError : if volumes are missing and nobody can be asked; the message has the two commands that make them.
        """
        if not self._missing():
            return
        if self.source is None and not self._may_download():
            command = f"python -m spinwarp.data.download {self.name}"
            raise InputError(
                f"{self.name} is not in {self.root}; download it with '{command} --to {self.root}', or convert files "
                f"you have with '{command} --from FOLDER --to {self.root}'"
            )
        self.fetch(self.source)
        if missing := self._missing():
            listed = ", ".join(scan.path.name for scan in missing)
            raise InputError(f"{self.source} has no source files of {listed}; name other patients or download the set")

    def fetch(self, folder: str | Path | None) -> list[Path]:
        """Get and convert every file of the manifest that is not converted yet; return the new volumes.

        A volume is written only after its source was checked, so a run that was stopped continues where it left off.

        Parameters
        ----------
        folder : a clone of the repository, or only its data folder; None: download.

        Raises
        ------
        InputError : if no file is found, a file differs from the manifest, or the download fails.
        """
        todo = [scan for scan in self.scans if not scan.path.exists()]
        local = {} if folder is None else find_pinned(user_path(folder), [scan.file for scan in self.scans])
        todo = [scan for scan in todo if folder is None or scan.file in local]
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(self.name, total=sum(scan.file.size for scan in todo))
            for scan in todo:
                if folder is None:
                    content = fetch_pinned(self.url, scan.file, lambda n: progress.advance(task, n))
                else:
                    with as_input_error(local[scan.file], "file"):
                        content = local[scan.file].read_bytes()
                    check_pinned(scan.file, content, local[scan.file])
                    progress.advance(task, len(content))
                _convert(scan, content)
        return [scan.path for scan in todo]

    def files(self, split: str) -> list[Path]:
        """Return the converted volumes of ``train``, ``val`` or ``test``, sorted.

        Raises
        ------
        InputError : if the split is not train, val or test, or has no converted volume.
        """
        check_split(split)
        patients = self.validation_patients() if split == "val" else {"train": self.train, "test": self.test}[split]
        paths = sorted(scan.path for scan in self.scans if scan.patient in patients and scan.path.exists())
        if not paths:
            raise InputError(f"{self.name} has no {split} volume in {self.root}; call prepare() first")
        return paths

    def validation_patients(self) -> list[str]:
        """Return the patients of ``val``; warns once if they are the training patients."""
        if self.val is not None:
            return self.val
        there = dict.fromkeys(s.patient for s in self.scans if s.orientation == "axial" and s.path.exists())
        if further := [patient for patient in there if patient not in (*self.train, *self.test, *_TEST)]:
            return further
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s: no patient is left for validation, so the training patients (%s) are used: validation results are "
                "not held out, and choosing a checkpoint by them is not valid; download the whole set to avoid that",
                self.name,
                ", ".join(self.train),
            )
        return self.train

    def _missing(self) -> list[Scan]:
        return [scan for scan in self.scans if scan.patient in self._needed and not scan.path.exists()]

    def _may_download(self) -> bool:
        if not sys.stdin.isatty():
            return False
        size = sum(scan.file.size for scan in self.scans if not scan.path.exists()) / 1e6
        answer = input(f"{self.name}: {size:.0f} MB from github.com, CC0 1.0; download to {self.root}? [y/N] ")
        return answer.strip().lower() in {"y", "yes"}


def _short(patient: str) -> str:
    return patient.replace("Supplementary Figure ", "S").removeprefix("Figure ")


def _scan(file: PinnedFile, root: Path) -> Scan:
    found = re.search(
        r"/((?:Supplementary )?Figure \w+)/.*(FSE|GRE|FLAIR)_(?:(Coronal|Sagittal)_)?[^/]*\.mat$", file.path
    )
    if not found:
        raise InputError(f"the manifest lists {file.path!r}; expected .../Figure NAME/... with FSE, GRE or FLAIR in it")
    figure, contrast, other = found.groups()
    patient, orientation = _short(figure), (other or "axial").lower()
    path = root / f"{patient}_{contrast}.h5"
    if other:
        path = root / "other_orientations" / f"{patient}_{contrast}_{orientation}.h5"
    return Scan(file, patient, figure, contrast, orientation, path)


def _convert(scan: Scan, content: bytes) -> None:
    arrays = [v for k, v in loadmat(io.BytesIO(content)).items() if not k.startswith("__") and np.ndim(v) == 3]
    if len(arrays) != 1 or arrays[0].shape[:2].count(_READOUT) != 1:
        shapes = ", ".join(str(a.shape) for a in arrays) or "none"
        raise InputError(
            f"{scan.file.path} holds 3-D arrays of shape {shapes}; expected one, with {_READOUT} readout samples along "
            "one of its first two axes only"
        )
    readout = arrays[0].shape.index(_READOUT)
    kspace = np.moveaxis(arrays[0], (2, readout, 1 - readout), (0, 1, 2))  # (slice, readout, phase)
    columns = np.abs(kspace).max(axis=(0, 1))
    acquired = np.flatnonzero(columns > 1e-9 * columns.max())
    first, last = int(acquired[0]), int(acquired[-1]) + 1
    kspace = kspace.astype(np.complex64)
    kspace[..., :first] = kspace[..., last:] = 0
    header = Header(
        provenance="scanner",
        source="ulf_brain",
        acquired_columns=None if (first, last) == (0, kspace.shape[-1]) else (first, last),
        orientation=scan.orientation,
        contrast=scan.contrast,
    )
    write_volume(scan.path, kspace, header, patient_id=scan.figure)
