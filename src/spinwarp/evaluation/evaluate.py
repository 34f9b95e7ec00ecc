"""One protocol for every method: reconstruct a split volume by volume, measure, and write the result folder.

The protocol is that of fastMRI's ``evaluate.py`` (:mod:`spinwarp.evaluation.volume`): magnitudes at the size of the
target, cropped to squares; metrics over whole volumes, with the volume's maximum as the data range; then the mean over
volumes. A predicted standard deviation is compared with the errors. Only unfinished volumes are in memory.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from spinwarp.acquisition import Acquisition, Example, center_crop, item, slice_generator
from spinwarp.errors import InputError
from spinwarp.evaluation.volume import Measured, Protocol, Results, VolumeAccumulator
from spinwarp.progress import steps
from spinwarp.recon.base import Reconstructor, reconstruct_batch
from spinwarp.results import Row

log = logging.getLogger("spinwarp")

__all__ = ["UNFINISHED", "Protocol", "evaluate"]

UNFINISHED = "unfinished"  # the folder for the unfinished volumes of an interrupted run


def evaluate(
    reconstructor: Reconstructor,
    batches: Iterable[Example],
    protocol: Protocol,
    folder: Path,
    *,
    n_examples: int = 3,
    save_reconstructions: bool = True,
    save_targets: bool = False,
    device: str = "cpu",
    seed: int = 0,
    advance: Callable[[float], None] = lambda _: None,
    with_maps: Callable[[Acquisition], Acquisition] = lambda acquisition: acquisition,
) -> list[Row]:
    """Reconstruct and measure every volume; write ``results.csv``, ``examples.h5`` and ``reconstructions/``.

    A method that predicts standard deviations also gets a ``calibration.json``.

    ``results.csv`` grows with every finished volume. If the run fails or is interrupted, it keeps what it has; the
    finished slices of unfinished volumes go to ``unfinished/``, a result folder of its own whose rows count them.

    Parameters
    ----------
    reconstructor : the method.
    batches : examples with targets; the slices of a volume should come close together.
    protocol : names for the results.
    folder : the result folder.
    n_examples : volumes whose middle slice is kept with its target for the figures.
    save_reconstructions : write the images of each volume, with standard deviations, in fastMRI's submission layout.
    save_targets : write the targets of each volume too, from which a report takes the errors of all slices.
    device : where the method computes.
    seed : of the method's random numbers, together with the volume and the slice.
    advance : called with the slices done since the last call, fractions if the method reports them.
    with_maps : adds coil maps on the device, if the batches come without.

    Raises
    ------
    InputError : if there is nothing to evaluate, a target is missing, or the method returns NaN or infinite values.
    """
    method = reconstructor.to(device)
    chosen = _spread(sorted(protocol.n_slices), n_examples)
    under_way: dict[str, VolumeAccumulator] = {}
    so_far = Results()
    try:
        for example in batches:
            with steps(len(example), advance):
                measured = _reconstruct(method, example, device, seed, with_maps)
            for i, name in enumerate(example.volume):
                volume = under_way.setdefault(name, VolumeAccumulator(protocol, name in chosen))
                volume.add(item(example, i), measured, i)
                if volume.is_complete:
                    volume.write(folder, so_far, save_reconstructions, save_targets)
                    del under_way[name]
    except BaseException:  # Ctrl-C too
        parts = Results()
        for volume in under_way.values():
            volume.write(folder / UNFINISHED, parts, save_reconstructions, save_targets)
        if so_far.rows or parts.rows:
            n_slices = sum(row.n_slices for row in parts.rows)
            log.info("kept %d volumes in %s, and %d slices in its %s", len(so_far.rows), folder, n_slices, UNFINISHED)
        raise
    if not so_far.rows:
        raise InputError(f"no volume of the {protocol.split} split of {protocol.dataset} was evaluated")
    return so_far.rows


def _reconstruct(
    method: Reconstructor,
    example: Example,
    device: str,
    seed: int,
    with_maps: Callable[[Acquisition], Acquisition],
) -> Measured:
    if example.target is None:
        raise InputError(f"{example.volume[0]} has no reference image to evaluate against; use reconstruct.py")
    acquisition = with_maps(example.acquisition.to(device))
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
    """Return at most ``n`` names, evenly spread."""
    n = min(n, len(names))
    return {names[i * len(names) // n] for i in range(n)}


def _synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
