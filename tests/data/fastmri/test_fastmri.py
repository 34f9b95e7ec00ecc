"""Volumes of the official fastMRI layout: slices, targets, data range, patients and provenance."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from measured_files import random_kspace
from official_files import first, official, source

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_multicoil_volume_is_read_slice_by_slice(tmp_path: Path) -> None:
    target = np.abs(random_kspace(3, 20, 20, seed=5))
    kspace = official(tmp_path / "multicoil_train" / "file1000001.h5", target=target, max=target.max())
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    assert (volume.name, volume.n_slices, volume.shape) == ("file1000001.h5", 3, (4, 40, 32, 20, 20))
    kspace[..., :3] = kspace[..., 31:] = 0  # what the header calls padding
    for index in range(3):
        example = files.read(volume, index)
        assert example.acquisition.kspace.dtype == torch.complex64
        np.testing.assert_array_equal(example.acquisition.kspace[0].numpy(), kspace[index])
        assert example.target is not None
        np.testing.assert_array_equal(example.target[0].numpy(), target[index])
        assert example.data_range.tolist() == [float(target.max())]
        assert example.target_type == ("rss",)
        assert (example.volume, example.slice) == (("file1000001.h5",), (index,))


def test_a_single_coil_volume_has_one_coil(tmp_path: Path) -> None:
    kspace = official(tmp_path / "multicoil_train" / "a.h5", random_kspace(2, 40, 32), max=1.0)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    assert volume.shape == (1, 40, 32, 20, 20)
    example = files.read(volume, 1)
    kspace[..., :3] = kspace[..., 31:] = 0  # what the header calls padding
    np.testing.assert_array_equal(example.acquisition.kspace[0, 0].numpy(), kspace[1])
    assert example.target is not None
    assert example.target.shape == (1, 20, 20)


def test_one_coil_is_held_against_esc_and_several_against_rss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    esc, rss = (np.abs(random_kspace(2, 20, 20, seed=s)).astype("f4") for s in (1, 2))
    for name, kspace, largest in (("a", random_kspace(2, 40, 32), rss), ("b", random_kspace(2, 3, 40, 32), esc)):
        path = tmp_path / "multicoil_train" / f"{name}.h5"
        official(path, kspace, target=False, max=float(largest.max()))  # of the target that is not taken
        with h5py.File(path, "a") as file:
            file["reconstruction_rss"], file["reconstruction_esc"] = rss, esc
    files = source(tmp_path)
    for volume, kind, target in zip(files.volumes("train"), ("esc", "rss"), (esc, rss), strict=True):
        example = files.read(volume, 1)
        assert example.target is not None
        np.testing.assert_array_equal(example.target[0].numpy(), target[1])
        assert (example.target_type, example.data_range.tolist()) == ((kind,), [float(target.max())])
    messages = [record.message for record in caplog.records if "attribute max" in record.message]
    assert [("reconstruction_esc" in s, "reconstruction_rss" in s) for s in messages] == [(True, False), (False, True)]


@pytest.mark.parametrize("factor", [0.01, 0.5, 1.0005, 1.5, 2, 100])
def test_the_data_range_is_the_largest_value_whatever_the_attribute_says(
    tmp_path: Path, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    target = np.ones((3, 20, 20), "f4")
    target[2, 4, 4] = 3  # not in the middle slice
    official(path, random_kspace(3, 3, 40, 32), target=False, max=3 * factor)
    with h5py.File(path, "a") as file:
        file["reconstruction_rss"] = target
    assert first(tmp_path).data_range.tolist() == [3]
    assert ("attribute max is not the largest value" in caplog.text) == (factor != 1.0005)  # rounding needs no word


@pytest.mark.parametrize("patient", ["7", b"7", np.int64(7), np.array([7]), np.array([b"7"])])
def test_the_patient_is_read_in_whatever_way_it_is_stored(tmp_path: Path, patient: object) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", patient_id=patient)
    assert source(tmp_path).volumes("train")[0].patient == "7"


def test_the_only_target_is_taken_with_its_own_name_and_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    official(path, random_kspace(1, 40, 32), target=False)
    with h5py.File(path, "a") as file:
        file["reconstruction_rss"] = np.full((1, 20, 20), 3, ">i2")  # integers of the other byte order
    example = first(tmp_path)
    assert example.target is not None and example.target.dtype == torch.float32
    assert (example.target_type, example.target.unique().tolist(), example.data_range.tolist()) == (("rss",), [3], [3])
    assert "there is no reconstruction_esc" in caplog.text and "reconstruction_rss is used instead" in caplog.text


def test_a_volume_without_a_reference_has_no_target_and_the_size_of_its_header(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", target=False)
    example = first(tmp_path)
    assert example.target is None
    assert example.data_range.tolist() == [1.0]
    assert example.acquisition.headers[0].reconstruction_size == (20, 20)


def test_the_contrast_may_be_a_text_of_fixed_length(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", acquisition=np.bytes_(b"AXT2"))
    assert first(tmp_path).acquisition.headers[0].contrast == "AXT2"


def test_without_the_attribute_the_range_is_the_largest_value_of_the_volume(tmp_path: Path) -> None:
    target = np.full((3, 20, 20), 0.5, np.float32)
    target[2, 3, 3] = 2.5
    official(tmp_path / "multicoil_train" / "a.h5", target=target)
    assert first(tmp_path, slice_index=0).data_range.tolist() == [2.5]


def test_volumes_of_different_shapes_lie_in_one_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "b.h5", random_kspace(2, 4, 40, 32))
    official(tmp_path / "multicoil_train" / "a.h5", random_kspace(1, 6, 44, 30), target=np.ones((1, 44, 24), "f4"))
    (tmp_path / "multicoil_train" / "notes.txt").write_text("no volume")
    volumes = source(tmp_path).volumes("train")
    assert [(v.name, v.n_slices, v.shape) for v in volumes] == [
        ("a.h5", 1, (6, 44, 30, 44, 24)),
        ("b.h5", 2, (4, 40, 32, 20, 20)),
    ]


def test_provenance_is_that_of_the_set_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5")
    official(tmp_path / "multicoil_train" / "b.h5", provenance="simulated", orientation="coronal")
    files = source(tmp_path, provenance="phantom")
    headers = [files.read(volume, 0).acquisition.headers[0] for volume in files.volumes("train")]
    assert [h.provenance for h in headers] == ["phantom", "simulated"]
    assert [h.orientation for h in headers] == [None, "coronal"]


def test_double_precision_is_read_as_single(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", random_kspace(1, 2, 40, 32).astype(np.complex128))
    assert first(tmp_path).acquisition.kspace.dtype == torch.complex64


def test_no_file_stays_open_and_the_source_goes_to_workers(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    official(path)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    expected = files.read(volume, 2)
    with h5py.File(path, "a"):  # refused while another handle is open for reading
        pass
    copy = pickle.loads(pickle.dumps(files))
    assert torch.equal(copy.read(volume, 2).acquisition.kspace, expected.acquisition.kspace)


def test_a_volume_can_be_read_by_a_source_that_never_listed_it(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5")
    (volume,) = source(tmp_path).volumes("train")
    assert source(tmp_path).read(volume, 0).acquisition.headers[0].acquired_columns == (3, 31)
