"""The page: a template, a head of everything but images, and the images of each volume."""

import dataclasses
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from spinwarp import __version__
from spinwarp.figures.comparison import error_factor
from spinwarp.figures.sheet import grey_top
from spinwarp.files import atomic_write
from spinwarp.report.encoding import ENCODINGS, Encoding, bits
from spinwarp.report.volumes import PageVolume, Picture, Source, evaluated, files_of, read, reconstructed
from spinwarp.results import Row, group_of
from spinwarp.results.comparison import Comparison, compare

log = logging.getLogger("spinwarp")
#: size of the page above which images are stored with loss
MEGABYTES = 60.0
_HEADROOM = 1.25  # of the grey scale above the target's maximum
_Volume = tuple[dict[str, Any], str]  # what the head says of a volume, and its images as JSON
_PARTS = ("style.css", "images.js", "viewer.js", "controls.js", "tables.js", "page.js")


def write_report(results: Sequence[Path], path: Path, megabytes: float = MEGABYTES) -> Path:
    """Write one HTML file with the slices and tables of results; return its path.

    Parameters
    ----------
    results : folders of ``evaluate.py``; folders or ``.h5`` files of ``reconstruct.py``.
    path : of the page.
    megabytes : images are stored with loss if the page would be larger without.

    Raises
    ------
    InputError : if the results cannot be read, or must not be compared.
    """
    alone = [file for result in results for file in files_of(result)]
    folders = [result for result in results if not files_of(result)]
    comparison = compare(folders) if folders else Comparison([], [], [], {}, {})
    sources = evaluated(comparison) + reconstructed(alone)
    encoding, shown, volumes = _encoded(sources, 1e6 * megabytes)
    gaps = _gaps(shown, [about for about, _ in volumes])
    n_judged = len({(group_of(row), row.volume) for row in comparison.rows})
    if blank := n_judged - sum(bool(source.rows) for source in sources):
        gaps.append(f"volumes in the tables only, because their images were not saved: {blank}")
    if len(shown) < len(sources):
        gaps.append(f"the images of {len(shown)} of {len(sources)} volumes are shown, for the size of the page")
    titles = [str(group_of(row)) for row in comparison.rows]
    titles += [f"{source.name}, {source.group}" for source in sources if not source.rows]
    head = {
        "title": "; ".join(dict.fromkeys(titles)),
        "version": __version__,
        "encoding": str(encoding),
        "gamma": encoding.gamma,
        "warnings": _warnings(comparison.rows) + gaps,
        "volumes": [about for about, _ in volumes],
        "reliability": _reliability(comparison),
        "rows": [{**dataclasses.asdict(row), "group": str(group_of(row))} for row in comparison.rows],
    }
    parts = {name: (files("spinwarp.report") / name).read_text(encoding="utf-8") for name in _PARTS}
    page = (files("spinwarp.report") / "page.html").read_text(encoding="utf-8")
    page = page.replace("/*STYLE*/", parts.pop("style.css")).replace("/*SCRIPT*/", "\n".join(parts.values()))
    before, after = page.split("<!--DATA-->")
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(before)
        stream.write(_script("head", _json(head)))
        stream.writelines(_script(f"volume-{n}", text) for n, (_, text) in enumerate(volumes))
        stream.write(after)
    return path


