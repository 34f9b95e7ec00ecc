"""What was measured where a file stores a mask: its shapes, how it is held against the data, what is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from measured_files import LINES, ROWS, acquisitions, check, random_kspace
from numpy.random import RandomState

from spinwarp.data.fastmri.measured import Measurement
from spinwarp.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")

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
