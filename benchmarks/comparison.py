r"""The methods side by side, on heads that no training saw, raw scans and pelves: a table and a figure.

    python benchmarks/comparison.py OUT --heads HEADS CHENG HKU --coil-maps xGT.mat --raw RAW --pelvis PELVIS \
        --method 'total variation' recon=tv --method ConvDecoder recon=convdecoder \
        --method VarNet maps=espirit recon=checkpoint recon.path=runs/varnet/checkpoints/best.ckpt \
        --method posterior recon=posterior --method pretrained recon=pretrained
    python benchmarks/comparison.py OUT --heads HEADS CHENG HKU --coil-maps xGT.mat --pelvis PELVIS \
        --draw zero-filled 'total variation' VarNet ConvDecoder posterior pretrained

Every twelfth of the test slices of ``data=simulated_heads``, by turns at 4x and 8x; ``--raw``, seven fully sampled raw
scans (``raw_scans.py``), and ``--pelvis``, six slices (8 coils, 192x192), each at both. Equispaced lines with 8 % and
4 % central ones. PSNR in dB and SSIM in the foreground, means over slices; for methods that draw samples also the part
of the foreground inside their 90 % intervals.

``maps=`` names the coil maps that come with the data (``none``, ``low_resolution``, ``espirit``), for networks that
were trained with them. The results of a method are in one file, which grows with each slice; the same command goes on
where it stopped, and measures anew what had other options, weights or data. ``--draw`` writes the table and
``comparison.webp``: two of Cheng's slices, at 4x and 8x. No pelvis is drawn; its licence is not confirmed.
"""

import argparse
import hashlib
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from article_figures import Scan, compared, configured, draw
from hydra.utils import instantiate
from numpy.random import RandomState
from raw_scans import raw_scans

from spinwarp.acquisition import Example
from spinwarp.data.undersample import MAPS, Undersample
from spinwarp.errors import InputError
from spinwarp.files import atomic_write
from spinwarp.masks import EquispacedMask
from spinwarp.metrics import foreground, psnr, ssim_map
from spinwarp.metrics.functional import ssim_in
from spinwarp.models.weights import local_file
from spinwarp.recon.base import reconstruct_batch

CENTRES = {4: 0.08, 8: 0.04}
PELVIS = (
    "data.source.val=[prostatex-0000]",
    "data.source.test=[mip-prostate-01-0001,mip-prostate-01-0002,mip-prostate-01-0003]",
    "data.source.matrices=[[192,192]]", "data.source.coils=[8]", "data.source.n_test=6",
)  # fmt: skip
DRAWN = ("2728", "3006")  # Cheng's, which may be published
NOTE = "simulated scans, 16 and 6 coils, of slices that no training saw; images: Cheng, figshare 1512427 (CC BY 4.0)"
Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A slice and its acceleration."""

    group: str  # heads, raw or pelvis
    number: int  # of the slice
    seed: int  # of the mask
    rate: int
    source: Any
    volume: Any
    data: str  # what it was made of

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"{self.group}_{self.number}_{self.rate}x"

    def read(self) -> Example:
        """Return the slice, whole."""
        example: Example = self.source.read(self.volume, 0)
        return example


def items_of(args: argparse.Namespace) -> Iterator[Item]:
    """Return the slices of all sets."""
    heads, data = source_of(args, args.heads)
    for i, volume in list(enumerate(heads.volumes("test")))[::12]:
        yield Item("heads", i, i, 8 if (i // 12) % 2 else 4, heads, volume, data)
    for i, scan in enumerate(raw_scans(args.raw) if args.raw else ()):
        for rate in CENTRES:
            yield Item("raw", i, 1, rate, scan, scan, str(args.raw.resolve()))
    if args.pelvis:
        pelvis, data = source_of(args, [args.pelvis], *PELVIS)
        for i, volume in enumerate(pelvis.volumes("test")):
            for rate in CENTRES:
                yield Item("pelvis", i, i, rate, pelvis, volume, data)


def source_of(args: argparse.Namespace, folders: Sequence[Path], *options: str) -> tuple[Any, str]:
    """Return the simulated scans of the magnitudes in some folders, and their description."""
    paths = ",".join(quoted(folder) for folder in folders)
    measured = quoted(args.coil_maps) if args.coil_maps else "null"
    chosen = [f"data.source.path=[{paths}]", f"data.source.coil_maps={measured}", *options]
    config = configured("data=simulated_heads", *chosen)
    return instantiate(config.data.source, _convert_="all"), " ".join(chosen)


def quoted(path: Path) -> str:
    """Return an absolute path as Hydra's grammar reads it, whatever characters it has."""
    return "'" + str(path.resolve()).replace("'", "\\'") + "'"


