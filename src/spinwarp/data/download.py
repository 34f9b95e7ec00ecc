"""The command that downloads and converts data sets.

``python -m spinwarp.data.download ulf_brain`` downloads the files; ``--from FOLDER`` uses files that exist already.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from spinwarp.errors import InputError
from spinwarp.files import user_path

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m spinwarp.data.download", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=["ulf_brain"], help="raw k-space of human brains at 0.055 T, CC0 1.0, 33 MB")
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="convert the files of this folder")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="default: $SPINWARP_DATA/ulf_brain, or ./data/ulf_brain if it is unset",
    )
    options = parser.parse_args(arguments)
    root = user_path(options.to or Path(os.environ.get("SPINWARP_DATA", "data")) / options.name)

    from spinwarp.data.ulf.source import UltraLowFieldBrains  # imports torch, and --help should not wait for it

    try:
        made = UltraLowFieldBrains(root).fetch(options.source)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path in made:
        sys.stdout.write(f"{path}\n")
    sys.stdout.write(f"{len(made)} new volumes; the set is in {root}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
