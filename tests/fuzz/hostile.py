"""What the fuzz tests share: a case either works or is refused in a sentence, and how many there were.

Everything is drawn from fixed seeds, so that a failure on one machine is a failure on all.
"""

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from spinwarp.errors import InputError

counts: Counter[str] = Counter()
refused: Counter[str] = Counter()

LONGEST = 700  # characters of a message, of which the path of a temporary folder takes some
SLOWEST = 20.0  # seconds; a case takes milliseconds, and the machine is shared
LARGEST = 400_000  # kB by which one case may raise the most memory that the process ever had


class Cases:
    """Runs cases of one category and collects what went wrong.

    Parameters
    ----------
    category : under which they are counted.
    folder : must hold the same files after a case as before it.
    """

    def __init__(self, category: str, folder: Path) -> None:
        self.category = category
        self.folder = folder
        self.failures: list[str] = []
        self.messages: dict[str, str] = {}

    def run(self, label: str, action: Callable[[], object], names: str = "", must_refuse: bool = False) -> None:
        """One case: ``names`` is what a message must contain, the file's name or the key."""
        before = _listing(self.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.monotonic()
        problem = None
        message = ""
        try:
            action()
        except InputError as error:
            message = str(error)
        except (Exception, SystemExit) as error:
            problem = f"{type(error).__name__}: {str(error)[:300]}"
        if message:
            problem = complaint(message, names)
        elif must_refuse and problem is None:
            problem = "was not refused"
        if time.monotonic() - start > SLOWEST:
            problem = problem or f"took {time.monotonic() - start:.0f} s"
        if (grown := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) > LARGEST:
            problem = problem or f"took {grown / 1e6:.1f} GB"
        if left := _listing(self.folder) - before:
            problem = problem or f"left {left}"
        counts[self.category] += 1
        refused[self.category] += bool(message)
        self.messages[label] = message
        if problem:
            self.failures.append(f"{label}: {problem}")

    def check(self) -> None:
        """Fail with every case that went wrong."""
        assert not self.failures, f"{len(self.failures)} cases\n" + "\n".join(self.failures[:40])


def complaint(message: str, names: str) -> str | None:
    """Say what is wrong with a message, or None: one short line without code, which names what it is about."""
    if "\n" in message or len(message) > LONGEST:
        return f"the message is no sentence: {message[:1000]!r}"
    if "Traceback" in message or 'File "' in message:
        return f"the message holds a traceback: {message!r}"
    if names not in message:
        return f"the message does not name {names}: {message!r}"
    return None


def _listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def offsets(size: int) -> Iterator[int]:
    """Where a file of ``size`` bytes is cut: every 8 bytes of the first 2 kB, then at growing steps, then the end."""
    at = 0
    while at < size:
        yield at
        at += 8 if at < 2048 else max(8, at // 64)
    yield from (size - n for n in (1, 2, 8, 64) if size > n)


def swapped(word: str) -> str:
    """Two neighbouring letters in the middle exchanged; the first pair that differs."""
    for i in [*range(len(word) // 2, len(word) - 1), *range(len(word) // 2)]:
        if word[i] != word[i + 1]:
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word + word
