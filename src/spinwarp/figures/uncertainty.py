"""Reconstruction, error and predicted uncertainty side by side, the last two on one scale."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from spinwarp.errors import InputError
from spinwarp.figures.comparison import color_bar, error_factor
from spinwarp.figures.sheet import EDGE, GAP, NAME, SMALL, TITLE, Sheet, cell, draw, grey_top, text_height, wrapped
from spinwarp.results import ExampleSlice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES, _SCALE = 1.55, 0.66  # inches: room for the names of methods, and for the colour bar
_MISS = (1.0, 0.15, 0.1)  # colour of the pixels outside


def half_width(example: ExampleSlice) -> tuple[np.ndarray, str]:
    """Return the half width of the predicted interval, and its name.

    Two standard deviations; for a conformal method, as many as its level needs.
    """
    if example.std is None:
        raise InputError(f"{example.method} predicts no standard deviation for {example.volume}, so it has no interval")
    if math.isnan(example.level):
        return 2 * example.std, "2 std"
    return NormalDist().inv_cdf((1 + example.level) / 2) * example.std, f"the {100 * example.level:g} % interval"


def outside(example: ExampleSlice) -> np.ndarray | None:
    """Return the foreground pixels whose error exceeds the half width, bool ``(h, w)``; None if either is missing."""
    if example.std is None or example.foreground is None or not example.foreground.any():
        return None
    width, _ = half_width(example)
    missed: np.ndarray = (np.abs(example.reconstruction - example.target) > width) & example.foreground
    return missed


def fraction_outside(example: ExampleSlice) -> str | None:
    """Return a note such as ``4.6 % outside 2 std``; None without standard deviation or foreground."""
    missed = outside(example)
    if missed is None or example.foreground is None:
        return None
    return f"{100 * missed.sum() / example.foreground.sum():.1f} % outside {half_width(example)[1]}"


def uncertainty(
    examples: Mapping[str, ExampleSlice], title: str | None = None, subtitle: str | None = None
) -> "Figure":
    """Show a row per method: image, error, half width on the scale of the error, and the pixels outside it in red.

    Parameters
    ----------
    examples : method -> one slice with a standard deviation, all of the same target.
    title, subtitle : above the whole figure, the second in small print.

    Raises
    ------
    InputError : if there is no method, or one without a standard deviation.
    """
    if not examples:
        raise InputError("there is nothing to show; give a slice of a method with a standard deviation")
    widths = {name: half_width(example) for name, example in examples.items()}
    first = next(iter(examples.values()))
    errors = {name: np.abs(e.reconstruction - e.target) for name, e in examples.items()}
    grey = grey_top(first.target)
    factor = error_factor([*errors.values()], grey)
    width, height = cell(first.target.shape[0], first.target.shape[1], 1.9, 2.0)
    plain = all(kind == "2 std" for _, kind in widths.values())
    shown, interval = ("2 std", "2 std") if plain else ("half width", "the interval")
    columns = ["reconstruction", f"error × {factor}", f"{shown} × {factor}", f"outside {interval}"]
    names = {name: wrapped(name, _NAMES - 0.1, NAME, bold=True) for name in examples}
    notes = {name: "\n".join(wrapped(line, _NAMES - 0.1, SMALL) for line in _notes(e)) for name, e in examples.items()}
    left = EDGE + _NAMES
    whole = left + len(columns) * (width + GAP) + _SCALE
    heading = wrapped(title or "", whole - 2 * EDGE, TITLE, bold=True)
    small = wrapped(subtitle or "", whole - 2 * EDGE, SMALL)
    heights = [
        max(height, text_height(names[name], NAME) + 0.05 + text_height(notes[name], SMALL)) + GAP for name in examples
    ]
    above = EDGE + text_height(heading, TITLE)
    top = above + text_height(small, SMALL) + 0.08 + text_height("x", NAME)
    sheet = Sheet(whole + EDGE, top + sum(heights) - GAP + EDGE)
    sheet.text(EDGE, EDGE, heading, TITLE, bold=True, align="left")
    sheet.text(EDGE, above, small, SMALL, align="left", color="0.3")
    lefts = [left + i * (width + GAP) for i in range(len(columns))]
    for x, text in zip(lefts, columns, strict=True):
        sheet.text(x + width / 2, top - 0.04, text, NAME, anchor="bottom")
    y = top
    for (name, example), tall in zip(examples.items(), heights, strict=True):
        sheet.text(EDGE, y, names[name], NAME, bold=True, align="left")
        sheet.text(EDGE, y + text_height(names[name], NAME) + 0.05, notes[name], SMALL, align="left", color="0.3")
        draw(sheet.axes(lefts[0], y, width, height), example.reconstruction, (0, grey))
        for x, values in ((lefts[1], errors[name]), (lefts[2], widths[name][0])):
            axes = sheet.axes(x, y, width, height)
            draw(axes, values, (0, grey / factor), cmap="inferno")
        marked = sheet.axes(lefts[3], y, width, height)
        draw(marked, example.reconstruction, (0, 1.6 * grey))  # dimmed to make the marks stand out
        missed = outside(example)
        if missed is not None:
            marked.imshow(np.dstack([np.broadcast_to(_MISS, (*missed.shape, 3)), missed.astype(float)]))
        y += tall
    color_bar(sheet, axes, (lefts[-1] + width + 0.07, top, 0.09, height), first.data_range)
    return sheet.figure


def _notes(example: ExampleSlice) -> list[str]:
    lines = [f"PSNR {example.psnr:.2f} dB"]
    if not math.isnan(example.ssim_foreground):
        lines.append(f"SSIM fg {example.ssim_foreground:.4f}")
    return [*lines, fraction_outside(example) or f"interval: {half_width(example)[1]}"]
