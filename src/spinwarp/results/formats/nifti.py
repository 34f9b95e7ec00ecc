"""Images as NIfTI, one file each for the images and for their standard deviations. Needs nibabel."""

import gzip
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from spinwarp.errors import InputError
from spinwarp.files import atomic_write
from spinwarp.geometry import to_ras
from spinwarp.results.formats.volume import Record, Volume, in_order, n_at_a_place, spacing


def path_of(folder: Path, name: str) -> Path:
    """Return the file of the images."""
    return folder / f"{name}.nii.gz"


def write(path: Path, volume: Volume) -> None:
    """Write float32 volumes whose axes are column, row and slice, with the affine to RAS as sform and qform.

    If each place has as many slices, as with echoes or repetitions, these follow each other along a fourth axis.
    Without a place, both codes are 0 (unknown), and the voxels have their size, or 1 mm if that is unknown too.

    Raises
    ------
    InputError : if the slices are no volume: not parallel, unevenly spaced, or shifted against each other.
    """
    places = volume.located("NIfTI", "voxels of 1 mm")
    order = in_order(places) if places else list(range(len(volume.images)))
    size, several = volume.images.shape[-2:], 1
    if places:
        placed = [places[i] for i in order]
        first, several = placed[0], n_at_a_place(placed)
        try:
            step = spacing(placed[::several])
        except InputError as error:
            raise InputError(
                f"{volume.name} cannot be one NIfTI volume: {error}; write format=dicom, or choose slices=START:STOP"
            ) from error
        first = replace(first, voxel_size=(*first.voxel_size[:2], step))
        affine = to_ras(first.affine((size[0], size[1])))[:, [1, 0, 2, 3]]  # the column is the first axis
    else:
        down, across, step = volume.voxel_size or (1.0, 1.0, 1.0)
        affine = np.diag([across, down, step, 1.0])
    record = replace(volume.record, slices=tuple(volume.record.slices[i] for i in order))
    for series in reversed(list(volume.series())):  # the images last: they say that the others are there
        values = series.images[order].reshape(-1, several, *size).transpose(3, 2, 0, 1)
        values = np.ascontiguousarray(values if several > 1 else values[..., 0], np.float32)
        image = nibabel.Nifti1Image(values, affine)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = series.title.encode(errors="replace")[:79]
        code = 1 if places else 0  # scanner coordinates, or unknown
        image.set_sform(affine, code)
        image.set_qform(affine, code)
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", record.to_text().encode()))
        target = path_of(path.parent, path.name.removesuffix(".nii.gz") + series.suffix)
        with atomic_write(target) as temporary:
            temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def read_record(path: Path) -> Record | None:
    """Return what made the images; None if they are not from here."""
    try:
        extensions = nibabel.Nifti1Image.from_filename(path).header.extensions
    except Exception:  # libraries raise anything on damaged files
        return None
    texts = (extension.get_content() for extension in extensions)
    decoded = (text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in texts)
    return next(filter(None, map(Record.from_text, decoded)), None)
