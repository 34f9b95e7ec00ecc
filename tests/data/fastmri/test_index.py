"""The index of a data set's files: what it remembers, and when it must not."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from spinwarp.acquisition import Header
from spinwarp.data.fastmri.index import index, open_volume, scan
from spinwarp.data.fastmri.layout import write_volume
from spinwarp.data.fastmri.source import FastMRIFiles, Folders
from spinwarp.errors import InputError

HEADER = Header("phantom", "", (12, 10), (1, 15), (1.0, 2.0, 3.0), "axial", "T2")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the HDF5 files that are opened from now on."""
    names: list[str] = []
    original = h5py.File

    def record(name: Any, *args: Any, **kwargs: Any) -> h5py.File:
        names.append(Path(name).name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(h5py, "File", record)
    return names


def volume(path: Path, n_slices: int = 2, seed: int = 0) -> Path:
    rng = np.random.RandomState(seed)
    shape = (n_slices, 2, 16, 16)
    write_volume(path, (rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64), HEADER)
    return path


def index_file(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def test_files_that_did_not_change_are_not_opened_again(tmp_path: Path, opened: list[str]) -> None:
    paths = [volume(tmp_path / name) for name in ("b.h5", "a.h5")]
    opened.clear()
    first = index(paths, "scanner")
    assert opened == ["b.h5", "a.h5"]
    opened.clear()
    assert index(paths, "scanner") == first
    assert opened == []
    assert list(first) == paths


def test_a_data_set_lists_its_volumes_from_the_index_alone(tmp_path: Path, opened: list[str]) -> None:
    volume(tmp_path / "train" / "a.h5")
    listed = [FastMRIFiles("x", Folders(str(tmp_path), train="train")).volumes("train") for _ in range(2)]
    assert listed[0] == listed[1]
    assert opened.count("a.h5") == 1  # written under another name


def test_the_header_survives_the_index(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.h5")
    index([path], "scanner")
    entry = index([path], "scanner")[path]
    assert entry == scan(path, "scanner")
    assert entry.header == Header("phantom", "a.h5", (12, 10), (1, 15), (1.0, 2.0, 3.0), "axial", "T2")
    assert entry.shape == (2, 16, 16, 12, 10)


def test_a_file_that_changed_is_read_again_and_only_that_one(tmp_path: Path, opened: list[str]) -> None:
    paths = [volume(tmp_path / name) for name in ("a.h5", "b.h5")]
    index(paths, "scanner")
    volume(paths[1], n_slices=5)
    opened.clear()
    entries = index(paths, "scanner")
    assert opened == ["b.h5"]
    assert [entries[path].n_slices for path in paths] == [2, 5]


def test_a_file_of_the_same_size_that_changed_later_is_read_again(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.h5")
    before = index([path], "scanner")[path]
    volume(path, seed=1)
    os.utime(path, ns=(before.mtime_ns + 1_000, before.mtime_ns + 1_000))
    after = index([path], "scanner")[path]
    assert before.size == after.size
    assert before.data_range != after.data_range


def test_a_file_that_becomes_damaged_is_reported_in_spite_of_the_index(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.h5")
    index([path], "scanner")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"a\.h5 is truncated"):
        index([path], "scanner")


def test_two_sets_of_files_have_two_indices(tmp_path: Path, cache: Path) -> None:
    a, b = volume(tmp_path / "a.h5"), volume(tmp_path / "b.h5")
    index([a], "scanner")
    index([a, b], "scanner")
    assert len(list(cache.iterdir())) == 2


def test_another_provenance_is_not_answered_from_the_index(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((1, 2, 16, 16), np.complex64)
    assert index([path], "scanner")[path].header.provenance == "scanner"
    assert index([path], "simulated")[path].header.provenance == "simulated"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b"3", b'{"a.h5": 1}', b'{"a.h5": {}}', b'{"a.h5": {"shape": [1]}}'],
)
def test_a_damaged_index_is_made_anew_with_a_warning(
    tmp_path: Path, cache: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = volume(tmp_path / "a.h5")
    first = index([path], "scanner")
    whole = index_file(cache).read_bytes()
    index_file(cache).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert index([path], "scanner") == first
    assert "cannot be read and is made again" in caplog.text
    assert index_file(cache).read_bytes() == whole


def test_an_index_of_other_files_under_the_same_name_does_no_harm(tmp_path: Path, cache: Path) -> None:
    path = volume(tmp_path / "a.h5")
    first = index([path], "scanner")
    index_file(cache).write_text("{}")
    assert index([path], "scanner") == first


def test_a_cache_folder_that_cannot_be_written_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = volume(tmp_path / "a.h5")
    (tmp_path / "file").write_text("")  # a folder below a file cannot be made, whoever asks (root may write anywhere)
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        entries = index([path], "scanner")
    assert entries[path].n_slices == 2
    assert "cannot be written" in caplog.text
    assert (tmp_path / "file").read_text() == ""


def test_nothing_half_written_stays_in_the_cache(tmp_path: Path, cache: Path) -> None:
    index([volume(tmp_path / "a.h5")], "scanner")
    assert [path.suffix for path in cache.iterdir()] == [".json"]


def test_opening_what_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.h5"), open_volume(tmp_path / "none.h5"):
        pass
    with pytest.raises(InputError, match=r"there is no file .*none\.h5"):
        scan(tmp_path / "none.h5", "scanner")


def test_a_group_named_kspace_is_an_input_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("kspace")
    with pytest.raises(InputError, match="kspace"):
        scan(tmp_path / "a.h5", "scanner")


def test_damaged_metadata_is_an_input_error_whichever_byte_it_is(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.h5")
    whole = path.read_bytes()
    rng = np.random.RandomState(0)
    for _ in range(300):
        content = bytearray(whole)
        content[rng.randint(2000)] = rng.randint(256)
        path.write_bytes(content)
        with suppress(InputError):
            scan(path, "scanner")
