"""The figures of a comparison."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from spinwarp.figures.comparison import comparison
from spinwarp.figures.distribution import distribution
from spinwarp.figures.reliability import reliability
from spinwarp.figures.sheet import save
from spinwarp.figures.uncertainty import fraction_outside, uncertainty
from spinwarp.results.comparison import Comparison, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(comparison: Comparison, folder: Path, n_slices: int = 8) -> list[Path]:
    """Draw one figure for each of at most ``n_slices`` slices that all methods share, and one of all volumes.

    If methods predict standard deviations, each slice has a second figure with these, and each group one of their
    calibration.

    Returns
    -------
    paths : of the PNG files; the distribution of the volumes is the last.
    """
    paths = []
    for picture in comparison.pictures[:n_slices]:
        name = _slug(f"{picture.group} {picture.volume.removesuffix('.h5')} {picture.slice:03d}")
        paths.append(folder / f"{name}.png")
        save(_figure(picture), paths[-1])
        with_std = {method: example for method, example in picture.examples.items() if example.std is not None}
        if with_std:
            paths.append(folder / f"{name}_uncertainty.png")
            save(uncertainty(with_std, _title(picture)), paths[-1])
    for group, methods in comparison.calibrations.items():
        paths.append(folder / f"reliability_{_slug(str(group))}.png")
        save(reliability(methods, str(group)), paths[-1])
    paths.append(folder / "distribution.png")
    save(distribution(comparison.rows), paths[-1])
    return paths


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text)


def _title(picture: Picture) -> str:
    first = next(iter(picture.examples.values()))
    return f"{picture.group}, {picture.volume} slice {picture.slice}, R = {first.acceleration:.2f}, {first.provenance}"


def _figure(picture: Picture) -> "Figure":
    examples = picture.examples
    first = next(iter(examples.values()))
    masks = [example.mask for example in examples.values() if example.mask is not None]
    return comparison(
        first.target,
        {method: example.reconstruction for method, example in examples.items()},
        data_range=first.data_range,
        std={method: example.std for method, example in examples.items() if example.std is not None},
        numbers={m: {"psnr": e.psnr, "ssim": e.ssim, "nmse": e.nmse} for m, e in examples.items()},
        notes={method: note for method, example in examples.items() if (note := fraction_outside(example)) is not None},
        mask=masks[0] if masks else None,
        title=_title(picture),
    )
