"""Files that appear whole or not at all, and files that others wrote."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spinwarp.errors import InputError


def user_path(text: str) -> Path:
    """Return the path that a user wrote, with the home folder for ``~`` and ``~name``.

    Raises
    ------
    InputError : if the user has no home folder.
    """
    path = with_home(text)
    if path.partition("/")[0] == "~":
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
        if not path.exists():
            raise InputError(f"there is no file {path}") from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is not a whole {kind} ({reason}); {remedy}") from error
