r"""The methods side by side, on heads that no training saw and on pelves: a table and a figure.

    python benchmarks/comparison.py OUT --heads HEADS CHENG HKU --coil-maps xGT.mat --pelvis PELVIS \
        --method 'total variation' recon=tv --method ConvDecoder recon=convdecoder \
        --method VarNet maps=espirit recon=checkpoint recon.path=runs/varnet/checkpoints/best.ckpt \
        --method posterior recon=posterior --method pretrained recon=pretrained
    python benchmarks/comparison.py OUT --heads HEADS CHENG HKU --coil-maps xGT.mat \
        --draw zero-filled 'total variation' VarNet ConvDecoder posterior pretrained

Every twelfth of the test slices of ``data=simulated_heads``, by turns at 4x and 8x; and ``--pelvis``, six slices at
both (8 coils, 192x192). Equispaced lines with 8 % and 4 % central ones. PSNR in dB and SSIM in the foreground, means
over slices; for methods that draw samples also the part of the foreground inside their 90 % intervals.

``maps=`` names the coil maps that come with the data (``none``, ``low_resolution``, ``espirit``), for networks that
were trained with them. ``results.json`` grows with each slice; the same command goes on where it stopped, and measures
anew what had other options, weights or data. ``--draw`` writes the table and ``comparison.webp``: a head at 4x and one
at 8x. No pelvis is drawn; its licence is not confirmed.
"""

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from article_figures import Panel, Scan, compared, configured, draw
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from numpy.random import RandomState

from spinwarp.acquisition import Example
from spinwarp.cli.app import conf_folder
from spinwarp.data.undersample import MAPS, Undersample
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
FIGURE = (72, 108)  # of the test slices: two of Cheng, which may be published


