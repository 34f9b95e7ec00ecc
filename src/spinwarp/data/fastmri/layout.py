"""The fastMRI HDF5 layout, one volume per file, and how to write it.

Layout (facebookresearch/fastMRI): ``kspace`` (slice, [coil,] h, w) complex64; ``reconstruction_rss`` or
``reconstruction_esc`` (slice, h', w') float32, for several coils and for one; ``mask``, bool or numbers, if k-space is
undersampled (``sampling.py`` lists its shapes); ``ismrmrd_header`` XML; attributes ``max``, ``norm``, ``acquisition``,
``patient_id``. Files written here add the attributes ``provenance`` and ``orientation``, and where the scan's position
in the patient is known the data set ``geometry`` (slice, 5, 3) float64: position, direction of the readout, of the
phase encoding and of the slices (LPS), and voxel size, as :class:`spinwarp.geometry.Geometry` has them; NaN if unknown.
Coil sensitivities that came with the scan are ``maps``, of the shape of ``kspace``.
"""

from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Header, center_crop
from spinwarp.data.sampling import warn_once_per_folder
from spinwarp.errors import InputError
from spinwarp.files import atomic_write
from spinwarp.fourier import ifftc
from spinwarp.geometry import Geometry

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
        _write_target(file, multicoil, target)
        _write_header(file, (h, w), header, patient_id)


def write_measurement(path: Path, slices: Iterable[Acquisition], n_slices: int) -> None:
    """Write measured slices, one after the other, in the fastMRI layout; the write is atomic.

    What was measured is stored as ``mask``, and geometry and coil maps where slices have them. The root sum of squares
    becomes the target if everything that the header calls acquired was measured, as in a data set for training;
    otherwise there is none.

    Parameters
    ----------
    path : the file to write, ``*.h5``.
    slices : batches of one; all of one shape.
    n_slices : their number.

    Raises
    ------
    InputError : if the slices differ in shape.
    """
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        masks, targets, geometries = [], [], []
        stored: h5py.Dataset | None = None
        for index, acquisition in enumerate(slices):
            kspace, mask, header = acquisition.kspace[0], acquisition.mask[0, 0], acquisition.headers[0]
            if stored is None:
                stored = file.create_dataset("kspace", (n_slices, *kspace.shape), np.complex64)
            if stored.shape[1:] != kspace.shape:
                raise InputError(
                    f"slice {index} is {_times(kspace.shape)} (coils, h, w) and the slices before it are "
                    f"{_times(stored.shape[1:])}; one file of the fastMRI layout holds slices of one shape"
                )
            stored[index] = kspace.numpy()
            if acquisition.maps is not None:
                file.require_dataset("maps", stored.shape, np.complex64)[index] = acquisition.maps[0].numpy()
            h, w = kspace.shape[-2:]
            masks.append(mask.expand(h, w).numpy())
            targets.append(rss_target(kspace[None].numpy(), header.reconstruction_size or (h, w))[0])
            known = header.geometry
            geometries.append(np.full((5, 3), np.nan) if known is None else np.array(astuple(known), float))
        lines = np.stack(masks)
        if (lines == lines[:, :1]).all():
            lines = lines[:, :1]
        first, last = header.acquired_columns or (0, w)
        if lines[..., first:last].all():
            _write_target(file, len(kspace) > 1, np.stack(targets))
        if not lines.all():
            file["mask"] = lines
        if np.isfinite(geometries).any():
            file["geometry"] = np.stack(geometries)
        _write_header(file, (h, w), header, "")


def read_geometry(path: Path, file: h5py.File, index: int) -> Geometry | None:
    """Read where a slice lies in the patient; None if the file does not say.

    Raises
    ------
    InputError : if the file's data set ``geometry`` is damaged.
    """
    if "geometry" not in file:
        return None
    stored, expected = file["geometry"], (file["kspace"].shape[0], 5, 3)
    if getattr(stored, "shape", None) != expected or stored.dtype.kind != "f":
        raise InputError(f"{path}: its data set 'geometry' is no array of numbers {expected}; repair or remove it")
    rows = np.asarray(stored[index], float)
    if np.isnan(rows).all():
        return None
    try:
        return Geometry(*(tuple(map(float, row)) for row in rows))  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{path}: its data set 'geometry' is wrong for slice {index}: {error}") from error


def read_maps(path: Path, file: h5py.File, index: int) -> torch.Tensor | None:
    """Read the coil sensitivities ``(1, coil, h, w)`` of a slice; None if the file has none of the shape of k-space.

    Raises
    ------
    InputError : if they are not finite.
    """
    if "maps" not in file:
        return None
    stored, expected = file["maps"], file["kspace"].shape
    if getattr(stored, "shape", None) != expected or len(expected) != 4 or stored.dtype.kind != "c":
        found = getattr(stored, "shape", "a group")
        warn_once_per_folder(path, f"its maps are {found}, not complex {expected} as its kspace", "they are not used")
        return None
    maps = torch.from_numpy(np.asarray(stored[index], np.complex64))[None]
    if not maps.isfinite().all():
        raise InputError(f"{path}: its data set 'maps' has NaN or infinite values in slice {index}")
    return maps


def _write_target(file: h5py.File, multicoil: bool, target: np.ndarray) -> None:
    file["reconstruction_rss" if multicoil else "reconstruction_esc"] = target.astype(np.float32, copy=False)
    file.attrs["max"] = float(target.max())
    file.attrs["norm"] = float(np.linalg.norm(target))


def _write_header(file: h5py.File, matrix: tuple[int, int], header: Header, patient_id: str) -> None:
    file["ismrmrd_header"] = header_xml(matrix, header).encode()
    file.attrs["acquisition"] = header.contrast or ""
    file.attrs["patient_id"] = patient_id
    file.attrs["provenance"] = header.provenance
    file.attrs["orientation"] = header.orientation or ""
    if header.acquired_columns is not None:
        file.attrs["padding_left"], file.attrs["padding_right"] = header.acquired_columns


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def header_xml(matrix: tuple[int, int], header: Header, n_slices: int = 1) -> str:
    """Return an ISMRMRD header with what is known; x is the readout, y the phase encoding."""
    root = ElementTree.Element("ismrmrdHeader", xmlns=_NAMESPACE)
    conditions = ElementTree.SubElement(root, "experimentalConditions")
    ElementTree.SubElement(conditions, "H1resonanceFrequency_Hz").text = "0"  # required, and unknown
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
            ElementTree.SubElement(view, axis).text = f"{mm:.9g}"
    limits = ElementTree.SubElement(encoding, "encodingLimits")
    first, last = header.acquired_columns or (0, matrix[1])
    for name, (largest, centre) in {
        "kspace_encoding_step_1": (last - first - 1, matrix[1] // 2 - first),
        "slice": (n_slices - 1, n_slices // 2),
    }.items():
        limit = ElementTree.SubElement(limits, name)
        for key, value in {"minimum": 0, "maximum": largest, "center": centre}.items():
            ElementTree.SubElement(limit, key).text = str(value)
    ElementTree.SubElement(encoding, "trajectory").text = "cartesian"
    if header.contrast:  # measurementInformation, its usual place, requires how the patient lay
        told = ElementTree.SubElement(ElementTree.SubElement(root, "userParameters"), "userParameterString")
        ElementTree.SubElement(told, "name").text = "protocolName"
        ElementTree.SubElement(told, "value").text = header.contrast
    return ElementTree.tostring(root, encoding="unicode")
