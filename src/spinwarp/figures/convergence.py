"""The error of a fit over its iterations, and where it stopped by itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spinwarp.errors import InputError
from spinwarp.figures.sheet import SMALL, TITLE
from spinwarp.results import TraceRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#ccbb44")


def convergence(rows: Sequence[TraceRow], title: str | None = None) -> "Figure":
    """Plot the NMSE in dB over the iterations, a line per method: a diamond where it stops, a dot at its best.

    Raises
    ------
    InputError : if there is no row.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise InputError("there are no iterations to show; give the rows of a trace.csv")
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, method in enumerate(dict.fromkeys(row.method for row in rows)):
        mine = [row for row in rows if row.method == method]
        color = _COLORS[i % len(_COLORS)]
        iterations = np.array([row.iteration for row in mine])
        errors = 10 * np.log10([row.nmse for row in mine])
        best = int(errors.argmin())
        axes.plot(iterations, errors, color=color, linewidth=1.3, label=method)
        axes.plot(iterations[best], errors[best], "o", color=color, markersize=6)
        stops = [j for j, row in enumerate(mine) if row.stop]
        axes.plot(iterations[stops], errors[stops], "D", color=color, markersize=8, markeredgecolor="black")
    axes.plot([], [], "o", color="0.5", markersize=6, label="least error")
    axes.plot([], [], "D", color="0.5", markersize=8, markeredgecolor="black", label="stopped by held-out lines")
    axes.set_xlabel("iteration", fontsize=SMALL)
    axes.set_ylabel("NMSE / dB (less is better)", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(fontsize=SMALL, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if title is not None:
        axes.set_title(title, fontsize=TITLE)
    return figure
