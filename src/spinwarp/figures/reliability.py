"""How well standard deviations predict the errors: coverage, sparsification and rank histograms of methods."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from spinwarp.errors import InputError
from spinwarp.figures.sheet import EDGE, NAME, SMALL, TITLE, Sheet, text_height, wrapped
from spinwarp.results import CalibrationCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000")
_PANEL, _AXIS, _FOOT = 3.0, 0.62, 0.5  # inches: a panel's side, room for its labels left and below
_KEY = 2.3  # inches: room for the names of methods
_NOTE = "means over volumes"


def reliability(methods: Mapping[str, CalibrationCurves], title: str | None = None) -> "Figure":
    """Plot observed over nominal coverage, sparsification and, for methods with samples, their rank histograms.

    A well calibrated method lies on the diagonal of the first panel and is flat in the last. In the second, its curve
    falls towards that of the oracle, which leaves out the largest errors themselves. Dotted lines show a standard
    deviation proportional to the local intensity, scaled to the true error.

    Parameters
    ----------
    methods : name -> its curves; the figure shows means over the volumes that have a foreground.
    title : above the whole figure.

    Raises
    ------
    InputError : if there is no method.
    """
    if not methods:
        raise InputError("there is nothing to show; give the calibration.json of a method with a standard deviation")
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(methods)}
    ranks = {name: histogram for name, curves in methods.items() if (histogram := _ranks(curves)) is not None}
    n_panels = 3 if ranks else 2
    width = n_panels * (_AXIS + _PANEL) + 0.25
    heading = wrapped(title or "", width + _KEY, TITLE, bold=True)
    names = {name: wrapped(name, _KEY - 0.45, NAME) for name in methods}
    key: list[tuple[str, str, Literal["-", "--", ":"]]] = [(names[name], colors[name], "-") for name in methods]
    key += [("oracle", "0.3", "--"), ("local intensity", "0.3", ":")]
    key_height = sum(text_height(text, NAME) + 0.07 for text, _, _ in key) + 2 * text_height(_NOTE, SMALL)
    top = EDGE + text_height(heading, TITLE) + 0.3
    sheet = Sheet(EDGE + width + _KEY + EDGE, top + max(_PANEL + _FOOT, key_height) + EDGE)
    sheet.text(EDGE, EDGE, heading, TITLE, bold=True, align="left")
    lefts = [EDGE + _AXIS + i * (_AXIS + _PANEL) for i in range(n_panels)]
    panels = [sheet.axes(left, top, _PANEL, _PANEL) for left in lefts]
    titles = ["coverage", "sparsification", "rank of the target"]
    for left, text in zip(lefts, titles, strict=False):
        sheet.text(left + _PANEL / 2, top - 0.05, text, NAME, anchor="bottom")
    _coverage(panels[0], methods, colors)
    _sparsification(panels[1], methods, colors)
    if ranks:
        _histograms(panels[2], ranks, colors)
    y, x = top, EDGE + width
    for text, color, style in key:
        tall = text_height(text, NAME)
        _stroke(sheet, (x, y + tall / 2), color, style)
        sheet.text(x + 0.42, y + tall / 2, text, NAME, align="left", anchor="center")
        y += tall + 0.07
    sheet.text(x, y + 0.05, _NOTE, SMALL, align="left", color="0.3")
    return sheet.figure


def _coverage(axes: "Axes", methods: Mapping[str, CalibrationCurves], colors: Mapping[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1.0)
    for name, curves in methods.items():
        levels = [0, *curves.levels]
        baseline = _mean([volume.intensity_coverage for volume in curves.volumes])
        axes.plot(levels, [0, *baseline], color=colors[name], linewidth=1.2, linestyle=":")
        axes.plot(levels, [0, *curves.observed], color=colors[name], linewidth=1.6)
    paper = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1}  # curves may pass behind the text
    axes.text(0.04, 0.95, "std too large", fontsize=SMALL, color="0.4", va="top", bbox=paper)
    axes.text(0.96, 0.05, "std too small", fontsize=SMALL, color="0.4", ha="right", bbox=paper)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _dress(axes, "nominal coverage", "observed coverage")


def _sparsification(axes: "Axes", methods: Mapping[str, CalibrationCurves], colors: Mapping[str, str]) -> None:
    top = 1.0
    for name, curves in methods.items():
        for curve, style, width in (
            ("sparsification_oracle", "--", 1.0),
            ("intensity_sparsification", ":", 1.2),
            ("sparsification", "-", 1.6),
        ):
            values = _mean([getattr(volume, curve) for volume in curves.volumes])
            axes.plot(curves.shares, values, color=colors[name], linewidth=width, linestyle=style)
            top = max(top, float(np.nanmax([top, *values])))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05 * top)
    _dress(axes, "fraction of pixels left out", "RMSE of the rest / RMSE of all")


def _histograms(axes: "Axes", ranks: Mapping[str, np.ndarray], colors: Mapping[str, str]) -> None:
    axes.axhline(1, color="0.6", linewidth=1.0)
    for name, histogram in ranks.items():
        axes.stairs(histogram, np.linspace(0, 1, len(histogram) + 1), color=colors[name], linewidth=1.6, baseline=None)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.1 * max(2.0, *(histogram.max() for histogram in ranks.values())))
    _dress(axes, "below all samples … above all samples", "frequency / that of exact draws")


def _ranks(curves: CalibrationCurves) -> np.ndarray | None:
    """Return the mean histogram relative to a flat one; None without samples or if their number varies."""
    counts = [volume.ranks for volume in curves.volumes if volume.n_pixels and volume.ranks]
    if not counts or len({len(c) for c in counts}) > 1:
        return None
    relative = [np.array(c) * len(c) / max(sum(c), 1) for c in counts]
    return np.mean(relative, axis=0)


def _mean(curves: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the mean over the volumes without NaN; NaN if there is none."""
    measured = [curve for curve in curves if not np.isnan(curve).any()]
    return np.mean(measured, axis=0) if measured else np.full(len(curves[0]), np.nan)


def _dress(axes: "Axes", x: str, y: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x, fontsize=SMALL, labelpad=2)
    axes.set_ylabel(y, fontsize=SMALL, labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _stroke(sheet: Sheet, start: tuple[float, float], color: str, style: Literal["-", "--", ":"]) -> None:
    from matplotlib.lines import Line2D

    x, y = start[0] / sheet.width, 1 - start[1] / sheet.height
    end = (start[0] + 0.34) / sheet.width
    sheet.figure.add_artist(Line2D([x, end], [y, y], color=color, linestyle=style, linewidth=1.6))
