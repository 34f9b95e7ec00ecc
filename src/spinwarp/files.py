"""Atomic writes, clear errors for files that cannot be read, listings of folders, and the cache folder."""

import errno
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from spinwarp.errors import InputError

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
LARGEST_RATIO = 1100  # of unpacked to stored bytes; deflate, which packs tightest, ends at 1032
# error numbers of a failing disk or network
_DISK = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ENXIO", "ENODEV", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO")
    if hasattr(errno, name)
}
# folders that operating systems create; they hold no data, and may be unreadable
_OF_SYSTEMS = {"__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information"}


def user_path(text: str | Path) -> Path:
    """Return the path that a user wrote, with ``~`` and ``~name`` expanded to the home folder.

    Raises
    ------
    InputError : if the user has no home folder.
    """
    path = with_home(str(text))
    if path.startswith("~") and not Path(path).exists():
        raise InputError(f"{text}: this user has no home folder; write the path out, or set HOME in the environment")
    return Path(path)


def with_home(text: str) -> str:
    """Expand a leading ``~`` or ``~name`` to the home folder; other text is returned unchanged."""
    return os.path.expanduser(text)  # noqa: PTH111 - a Path would change text that is not a path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, and rename it to ``path`` when the block ends without an error.

    A killed run never leaves a half-written file under the real name. If two runs write the same file, the last wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder next to ``path``, which takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    replaced = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.replace(replaced)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def as_input_error(path: Path, expected: str, remedy: str = "repair or remove it") -> Iterator[None]:
    """Turn any exception of a file reader into an :class:`InputError` that names the file.

    Image and array libraries raise all kinds of exceptions on damaged bytes. Put nothing but the call of the library
    into the block: a bug of our own in it would be reported as a damaged file.

    Parameters
    ----------
    path : the file being read.
    expected : what the file should be, such as "picture".
    remedy : what the user should do.

    Raises
    ------
    InputError : if the block raises anything, including running out of memory.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, error, f"is not a whole {expected} ({{reason}}); {remedy}") from error


def open_npy(path: Path) -> "np.ndarray":
    """Return the array of a ``.npy`` file, memory-mapped.

    numpy takes a file that is none of its own for pickled objects, and its message then explains how to load them
    unsafely. No user of ours should.

    Raises
    ------
    InputError : if the file is damaged, holds objects, or is something else.
    """
    import numpy as np  # --help answers without it

    with as_input_error(path, ".npy file of numbers"):
        with path.open("rb") as file:
            start = file.read(6)
        if start.startswith(b"PK"):
            raise InputError(f"{path} is an archive (.npz); save the one array that is meant as .npy")
        if start != b"\x93NUMPY":
            raise ValueError("its first bytes are not those of the format")
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array


def unreadable(path: Path, error: BaseException, damaged: str) -> InputError:
    """Return the error for a file that cannot be read: the system's reason if there is one, else ``damaged``.

    Parameters
    ----------
    path : the file.
    error : the exception that reading it raised.
    damaged : what follows the path in the message if the system is not to blame; ``{reason}`` stands for the text of
        ``error``.
    """
    # HDF5 gives the system's error number only in its text
    found = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    if sentence := _without_content(path):
        return InputError(sentence)
    if number in (errno.EACCES, errno.EPERM):
        return InputError(
            f"you have no permission to read {path}; grant it with chmod u+r, or ask the owner of the file"
        )
    if number == errno.ENOLCK or "unable to lock file" in str(error) or "already open for write" in str(error):
        return InputError(
            f"{path} is locked: another program has it open for writing, or its disk does not support locks; close "
            f"that program, or set the environment variable HDF5_USE_FILE_LOCKING=FALSE if nothing writes to the file"
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return InputError(f"{path} cannot be opened because too many files are open; raise the limit with ulimit -n")
    if number in _DISK:
        return InputError(
            f"the disk or network that holds {path} failed ({os.strerror(number or 0)}); check it and run again"
        )
    if path.name.startswith("._"):
        return InputError(f"{path} is not the data but a file that macOS keeps next to it; use {path.name[2:]}")
    lines = str(error).strip().splitlines()
    reason = " ".join(lines[0].split())[:200] if lines else type(error).__name__
    return InputError(f"{path} {damaged.replace('{reason}', reason)}")


def _without_content(path: Path) -> str | None:
    """Return what is wrong if the path does not exist, is a folder or is an empty file; else None."""
    try:
        if sentence := _dangling(path):
            return sentence
        if not path.exists():
            return f"there is no file {path}"
        if path.is_dir():
            return f"{path} is a folder; a file is expected"
        if path.stat().st_size == 0:
            return f"{path} is empty; copy or download it again"
    except OSError:  # the error of the reader says more
        pass
    return None


def is_folder(path: Path) -> bool:
    """Return whether ``path`` is a folder.

    Raises
    ------
    InputError : if the path leads through a broken link, or the user has no permission to look.
    """
    try:
        if sentence := _dangling(path):
            raise InputError(sentence)
        return path.is_dir()
    except OSError as error:
        raise InputError(f"the folder {path} cannot be accessed ({error.strerror}); ask its owner") from error


def _dangling(path: Path) -> str | None:
    """Return a message if the path, or a folder above it, is a broken link; else None."""
    for link in () if path.exists() else (path, *path.parents):
        if link.is_symlink() and not link.exists():
            return (
                f"{link} is a link to {link.readlink()}, which does not exist; connect that disk or make the link again"
            )
    return None


def list_files(folder: Path, suffixes: tuple[str, ...], below: bool = False) -> list[Path]:
    """List the files of a folder that have one of ``suffixes``, sorted; upper and lower case count as the same.

    Hidden files and folders, whose names begin with a dot, are left out. The log says how many of them are the
    ``._name`` files that macOS writes next to the data on other disks.

    Parameters
    ----------
    folder : the folder.
    suffixes : lower case, with their dot; ``""`` matches every name.
    below : also list the files of all sub-folders, including linked ones.

    Raises
    ------
    InputError : if a folder cannot be listed, or a link is broken.
    """
    found: list[Path] = []
    from_mac = 0
    todo, seen = [folder], set()
    while todo:
        current = todo.pop()
        try:
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link back to a folder above
                continue
            seen.add((status.st_dev, status.st_ino))
        except OSError as error:
            raise InputError(f"the folder {current} cannot be listed ({error.strerror})") from error
        for entry in entries:
            path = Path(entry.path)
            matches = entry.name.lower().endswith(suffixes)
            if entry.name.startswith(".") or entry.name in _OF_SYSTEMS:
                from_mac += matches and entry.name.startswith("._")
            elif (below or matches) and entry.is_symlink() and (sentence := _dangling(path)):
                raise InputError(sentence)
            elif below and entry.is_dir():
                todo.insert(0 if entry.is_symlink() else len(todo), path)  # a folder goes before the links to it
            elif matches and (entry.is_file() or not below):
                found.append(path)
    if from_mac:
        warn_once(f"{folder}: {from_mac} files named ._* are left out; macOS keeps them next to the data")
    return sorted(found)


@lru_cache
def warn_once(message: str) -> None:
    """Log a warning the first time it is given, and never again."""
    log.warning(message)


def cache_folder() -> Path:
    """Return the folder for files that can be made again: ``$SPINWARP_CACHE``, or else ``~/.cache/spinwarp``."""
    named = os.environ.get("SPINWARP_CACHE") or "~/.cache/spinwarp"
    if named.startswith("~"):
        find_home()
    return user_path(named)


def find_home() -> None:
    """Create a temporary home folder for a user without one, as in many containers, and log it.

    ``HOME`` is set to that folder, so other libraries and child processes put their caches there too.
    """
    if _has_home():
        return
    home = Path(tempfile.gettempdir()) / f"spinwarp-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():  # another user created it first
        home = Path(tempfile.mkdtemp(prefix="spinwarp-"))
    log.warning("there is no home folder (set HOME); %s is used instead", home)
    os.environ["HOME"] = str(home)


def _has_home() -> bool:
    try:
        home = Path("~").expanduser()
    except RuntimeError:
        return False
    # containers give unknown users the root folder as home, and services a folder that does not exist
    return home.is_dir() and (home != Path("/") or os.access(home, os.W_OK))
