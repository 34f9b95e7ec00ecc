"""The split of what was measured, for training without references."""

from typing import Any

import numpy as np
import pytest
import torch
from memory import MemorySource
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition, Example, Header, item
from spinwarp.data.augment import FlipsAndPhase
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.split import Splitter
from spinwarp.errors import InputError
from spinwarp.masks import EquispacedMask, GaussianPlaneMask, Mask, RandomMask, seed_of

LINES, POINTS = RandomMask([0.16], [4]), GaussianPlaneMask([0.16], [4])


def module(mask: Mask | None = LINES, source: MemorySource | None = None, **settings: Any) -> FastMRIDataModule:
    split = Splitter(**{key: settings.pop(key) for key in tuple(settings) if key in Splitter.__dataclass_fields__})
    return FastMRIDataModule(source or MemorySource(), mask, **{"supervision": "split", "split": split, **settings})


def example(mask: torch.Tensor, noise_std: float | None = None, header: Header | None = None) -> Example:
    h, w = (6, mask.shape[-1]) if mask.shape[0] == 1 else mask.shape
    rng = RandomState(3)
    kspace = torch.from_numpy(rng.normal(size=(1, 2, h, w)) + 1j * rng.normal(size=(1, 2, h, w))).to(torch.complex64)
    level = None if noise_std is None else torch.tensor([noise_std])
    acquisition = Acquisition(
        kspace * mask, mask[None, None], noise_std=level, headers=() if header is None else (header,)
    )
    return Example(acquisition, None, torch.ones(1), ("scan",), (0,))


