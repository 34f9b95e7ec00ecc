"""The figures of a comparison."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spinwarp.figures.comparison import comparison
from spinwarp.figures.distribution import distribution
from spinwarp.figures.reliability import reliability
from spinwarp.figures.sheet import origin, save
from spinwarp.figures.uncertainty import fraction_outside, uncertainty
from spinwarp.results import ExampleSlice
from spinwarp.results.comparison import Comparison, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# names of methods in figures, where those of the configuration are not words
_WORDS = {
    "zero_filled": "zero-filled",
    "cg_sense": "CG-SENSE",
    "tv": "total variation",
    "l1_image": "sparse image",
    "l1_wavelet": "wavelets",
    "posterior": "posterior mean",
    "convdecoder": "ConvDecoder",
    "deep_decoder": "Deep Decoder",
    "dip": "deep image prior",
}


def draw(comparison: Comparison, folder: Path, n_slices: int = 8) -> list[Path]:
    """Draw one figure for each of at most ``n_slices`` slices that all methods share, and one of all volumes.

    If methods predict standard deviations, each slice has a second figure with these, and each group one of their
    calibration.

    Returns
    -------
    paths : of the PNG files; the distribution of the volumes is the last.
    """
    paths = []
    comparison = _renamed(comparison)
    for picture in comparison.pictures[:n_slices]:
        name = _slug(f"{picture.group} {picture.volume.removesuffix('.h5')} {picture.slice:03d}")
        paths.append(folder / f"{name}.png")
        save(_figure(picture), paths[-1])
        with_std = {method: example for method, example in picture.examples.items() if example.std is not None}
        if with_std:
            paths.append(folder / f"{name}_uncertainty.png")
            save(uncertainty(with_std, *_titles(picture)), paths[-1])
    for group, methods in comparison.calibrations.items():
        paths.append(folder / f"reliability_{_slug(str(group))}.png")
        save(reliability(methods, str(group)), paths[-1])
    paths.append(folder / "distribution.png")
    save(distribution(comparison.rows), paths[-1])
    return paths


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text)


def in_words(method: str) -> str:
    """Return the name of a method of the configuration as one writes it; other names as they are."""
    return _WORDS.get(method, method)


def _renamed(comparison: Comparison) -> Comparison:
    """Return it with the names of methods as one writes them, where the results have those of the configuration."""
    methods = dict.fromkeys(row.method for row in comparison.rows)
    words = {method: in_words(method) for method in methods}
    if len(set(words.values())) < len(words):  # a user gave one of these names to another method
        return comparison
    return replace(
        comparison,
        rows=[replace(row, method=words[row.method]) for row in comparison.rows],
        pictures=[replace(p, examples={words[m]: e for m, e in p.examples.items()}) for p in comparison.pictures],
        calibrations={
            group: {words[m]: curves for m, curves in of.items()} for group, of in comparison.calibrations.items()
        },
    )


def _titles(picture: Picture) -> tuple[str, str]:
    """Return the title of a slice, and its small print."""
    first, group = next(iter(picture.examples.values())), picture.group
    mask = "as measured" if group.mask == "none" else str(group._replace(dataset="", split="", contrast=""))
    # spaces that must not break keep numbers beside their names
    rate, name = f"R\u00a0=\u00a0{first.acceleration:.2f}", picture.volume.removesuffix(".h5")
    title = f"{mask}, {rate}: {name}, slice\u00a0{picture.slice}"
    return title, f"{group._replace(mask='', nominal='nan')}, {origin(first.provenance)}"


def _figure(picture: Picture) -> "Figure":
    examples = picture.examples
    title, subtitle = _titles(picture)
    first = next(iter(examples.values()))
    masks = [example.mask for example in examples.values() if example.mask is not None]
    return comparison(
        first.target,
        {method: example.reconstruction for method, example in examples.items()},
        data_range=first.data_range,
        std={method: example.std for method, example in examples.items() if example.std is not None},
        numbers={method: _numbers(example) for method, example in examples.items()},
        notes={method: note for method, example in examples.items() if (note := fraction_outside(example)) is not None},
        mask=masks[0] if masks else None,
        title=title,
        subtitle=subtitle,
    )


def _numbers(example: ExampleSlice) -> dict[str, float]:
    numbers = {"psnr": example.psnr, "ssim": example.ssim, "nmse": example.nmse}
    inside = example.ssim_foreground  # results of older versions lack it
    return numbers if math.isnan(inside) else {**numbers, "ssim_foreground": inside}
