"""Files of a public repository, pinned by commit, size and SHA-256: downloads, finds and checks them."""

import hashlib
import http.client
import logging
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spinwarp.errors import InputError

_log = logging.getLogger(__name__)

_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 15


@dataclass(frozen=True)
class PinnedFile:
    """One line of a manifest.

    Parameters
    ----------
    path : inside the repository.
    size : bytes.
    sha256 : of the content, in hexadecimal.
    """

    path: str
    size: int
    sha256: str


def read_manifest(path: Path) -> tuple[str, list[PinnedFile]]:
    """Return ``OWNER/NAME/COMMIT`` and the files that a manifest lists.

    Parameters
    ----------
    path : the manifest: a comment line with repository and commit, a line of column names, then lines of bytes, sha256
        and path, separated by tabs.

    Raises
    ------
    InputError : if the first line does not name repository and commit.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    first = lines[0] if lines else ""
    origin = re.search(r"repository (\S+) at commit ([0-9a-f]+)", first)
    if not origin:
        raise InputError(f"{path} must begin with '# repository OWNER/NAME at commit HASH'; it begins with {first!r}")
    fields = [row.split("\t") for row in lines[2:] if row]
    return f"{origin[1]}/{origin[2]}", [PinnedFile(name, int(size), digest) for size, digest, name in fields]


def fetch_pinned(folder_url: str, file: PinnedFile, advance: Callable[[int], object]) -> bytes:
    """Download one file and return its checked content; nothing is written to disk.

    Parameters
    ----------
    folder_url : address of the repository at its commit; the quoted path is appended.
    file : the file.
    advance : called with the size in bytes of each chunk that arrives.

    Raises
    ------
    InputError : if the address cannot be reached, or the content is incomplete or differs from the manifest.
    """
    url = f"{folder_url}/{urllib.parse.quote(file.path)}"
    content = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            # one byte more than the listed size shows that it is another file
            while len(content) <= file.size and (piece := response.read(_CHUNK)):
                content += piece
                advance(len(piece))
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"cannot download {url} ({error}); run again to continue, or name a folder that has the files "
            "with --from FOLDER"
        ) from error
    check_pinned(file, bytes(content), url)
    return bytes(content)


def check_pinned(file: PinnedFile, content: bytes, where: str | Path) -> None:
    """Compare content with its manifest line.

    Raises
    ------
    InputError : if the size or the SHA-256 differs.
    """
    if len(content) != file.size:
        raise InputError(f"{where} has {len(content)} bytes, expected {file.size}: incomplete or changed; get it again")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise InputError(
            f"{where} is not the listed file: its SHA-256 is {digest[:12]}..., expected {file.sha256[:12]}...; "
            "download it again from the commit in the manifest"
        )


def find_pinned(folder: Path, files: Sequence[PinnedFile]) -> dict[PinnedFile, Path]:
    """Return which files a folder has, under their path in the repository, with or without its first folder.

    A log warning names the others.

    Raises
    ------
    InputError : if the folder has none of them.
    """
    tails = {file: (file.path, file.path.partition("/")[2]) for file in files}
    found = {file: folder / tail for file in files for tail in tails[file] if (folder / tail).is_file()}
    if absent := [file.path for file in files if file not in found]:
        if not found:
            raise InputError(f"{folder} has none of the {len(absent)} listed files, such as {absent[0]!r}")
        _log.warning("%s lacks %d listed files, which are left out: %s", folder, len(absent), "; ".join(absent))
    return found
