"""The folder of results: whether it has room, and clear errors if writing fails later."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from spinwarp.errors import InputError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def check_room(folder: Path, n_bytes: int = 0, less: str = "") -> None:
    """Check that files can be written to a folder, which need not exist yet; leave nothing behind.

    Parameters
    ----------
    folder : where the results go.
    n_bytes : their minimum size.
    less : appended to the error: how to write less.

    Raises
    ------
    InputError : if the folder is a file or write-protected, or its disk has too little room.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"results cannot be written to {folder}: no file can be created in {existing} ({error.strerror}); give "
            f"another folder with out="
        ) from error
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise InputError(
            f"the images take {n_bytes / 1e9:.3g} GB, and the disk of {folder} has {free / 1e9:.3g} GB left; make "
            f"room, or give a folder on another disk with out={less}"
        )


@contextmanager
def one_sentence(folder: Path, device: str, smaller: str) -> Iterator[None]:
    """Turn the errors of a full disk or a full memory into an :class:`InputError`.

    Parameters
    ----------
    folder : where the results go.
    device : where the method computes.
    smaller : how the user can save memory.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        # HDF5 says so only in the text of various exceptions
        full = getattr(error, "errno", None) in _DISK or "No space left" in str(error)
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if full:
            reason = "the disk is full or read-only; make room and run the command again"
        elif memory:
            raise InputError(f"the memory of device={device} is too small for this method; {smaller}") from error
        elif isinstance(error, OSError) and Path(error.filename or ".").is_relative_to(folder):
            reason = f"{error}; give another folder with out="
        else:  # an input file, or a bug
            raise
        raise InputError(f"results cannot be written to {folder}: {reason}") from error
