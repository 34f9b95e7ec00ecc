"""The data set ``simulated_heads``: magnitude images of many subjects, with a new scanner in every draw."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spinwarp.acquisition import Acquisition, Example, Header
from spinwarp.data.heads.anatomy import Slice, random_phantom, without_air
from spinwarp.data.heads.scan import draw_scan
from spinwarp.data.heads.subjects import find_heads, is_among, pixels, useful_slices
from spinwarp.data.images.formats import ImageVolume
from spinwarp.data.simulation import read_maps
from spinwarp.data.source import SPLITS, Volume, check_split, random_state
from spinwarp.errors import InputError

_log = logging.getLogger(__name__)
_SAMPLES = 2**20  # most k-space samples in a slice that a small machine can train on
_INTERPOLATED = 1.3  # largest ratio of a matrix to that of the magnitude image
_RESLICED = 0.2  # fraction of the slices that are cut along another axis of the volume
# for each plane, the planes perpendicular to its rows and to its columns
_CUTS = {"axial": ("coronal", "sagittal"), "coronal": ("axial", "sagittal"), "sagittal": ("axial", "coronal")}


class SimulatedHeads:
    """Simulated raw data of heads; every draw varies what differs between scanners. Nothing is written to disk.

    A volume is one slice with its own scanner. The number of coils and the matrix depend only on the seed and the
    volume's name, so batches can be planned. Everything else (field of view, orientation, contrast, phase, coils,
    noise, padding) is drawn again in each training epoch. :meth:`read`, for validation and test, always draws the
    same. ``docs/data.md`` describes the protocol.

    The split is by subject. A subject is a sub-folder; for files in the folder itself, the number in the file name.

    Parameters
    ----------
    path : one or several folders of magnitude images, in any format of ``data=images`` or as MATLAB arrays
        (h, w, slice).
    val, test : subjects kept out of training: names of sub-folders, or ranges of file numbers such as ``10-19``.
    exclude : subjects that are not used at all.
    matrices : sizes (h, w) of k-space, h along the readout. One is drawn for each slice; coarse images draw only the
        smaller ones.
    coils : numbers of coils. One is drawn for each slice, such that coils x h x w is at most 2^20.
    coil_maps : MATLAB file of measured sensitivities. A third of the draws with at least 2 coils, and no more than
        were measured, use it; None: only loops.
    snr : range of the signal-to-noise ratio.
    phantoms : fraction of the training draws that are random shapes instead of heads.
    n_val, n_test : largest number of slices of these splits, spread evenly over their subjects.
    seed : seed of all draws.

    Raises
    ------
    InputError : if an option is out of range.
    """

    name = "simulated_heads"

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        val: Sequence[str],
        test: Sequence[str],
        exclude: Sequence[str] = (),
        matrices: Sequence[Sequence[int]] = ((128, 128), (160, 144), (192, 160), (256, 208)),
        coils: Sequence[int] = (1, 4, 8, 16),
        coil_maps: str | Path | None = None,
        snr: Sequence[float] = (8.0, 200.0),
        phantoms: float = 0.1,
        n_val: int = 64,
        n_test: int = 200,
        seed: int = 0,
    ) -> None:
        if not matrices or any(len(m) != 2 or min(m) < 32 for m in matrices):
            raise InputError(f"data.source.matrices is a list of sizes [h, w] of at least 32; got {list(matrices)}")
        if not coils or min(coils) < 1:
            raise InputError(f"data.source.coils is a list of numbers of coils of at least 1; got {list(coils)}")
        if min(coils) * min(h * w for h, w in matrices) > _SAMPLES:
            raise InputError(f"coils x h x w is at most {_SAMPLES} in data.source; lower its coils or matrices")
        if len(snr) != 2 or not 0 < snr[0] <= snr[1]:
            raise InputError(f"data.source.snr is a range of two positive numbers, low and high; got {list(snr)}")
        if not 0 <= phantoms <= 1 or min(n_val, n_test) < 1:
            raise InputError(
                f"data.source.phantoms is a fraction from 0 to 1, n_val and n_test are at least 1; got {phantoms}, "
                f"{n_val} and {n_test}"
            )
        self.folders = [Path(p).expanduser() for p in ([path] if isinstance(path, str | Path) else path)]
        self.kept_out = {"val": [str(s) for s in val], "test": [str(s) for s in test]}
        self.exclude = [str(s) for s in exclude]
        self.matrices = [(int(h), int(w)) for h, w in matrices]
        self.coils = list(coils)
        self.coil_maps = None if coil_maps is None else Path(coil_maps).expanduser()
        self.snr = (float(snr[0]), float(snr[1]))
        self.phantoms = phantoms
        self.n_slices = {"train": None, "val": n_val, "test": n_test}
        self.seed = seed

    def prepare(self) -> None:
        """Check folders, coil maps and split, and log which subjects each split has.

        Raises
        ------
        InputError : if one of them cannot be used.
        """
        if self.coil_maps is not None:
            read_maps(self.coil_maps)
        for split, scans in self._splits.items():
            subjects = sorted({v.subject for v in scans})
            named = [s for s in subjects if not s.isdigit()]
            numbered = f" and {len(subjects) - len(named)} numbered files" if len(named) < len(subjects) else ""
            _log.info(
                "%s: %d slices of %s%s", split, len(self.volumes(split)), ", ".join(named) or "no folder", numbered
            )
            self.read(self.volumes(split)[0], 0)
        _log.warning("results on simulated heads are labelled simulated: processed magnitudes flatter every method")

    def volumes(self, split: str) -> list[Volume]:
        """List the slices of a split, each as a volume, sorted by name.

        Raises
        ------
        InputError : if the split is not train, val or test.
        """
        check_split(split)
        slices = [(images, i) for images in self._splits[split] for i in useful_slices(images.n_slices)]
        n = self.n_slices[split]
        if n is not None and n < len(slices):
            slices = [slices[i] for i in np.linspace(0, len(slices) - 1, n).round().astype(int)]
        return [self._volume(images, index) for images, index in slices]

    def read(self, volume: Volume, slice_index: int) -> Example:
        """Draw the fixed scan of a slice, the same at every call."""
        return self._example(volume, random_state(self.seed, volume.name, slice_index), phantoms=0)

    def draw(self, volume: Volume, slice_index: int, generator: np.random.RandomState) -> Example:  # noqa: ARG002
        """Draw a new scan of a slice, for training."""
        return self._example(volume, generator, self.phantoms)

    def sizes(self, volume: Volume) -> list[tuple[int, int]]:
        """Return the matrices (h, w) that a slice may be drawn with."""
        return self._sizes(self._found[volume.name][0])

    def _example(self, volume: Volume, rng: np.random.RandomState, phantoms: float) -> Example:
        n_coils, h, w = volume.shape[:3]
        images, index = self._found[volume.name]
        phantom = rng.uniform() < phantoms
        there, plane = (random_phantom(rng), None) if phantom else _slice(images, index, (h, w), rng)
        scan = draw_scan(there, (n_coils, h, w), self.snr, rng, self.coil_maps)
        columns = scan.window[1]
        mask = torch.zeros(1, 1, 1, w, dtype=torch.bool)
        mask[..., columns] = True
        header = Header(
            provenance="phantom" if phantom else "simulated",
            source=volume.path.name,
            acquired_columns=None if columns == slice(0, w) else (columns.start, columns.stop),
            orientation=plane,
        )
        acquisition = Acquisition(kspace=scan.kspace[None], mask=mask, headers=(header,))
        return Example(acquisition, scan.target[None], scan.target.max()[None], (volume.name,), (0,))

    @cached_property
    def _splits(self) -> dict[str, list[ImageVolume]]:
        found = [v for v in find_heads(self.folders) if not is_among(v, self.exclude)]
        splits = {split: [v for v in found if is_among(v, self.kept_out[split])] for split in ("val", "test")}
        both = [v.subject for v in splits["val"] if v in splits["test"]]
        if both:
            raise InputError(f"subject {both[0]} is in both data.source.val and data.source.test; name it in one")
        splits["train"] = [v for v in found if v not in splits["val"] and v not in splits["test"]]
        for split in SPLITS:
            if not splits[split]:
                there = sorted({v.subject for v in found})
                listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
                raise InputError(
                    f"no subject is left for {split} in {', '.join(map(str, self.folders))}, which has {listed}; "
                    f"name the subjects kept out of training in data.source.val and data.source.test"
                )
        return {split: splits[split] for split in SPLITS}

    @cached_property
    def _found(self) -> dict[str, tuple[ImageVolume, int]]:
        return {
            _name(images, i): (images, i)
            for split in SPLITS
            for images in self._splits[split]
            for i in useful_slices(images.n_slices)
        }

    def _sizes(self, images: ImageVolume) -> list[tuple[int, int]]:
        largest = _INTERPOLATED * max(images.size)
        return [m for m in self.matrices if max(m) <= largest] or [min(self.matrices, key=max)]

    def _volume(self, images: ImageVolume, index: int) -> Volume:
        name = _name(images, index)
        rng = random_state(self.seed, name, "shape")
        matrices = self._sizes(images)
        h, w = matrices[rng.randint(len(matrices))]
        coils = [c for c in self.coils if c * h * w <= _SAMPLES] or [min(self.coils)]
        return Volume(name, images.files[0], 1, (coils[rng.randint(len(coils))], h, w, h, w))


def _slice(
    images: ImageVolume, index: int, shape: tuple[int, int], rng: np.random.RandomState
) -> tuple[Slice, str | None]:
    """Return a slice of a head and its plane; if the volume has enough slices, some are cut along another axis.

    A slice with almost no head is replaced by one nearer to the middle.
    """
    stack, bright, fraction = pixels(images)
    down, across, between = images.voxel_size or (1.0, 1.0, 1.0)
    plane, pixel = images.orientation, (down, across)
    resolved = (down / fraction[0], across / fraction[1])
    coarsest = max(down * images.size[0], across * images.size[1]) / max(shape)
    if images.n_slices >= 24 and between < 2 * coarsest and rng.uniform() < _RESLICED:
        along = rng.randint(1, 3)  # cut across rows, or across columns
        stack = stack.transpose(along, 0, 3 - along)
        pixel, resolved = ((between, p[2 - along]) for p in (pixel, resolved))
        plane = _CUTS[plane][along - 1] if plane else None
        index = int(len(stack) * rng.uniform(0.2, 0.8))
    for at in np.linspace(index, len(stack) // 2, 6).round().astype(int):
        there = without_air(stack[at].astype(np.float32) / np.float32(bright), pixel, resolved)
        if there is not None:
            return there, plane
    raise InputError(f"{images.files[0]} shows no head in its middle slices; remove it")


def _name(images: ImageVolume, index: int) -> str:
    return images.name if images.n_slices == 1 else f"{images.name}_{index:03d}"
