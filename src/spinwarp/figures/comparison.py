"""The comparison of methods on one slice: images, a zoom, errors, standard deviations and metrics."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spinwarp.errors import InputError
from spinwarp.figures.sheet import (
    EDGE,
    GAP,
    NAME,
    SMALL,
    TITLE,
    Sheet,
    cell,
    draw,
    grey_top,
    magnitude,
    text_height,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL, _SCALE, _STRIP = 0.24, 0.66, 0.22  # inches: row label, colour bar with its text, mask strip
_LINE = text_height("x", SMALL)
_FRAME = "#ffc20a"
_FORMATS = {
    "psnr": "PSNR {:.2f} dB",
    "ssim_foreground": "SSIM fg {:.4f}",
    "ssim": "SSIM {:.4f}",
    "nmse": "NMSE {:.4f}",
}


def comparison(
    target: np.ndarray | None,
    images: Mapping[str, np.ndarray],
    *,
    data_range: float | None = None,
    std: Mapping[str, np.ndarray] | None = None,
    numbers: Mapping[str, Mapping[str, float]] | None = None,
    notes: Mapping[str, str] | None = None,
    mask: np.ndarray | None = None,
    title: str | None = None,
    subtitle: str | None = None,
) -> "Figure":
    """Show one slice by several methods: images in one grey window, a zoom, and the errors on one scale.

    Twice the predicted standard deviation is shown below on the scale of the errors, for methods that have one. Values
    that are not finite are magenta.

    Parameters
    ----------
    target : ``(h, w)``; None if unknown: then the row of errors is left out.
    images : method -> ``(h, w)`` in the units of the target; complex images are shown as magnitudes.
    data_range : 100 % on the error scale; None: the top of the grey window.
    std : method -> ``(h, w)`` predicted standard deviation; a method without one has no picture there.
    numbers : method -> any of ``psnr``, ``ssim_foreground``, ``ssim``, ``nmse``, printed below. The best of each is
        bold, but not the SSIM of the whole image where that of the foreground is given: it may prefer the worse image.
    notes : method -> a line below its numbers.
    mask : ``(1 or h, w)`` sampling mask on the k-space grid.
    title, subtitle : above the whole figure, the second in small print.

    Raises
    ------
    InputError : if there is no image, or the shapes differ.
    """
    shown = {name: magnitude(image, name) for name, image in images.items()}
    truth = None if target is None else magnitude(target, "the target")
    twice = {n: 2 * magnitude(std[n], f"the standard deviation of {n}") for n in shown if std and n in std}
    pictures = [*([] if truth is None else [("target", truth)]), *shown.items()]
    sizes = [*pictures, *((f"standard deviation of {name}", values) for name, values in twice.items())]
    if not shown:
        raise InputError("a comparison needs at least one image")
    if len({image.shape for _, image in sizes}) > 1:
        listed = ", ".join(f"{name} {image.shape[0]}x{image.shape[1]}" for name, image in sizes)
        raise InputError(f"a comparison needs images of one shape, got {listed}; crop them alike first")
    shape = pictures[0][1].shape
    width, height = cell(*shape)
    names = [wrapped(name, width, NAME) for name, _ in pictures]
    columns_width = len(pictures) * (width + GAP) - GAP
    colored: dict[str, dict[str, np.ndarray]] = {}
    if truth is not None:
        with np.errstate(invalid="ignore"):  # where both are infinite
            colored["error"] = {name: np.abs(image - truth) for name, image in shown.items()}
    if twice:
        colored["2 std"] = twice
    scale_width = _SCALE if colored else 0.0
    heading = wrapped(title or "", columns_width + scale_width, TITLE, bold=True)
    small = wrapped(subtitle or "", columns_width + scale_width, SMALL)

    left = EDGE + _LABEL
    top = EDGE + text_height(heading, TITLE) + text_height(small, SMALL) + 0.06
    top += max(text_height(name, NAME) for name in names)
    foot = top + (2 + len(colored)) * (height + GAP)
    lines = {name: _number_lines(name, numbers or {}) for name in shown}
    for name, note in (notes or {}).items():
        lines[name] += [(line, False) for line in wrapped(note, width, SMALL).split("\n")]
    n_lines = max(map(len, lines.values()))
    # The mask fills the empty cell below the target's zoom, beside the label of the errors; without a target it is a
    # strip below everything.
    below = top + 2 * (height + GAP)
    strip = (left, foot + n_lines * _LINE + 2 * GAP, width, _STRIP)
    if truth is not None:
        strip = (left, below, width - _LABEL, height)
    under = max(foot + n_lines * _LINE, strip[1] + strip[3] + 0.06 + _LINE if mask is not None else 0.0)
    sheet = Sheet(left + columns_width + scale_width + EDGE, under + EDGE)
    lefts = [left + i * (width + GAP) for i in range(len(pictures))]
    columns = dict(zip(shown, lefts[-len(shown) :], strict=True))

    sheet.text(left, EDGE, heading, TITLE, bold=True, align="left")
    sheet.text(left, EDGE + text_height(heading, TITLE), small, SMALL, align="left", color="0.3")
    # All methods share the target's window. Without a target the median ignores the window of a failed method.
    grey = grey_top(truth) if truth is not None else float(np.median([grey_top(image) for image in shown.values()]))
    zoom = zoom_region(truth if truth is not None else np.mean(list(shown.values()), axis=0))
    for x, (_, image), name in zip(lefts, pictures, names, strict=True):
        sheet.text(x + width / 2, top - 0.04, name, NAME, anchor="bottom")
        axes = sheet.axes(x, top, width, height)
        draw(axes, image, (0, grey))
        _outline(axes, zoom)
        draw(sheet.axes(x, top + height + GAP, width, height), image[zoom], (0, grey))
    labels = ["image", "zoom"]
    if colored:
        # The errors set the scale: an exaggerated standard deviation then stands out.
        factor = error_factor([*next(iter(colored.values())).values()], grey)
        labels += [f"error × {factor}" if label == "error" else label for label in colored]
        for i, maps in enumerate(colored.values()):
            for name, values in maps.items():
                axes = sheet.axes(columns[name], below + i * (height + GAP), width, height)
                draw(axes, values, (0, grey / factor), cmap="inferno")
        tall = len(colored) * (height + GAP) - GAP
        color_bar(sheet, axes, (lefts[-1] + width + 0.07, below, 0.09, tall), data_range or grey)
    for i, label in enumerate(labels):
        middle = top + i * (height + GAP) + height / 2
        # the target has no error, and some methods no deviation: these labels stand beside the first that has one
        beside = left if i < 2 else columns[next(iter([*colored.values()][i - 2]))]
        sheet.text(beside - 0.05 - SMALL / 144, middle, label, SMALL, anchor="center", upright=True, color="0.3")
    if mask is not None:
        _draw_mask(sheet, strip, mask)
    for name, x in columns.items():
        for i, (line, best) in enumerate(lines[name]):
            sheet.text(x + width / 2, foot + i * _LINE, line, SMALL, bold=best)
    return sheet.figure


def zoom_region(image: np.ndarray) -> tuple[slice, slice]:
    """Return the window, a third of height and width, with the most structure; the middle is preferred to the rim.

    Structure is the clipped gradient of the square root, in which bright fat does not outweigh dim tissue.
    """
    h, w = image.shape
    rows, columns = max(h // 3, min(h, 8)), max(w // 3, min(w, 8))
    grey = np.sqrt(np.clip(np.nan_to_num(image, posinf=0.0, neginf=0.0) / grey_top(image), 0, 1))
    edges = np.zeros((h, w))
    edges[:, 1:] += np.abs(np.diff(grey, axis=1))
    edges[1:] += np.abs(np.diff(grey, axis=0))
    if edges.any():
        edges = np.minimum(edges, np.percentile(edges[edges > 0], 75))
    total = np.pad(edges, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    # Sum over every window, from four corners of the summed-area table.
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    taper = [0.4 + 0.6 * np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in sums.shape]
    row, column = np.unravel_index(int(np.argmax(sums * np.outer(*taper))), sums.shape)
    return slice(int(row), int(row) + rows), slice(int(column), int(column) + columns)


def _outline(axes: "Axes", region: tuple[slice, slice]) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = region
    corner = (columns.start - 0.5, rows.start - 0.5)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_FRAME, linewidth=1.0))


def error_factor(errors: Sequence[np.ndarray], top: float) -> int:
    """Return the factor by which errors can be brightened before those of the typical method saturate."""
    finite = [error[np.isfinite(error)] for error in errors]
    high = float(np.median([np.percentile(f, 99) for f in finite if f.size] or [top]))
    return max((factor for factor in (1, 2, 5, 10, 20, 50) if top / factor >= high), default=1)


def color_bar(sheet: Sheet, axes: "Axes", place: tuple[float, float, float, float], whole: float) -> None:
    """Draw the colour scale of a map in per cent of ``whole``."""
    from matplotlib.ticker import MaxNLocator

    top = 100 * axes.images[0].get_clim()[1] / whole
    ticks = [t for t in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top) if 0 <= t <= top]
    bar = sheet.figure.colorbar(axes.images[0], cax=sheet.axes(*place))
    bar.set_ticks([t * whole / 100 for t in ticks], labels=[f"{t:g}" for t in ticks])
    bar.ax.tick_params(labelsize=SMALL, length=2, pad=2)
    bar.set_label("% of the maximum" if place[3] > 1.25 else "%", fontsize=SMALL, labelpad=2)
    bar.outline.set_visible(False)


def _draw_mask(sheet: Sheet, place: tuple[float, float, float, float], mask: np.ndarray) -> None:
    left, y, width, tall = place
    sampled = np.asarray(mask, np.float64)
    sampled = sampled.reshape(-1, sampled.shape[-1])
    axes = sheet.axes(*place)
    draw(axes, sampled, (0, 1))
    axes.set_aspect("auto")
    sheet.text(left + width / 2, y + tall + GAP, "sampling mask", SMALL)


def _number_lines(name: str, numbers: Mapping[str, Mapping[str, float]]) -> list[tuple[str, bool]]:
    """Return the lines under a method, each with whether its number is the best."""
    lines = []
    inside = any("ssim_foreground" in other for other in numbers.values())
    for metric, form in _FORMATS.items():
        if metric in numbers.get(name, {}):
            rivals = [form.format(other[metric]) for other in numbers.values() if metric in other]
            values = [other[metric] for other in numbers.values() if metric in other]
            best = form.format(min(values) if metric == "nmse" else max(values))
            own = form.format(numbers[name][metric])
            lines.append((own, len(rivals) > 1 and own == best and not (inside and metric == "ssim")))
    return lines
