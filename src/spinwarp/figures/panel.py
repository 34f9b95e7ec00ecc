"""A grid of images, which callbacks log during training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spinwarp.errors import InputError
from spinwarp.figures.sheet import EDGE, GAP, NAME, Sheet, cell, draw, grey_top, magnitude, text_height, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def panel(images: np.ndarray | Sequence[np.ndarray], titles: Sequence[str] = (), *, columns: int = 3) -> "Figure":
    """Show images in a grid; every row has the grey window of its first image.

    In a row of target, reconstruction and error the brightness of the error is therefore its size. Its title may name
    a factor that it was multiplied by beforehand.

    Parameters
    ----------
    images : ``(n, h, w)``, or a list of ``(h, w)`` of any shapes; complex images are shown as magnitudes.
    titles : one per image, one per column, or none.
    columns : number of images side by side.

    Raises
    ------
    InputError : if there is no image, or the number of titles fits neither the images nor the columns.
    """
    pictures = [magnitude(image, f"image {i}") for i, image in enumerate(images)]
    columns = min(columns, len(pictures))
    if columns < 1:
        raise InputError("a panel needs at least one image and one column")
    if len(titles) not in (0, columns, len(pictures)):
        counts = f"{len(titles)} titles for {len(pictures)} images in {columns} columns"
        raise InputError(f"{counts}; give one title per image, one per column, or none")
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    sizes = [cell(*image.shape) for image in pictures]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    names = [wrapped(title, width, NAME) for title in titles]
    heads = [max((text_height(n, NAME) for n in names[i * columns :][:columns]), default=0.0) for i in range(len(rows))]

    total = sum(heads) + len(rows) * (height + GAP) - GAP
    sheet = Sheet(2 * EDGE + columns * (width + GAP) - GAP, 2 * EDGE + total)
    y = EDGE
    for i, (row, head) in enumerate(zip(rows, heads, strict=True)):
        y += head
        window = (0.0, grey_top(row[0]))
        for j, image in enumerate(row):
            x = EDGE + j * (width + GAP)
            draw(sheet.axes(x, y, width, height), image, window)
            if i * columns + j < len(names):
                sheet.text(x + width / 2, y - 0.04, names[i * columns + j], NAME, anchor="bottom")
        y += height + GAP
    return sheet.figure
