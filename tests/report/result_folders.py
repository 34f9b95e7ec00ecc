"""Result folders whose pixels are known: constant quarters, so that a canvas can be compared with arithmetic."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from spinwarp.results import RECONSTRUCTIONS, RESULTS, TARGETS, Row, write_reconstruction, write_rows, write_target

SHAPE = (32, 48)
SLICES = 4
HTML = "<img src=x onerror=alert(1)></script><script>alert(2)</script>&amp;"


def target(n_slices: int = SLICES) -> np.ndarray:
    """Upper left .2 and rising with the slice, upper right .5, lower left 1, lower right 0 (the air)."""
    images = np.zeros((n_slices, *SHAPE), np.float32)
    images[:, :16, :24] = 0.2 + 0.1 * np.arange(n_slices)[:, None, None]
    images[:, :16, 24:] = 0.5
    images[:, 16:, :24] = 1.0
    return images


def row(method: str, volume: str, **values: Any) -> Row:
    base = Row(
        method,
        "knee",
        "test",
        "scanner",
        "equispaced_4x",
        4.0,
        3.7,
        volume,
        SLICES,
        "rss",
        "32x48",
        0.1,
        30.0,
        0.9,
        0.5,
        "abc",
    )
    return dataclasses.replace(base, **values)


def write_folder(
    folder: Path,
    method: str,
    offset: float,
    std: float | None = None,
    volumes: tuple[str, ...] = ("file0.h5",),
    targets: bool = True,
    values: dict[str, dict[str, Any]] | None = None,
    **shared: Any,
) -> Path:
    """Write a result folder of a method that adds ``offset`` to the target, and predicts the same ``std`` everywhere.

    ``values`` are fields of the row of one volume, ``shared`` of all rows.
    """
    for volume in volumes:
        images = target() + np.float32(offset)
        stds = None if std is None else np.full_like(images, std)
        write_reconstruction(folder / RECONSTRUCTIONS, volume, images, stds)
        if targets:
            write_target(folder / TARGETS, volume, target(), target() > 0.05)
    write_rows(folder / RESULTS, [row(method, v, **{**shared, **(values or {}).get(v, {})}) for v in volumes])
    return folder
