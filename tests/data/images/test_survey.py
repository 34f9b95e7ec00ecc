from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from spinwarp.data.images.formats import ImageVolume
from spinwarp.data.images.survey import has_empty_border, split_by_patient
from spinwarp.errors import InputError


def pictures(*numbers: int | None, subject: str = "") -> list[ImageVolume]:
    return [ImageVolume(f"{subject}{n}", (Path(f"{n}.png"),), 1, (8, 8), subject, n) for n in numbers]


def numbers(volumes: list[ImageVolume]) -> list[int | None]:
    return [volume.number for volume in volumes]


def test_a_flat_folder_is_split_by_runs_of_numbers_and_long_runs_are_cut() -> None:
    found = pictures(*range(1, 8), *range(11, 14), *range(21, 25))
    splits = split_by_patient(found, 5, 1, 1)
    assert numbers(splits["test"]) == [21, 22, 23, 24]
    assert numbers(splits["val"]) == [11, 12, 13]
    assert numbers(splits["train"]) == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(split_by_patient(found, 5, 2, 1)["val"]) == [6, 7, 11, 12, 13]
    assert split_by_patient(found, 5, 0, 0)["train"] == found


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_no_number_is_in_two_splits_and_none_is_lost(drawn: list[int], block: int, n_val: int, n_test: int) -> None:
    try:
        splits = split_by_patient(pictures(*drawn), block, n_val, n_test)
    except InputError:
        assert len(set(drawn)) <= (n_val + n_test) * block
        return
    parts = [numbers(splits[split]) for split in ("train", "val", "test")]
    assert sorted(n for part in parts for n in part if n is not None) == sorted(drawn)
    assert sum(len(set(part)) for part in parts) == len(set(drawn))
    assert parts[0]


def test_files_that_share_a_number_stay_together() -> None:
    splits = split_by_patient(pictures(1, 2, 3) + pictures(1, 2, 3), 1, 1, 1)
    assert [numbers(splits[split]) for split in ("train", "val", "test")] == [[1, 1], [2, 2], [3, 3]]


def test_sub_folders_are_subjects_and_the_last_are_held_out() -> None:
    found = [volume for subject in "abcd" for volume in pictures(1, 2, subject=subject)]
    splits = split_by_patient(found, 50, 1, 2)
    assert {split: {v.subject for v in part} for split, part in splits.items()} == {
        "train": {"a"},
        "val": {"b"},
        "test": {"c", "d"},
    }


def test_sub_folders_named_as_splits_are_the_splits() -> None:
    found = [volume for split in ("test", "train") for volume in pictures(1, None, subject=split)]
    splits = split_by_patient(found, 50, 1, 1)
    assert [v.subject for v in splits["train"]] == ["train", "train"]
    assert [v.subject for v in splits["test"]] == ["test", "test"]
    assert splits["val"] == []


def test_other_names_of_the_splits_are_known_and_other_folders_beside_them_refused() -> None:
    found = [volume for folder in ("Testing", "Training", "Validation") for volume in pictures(1, subject=folder)]
    splits = split_by_patient(found, 50, 1, 1)
    assert {split: [v.subject for v in part] for split, part in splits.items()} == {
        "train": ["Training"], "val": ["Validation"], "test": ["Testing"]
    }  # fmt: skip
    with pytest.raises(InputError, match=r"sub-folders beside those of the splits \(masks\)"):
        split_by_patient(found + pictures(1, subject="masks"), 50, 1, 1)


def test_what_cannot_be_split_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        InputError, match=r"10 images make 1 blocks of file numbers \(0-9\).*lower data\.source\.block \(now 50\)"
    ):
        split_by_patient(pictures(*range(10)), 50, 1, 1)
    with pytest.raises(InputError, match="make 1 sub-folders"):
        split_by_patient(pictures(1, 2, subject="a"), 50, 1, 1)
    with pytest.raises(InputError, match="has no number to split by"):
        split_by_patient(pictures(1, None), 50, 1, 1)
    with pytest.raises(InputError, match="lies next to sub-folders"):
        split_by_patient(pictures(1) + pictures(1, subject="a"), 50, 1, 1)


def test_an_interpolated_image_has_an_empty_border_of_kspace_and_a_native_one_has_not() -> None:
    native = 120 + 30 * gaussian_filter(np.random.RandomState(0).randn(65, 64), 0.5)
    assert native.min() > 0
    for pad in (((0, 0), (8, 8)), ((20, 20), (0, 0))):
        spectrum = np.fft.fftshift(np.fft.fft2(native))
        interpolated = np.abs(np.fft.ifft2(np.fft.ifftshift(np.pad(spectrum, pad))))
        for image in (native, interpolated):
            expected = image is interpolated
            assert has_empty_border(image) == expected
            assert has_empty_border((image / image.max() * 255).round().astype(np.uint8)) == expected
    assert not has_empty_border(np.ones((3, 1)))
