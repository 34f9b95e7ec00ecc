"""One sentence names what cannot be opened and why; and where files of our own lie."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from spinwarp.data.fastmri.index import index, open_volume
from spinwarp.data.fastmri.source import FastMRIFiles, Folders
from spinwarp.data.images.formats import find_images
from spinwarp.errors import InputError
from spinwarp.files import as_input_error, cache_folder, list_files, user_path

APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "  # how a ._name begins


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path / "cache"))


def volume(path: Path, **attributes: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((1, 2, 8, 8), np.complex64)
        file.attrs.update(attributes)
    return path


def source(root: Path) -> FastMRIFiles:
    return FastMRIFiles("set", Folders(str(root), train="train", val="val", test="test"))


def test_what_a_mac_keeps_beside_the_data_is_left_out_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume(tmp_path / "train" / "a.h5")
    (tmp_path / "train" / "._a.h5").write_bytes(APPLE)
    for _ in range(2):
        assert [v.name for v in source(tmp_path).volumes("train")] == ["a.h5"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'train'}: 1 files named ._* are left out; macOS keeps them next to the data"
    ]
    message = r"\._a\.h5 is not the data but a file that macOS keeps next to it; use a\.h5"
    with pytest.raises(InputError, match=message), open_volume(tmp_path / "train" / "._a.h5"):
        pass


def test_suffixes_in_capitals_and_the_long_one_are_volumes(tmp_path: Path) -> None:
    for name in ("b.H5", "a.hdf5", "c.h5", "d.h5.part", ".e.h5", "f.txt"):
        volume(tmp_path / "train" / name)
    assert [v.name for v in source(tmp_path).volumes("train")] == ["a.hdf5", "b.H5", "c.h5"]


def test_files_below_are_found_behind_links_and_not_in_hidden_folders(tmp_path: Path) -> None:
    for name in ("set/b/2.png", "set/.git/3.png", "set/__MACOSX/4.png", "other/5.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "other")
    (tmp_path / "set" / "b" / "back").symlink_to(tmp_path / "set")  # would never end
    found = list_files(tmp_path / "set", (".png",), below=True)
    assert [path.relative_to(tmp_path / "set").as_posix() for path in found] == ["a/5.PNG", "b/2.png"]
    (tmp_path / "set" / "c").symlink_to("/nowhere/c")
    with pytest.raises(InputError, match="set/c is a link to /nowhere/c, which does not exist"):
        list_files(tmp_path / "set", (".png",), below=True)


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("spinwarp.files.os.scandir", refuse)
    with pytest.raises(InputError, match=r"the folder .* cannot be listed \(Permission denied\)"):
        list_files(tmp_path, (".h5",))


def test_a_folder_that_may_not_be_looked_at_is_not_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", refuse)
        for look in (lambda: source(tmp_path).volumes("train"), lambda: find_images(tmp_path)):
            with pytest.raises(InputError, match=r"cannot be accessed \(Permission denied\)"):
                look()


def test_a_link_to_a_moved_disk_is_said_before_anything_is_read(tmp_path: Path) -> None:
    volume(tmp_path / "train" / "a.h5")
    (tmp_path / "train" / "b.h5").symlink_to("/disk/b.h5")
    with pytest.raises(InputError, match=r"b\.h5 is a link to /disk/b\.h5, which does not exist; connect that disk"):
        source(tmp_path).volumes("train")


def test_a_folder_behind_a_link_to_a_moved_disk_is_said(tmp_path: Path) -> None:
    (tmp_path / "set").symlink_to("/disk/fastmri")
    with pytest.raises(InputError, match="set is a link to /disk/fastmri, which does not exist"):
        source(tmp_path / "set").volumes("train")
    with pytest.raises(InputError, match="set is a link to /disk/fastmri, which does not exist"):
        find_images(tmp_path / "set" / "pictures")


def test_a_file_that_disappears_is_said_wherever_it_is_missed(tmp_path: Path) -> None:
    path = volume(tmp_path / "train" / "a.h5")
    files = source(tmp_path)
    (listed,) = files.volumes("train")
    path.unlink()
    with pytest.raises(InputError, match=r"there is no file .*a\.h5"):
        files.read(listed, 0)
    with pytest.raises(InputError, match=r"there is no file .*a\.h5"):
        index([path], "scanner")


def test_a_folder_and_an_empty_file_are_said(tmp_path: Path) -> None:
    (tmp_path / "train" / "a.h5").mkdir(parents=True)
    with pytest.raises(InputError, match=r"a\.h5 is a folder; a file is expected"):
        source(tmp_path).volumes("train")
    (tmp_path / "train" / "a.h5").rmdir()
    (tmp_path / "train" / "a.h5").touch()
    with pytest.raises(InputError, match=r"a\.h5 is empty; copy or download it again"):
        source(tmp_path).volumes("train")


def test_a_file_that_is_open_for_writing_is_said_to_be_locked(tmp_path: Path) -> None:
    path = volume(tmp_path / "train" / "a.h5")
    code = f"import h5py, sys; file = h5py.File({str(path)!r}, 'r+'); print(flush=True); sys.stdin.read()"
    # a lock of this process would not keep it out
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(InputError, match=r"a\.h5 is locked: .*HDF5_USE_FILE_LOCKING=FALSE"):
            source(tmp_path).volumes("train")
        holder.communicate()
    assert len(source(tmp_path).volumes("train")) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "you have no permission to read"),
        (OSError("Unable to open file (errno = 13, error message = 'Permission denied')"), "no permission to read"),
        (OSError(errno.EIO, "Input/output error"), "the disk or network that holds"),
        (OSError("Can't read data (file read failed: errno = 116, error message = 'Stale')"), "the disk or network"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
        (OSError("Unable to open file (unable to lock file, errno = 37, error message = '')"), "is locked"),
        (OSError("file is already open for write (may use <h5clear file>)"), "is locked"),
        (OSError("Unable to open file (truncated file: eof = 96)"), "is truncated or not HDF5"),
    ],
)
def test_what_the_system_says_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    path = volume(tmp_path / "a.h5")

    def refuse(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", refuse)
        with pytest.raises(InputError, match=words) as caught, open_volume(path):
            pass
    assert ("truncated" in str(caught.value)) == ("truncated" in words)
    words = words.replace("truncated or not HDF5", "not a whole picture")
    with pytest.raises(InputError, match=words), as_input_error(path, "picture"):
        raise error


def test_a_filter_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train" / "a.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=np.ones((1, 2, 8, 8), np.complex64), chunks=True, compression="gzip")
    known = h5py.h5z.filter_avail
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: code != h5py.h5z.FILTER_DEFLATE and known(code))
    with pytest.raises(InputError, match=r"kspace is compressed by a filter .*\(deflate, HDF5 filter 1\).*hdf5plugin"):
        source(tmp_path).volumes("train")


def test_the_cache_is_where_it_was_named_and_a_tilde_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("SPINWARP_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("SPINWARP_CACHE")
    assert cache_folder() == tmp_path / ".cache" / "spinwarp"
    with pytest.raises(InputError, match="~no-such-user/data: this user has no home folder"):
        user_path("~no-such-user/data")


@pytest.mark.parametrize("named", [None, "~/mine"])
def test_without_a_home_a_temporary_folder_takes_its_place_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, named: str | None
) -> None:
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # a container's user has no entry
    monkeypatch.setattr("spinwarp.files.tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("SPINWARP_CACHE")
    if named:
        monkeypatch.setenv("SPINWARP_CACHE", named)
    home = tmp_path / f"spinwarp-{os.getuid()}"
    with pytest.raises(InputError, match="~/data: this user has no home folder; write the path out, or set HOME"):
        Folders("~/data")
    with caplog.at_level(logging.WARNING):
        assert cache_folder() == home / (named or "~/.cache/spinwarp")[2:]
        index([volume(tmp_path / "a.h5")], "scanner")
    assert [record.getMessage() for record in caplog.records] == [
        f"there is no home folder (set HOME); {home} is used instead"
    ]
    assert len(list((home / (named or "~/.cache/spinwarp")[2:]).glob("index-*.json"))) == 1


def test_a_named_cache_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home")))
    index([volume(tmp_path / "a.h5")], "scanner")
    assert len(list((tmp_path / "cache").glob("index-*.json"))) == 1


@pytest.mark.parametrize("home", ["/nonexistent", "/"])
def test_a_home_that_is_none_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("spinwarp.files.os.access", lambda *_: False)
    monkeypatch.setattr("spinwarp.files.tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("SPINWARP_CACHE")
    assert cache_folder() == tmp_path / f"spinwarp-{os.getuid()}" / ".cache" / "spinwarp"
