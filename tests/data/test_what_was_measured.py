"""What was measured: the same answer for every reader, from the data and the stored mask."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition, acs_columns
from spinwarp.coils import low_resolution_maps, noise_level
from spinwarp.data import sampling
from spinwarp.data.fastmri.measured import Measurement
from spinwarp.data.fastmri.source import FastMRIFiles, Folders
from spinwarp.data.sampling import sampling_mask
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.masks import GaussianPlaneMask, Mask, RandomMask, hold_out
from spinwarp.recon import CGSense

LINES = np.arange(12) % 3 > 0
ROWS = np.arange(16) >= 5


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path / "cache"))


def random_kspace(*shape: int, seed: int = 0) -> np.ndarray:
    rng = RandomState(seed)
    return (rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64)


def acquisitions(tmp_path: Path, kspace: np.ndarray, mask: Any = None, **attributes: int) -> list[list[Acquisition]]:
    """The slices of a file as training and evaluation read them, and as reconstruct.py does."""
    path = tmp_path / "set" / "a.h5"
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if mask is not None:
            file["mask"] = mask
        file.attrs.update(attributes)
    source = FastMRIFiles("x", Folders(str(tmp_path), val="set"))
    (volume,) = source.volumes("val")
    slices = list(range(len(kspace)))
    read = [source.read(volume, i).acquisition for i in slices]
    return [read, [e.acquisition for e in Measurement(str(path)).slices(slices)]]


def check(tmp_path: Path, kspace: np.ndarray, stored: Any, expected: np.ndarray, **attributes: int) -> None:
    """Both readers find ``expected`` (slice, h, w), leave k-space as it was there, and zero elsewhere."""
    for found in acquisitions(tmp_path, kspace, stored, **attributes):
        for one, k, m in zip(found, kspace, np.broadcast_to(expected, (len(kspace), 16, 12)), strict=True):
            np.testing.assert_array_equal(one.mask[0, 0].expand(16, -1).numpy(), m)
            np.testing.assert_array_equal(one.kspace[0].numpy(), np.where(m, k, 0).reshape(-1, 16, 12))
            first, last = attributes.get("padding_left", 0), attributes.get("padding_right", 12)
            assert float(one.acceleration()) == pytest.approx(16 * (last - first) / m[:, first:last].sum())


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
    mask = rng.rand(h, w) < 0.4 if points else np.broadcast_to(np.arange(w) % 4 == 1, (h, w)).copy()
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


PER_SLICE = np.stack([np.roll(LINES, i) for i in range(3)])
POINTS = RandomState(3).rand(3, 16, 12) < 0.6


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, ">f8"])
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (LINES, LINES),
        (LINES[None], LINES),
        (POINTS[0], POINTS[0]),
        (PER_SLICE, PER_SLICE[:, None]),
        (PER_SLICE[:, None], PER_SLICE[:, None]),
        (POINTS, POINTS),
        (POINTS[:1], POINTS[0]),
        (POINTS[:, None], POINTS),
        (LINES[None, None, None], LINES),
    ],
    ids=lambda a: str(a.shape),
)
@pytest.mark.parametrize("missing", [0, np.nan, 1e-9])
def test_a_stored_mask_is_found_in_each_of_its_shapes(
    tmp_path: Path, stored: np.ndarray, expected: np.ndarray, dtype: str, missing: float, caplog: Any
) -> None:
    expected = np.broadcast_to(expected, (3, 16, 12))
    kspace = np.where(expected[:, None], random_kspace(3, 2, 16, 12), np.complex64(missing))
    check(tmp_path, kspace, stored.astype(dtype), expected)
    assert not caplog.records


def test_a_stored_mask_goes_with_one_coil_padding_and_missing_rows(tmp_path: Path) -> None:
    expected = LINES & ROWS[:, None]
    kspace = random_kspace(2, 16, 12) * expected
    check(tmp_path, kspace, LINES, expected)
    expected = expected & (np.arange(12) >= 2) & (np.arange(12) < 11)
    check(tmp_path, kspace * expected, LINES, expected, padding_left=2, padding_right=11)


def test_a_slice_of_zeros_was_measured_as_the_others(tmp_path: Path) -> None:
    kspace = random_kspace(3, 2, 16, 12) * (LINES & ROWS[:, None])
    kspace[2] = 0
    for stored in (None, LINES):
        check(tmp_path, kspace, stored, LINES & ROWS[:, None])
    kspace = random_kspace(3, 2, 16, 12) * PER_SLICE[:, None, None]
    kspace[2] = 0
    check(tmp_path, kspace, PER_SLICE, PER_SLICE[:, None])


def test_zero_lines_that_the_mask_calls_measured_are_not_and_this_is_said_once(tmp_path: Path, caplog: Any) -> None:
    kspace = random_kspace(3, 2, 16, 12) * LINES
    check(tmp_path, kspace, np.ones(12), LINES)
    (record,) = caplog.records
    assert "a.h5" in record.message and "zero in k-space; they count as not measured" in record.message


def test_signal_that_the_mask_calls_not_measured_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    message = r"a\.h5: 4 columns .* hold signal\. Multiply k-space by the mask, or remove the data set 'mask'"
    with pytest.raises(InputError, match=message):
        acquisitions(tmp_path, random_kspace(3, 2, 16, 12), LINES)


def test_what_a_conversion_spills_beside_the_mask_is_not_used_and_this_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check(tmp_path, random_kspace(3, 2, 16, 12) * np.where(LINES, 1, 2e-3), LINES, LINES)
    (record,) = caplog.records
    assert "weak signal where the mask says that nothing was measured; it is not used" in record.message


def test_signal_in_the_padding_of_the_header_is_not_used_and_this_is_said_once(tmp_path: Path, caplog: Any) -> None:
    expected = np.arange(12) % 11 > 1
    check(tmp_path, random_kspace(3, 2, 16, 12), None, expected, padding_left=2, padding_right=11)
    (record,) = caplog.records
    assert "k-space is not zero outside the acquired columns 2 to 10" in record.message


@pytest.mark.parametrize("stored", [~LINES, np.roll(LINES, 1), np.fft.ifftshift(np.arange(12) // 4 == 1)])
def test_a_mask_of_other_data_is_refused(tmp_path: Path, stored: np.ndarray) -> None:
    measured = LINES if stored.sum() != 4 or stored[0] == 0 else np.arange(12) // 4 == 1
    with pytest.raises(InputError, match=r"a\.h5: its mask belongs to other data: \d+ lines .* are zero .* or remove"):
        acquisitions(tmp_path, random_kspace(3, 2, 16, 12) * measured, stored)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (
            np.ones(16),
            r"its mask \(16,\) does not fit its k-space \(3, 2, 16, 12\); expected is \(12,\), .*another name",
        ),
        (np.ones((3, 2, 16, 12)), r"does not fit"),
        (np.ones((12, 16)), r"does not fit"),
        (np.ones((4, 12)), r"does not fit"),
        (np.float32(1), r"does not fit"),
        (np.ones(12, np.complex64), r"its mask is of type complex64; numbers or bool of shape"),
        (np.bytes_(b"random"), r"its mask is of type"),
        (np.full(12, np.nan), r"its mask has NaN or infinite values"),
        (np.zeros(12), r"its mask says that nothing of slice 0 was measured"),
    ],
)
def test_what_is_no_mask_is_refused_in_a_sentence(tmp_path: Path, stored: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.h5: .*{message}"):
        acquisitions(tmp_path, random_kspace(3, 2, 16, 12), stored)


def test_a_group_named_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = random_kspace(3, 2, 16, 12)
        file.create_group("mask")
    with pytest.raises(InputError, match=r"a\.h5: its mask is a group; numbers or bool of shape \(12,\)"):
        Measurement(str(path))


def test_a_shape_that_can_be_read_in_two_ways_is_refused_and_both_ways_work(tmp_path: Path) -> None:
    masks = RandomState(0).rand(16, 12) < 0.6
    with pytest.raises(InputError, match=r"store it as \(1, 16, 12\) or \(16, 1, 12\)"):
        acquisitions(tmp_path, random_kspace(16, 2, 16, 12) * masks[:, None, None], masks)
    check(tmp_path, random_kspace(16, 2, 16, 12) * masks[:, None, None], masks[:, None], masks[:, None])
    check(tmp_path, random_kspace(16, 2, 16, 12) * masks, masks[None], masks)


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


@pytest.mark.parametrize("stored", [np.ones(12), np.ones((16, 12)), LINES | (RandomState(5).rand(16, 12) < 0.5)])
def test_zero_points_that_the_mask_calls_measured_are_not_and_this_is_said_once(
    tmp_path: Path, stored: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    points = (RandomState(4).rand(16, 12) < 0.5) & (stored > 0)
    points[8], points[:, 6] = stored[8 if stored.ndim > 1 else ...], True  # no line is empty
    points &= stored > 0
    check(tmp_path, random_kspace(3, 2, 16, 12) * points, stored, points)
    (record,) = caplog.records
    assert "points that the mask calls measured are zero in k-space; they count as not measured" in record.message


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


def some_scan(kind: str, scale: float, generator: RandomState) -> tuple[np.ndarray, tuple[int, int] | None]:
    """A slice of four coils, strong in the centre, and the acquired columns that its header gives."""
    n_coils, h, w = 4, 24, 20
    distance = np.hypot(np.arange(h)[:, None] - h // 2, np.arange(w) - w // 2)
    kspace = (random_kspace(n_coils, h, w, seed=generator.randint(1000)) / (1 + distance)) * scale
    columns = (3, 17) if "padding" in kind else None
    if columns:
        kspace[..., :3] = kspace[..., 17:] = 0
    if "spill" in kind:
        kspace[..., :3] = 1e-7 * scale
    if "lines" in kind:
        kspace[..., generator.permutation(w)[:6]] = 0
    if "echo" in kind:
        kspace[:, :5] = 0
    if "points" in kind:
        kspace[:, generator.rand(h, w) < 0.3] = 0
    if "rounding" in kind:
        kspace[..., generator.permutation(w)[:6]] *= 1e-9
    if "chance" in kind:
        kspace[:, 2, 3] = 0
    if "silent coil" in kind:
        kspace[0] = 0
    return kspace.astype(np.complex64), columns


KINDS = (
    "full",
    "padding",
    "spill padding",
    "lines",
    "echo",
    "points",
    "rounding",
    "chance",
    "silent coil",
    "lines padding",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1.0, 1e18])
def test_the_look_at_a_few_coils_finds_what_the_look_at_all_finds(
    kind: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        kspace, columns = some_scan(kind, scale, RandomState(seed))
        quick = sampling.read_slice(Path("a.h5"), kspace[None], None, 0, columns)
        with monkeypatch.context() as patched:
            patched.setattr(sampling, "_is_full", lambda *_: False)
            thorough = sampling.read_slice(Path("a.h5"), kspace[None], None, 0, columns)
        for one, other in zip(quick, thorough, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["full", "padding", "silent coil"])
def test_a_few_coils_are_enough_for_a_full_scan(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kspace, columns = some_scan(kind, 1e-4, RandomState(0))
    looked_at = []
    monkeypatch.setattr(sampling, "_peak", lambda k, *_: looked_at.append(k) or np.abs(k[0]).astype(np.float32))
    assert sampling._is_full(kspace, columns)
    assert 0 < len(looked_at) < len(kspace)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1j * np.inf])
def test_one_sample_that_is_no_number_in_the_last_coil_is_found(value: complex) -> None:
    kspace, _ = some_scan("full", 1.0, RandomState(0))
    kspace[-1, 2, 3] = value
    with pytest.raises(InputError, match="NaN or infinite k-space in slice 0"):
        sampling.read_slice(Path("a.h5"), kspace[None], None, 0)
