"""Slices with those beside them: indices, batches, random numbers, gaps, and networks that see several at once."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from memory import MemorySource

from spinwarp.acquisition import Acquisition, Example, Header, collate, item
from spinwarp.data.adjacent import adjacent_indices, with_adjacent
from spinwarp.data.augment import FlipsAndPhase
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.row_block import RowBlock
from spinwarp.data.source import random_state
from spinwarp.errors import InputError
from spinwarp.files import warn_once
from spinwarp.geometry import Geometry
from spinwarp.masks import RandomMask
from spinwarp.models.cascades import CascadeNet
from spinwarp.models.data_steps import KSpaceGradient
from spinwarp.models.prompt_unet import PromptUNet
from spinwarp.recon.base import NetworkReconstructor, reconstruct_batch

MASK = RandomMask([0.2], [3])


def module(**options: object) -> FastMRIDataModule:
    return FastMRIDataModule(MemorySource(), MASK, **{"maps": "none", "n_adjacent": 3, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("index", "n_slices", "n", "expected"),
    [
        (3, 9, 1, [3]),
        (3, 9, 5, [1, 2, 3, 4, 5]),
        (0, 9, 5, [0, 0, 0, 1, 2]),
        (8, 9, 3, [7, 8, 8]),
        (0, 1, 3, [0, 0, 0]),
    ],
)
def test_the_edge_is_repeated(index: int, n_slices: int, n: int, expected: Sequence[int]) -> None:
    assert adjacent_indices(index, n_slices, n) == expected


def test_an_example_brings_the_slices_beside_it_under_its_own_mask() -> None:
    data = module()
    for split, evaluate in (("train", False), ("val", False), ("train", True)):
        dataset = data.dataset(split, evaluate)
        volume = dataset.volumes[0]
        example = dataset.example(0, 0)
        before, after = example.acquisition.adjacent
        full = [data.source.read(volume, i).acquisition.kspace for i in (0, 1)]
        mask = example.acquisition.mask
        assert torch.equal(before.mask, mask)
        assert torch.equal(after.mask, mask)
        assert torch.equal(before.kspace, full[0] * mask)  # the first slice is its own neighbour
        assert torch.equal(after.kspace, full[1] * mask)
        assert all(
            torch.equal(a.kspace, full[i] * mask)
            for a, i in zip(example.acquisition.all_slices(), (0, 0, 1), strict=True)
        )
        plain = module(n_adjacent=1).dataset(split, evaluate).example(0, 0)
        assert torch.equal(plain.acquisition.kspace, example.acquisition.kspace)
        assert plain.acquisition.adjacent == ()


def test_all_slices_are_augmented_alike() -> None:
    augment = FlipsAndPhase(flip=0.5)
    data = FastMRIDataModule(MemorySource(), None, maps="none", n_adjacent=3, augment=augment)
    dataset = data.dataset("train")
    volume, number = dataset.volumes[dataset.slices[1][0]], dataset.slices[1][1]
    for epoch in range(4):
        for offset, one in zip((-1, 0, 1), dataset.example(epoch, 1).acquisition.all_slices(), strict=True):
            full = data.source.read(volume, number + offset)
            expected = augment(full, random_state(0, epoch, volume.name, number)).acquisition
            assert torch.equal(one.kspace, expected.kspace * one.mask)


def test_a_batch_and_its_items_keep_their_neighbours() -> None:
    dataset = module().dataset("val")
    examples = [dataset.example(0, i) for i in range(2)]
    batch = collate(examples)
    assert [len(a.kspace) for a in batch.acquisition.all_slices()] == [2, 2, 2]
    for i in range(2):
        again = item(batch, i).acquisition
        for one, other in zip(again.all_slices(), examples[i].acquisition.all_slices(), strict=True):
            assert torch.equal(one.kspace, other.kspace)
    moved = batch.acquisition.to("meta")
    assert [a.kspace.device.type for a in moved.adjacent] == ["meta", "meta"]
    with pytest.raises(ValueError, match="argument"):
        collate([examples[0], replace(examples[1], acquisition=replace(examples[1].acquisition, adjacent=()))])


def test_an_empty_slice_between_others_gets_an_image_of_zeros_and_the_others_theirs() -> None:
    torch.manual_seed(0)
    net = CascadeNet(partial(PromptUNet, channels=4, pools=1), KSpaceGradient, n_cascades=1, n_adjacent=3)
    method = NetworkReconstructor(net)
    assert method.n_adjacent == 3
    dataset = module(maps="low_resolution").dataset("val")
    batch = collate([dataset.example(0, i) for i in range(3)]).acquisition
    kspace = batch.kspace.clone()
    kspace[1] = 0
    generator = torch.Generator().manual_seed(0)
    image = reconstruct_batch(method, replace(batch, kspace=kspace), generator, ["a", "b", "c"]).image
    assert not image[1].any()
    whole = method(batch).image
    assert torch.allclose(image[[0, 2]], whole[[0, 2]], rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def slice_at(z: float, thickness: float = 3.0, shape: tuple[int, ...] = (1, 1, 8, 8)) -> Example:
    geometry = Geometry((0, 0, z), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, thickness))
    header = Header(voxel_size=(1, 1, thickness), geometry=geometry)
    acquisition = Acquisition(
        torch.zeros(shape, dtype=torch.complex64), torch.ones(1, 1, 1, 8, dtype=torch.bool), headers=(header,)
    )
    return Example(acquisition, None, torch.ones(1), ("scan",), (0,))


@pytest.mark.parametrize(("distance", "said"), [(3.0, 0), (3.1, 0), (4.5, 1)])
def test_slices_that_do_not_touch_are_said_once(caplog: pytest.LogCaptureFixture, distance: float, said: int) -> None:
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with_adjacent([slice_at(i * distance) for i in range(3)])
    assert caplog.text.count("the slices of scan do not touch: 3 mm thick, their centres 4.5 mm apart") == said


def test_slices_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"different shapes.*set data\.n_adjacent=1"):
        with_adjacent([slice_at(0), slice_at(3), slice_at(6, shape=(1, 2, 8, 8))])


def test_volumes_of_one_slice_say_that_they_repeat_it(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    source = MemorySource({"val": {"a.h5": (1, (2, 32, 40)), "b.h5": (1, (2, 32, 40))}})
    data = FastMRIDataModule(source, MASK, maps="none", n_adjacent=3)
    with caplog.at_level(logging.WARNING):
        example = data.dataset("val").example(0, 0).acquisition
        data.dataset("val")
    assert caplog.text.count("have one slice each: each is its own neighbour") == 1
    assert all(torch.equal(a.kspace, example.kspace) for a in example.adjacent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_adjacent": 2}, "odd number of slices"),
        ({"n_adjacent": -1}, "odd number of slices"),
        ({"supervision": "split"}, "does not go with data.supervision=split"),
        ({"augment": RowBlock(16)}, "nor with blocks of rows"),
    ],
)
def test_impossible_options_end_in_a_sentence(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module(**options)


def test_reconstruct_reads_the_neighbours_of_each_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.RandomState(0)
    np.save(tmp_path / "scan.npy", (rng.randn(4, 2, 16, 18) + 1j * rng.randn(4, 2, 16, 18)).astype(np.complex64))
    seen: list[torch.Tensor] = []

    class Middle(torch.nn.Module):
        n_adjacent = 3

        def forward(self, acquisition: Acquisition) -> torch.Tensor:
            seen.append(torch.stack([a.kspace for a in acquisition.all_slices()], 1))
            return acquisition.kspace[:, 0]

    from omegaconf import OmegaConf

    from spinwarp.cli.method import Method
    from spinwarp.cli.reconstruct import _OneFile
    from spinwarp.data.undersample import Undersample

    config = OmegaConf.create(
        {
            "recon": {}, "mask": None, "device": "cpu", "conformal": None, "format": "h5", "variable": None,
            "axes": None, "slices": None, "batch_size": 2, "seed": 0, "report": False,
            "patient": {"_target_": "spinwarp.results.formats.Patient"},
        }
    )  # fmt: skip
    network = NetworkReconstructor(Middle())
    method = Method(network, "middle", {}, n_adjacent=network.n_adjacent)
    one = _OneFile(config, {"mask": "none", "recon": "middle"}, method, Undersample(None, None), None)
    one.reconstruct(tmp_path / "scan.npy", tmp_path / "out")
    stack = torch.from_numpy(np.load(tmp_path / "scan.npy"))
    assert torch.equal(torch.cat(seen), torch.stack([stack[[max(i - 1, 0), i, min(i + 1, 3)]] for i in range(4)]))
