"""Files that appear whole or not at all, files that others wrote, and where files of our own may lie."""

import errno
import logging
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from spinwarp.errors import InputError

log = logging.getLogger(__name__)
# how disks and networks say that they failed
_DISK = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ENXIO", "ENODEV", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO")
    if hasattr(errno, name)
}
# folders that hold nothing of the user's, and that not everybody may read
_OF_SYSTEMS = {"__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information"}


def user_path(text: str | Path) -> Path:
    """Return the path that a user wrote, with the home folder for ``~`` and ``~name``.

    Raises
    ------
    InputError : if the user has no home folder.
    """
    path = with_home(str(text))
    if path.startswith("~") and not Path(path).exists():
        raise InputError(f"{text}: this user has no home folder; write the path out, or set HOME in the environment")
    return Path(path)


def with_home(text: str) -> str:
    """Write the home folder out for ``~`` or ``~name`` at the beginning; a text without one stays as it is."""
    return os.path.expanduser(text)  # noqa: PTH111 - a Path would shorten a text that is no path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that becomes ``path`` when the block ends without an error.

    A killed run leaves no half-written file under the real name, and of two runs that write one file the last wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def reading(path: Path, kind: str, remedy: str = "repair or remove it") -> Iterator[None]:
    """Turn whatever a reader of foreign files raises into one sentence that names the file.

    Readers of images and arrays fail on damaged bytes in every way there is; only such a reader may stand in the block,
    for an error of our own would pass as damage.

    Parameters
    ----------
    path : what is read.
    kind : what it should be, such as "picture".
    remedy : what to do.

    Raises
    ------
    InputError : if the block raises anything, running out of memory included.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, error, f"is not a whole {kind} ({{reason}}); {remedy}") from error


def unreadable(path: Path, error: BaseException, damaged: str) -> InputError:
    """Return the sentence for a file that cannot be read: what the system says, or else that it is damaged.

    Parameters
    ----------
    path : what was to be read.
    error : what that ended in.
    damaged : what to say of ``path`` if the system is not to blame; ``{reason}`` in it becomes that of ``error``.
    """
    # HDF5 puts the number of the system's error into its text
    found = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    if sentence := _without_content(path):
        return InputError(sentence)
    if number in (errno.EACCES, errno.EPERM):
        return InputError(f"you have no right to read {path}; give it to yourself with chmod u+r, or ask its owner")
    if number == errno.ENOLCK or "unable to lock file" in str(error) or "already open for write" in str(error):
        return InputError(
            f"{path} is locked: another program has it open for writing, or its disk knows no locks; close that "
            f"program, or set the environment variable HDF5_USE_FILE_LOCKING=FALSE if nothing writes to the file"
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return InputError(f"{path} cannot be opened because too many files are open; raise the limit with ulimit -n")
    if number in _DISK:
        return InputError(
            f"the disk or network that holds {path} failed ({os.strerror(number or 0)}); check it and run again"
        )
    if path.name.startswith("._"):
        return InputError(f"{path} is not the data but what a Mac keeps beside it; give {path.name[2:]}")
    lines = str(error).strip().splitlines()
    reason = " ".join(lines[0].split())[:200] if lines else type(error).__name__
    return InputError(f"{path} {damaged.replace('{reason}', reason)}")


def _without_content(path: Path) -> str | None:
    """Say what is wrong if a path leads to nothing, to a folder or to an empty file."""
    try:
        if sentence := _dangling(path):
            return sentence
        if not path.exists():
            return f"there is no file {path}"
        if path.is_dir():
            return f"{path} is a folder; a file is expected"
        if path.stat().st_size == 0:
            return f"{path} is empty; copy or download it again"
    except OSError:  # what the reader ended in says it
        pass
    return None


def is_folder(path: Path) -> bool:
    """Tell whether there is such a folder.

    Raises
    ------
    InputError : if it is behind a link that leads nowhere, or the user may not look.
    """
    try:
        if sentence := _dangling(path):
            raise InputError(sentence)
        return path.is_dir()
    except OSError as error:
        raise InputError(f"the folder {path} cannot be looked at ({error.strerror}); ask its owner") from error


def _dangling(path: Path) -> str | None:
    """Return a sentence if a path, or a folder above it, is a link that leads nowhere; else None."""
    for link in () if path.exists() else (path, *path.parents):
        if link.is_symlink() and not link.exists():
            return f"{link} is a link to {link.readlink()}, which is not there; connect that disk or make the link anew"
    return None


def list_files(folder: Path, suffixes: tuple[str, ...], below: bool = False) -> list[Path]:
    """List the files of a folder by suffix, in either case and sorted.

    What begins with a dot is hidden and left out, files and whole folders; of the ``._name`` that a Mac keeps beside
    each file on the disks of others, the log says how many there are.

    Parameters
    ----------
    folder : the folder.
    suffixes : in small letters, with their dot; ``""`` takes every name.
    below : take the files of all sub-folders too, those behind links as well.

    Raises
    ------
    InputError : if a folder cannot be listed, or a link leads nowhere.
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
        warn_once(f"{folder}: {from_mac} files named ._* are left out; a Mac keeps them beside the data")
    return sorted(found)


@lru_cache
def warn_once(message: str) -> None:
    """Say something in the log, but not again."""
    log.warning(message)


def cache_folder() -> Path:
    """Return the folder for what only saves time: ``$SPINWARP_CACHE``, or else ``~/.cache/spinwarp``."""
    named = os.environ.get("SPINWARP_CACHE") or "~/.cache/spinwarp"
    if named.startswith("~"):
        find_home()
    return user_path(named)


def find_home() -> None:
    """Make a temporary home for a user without one, as in many containers; the log says so.

    ``HOME`` becomes that folder, so that the caches of other libraries and of child processes lie there too.
    """
    if _has_home():
        return
    home = Path(tempfile.gettempdir()) / f"spinwarp-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():  # somebody else was there first
        home = Path(tempfile.mkdtemp(prefix="spinwarp-"))
    log.warning("there is no home folder (set HOME); %s takes its place", home)
    os.environ["HOME"] = str(home)


def _has_home() -> bool:
    try:
        home = Path("~").expanduser()
    except RuntimeError:
        return False
    # containers give a user they do not know the root folder, and services one that is not there
    return home.is_dir() and (home != Path("/") or os.access(home, os.W_OK))
