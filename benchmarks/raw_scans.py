"""Raw scans of heads that are fully sampled, none of which any training saw, for ``comparison.py --raw FOLDER``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, Example, Header
from spinwarp.data.raw import open_measurement
from spinwarp.errors import InputError
from spinwarp.files import as_input_error
from spinwarp.fourier import fftc, ifftc


@dataclass(frozen=True)
class RawScan:
    """A slice: a source of one volume.

    Parameters
    ----------
    name : of the scan.
    kspace : ``(coil, h, w)`` complex64, fully sampled.
    """

    name: str
    kspace: Tensor

    def read(self, volume: "RawScan", slice_index: int) -> Example:  # noqa: ARG002
        """Return the slice; the target is the root sum of squares of all that was measured, noise included."""
        target = ifftc(self.kspace).abs().square().sum(0).sqrt()[None]
        mask = torch.ones(1, 1, 1, self.kspace.shape[-1], dtype=torch.bool)
        acquisition = Acquisition(self.kspace[None], mask, headers=(Header(source=self.name),))
        return Example(acquisition, target, target.max()[None], (self.name,), (0,))


def raw_scans(folder: Path) -> list[RawScan]:
    """Return the scans: a brain of seven coils and a sagittal head of one, both in two directions, and patient 7A.

    Parameters
    ----------
    folder : holds ``raw_multicoil`` (lab-midas/ismrm-moco-workshop, LarsonLab/MRI-education-resources) and
        ``ulf_0055T`` (bispmri/Ultra-low-field-MRI-Scanner).

    Raises
    ------
    InputError : if a file is missing.
    """
    sagittal = _there(folder / "raw_multicoil" / "head_sagittal_1ch.mat")
    whole = {"brain": brain(folder), "sagittal": open_measurement(sagittal, axes="hw").read(0).kspace[0]}
    scans = []
    for name, kspace in whole.items():
        scans += [RawScan(name, kspace), RawScan(f"{name}, turned", kspace.mT.contiguous())]
    for contrast in ("FLAIR", "FSE", "GRE"):
        path = _there(folder / "ulf_0055T" / "Figure 7A" / "0.055T" / f"0.055T_{contrast}_kspace_postEMI.mat")
        measured = open_measurement(path, axes="hws")
        scans.append(RawScan(f"0.055 T, {contrast}", measured.read(measured.n_slices // 2).kspace[0]))
    return scans


def brain(folder: Path) -> Tensor:
    """Return k-space ``(7, 256, 216)`` of the brain, which is stored as images of the coils; see :func:`raw_scans`."""
    path = _there(folder / "raw_multicoil" / "brain_7ch.npz")
    with as_input_error(path, "array of coil images"):
        images = torch.from_numpy(np.load(path)["arr_0"]).to(torch.complex64).movedim(-1, 0)
    return fftc(images.contiguous())


def _there(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"--raw needs {path}, which does not exist; docs/weights.md names the sources")
    return path
