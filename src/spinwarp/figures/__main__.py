"""The command line: compares result folders in one table and its figures."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from spinwarp.errors import InputError
from spinwarp.figures.compare import write_comparison
from spinwarp.files import user_path
from spinwarp.results import RESULTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 1 if the input cannot be used."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m spinwarp.figures",
        description="Compare result folders of evaluate.py: one table, a figure of each slice and one of all volumes.",
    )
    parser.add_argument("folders", nargs="+", type=user_path, metavar="DIR", help="with results.csv and examples.h5")
    parser.add_argument("--out", type=user_path, default=Path("comparison"), metavar="DIR", help="default ./comparison")
    parser.add_argument("--slices", type=int, default=8, metavar="N", help="draw at most N slices (default 8)")
    parser.add_argument("--by", choices=["contrast"], help="split the table by the contrast of the volumes")
    complaints = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        options = parser.parse_args(arguments)
        if options.out.resolve() in [folder.resolve() for folder in options.folders]:
            raise InputError(f"--out {options.out} is one of the result folders; it would overwrite their {RESULTS}")
        if options.out.exists() and not options.out.is_dir():
            raise InputError(f"--out {options.out} is a file; name a folder, which need not exist")
        if options.slices < 0:
            raise InputError(f"--slices is {options.slices}; expected 0 or more")
        write_comparison(options.folders, options.out, options.slices, options.by)
    except InputError as error:
        complaints.print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
