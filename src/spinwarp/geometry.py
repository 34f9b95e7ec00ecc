"""Where an image lies in the patient."""

from dataclasses import dataclass, replace

import numpy as np

from spinwarp.errors import InputError

_TOLERANCE = 1e-3  # directions of files are rounded to a few digits


@dataclass(frozen=True)
class Geometry:
    """Position and directions of a slice in patient coordinates, LPS: x to the left, y to the back, z to the head.

    The voxel ``(h // 2, w // 2)`` of an image ``(h, w)`` lies at ``position``: it is where the centred Fourier
    transform has its origin.

    Parameters
    ----------
    position : of the centre of that voxel, in mm.
    readout : unit vector, the direction in which the row index grows.
    phase : unit vector, the direction in which the column index grows.
    slice : unit vector perpendicular to both, the direction in which the slice index grows; with the other two it may
        be right- or left-handed.
    voxel_size : (readout, phase, slice) in mm; slice is the distance between the centres of two slices.

    Raises
    ------
    InputError : if a number is not finite, the directions are not perpendicular unit vectors or a size is not positive.
    """

    position: tuple[float, float, float]
    readout: tuple[float, float, float]
    phase: tuple[float, float, float]
    slice: tuple[float, float, float]
    voxel_size: tuple[float, float, float]

    def __post_init__(self) -> None:
        directions = np.array([self.readout, self.phase, self.slice], float)
        if not np.isfinite([self.position, *directions.tolist(), self.voxel_size]).all():
            raise InputError(f"a geometry consists of finite numbers; got {self}")
        if not np.allclose(directions @ directions.T, np.eye(3), atol=_TOLERANCE):
            raise InputError(
                f"readout, phase and slice direction are perpendicular unit vectors; got {directions.round(4).tolist()}"
            )
        if min(self.voxel_size) <= 0:
            raise InputError(f"a voxel has a positive size; got {self.voxel_size} mm")

    def affine(self, size: tuple[int, int]) -> np.ndarray:
        """Return the matrix ``(4, 4)`` from (row, column, slice) of an image of ``size`` = (h, w) to LPS in mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.array([self.readout, self.phase, self.slice]).T * self.voxel_size
        matrix[:3, 3] = self.position - matrix[:3, :2] @ [size[0] // 2, size[1] // 2]
        return matrix

    @staticmethod
    def from_affine(affine: np.ndarray, size: tuple[int, int]) -> "Geometry":
        """Return the geometry whose :meth:`affine` for images of ``size`` is ``affine``.

        Raises
        ------
        InputError : if its columns are not perpendicular, or one of them is zero.
        """
        steps = affine[:3, :3]
        lengths = np.linalg.norm(steps, axis=0)
        readout, phase, normal = (steps / np.where(lengths > 0, lengths, 1)).T
        return Geometry(
            _triple(affine[:3, 3] + steps[:, :2] @ [size[0] // 2, size[1] // 2]),
            _triple(readout),
            _triple(phase),
            _triple(normal),
            _triple(lengths),
        )

    def cropped(self, size: tuple[int, int], crop: tuple[int, int]) -> "Geometry":
        """Return the geometry of the central ``crop`` of an image of ``size``: an odd difference moves the centre."""
        moved = [(n - c) // 2 + c // 2 - n // 2 for n, c in zip(size, crop, strict=True)]
        shift = np.array([self.readout, self.phase]).T @ (np.array(moved) * self.voxel_size[:2])
        return self.moved(shift)

    def moved(self, shift: np.ndarray) -> "Geometry":
        """Return the geometry moved by a vector in mm."""
        return replace(self, position=_triple(np.asarray(self.position) + shift))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def to_ras(affine: np.ndarray) -> np.ndarray:
    """Turn an affine to LPS, as DICOM and MRD use, into one to RAS, as NIfTI uses; and back."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