def _encoded(sources: Sequence[Source], n_bytes: float) -> tuple[Encoding, Sequence[Source], list[_Volume]]:
    """Return the first encoding in which all volumes fit, or the last and as many as fit; and these volumes."""
    for encoding in ENCODINGS:
        volumes = _fitting(sources, n_bytes, encoding)
        if volumes is not None:
            break
    else:
        n = max(int(n_bytes / len(_volume(read(sources[0]), encoding)[1])), 1)
        sources = [sources[i * len(sources) // n] for i in range(n)] if n < len(sources) else sources
        volumes = [_volume(read(source), encoding) for source in sources]
    if encoding.quality is not None:
        log.info("the report stores %d volumes with loss (WebP, quality %d)", len(sources), encoding.quality)
    return encoding, sources, volumes


def _fitting(sources: Sequence[Source], n_bytes: float, encoding: Encoding) -> list[_Volume] | None:
    """Return all volumes; None as soon as it is likely that they do not fit."""
    volumes: list[_Volume] = []
    size = 0
    for n, source in enumerate(sources, start=1):
        volumes.append(_volume(read(source), encoding))
        size += len(volumes[-1][1])
        if max(size, size * len(sources) / n / 1.2) > n_bytes:
            return None
    return volumes


def _volume(volume: PageVolume, encoding: Encoding) -> _Volume:
    """Return what the head says of a volume, and its images as JSON."""
    every = [(method, i, picture) for method, of in volume.pictures.items() for i, picture in of.items()]
    images = {method: [p.image for p in of.values()] for method, of in volume.pictures.items()}
    if volume.targets:
        grey = grey_top(np.stack(list(volume.targets.values())))
        top = _HEADROOM * max(_largest(np.stack(list(volume.targets.values()))), grey)
    else:  # the median ignores the scale of a failed method
        grey = float(np.median([grey_top(np.stack(of)) for of in images.values()]))
        top = max(float(np.median([_largest(np.stack(of)) for of in images.values()])), grey)
    errors = [picture.error for _, _, picture in every if picture.error is not None]
    halves = [picture.half_width for _, _, picture in every if picture.half_width is not None]
    # the errors set the first scale: an exaggerated interval then stands out
    shown = grey / error_factor(errors or halves, grey)
    largest = max(map(_largest, errors + halves), default=0.0)
    error_top = min(max(largest, shown), top)
    about = {
        "group": volume.group,
        "name": volume.name,
        "slices": volume.slices,
        "methods": list(volume.pictures),
        "intervals": [volume.intervals.get(method) for method in volume.pictures],
        "shape": list(every[0][2].image.shape),
        "unit": volume.data_range if volume.targets and volume.data_range > 0 else grey,
        "targets": len(volume.targets),
        "broken": sorted({method for method, _, picture in every if not np.isfinite(picture.image).all()}),
        "top": top,
        "grey": grey,
        "errorTop": error_top,
        "errorShown": shown,
        "psnr": [[_psnr(of.get(i), volume.data_range) for i in volume.slices] for of in volume.pictures.values()],
        "missed": [[_missed(of.get(i), volume, i) for i in volume.slices] for of in volume.pictures.values()],
    }
    of_slices = {
        "target": [encoding.text(volume.targets[i], top) if i in volume.targets else None for i in volume.slices],
        "methods": [
            [_texts(of.get(i), top, error_top, encoding) for i in volume.slices] for of in volume.pictures.values()
        ],
    }
    return about, _json(of_slices)


def _largest(values: np.ndarray) -> float:
    """Return the largest finite value, at least 0."""
    return float(values.max(initial=0.0, where=np.isfinite(values)))


def _texts(picture: Picture | None, top: float, error_top: float, encoding: Encoding) -> dict[str, str] | None:
    if picture is None:
        return None
    maps = {"image": (picture.image, top), "error": (picture.error, error_top), "half": (picture.half_width, error_top)}
    texts = {name: encoding.text(values, scale) for name, (values, scale) in maps.items() if values is not None}
    return texts if picture.outside is None else {**texts, "outside": bits(picture.outside)}


def _psnr(picture: Picture | None, data_range: float) -> float:
    """Return the PSNR of one slice in dB, with the range of the whole volume; NaN without a target."""
    if picture is None or picture.error is None or not data_range > 0:
        return math.nan
    mse = float(np.mean(np.square(picture.error, dtype=np.float64)))
    if not math.isfinite(mse):
        return math.nan
    return 10 * math.log10(data_range**2 / mse) if mse > 0 else math.inf


def _missed(picture: Picture | None, volume: PageVolume, i: int) -> float:
    """Return the fraction of the foreground outside the interval; NaN if unknown."""
    if picture is None or picture.outside is None:
        return math.nan
    return int(picture.outside.sum()) / volume.foregrounds[i]


def _reliability(comparison: Comparison) -> list[dict[str, Any]]:
    """Return nominal levels and mean coverage of the methods that predict intervals."""
    every = [(group, *item) for group, methods in comparison.calibrations.items() for item in methods.items()]
    return [
        {"group": str(group), "method": method, "levels": [0, *curves.levels], "observed": [0, *curves.observed]}
        for group, method, curves in every
        if np.isfinite(curves.observed).all()
    ]


def _warnings(rows: Sequence[Row]) -> list[str]:
    """Return sentences on what must be known before the numbers are believed."""
    found = []
    simulated = _count(rows, "provenance", "simulated")
    if simulated:
        found.append(f"{simulated} simulated: k-space was made from images, which flatters every method")
    if phantoms := _count(rows, "provenance", "phantom"):
        found.append(f"{phantoms} computed by a program, not measured on a person")
    if unknown := _count(rows, "provenance", "unknown"):
        found.append(f"{unknown} of unknown origin: measured or simulated")
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        if seen := _count(mine, "trained_on", "volume", "was", "were"):
            found.append(f"{method} was trained on what it is judged on: {seen} in its training set")
        if seen := _count(mine, "trained_on", "patient", "shows", "show"):
            found.append(f"{method} has seen other scans of the patients: {seen} a patient of its training set")
        if seen := _count(mine, "split", "train", "belongs", "belong"):
            found.append(f"{method} is judged on training data: {seen} to the split train")
    return found


def _gaps(sources: Sequence[Source], volumes: Sequence[dict[str, Any]]) -> list[str]:
    """Return sentences on what the page does not show."""
    found = []
    if few := sum(not source.files for source in sources):
        found.append(f"volumes that show example slices only, because their images were not saved: {few}")
    if alone := sum(not source.rows for source in sources):
        found.append(f"volumes without a reference image, whose errors are unknown: {alone}")
    judged = [about for source, about in zip(sources, volumes, strict=True) if source.rows]
    n_slices, n_targets = sum(len(about["slices"]) for about in judged), sum(about["targets"] for about in judged)
    if n_targets < n_slices:
        missing = f"{n_slices - n_targets} of {n_slices} slices"
        found.append(f"{missing} show no error for want of a target; evaluate.py keeps the targets with report=true")
    absent = Counter(m for s, about in zip(sources, volumes, strict=True) for m in s.rows if m not in about["methods"])
    found += [f"volumes of which {method} has no images: {n}" for method, n in absent.items()]
    broken = Counter(method for about in volumes for method in about["broken"])
    black = "has pixels that are no numbers, shown black"
    found += [f"volumes in which {method} {black}: {n}" for method, n in broken.items()]
    return found


def _count(rows: Sequence[Row], field: str, value: str, one: str = "is", many: str = "are") -> str:
    """Return such as ``3 of 5 volumes are`` or ``all 5 volumes are``; empty if there is none."""
    volumes = {(row.dataset, row.volume) for row in rows}
    n = len({(row.dataset, row.volume) for row in rows if getattr(row, field) == value})
    if n == len(volumes):
        return f"the volume {one}" if n == 1 else f"all {n} volumes {many}" if n else ""
    return f"{n} of {len(volumes)} volumes {one if n == 1 else many}" if n else ""


def _json(value: Any) -> str:
    """Return JSON that may stand inside a script element: NaN is null, and no ``<`` can end the element."""
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _script(name: str, text: str) -> str:
    return f'<script type="application/json" id="{name}">{text}</script>\n'
