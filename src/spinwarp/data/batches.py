"""Which slices make a batch, on which process, and where a run goes on."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler, SequentialSampler

from spinwarp.renamed import old_names

Item = tuple[int, int]  # (epoch, index of the slice)
Batch = list[Item]


class ShapeBatchOrder(Sampler[list[Item]]):
    """Batches of slices of one shape, split over processes.

    The order depends on the seed and the epoch alone, so that all processes agree on it and a resumed run goes on
    with it. Each process gets the same number of batches: in training the first ones are repeated to fill up; in
    evaluation too, where the volume metrics drop the repetition.

    Each item carries the epoch, from which the data set seeds its masks: they differ from epoch to epoch, yet not
    with the number of workers. Without ``shuffle`` every epoch is the first one again, masks and all.

    Parameters
    ----------
    shapes : shape of each slice; only equal ones share a batch.
    batch_size : slices a batch; a shape with fewer left makes a smaller one.
    shuffle : draw the order anew each epoch.
    seed : of the order.
    start : (epoch, batch) at which a resumed run goes on: that epoch leaves out the batches before, on each process.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.shapes = shapes
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.start = start
        self.epoch = start[0]  # workers begin to load before Lightning tells the epoch

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
    """Batches in the order of the slices; Lightning's ``overfit_batches`` lets no other kind of sampler be.

    Parameters
    ----------
    shapes, batch_size, start : as above.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], batch_size: int, start: tuple[int, int] = (0, 0)) -> None:
        ShapeBatchOrder.__init__(self, shapes, batch_size, shuffle=False, start=start)


def partition(batches: Sequence[Batch], volume_of: Callable[[int], str], n: int) -> list[list[Batch]]:
    """Divide the batches of an evaluation among processes; whole volumes each, and every batch stays what it was.

    A method may look at a whole batch and draws its random numbers for one. Volumes that share a batch therefore stay
    together; there are none where the batch size divides their numbers of slices. The parts are as even as the volumes
    allow. Some are empty if there are too few volumes.

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
    """Return the names of the volumes in the order in which one process finishes them."""
    seen = [volume_of(index) for batch in batches for _, index in batch]
    return list(dict.fromkeys(reversed(seen)))[::-1]


def _world() -> tuple[int, int]:
    """Rank of this process and number of processes; asked when iterating, for the sampler is made before they start."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


__getattr__ = old_names(__name__, ShapeBatchSampler="spinwarp.data.batches.ShapeBatchOrder")
