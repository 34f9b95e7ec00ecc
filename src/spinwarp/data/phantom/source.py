"""The embedded data set: simulated scans of procedural heads, generated from a seed on first use."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from spinwarp.acquisition import Header
from spinwarp.data.fastmri.layout import write_volume
from spinwarp.data.phantom.anatomy import head_volume, pixel_size, slice_spacing
from spinwarp.data.simulation import acquire, loop_coil_maps, smooth_phase
from spinwarp.data.source import SPLITS, check_split, random_state
from spinwarp.errors import InputError
from spinwarp.files import user_path

log = logging.getLogger(__name__)

_VERSION = 1  # increase it when the simulation makes other volumes


class Phantoms:
    """Files of simulated head scans in the fastMRI layout.

    A volume depends only on the settings, its split and its index. It is the same on every machine (up to rounding),
    whatever the order and the number of volumes.

    Parameters
    ----------
    root : folder for the files; each combination of settings gets its own sub-folder.
    n_train, n_val, n_test : number of volumes in each split.
    n_slices : slices per volume.
    height, width : pixels along the readout and the phase-encoding direction.
    n_coils : receive coils.
    snr : range of the signal-to-noise ratio, drawn per volume: mean magnitude of the head in the coil-combined image
        over the standard deviation of its complex noise.
    seed : seed of the whole data set.

    Attributes
    ----------
    folders : the folder of each split.

    Raises
    ------
    InputError : if a setting is out of range.
    """

    def __init__(
        self,
        root: str,
        n_train: int = 24,
        n_val: int = 4,
        n_test: int = 6,
        n_slices: int = 8,
        height: int = 160,
        width: int = 144,
        n_coils: int = 6,
        snr: Sequence[float] = (15.0, 250.0),
        seed: int = 0,
    ) -> None:
        if min(n_train, n_val, n_test) < 0 or min(n_slices, n_coils) < 1 or min(height, width) < 32:
            raise InputError(
                "phantoms need n_slices and n_coils of at least 1, height and width of at least 32, and no negative "
                f"number of volumes; got {n_slices=}, {n_coils=}, {height=}, {width=}, {n_train=}, {n_val=}, {n_test=}"
            )
        if len(snr) != 2 or not 0 < snr[0] <= snr[1]:
            raise InputError(f"snr={list(snr)} of the phantoms is not a range; give two positive numbers, low and high")
        self.counts = dict(zip(SPLITS, (n_train, n_val, n_test), strict=True))
        self.n_slices, self.shape, self.n_coils = n_slices, (height, width), n_coils
        self.snr, self.seed = (float(snr[0]), float(snr[1])), seed
        # the counts are not included: a larger data set reuses the files of a smaller one
        settings = [_VERSION, n_slices, height, width, n_coils, *self.snr, seed]
        fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        self.folders = {split: user_path(root) / fingerprint / split for split in SPLITS}

    def files(self, split: str) -> list[Path]:
        """Return the paths of the volumes of a split, in order; :meth:`prepare` makes them.

        Raises
        ------
        InputError : if the split is not train, val or test.
        """
        check_split(split)
        return [self.folders[split] / f"phantom_{split}_{i:04d}.h5" for i in range(self.counts[split])]

    def prepare(self) -> None:
        """Make the missing volumes.

        Each file is written atomically, so a run that was stopped continues where it left off.
        """
        todo = [(split, i, p) for split in SPLITS for i, p in enumerate(self.files(split)) if not p.exists()]
        if not todo:
            return
        log.info("making %d phantom volumes in %s", len(todo), self.folders["train"].parent)
        for split, i, path in track(todo, "making phantoms", console=Console(stderr=True)):
            kspace, contrast = self._simulate(split, i)
            pixel = pixel_size(self.shape)
            header = Header(
                provenance="phantom",
                source=path.name,
                voxel_size=(pixel, pixel, slice_spacing(self.n_slices)),
                orientation="axial",
                contrast=contrast,
            )
            write_volume(path, kspace, header, patient_id=path.stem)

    def _simulate(self, split: str, index: int) -> tuple[np.ndarray, str]:
        """Return k-space ``(slice, coil, h, w)`` of one volume, and its contrast."""
        rng = random_state(f"spinwarp phantom {self.seed} {split} {index}")
        image, contrast = head_volume(self.n_slices, self.shape, rng)
        image *= np.exp(rng.uniform(np.log(1e-4), np.log(1e-3)))  # scanners have arbitrary units
        noise_std = image[image > 0.1 * image.max()].mean() / np.exp(rng.uniform(*np.log(self.snr)))
        through_plane = np.linspace(-0.3, 0.3, self.n_slices, dtype=np.float32)[:, None, None]
        phase = smooth_phase(self.shape, rng) + through_plane * smooth_phase(self.shape, rng)
        maps = loop_coil_maps(self.n_coils, self.shape, rng)
        return acquire(image * np.exp(1j * phase), maps, float(noise_std), rng), contrast
