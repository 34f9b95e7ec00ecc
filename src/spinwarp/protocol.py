"""What one protocol makes of a volume: its slices gathered one by one, its row of the results and its files."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spinwarp.acquisition import Example
from spinwarp.metrics import VolumeMetrics
from spinwarp.results import (
    CALIBRATION,
    EXAMPLES,
    RESULTS,
    CalibrationCurves,
    ExampleSlice,
    Row,
    VolumeCurves,
    write_calibration,
    write_examples,
    write_reconstruction,
    write_rows,
)
from spinwarp.uncertainty import CURVE_LEVELS, FACTORS, SHARES, Calibration, foreground

_TARGET_TYPES = {True: "rss", False: "esc"}


@dataclass(frozen=True)
class Protocol:
    """What is evaluated on what; part of every row of the results.

    Parameters
    ----------
    method, dataset, split, mask : names for the results.
    acceleration_nominal : of the mask; NaN where it has none.
    n_slices : number of slices of each volume.
    level : the coverage that a conformal deviation promises of its Gaussian interval; NaN where it promises none.
    """

    method: str
    dataset: str
    split: str
    mask: str
    acceleration_nominal: float
    n_slices: dict[str, int]
    level: float = math.nan

    def calibration(self, volumes: Sequence[VolumeCurves]) -> CalibrationCurves:
        """Return what ``calibration.json`` holds of these volumes."""
        return CalibrationCurves(
            method=self.method,
            dataset=self.dataset,
            split=self.split,
            mask=self.mask,
            acceleration_nominal=self.acceleration_nominal,
            levels=CURVE_LEVELS,
            shares=SHARES.tolist(),
            factors=FACTORS.tolist(),
            volumes=volumes,
        )


@dataclass(frozen=True)
class Measured:
    """A batch as the method left it, on the CPU and cropped to the target.

    Parameters
    ----------
    magnitude : ``(batch, h, w)`` of the image.
    std : ``(batch, h, w)`` that the method claims, or None.
    samples : ``(n_samples, batch, h, w)`` magnitudes of its draws, or None.
    seconds : that the method alone took.
    """

    magnitude: Tensor
    std: Tensor | None
    samples: Tensor | None
    seconds: float


@dataclass
class Results:
    """What the files of a result folder hold of the volumes so far."""

    rows: list[Row] = field(default_factory=list)
    examples: list[ExampleSlice] = field(default_factory=list)
    curves: list[VolumeCurves] = field(default_factory=list)


class VolumeUnderWay:
    """A volume whose slices are being reconstructed: what its row and its files need.

    Parameters
    ----------
    protocol : names for the results.
    keep : whether its middle slice becomes an example for the figures.
    """

    def __init__(self, protocol: Protocol, keep: bool) -> None:
        self.protocol = protocol
        self.keep = keep
        self.images: dict[int, np.ndarray] = {}
        self.stds: dict[int, np.ndarray] = {}
        self.example: ExampleSlice | None = None
        self._metrics = VolumeMetrics()
        self._calibration = Calibration()
        self._accelerations: list[float] = []
        self._seconds = 0.0
        self._digest = hashlib.sha256()
        self._last: Example | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all its slices have come."""
        return self._last is not None and len(self.images) == self.protocol.n_slices[self._last.volume[0]]

    def add(self, one: Example, measured: Measured, i: int) -> None:
        """Add a slice: ``one`` is item ``i`` of the batch that was measured."""
        assert one.target is not None
        name, index = one.volume[0], one.slice[0]
        image = measured.magnitude[i : i + 1]
        self._metrics.update(image, one.target, one.data_range, [name], [index])
        self.images[index] = image[0].numpy()
        if measured.std is not None:
            std = measured.std[i : i + 1]
            samples = None if measured.samples is None else measured.samples[:, i : i + 1]
            self._calibration.update(image, std, one.target, one.data_range, samples)
            self.stds[index] = std[0].numpy()
        self._seconds += measured.seconds / len(measured.magnitude)
        self._last = one
        self._accelerations.append(float(one.acquisition.acceleration()[0]))
        self._digest.update(one.acquisition.kspace.numpy().tobytes())
        if self.keep and index == self.protocol.n_slices[name] // 2:
            self.example = self._example(one, image)

    def _example(self, one: Example, image: Tensor) -> ExampleSlice:
        assert one.target is not None
        single = VolumeMetrics()
        single.update(image, one.target, one.data_range, one.volume, one.slice)
        return ExampleSlice(
            volume=one.volume[0],
            slice=one.slice[0],
            method=self.protocol.method,
            target=one.target[0].numpy(),
            reconstruction=image[0].numpy(),
            data_range=float(one.data_range[0]),
            provenance=_provenance(one),
            acceleration=self._accelerations[-1],
            std=self.stds.get(one.slice[0]),
            mask=one.acquisition.mask[0, 0].numpy(),
            foreground=foreground(one.target, one.data_range)[0].numpy(),
            level=self.protocol.level,
            **_numbers(single),
        )

    def row(self) -> Row:
        """Return the line of ``results.csv`` for the slices that have come."""
        one = self._last
        assert one is not None and one.target is not None
        n_slices = len(self.images)
        return Row(
            method=self.protocol.method,
            dataset=self.protocol.dataset,
            split=self.protocol.split,
            provenance=_provenance(one),
            mask=self.protocol.mask,
            acceleration_nominal=self.protocol.acceleration_nominal,
            acceleration=float(np.mean(self._accelerations)),
            volume=one.volume[0],
            n_slices=n_slices,
            target_type=(one.target_type or (_TARGET_TYPES[one.acquisition.kspace.shape[1] > 1],))[0],
            crop=f"{one.target.shape[-2]}x{one.target.shape[-1]}",
            seconds_per_slice=self._seconds / n_slices,
            input_sha256=self._digest.hexdigest()[:16],
            **(self._calibration.numbers() if self.stds else {}),
            **_numbers(self._metrics),
        )

    def write(self, folder: Path, so_far: Results, save_reconstructions: bool) -> None:
        """Append its row, example and curves to those of the volumes so far, and write the files of the folder."""
        row = self.row()
        if save_reconstructions:
            stds = _stack(self.stds) if self.stds else None
            write_reconstruction(folder / "reconstructions", row.volume, _stack(self.images), stds)
        if self.example is not None:
            so_far.examples.append(self.example)
            write_examples(folder / EXAMPLES, so_far.examples)
        if self.stds:
            so_far.curves.append(VolumeCurves(volume=row.volume, **self._calibration.curves()))
            write_calibration(folder / CALIBRATION, self.protocol.calibration(so_far.curves))
        so_far.rows.append(row)
        write_rows(folder / RESULTS, so_far.rows)


def _numbers(metrics: VolumeMetrics) -> Any:
    return {name: float(value) for name, value in metrics.compute().items()}


def _stack(slices: dict[int, np.ndarray]) -> np.ndarray:
    return np.stack([image for _, image in sorted(slices.items())])


def _provenance(example: Example) -> str:
    return example.acquisition.headers[0].provenance if example.acquisition.headers else "unknown"