def scans(args: argparse.Namespace) -> Iterator[tuple[str, int, int, Example]]:
    """Yield the set, the number of the slice, the acceleration and the slice, whole."""
    heads = source_of(args, f"[{','.join(map(str, args.heads))}]")
    volumes = heads.volumes("test")
    for i in range(0, len(volumes), 12):
        yield "heads", i, 8 if (i // 12) % 2 else 4, heads.read(volumes[i], 0)
    if args.pelvis:
        pelvis = source_of(args, str(args.pelvis), *PELVIS)
        for i, volume in enumerate(pelvis.volumes("test")):
            for rate in CENTRES:
                yield "pelvis", i, rate, pelvis.read(volume, 0)


def source_of(args: argparse.Namespace, path: str, *options: str) -> Any:
    """Return the simulated scans of the magnitudes in a folder."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        data = ["data=simulated_heads", f"data.source.path={path}", f"data.source.coil_maps={args.coil_maps}"]
        config = compose("train", ["model=unet", *data, *options])
    return instantiate(config.data.source, _convert_="all")


def measure(method: Any, maps: str, whole: Example, rate: int, seed: int, file: Path) -> dict[str, Any]:
    """Undersample and reconstruct a slice; keep the magnitude in a file."""
    undersample = Undersample(EquispacedMask([CENTRES[rate]], [rate]), MAPS[maps])
    example = undersample(whole, RandomState(seed))
    assert example.target is not None
    target, peak = example.target, example.data_range
    start = time.perf_counter()
    result = reconstruct_batch(method, example.acquisition, torch.Generator().manual_seed(0), list(example.volume))
    seconds = time.perf_counter() - start
    image = result.image.abs()
    similarity, pixels = ssim_in(foreground(target, peak), ssim_map(image, target, peak))
    inside = None
    if result.std is not None:
        inside = float(((image - target).abs() <= 1.6449 * result.std)[foreground(target, peak)].float().mean())
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, image[0].numpy())
    return {
        "scan": example.volume[0],
        "shape": list(example.acquisition.kspace.shape[1:]),
        "psnr": float(psnr(image, target, peak)),
        "ssim": float(similarity / pixels),
        "covered": inside,
        "seconds": seconds,
    }


def what_was_run(args: argparse.Namespace, options: Sequence[str], weights: str | None) -> str:
    """Name data, options and weights, so that a changed one is noticed."""
    content = hashlib.sha256(local_file(weights).read_bytes()).hexdigest()[:12] if weights else "no weights"
    return f"{[*map(str, args.heads)]} {args.coil_maps}: {' '.join(options)}: {content}"


def run(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Measure every method on every slice that is not in the rows."""
    methods = [("zero-filled", ["recon=zero_filled"]), *((name, options) for name, *options in args.method)]
    for name, options in methods:
        maps = next((o.removeprefix("maps=") for o in options if o.startswith("maps=")), "none")
        config = configured(*(o for o in options if not o.startswith("maps="))).recon
        method, run_as = instantiate(config), what_was_run(args, options, config.get("path"))
        rows[:] = [row for row in rows if row["method"] != name or row["run_as"] == run_as]
        done = {(row["set"], row["slice"], row["rate"]) for row in rows if row["method"] == name}
        for data, i, rate, whole in scans(args):
            if (data, i, rate) in done:
                continue
            row = {"method": name, "run_as": run_as, "set": data, "slice": i, "rate": rate}
            row |= measure(method, maps, whole, rate, i, file_of(args, data, i, rate, name))
            rows.append(row)
            with atomic_write(args.out / "results.json") as part:
                part.write_text(json.dumps(rows, indent=1))
            print(f"{name}, {data} {i}, {rate}x: {row['psnr']:.2f} dB, {row['seconds']:.0f} s", flush=True)


def table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """Return the means as Markdown; the best PSNR of a line is bold."""
    lines = [f"| PSNR / dB (SSIM fg) | slices | {' | '.join(names)} |", "|:--|--:" + "|--:" * len(names) + "|"]
    for data, rate in sorted({(row["set"], row["rate"]) for row in rows}):
        cells: list[str] = []
        of = {n: [r for r in rows if (r["method"], r["set"], r["rate"]) == (n, data, rate)] for n in names}
        best = max((statistics.fmean(r["psnr"] for r in found) for found in of.values() if found), default=0.0)
        for found in of.values():
            if not found:
                cells.append("not run")
                continue
            mean = statistics.fmean(r["psnr"] for r in found)
            cell = f"**{mean:.2f}**" if mean == best else f"{mean:.2f}"
            similarity = f"{statistics.fmean(r['ssim'] for r in found):.3f}"
            cell += f" ({similarity.removeprefix('0')})"
            covered = [r["covered"] for r in found if r["covered"] is not None]
            cells.append(cell + (f", covers {100 * statistics.fmean(covered):.0f} %" if covered else ""))
        number = max(map(len, of.values()))
        lines.append(f"| {data}, {rate}x | {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(args: argparse.Namespace, names: list[str]) -> list[list[Panel]]:
    """Two rows of images."""
    made = []
    for data, i, rate, whole in scans(args):
        if data == "heads" and i in FIGURE:
            found = {f"{name}, {rate}x": np.load(file_of(args, data, i, rate, name)) for name in names}
            made += compared(Scan(whole, ""), found)
    return made


def file_of(args: argparse.Namespace, data: str, i: int, rate: int, name: str) -> Path:
    """Return where the magnitude of a method is kept."""
    folder: Path = args.out / "images"
    return folder / f"{data}_{i}_{rate}x_{name.replace(' ', '_')}.npy"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--heads", nargs="+", type=Path, required=True, help="folders of magnitudes; see docs/data.md")
    parser.add_argument("--pelvis", type=Path, help="folder of magnitudes")
    parser.add_argument("--coil-maps", default="null", help="MATLAB file of measured coil sensitivities")
    parser.add_argument("--method", nargs="+", action="append", default=[], metavar="NAME OPTION")
    parser.add_argument("--draw", nargs="+", metavar="NAME", help="draw these methods, and write their table")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.json"
    rows = json.loads(results.read_text()) if results.is_file() else []
    if args.draw is None:
        run(args, rows)
    names = args.draw or list(dict.fromkeys(row["method"] for row in rows))
    print(table(rows, names))
    if args.draw:
        draw(picture(args, names), args.out / "comparison.webp", "simulated scans of subjects that no training saw")


if __name__ == "__main__":
    main()
