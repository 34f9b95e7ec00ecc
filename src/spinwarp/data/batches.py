"""Which slices make a batch, on which process, and where a run continues."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler, SequentialSampler

from spinwarp.renamed import old_names

Item = tuple[int, int]  # (epoch, index of the slice)
Batch = list[Item]


@dataclass(eq=False)
class ShapeBatchOrder(Sampler[list[Item]]):
    """The order of batches of slices of one shape, divided among processes.

    The order depends on the seed and the epoch alone: all processes agree on it, and a resumed run continues it. Each
    process gets the same number of batches. Training repeats the first ones to fill up. So does evaluation, and the
    volume metrics drop the repetition.

    Each item carries the epoch, which seeds its mask: masks differ between epochs, but do not depend on the number of
    workers. Without ``shuffle`` every epoch repeats the first, masks included.

    Parameters
    ----------
    shapes : shape of each slice; only equal ones go into one batch.
    batch_size : slices in a batch; the last batch of a shape may be smaller.
    shuffle : draw a new order in each epoch.
    seed : of the order.
    start : (epoch, batch) at which a resumed run continues: each process leaves out the batches of that epoch before
        it.
    """

    shapes: Sequence[tuple[int, ...]]
    batch_size: int
    shuffle: bool
    seed: int = 0
    start: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.epoch = self.start[0]  # workers begin to load before Lightning calls set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        counts = np.unique([hash(shape) for shape in self.shapes], return_counts=True)[1]
        n_batches = int(sum(-(-count // self.batch_size) for count in counts))
        return -(-n_batches // _world()[1])

    def __iter__(self) -> Iterator[list[Item]]:
        rank, world = _world()
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.shapes)) if self.shuffle else np.arange(len(self.shapes))
        buckets: dict[tuple[int, ...], list[int]] = {}
        for index in order:
            buckets.setdefault(tuple(self.shapes[index]), []).append(int(index))
        batches = [
            bucket[start : start + self.batch_size]
            for bucket in buckets.values()
            for start in range(0, len(bucket), self.batch_size)
        ]
        if self.shuffle:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        n_each = -(-len(batches) // world)
        positions = range(rank, n_each * world, world)
        if not self.shuffle:  # neighbouring slices stay on one process, so that it writes whole volumes
            positions = range(rank * n_each, (rank + 1) * n_each)
        n_done = self.start[1] if self.epoch == self.start[0] else 0
        for position in positions[n_done:]:
            yield [(self.epoch if self.shuffle else 0, index) for index in batches[position % len(batches)]]


class InOrder(ShapeBatchOrder, SequentialSampler):  # type: ignore[misc]
    """Batches in the order of the slices; Lightning's ``overfit_batches`` keeps only a ``SequentialSampler``.

    Parameters
    ----------
    shapes, batch_size, start : see :class:`ShapeBatchOrder`.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], batch_size: int, start: tuple[int, int] = (0, 0)) -> None:
        ShapeBatchOrder.__init__(self, shapes, batch_size, shuffle=False, start=start)


def partition(batches: Sequence[Batch], volume_of: Callable[[int], str], n: int) -> list[list[Batch]]:
    """Divide the batches of an evaluation among processes; each gets whole volumes, and the batches stay the same.

    A method may use a whole batch, and draws its random numbers for one. Volumes that have slices in one batch
    therefore stay together; this happens only if the batch size does not divide their numbers of slices. The parts are
    as even as the volumes allow. Some are empty if there are fewer volumes than processes.

    Parameters
    ----------
    batches : of one process.
    volume_of : the name of the volume of a slice.
    n : number of processes.
    """
    groups: list[list[Batch]] = []
    last: set[str] = set()
    for batch in batches:
        volumes = {volume_of(index) for _, index in batch}
        if groups and volumes & last:
            groups[-1].append(batch)
        else:
            groups.append([batch])
        last = volumes
    sizes = [sum(len(batch) for batch in group) for group in groups]
    taken: list[list[int]] = [[] for _ in range(n)]
    for i in sorted(range(len(groups)), key=lambda i: -sizes[i]):  # the largest first, to the process with the least
        min(taken, key=lambda part: sum(sizes[j] for j in part)).append(i)
    return [[batch for i in sorted(part) for batch in groups[i]] for part in taken]


def finished_order(batches: Sequence[Batch], volume_of: Callable[[int], str]) -> list[str]:
    """Return the names of the volumes in the order in which a single process finishes them."""
    seen = [volume_of(index) for batch in batches for _, index in batch]
    return list(dict.fromkeys(reversed(seen)))[::-1]


def _world() -> tuple[int, int]:
    """Return rank and number of processes; called while iterating, since the order is made before they start."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


__getattr__ = old_names(__name__, ShapeBatchSampler="spinwarp.data.batches.ShapeBatchOrder")
