"""Which batches each process of an evaluation takes."""

import pytest
from memory import MemorySource

from spinwarp.data.batches import Batch, finished_order, partition
from spinwarp.data.module import FastMRIDataModule, SliceDataset

SHAPE, OTHER = (2, 32, 40), (2, 32, 48)
VOLUMES = {"test": {"a": (3, SHAPE), "b": (4, OTHER), "c": (1, SHAPE), "d": (2, OTHER), "e": (3, SHAPE)}}


def data(batch_size: int = 1) -> FastMRIDataModule:
    return FastMRIDataModule(MemorySource(VOLUMES), None, batch_size=batch_size)


def parts(module: FastMRIDataModule, n: int) -> list[list[Batch]]:
    loader = module.loader("test", evaluate=True)
    assert isinstance(loader.dataset, SliceDataset)
    return partition(list(loader.sampler), loader.dataset.volume_of, n)


def names(module: FastMRIDataModule, batches: list[Batch]) -> list[str]:
    loader = module.loader("test", evaluate=True, batches=batches)
    return [name for example in loader for name in example.volume]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("n_shares", [1, 2, 3, 7])
def test_each_batch_of_one_process_is_taken_once_and_no_volume_is_torn(batch_size: int, n_shares: int) -> None:
    module = data(batch_size)
    shares = parts(module, n_shares)
    assert len(shares) == n_shares
    assert sorted(batch for share in shares for batch in share) == sorted(module.loader("test", evaluate=True).sampler)
    seen = [set(names(module, share)) for share in shares]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 5


def test_shares_are_even_and_keep_the_order() -> None:
    module = data()
    shares = [names(module, share) for share in parts(module, 2)]
    assert shares == [["c"] + ["b"] * 4 + ["d"] * 2, ["a"] * 3 + ["e"] * 3]


def test_volumes_that_share_a_batch_stay_together() -> None:
    module = data(batch_size=4)  # a, c and e have seven slices of one shape, so that a batch holds the end of a and c
    shares = [set(names(module, share)) for share in parts(module, 3)]
    assert {"a", "c"} <= next(share for share in shares if "a" in share)


def test_volumes_are_finished_in_the_order_of_their_shapes() -> None:
    loader = data().loader("test", evaluate=True)
    assert isinstance(loader.dataset, SliceDataset)
    assert finished_order(list(loader.sampler), loader.dataset.volume_of) == ["a", "c", "e", "b", "d"]
