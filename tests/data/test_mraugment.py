"""MRAugment: where things go, white noise, targets, and the schedule."""

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from memory import MemorySource
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition, Example, center_crop
from spinwarp.coils import root_sum_of_squares
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.mraugment import MRAugment, _Change, _changed, _nothing
from spinwarp.errors import InputError
from spinwarp.files import warn_once
from spinwarp.fourier import fftc, ifftc

STILL = _Change((), 0.0, 0.0, (64, 72), (0, 0))


def blobs(centres: list[tuple[float, float]], width: float = 3.0, shape: tuple[int, int] = (64, 72)) -> np.ndarray:
    """Gaussian blobs of different heights at (row, column) from the centre."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    y, x = y - shape[0] // 2, x - shape[1] // 2
    parts = [(i + 1) * np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * width**2)) for i, (a, b) in enumerate(centres)]
    return np.sum(parts, axis=0)


CENTRES = [(-8.0, 5.0), (6.0, 12.0), (3.0, -9.0)]


def moved(change: _Change, pixel: float = 1.0, shape: tuple[int, int] = (64, 72)) -> np.ndarray:
    image = torch.from_numpy(blobs(CENTRES, shape=shape)).to(torch.complex64)[None, None]
    return _changed(image, change, pixel, _nothing)[0, 0].numpy()


@pytest.mark.parametrize("degrees", [20.0, 90.0, -77.0, 145.0, 180.0, -180.0])
def test_a_rotation_turns_about_the_central_pixel(degrees: float) -> None:
    angle = math.radians(degrees)
    turned = [
        (math.cos(angle) * y + math.sin(angle) * x, -math.sin(angle) * y + math.cos(angle) * x) for y, x in CENTRES
    ]
    assert np.abs(moved(replace(STILL, angle=angle)) - blobs(turned)).max() < 1e-3  # a Gaussian is nearly band-limited


@pytest.mark.parametrize("shape", [(64, 72), (63, 71)])
def test_mirrors_shears_and_shifts_move_the_blobs_as_they_say(shape: tuple[int, int]) -> None:
    still = replace(STILL, size=shape)
    for change, where in (
        (replace(still, flips=(-2,)), [(-y, x) for y, x in CENTRES]),
        (replace(still, flips=(-1,)), [(y, -x) for y, x in CENTRES]),
        (replace(still, shift=(4, -7)), [(y + 4, x - 7) for y, x in CENTRES]),
    ):
        assert np.abs(moved(change, shape=shape) - blobs(where, shape=shape)).max() < 1e-3
    sheared = moved(replace(still, shear=math.radians(15)), shape=shape)
    rows = np.arange(shape[0]) - shape[0] // 2
    columns = np.arange(shape[1]) - shape[1] // 2
    y, x = rows[:, None], columns - math.tan(math.radians(15)) * rows[:, None]
    expected = sum((i + 1) * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for i, (a, b) in enumerate(CENTRES))
    assert np.abs(sheared - expected).max() < 1e-3


@pytest.mark.parametrize("size", [(80, 90), (52, 58)])
def test_a_change_of_scale_keeps_the_centre_and_scales_the_blobs(size: tuple[int, int]) -> None:
    factors = (64 / size[0], 72 / size[1])
    y, x = (np.arange(64) - 32)[:, None] / factors[0], (np.arange(72) - 36) / factors[1]
    expected = sum((i + 1) * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for i, (a, b) in enumerate(CENTRES))
    gain = math.sqrt(size[0] * size[1] / (64 * 72))
    assert np.abs(moved(replace(STILL, size=size)) - gain * expected).max() < 2e-2  # a cut blob rings a little


def test_pixels_that_are_no_squares_are_turned_as_they_lie_in_the_patient() -> None:
    quarter = moved(replace(STILL, angle=math.pi / 2), pixel=2.0)  # a pixel is twice as high as wide
    y, x = (np.arange(64) - 32)[:, None] * 2.0, (np.arange(72) - 36) * 1.0
    # the point (y, x) in the patient was at (-x, y) before the turn: rows are 2 apart, columns 1
    rows, columns = -x / 2, y
    expected = sum((i + 1) * np.exp(-((rows - a) ** 2 + (columns - b) ** 2) / 18) for i, (a, b) in enumerate(CENTRES))
    assert np.abs(quarter - expected).max() < 1e-2


def of(kspace: torch.Tensor, target: torch.Tensor | None = None) -> Example:
    acquisition = Acquisition(kspace, torch.ones(1, 1, 1, kspace.shape[-1], dtype=torch.bool))
    target = root_sum_of_squares(ifftc(kspace)) if target is None else target
    return Example(acquisition, target, target.max()[None], ("a.h5",), (0,))


def test_noise_stays_white_and_as_strong() -> None:
    augment = MRAugment(epochs=1, p_max=1.0)
    generator = torch.Generator().manual_seed(0)
    power, product = torch.zeros(40, 48), torch.zeros(2)
    n = 60
    for seed in range(n):
        noise = torch.randn(1, 4, 40, 48, dtype=torch.complex64, generator=generator)
        kspace = augment(of(noise), RandomState(seed)).acquisition.kspace
        image = ifftc(kspace)
        power += kspace.abs().square().mean((0, 1)) / n
        for i, x in enumerate((kspace, image)):
            product[i] += (x[..., 1:] * x[..., :-1].conj()).mean().abs() / n
    blocks = power.view(5, 8, 6, 8).mean((1, 3))
    # each block is a mean of 64 * 4 * 60 squares, whose relative deviation is .008; the level of the fill is estimated
    assert (blocks - 1).abs().max() < 0.05
    assert product.max() < 0.03  # of neighbours, from 7500 products each


@pytest.mark.parametrize("seed", range(3))
def test_the_target_is_made_anew_and_the_input_stays(seed: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 3, 1, 1, dtype=torch.complex64, generator=generator)
    image = torch.from_numpy(blobs(CENTRES)).to(torch.complex64)
    kspace = fftc(image * maps) + 0.01 * torch.randn(1, 3, 64, 72, dtype=torch.complex64, generator=generator)
    before = kspace.clone()
    augment = MRAugment(epochs=10, p_max=1.0)
    changed = augment(of(kspace), RandomState(seed))
    assert torch.equal(kspace, before)
    rss = root_sum_of_squares(ifftc(changed.acquisition.kspace))
    torch.testing.assert_close(changed.target, rss, rtol=0, atol=1e-4)
    assert float((changed.target - of(kspace).target).norm()) > 0.1 * float(changed.target.norm())
    # a target without noise is changed as an image, to nearly the same
    clean = root_sum_of_squares(image * maps)
    other = augment(of(kspace, clean), RandomState(seed))
    assert torch.equal(other.acquisition.kspace, changed.acquisition.kspace)
    assert float((other.target - rss).norm()) < 0.05 * float(rss.norm())
    # and the data range follows the brightness
    assert float(other.data_range) == pytest.approx(float(other.target.max()), rel=0.1)
    # a target cut to its middle is cut again
    cut = augment(of(kspace, center_crop(of(kspace).target, (40, 40))), RandomState(seed))
    assert torch.equal(cut.target, center_crop(changed.target, (40, 40)))


def test_an_empty_slice_of_one_coil_stays_empty() -> None:
    changed = MRAugment(1, p_max=1.0)(of(torch.zeros(1, 1, 33, 40, dtype=torch.complex64)), RandomState(0))
    assert changed.acquisition.kspace.shape == (1, 1, 33, 40)
    assert not changed.acquisition.kspace.any()
    assert not changed.target.any()


def test_training_begins_without_changes_and_ends_with_the_largest_probability() -> None:
    augment = MRAugment(epochs=50)
    assert augment.probability(0) == 0
    assert augment.probability(25) == pytest.approx(0.55 * (1 - math.exp(-2.5)) / (1 - math.exp(-5)))
    assert augment.probability(50) == augment.probability(70) == pytest.approx(0.55)
    plain = FastMRIDataModule(MemorySource(), None, maps="none").dataset("train")
    dataset = FastMRIDataModule(MemorySource(), None, maps="none", augment=MRAugment(2, p_max=1.0)).dataset("train")
    same = [
        torch.equal(dataset.example(epoch, 0).acquisition.kspace, plain.example(epoch, 0).acquisition.kspace)
        for epoch in (0, 2)
    ]
    assert same == [True, False]


def test_incomplete_scans_stay_as_they_are_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    full = of(torch.randn(1, 2, 32, 36, dtype=torch.complex64))
    mask = full.acquisition.mask.clone()
    mask[..., :3] = False
    example = replace(full, acquisition=replace(full.acquisition, mask=mask))
    augment = MRAugment(1, p_max=1.0)
    with caplog.at_level(logging.WARNING):
        assert augment(example, RandomState(0)) is example
        assert augment(example, RandomState(1)) is example
    assert caplog.text.count("are not augmented") == 1
    with pytest.raises(InputError, match=r"data\.maps=low_resolution or none"):
        augment(replace(full, acquisition=replace(full.acquisition, maps=full.acquisition.kspace)), RandomState(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs of at least 1"),
        ({"p_max": 1.2}, "p_max from 0 to 1"),
        ({"rotation": 200}, "up to 180"),
        ({"scale": 0.7}, "up to 0.5"),
    ],
)
def test_impossible_options_end_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MRAugment(**{"epochs": 10, **options})
