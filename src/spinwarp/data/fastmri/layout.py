"""The fastMRI HDF5 layout, one volume per file, and how to write it.

Layout (facebookresearch/fastMRI): ``kspace`` (slice, [coil,] h, w) complex64; ``reconstruction_rss`` or
``reconstruction_esc`` (slice, h', w') float32, for several coils and for one; ``mask``, bool or numbers, if k-space is
undersampled (``sampling.py`` lists its shapes); ``ismrmrd_header`` XML; attributes ``max``, ``norm``, ``acquisition``,
``patient_id``. Files written here add the attributes ``provenance`` and ``orientation``.
"""

from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import torch

from spinwarp.acquisition import Header, center_crop
from spinwarp.files import atomic_write
from spinwarp.fourier import ifftc

_NAMESPACE = "http://www.ismrm.org/ISMRMRD"


def rss_target(kspace: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the root sum of squares ``(slice, h', w')`` of fully sampled ``(slice, coil, h, w)``, cropped to size."""
    slices = [
        center_crop(ifftc(torch.from_numpy(k.astype(np.complex64))), size).abs().square().sum(0).sqrt() for k in kspace
    ]
    return torch.stack(slices).numpy()


def write_volume(
    path: Path, kspace: np.ndarray, header: Header, *, target: np.ndarray | None = None, patient_id: str = ""
) -> None:
    """Write one fully sampled volume in the fastMRI layout.

    The write is atomic: a killed run leaves no half-written file, and two runs may write the same volume at once.

    Parameters
    ----------
    path : the file to write, ``*.h5``.
    kspace : ``(slice, coil, h, w)``, or ``(slice, h, w)`` for a single-coil volume.
    header : its reconstruction_size, acquired_columns, voxel_size, orientation, contrast and provenance are stored.
    target : ``(slice, h', w')``; None: the root sum of squares of k-space, cropped to the reconstruction size.
    patient_id : the patient, for splits by patient.
    """
    multicoil = kspace.ndim == 4 and kspace.shape[1] > 1
    h, w = kspace.shape[-2:]
    size = header.reconstruction_size or (h, w)
    if target is None:
        target = rss_target(kspace if kspace.ndim == 4 else kspace[:, None], size)
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file["kspace"] = kspace.astype(np.complex64, copy=False)
        file["reconstruction_rss" if multicoil else "reconstruction_esc"] = target.astype(np.float32, copy=False)
        file["ismrmrd_header"] = _header_xml((h, w), header).encode()
        file.attrs["max"] = float(target.max())
        file.attrs["norm"] = float(np.linalg.norm(target))
        file.attrs["acquisition"] = header.contrast or ""
        file.attrs["patient_id"] = patient_id
        file.attrs["provenance"] = header.provenance
        file.attrs["orientation"] = header.orientation or ""
        if header.acquired_columns is not None:
            file.attrs["padding_left"], file.attrs["padding_right"] = header.acquired_columns


def _header_xml(matrix: tuple[int, int], header: Header) -> str:
    """Return the part of an ISMRMRD header that fastMRI's readers use; x is the readout, y the phase encoding."""
    root = ElementTree.Element("ismrmrdHeader", xmlns=_NAMESPACE)
    encoding = ElementTree.SubElement(root, "encoding")
    # ISMRMRD cannot express an unknown field of view; the reader takes zero millimetres for unknown
    voxel = header.voxel_size or (0.0, 0.0, 0.0)
    recon = header.reconstruction_size or matrix
    for name, (x, y) in {"encodedSpace": matrix, "reconSpace": recon}.items():
        space = ElementTree.SubElement(encoding, name)
        size = ElementTree.SubElement(space, "matrixSize")
        for axis, n in zip("xyz", (x, y, 1), strict=True):
            ElementTree.SubElement(size, axis).text = str(n)
        view = ElementTree.SubElement(space, "fieldOfView_mm")
        for axis, mm in zip("xyz", (x * voxel[0], y * voxel[1], voxel[2]), strict=True):
            ElementTree.SubElement(view, axis).text = f"{mm:g}"
    limits = ElementTree.SubElement(ElementTree.SubElement(encoding, "encodingLimits"), "kspace_encoding_step_1")
    first, last = header.acquired_columns or (0, matrix[1])
    for name, value in {"minimum": 0, "maximum": last - first - 1, "center": matrix[1] // 2 - first}.items():
        ElementTree.SubElement(limits, name).text = str(value)
    return ElementTree.tostring(root, encoding="unicode")
