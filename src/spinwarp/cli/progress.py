"""The progress bar of evaluation and reconstruction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def slices_progress(n_slices: int, title: str) -> Iterator[Callable[[float], None]]:
    """Show finished slices and remaining time; yield a function to call with the slices done since its last call."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=n_slices)
        yield lambda n: progress.advance(task, n)
