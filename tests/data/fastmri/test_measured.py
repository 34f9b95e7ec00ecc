"""Files of measured k-space that have no reference."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from spinwarp.acquisition import Example
from spinwarp.data.fastmri.measured import Measurement
from spinwarp.errors import InputError


def random_kspace(*shape: int) -> np.ndarray:
    rng = np.random.RandomState(0)
    return (rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64)


def save(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def only(path: str, index: int = 0) -> Example:
    (example,) = Measurement(path).slices([index])
    return example


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize(
    ("shape", "n_slices", "n_coils"), [((16, 12), 1, 1), ((3, 16, 12), 1, 3), ((5, 3, 16, 12), 5, 3)]
)
def test_an_array_is_slices_of_coils(
    tmp_path: Path, shape: tuple[int, ...], n_slices: int, n_coils: int, dtype: type
) -> None:
    kspace = random_kspace(*shape)
    measurement = Measurement(save(tmp_path / "scan.npy", kspace.astype(dtype)))
    assert measurement.n_slices == n_slices
    examples = list(measurement.slices(list(range(n_slices))))
    assert [e.slice for e in examples] == [(i,) for i in range(n_slices)]
    found = torch.cat([e.acquisition.kspace for e in examples])
    assert found.dtype == torch.complex64
    np.testing.assert_array_equal(found.numpy(), kspace.reshape(n_slices, n_coils, 16, 12))
    assert all(e.target is None and e.volume == ("scan.npy",) for e in examples)
    assert examples[0].acquisition.headers[0].source == "scan.npy"


def test_slices_come_in_the_order_asked_for(tmp_path: Path) -> None:
    kspace = random_kspace(4, 2, 8, 8)
    examples = list(Measurement(save(tmp_path / "a.npy", kspace)).slices([3, 1]))
    assert [e.slice for e in examples] == [(3,), (1,)]
    np.testing.assert_array_equal(examples[0].acquisition.kspace[0].numpy(), kspace[3])


@pytest.mark.parametrize("n_coils", [None, 3])
def test_an_hdf5_file_without_a_reference_is_read_with_its_header(tmp_path: Path, n_coils: int | None) -> None:
    kspace = random_kspace(*(s for s in (2, n_coils, 16, 12) if s))
    kspace[..., ::2] = 0
    with h5py.File(tmp_path / "file1.h5", "w") as file:
        file["kspace"] = kspace
        file["mask"] = (np.arange(12) % 2).astype(np.float32)  # as fastMRI's test sets have one
        file.attrs["acquisition"] = "AXT2"
    measurement = Measurement(str(tmp_path / "file1.h5"))
    assert measurement.n_slices == 2
    (example,) = measurement.slices([1])
    np.testing.assert_array_equal(example.acquisition.kspace[0].numpy(), kspace[1].reshape(-1, 16, 12))
    assert example.acquisition.mask.shape == (1, 1, 1, 12)
    np.testing.assert_array_equal(example.acquisition.mask[0, 0, 0].numpy(), np.arange(12) % 2 == 1)
    assert example.acquisition.headers[0].contrast == "AXT2"
    assert example.acquisition.headers[0].provenance == "unknown"
    assert example.target is None


def test_a_central_block_is_a_mask_of_two_dimensions(tmp_path: Path) -> None:
    kspace = np.zeros((2, 16, 12), np.complex64)
    kspace[:, 6:10, 4:8] = 1
    acquisition = only(save(tmp_path / "a.npy", kspace)).acquisition
    assert acquisition.mask.shape == (1, 1, 16, 12)
    assert int(acquisition.mask.sum()) == 16


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_kspace_that_is_not_finite_is_named_with_its_slice(tmp_path: Path, bad: float) -> None:
    kspace = random_kspace(2, 3, 16, 12)
    kspace[1, 0, 0, 0] = bad
    path = save(tmp_path / "scan.npy", kspace)
    only(path, 0)
    with pytest.raises(InputError, match=r"scan\.npy has NaN or infinite k-space in slice 1"):
        only(path, 1)


def test_a_slice_of_zeros_was_measured_where_the_others_were(tmp_path: Path) -> None:
    kspace = random_kspace(3, 2, 16, 12)
    kspace[..., ::3] = 0
    kspace[0] = 0
    example = only(save(tmp_path / "scan.npy", kspace), 0)
    assert not example.acquisition.kspace.any()
    np.testing.assert_array_equal(example.acquisition.mask[0, 0, 0].numpy(), np.arange(12) % 3 > 0)


def test_nothing_but_zeros_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scan\.npy has nothing but zeros in its k-space"):
        only(save(tmp_path / "scan.npy", np.zeros((2, 3, 16, 12), np.complex64)))


@pytest.mark.parametrize(
    "array",
    [
        np.ones((3, 16, 12), np.float32),
        np.ones((16, 12), np.int16),
        np.ones(16, np.complex64),
        np.ones((1, 1, 3, 16, 12), np.complex64),
        np.ones((0, 3, 16, 12), np.complex64),
        np.ones((), np.complex64),
    ],
    ids=lambda a: f"{a.dtype}-{a.shape}",
)
def test_an_array_that_is_no_kspace_is_refused_with_what_it_is(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(InputError, match=rf"scan\.npy holds {array.dtype} of shape .* is expected"):
        Measurement(save(tmp_path / "scan.npy", array))


def test_an_hdf5_file_whose_coils_are_last_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with h5py.File(tmp_path / "file1.h5", "w") as file:
        file["kspace"] = random_kspace(1, 40, 36, 8)
    Measurement(str(tmp_path / "file1.h5"))
    assert "file1.h5: its k-space (1, 40, 36, 8) is read as 40 coils of 36x8 pixels" in caplog.text


def test_a_truncated_array_is_named_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    save(path, random_kspace(2, 16, 12))
    whole = path.read_bytes()
    for end in (1, 5, 8, 30, 127, 128, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"scan\.npy is not a whole \.npy file"):
            Measurement(str(path))


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (flag,)  # type: ignore[return-value]

    np.save(tmp_path / "scan.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"scan\.npy is not a whole \.npy file of numbers"):
        Measurement(str(tmp_path / "scan.npy"))
    assert not flag.exists()


def test_an_archive_of_arrays_under_the_name_of_one_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "scan.npy").open("wb") as stream:
        np.savez(stream, kspace=random_kspace(2, 16, 12))
    with pytest.raises(InputError, match=r"scan\.npy is an archive \(\.npz\); save the one array"):
        Measurement(str(tmp_path / "scan.npy"))


def test_no_message_tells_how_to_load_a_file_unsafely(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    path.write_bytes(b"not an array at all")
    with pytest.raises(InputError, match=r"not a whole \.npy file of numbers \(its first bytes") as text:
        Measurement(str(path))
    assert "pickle" not in str(text.value)


@pytest.mark.parametrize("name", ["scan.npy", "scan.h5"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"there is no file .*{name}"):
        Measurement(str(tmp_path / name))


@pytest.mark.parametrize("name", ["scan.mat", "scan.nii.gz", "scan"])
def test_an_unknown_suffix_is_refused_with_what_is_known(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}: \.h5 \(fastMRI layout\) or \.npy is expected"):
        Measurement(str(tmp_path / name))


def test_a_truncated_hdf5_file_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = random_kspace(2, 3, 16, 12)
    (tmp_path / "scan.h5").write_bytes((tmp_path / "scan.h5").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"scan\.h5 is truncated or not HDF5"):
        Measurement(str(tmp_path / "scan.h5"))


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_a_slice_that_does_not_exist_is_refused(tmp_path: Path, index: int) -> None:
    path = save(tmp_path / "scan.npy", random_kspace(2, 3, 16, 12))
    with pytest.raises(InputError, match=rf"scan\.npy has slices 0 to 1; slice {index} does not exist"):
        only(path, index)
