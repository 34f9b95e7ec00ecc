"""The table of a comparison: the mean over volumes for every method, in comparable groups."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from spinwarp.results.rows import Row

if TYPE_CHECKING:
    from rich.table import Table

# Decimal places, and whether higher is better.
_METRICS = {"psnr": (2, True), "ssim": (4, True), "nmse": (4, False), "ssim_foreground": (4, True)}
_HEADER = ["method", "R", "PSNR / dB", "SSIM", "NMSE", "s/slice"]
_CAPTION = "mean ± standard error over volumes; best mean in bold"
_INSIDE = "SSIM fg"
_INSIDE_CAPTION = "SSIM fg: in the foreground, where the target is above 5 % of its maximum"
_ABSENT_CAPTION = "means leave out volumes without a value, whose target is zero or has no foreground"
# Shown if a method predicts a standard deviation; never bold, for the best coverage is the nominal, not the highest.
_UNCERTAINTY = {
    "coverage": "cov.",
    "calibration_error": "ECE",
    "sparsification": "spars",
}
# A line below: a standard deviation made of the local intensity alone, which a method should surpass.
_BASELINE = "by intensity"
_BASELINES = {
    "calibration_error": "intensity_calibration_error",
    "sparsification": "intensity_sparsification",
}
_UNCERTAINTY_CAPTION = (
    "cov.: fraction of errors within 2 std; ECE: mean |observed - nominal coverage|;\n"
    "spars: fraction of the RMSE left when the largest std go first, less is better;\n"
    f"{_BASELINE}: of the local intensity, scaled to the true error, as std"
)
#: what a table can be split by, beside data set, split and mask
By = Literal["contrast"] | None
# Lines of at most 12 letters, broken after spaces and the joints of names if possible, else anywhere.
_FOLDED = re.compile(r".{1,12}$|.{0,11}[\s_/-]|.{1,12}")


class Group(NamedTuple):
    """What rows must share to be compared.

    ``split`` names the selection too, see :func:`split_of`. ``nominal`` is text, since nan does not equal itself.
    ``contrast`` is empty unless the table is split by it.
    """

    dataset: str
    split: str
    mask: str
    nominal: str
    contrast: str = ""

    def __str__(self) -> str:
        # The name equispaced_4x already holds the number.
        rate = "" if self.nominal in ("nan", "") or f"{self.nominal}x" in self.mask else f"{self.nominal}x"
        return " ".join(part for part in (self.dataset, self.split, self.mask, rate, self.contrast) if part)


def split_of(split: str, selection: str) -> str:
    """Return the name of a split with its selection, such as ``val (2 of 10 volumes)``."""
    return f"{split} ({selection})" if selection else split


def group_of(row: Row, by: By = None) -> Group:
    """Return the group in which ``row`` may be compared."""
    contrast = (row.contrast or "unknown") if by == "contrast" else ""
    split = split_of(row.split, row.selection)
    return Group(row.dataset, split, row.mask, f"{row.acceleration_nominal:g}", contrast)


class Estimate(NamedTuple):
    """A mean over volumes and its standard error, None for a single volume."""

    mean: float
    error: float | None

    def text(self, digits: int) -> str:
        """Return ``mean ± error`` with that many decimal places, the mean alone of a single volume."""
        return f"{self.mean:.{digits}f}" + ("" if self.error is None else f" ± {self.error:.{digits}f}")


@dataclass(frozen=True)
class Summary:
    """One method on one group of volumes: a line of the table.

    ``has_absent``: some, but not all, of its volumes lack a metric; its mean is then over the others.
    """

    group: Group
    method: str
    provenance: str
    target: str
    n_volumes: int
    has_absent: bool
    nmse: Estimate
    psnr: Estimate
    ssim: Estimate
    ssim_foreground: Estimate
    acceleration: Estimate
    seconds_per_slice: Estimate
    coverage: Estimate
    calibration_error: Estimate
    sparsification: Estimate
    intensity_calibration_error: Estimate
    intensity_sparsification: Estimate


def summarise(rows: Sequence[Row], by: By = None) -> list[Summary]:
    """Average the volumes of every method in every group, in the order in which groups and methods first appear."""
    groups: dict[Group, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(group_of(row, by), {}).setdefault(row.method, []).append(row)
    averaged = (*_METRICS, "acceleration", "seconds_per_slice", *_UNCERTAINTY, *_BASELINES.values())
    return [
        Summary(
            group,
            method,
            provenance=_names(row.provenance for row in part),
            target=_names(f"{row.target_type} {row.crop}" for row in part),
            n_volumes=len(part),
            has_absent=any(0 < sum(math.isnan(getattr(row, name)) for row in part) < len(part) for name in _METRICS),
            **{name: _estimate(_measured(getattr(row, name) for row in part)) for name in averaged},
        )
        for group, methods in groups.items()
        for method, part in methods.items()
    ]


def table(rows: Sequence[Row], by: By = None) -> "Table":
    """Return the comparison for a terminal: the title holds what all rows share, the best mean of a group is bold.

    With ``by="contrast"`` each contrast is a group.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title, header, caption, lines = _lines(summarise(rows, by))
    result = Table(title=Text(title), caption=caption, box=SIMPLE_HEAD, pad_edge=False, padding=0)
    # A narrow terminal folds long names. With all columns there is less room: names fold early, numbers break at ±.
    wide = "cov." in header
    for i, name in enumerate(header):
        fixed = name not in ("PSNR / dB", "SSIM", "NMSE") if wide else i > 0
        result.add_column(name, justify="right" if i else "left", no_wrap=fixed, overflow="fold")
    last = ""
    for heading, line in lines:
        if heading != last:
            result.add_section()
            result.add_row(Text(_folded(heading) if wide else heading, style="italic"))
            last = heading
        (method, _), *numbers = line
        cells = (Text(cell, style="bold" if best else "") for cell, best in numbers)
        result.add_row(Text(_folded(method) if wide else method), *cells)
    return result


