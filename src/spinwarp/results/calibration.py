"""``calibration.json``: how well predicted standard deviations agree with the errors, volume by volume.

Plain JSON, with null for NaN::

    {"method": ..., "dataset": ..., "split": ..., "mask": ..., "acceleration_nominal": ..., "version": ...,
     "levels": [...], "shares": [...], "factors": [...],
     "volumes": [{"volume": ..., "n_pixels": ..., "coverage": [...], ...}, ...]}
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spinwarp import __version__
from spinwarp.errors import InputError
from spinwarp.files import atomic_write

CALIBRATION = "calibration.json"
_DIGITS = 7  # of curves: more than any volume determines


@dataclass(frozen=True)
class VolumeCurves:
    """The foreground of one volume. What cannot be measured, for lack of foreground or error, is NaN.

    Parameters
    ----------
    volume, n_pixels : its name, and the number of foreground pixels.
    coverage, intensity_coverage : fraction of them within the Gaussian interval of each level, for the predicted
        standard deviation and for one proportional to the local intensity.
    sparsification, sparsification_oracle, intensity_sparsification : relative RMSE of the remaining pixels when each
        fraction is left out, those of largest predicted standard deviation, error, or local intensity first.
    ranks : how often the target was larger than 0, 1, ... of the method's samples; None without samples.
    ratios : histogram of error / predicted standard deviation: number of pixels up to the first factor, between the
        first and the second, ..., above the last.
    """

    volume: str
    n_pixels: int
    coverage: Sequence[float]
    intensity_coverage: Sequence[float]
    sparsification: Sequence[float]
    sparsification_oracle: Sequence[float]
    intensity_sparsification: Sequence[float]
    ranks: Sequence[int] | None
    ratios: Sequence[int]

    @property
    def exceedance(self) -> np.ndarray:
        """Fraction of the foreground whose error exceeds each factor times the predicted standard deviation."""
        if self.n_pixels == 0:
            return np.full(len(self.ratios) - 1, np.nan)
        return 1 - np.cumsum(self.ratios[:-1]) / self.n_pixels


@dataclass(frozen=True)
class CalibrationCurves:
    """One method on one group of volumes.

    Parameters
    ----------
    method, dataset, split, mask, acceleration_nominal : as in :class:`spinwarp.results.Row`.
    levels : nominal coverages.
    shares : fractions of pixels that are left out.
    factors : of the predicted standard deviation, increasing.
    volumes : at least one.
    """

    method: str
    dataset: str
    split: str
    mask: str
    acceleration_nominal: float
    levels: Sequence[float]
    shares: Sequence[float]
    factors: Sequence[float]
    volumes: Sequence[VolumeCurves]

    @property
    def observed(self) -> np.ndarray:
        """Mean coverage at each level over the volumes where it is known; NaN if there is none."""
        known = [volume.coverage for volume in self.volumes if not np.isnan(volume.coverage).any()]
        return np.mean(known, axis=0) if known else np.full(len(self.levels), np.nan)


_ALONG = {
    "coverage": "levels",
    "intensity_coverage": "levels",
    "sparsification": "shares",
    "sparsification_oracle": "shares",
    "intensity_sparsification": "shares",
}  # the grid of each curve


def write_calibration(path: Path, curves: CalibrationCurves) -> None:
    """Write ``calibration.json``, one line per volume."""
    head = {f.name: _plain(getattr(curves, f.name), None) for f in dataclasses.fields(curves) if f.name != "volumes"}
    lines = [
        json.dumps({f.name: _plain(getattr(v, f.name), _DIGITS) for f in dataclasses.fields(v)}) for v in curves.volumes
    ]
    start = json.dumps({**head, "version": __version__}).removesuffix("}")
    text = f'{start}, "volumes": [\n' + ",\n".join(lines) + "\n]}\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_calibration(path: Path) -> CalibrationCurves:
    """Read a file of :func:`write_calibration`; unknown names are ignored.

    Raises
    ------
    InputError : if the file is missing, is not such JSON, or contradicts itself.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; evaluate.py writes it for a method that predicts a standard deviation"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); evaluate again") from error
    try:
        return _curves(content)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} was not written by evaluate.py ({what}); evaluate again") from error


def _curves(content: Any) -> CalibrationCurves:
    if not isinstance(content, dict) or not isinstance(content["volumes"], list):
        raise ValueError("expected a method with a list of volumes")
    grids: dict[str, Any] = {name: _numbers(content[name], name) for name in ("levels", "shares", "factors")}
    for name, grid in grids.items():
        if not grid or not (np.diff(grid) > 0).all():
            raise ValueError(f"{name} must increase")
    names = {name: content[name] for name in ("method", "dataset", "split", "mask")}
    for name, text in names.items():
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r}, expected text")
    (nominal,) = _numbers([content["acceleration_nominal"]], "acceleration_nominal")
    volumes = [_volume(entry, grids) for entry in content["volumes"]]
    if not volumes:
        raise ValueError("there is no volume")
    return CalibrationCurves(**names, acceleration_nominal=nominal, **grids, volumes=volumes)


def _volume(entry: dict[str, Any], grids: dict[str, list[float]]) -> VolumeCurves:
    name, ranks = str(entry["volume"]), entry["ranks"]
    curves = {curve: _numbers(entry[curve], f"{curve} of {name}") for curve in _ALONG}
    for curve, along in _ALONG.items():
        if len(curves[curve]) != len(grids[along]):
            raise ValueError(f"{curve} of {name} has {len(curves[curve])} numbers for {len(grids[along])} {along}")
    (n_pixels,) = _counts([entry["n_pixels"]], f"n_pixels of {name}")
    ratios = _counts(entry["ratios"], f"ratios of {name}")
    if len(ratios) != len(grids["factors"]) + 1 or sum(ratios) != n_pixels:
        raise ValueError(f"ratios of {name} do not add up to its {n_pixels} pixels in {len(grids['factors']) + 1} bins")
    return VolumeCurves(
        volume=name,
        n_pixels=n_pixels,
        **curves,
        ranks=None if ranks is None else _counts(ranks, f"ranks of {name}"),
        ratios=ratios,
    )


def _numbers(values: Any, name: str) -> list[float]:
    if not isinstance(values, list) or not all(v is None or type(v) in (int, float) for v in values):
        raise ValueError(f"{name} must be numbers")
    return [math.nan if v is None else float(v) for v in values]


def _counts(values: Any, name: str) -> list[int]:
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError(f"{name} must be counts")
    return values


def _plain(value: Any, digits: int | None) -> Any:
    """Return a value that JSON can hold: null for NaN, lists for sequences, numbers rounded to significant digits."""
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Sequence):
        return [_plain(v, digits) for v in value]
    if math.isnan(value):
        return None
    return float(value) if digits is None else float(f"{value:.{digits}g}")
