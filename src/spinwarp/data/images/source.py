"""The data set ``images``: multi-coil raw data simulated from a folder of magnitude images."""

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from spinwarp.acquisition import Acquisition, Example, Header
from spinwarp.data.images.formats import ImageVolume, find_images, read_slice
from spinwarp.data.images.survey import has_empty_border, is_coarse, split_by_patient, with_orientation
from spinwarp.data.patients import warn_of_shared_patients
from spinwarp.data.simulation import acquire, loop_coil_maps, measured_coil_maps, smooth_phase
from spinwarp.data.source import SPLITS, Volume, check_split
from spinwarp.errors import InputError
from spinwarp.files import user_path

_log = logging.getLogger(__name__)
_VARIANTS = 16  # sets of coil maps per split; each takes n_coils * h * w * 8 bytes in every worker


class SimulatedImages:
    """Simulated raw data of magnitude images, made as a slice is read; nothing is written to disk.

    k-space = F(maps x magnitude x exp(i smooth phase)) + noise correlated between coils. All draws depend on ``seed``,
    the volume's name and the slice: a slice is the same in every epoch and worker. Each split has its own coil maps.
    The target is the magnitude image itself, which is the noise-free root sum of squares.

    A picture or a 2-D ``.npy`` is a volume of one slice; a 3-D ``.npy``, a NIfTI file and a DICOM series are volumes.
    NIfTI files are sliced along the axis of the thickest voxels; cubic voxels give axial slices. A compressed file is
    unpacked whole for every slice unless it was one of the last two, so train on ``.nii`` or ``.npy``.

    Sub-folders decide the split: each is a patient, or they are called ``train``, ``val`` and ``test``. A flat folder
    is split by patient if the DICOM PatientID or the file names give it (``p01_0001.png``, ``sub-003_T1w_012.png``;
    see :func:`spinwarp.data.patients.patients_in`). Otherwise it is split by contiguous blocks of file numbers, never
    at random: neighbouring numbers tend to be one patient, so the splits are approximately patient-disjoint. The last
    groups become test, those before them val.

    Parameters
    ----------
    path : the folder. An ``orientation.tsv`` in it, with columns first, last and orientation, gives the orientation
        for ranges of file numbers.
    n_coils : number of simulated coils.
    noise_std : standard deviation of the complex noise of a k-space sample, as a fraction of the volume's largest
        magnitude. The transform is orthonormal, so it is the same in an image pixel.
    coil_maps : MATLAB file of measured sensitivities; None: loops around the head.
    size : (h, w), or one number for both. Images are scaled to fit, keeping proportions, and padded with zeros. None:
        each image keeps its size.
    block : runs of consecutive file numbers are cut into blocks of at most this many.
    n_val, n_test : number of patients, sub-folders or blocks in the split.
    orientations : use only these; None: all.
    seed : seed of all draws.
    """

    name = "images"

    def __init__(
        self,
        path: str | Path,
        n_coils: int = 8,
        noise_std: float = 0.01,
        coil_maps: str | Path | None = None,
        size: int | Sequence[int] | None = None,
        block: int = 50,
        n_val: int = 1,
        n_test: int = 1,
        orientations: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        if min(n_coils, block) < 1 or min(noise_std, n_val, n_test) < 0:
            raise InputError(
                f"n_coils={n_coils} and block={block} must be at least 1; noise_std={noise_std}, n_val={n_val} and "
                f"n_test={n_test} at least 0"
            )
        self.path = user_path(path)
        self.n_coils = n_coils
        self.noise_std = noise_std
        self.coil_maps = None if coil_maps is None else user_path(coil_maps)
        both = (size, size) if isinstance(size, int) else size
        self.size = None if both is None else (int(both[0]), int(both[1]))
        self.block = block
        self.n_val = n_val
        self.n_test = n_test
        self.orientations = orientations
        self.seed = seed
        self._largest: dict[str, float] = {}

    def prepare(self) -> None:
        """Check the folder, and log one warning about what makes results on it look too good.

        Raises
        ------
        InputError : if the folder, a sampled image, the coil maps or the split cannot be used.
        """
        volumes = [volume for split in SPLITS for volume in self._splits[split]]
        warn_of_shared_patients(self)
        _maps(self.coil_maps, self.n_coils, self._shape(volumes[0]), 0)
        looked_at = volumes[:: max(len(volumes) // 8, 1)][:8]
        for volume in looked_at:
            self._magnitude(volume, volume.n_slices // 2)
        findings = ["magnitude images have no measured phase, it is simulated"]
        if coarse := sum(is_coarse(volume) for volume in volumes):
            findings.append(f"{coarse} of {len(volumes)} volumes are JPEG or 8-bit, so detail and noise are quantised")
        if padded := sum(has_empty_border(read_slice(v, v.n_slices // 2)) for v in looked_at):
            findings.append(f"the border of k-space is empty in {padded} of {len(looked_at)} volumes (interpolated)")
        if not any(volume.patient or volume.subject for volume in volumes):
            findings.append("the patients are unknown, so one patient may be in two splits")
        _log.warning(
            "results on %s flatter every method and are labelled simulated: %s", self.path, "; ".join(findings)
        )

    def volumes(self, split: str) -> list[Volume]:
        """List the volumes of a split, sorted by name and number.

        Raises
        ------
        InputError : if the split is not train, val or test.
        """
        check_split(split)
        return [
            Volume(v.name, v.files[0], v.n_slices, (self.n_coils, *self._shape(v), *self._shape(v)), v.patient)
            for v in self._splits[split]
        ]

    def read(self, volume: Volume, slice_index: int) -> Example:
        """Return one simulated slice as a batch of one, in the units of the file.

        Raises
        ------
        InputError : if the image is not finite, negative, empty or not of the shape in its header.
        """
        images, split = self._found[volume.name]
        shape = self._shape(images)
        magnitude = self._magnitude(images, slice_index)
        largest = self._maximum(images, magnitude)
        rng = np.random.RandomState(_seed(self.seed, images.name, slice_index))
        maps_seed = _seed(self.seed, split, _seed(images.name) % _VARIANTS)
        maps = _maps(self.coil_maps, self.n_coils, shape, maps_seed)
        image = magnitude * np.exp(1j * smooth_phase(shape, rng).astype(np.float32))
        kspace = acquire(image, maps, self.noise_std * largest, rng)
        header = Header(
            provenance="simulated",
            source=images.files[0].name,
            orientation=images.orientation,
            voxel_size=images.voxel_size if self.size is None else None,
            geometry=images.places[slice_index] if self.size is None and images.places else None,
        )
        acquisition = Acquisition(
            kspace=torch.from_numpy(kspace)[None],
            mask=torch.ones(1, 1, 1, shape[1], dtype=torch.bool),
            headers=(header,),
        )
        target = torch.from_numpy(magnitude)[None]
        return Example(acquisition, target, torch.tensor([largest]), (images.name,), (slice_index,))

    @cached_property
    def _splits(self) -> dict[str, list[ImageVolume]]:
        found = with_orientation(self.path, find_images(self.path))
        if self.orientations is not None:
            there = sorted({v.orientation or "unknown" for v in found})
            found = [v for v in found if v.orientation in self.orientations]
            if not found:
                raise InputError(
                    f"{self.path} has no image of orientation {', '.join(self.orientations)}; it has {', '.join(there)}"
                )
        return split_by_patient(found, self.block, self.n_val, self.n_test)

    @cached_property
    def _found(self) -> dict[str, tuple[ImageVolume, str]]:
        return {volume.name: (volume, split) for split in SPLITS for volume in self._splits[split]}

    def _shape(self, volume: ImageVolume) -> tuple[int, int]:
        return self.size or volume.size

    def _magnitude(self, volume: ImageVolume, index: int) -> np.ndarray:
        where = f"{volume.files[0]}, slice {index},"
        magnitude = read_slice(volume, index)
        if magnitude.shape != volume.size or np.iscomplexobj(magnitude):
            raise InputError(f"{where} is {magnitude.dtype} {magnitude.shape}; expected real numbers {volume.size}")
        magnitude = magnitude.astype(np.float32)
        if not np.isfinite(magnitude).all():
            raise InputError(f"{where} has values that are not finite; set them to zero, or remove the file")
        # interpolation leaves small negative values; real parts and phase images go far below zero
        if magnitude.min() < -0.05 * magnitude.max():
            raise InputError(f"{where} has values down to {magnitude.min():g}; expected magnitudes of at least zero")
        return np.ascontiguousarray(_fitted(np.maximum(magnitude, 0), self._shape(volume)))

    def _maximum(self, volume: ImageVolume, magnitude: np.ndarray) -> float:
        """Return the largest value of the volume; ``magnitude`` is one of its slices. Read once per process."""
        if volume.name not in self._largest:
            slices = (
                [magnitude] if volume.n_slices == 1 else (self._magnitude(volume, i) for i in range(volume.n_slices))
            )
            self._largest[volume.name] = max(float(m.max()) for m in slices)
            if self._largest[volume.name] == 0:
                raise InputError(f"{volume.files[0]} is zero everywhere; remove it")
        return self._largest[volume.name]


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale to fit, keeping proportions, and pad with zeros around the centre."""
    h, w = image.shape
    if (h, w) == size:
        return image
    scale = min(size[0] / h, size[1] / w)
    new_h, new_w = max(round(h * scale), 1), max(round(w * scale), 1)
    # this filter has no negative lobes, so magnitudes stay positive
    scaled = np.asarray(Image.fromarray(image).resize((new_w, new_h), Image.Resampling.HAMMING))
    top, left = (size[0] - new_h) // 2, (size[1] - new_w) // 2
    return np.pad(scaled, ((top, size[0] - new_h - top), (left, size[1] - new_w - left)))


@lru_cache(maxsize=_VARIANTS)
def _maps(path: Path | None, n_coils: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    rng = np.random.RandomState(seed)
    if path is None:
        return loop_coil_maps(n_coils, shape, rng)
    return measured_coil_maps(path, n_coils, shape, rng)


def _seed(*parts: object) -> int:
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "little")
