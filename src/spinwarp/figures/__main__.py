"""The command line: join result folders into one table and its figures."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from spinwarp.errors import InputError
from spinwarp.figures.draw import draw
from spinwarp.files import whole_file
from spinwarp.results import RESULTS, markdown_table, table, write_rows
from spinwarp.results.combine import Comparison, combine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 1 where the input cannot be used."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m spinwarp.figures",
        description="Join the result folders of evaluate.py into one table, one figure a slice and one of all volumes.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder with results.csv and examples.h5")
    parser.add_argument("--out", type=Path, default=Path("comparison"), metavar="DIR", help="default: ./comparison")
    parser.add_argument("--slices", type=int, default=8, metavar="N", help="figures of slices at most (default 8)")
    options = parser.parse_args(arguments)
    complaints = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        if options.out.resolve() in [folder.resolve() for folder in options.folders]:
            raise InputError(f"--out {options.out} is one of the result folders, whose {RESULTS} it would overwrite")
        if options.out.exists() and not options.out.is_dir():
            raise InputError(f"--out {options.out} is a file; name a folder, new or not")
        if options.slices < 0:
            raise InputError(f"--slices is {options.slices}; expected 0 or more")
        joined = combine(options.folders)
        for warning in joined.warnings:
            complaints.print(f"warning: {warning}")
        Console().print(table(joined.rows))
        _write(joined, options.out, options.slices)
    except InputError as error:
        complaints.print(f"error: {error}")
        return 1
    return 0


def _write(joined: Comparison, out: Path, n_slices: int) -> None:
    from rich.console import Console

    write_rows(out / RESULTS, joined.rows)
    with whole_file(out / "results.md") as temporary:
        temporary.write_text(markdown_table(joined.rows), encoding="utf-8")
    paths = draw(joined, out, n_slices)
    more = len(joined.pictures) - n_slices
    rest = f"; {more} more slice{'s' * (more > 1)} with --slices {len(joined.pictures)}" if more > 0 else ""
    Console(soft_wrap=True, highlight=False, markup=False).print(f"{len(paths)} figures and the table in {out}{rest}")


if __name__ == "__main__":
    sys.exit(main())
