"""The command line: result folders in, one HTML file out."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from spinwarp.errors import InputError
from spinwarp.files import user_path
from spinwarp.report.page import MEGABYTES, write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 1 if the input cannot be used."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m spinwarp.report",
        description="Write one HTML page with the slices and tables of results. It opens without a network.",
    )
    what = "a folder of evaluate.py, or an .h5 file or folder of reconstruct.py"
    parser.add_argument("results", nargs="+", type=user_path, metavar="RESULTS", help=what)
    parser.add_argument(
        "--out", type=user_path, default=Path("report.html"), metavar="FILE", help="default ./report.html"
    )
    parser.add_argument(
        "--megabytes",
        type=float,
        default=MEGABYTES,
        metavar="N",
        help=f"compress the images with loss if the page is larger otherwise (default {MEGABYTES:g})",
    )
    complaints = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        options = parser.parse_args(arguments)
        if options.out.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"--out {options.out} does not end in .html; name the page, such as report.html")
        if options.out.is_dir():
            raise InputError(f"--out {options.out} is a folder; name a file in it, such as {options.out}/page.html")
        if not options.megabytes > 0:
            raise InputError(f"--megabytes is {options.megabytes:g}; expected a number above 0")
        path = write_report(options.results, options.out, options.megabytes)
    except InputError as error:
        complaints.print(f"error: {error}")
        return 1
    Console(soft_wrap=True, highlight=False, markup=False).print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
