"""Evaluation on several processes: which batches each of them takes."""

from collections.abc import Sequence

from torch.utils.data import DataLoader

from spinwarp.acquisition import Example
from spinwarp.data.module import SliceDataset
from spinwarp.data.samplers import Item

Batches = list[list[Item]]


def share_out(loader: DataLoader[Example], n_shares: int) -> list[Batches]:
    """Share the batches of one process out, whole volumes each, so that every batch stays what it was.

    A method may look at a whole batch, and draws its random numbers for one; so volumes that share a batch stay
    together too, of which there are none where ``batch_size`` divides their numbers of slices. Shares are as even as
    the volumes allow; some are empty if there are too few.

    Parameters
    ----------
    loader : of a split for evaluation; see :meth:`spinwarp.data.module.FastMRIDataModule.loader`.
    n_shares : number of processes.
    """
    groups: list[Batches] = []
    last: set[int] = set()
    for batch in _batches(loader):
        volumes = {_dataset(loader).slices[index][0] for _, index in batch}
        if groups and volumes & last:
            groups[-1].append(batch)
        else:
            groups.append([batch])
        last = volumes
    sizes = [sum(len(batch) for batch in group) for group in groups]
    taken: list[list[int]] = [[] for _ in range(n_shares)]
    for i in sorted(range(len(groups)), key=lambda i: -sizes[i]):  # the largest first, to who has least
        min(taken, key=lambda share: sum(sizes[j] for j in share)).append(i)
    return [[batch for i in sorted(share) for batch in groups[i]] for share in taken]


def finished_order(loader: DataLoader[Example]) -> list[str]:
    """Return the names of the volumes in the order in which one process finishes them."""
    dataset = _dataset(loader)
    seen = [dataset.volumes[dataset.slices[index][0]].name for batch in _batches(loader) for _, index in batch]
    return list(dict.fromkeys(reversed(seen)))[::-1]


def restricted(loader: DataLoader[Example], batches: Sequence[list[Item]]) -> DataLoader[Example]:
    """Return a loader of these batches alone."""
    return DataLoader(
        loader.dataset,
        sampler=batches,  # yields whole batches
        batch_size=None,
        num_workers=loader.num_workers,
        persistent_workers=loader.num_workers > 0,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


def _dataset(loader: DataLoader[Example]) -> SliceDataset:
    assert isinstance(loader.dataset, SliceDataset)
    return loader.dataset


def _batches(loader: DataLoader[Example]) -> Batches:
    return list(loader.sampler)
