"""Every volume of every method, because a mean hides the volumes that went wrong."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spinwarp.errors import InputError
from spinwarp.figures.sheet import EDGE, NAME, SMALL, TITLE, Sheet, origin, text_height, text_width, wrapped
from spinwarp.results import Group, Row, Summary, group_of, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL, _BETWEEN, _AXIS = 2.6, 0.25, 0.5  # inches: width, gap, height of tick labels and the metric's name
_LABELS = {"ssim": "SSIM (more is better)", "psnr": "PSNR / dB (more is better)", "nmse": "NMSE (less is better)"}
_NOTE = "dot: a volume; diamond: mean ± standard error"


def distribution(rows: Sequence[Row]) -> "Figure":
    """Show SSIM, PSNR and NMSE of every volume, a line per method, with mean and standard error.

    Groups (data set, split, mask) are stacked, each with its own axes.

    Raises
    ------
    InputError : if there is no row.
    """
    if not rows:
        raise InputError("there are no volumes to show; give the rows of a results.csv")
    groups: dict[Group, list[Summary]] = {}
    for summary in summarise(rows):
        groups.setdefault(summary.group, []).append(summary)
    names = {s.method: wrapped(s.method, 2.2, NAME) for s in summarise(rows)}
    left = EDGE + max(text_width(line, NAME) for name in names.values() for line in name.split("\n")) + 0.1
    step = max(0.34, max(text_height(name, NAME) for name in names.values()) + 0.08)
    heights = [len(summaries) * step for summaries in groups.values()]
    head = text_height("x", TITLE) + 0.05
    foot = text_height(_NOTE, SMALL)
    total = sum(heights) + len(groups) * (head + _AXIS) + foot
    sheet = Sheet(left + 3 * _PANEL + 2 * _BETWEEN + EDGE + 0.1, 2 * EDGE + total)

    y = EDGE
    for (group, summaries), height in zip(groups.items(), heights, strict=True):
        sheet.text(left, y, f"{group}, {origin(summaries[0].provenance)}", TITLE, bold=True, align="left")
        y += head
        for i, summary in enumerate(summaries):
            middle = y + (i + 0.5) * step
            sheet.text(left - 0.1, middle, names[summary.method], NAME, align="right", anchor="center")
        mine = [row for row in rows if group_of(row) == group]
        for i, metric in enumerate(_LABELS):
            _strips(sheet.axes(left + i * (_PANEL + _BETWEEN), y, _PANEL, height), metric, summaries, mine)
        y += height + _AXIS
    sheet.text(left, y, _NOTE, SMALL, align="left", color="0.3")
    return sheet.figure


def _strips(axes: "Axes", metric: str, summaries: Sequence[Summary], rows: Sequence[Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    for line, summary in enumerate(summaries):
        values = np.array([getattr(row, metric) for row in rows if row.method == summary.method])
        # Jitter separates coinciding dots; with its fixed seed the same results give the same figure.
        offsets = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))
        finite = np.isfinite(values)
        axes.scatter(values[finite], line + offsets[finite], s=14, color="#4477aa", alpha=0.55, linewidths=0)
        mean, error = getattr(summary, metric)
        if np.isfinite(mean):
            axes.errorbar(mean, line, xerr=error, color="black", marker="D", markersize=5, capsize=3, linewidth=1.3)
    axes.set_ylim(len(summaries) - 0.5, -0.5)
    axes.set_yticks([])
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.tick_params(labelsize=SMALL)
    axes.set_xlabel(_LABELS[metric], fontsize=SMALL, labelpad=2)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
