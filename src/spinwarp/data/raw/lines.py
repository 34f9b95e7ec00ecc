"""From readouts to slices: what every scanner format shares once its headers are read.

A format lists its readouts (:data:`READOUT`) and how to read their samples (:class:`Scan`). Here they are put where
they belong in k-space, averaged, freed of readout oversampling and whitened.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, Header
from spinwarp.coils import espirit_maps, noise_covariance, whiten
from spinwarp.data.measurement import Measured
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.geometry import Geometry

log = logging.getLogger(__name__)

#: One readout. ``slice`` to ``set`` say which image it belongs to; ``column`` and ``partition`` are its place in the
#: encoded matrix. ``centre`` is the sample at the centre of k-space in the order in which the samples were taken; the
#: first ``pre`` and last ``post`` of the ``samples`` are no data. ``calibration``: only for coil maps.
READOUT = np.dtype(
    [
        *((name, np.int64) for name in ("slice", "contrast", "phase", "repetition", "set", "column", "partition")),
        *((name, np.int64) for name in ("samples", "coils", "centre", "pre", "post")),
        *((name, np.bool_) for name in ("reverse", "calibration")),
    ]
)
Samples = Callable[[np.ndarray], Iterator[np.ndarray]]
_SERIES = ("set", "phase", "repetition", "contrast")  # from slow to fast in the order of the slices
_EMPTIEST = 64  # a matrix with more samples to each measured one than this comes from a damaged header
_NOISE = 2**18  # samples of noise for each coil are enough


@dataclass(frozen=True)
class Scan:
    """What the headers of a file say.

    Parameters
    ----------
    readouts : array of :data:`READOUT`; those of images and of coil calibration.
    samples : reads readouts one after the other, each ``(coil, samples)`` complex64.
    matrix : encoded (readout, phase, partition), in samples.
    rows : that are left of the readout without its oversampling.
    partitions : that are left of the slab without its oversampling.
    header : of every slice, without geometry.
    geometry : of readout i, with the position of the centre of its slice or slab; None if unknown.
    noise : ``(coil, n)`` samples of noise, scaled to those of the readouts; None if there was no noise scan.
    """

    readouts: np.ndarray
    samples: Samples
    matrix: tuple[int, int, int]
    rows: int
    partitions: int
    header: Header
    geometry: Callable[[int], Geometry | None]
    noise: np.ndarray | None = None


@dataclass(frozen=True)
class _Image:
    """The readouts of one slice or slab."""

    readouts: np.ndarray
    calibration: np.ndarray
    geometry: Geometry | None


class Lines(Measured):
    """A measurement whose file lists readouts.

    A slab of three dimensions becomes slices along the partitions if each of its lines was measured in all of them.
    Otherwise the slices lie along the readout, where nothing is missing, and their rows and columns are both phase
    encoding.

    Parameters
    ----------
    path : of the file, for messages.
    scan : what its headers say.

    Raises
    ------
    InputError : if the headers contradict themselves or each other.
    """

    def __init__(self, path: Path, scan: Scan) -> None:
        self.scan = scan
        self._check(path)
        self._images = _images(path, scan)
        self._along_readout = scan.matrix[2] > 1 and not all(self._has_all_partitions(i) for i in self._images)
        depth = 1 if scan.matrix[2] == 1 else scan.rows if self._along_readout else scan.partitions
        super().__init__(path, len(self._images) * depth)
        self._depth = depth
        self._slab: tuple[int, Tensor, Tensor] | None = None
        self._covariance = self._noise_covariance()
        if self._along_readout:
            log.info(
                "%s: not all partitions of all lines were measured; slices are taken along the readout, and both their "
                "directions are phase encoding",
                path.name,
            )

    def read(self, index: int) -> Acquisition:
        """Read one slice as a batch of one; see :meth:`Measured.read`."""
        image = self._images[index // self._depth]
        kspace, mask = self._kspace(index)
        if not kspace.isfinite().all():
            raise InputError(f"{self.path} has NaN or infinite samples in slice {index}; convert or copy it again")
        acquisition = Acquisition(kspace[None], mask[None, None], headers=(self._header(image, index),))
        if len(image.calibration) and self._depth == 1:
            block, lines = self._assemble(image.calibration)
            maps, _ = espirit_maps(block[None, ..., 0], lines[None, None, ..., 0])
            acquisition = replace(acquisition, maps=maps)
        if self._covariance is not None:
            level = self._covariance.diagonal().real.mean().sqrt()
            white = whiten(acquisition, self._covariance / level.square())
            lines = self.scan.readouts[image.readouts][["column", "partition"]]
            averages = len(lines) / len(np.unique(lines))
            acquisition = replace(white, noise_std=(level / averages**0.5).reshape(1))
        return acquisition

    def _kspace(self, index: int) -> tuple[Tensor, Tensor]:
        """Return k-space ``(coil, h, w)`` of a slice and its mask ``(1 or h, w)``."""
        number, within = divmod(index, self._depth)
        if self._slab is None or self._slab[0] != number:
            self._slab = None  # frees its memory first
            kspace, mask = self._assemble(self._images[number].readouts)
            if self._along_readout:
                kspace = ifftc(kspace.permute(0, 2, 3, 1), (-1,))
                mask = mask.any(0)[..., None].expand(*mask.shape[1:], self._depth)
            elif self.scan.matrix[2] > 1:
                first = self.scan.matrix[2] // 2 - self.scan.partitions // 2
                kspace = ifftc(kspace, (-1,))[..., first : first + self.scan.partitions]
                mask = mask.any(-1, keepdim=True).expand(*mask.shape[:2], self._depth)
            self._slab = number, kspace, mask
        _, kspace, mask = self._slab
        lines = mask[..., within]
        lines = lines[:1] if (lines == lines[:1]).all() else lines
        return (kspace[..., within] * lines).contiguous(), lines.clone()

    def _assemble(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Put readouts into k-space ``(coil, rows, columns, partitions)``; return it and what of it was measured."""
        n, *rest = self.scan.matrix
        kspace = np.zeros((self.scan.readouts["coils"][0], n, *rest), np.complex64)
        count = np.zeros((n, *rest), np.int32)
        lines = self.scan.readouts[indices]
        for line, samples in zip(lines, self.scan.samples(indices), strict=True):
            data = samples[:, line["pre"] : line["samples"] - line["post"]]
            first = int(_first(line, n))
            place = slice(first, first + data.shape[1]), line["column"], line["partition"]
            kspace[(slice(None), *place)] += data[:, ::-1] if line["reverse"] else data
            count[place] += 1
        if count.max() > 1:
            kspace /= np.maximum(count, 1)
        whole, measured = torch.from_numpy(kspace), torch.from_numpy(count > 0)
        if self.scan.rows < n:
            first = n // 2 - self.scan.rows // 2
            image = ifftc(whole, (-3,))[:, first : first + self.scan.rows]
            at = (np.arange(self.scan.rows) - self.scan.rows // 2) * n / self.scan.rows + n // 2
            measured = measured[np.rint(at).astype(int).clip(0, n - 1)]
            whole = fftc(image, (-3,)) * measured
        return whole, measured

    def _header(self, image: _Image, index: int) -> Header:
        header, geometry = self.scan.header, image.geometry
        within, rows = index % self._depth, self.scan.rows
        if geometry is not None and self._depth > 1:
            thick, long = geometry.voxel_size[2], geometry.voxel_size[0]
            if self._along_readout:
                geometry = replace(
                    geometry.moved(np.array(geometry.readout) * long * (within - rows // 2)),
                    readout=geometry.phase,
                    phase=geometry.slice,
                    slice=geometry.readout,
                    voxel_size=(geometry.voxel_size[1], thick, long),
                )
            else:
                geometry = geometry.moved(np.array(geometry.slice) * thick * (within - self.scan.partitions // 2))
        if self._along_readout:
            header = replace(header, reconstruction_size=None, acquired_columns=None)
        voxel = header.voxel_size if geometry is None else geometry.voxel_size
        return replace(header, geometry=geometry, orientation=orientation(geometry), voxel_size=voxel)

    def _has_all_partitions(self, image: _Image) -> bool:
        """Whether every line of a slab was measured in the same partitions, and those lie about the centre."""
        lines = self.scan.readouts[image.readouts]
        measured = np.zeros(self.scan.matrix[1:], bool)
        measured[lines["column"], lines["partition"]] = True
        columns, partitions = measured.any(axis=1), measured.any(axis=0)
        centre, found = self.scan.matrix[2] // 2, np.flatnonzero(partitions)
        gap_free = len(found) == found[-1] - found[0] + 1
        central = abs((centre - found[0]) - (found[-1] - centre)) <= 1
        return bool(gap_free and central and np.array_equal(np.outer(columns, partitions), measured))

    def _check(self, path: Path) -> None:
        """Refuse headers that contradict themselves, before memory is allocated for them."""
        lines, (n, *rest) = self.scan.readouts, self.scan.matrix
        if not len(lines) or lines["calibration"].all():
            raise InputError(f"{path} has no readouts of an image; was the scan stopped, or is it an adjustment?")
        if len(set(lines["coils"].tolist())) > 1:
            found = ", ".join(map(str, sorted(set(lines["coils"].tolist()))))
            raise InputError(f"{path} has readouts with different numbers of coils ({found}), which is not supported")
        if both_directions(lines[~lines["calibration"]]):
            raise InputError(
                f"{path}: its lines were read in both directions, as in EPI, whose ghosts need a phase correction that "
                f"is not supported for this format; correct the raw data first, or use the vendor's images"
            )
        for name, size in (("column", rest[0]), ("partition", rest[1])):
            low, high = lines[name].min(), lines[name].max()
            if low < 0 or high >= size:
                raise InputError(
                    f"{path}: by its header the matrix has {size} {name}s, but its readouts lie in {low} to {high}; "
                    f"the header or the counters of the readouts are wrong"
                )
        first = _first(lines, n)
        length = lines["samples"] - lines["pre"] - lines["post"]
        wrong = np.flatnonzero((first < 0) | (length < 1) | (first + length > n))
        if len(wrong):
            line = lines[wrong[0]]
            raise InputError(
                f"{path}: a readout of {line['samples']} samples with its centre at {line['centre']} does not fit a "
                f"matrix of {n}; the header of the file is wrong or of another scan"
            )
        images = len(np.unique(lines[["slice", *_SERIES]]))
        if n * rest[0] * rest[1] * images > _EMPTIEST * int(length.sum()):
            raise InputError(
                f"{path}: by its header the matrix is {n}x{rest[0]}x{rest[1]}, but only {len(lines)} readouts are in "
                f"it; the header is wrong, or the scan was stopped"
            )

    def _noise_covariance(self) -> Tensor | None:
        """Return the covariance of the noise, or None without a noise scan that can be used."""
        noise = self.scan.noise
        if noise is None:
            return None
        try:
            covariance = noise_covariance(torch.from_numpy(noise[:, :_NOISE].astype(np.complex64)))
            whiten(Acquisition(torch.zeros(1, len(noise), 1, 1) + 0j, torch.ones(1, 1, 1, 1) > 0), covariance)
        except InputError as error:
            log.warning("%s: its noise scan is not used, so the coils stay as they are: %s", self.path.name, error)
            return None
        log.info("%s: the coils are whitened by its noise scan", self.path.name)
        return covariance


def _images(path: Path, scan: Scan) -> list[_Image]:
    """Sort the readouts into images: slices in the order of their positions, series by series."""
    lines = scan.readouts
    imaging = np.flatnonzero(~lines["calibration"])
    numbers, first = np.unique(lines["slice"][imaging], return_index=True)
    geometries = {int(n): _geometry(path, scan, int(imaging[i])) for n, i in zip(numbers, first, strict=True)}
    order, geometries = _in_space(path, numbers.tolist(), geometries)
    rank = np.argsort(order)[np.searchsorted(numbers, lines["slice"][imaging])]
    keys = np.stack([*(lines[name][imaging] for name in _SERIES), rank])
    sort = np.lexsort(keys[::-1])  # the last key counts most
    parts = np.split(imaging[sort], 1 + np.flatnonzero((np.diff(keys[:, sort]) != 0).any(axis=0)))
    # separate calibration serves all images of its slice, whatever it is counted as
    calibration = {n: np.flatnonzero((lines["slice"] == n) & lines["calibration"]) for n in order}
    images = []
    for part in parts:
        n = int(lines["slice"][part[0]])
        images.append(_Image(part, calibration[n], geometries[n]))
    counts = {name: len(np.unique(lines[name][~lines["calibration"]])) for name in reversed(_SERIES)}
    several = ", ".join(f"{number} of {name}" for name, number in counts.items() if number > 1)
    if several:
        log.info(
            "%s: besides its %d slices it counts %s; they follow each other as %d slices in all",
            path.name,
            len(order),
            several,
            len(images),
        )
    if any(len(image.calibration) for image in images) and scan.matrix[2] > 1:
        log.warning("%s: its separate calibration lines are not used, since it is three-dimensional", path.name)
    elif any(len(image.calibration) for image in images):
        log.info("%s: coil maps come from its separate calibration lines; recon.maps=given uses them", path.name)
    return images


def _geometry(path: Path, scan: Scan, index: int) -> Geometry | None:
    try:
        return scan.geometry(index)
    except InputError as error:
        log.warning("%s: %s; the image has no geometry", path.name, error)
        return None


def _in_space(
    path: Path, numbers: list[int], geometries: dict[int, Geometry | None]
) -> tuple[list[int], dict[int, Geometry | None]]:
    """Order slices along their normal if they are parallel, and set their distance."""
    known = [g for g in geometries.values() if g is not None]
    if len(known) < len(numbers) or len(known) < 2:
        return numbers, geometries
    normal = np.array(known[0].slice)
    if not all(np.allclose(g.slice, normal, atol=1e-3) for g in known):
        return numbers, geometries
    along = {n: float(np.dot(g.position, normal)) for n, g in geometries.items() if g is not None}
    order = sorted(numbers, key=along.__getitem__)
    if order != numbers:
        log.info("%s: slices are put in the order of their positions; the file counts them otherwise", path.name)
    distance = float(np.median(np.diff([along[n] for n in order])))
    if distance > 0:
        geometries = {
            n: replace(g, voxel_size=(*g.voxel_size[:2], distance)) for n, g in geometries.items() if g is not None
        }
    return order, geometries


def both_directions(lines: np.ndarray) -> bool:
    """Whether some lines of one image were read forwards and some backwards, as in EPI."""
    _, image = np.unique(lines[["slice", *_SERIES]], return_inverse=True)
    number, reverse = np.bincount(image), np.bincount(image, lines["reverse"])
    return bool(((reverse > 0) & (reverse < number)).any())


def _first(lines: np.ndarray, n: int) -> np.ndarray:
    """Return the rows of the first samples of readouts that are data, in a matrix of ``n`` rows."""
    turned = n // 2 - (lines["samples"] - lines["centre"]) + lines["post"]
    return np.where(lines["reverse"], turned, n // 2 - lines["centre"] + lines["pre"])


def orientation(geometry: Geometry | None) -> str | None:
    """Return the anatomical plane that is nearest to that of a slice; None if its geometry is unknown."""
    if geometry is None:
        return None
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(geometry.slice)))]


def acquired(first: int, last: int, n: int) -> tuple[int, int] | None:
    """Return what the scan covers of ``n`` columns if it acquired ``first`` to before ``last``; None: all.

    It covers as much on both sides of the centre. What is missing on one side is partial Fourier, the rest padding.
    """
    half = max(n // 2 - first, last - n // 2)
    covered = max(n // 2 - half, 0), min(n // 2 + half, n)
    return None if covered == (0, n) else covered