@pytest.mark.parametrize("mask", [LINES, POINTS], ids=["lines", "points"])
def test_every_measured_sample_is_either_input_or_held_out(mask: Mask) -> None:
    for split in ("train", "val"):
        for batch in module(mask, batch_size=2).loader(split):
            assert batch.split is not None
            held = batch.acquisition.mask & ~batch.split.mask
            assert torch.equal(batch.split.mask | held, batch.acquisition.mask) and held.any()
            h, w = held.shape[-2:]
            rows = slice(None) if h == 1 else slice((h - 3) // 2, (h - 3) // 2 + 4)
            assert not held[..., rows, (w - 3) // 2 : (w - 3) // 2 + 4].any()
            assert torch.equal(batch.split.weight, batch.acquisition.mask.float())  # the loss sees both


def test_points_are_held_out_one_by_one_and_lines_as_a_whole_where_rows_are_missing() -> None:
    mask = torch.zeros(12, 24, dtype=torch.bool)
    mask[3:, ::2] = True
    mask[3:, 10:14] = True
    split = Splitter()(example(mask), RandomState(0)).split
    assert split is not None and split.mask.shape == (1, 1, 12, 24)
    columns = split.mask[0, 0, 3:]
    assert torch.equal(columns, columns[:1].expand(9, -1)) and not split.mask[0, 0, :3].any()
    mask[5, 1] = True  # now they are points
    split = Splitter()(example(mask), RandomState(0)).split
    assert split is not None and not torch.equal(split.mask[0, 0, 3:], split.mask[0, 0, 3:4].expand(9, -1))


@pytest.mark.parametrize("density", ["gaussian", "uniform"])
@pytest.mark.parametrize("shape", [(1, 33), (24, 20)])
def test_the_mean_chance_is_the_ratio_and_its_odds_follow_the_density(density: str, shape: tuple[int, int]) -> None:
    measured = torch.from_numpy(RandomState(1).uniform(size=shape) < 0.5)
    splitter = Splitter(density=density, std=0.3)
    chance = splitter.chance(measured, 0.35)
    outside = measured.numpy().copy()
    rows = slice(None) if shape[0] == 1 else slice(10, 14)
    first = (shape[1] - 3) // 2
    outside[rows, first : first + 4] = False
    assert chance[outside].mean() == pytest.approx(0.35, rel=1e-9)  # bisection in doubles
    assert not chance[~outside].any()
    y, x = np.indices(shape)
    distance = ((x - shape[1] // 2) / (shape[1] / 2)) ** 2
    if shape[0] > 1:
        distance = distance + ((y - shape[0] // 2) / (shape[0] / 2)) ** 2
    factor = (chance / (1 - chance))[outside] / (np.exp(-distance / 0.3**2 / 2)[outside] if density[0] == "g" else 1)
    assert factor == pytest.approx(factor[0], rel=1e-6)


def test_lines_are_held_out_as_often_as_their_chance_says() -> None:
    mask = torch.ones(1, 16, dtype=torch.bool)
    splitter, generator, n = Splitter(center=2), RandomState(0), 4000
    held = sum((~splitter(example(mask), generator).split.mask[0, 0]).double() for _ in range(n)) / n  # type: ignore[union-attr]
    # a frequency over 4000 draws: five standard errors of at most 0.008
    assert torch.allclose(held, torch.from_numpy(splitter.chance(mask, 0.4)), atol=0.04)


def test_a_range_of_ratios_is_drawn_from() -> None:
    splitter, generator = Splitter(ratio=(0.2, 0.8), density="uniform"), RandomState(0)
    mask = torch.ones(1, 400, dtype=torch.bool)
    shares = [float((~splitter(example(mask), generator).split.mask).float().mean()) for _ in range(60)]  # type: ignore[union-attr]
    # of 396 lines a share varies by 0.025 around its ratio
    assert 0.1 < min(shares) < 0.3 and 0.7 < max(shares) < 0.9 and np.std(shares) > 0.1


def test_a_weighted_split_has_the_weights_of_the_paper_and_ones_on_the_input() -> None:
    data = module(weighted=True)
    batch = next(iter(data.train_dataloader()))
    p = LINES.density((32, batch.acquisition.mask.shape[-1])).double().numpy()
    assert data.split is not None and batch.split is not None
    q = 1 - data.split.chance(torch.from_numpy(p)[None], 0.4)[0]
    kept, measured = batch.split.mask[0, 0, 0].numpy(), batch.acquisition.mask[0, 0, 0].numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(measured, np.where(kept, 1, np.sqrt((1 - q * p) / (p * (1 - q)))), 0)
    assert batch.split.weight[0, 0, 0].numpy() == pytest.approx(expected, rel=1e-6)  # single precision
    assert (measured & ~kept).any()


def test_columns_that_were_never_acquired_count_as_known_zeros() -> None:
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, 3:18:2] = mask[:, 8:13] = True
    header = Header(acquired_columns=(3, 18))
    split = Splitter()(example(mask, header=header), RandomState(0)).split
    assert split is not None
    assert split.weight[0, 0, 0, :3].tolist() == [1] * 3 and split.weight[0, 0, 0, 18:].tolist() == [1] * 2
    assert not split.mask[0, 0, 0, :3].any()
    assert torch.equal((split.weight > 0)[..., 3:18], mask[None, None][..., 3:18])


def test_the_added_noise_is_white_of_the_level_of_the_scan_and_only_on_the_input() -> None:
    mask = torch.ones(1, 300, dtype=torch.bool)
    mask[:, ::3] = False
    split = Splitter(alpha=0.5)(example(mask, 0.25), RandomState(0), noisy=True).split
    assert split is not None and split.noise is not None and split.alpha is not None
    noise = split.noise[split.mask.expand_as(split.noise)]
    assert split.alpha.tolist() == [0.5]
    assert torch.equal(split.noise != 0, split.mask.expand_as(split.noise))
    # some 1500 samples: five standard errors of the power, and of the correlation of the two parts
    assert float(noise.abs().square().mean()) == pytest.approx(0.25**2, rel=5 / 1500**0.5)
    assert abs(float((noise.real * noise.imag).mean())) < 5 * 0.25**2 / 2 / 1500**0.5
    assert torch.equal(split.weight > 0, mask[None, None])


def test_the_level_of_the_noise_comes_from_the_corners_if_the_data_do_not_say_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mask = torch.ones(1, 300, dtype=torch.bool)
    with caplog.at_level("INFO"):
        split = Splitter()(example(mask), RandomState(0), noisy=True).split
    assert split is not None and split.noise is not None
    # the example is noise of power 2 everywhere; a tenth of its samples are looked at
    power = float(split.noise[split.mask.expand_as(split.noise)].abs().square().mean())
    assert power == pytest.approx(2, rel=0.4)
    assert caplog.text.count("measured in rows of air or the corners of k-space") == 1


@pytest.mark.parametrize("augment", [None, FlipsAndPhase()])
def test_a_scan_is_measured_once_whatever_the_epoch(augment: FlipsAndPhase | None) -> None:
    dataset = module(augment=augment).dataset("train")
    for index in range(len(dataset)):
        width = dataset.volumes[dataset.slices[index][0]].shape[2]
        expected = LINES((32, width), RandomState(seed_of(dataset.volume_of(index))))[0][0]
        mirrored = expected.flip(0).roll(1)  # about the zero frequency of an even width
        for epoch in range(3):
            mask = dataset.example(epoch, index).acquisition.mask[0, 0, 0]
            assert torch.equal(mask, expected) or (augment is not None and torch.equal(mask, mirrored))


def test_training_has_no_target_and_validation_keeps_its_own() -> None:
    data = module()
    assert all(batch.target is None for batch in data.train_dataloader())
    assert all(batch.target is not None for batch in data.val_dataloader())
    assert all(batch.split is None for loader in (data.test_dataloader(), data.loader("val", True)) for batch in loader)


@pytest.mark.parametrize(("n_splits", "expected"), [(None, 6), (1, 1), (2, 2)])
def test_splits_change_with_the_epoch_or_take_turns(n_splits: int | None, expected: int) -> None:
    dataset = module(n_splits=n_splits, ratio=0.5).dataset("train")
    splits = [dataset.example(epoch, 0).split for epoch in range(6)]
    assert len({tuple(s.mask.flatten().tolist()) for s in splits if s is not None}) == expected
    assert len({tuple(dataset.example(0, i).split.mask[0, 0, 0].tolist()) for i in range(3)}) == 3  # type: ignore[union-attr]


def test_validation_always_has_the_same_split() -> None:
    found = [module(seed=seed).dataset("val").example(epoch, 0).split for seed, epoch in ((0, 0), (1, 4))]
    assert found[0] is not None and found[1] is not None and torch.equal(found[0].mask, found[1].mask)


@pytest.mark.parametrize("supervision", ["split", "noisy"])
def test_a_split_is_the_same_in_whatever_batch_it_comes(supervision: str) -> None:
    data = module(batch_size=3, supervision=supervision)
    dataset = data.dataset("val")
    alone = {(e.volume[0], e.slice[0]): e for e in (dataset.example(0, i) for i in range(len(dataset)))}
    for batch in data.val_dataloader():
        for i in range(len(batch)):
            one = item(batch, i)
            expected = alone[one.volume[0], one.slice[0]].split
            assert one.split is not None and expected is not None
            for name in ("mask", "weight", *(("noise", "alpha") if supervision == "noisy" else ())):
                assert torch.equal(getattr(one.split, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"supervision": "half"}, r"data\.supervision='half' is not one of full, split, noisy"),
        ({"ratio": 1.0}, r"data\.split\.ratio is a share between 0 and 1, or a range of two; got 1\.0"),
        ({"ratio": [0.5, 0.2]}, "or a range of two"),
        ({"ratio": [0.2]}, "or a range of two"),
        ({"density": "poisson"}, r"data\.split\.density='poisson' is not one of gaussian, uniform"),
        ({"std": 0.0}, r"data\.split\.std is a number above 0"),
        ({"alpha": float("nan")}, r"data\.split\.alpha is a number above 0; got nan"),
        ({"center": 0}, r"data\.split\.center is at least 1"),
        ({"n_splits": 0}, r"data\.split\.n_splits is at least 1, or null"),
        ({"weighted": True, "mask": EquispacedMask([0.16], [4])}, "needs a mask that says with which probability"),
        ({"weighted": True, "mask": None}, r"undersampled already, set data\.split\.weighted=false"),
        ({"weighted": True, "mask": RandomMask([0.16, 0.08], [4, 8])}, "a mix of masks"),
        ({"weighted": True, "augment": FlipsAndPhase()}, r"needs data\.augment=null"),
    ],
)
def test_what_cannot_work_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module(**settings)


def test_a_scan_without_a_line_to_hold_out_is_refused() -> None:
    with pytest.raises(InputError, match="scan has no measured line outside its 4 central ones"):
        Splitter()(example(torch.tensor([[False] * 4 + [True] * 4 + [False] * 4])), RandomState(0))


def test_weighting_points_is_refused() -> None:
    mask, _ = POINTS((24, 20), RandomState(0))
    with pytest.raises(InputError, match=r"samples single points.*set data\.split\.weighted=false"):
        Splitter(weighted=True)(example(mask), RandomState(0), torch.full((20,), 0.5))


def test_data_without_noise_are_refused_where_its_level_is_needed() -> None:
    silent = example(torch.ones(1, 30, dtype=torch.bool), 0.0)
    with pytest.raises(InputError, match=r"shows no noise.*take data\.supervision=split"):
        Splitter()(silent, RandomState(0), noisy=True)


def test_an_empty_slice_passes_without_noise() -> None:
    empty = example(torch.ones(1, 30, dtype=torch.bool))
    empty.acquisition.kspace.zero_()
    split = Splitter()(empty, RandomState(0), noisy=True).split
    assert split is not None and split.noise is not None and not split.noise.any()
