"""A blank figure measured in inches, and the drawing functions that all figures share."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from spinwarp.errors import InputError
from spinwarp.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
TITLE, NAME, SMALL = 11.0, 9.5, 8.5  # points
EDGE, GAP = 0.12, 0.05  # inches: the margin, and between two pictures
_BAD_COLOR = "#ff00ff"


class Sheet:
    """A figure laid out in inches from its top left corner; nothing overlaps, whatever the shapes.

    It has its own canvas instead of pyplot's global state: threads and machines without a display can draw.

    Parameters
    ----------
    width, height : in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure: Figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Add axes whose frame is this rectangle."""
        w, h = self.width, self.height
        return self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        bold: bool = False,
        align: Literal["left", "center", "right"] = "center",
        anchor: Literal["top", "center", "bottom"] = "top",
        upright: bool = False,
        color: str = "black",
    ) -> None:
        """Write a text; ``align`` and ``anchor`` choose its point at ``(x, y)``."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            fontsize=size,
            weight="bold" if bold else "normal",
            ha=align,
            va=anchor,
            rotation=90 if upright else 0,
            color=color,
            parse_math=False,  # the name of a method may contain dollar signs
        )


def draw(axes: "Axes", image: np.ndarray, window: tuple[float, float], *, cmap: str = "gray") -> None:
    """Fill axes with an image without ticks, in a thin frame; values that are not finite are magenta."""
    from matplotlib import colormaps

    colors = colormaps[cmap].with_extremes(bad=_BAD_COLOR)
    axes.imshow(np.ma.masked_invalid(image), vmin=window[0], vmax=window[1], cmap=colors)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():  # a white mask would have no edge on white paper
        side.set(color="0.6", linewidth=0.5)


def magnitude(image: np.ndarray, name: str) -> np.ndarray:
    """Return a real ``(h, w)`` image: the magnitude if it is complex.

    Raises
    ------
    InputError : if it does not have two dimensions, or has no pixel.
    """
    array = np.asarray(image)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name} has shape {array.shape}; a figure shows one slice (h, w) at a time, pick one")
    return np.abs(array) if np.iscomplexobj(array) else array.astype(np.float64)


def grey_top(image: np.ndarray) -> float:
    """Return the upper end of the grey window, where the brightest 0.2 % saturate; 1 for an empty image."""
    finite = image[np.isfinite(image)]
    # Use the largest value if only a few pixels are bright, as in a test image of one point.
    top = max(float(np.percentile(finite, 99.8)), 0.0) or float(finite.max()) if finite.size else 0.0
    return top if top > 0 else 1.0


def cell(h: int, w: int, wide: float = 2.1, tall: float = 2.7) -> tuple[float, float]:
    """Return the width and height in inches of a picture's cell, which has room for a caption whatever the shape."""
    scale = min(wide / w, tall / h)
    return max(scale * w, 1.3), max(scale * h, 0.75)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of one line of text in inches, with a little to spare for hinting."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return float(1.03 * text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72)


def wrapped(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """Break a text into lines that fit ``width`` inches, after spaces, after ``_ / . -``, else anywhere.

    It does not break after the point in a number, nor at a no-break space.
    """
    lines = [""]
    for token in re.findall(r"(?:[^ _/.-]|(?<=\d)\.(?=\d))*[ _/.-]*", re.sub(r"[^\S\u00a0]+", " ", text.strip())):
        if lines[-1] and text_width((lines[-1] + token).rstrip(), size, bold=bold) > width:
            lines.append("")
        for letter in token:
            if lines[-1] and text_width((lines[-1] + letter).rstrip(), size, bold=bold) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(line.strip() for line in lines)


def text_height(text: str, size: float) -> float:
    """Return the height of a text of several lines in inches; 0 if it is empty."""
    return (text.count("\n") + 1) * size / 72 * 1.25 if text else 0.0


def origin(provenance: str) -> str:
    """Return where data came from as the heading of a figure says it."""
    return "origin unknown" if provenance == "unknown" else provenance


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG; the file is written whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
