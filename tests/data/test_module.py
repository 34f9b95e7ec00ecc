"""The data module: slices of volumes, undersampled and batched."""

import pickle
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from memory import VOLUMES, MemorySource
from numpy.random import RandomState
from torch.utils.data import DataLoader

from spinwarp.acquisition import Example, acs_columns, item
from spinwarp.coils import espirit_maps, low_resolution_images, low_resolution_maps
from spinwarp.data import batches as data_batches
from spinwarp.data.fastmri import FastMRIFiles
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.source import Volume
from spinwarp.errors import InputError
from spinwarp.masks import EquispacedMask, RandomMask, seed_of

MASK = RandomMask([0.16], [4])
Slice = tuple[str, int]


def module(source: MemorySource | None = None, **settings: Any) -> FastMRIDataModule:
    return FastMRIDataModule(source or MemorySource(), **{"mask": MASK, **settings})


def slices(loader: DataLoader[Example], epoch: int = 0) -> list[list[Slice]]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [list(zip(batch.volume, batch.slice, strict=True)) for batch in loader]


def masks(loader: DataLoader[Example], epoch: int = 0) -> dict[Slice, torch.Tensor]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return {
        (batch.volume[i], batch.slice[i]): batch.acquisition.mask[i].clone()
        for batch in loader
        for i in range(len(batch))
    }


