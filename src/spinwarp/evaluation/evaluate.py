"""One protocol for every method: reconstruct a split volume by volume, measure, and write the result folder.

The protocol is that of fastMRI's ``evaluate.py`` (:mod:`spinwarp.evaluation.volume`): magnitudes at the size of the
target, cropped to squares, metrics over whole volumes with the volume's maximum as the data range, then the mean over
volumes. A method that claims a standard deviation is also asked how well it agrees with the errors. Nothing is kept in
memory but the volumes under way.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from spinwarp.acquisition import Example, center_crop, item, slice_generator
from spinwarp.errors import InputError
from spinwarp.evaluation.volume import Measured, Protocol, Results, VolumeUnderWay
from spinwarp.progress import steps
from spinwarp.recon.base import Reconstructor, reconstruct_batch
from spinwarp.results import Row

log = logging.getLogger("spinwarp")

__all__ = ["UNFINISHED", "Protocol", "evaluate"]

UNFINISHED = "unfinished"  # the folder of what an interrupted run had of its last volume


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

    A method that claims deviations leaves ``calibration.json`` too.

    ``results.csv`` grows with every finished volume. Where the run is interrupted or fails, it keeps what it has; the
    finished slices of the volume under way go to ``unfinished/``, a result folder of its own whose row counts them.

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
    under_way: dict[str, VolumeUnderWay] = {}
    so_far = Results()
    try:
        for example in batches:
            with steps(len(example), advance):
                measured = _reconstruct(method, example, device, seed)
            for i, name in enumerate(example.volume):
                volume = under_way.setdefault(name, VolumeUnderWay(protocol, name in chosen))
                volume.add(item(example, i), measured, i)
                if volume.is_complete:
                    volume.write(folder, so_far, save_reconstructions)
                    del under_way[name]
    except BaseException:  # Ctrl-C too
        parts = Results()
        for volume in under_way.values():
            volume.write(folder / UNFINISHED, parts, save_reconstructions)
        if so_far.rows or parts.rows:
            n_slices = sum(row.n_slices for row in parts.rows)
            log.info("kept %d volumes in %s, and %d slices in its %s", len(so_far.rows), folder, n_slices, UNFINISHED)
        raise
    if not so_far.rows:
        raise InputError(f"no volume of the {protocol.split} split of {protocol.dataset} was evaluated")
    return so_far.rows


def _reconstruct(method: Reconstructor, example: Example, device: str, seed: int) -> Measured:
    if example.target is None:
        raise InputError(
            f"{example.volume[0]} has no reference image, so there is nothing to evaluate against; use reconstruct.py"
        )
    acquisition = example.acquisition.to(device)
    generator = slice_generator(seed, example, device)
    names = [f"{volume}, slice {index}," for volume, index in zip(example.volume, example.slice, strict=True)]
    _synchronise(device)
    start = time.perf_counter()
    result = reconstruct_batch(method, acquisition, generator, names)
    _synchronise(device)
    seconds = time.perf_counter() - start
    size = (example.target.shape[-2], example.target.shape[-1])
    magnitude = center_crop(result.image.abs(), size).cpu()
    std = None if result.std is None else center_crop(result.std, size).cpu()
    samples = None if result.samples is None else center_crop(result.samples.abs(), size).cpu()
    for part, what in ((magnitude, "pixels"), (std, "standard deviations")):
        if part is not None and not torch.isfinite(part).all():
            raise InputError(
                f"the method returned NaN or infinite {what} for {example.volume[0]}, slice {example.slice[0]}"
            )
    return Measured(magnitude, std, samples, seconds)


def _spread(names: Sequence[str], n: int) -> set[str]:
    """At most ``n`` names, evenly spread."""
    n = min(n, len(names))
    return {names[i * len(names) // n] for i in range(n)}


def _synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