@dataclass(frozen=True)
class Method:
    """A method, its name, and what it was made of."""

    name: str
    reconstructor: Any
    maps: str
    made_of: str

    def file(self, out: Path) -> Path:
        """Return where its results are."""
        return out / f"{slug(self.name)}.json"


def slug(name: str) -> str:
    """Return a name for files."""
    return re.sub(r"\W+", "_", name)


def method_of(name: str, options: Sequence[str]) -> Method:
    """Make a method of its options.

    Raises
    ------
    InputError : if an option is of something else, or there is no method.
    """
    maps = [option.removeprefix("maps=") for option in options if option.startswith("maps=")]
    chosen = [option for option in options if not option.startswith("maps=")]
    if not any(o.startswith("recon=") for o in chosen) or not all(re.match(r"[+~]*recon[.=]", o) for o in chosen):
        raise InputError(f"{name} takes recon=METHOD, recon.KEY=VALUE and maps=WORD; got {' '.join(options) or 'none'}")
    if len(maps) > 1 or not set(maps) <= set(MAPS):
        raise InputError(f"maps= of {name} is one of {', '.join(MAPS)}; got {' '.join(maps)}")
    config = configured(*chosen).recon
    files = [config.path] if config.get("path") else [*config.get("paths", [])]
    contents = [hashlib.sha256(local_file(file).read_bytes()).hexdigest()[:12] for file in files]
    return Method(name, instantiate(config), *(maps or ["none"]), " ".join([*sorted(options), *contents]))


def measure(method: Method, item: Item, picture: Path) -> Row:
    """Undersample and reconstruct a slice; keep the magnitude in a file."""
    undersample = Undersample(EquispacedMask([CENTRES[item.rate]], [item.rate]), MAPS[method.maps])
    example = undersample(item.read(), RandomState(item.seed))
    assert example.target is not None
    target, peak, generator = example.target, example.data_range, torch.Generator().manual_seed(0)
    start = time.perf_counter()
    result = reconstruct_batch(method.reconstructor, example.acquisition, generator, list(example.volume))
    seconds = time.perf_counter() - start
    image, inside = result.image.abs(), foreground(target, peak)
    similarity, pixels = ssim_in(inside, ssim_map(image, target, peak))
    covered = None if result.std is None else ((image - target).abs() <= 1.6449 * result.std)[inside].float().mean()
    picture.parent.mkdir(parents=True, exist_ok=True)
    np.save(picture, image[0].numpy())
    return {
        "scan": example.volume[0],
        "shape": list(example.acquisition.kspace.shape[1:]),
        "psnr": float(psnr(image, target, peak)),
        "ssim": float(similarity / pixels),
        "covered": None if covered is None else float(covered),
        "seconds": seconds,
    }


def run(args: argparse.Namespace, method: Method, items: Sequence[Item]) -> bool:
    """Measure a method on every slice that its file lacks; return whether it worked on all."""
    file, worked = method.file(args.out), True
    rows: list[Row] = json.loads(file.read_text()) if file.is_file() else []
    for item in items:
        key = {"name": item.name, "data": item.data, "made_of": method.made_of}
        if any(key.items() <= row.items() for row in rows):
            continue
        try:
            row = measure(method, item, picture_of(args.out, method.name, item))
        except InputError as error:
            print(f"{method.name}, {item.name}: {error}", file=sys.stderr, flush=True)
            worked = False
            continue
        same = {"name": item.name, "data": item.data}  # a method has one result for a slice
        rows = [old for old in rows if not same.items() <= old.items()]
        rows.append({"method": method.name, **key, "group": item.group, "rate": item.rate, **row})
        with atomic_write(file) as part:
            part.write_text(json.dumps(rows, indent=1))
        print(f"{method.name}, {item.name}: {row['psnr']:.2f} dB, {row['seconds']:.0f} s", flush=True)
    return worked


