"""Compares result folders: one table, on the terminal and in files, and its figures."""

from collections.abc import Sequence
from pathlib import Path

from spinwarp.figures.draw import draw
from spinwarp.files import atomic_write
from spinwarp.results import RESULTS, By, markdown_table, table, write_rows
from spinwarp.results.comparison import compare


def write_comparison(folders: Sequence[Path], out: Path, n_slices: int = 8, by: By = None) -> None:
    """Print one table of all methods; write it to ``out`` with figures of at most ``n_slices`` slices.

    ``by`` splits the table, see :func:`spinwarp.results.table`.

    Raises
    ------
    InputError : if a folder has no results, or the methods' protocols differ.
    """
    from rich.console import Console

    comparison = compare(folders)
    for warning in comparison.warnings:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"warning: {warning}")
    Console().print(table(comparison.rows, by))
    write_rows(out / RESULTS, comparison.rows)
    with atomic_write(out / "results.md") as temporary:
        temporary.write_text(markdown_table(comparison.rows, by), encoding="utf-8")
    paths = draw(comparison, out, n_slices)
    more = len(comparison.pictures) - n_slices
    rest = f"; {more} more slice{'s' * (more > 1)} with --slices {len(comparison.pictures)}" if more > 0 else ""
    Console(soft_wrap=True, highlight=False, markup=False).print(f"{len(paths)} figures and the table in {out}{rest}")
