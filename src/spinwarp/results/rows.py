"""``results.csv``: one line per volume, numbers in full precision."""

import csv
import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinwarp import __version__
from spinwarp.errors import InputError
from spinwarp.files import atomic_write

RESULTS = "results.csv"


@dataclass(frozen=True)
class Row:
    """One volume reconstructed by one method: a line of ``results.csv``.

    Parameters
    ----------
    method, dataset, split, mask : their names in the configuration.
    provenance : ``scanner``, ``simulated``, ``phantom`` or ``unknown``.
    acceleration_nominal : that the mask was configured with; NaN if it has none.
    acceleration : that the mask realised for this volume.
    volume, n_slices : its name, and the number of slices in the metrics.
    target_type : ``rss``, ``esc`` or ``magnitude``.
    crop : the size of the images in the metrics, such as ``320x320``.
    nmse, psnr, ssim : over the whole volume; NaN if its target is zero.
    seconds_per_slice : wall-clock time of the method alone.
    input_sha256 : the first 16 hexadecimal digits of the hash of the method's input.
    version : of spinwarp.
    coverage : fraction of the foreground whose error is within two predicted standard deviations. This and what
        follows, see :class:`spinwarp.uncertainty.Calibration`, is NaN if the method predicts none.
    error_correlation : Pearson correlation of absolute error and predicted standard deviation over the foreground.
    coverage_50, coverage_80, coverage_90, coverage_95 : fraction within the Gaussian interval of that level.
    calibration_error : mean absolute difference of observed and nominal coverage over levels from 1 to 99 %.
    sparsification, sparsification_oracle : mean relative RMSE of the remaining foreground when up to 95 % are left
        out, the pixels of largest predicted standard deviation (or of largest error: the least possible) first.
    intensity_calibration_error, intensity_sparsification, intensity_correlation : the same for a standard deviation
        proportional to the local intensity, scaled to the volume's error.
    ssim_foreground : mean of the SSIM map over the pixels of the volume where the target is above 5 % of its maximum;
        NaN if there are none, or in a file of an older version.
    contrast : the sequence as the source names it, such as ``AXFLAIR``; empty if unknown.
    selection : the evaluated volumes and slices of the split, such as ``2 of 10 volumes``; empty for all.
    trained_on : ``volume`` if the method was trained on this volume, ``patient`` if on another scan of its patient;
        empty if on neither as far as its checkpoint says, or in a file of an older version.
    """

    method: str
    dataset: str
    split: str
    provenance: str
    mask: str
    acceleration_nominal: float
    acceleration: float
    volume: str
    n_slices: int
    target_type: str
    crop: str
    nmse: float
    psnr: float
    ssim: float
    seconds_per_slice: float
    input_sha256: str
    version: str = __version__
    coverage: float = math.nan
    error_correlation: float = math.nan
    coverage_50: float = math.nan
    coverage_80: float = math.nan
    coverage_90: float = math.nan
    coverage_95: float = math.nan
    calibration_error: float = math.nan
    sparsification: float = math.nan
    sparsification_oracle: float = math.nan
    intensity_calibration_error: float = math.nan
    intensity_sparsification: float = math.nan
    intensity_correlation: float = math.nan
    ssim_foreground: float = math.nan
    contrast: str = ""
    selection: str = ""
    trained_on: str = ""


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as a table with one named column per field."""
    fields = dataclasses.fields(Row)
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([f.name for f in fields])
        writer.writerows([_as(f.type, getattr(row, f.name)) for f in fields] for row in rows)


def read_rows(path: Path) -> list[Row]:
    """Read a file of :func:`write_rows`; unknown columns are ignored.

    A file of an older version may lack the columns with a default, which were added later. An empty cell means NaN in
    a column of numbers, as pandas writes it, and the byte order mark of a spreadsheet is skipped.

    Raises
    ------
    InputError : if the file is missing or not such a table, lacks a column or has it twice, has a line with more
        cells than the header, or a word where a number belongs.
    """
    fields = dataclasses.fields(Row)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            lines = list(reader)
            header = reader.fieldnames or []
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; evaluate.py writes it, give the folder of a finished run") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table of results ({error}); evaluate again") from error
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise InputError(f"{path} has the column {', '.join(twice)} twice; evaluate again")
    if absent := [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in header]:
        raise InputError(f"{path} has no column {', '.join(absent)}; expected a table that evaluate.py wrote")
    rows = []
    for number, line in enumerate(lines, start=2):
        if None in line:
            raise InputError(f"line {number} of {path} has more cells than the header has names; evaluate again")
        values: dict[str, Any] = {}
        for f in (f for f in fields if f.name in header):
            try:
                values[f.name] = _as(f.type, line[f.name])
            except (TypeError, ValueError):
                expected = "a whole number" if f.type is int else "a number" if f.type is float else "text"
                found = f"{f.name} is {repr(line[f.name])[:60]}, expected {expected}"
                raise InputError(f"line {number} of {path}: {found}; evaluate again") from None
        rows.append(Row(**values))
    return rows


def _as(type_: object, value: Any) -> str | int | float:
    """Convert to the type of a field; None, which stands for a missing cell, becomes a TypeError."""
    if type_ is str and value is not None:
        return str(value)
    if type_ is int:
        return int(value)
    return math.nan if value == "" else float(value)
