"""Batches of simulated scans for ``train_heads.py``, made by other processes; each lies in one piece of memory."""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from spinwarp.acquisition import Acquisition, Example
from spinwarp.data.heads import SimulatedHeads
from spinwarp.data.row_block import RowBlock
from spinwarp.data.source import Volume
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.files import warn_once
from spinwarp.masks import GaussianPlaneMask, Mask, MixedMask, PoissonDiscMask

ROWS = 64  # of a block; undersampling by lines does not couple rows
DRAWN = 3  # blocks of each simulated scan: simulating takes longer than cutting
KEPT = 256  # batches that may be used again
POINTS = 0.7  # part of the whole images that are undersampled by points; the others by lines


@dataclass(frozen=True)
class Shape:
    """What the items of a batch have in common: coils, height, width, and whether they are whole images."""

    coils: int
    h: int
    w: int
    whole: bool = False

    def layout(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parts of a batch of ``n``; complex numbers are two real ones."""
        images = (n, self.coils, self.h, self.w, 2)
        mask = (n, 1, self.h if self.whole else 1, self.w)
        return {
            "kspace": images,
            "maps": images,
            "target": (n, self.h, self.w),
            "mask": mask,
            "noise": (n,),
            "range": (n,),
        }

    def views(self, flat: Tensor, n: int) -> dict[str, Tensor]:
        """Return the parts of a batch that lies in one piece of memory."""
        layout = self.layout(n)
        pieces = flat.split([prod(shape) for shape in layout.values()])
        return {name: piece.view(layout[name]) for name, piece in zip(layout, pieces, strict=True)}

    def empty(self, n: int) -> Tensor:
        """Return memory for a batch."""
        return torch.zeros(sum(prod(shape) for shape in self.layout(n).values()))


#: of the batches; each costs a second before training. One coil is the hardest.
WIDTHS = {
    1: (96, 113, 128, 160, 192, 216, 256), 2: (128, 160, 192, 224), 4: (96, 144, 192, 256),
    8: (128, 160, 192, 216), 12: (144, 181, 224),
}  # fmt: skip
OF_COILS = {1: 0.38, 2: 0.16, 4: 0.17, 8: 0.16, 12: 0.13}
WHOLE = ((1, 160, 160), (1, 224, 224), (4, 192, 160), (8, 128, 128), (8, 256, 192))
SHAPES = {Shape(c, ROWS, w): 0.76 * OF_COILS[c] / len(widths) for c, widths in WIDTHS.items() for w in widths}
SHAPES |= {Shape(*size, whole=True): 0.24 / len(WHOLE) for size in WHOLE}


class Batches:
    """Simulates batches.

    Parameters
    ----------
    source : of the scans.
    mask : the mixture of masks, of lines and of points.
    pixels : of a batch.
    prepare : adds coil maps and the noise level to an acquisition.
    """

    def __init__(
        self, source: SimulatedHeads, mask: MixedMask, pixels: int, prepare: Callable[[Acquisition], Acquisition]
    ) -> None:
        self.source, self.pixels, self.prepare = source, pixels, prepare
        self.lines, self.points = (
            MixedMask(
                *zip(
                    *((m, p) for m, p in zip(mask.masks, mask.probabilities, strict=True) if of_points(m) is kind),
                    strict=True,
                )
            )
            for kind in (False, True)
        )
        self.of_size: dict[tuple[int, int], list[Volume]] = {}
        for volume in source.volumes("train"):
            for size in source.sizes(volume):
                self.of_size.setdefault(size, []).append(volume)
        self.shapes = [s for s in SHAPES if self.sizes(s)]
        self.weights = np.array([SHAPES[s] for s in self.shapes]) / sum(SHAPES[s] for s in self.shapes)

    def sizes(self, shape: Shape) -> list[tuple[int, int]]:
        """Return the matrices of which a batch can be made."""
        return [size for size in self.of_size if size[1] == shape.w and (size[0] == shape.h or not shape.whole)]

    def number(self, shape: Shape) -> int:
        """Return how many items a batch of a shape has."""
        return max(2, round(self.pixels / (shape.h * shape.w)))

    def draw(self, rng: RandomState) -> tuple[Shape, Tensor]:
        """Return a batch."""
        shape = self.shapes[rng.choice(len(self.shapes), p=self.weights)]
        mask = self.points if shape.whole and rng.uniform() < POINTS else self.lines
        n = self.number(shape)
        flat = shape.empty(n)
        parts, i, failed = shape.views(flat, n), 0, 0
        while i < n:
            sizes = self.sizes(shape)
            size = sizes[rng.randint(len(sizes))]
            there = self.of_size[size]
            volume = there[rng.randint(len(there))]
            try:
                scan = self.source.draw(Volume(volume.name, volume.path, 1, (shape.coils, *size, *size)), 0, rng)
            except InputError as error:  # one slice without a head does not end a training
                warn_once(f"{volume.name} is left out: {error}")
                failed += 1
                if failed > 100:
                    raise
                continue
            for _ in range(min(1 if shape.whole else DRAWN, n - i)):
                item = self.item(scan if shape.whole else RowBlock(ROWS)(scan, rng), mask, rng)
                for name, value in item.items():
                    parts[name][i] = value
                i += 1
        return shape, flat

    def item(self, example: Example, mask: Mask, rng: RandomState) -> dict[str, Tensor]:
        """Undersample an example, and return the parts of its item."""
        scan = self.prepare(Undersample(mask)(example, rng).acquisition)
        assert scan.maps is not None
        assert scan.noise_std is not None
        assert example.target is not None
        return {
            "kspace": torch.view_as_real(scan.kspace[0]), "maps": torch.view_as_real(scan.maps[0]),
            "target": example.target[0], "mask": scan.mask[0].float(),
            "noise": scan.noise_std[0], "range": example.data_range[0],
        }  # fmt: skip


def of_points(mask: Mask) -> bool:
    """Whether a mask samples points, and not whole lines."""
    return isinstance(mask, PoissonDiscMask | GaussianPlaneMask)


def work(batches: Batches, seed: tuple[int, int], out: Any) -> None:
    """Make batches until the process is ended; put a sentence if one cannot be made."""
    torch.set_num_threads(1)
    rng = RandomState(seed)
    try:
        while True:
            out.put(batches.draw(rng))
    except KeyboardInterrupt:  # the main process says so
        return
    except Exception as error:
        out.put(f"{type(error).__name__}: {error}")
        raise


def served(made: Any, workers: Sequence[Any], seed: int, again: bool) -> Iterator[tuple[Shape, Tensor]]:
    """Return batches as they are made. If one is late and ``again`` is true, return an earlier one.

    This is "data echoing" (Choi et al., "Faster neural network training with data echoing", 2019).

    Raises
    ------
    InputError : if a process that makes batches has ended.
    """
    kept: list[tuple[Shape, Tensor]] = []
    rng = RandomState(seed)
    while True:
        try:
            batch = made.get(block=not again or len(kept) < KEPT // 4, timeout=2)
        except (queue.Empty, ConnectionError):
            if not all(worker.is_alive() for worker in workers):
                raise InputError(
                    "a process that makes batches was ended, perhaps for memory; use fewer --workers"
                ) from None
            if kept:
                yield kept[rng.randint(len(kept))]
            continue
        if isinstance(batch, str):
            raise InputError(f"a batch could not be made: {batch}")
        if again:
            batch = batch[0], batch[1].pin_memory()
            kept.append(batch)
            if len(kept) > KEPT:
                kept.pop(rng.randint(KEPT // 4))
        yield batch
