"""``spinwarp-convert``: turn raw data of any supported format into the fastMRI layout or MRD."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spinwarp.errors import InputError
from spinwarp.files import user_path

if TYPE_CHECKING:
    from spinwarp.acquisition import Acquisition
    from spinwarp.data.measurement import Measured

_SUFFIXES = {".h5": "fastmri", ".hdf5": "fastmri", ".mrd": "mrd"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 1 if the input cannot be used, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="spinwarp-convert",
        description="Convert raw data (MRD, Siemens, Bruker, BART, MATLAB, npy) to the fastMRI layout or MRD.",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="the file, or the folder of a Bruker scan")
    parser.add_argument("output", type=Path, metavar="OUT", help="the file to write; it must not exist yet")
    parser.add_argument(
        "--format", choices=["fastmri", "mrd"], help="default: mrd for OUT.mrd, fastmri for OUT.h5 or OUT.hdf5"
    )
    parser.add_argument("--variable", metavar="NAME", help="of the array, if a MATLAB file holds several")
    parser.add_argument("--axes", metavar="LETTERS", help="order of the axes of a MATLAB or .npy array, such as hwcs")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _convert(user_path(options.input), user_path(options.output), options)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; nothing was written\n")
        return 130
    return 0


def _convert(source: Path, target: Path, options: argparse.Namespace) -> None:
    kind = options.format or _SUFFIXES.get(target.suffix.lower())
    if kind is None:
        raise InputError(f"{target.name} ends in none of {', '.join(_SUFFIXES)}; give --format=fastmri or --format=mrd")
    if kind == "fastmri" and _SUFFIXES.get(target.suffix.lower()) != kind:
        raise InputError(f"a file of the fastMRI layout ends in .h5, and {target.name} does not; rename it")
    if target.exists():
        raise InputError(f"{target} exists; remove it, or give another name")

    from spinwarp.cli.output import check_room  # imports torch, and --help should not wait for it
    from spinwarp.cli.progress import slices_progress
    from spinwarp.data.fastmri.layout import write_measurement
    from spinwarp.data.raw import open_measurement
    from spinwarp.data.raw.mrd_writer import write_mrd

    check_room(target.parent)
    measured = open_measurement(source, options.variable, options.axes)
    write = write_mrd if kind == "mrd" else write_measurement
    with slices_progress(measured.n_slices, measured.path.name) as advance:
        try:
            write(target, _slices(measured, advance), measured.n_slices)
        except OSError as error:
            raise InputError(f"{target} cannot be written ({error}); make room or give another place") from error
    sys.stdout.write(f"{target}: {measured.n_slices} slices\n")


def _slices(measured: "Measured", advance: Callable[[float], None]) -> Iterator["Acquisition"]:
    for index in range(measured.n_slices):
        yield measured.read(index)
        advance(1)


if __name__ == "__main__":
    sys.exit(main())