def markdown_table(rows: Sequence[Row], by: By = None) -> str:
    """Return the comparison as Markdown, with the cells of :func:`table`."""
    title, header, caption, lines = _lines(summarise(rows, by))
    grouped = any(heading for heading, _ in lines)
    text = [title, "", "| " + " | ".join(["data"] * grouped + header) + " |"]
    text.append("|:--" * grouped + "|:--" + "|--:" * (len(header) - 1) + "|")
    for heading, line in lines:
        cells = [(heading, False)] * grouped + line
        escaped = [(cell.replace("|", "\\|"), best) for cell, best in cells]
        text.append("| " + " | ".join(f"**{cell}**" if best else cell for cell, best in escaped) + " |")
    return "\n".join([*text, "", caption, ""])


def _lines(summaries: Sequence[Summary]) -> tuple[str, list[str], str, list[tuple[str, list[tuple[str, bool]]]]]:
    """Return title, header, caption and lines.

    The title holds what all lines share. Each line is a heading of what it does not share, and its cells (text, is it
    the best).
    """
    context = [
        {
            "dataset": s.group.dataset,
            "split": s.group.split,
            "mask": _mask_of(s.group),
            "contrast": s.group.contrast,
            "target": s.target,
            "provenance": s.provenance,
            "volumes": str(s.n_volumes),
        }
        for s in summaries
    ]
    shared = {name for name in (context or [{}])[0] if len({c[name] for c in context}) == 1}
    title = ", ".join(f"{name} {value}" for name, value in (context or [{}])[0].items() if name in shared and value)
    columns = {} if all(math.isnan(s.coverage.mean) for s in summaries) else _UNCERTAINTY
    # results of older versions lack this column
    inside = not all(math.isnan(s.ssim_foreground.mean) for s in summaries)
    lines = []
    for s, values in zip(summaries, context, strict=True):
        rivals = [r for r in summaries if r.group == s.group]
        cells = [(s.method, False), (f"{s.acceleration.mean:.2f}", False)]
        for name in ("psnr", "ssim", "nmse"):
            cells.append((getattr(s, name).text(_METRICS[name][0]), _is_best(s, rivals, name)))
        if inside:
            mean = s.ssim_foreground.mean
            cells.append(("-" if math.isnan(mean) else f"{mean:.4f}", _is_best(s, rivals, "ssim_foreground")))
        cells.append((f"{s.seconds_per_slice.mean:.3g}", False))
        cells += [_uncertainty(s, name) for name in columns]
        heading = ", ".join(f"{name} {value}" for name, value in values.items() if name not in shared)
        lines.append((heading, cells))
        if not math.isnan(s.intensity_sparsification.mean):
            blank = [("", False)] * (len(cells) - len(columns) - 1)
            lines.append(
                (heading, [(_BASELINE, False), *blank, *(_uncertainty(s, _BASELINES.get(name)) for name in columns)])
            )
    header = [*_HEADER[:-1], *[_INSIDE] * inside, _HEADER[-1], *columns.values()]
    caption = [_CAPTION, *[_INSIDE_CAPTION] * inside, *[_UNCERTAINTY_CAPTION] * bool(columns)]
    caption += [_ABSENT_CAPTION] * any(s.has_absent for s in summaries)
    return title, header, ";\n".join(caption), lines


def _mask_of(group: Group) -> str:
    name = str(group._replace(dataset="", split="", contrast=""))
    return "none (as measured)" if group.mask == "none" else name


def _uncertainty(summary: Summary, name: str | None) -> tuple[str, bool]:
    mean = math.nan if name is None else getattr(summary, name).mean
    return "-" if math.isnan(mean) else f"{mean:.2f}", False


def _is_best(summary: Summary, rivals: Sequence[Summary], metric: str) -> bool:
    """Whether no rival has a better number: equal printed numbers are all best, a single method never is."""
    digits, more_is_better = _METRICS[metric]
    means = [round(getattr(r, metric).mean, digits) for r in rivals]
    means = [m if more_is_better else -m for m in means if not math.isnan(m)]
    own = round(getattr(summary, metric).mean, digits)
    return len(rivals) > 1 and bool(means) and (own if more_is_better else -own) == max(means)


def _estimate(values: Sequence[float]) -> Estimate:
    if len(values) < 2:
        return Estimate(float(np.mean(values)), None)
    with np.errstate(invalid="ignore"):  # the PSNR of a perfect volume is infinite
        return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))))


def _measured(values: Iterable[float]) -> list[float]:
    """Return the values that are not NaN (a volume without foreground has none); [NaN] if none is left."""
    return [value for value in values if not math.isnan(value)] or [math.nan]


def _folded(text: str) -> str:
    return "\n".join(line.strip() for line in _FOLDED.findall(text))


def _names(values: Iterable[str]) -> str:
    return " + ".join(sorted(set(values)))
