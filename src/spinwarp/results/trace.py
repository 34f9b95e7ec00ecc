"""``trace.csv``: the course of a fit, one line per iteration."""

import csv
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spinwarp.errors import InputError
from spinwarp.files import atomic_write

TRACE = "trace.csv"


@dataclass(frozen=True)
class TraceRow:
    """One iteration of a fit, compared with the truth.

    Parameters
    ----------
    method : that is fitted.
    iteration : counted from one.
    nmse : of the image that the fit would return here.
    loss : that is minimised.
    held_out : mean squared error of the samples that were not fitted.
    stop : 1 where the fit stops by itself and returns its image; else 0.
    """

    method: str
    iteration: int
    nmse: float
    loss: float
    held_out: float
    stop: int


def write_trace(path: Path, rows: Iterable[TraceRow]) -> None:
    """Write rows as a table with one named column per field."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([f.name for f in dataclasses.fields(TraceRow)])
        writer.writerows(dataclasses.astuple(row) for row in rows)


def read_trace(path: Path) -> list[TraceRow]:
    """Read a file of :func:`write_trace`.

    Raises
    ------
    InputError : if the file is missing or not such a table.
    """
    types = {f.name: f.type for f in dataclasses.fields(TraceRow)}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
            return [TraceRow(**{name: type_(line[name]) for name, type_ in types.items()}) for line in lines]  # type: ignore[operator]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a table of iterations ({str(error)[:200]}); expected a trace.csv of write_trace"
        ) from error
