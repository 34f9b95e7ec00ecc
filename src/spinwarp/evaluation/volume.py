"""The protocol of an evaluation, and what it writes for a volume: its row of the results and its files.

The metrics are those of fastMRI's ``evaluate.py``. It crops target and reconstruction to squares as wide as the target.
The data range is the largest value of the cropped target volume. NMSE and PSNR are taken over the whole volume, SSIM is
the mean over its slices. That is ``crop="fastmri"``, for every data set. It can only cut height: fastMRI's script fails
on a target that is wider than tall, which is judged whole here. ``crop="none"`` judges every target whole, as fastMRI's
validation loop does, and ours in training.

``reconstructions/`` always holds whole images. Everything else in a result folder describes the cropped ones.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spinwarp.acquisition import Example, Header, center_crop
from spinwarp.metrics import VolumeMetrics, foreground
from spinwarp.renamed import old_names
from spinwarp.results import (
    CALIBRATION,
    EXAMPLES,
    RECONSTRUCTIONS,
    RESULTS,
    TARGETS,
    CalibrationCurves,
    ExampleSlice,
    Group,
    Row,
    VolumeCurves,
    split_of,
    write_calibration,
    write_examples,
    write_reconstruction,
    write_rows,
    write_target,
)
from spinwarp.uncertainty import CURVE_LEVELS, FACTORS, FRACTIONS, Calibration, Ranks, gaussian_factor, ranks_of

log = logging.getLogger("spinwarp")
_TARGET_TYPES = {True: "rss", False: "esc"}
Crop = Literal["fastmri", "none"]


def judged_size(height: int, width: int, crop: Crop) -> tuple[int, int]:
    """Return the size to which targets of ``height`` times ``width`` are cropped for the metrics."""
    return (min(height, width), width) if crop == "fastmri" else (height, width)


@dataclass(frozen=True)
class Protocol:
    """What is evaluated and how; part of every row of the results.

    Parameters
    ----------
    method, dataset, split, mask : names for the results.
    acceleration_nominal : of the mask; NaN if it has none.
    n_slices : volume -> number of evaluated slices.
    level : coverage that a conformal method promises for its Gaussian interval; NaN for other methods.
    crop : ``fastmri`` judges squares, ``none`` whole targets.
    selection : the evaluated volumes and slices of the split; empty for all.
    trained_on : volume -> ``volume`` or ``patient``, see :class:`spinwarp.results.Row`; others are left out.
    """

    method: str
    dataset: str
    split: str
    mask: str
    acceleration_nominal: float
    n_slices: dict[str, int]
    level: float = math.nan
    crop: Crop = "fastmri"
    selection: str = ""
    trained_on: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> Group:
        """The group that its rows belong to."""
        split = split_of(self.split, self.selection)
        return Group(self.dataset, split, self.mask, f"{self.acceleration_nominal:g}")

    @property
    def origin(self) -> dict[str, str]:
        """The attributes of its files of images."""
        return {"method": self.method, "data": str(self.group)}

    def calibration(self, volumes: Sequence[VolumeCurves]) -> CalibrationCurves:
        """Return the content of ``calibration.json`` for these volumes."""
        return CalibrationCurves(
            method=self.method,
            dataset=self.dataset,
            split=self.group.split,
            mask=self.mask,
            acceleration_nominal=self.acceleration_nominal,
            levels=CURVE_LEVELS,
            shares=FRACTIONS.tolist(),
            factors=FACTORS.tolist(),
            volumes=volumes,
        )


@dataclass(frozen=True)
class Measured:
    """What a method returned for a batch, on the CPU and cropped to the size of the target.

    Parameters
    ----------
    magnitude : ``(batch, h, w)`` of the image.
    std : ``(batch, h, w)`` predicted standard deviation, or None.
    samples : ``(n_samples, batch, h, w)`` magnitudes of the samples, or None.
    seconds : run time of the method alone.
    """

    magnitude: Tensor
    std: Tensor | None
    samples: Tensor | None
    seconds: float


@dataclass
class Results:
    """The contents of the files of a result folder, for the volumes so far."""

    rows: list[Row] = field(default_factory=list)
    examples: list[ExampleSlice] = field(default_factory=list)
    curves: list[VolumeCurves] = field(default_factory=list)


@dataclass(frozen=True)
class _Slice:
    """One slice: the whole image and standard deviation ``(h, w)``; target and ranks are cropped for the metrics."""

    image: Tensor
    std: Tensor | None
    target: Tensor
    ranks: Ranks | None
    acceleration: float
    mask: Tensor | None


class VolumeAccumulator:
    """Collects the slices of a volume until it can be judged: the data range needs all of them.

    Parameters
    ----------
    protocol : names for the results.
    keep : whether its middle slice becomes an example for the figures.
    """

    def __init__(self, protocol: Protocol, keep: bool) -> None:
        self.protocol = protocol
        self.keep = keep
        self._slices: dict[int, _Slice] = {}
        self._seconds = 0.0
        self._digest = hashlib.sha256()
        self._volume = ""
        self._header = Header()
        self._target_type = ""

    @property
    def is_complete(self) -> bool:
        """Whether all its slices have been added."""
        return len(self._slices) == self.protocol.n_slices[self._volume]

    def add(self, one: Example, measured: Measured, i: int) -> None:
        """Add a slice: ``one`` is item ``i`` of the measured batch."""
        assert one.target is not None
        h, w = one.target.shape[-2:]
        size = judged_size(h, w, self.protocol.crop)
        target = center_crop(one.target, size).clone()
        samples = None if measured.samples is None else center_crop(measured.samples[:, i : i + 1], size)
        self._slices[one.slice[0]] = _Slice(
            image=measured.magnitude[i],
            std=None if measured.std is None else measured.std[i],
            target=target[0],
            ranks=None if samples is None else ranks_of(samples, target),
            acceleration=float(one.acquisition.acceleration()[0]),
            mask=one.acquisition.mask[0, 0] if self.keep else None,
        )
        self._volume = one.volume[0]
        self._header = one.acquisition.headers[0] if one.acquisition.headers else Header()
        several = one.acquisition.kspace.shape[1] > 1
        self._target_type = one.target_type[0] if one.target_type else _TARGET_TYPES[several]
        self._seconds += measured.seconds / len(measured.magnitude)
        self._digest.update(one.acquisition.kspace.numpy().tobytes())

    def write(self, folder: Path, so_far: Results, save_reconstructions: bool, save_targets: bool) -> None:
        """Append the row, example and curves of this volume to those so far, and write the files of the folder."""
        data_range = torch.stack([one.target.max() for one in self._slices.values()]).max()[None]
        if not data_range:
            log.warning("the target of %s is zero after the crop, so it has no metrics", self._volume)
        metrics, calibration = VolumeMetrics(), Calibration()
        for index, one in sorted(self._slices.items()):
            image, std = self._judged(one)
            metrics.update(image, one.target[None], data_range, [self._volume], [index])
            if std is not None:
                calibration.update(image, std, one.target[None], data_range, one.ranks)
        has_std = any(one.std is not None for one in self._slices.values())
        if save_reconstructions:
            slices = [one for _, one in sorted(self._slices.items())]
            level = self.protocol.level
            # an empty slice has no standard deviation
            stds = [torch.zeros_like(one.image) if one.std is None else one.std for one in slices]
            write_reconstruction(
                folder / RECONSTRUCTIONS,
                self._volume,
                torch.stack([one.image for one in slices]).numpy(),
                torch.stack(stds).numpy() if has_std else None,
                None if math.isnan(level) else (gaussian_factor(level), level),
                origin=self.protocol.origin,
                slices=sorted(self._slices) if self.protocol.selection else None,
            )
        if save_targets:
            targets = torch.stack([one.target for _, one in sorted(self._slices.items())])
            inside = foreground(targets, data_range.expand(len(targets)))
            write_target(folder / TARGETS, self._volume, targets.numpy(), inside.numpy())
        if self.keep:
            so_far.examples.append(self._example(data_range))
            write_examples(folder / EXAMPLES, so_far.examples)
        if has_std:
            so_far.curves.append(VolumeCurves(volume=self._volume, **calibration.curves()))
            write_calibration(folder / CALIBRATION, self.protocol.calibration(so_far.curves))
        so_far.rows.append(self._row({**(calibration.numbers() if has_std else {}), **_numbers(metrics)}))
        write_rows(folder / RESULTS, so_far.rows)

    def _judged(self, one: _Slice) -> tuple[Tensor, Tensor | None]:
        """Return image and standard deviation ``(1, h, w)``, cropped for the metrics."""
        size = (one.target.shape[0], one.target.shape[1])
        return center_crop(one.image[None], size), None if one.std is None else center_crop(one.std[None], size)

    def _example(self, data_range: Tensor) -> ExampleSlice:
        index = sorted(self._slices)[len(self._slices) // 2]
        one = self._slices[index]
        image, std = self._judged(one)
        single = VolumeMetrics()
        single.update(image, one.target[None], data_range, [self._volume], [index])
        return ExampleSlice(
            volume=self._volume,
            slice=index,
            method=self.protocol.method,
            target=one.target.numpy(),
            reconstruction=image[0].numpy(),
            data_range=float(data_range),
            provenance=self._header.provenance,
            acceleration=one.acceleration,
            std=None if std is None else std[0].numpy(),
            mask=None if one.mask is None else one.mask.numpy(),
            foreground=foreground(one.target[None], data_range)[0].numpy(),
            level=self.protocol.level,
            **_numbers(single),
        )

    def _row(self, numbers: dict[str, Any]) -> Row:
        """Return the line of ``results.csv`` for the slices added so far."""
        n_slices = len(self._slices)
        h, w = next(iter(self._slices.values())).target.shape
        return Row(
            method=self.protocol.method,
            dataset=self.protocol.dataset,
            split=self.protocol.split,
            selection=self.protocol.selection,
            trained_on=self.protocol.trained_on.get(self._volume, ""),
            provenance=self._header.provenance,
            contrast=self._header.contrast or "",
            mask=self.protocol.mask,
            acceleration_nominal=self.protocol.acceleration_nominal,
            acceleration=float(np.mean([one.acceleration for one in self._slices.values()])),
            volume=self._volume,
            n_slices=n_slices,
            target_type=self._target_type,
            crop=f"{h}x{w}",
            seconds_per_slice=self._seconds / n_slices,
            input_sha256=self._digest.hexdigest()[:16],
            **numbers,
        )


def _numbers(metrics: VolumeMetrics) -> dict[str, Any]:
    return {name: float(value) for name, value in metrics.per_volume()[0].items()}


__getattr__ = old_names(__name__, VolumeUnderWay="spinwarp.evaluation.volume.VolumeAccumulator")