def picture_of(out: Path, method: str, item: Item) -> Path:
    """Return where the magnitude of a method is."""
    return out / "images" / f"{item.name}_{slug(method)}.npy"


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return the means as Markdown; the best PSNR of a line is bold. Methods that lack slices do not compete."""
    lines = [f"| PSNR / dB (SSIM fg) | slices | {' | '.join(names)} |", "|:--|--:|" + "--:|" * len(names)]
    for group, rate in sorted({(row["group"], row["rate"]) for row in rows}):
        of = {n: [r for r in rows if (r["method"], r["group"], r["rate"]) == (n, group, rate)] for n in names}
        number = max(map(len, of.values()))
        means = {n: statistics.fmean(r["psnr"] for r in found) for n, found in of.items() if found}
        best = max((mean for n, mean in means.items() if len(of[n]) == number), default=0.0)
        cells = []
        for name, found in of.items():
            if not found:
                cells.append("not run")
                continue
            similarity = f"{statistics.fmean(r['ssim'] for r in found):.3f}".removeprefix("0")
            whole = len(found) == number
            bold = "**" if whole and means[name] == best else ""
            covered = [r["covered"] for r in found if r["covered"] is not None]
            cells.append(
                f"{bold}{means[name]:.2f}{bold} ({similarity})"
                + (f", covers {100 * statistics.fmean(covered):.0f} %" if covered else "")
                + ("" if whole else f", {len(found)} of {number} slices")
            )
        lines.append(f"| {group}, {rate}x | {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--heads", nargs="+", type=Path, required=True, help="folders of magnitudes; see docs/data.md")
    parser.add_argument("--raw", type=Path, help="folder of raw_multicoil and ulf_0055T")
    parser.add_argument("--pelvis", type=Path, help="folder of magnitudes")
    parser.add_argument("--coil-maps", type=Path, help="MATLAB file of measured coil sensitivities")
    parser.add_argument("--method", nargs="+", action="append", default=[], metavar="NAME OPTION")
    parser.add_argument("--draw", nargs="+", metavar="NAME", help="draw these methods, and write their table")
    args = parser.parse_args(argv)
    specified = [["zero-filled", "recon=zero_filled"], *args.method]
    if len({slug(name) for name, *_ in specified}) < len(specified):
        parser.error("the names of methods differ in letters or digits, and none is zero-filled")
    try:
        methods = [] if args.draw else [method_of(name, options) for name, *options in specified]
        items = list(items_of(args))
    except InputError as error:
        parser.error(str(error))
    worked = [run(args, method, items) for method in methods]
    known = {(item.name, item.data) for item in items}
    found = [row for file in sorted(args.out.glob("*.json")) for row in json.loads(file.read_text())]
    rows = [row for row in found if (row["name"], row["data"]) in known]
    names = args.draw or list(dict.fromkeys(row["method"] for row in rows))
    drawn = [item for item in items if item.group == "heads" and item.volume.name in DRAWN] if args.draw else []
    for item in drawn:
        lacking = set(names) - {row["method"] for row in rows if row["name"] == item.name}
        if lacking:
            parser.error(f"{', '.join(sorted(lacking))} was not run on {item.name} of these data")
    print(table(rows, names))
    if drawn:
        panels = []
        for item in drawn:
            images = {f"{name}, {item.rate}x": np.load(picture_of(args.out, name, item)) for name in names}
            (row,) = compared(Scan(item.read(), ""), images)
            half = (len(row) + 1) // 2
            panels += [row[:half], row[half:]]
        draw(panels, args.out / "comparison.webp", NOTE)
    sys.exit(0 if all(worked) else 1)


if __name__ == "__main__":
    main()
