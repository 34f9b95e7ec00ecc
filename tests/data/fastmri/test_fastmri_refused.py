"""What is refused of a fastMRI set: damaged files, k-space and targets that cannot be, folders that are missing."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from measured_files import random_kspace
from official_files import first, official, source

from spinwarp.data.fastmri.source import Folders
from spinwarp.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("kind", ["external", "soft", "virtual"])
def test_data_in_another_file_that_is_not_there_is_named_and_never_read_as_zeros(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    kspace = official(path)
    with h5py.File(tmp_path / "first.h5", "w") as file:
        file["kspace"] = kspace[:1]
    layout = h5py.VirtualLayout(kspace.shape, kspace.dtype)
    layout[:1] = h5py.VirtualSource("../first.h5", "kspace", kspace[:1].shape)
    layout[1:] = h5py.VirtualSource("../rest.h5", "kspace", kspace[1:].shape)
    with h5py.File(path, "a") as file:
        del file["kspace"]
        if kind == "virtual":
            file.create_virtual_dataset("kspace", layout)
        else:
            file["kspace"] = h5py.SoftLink("/raw") if kind == "soft" else h5py.ExternalLink("../rest.h5", "/kspace")
    where = {"external": r"\.\./rest\.h5/kspace", "soft": "/raw", "virtual": r"\.\./rest\.h5"}[kind]
    with pytest.raises(InputError, match=rf"a\.h5: its kspace lies in {where}, which is not there"):
        source(tmp_path).volumes("train")
    if kind == "virtual":
        with h5py.File(tmp_path / "rest.h5", "w") as file:
            file["kspace"] = kspace[1:]
        found = first(tmp_path, 2).acquisition.kspace[0, ..., 3:31].numpy()  # the acquired columns
        np.testing.assert_array_equal(found, kspace[2, ..., 3:31])


@pytest.mark.parametrize("n_coils", [0, 4])
def test_a_truncated_file_is_named_wherever_it_ends(tmp_path: Path, n_coils: int) -> None:
    path = tmp_path / "multicoil_train" / "file1.h5"
    official(path, random_kspace(2, *([n_coils] * (n_coils > 0)), 40, 32))
    whole = path.read_bytes()
    ends = [1, 7, 8, 95, 96, 512, 800, 2048, len(whole) // 2, len(whole) - 1]
    for end in ends:
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"file1\.h5 is truncated or not HDF5") as caught:
            source(tmp_path).volumes("train")
        assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_after_it_was_indexed_is_named_when_read(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "file1.h5"
    official(path)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"file1\.h5 is truncated or not HDF5"):
        files.read(volume, 0)
    path.unlink()
    with pytest.raises(InputError, match=r"there is no file .*file1\.h5"):
        files.read(volume, 0)


def test_a_damaged_block_of_compressed_data_is_named_when_read(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "file1.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        data = file.create_dataset("kspace", data=random_kspace(1, 4, 40, 32), chunks=(1, 4, 40, 32), compression=4)
        offset = data.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file1\.h5 is truncated or not HDF5"):
        first(tmp_path)


def test_a_file_without_kspace_is_named_with_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "file1.h5"
    official(path)
    with h5py.File(path, "a") as file:
        del file["kspace"]
    with pytest.raises(InputError, match=r"file1\.h5 has no dataset 'kspace' \(it has ismrmrd_header, reconstruction_"):
        source(tmp_path).volumes("train")
    with h5py.File(path, "w"):
        pass
    with pytest.raises(InputError, match="it has nothing"):
        source(tmp_path).volumes("train")


@pytest.mark.parametrize("bad", [np.nan, np.inf, complex(0, np.nan)])
def test_kspace_that_is_not_finite_is_named_with_its_slice(tmp_path: Path, bad: complex) -> None:
    kspace = random_kspace(3, 4, 40, 32)
    kspace[1, 2, 30, 7] = bad
    official(tmp_path / "multicoil_train" / "file1.h5", kspace)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    files.read(volume, 0)
    with pytest.raises(InputError, match=r"file1\.h5 has NaN or infinite k-space in slice 1"):
        files.read(volume, 1)


@pytest.mark.parametrize(
    "kspace",
    [
        np.ones((2, 4, 40, 32), np.float32),
        np.ones((40, 32), np.complex64),
        np.ones((1, 2, 4, 40, 32), np.complex64),
        np.ones((0, 4, 40, 32), np.complex64),
        np.ones((2, 4, 40, 32, 2), np.float32),
    ],
    ids=lambda kspace: f"{kspace.dtype}-{kspace.ndim}d-{kspace.size}",
)
def test_kspace_of_another_type_or_shape_is_refused(tmp_path: Path, kspace: np.ndarray) -> None:
    official(tmp_path / "multicoil_train" / "file1.h5", kspace, target=False)
    with pytest.raises(InputError, match=r"file1\.h5: kspace has shape .* complex is expected"):
        source(tmp_path).volumes("train")


@pytest.mark.parametrize("shape", [(2, 20, 20), (3, 41, 20), (3, 20, 33)])
def test_a_target_that_does_not_fit_its_kspace_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    official(tmp_path / "multicoil_train" / "file1.h5", target=np.ones(shape, np.float32))
    with pytest.raises(InputError, match=r"file1\.h5: reconstruction_rss .* does not fit k-space \(3, 4, 40, 32\)"):
        source(tmp_path).volumes("train")


@pytest.mark.parametrize("columns", [(-1, 30), (10, 10), (20, 10), (0, 33)])
def test_padding_attributes_that_lie_are_refused(tmp_path: Path, columns: tuple[int, int]) -> None:
    official(tmp_path / "multicoil_train" / "file1.h5", padding_left=columns[0], padding_right=columns[1])
    with pytest.raises(InputError, match=rf"acquired columns {columns[0]}\.\.{columns[1]} lie outside"):
        source(tmp_path).volumes("train")


def test_a_missing_folder_is_named_with_the_hint(tmp_path: Path) -> None:
    folders = Folders(str(tmp_path), train="multicoil_train", hint="Ask for the data.")
    folders.prepare()  # nothing to make, nothing to complain of yet
    with pytest.raises(InputError, match=r"no folder .*multicoil_train for the train split\. Ask for the data\.$"):
        folders.files("train")


def test_an_empty_folder_is_named_with_the_hint(tmp_path: Path) -> None:
    (tmp_path / "multicoil_train").mkdir()
    (tmp_path / "multicoil_train" / "a.txt").write_text("")
    folders = Folders(str(tmp_path), train="multicoil_train", hint="Unpack it.")
    with pytest.raises(InputError, match=r"multicoil_train of the train split has no \.h5 files\. Unpack it\.$"):
        folders.files("train")


def test_a_split_without_a_folder_and_one_that_cannot_be_are_refused(tmp_path: Path) -> None:
    folders = Folders(str(tmp_path), train="multicoil_train")
    with pytest.raises(InputError, match=r"no test folder; give data\.source\.files\.test=FOLDER"):
        folders.files("test")
    with pytest.raises(InputError, match="split='training' is not one of train, val, test"):
        folders.files("training")
