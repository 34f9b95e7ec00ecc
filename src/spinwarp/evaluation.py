"""One protocol for every method: reconstruct a split volume by volume, measure, and write the result folder.

The protocol is fastMRI's: magnitudes, cropped to the target, metrics over whole volumes with the volume's maximum as
the data range, then the mean over volumes. A method that claims a standard deviation is also asked how well it agrees
with the errors. Nothing is kept in memory but the volumes under way.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinwarp.acquisition import Example, center_crop, item
from spinwarp.errors import InputError
from spinwarp.metrics import VolumeMetrics
from spinwarp.progress import steps
from spinwarp.recon.base import Reconstructor, slice_generator
from spinwarp.results import EXAMPLES, RESULTS, ExampleSlice, Row, write_examples, write_reconstruction, write_rows
from spinwarp.uncertainty import Calibration, foreground

UNFINISHED = "unfinished"  # the folder of what an interrupted run had of its last volume
_TARGET_TYPES = {True: "rss", False: "esc"}


@dataclass(frozen=True)
class Protocol:
    """What is evaluated on what; part of every row of the results.

    Parameters
    ----------
    method, dataset, split, mask : names for the results.
    acceleration_nominal : of the mask; NaN where it has none.
    n_slices : number of slices of each volume.
    """

    method: str
    dataset: str
    split: str
    mask: str
    acceleration_nominal: float
    n_slices: dict[str, int]


@dataclass
class _Volume:
    """A volume under way: what its row needs."""

    metrics: VolumeMetrics = field(default_factory=VolumeMetrics)
    calibration: Calibration = field(default_factory=Calibration)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    stds: dict[int, np.ndarray] = field(default_factory=dict)
    accelerations: list[float] = field(default_factory=list)
    seconds: float = 0.0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    example: ExampleSlice | None = None
    last: Example | None = None


def evaluate(
    reconstructor: Reconstructor,
    batches: Iterable[Example],
    protocol: Protocol,
    folder: Path,
    *,
    n_examples: int = 3,
    save_reconstructions: bool = True,
    device: str = "cpu",
    seed: int = 0,
    advance: Callable[[float], None] = lambda _: None,
) -> list[Row]:
    """Reconstruct and measure every volume; write ``results.csv``, ``examples.h5`` and ``reconstructions/``.

    ``results.csv`` grows with every finished volume, so that an interrupted run keeps what it has; the finished slices
    of the volume under way go to ``unfinished/``, a result folder of its own whose row counts them.

    Parameters
    ----------
    reconstructor : the method.
    batches : examples with targets, the slices of a volume near one another.
    protocol : names for the results.
    folder : the result folder.
    n_examples : volumes whose middle slice is kept with its target for the figures.
    save_reconstructions : write the images of each volume in fastMRI's submission layout, with claimed deviations.
    device : where the method computes.
    seed : of the method's own randomness, with the volume and the slice.
    advance : called with the number of slices done since the last call, parts of slices where the method reports them.

    Raises
    ------
    InputError : if there is nothing to evaluate, a target is missing, or a method returns what is not finite.
    """
    method = reconstructor.to(device)
    chosen = _spread(sorted(protocol.n_slices), n_examples)
    under_way: dict[str, _Volume] = {}
    rows: list[Row] = []
    examples: list[ExampleSlice] = []
    try:
        for example in batches:
            with steps(len(example), advance):
                measured, stds, seconds = _reconstruct(method, example, device, seed)
            for i in range(len(example)):
                one, name = item(example, i), example.volume[i]
                volume = under_way.setdefault(name, _Volume())
                std = None if stds is None else stds[i]
                _add(volume, one, measured[i], std, seconds / len(example), name in chosen, protocol)
                if len(volume.images) == protocol.n_slices[name]:
                    rows.append(_row(volume, protocol))
                    _finish(under_way.pop(name), rows, examples, folder, name, save_reconstructions)
    except KeyboardInterrupt:
        parts = [_row(volume, protocol) for volume in under_way.values()]
        for part, volume in zip(parts, under_way.values(), strict=True):
            _finish(volume, parts, [], folder / UNFINISHED, part.volume, save_reconstructions)
        raise
    if not rows:
        raise InputError(f"no volume of the {protocol.split} split of {protocol.dataset} was evaluated")
    return rows


def _reconstruct(
    method: Reconstructor, example: Example, device: str, seed: int
) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """Magnitudes and their deviations on the CPU, cropped to the target, and the seconds that the method alone took."""
    if example.target is None:
        raise InputError(
            f"{example.volume[0]} has no reference image, so there is nothing to evaluate against; use reconstruct.py"
        )
    acquisition = example.acquisition.to(device)
    generator = slice_generator(seed, example, device)
    _synchronise(device)
    start = time.perf_counter()
    result = method(acquisition, generator=generator)
    _synchronise(device)
    seconds = time.perf_counter() - start
    size = (example.target.shape[-2], example.target.shape[-1])
    magnitude = center_crop(result.image.abs(), size).cpu()
    std = None if result.std is None else center_crop(result.std, size).cpu()
    for part, what in ((magnitude, "pixels"), (std, "standard deviations")):
        if part is not None and not torch.isfinite(part).all():
            raise InputError(
                f"the method returned NaN or infinite {what} for {example.volume[0]}, slice {example.slice[0]}"
            )
    return magnitude, std, seconds


def _add(
    volume: _Volume,
    one: Example,
    magnitude: torch.Tensor,
    std: torch.Tensor | None,
    seconds: float,
    keep: bool,
    protocol: Protocol,
) -> None:
    assert one.target is not None
    name, index = one.volume[0], one.slice[0]
    image = magnitude[None]
    volume.metrics.update(image, one.target, one.data_range, [name], [index])
    volume.images[index] = magnitude.numpy()
    if std is not None:
        volume.calibration.update(image - one.target, std[None], foreground(one.target, one.data_range))
        volume.stds[index] = std.numpy()
    volume.seconds += seconds
    volume.last = one
    volume.accelerations.append(float(one.acquisition.acceleration()[0]))
    volume.digest.update(one.acquisition.kspace.numpy().tobytes())
    if keep and index == protocol.n_slices[name] // 2:
        single = VolumeMetrics()
        single.update(image, one.target, one.data_range, [name], [index])
        volume.example = ExampleSlice(
            volume=name,
            slice=index,
            method=protocol.method,
            target=one.target[0].numpy(),
            reconstruction=magnitude.numpy(),
            data_range=float(one.data_range[0]),
            provenance=_provenance(one),
            acceleration=volume.accelerations[-1],
            std=volume.stds.get(index),
            mask=one.acquisition.mask[0, 0].numpy(),
            **_numbers(single),
        )


def _row(volume: _Volume, protocol: Protocol) -> Row:
    one = volume.last
    assert one is not None and one.target is not None
    n_slices = len(volume.images)
    return Row(
        method=protocol.method,
        dataset=protocol.dataset,
        split=protocol.split,
        provenance=_provenance(one),
        mask=protocol.mask,
        acceleration_nominal=protocol.acceleration_nominal,
        acceleration=float(np.mean(volume.accelerations)),
        volume=one.volume[0],
        n_slices=n_slices,
        target_type=_TARGET_TYPES[one.acquisition.kspace.shape[1] > 1],
        crop=f"{one.target.shape[-2]}x{one.target.shape[-1]}",
        seconds_per_slice=volume.seconds / n_slices,
        input_sha256=volume.digest.hexdigest()[:16],
        coverage=volume.calibration.coverage,
        error_correlation=volume.calibration.correlation,
        **_numbers(volume.metrics),
    )


def _numbers(metrics: VolumeMetrics) -> Any:
    return {name: float(value) for name, value in metrics.compute().items()}


def _finish(
    volume: _Volume,
    rows: Sequence[Row],
    examples: list[ExampleSlice],
    folder: Path,
    name: str,
    save_reconstructions: bool,
) -> None:
    if save_reconstructions:
        stds = _stack(volume.stds) if volume.stds else None
        write_reconstruction(folder / "reconstructions", name, _stack(volume.images), stds)
    if volume.example is not None:
        examples.append(volume.example)
        write_examples(folder / EXAMPLES, examples)
    write_rows(folder / RESULTS, rows)


def _stack(slices: dict[int, np.ndarray]) -> np.ndarray:
    return np.stack([image for _, image in sorted(slices.items())])


def _spread(names: Sequence[str], n: int) -> set[str]:
    """At most ``n`` names, evenly spread."""
    n = min(n, len(names))
    return {names[i * len(names) // n] for i in range(n)}


def _provenance(example: Example) -> str:
    return example.acquisition.headers[0].provenance if example.acquisition.headers else "unknown"


def _synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
