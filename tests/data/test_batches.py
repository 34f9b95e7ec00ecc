"""Which slices make a batch, on which process."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinwarp.data import batches as data_batches
from spinwarp.data.batches import ShapeBatchOrder

SMALL, LARGE, OTHER = (2, 32, 40, 32, 32), (2, 32, 48, 32, 32), (4, 32, 40, 32, 32)
SHAPES = [SMALL] * 7 + [LARGE] * 4 + [SMALL] * 2 + [OTHER]

shape_lists = st.lists(st.sampled_from([SMALL, LARGE, OTHER]), min_size=1, max_size=30)


def indices(sampler: ShapeBatchOrder) -> list[list[int]]:
    return [[index for _, index in batch] for batch in sampler]


def on_each_process(sampler: ShapeBatchOrder, world: int, monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    found = []
    for rank in range(world):
        monkeypatch.setattr(data_batches, "_world", lambda rank=rank: (rank, world))
        found.append(indices(sampler))
        assert len(found[-1]) == len(sampler)
    return found


@given(shapes=shape_lists, batch_size=st.integers(1, 5), shuffle=st.booleans(), seed=st.integers(0, 99))
def test_an_epoch_has_each_slice_once_in_batches_of_one_shape(
    shapes: list[tuple[int, ...]], batch_size: int, shuffle: bool, seed: int
) -> None:
    sampler = ShapeBatchOrder(shapes, batch_size, shuffle, seed)
    batches = indices(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(shapes)))
    assert all(len({shapes[i] for i in batch}) == 1 for batch in batches)
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert len(batches) == len(sampler)
    smaller = Counter(shapes[batch[0]] for batch in batches if len(batch) < batch_size)
    assert all(n == 1 for n in smaller.values())  # at most one remainder for each shape


def test_batches_keep_to_the_order_of_the_slices_in_evaluation() -> None:
    assert indices(ShapeBatchOrder(SHAPES, 3, shuffle=False)) == [
        [0, 1, 2], [3, 4, 5], [6, 11, 12], [7, 8, 9], [10], [13],
    ]  # fmt: skip


def test_the_epoch_travels_with_each_slice() -> None:
    sampler = ShapeBatchOrder(SHAPES, 2, shuffle=True)
    sampler.set_epoch(7)
    assert {epoch for batch in sampler for epoch, _ in batch} == {7}


def test_the_order_differs_between_epochs_and_comes_back_with_the_seed() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = ShapeBatchOrder(SHAPES, 2, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return indices(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 3) == order(0, 3)
    assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_iterating_twice_in_one_epoch_gives_the_same_order() -> None:
    sampler = ShapeBatchOrder(SHAPES, 2, shuffle=True, seed=5)
    assert indices(sampler) == indices(sampler)


def test_the_order_without_shuffling_is_the_same_in_every_epoch() -> None:
    sampler = ShapeBatchOrder(SHAPES, 2, shuffle=False)
    first = indices(sampler)
    sampler.set_epoch(1)
    assert indices(sampler) == first


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_cover_everything_with_equal_counts(
    world: int, batch_size: int, shuffle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = ShapeBatchOrder(SHAPES, batch_size, shuffle, seed=1)
    alone = indices(sampler)
    processes = on_each_process(sampler, world, monkeypatch)
    assert len({len(batches) for batches in processes}) == 1
    together = Counter(tuple(batch) for batches in processes for batch in batches)
    assert together.keys() == {tuple(batch) for batch in alone}  # they agree on what the batches are
    n_repeated = sum(together.values()) - len(alone)
    assert 0 <= n_repeated < world  # no more than fills up the last round


@given(shapes=shape_lists, batch_size=st.integers(1, 4), world=st.integers(1, 40), shuffle=st.booleans())
def test_any_number_of_processes_covers_everything(
    shapes: list[tuple[int, ...]], batch_size: int, world: int, shuffle: bool
) -> None:
    sampler = ShapeBatchOrder(shapes, batch_size, shuffle)
    with pytest.MonkeyPatch.context() as monkeypatch:
        processes = on_each_process(sampler, world, monkeypatch)
    assert {i for batches in processes for batch in batches for i in batch} == set(range(len(shapes)))


def test_two_processes_train_on_the_order_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = ShapeBatchOrder([SMALL] * 8, 1, shuffle=True, seed=2)
    alone = indices(sampler)
    even, odd = on_each_process(sampler, 2, monkeypatch)
    assert [batch for pair in zip(even, odd, strict=True) for batch in pair] == alone


def test_in_evaluation_a_process_has_neighbouring_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = on_each_process(ShapeBatchOrder([SMALL] * 8, 1, shuffle=False), 2, monkeypatch)
    assert processes == [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]
