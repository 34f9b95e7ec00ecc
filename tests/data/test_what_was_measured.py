"""What was measured: found in the data, the same by every reader, and what follows from it."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from measured_files import LINES, ROWS, acquisitions, check, random_kspace
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.coils import low_resolution_maps, noise_level
from spinwarp.data.fastmri.measured import Measurement
from spinwarp.data.fastmri.source import FastMRIFiles, Folders
from spinwarp.data.sampling import sampling_mask
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.masks import GaussianPlaneMask, Mask, RandomMask, hold_out
from spinwarp.recon import CGSense

pytestmark = pytest.mark.usefixtures("own_cache")


def test_columns_that_are_sampled_alike_are_a_line_mask() -> None:
    kspace = random_kspace(2, 16, 12)
    kspace[..., [1, 4, 7]] = 0
    mask = sampling_mask(kspace)
    assert mask.shape == (1, 12)
    assert np.flatnonzero(~mask[0]).tolist() == [1, 4, 7]


def test_a_coil_without_signal_does_not_hide_the_lines() -> None:
    kspace = random_kspace(2, 16, 12)
    kspace[0] = 0
    assert sampling_mask(kspace).all()
    assert sampling_mask(kspace).shape == (1, 12)


def test_points_that_are_sampled_one_by_one_are_a_mask_of_two_dimensions() -> None:
    kspace = random_kspace(2, 16, 12)
    chosen = np.random.RandomState(1).rand(16, 12) < 0.5
    mask = sampling_mask(kspace * chosen)
    assert mask.shape == (16, 12)
    np.testing.assert_array_equal(mask, chosen)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, ">c8"])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(None), LINES), (ROWS, LINES), (ROWS, slice(None)), (slice(None), np.arange(12) < 8)],
    ids=["lines", "lines of an asymmetric echo", "asymmetric echo", "partial Fourier"],
)
def test_lines_and_rows_are_found_in_the_data(
    tmp_path: Path, rows: Any, columns: Any, dtype: str, scale: float
) -> None:
    kspace, expected = random_kspace(2, 3, 16, 12), np.zeros((16, 12), bool)
    expected[np.ix_(np.arange(16)[rows], np.arange(12)[columns])] = True
    check(tmp_path, (kspace * expected * scale).astype(dtype), None, expected)


@pytest.mark.parametrize("n_coils", [1, 4])
@pytest.mark.parametrize("points", [False, True])
def test_what_rounding_leaves_was_not_measured(n_coils: int, points: bool) -> None:
    """A scan with a bright object and a noise of a hundredth of it, taken to the image and back in single precision."""
    rng = RandomState(1)
    h, w = 64, 48
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    coils = np.stack([np.exp(1j * c * x) * (1 + 0.3 * c * y) for c in range(n_coils)])
    kspace = np.fft.fftshift(np.fft.fft2(coils * ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1), norm="ortho"), axes=(-2, -1))
    kspace = kspace + 0.01 * random_kspace(n_coils, h, w)
    # lines at random: of every fourth line some transforms leave exact zeros
    mask = rng.rand(h, w) < 0.4 if points else np.broadcast_to(rng.rand(w) < 0.25, (h, w)).copy()
    through_image = torch.from_numpy((kspace * mask).astype(np.complex64))
    for _ in range(3):
        through_image = torch.fft.fft2(torch.fft.ifft2(through_image, norm="ortho"), norm="ortho")
    residue = through_image.numpy()
    assert (residue[:, ~mask] != 0).mean() > 0.9
    for data in (residue, kspace * mask + 1e-9 * random_kspace(n_coils, h, w, seed=2)):
        np.testing.assert_array_equal(np.broadcast_to(sampling_mask(data.astype(np.complex64)), (h, w)), mask)


def test_weak_samples_at_the_edge_of_a_smooth_object_were_measured() -> None:
    y, x = np.mgrid[-1:1:64j, -1:1:48j]
    # without noise: from 1 to nothing, and no gap between
    kspace = (np.exp(-8 * (x**2 + y**2)) + 0j)[None].astype(np.complex64)
    assert np.abs(kspace).min() < 1e-6 * np.abs(kspace).max()
    assert sampling_mask(kspace).all()


def test_zeros_by_chance_do_not_make_a_line_mask_one_of_points() -> None:
    kspace = random_kspace(1, 64, 48)
    kspace[0, RandomState(0).rand(64, 48) < 0.01] = 0  # quantised noise
    kspace[..., ::4] = 0
    np.testing.assert_array_equal(sampling_mask(kspace), (np.arange(48) % 4 > 0)[None])


def test_signal_in_the_padding_of_the_header_is_not_used_and_this_is_said_once(tmp_path: Path, caplog: Any) -> None:
    expected = np.arange(12) % 11 > 1
    check(tmp_path, random_kspace(3, 2, 16, 12), None, expected, padding_left=2, padding_right=11)
    (record,) = caplog.records
    assert "k-space is not zero outside the acquired columns 2 to 10" in record.message


def test_nan_without_a_mask_is_refused_with_the_way_out(tmp_path: Path) -> None:
    kspace = np.where(LINES, random_kspace(3, 2, 16, 12), np.nan)
    with pytest.raises(InputError, match=r"NaN or infinite k-space in slice 0; put zeros where nothing was measured"):
        acquisitions(tmp_path, kspace)
    kspace[1, 0, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinite k-space in slice 1 where its mask marks it as measured"):
        acquisitions(tmp_path, kspace, LINES)


@pytest.mark.parametrize("mask", [RandomMask([0.1], [4]), GaussianPlaneMask([0.1], [4])])
def test_a_mask_is_drawn_within_what_was_measured_and_the_rates_are_said_once(
    tmp_path: Path, mask: Mask, caplog: pytest.LogCaptureFixture
) -> None:
    kspace = random_kspace(2, 3, 48, 64) * (np.arange(64) % 4 != 3) * (np.arange(48) >= 12)[:, None]
    (full, _) = acquisitions(tmp_path, kspace)
    files = FastMRIFiles("x", Folders(str(tmp_path), val="set"))
    undersample = Undersample(mask, low_resolution_maps)
    caplog.clear()
    drawn, _ = mask((48, 64), RandomState(5))
    expected = drawn.numpy() & (np.arange(64) % 4 != 3) & (np.arange(48) >= 12)[:, None]
    for i in range(2):
        result = undersample(files.read(files.volumes("val")[0], i), RandomState(5)).acquisition
        np.testing.assert_array_equal(result.mask[0, 0].numpy(), expected)
        assert float(result.acceleration()) == pytest.approx(48 * 64 / expected.sum())
        assert not result.kspace.numpy()[..., ~expected].any()
    (record,) = caplog.records
    assert "a.h5 and perhaps others are undersampled already (R 1.78)" in record.message  # 4/3 of lines, 4/3 of rows
    assert f"R {48 * 64 / expected.sum():.2f}" in record.message
    assert full[0].acceleration().tolist() == [pytest.approx(16 / 9)]


def test_evaluated_and_reconstructed_from_a_file_the_same_samples_give_the_same_image(tmp_path: Path) -> None:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    coils = np.stack([np.exp(-((x - np.cos(a)) ** 2) - (y - np.sin(a)) ** 2 + 1j * a * x) for a in (0, 1, 3, 4)])
    image = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1) * (1 + x)
    axes = (-2, -1)
    whole = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coils * image, axes=axes), norm="ortho"), axes=axes)
    whole = (whole + 0.01 * random_kspace(4, 64, 64)).astype(np.complex64)
    (tmp_path / "whole").mkdir()
    with h5py.File(tmp_path / "whole" / "a.h5", "w") as file:
        file["kspace"] = whole[None]
    files = FastMRIFiles("x", Folders(str(tmp_path), val="whole"))
    undersample = Undersample(RandomMask([0.08], [4]), low_resolution_maps)
    # centres of five lines, which lines that were drawn beside them make longer
    for seed, n in ((0, 5), (35, 6), (28, 7)):
        drawn = undersample(files.read(files.volumes("val")[0], 0), RandomState(seed)).acquisition
        np.save(tmp_path / "a.npy", drawn.kspace[0].numpy())
        (example,) = Measurement(str(tmp_path / "a.npy")).slices([0])
        measured = Undersample(None, low_resolution_maps)(example, RandomState(0)).acquisition
        assert torch.equal(measured.mask, drawn.mask)
        assert torch.equal(measured.maps, drawn.maps)
        assert torch.equal(CGSense()(measured).image, CGSense()(drawn).image)
        assert int(acs_columns(drawn.mask)) == n


def test_the_noise_of_an_asymmetric_echo_is_that_of_its_samples(tmp_path: Path) -> None:
    kspace = 0.02 * random_kspace(4, 64, 48)
    kspace[:, :24] = 0
    np.save(tmp_path / "a.npy", kspace)
    (example,) = Measurement(str(tmp_path / "a.npy")).slices([0])
    level = noise_level(example.acquisition.kspace, example.acquisition.mask)
    # 0.02 in real and imaginary part each; 190 samples in 4 coils
    assert float(level) == pytest.approx(0.02 * 2**0.5, rel=0.1)


def test_whole_lines_of_an_asymmetric_echo_are_held_out() -> None:
    mask = torch.from_numpy((np.arange(48) % 3 == 0) & (np.arange(64) >= 20)[:, None])[None, None].clone()
    mask[..., 20:, 20:28] = True
    lines = mask[:, :, 63:]
    kspace = torch.zeros(1, 1, 64, 48, dtype=torch.complex64)
    held = hold_out(Acquisition(kspace, mask))
    expected = hold_out(Acquisition(kspace, lines)).expand(-1, -1, 64, -1).clone()
    expected[..., :20, :] = False
    assert expected.any()
    assert torch.equal(held, expected)


def test_a_padding_that_leaves_out_signal_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strength = 1 / (1 + np.abs(np.arange(12) - 6)) ** 2  # as of an image: strongest at the centre
    kspace = (random_kspace(3, 2, 16, 12) * strength * LINES).astype(np.complex64)
    kspace[1, 0] = 0  # a slice without signal in its first coil does not hide it
    for first, last in ((7, 12), (2, 4), (0, 1)):
        for found in acquisitions(tmp_path, kspace, None, padding_left=first, padding_right=last):
            for one in found:
                np.testing.assert_array_equal(one.mask[0, 0].expand(16, -1).numpy(), np.broadcast_to(LINES, (16, 12)))
                assert float(one.acceleration()) == pytest.approx(12 / 8)
    (record,) = caplog.records
    assert "k-space has signal outside the columns that its header calls acquired" in record.message


@pytest.mark.parametrize("axes", [(-2, -1), (-1,), (-2,)])
def test_zero_frequency_in_the_corner_is_said_once(
    tmp_path: Path, axes: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    y, x = np.mgrid[-8:8, -6:6]
    image = np.broadcast_to((y**2 / 36 + x**2 / 16 < 1).astype(float), (2, 3, 16, 12))
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1))), axes=(-2, -1)).astype(np.complex64)
    acquisitions(tmp_path, kspace)
    assert not caplog.records
    acquisitions(tmp_path, np.fft.ifftshift(kspace, axes=axes))
    (record,) = caplog.records
    assert "k-space is strongest far from its centre (h // 2, w // 2)" in record.message