def same(one: dict[Slice, torch.Tensor], other: dict[Slice, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def everything(split: str) -> list[Slice]:
    return sorted((name, s) for name, (n, _) in VOLUMES[split].items() for s in range(n))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_an_epoch_has_each_slice_once_in_batches_of_one_shape(split: str, batch_size: int) -> None:
    loader = module(batch_size=batch_size).loader(split)
    batches = list(loader)
    seen = [pair for batch in batches for pair in zip(batch.volume, batch.slice, strict=True)]
    assert sorted(seen) == everything(split)
    widths = {name: shape[-1] for name, (_, shape) in VOLUMES[split].items()}
    for batch in batches:
        n = len(batch)
        assert n <= batch_size
        assert {widths[name] for name in batch.volume} == {batch.acquisition.kspace.shape[-1]}
        assert batch.acquisition.kspace.shape[0] == batch.acquisition.mask.shape[0] == n
        assert batch.acquisition.maps is not None and batch.acquisition.maps.shape == batch.acquisition.kspace.shape
        assert batch.target is not None and batch.target.shape[0] == n
        assert len(batch.acquisition.headers) == n
    assert len(batches) == len(loader)


def test_a_slice_is_the_same_in_whatever_batch_it_comes() -> None:
    alone = {(b.volume[0], b.slice[0]): b.acquisition.kspace[0] for b in module(batch_size=1).loader("val")}
    for batch in module(batch_size=3).loader("val"):
        for i in range(len(batch)):
            assert torch.equal(batch.acquisition.kspace[i], alone[batch.volume[i], batch.slice[i]])


@pytest.mark.parametrize("split", ["train", "val"])
def test_two_processes_cover_everything_and_agree(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = masks(module(batch_size=2).loader(split), epoch=3)
    found: list[dict[Slice, torch.Tensor]] = []
    counts = []
    for rank in range(2):
        monkeypatch.setattr(data_batches, "_world", lambda rank=rank: (rank, 2))
        loader = module(batch_size=2).loader(split)
        found.append(masks(loader, epoch=3))
        counts.append(len(slices(loader, epoch=3)))
        assert counts[-1] == len(loader)
    assert counts[0] == counts[1]
    assert same({**found[0], **found[1]}, alone)


def test_the_order_of_training_differs_between_epochs_and_is_the_same_for_the_same_seed() -> None:
    loader = module().train_dataloader()
    assert slices(loader, 0) == slices(module().train_dataloader(), 0)
    assert slices(loader, 0) != slices(loader, 1)
    assert slices(loader, 0) != slices(module(seed=1).train_dataloader(), 0)


@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader"])
def test_the_masks_of_evaluation_are_those_of_the_reference_for_the_name_of_the_file(loader: str) -> None:
    data = module(eval_mask=EquispacedMask([0.16], [4]))
    for batch in getattr(data, loader)():
        expected, n_acs = EquispacedMask([0.16], [4])(
            tuple(batch.acquisition.kspace.shape[-2:]), RandomState(seed_of(batch.volume[0]))
        )
        assert torch.equal(batch.acquisition.mask[0, 0], expected)
        assert batch.acquisition.n_acs.tolist() == [n_acs]


def test_the_masks_of_evaluation_depend_on_nothing_but_the_name() -> None:
    first = masks(module(seed=0).val_dataloader(), epoch=0)
    assert same(first, masks(module(seed=5, batch_size=2).val_dataloader(), epoch=4))
    assert all(torch.equal(mask, first[name, 0]) for (name, _), mask in first.items())  # all slices of a volume alike


def test_the_masks_of_training_change_with_epoch_seed_volume_and_slice() -> None:
    loader = module().train_dataloader()
    first = masks(loader, epoch=0)
    assert same(first, masks(loader, epoch=0))
    for other in (masks(loader, epoch=1), masks(module(seed=1).train_dataloader(), epoch=0)):
        assert first.keys() == other.keys()
        n_equal = sum(torch.equal(first[key], other[key]) for key in first)
        assert n_equal <= 1  # 33 or more columns are drawn; a repetition is possible and rare
    assert len({str(mask.int().tolist()) for mask in first.values()}) >= len(first) - 1


# torch forks its workers; Python from 3.12 on warns of that in a process with threads
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_masks_of_training_do_not_change_with_the_number_of_workers() -> None:
    settings = {"batch_size": 2, "seed": 3}
    workers = module(num_workers=2, **settings).train_dataloader()
    alone = module(num_workers=0, **settings).train_dataloader()
    orders = []
    for epoch in (0, 1):  # persistent workers must learn of the new epoch
        orders.append(slices(alone, epoch))
        assert slices(workers, epoch) == orders[-1]
        assert same(masks(workers, epoch), masks(alone, epoch))
    assert orders[0] != orders[1]


@given(rate=st.floats(0.01, 1), seed=st.integers(0, 50))
def test_sample_rates_take_their_share_and_always_the_same(rate: float, seed: int) -> None:
    source = MemorySource({"train": {f"{i}.h5": (10, (2, 32, 40)) for i in range(10)}})
    chosen = module(source, volume_sample_rate=rate, seed=seed).dataset("train").slices
    assert len(chosen) == 10 * max(round(10 * rate), 1)
    assert chosen == module(source, volume_sample_rate=rate, seed=seed).dataset("train").slices
    chosen = module(source, slice_sample_rate=rate, seed=seed).dataset("train").slices
    assert Counter(v for v, _ in chosen) == {v: max(round(10 * rate), 1) for v in range(10)}
    assert chosen == module(source, slice_sample_rate=rate, seed=seed).dataset("train").slices
    assert len(set(chosen)) == len(chosen)


def test_processes_agree_on_what_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for rank in range(2):
        monkeypatch.setattr(data_batches, "_world", lambda rank=rank: (rank, 2))
        torch.manual_seed(rank)  # each process has a random state of its own, which must not matter
        np.random.seed(rank)
        random.seed(rank)
        data = module(volume_sample_rate=0.7, slice_sample_rate=0.5)
        chosen.append(data.dataset("train").slices)
    assert chosen[0] == chosen[1]


def test_another_seed_samples_other_slices() -> None:
    found = {str(module(slice_sample_rate=0.4, seed=seed).dataset("train").slices) for seed in range(4)}
    assert len(found) > 1


def test_sample_rates_and_edges_leave_evaluation_alone() -> None:
    data = module(volume_sample_rate=0.1, slice_sample_rate=0.1, edge_slices=1)
    for split in ("val", "test"):
        assert sorted(pair for batch in slices(data.loader(split)) for pair in batch) == everything(split)


def test_edge_slices_are_left_out_at_either_end() -> None:
    dataset = module(edge_slices=1).dataset("train")
    assert [(dataset.volumes[v].name, s) for v, s in dataset.slices] == [
        ("a.h5", 1), ("b.h5", 1), ("b.h5", 2), ("c.h5", 1), ("c.h5", 2), ("c.h5", 3),
    ]  # fmt: skip
    assert {v for v, _ in module(edge_slices=2).dataset("train").slices} == {2}


@pytest.mark.parametrize("edge", [3, 4, 100])
def test_leaving_out_every_slice_is_refused(edge: int) -> None:
    with pytest.raises(InputError, match="the train split of memory has no slices left"):
        module(edge_slices=edge).dataset("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"maps": "esprit"}, r"data\.maps=esprit is not low_resolution, espirit or none"),
        ({"batch_size": 0}, r"data\.batch_size is at least 1; got 0"),
        ({"volume_sample_rate": 0.0}, r"data\.volume_sample_rate is a fraction above 0 and up to 1; got 0\.0"),
        ({"slice_sample_rate": 1.5}, r"data\.slice_sample_rate is a fraction above 0 and up to 1; got 1\.5"),
        ({"slice_sample_rate": float("nan")}, "slice_sample_rate"),
        ({"edge_slices": -1}, r"data\.edge_slices is at least 0; got -1"),
        ({"num_workers": -1}, r"data\.num_workers is at least 0; got -1"),
    ],
)
def test_options_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module(**settings)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match="split='dev' is not one of train, val, test"):
        module().dataset("dev")


def test_data_without_a_mask_are_left_as_measured() -> None:
    (batch, *_) = module(mask=None).val_dataloader()
    assert batch.acquisition.mask.all()
    assert batch.acquisition.n_acs.tolist() == [40]


def test_the_mask_of_evaluation_is_that_of_training_unless_another_is_given() -> None:
    other = EquispacedMask([0.16], [4])
    assert module().eval_mask is MASK
    assert module(eval_mask=other).eval_mask is other
    assert module(eval_mask=other).dataset("train").undersample.mask is MASK


@pytest.mark.parametrize(("maps", "has_maps"), [("low_resolution", True), ("none", False)])
def test_maps_come_with_the_acquisition_if_asked_for(maps: str, has_maps: bool) -> None:
    (batch, *_) = module(maps=maps).loader("val")
    assert (batch.acquisition.maps is not None) is has_maps


class Watch(LightningModule):
    """A model that only looks at its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Example] = []

    def training_step(self, batch: Example, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch)
        return 0 * self.weight

    def validation_step(self, batch: Example, batch_idx: int) -> None:
        self.seen.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers", "ignore:.*LeafSpec")
def test_a_training_gets_the_maps_after_the_loader_and_bit_for_bit_those_of_each_slice(tmp_path: Path) -> None:
    data, watch = module(batch_size=3), Watch()
    assert {batch.acquisition.maps for batch in data.train_dataloader()} == {None}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(watch, datamodule=data)
    splits = {volume.name: split for split in ("train", "val") for volume in data.source.volumes(split)}
    assert {splits[name] for batch in watch.seen for name in batch.volume} == {"train", "val"}
    for batch in watch.seen:
        for i in range(len(batch)):
            one = item(batch, i).acquisition
            assert torch.equal(one.maps, low_resolution_maps(one.kspace, acs_columns(one.mask)))


def test_a_batch_of_slices_with_and_without_a_centre_cannot_get_maps() -> None:
    data = module(batch_size=2)
    (batch, *_) = data.loader("val", maps=False)
    mask = batch.acquisition.mask.clone()
    mask[1, ..., mask.shape[-1] // 2] = False
    with pytest.raises(InputError, match=r"data\.batch_size=1"):
        data.with_maps(replace(batch.acquisition, mask=mask))


def test_preparing_the_data_prepares_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource()
    calls: list[str] = []
    monkeypatch.setattr(source, "prepare", lambda: calls.append("prepare"))
    module(source).prepare_data()
    assert calls == ["prepare"]


def test_a_data_set_goes_to_another_process_and_stays_the_same() -> None:
    dataset = module(batch_size=2).dataset("train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == len(dataset) == 12
    one, other = dataset.example(2, 5), copy.example(2, 5)
    assert torch.equal(one.acquisition.kspace, other.acquisition.kspace)
    assert torch.equal(one.acquisition.mask, other.acquisition.mask)


def test_slices_without_a_target_can_be_batched() -> None:
    source = MemorySource(has_targets=False)
    assert {batch.target for batch in module(source, batch_size=2).val_dataloader()} == {None}


def test_maps_of_espirit_come_from_the_measured_lines() -> None:
    example = FastMRIDataModule(MemorySource(), RandomMask([0.2], [3]), maps="espirit").dataset("val").example(0, 0)
    acquisition = example.acquisition
    expected, _ = espirit_maps(acquisition.kspace, acquisition.mask)
    assert acquisition.maps is not None
    # up to the phase that all coils share, which is that of the low-resolution image
    pairs = [maps[:, :, None] * maps[:, None].conj() for maps in (acquisition.maps, expected)]
    torch.testing.assert_close(*pairs)
    image = (low_resolution_images(acquisition.kspace, acs_columns(acquisition.mask)) * acquisition.maps.conj()).sum(1)
    assert float(image.imag.abs().max()) < 1e-5 * float(image.abs().max())


def test_an_empty_slice_has_maps_of_zeros() -> None:
    dataset = FastMRIDataModule(Empty(), RandomMask([0.2], [3]), maps="espirit").dataset("val")
    maps = dataset.example(0, 0).acquisition.maps
    assert maps is not None and not maps.any()


def test_files_in_the_fastmri_layout_are_read_anew() -> None:
    assert FastMRIFiles.reads_anew


@pytest.mark.parametrize("reads_anew", [False, True])
def test_a_mask_is_applied_in_place_only_to_what_the_data_set_does_not_keep(reads_anew: bool) -> None:
    source = Keeping()
    source.reads_anew = reads_anew
    dataset = module(source).dataset("val")
    dataset.example(0, 0)
    kept = next(iter(source.kept.values())).acquisition
    assert bool((kept.kspace == 0).any()) is reads_anew


class Keeping(MemorySource):
    reads_anew = False

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, int], Example] = {}

    def read(self, volume: Volume, slice_index: int) -> Example:
        return self.kept.setdefault((volume.name, slice_index), super().read(volume, slice_index))


class Empty(MemorySource):
    def read(self, volume: Volume, slice_index: int) -> Example:
        example = super().read(volume, slice_index)
        kspace = torch.zeros_like(example.acquisition.kspace)
        return replace(example, acquisition=replace(example.acquisition, kspace=kspace))
