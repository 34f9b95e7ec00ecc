"""The figures of the article and of the method pages: ``make figures``.

``python benchmarks/article_figures.py FOLDER --demo runs/demo --only NAME ...`` writes ``FOLDER/NAME.webp``. Phantoms
need nothing. The networks are those of ``make demo``, and two that ``make figures`` trains. Figures of scans read
``SPINWARP_SHARED`` and are left out without it. ``FOLDER/local`` gets what may be looked at but not published: the
licence of the pelvis is not confirmed.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import raw_scans
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from matplotlib import pyplot as plt
from numpy.random import RandomState
from scipy.ndimage import label
from torch import Tensor

from spinwarp.acquisition import Acquisition, Example, Reconstruction
from spinwarp.cli.app import conf_folder
from spinwarp.coils import low_resolution_maps, root_sum_of_squares
from spinwarp.data.raw import open_measurement
from spinwarp.data.simulation import acquire, loop_coil_maps, smooth_phase
from spinwarp.data.undersample import Undersample
from spinwarp.fourier import ifftc
from spinwarp.metrics import psnr
from spinwarp.operators import finite_difference
from spinwarp.recon import ZeroFilled

SHARED = Path(os.environ.get("SPINWARP_SHARED", "none"))
BRAIN = "scanner data, 7 coils (lab-midas/ismrm-moco-workshop, MIT)"
ANIMAL = "scanner data, 1 coil, a small animal (MRIRecoTutorial, MIT)"
PELVIS = "simulated from a magnitude (PROSTATE-MRI, TCIA): do not publish"
PHANTOM = "phantom, 6 coils"
ZERO_FILLED, TV, PRETRAINED = ("recon=zero_filled",), ("recon=tv",), ("recon=pretrained",)
PRIOR = ("recon=posterior", "recon.n_samples=4")
GENERAL = {"zero-filled": ZERO_FILLED, "total variation": TV, "pretrained": PRETRAINED}
WINDOW = 0.65  # top of the grey scale, relative to the largest value of the target


@dataclass(frozen=True, eq=False)
class Scan:
    """A slice measured whole, and what to write below its pictures."""

    example: Example
    source: str

    @property
    def target(self) -> np.ndarray:
        """The reference image ``(h, w)``."""
        assert self.example.target is not None
        return self.example.target[0].numpy()

    def measured(self, mask: str) -> Acquisition:
        """Undersample it; the seed is fixed."""
        undersample = Undersample(instantiate(configured(f"mask={mask}").mask, _convert_="all"), low_resolution_maps)
        return undersample(self.example, RandomState(0)).acquisition


def configured(*options: str) -> Any:
    """Return the configuration of ``evaluate.py`` with these options."""
    with initialize_config_dir(str(conf_folder()), version_base=None):
        return compose("evaluate", list(options))


@cache
def reconstruct(scan: Scan, mask: str, *options: str) -> Reconstruction:
    """Undersample a scan and reconstruct it by the method of these options, as ``evaluate.py`` would."""
    config = configured(f"mask={mask}", *options)
    method = instantiate(config.recon)
    if config.uncertainty:
        method = instantiate(config.uncertainty)(method, instantiate(config.mask, _convert_="all"))
    result: Reconstruction = method(scan.measured(mask), generator=torch.Generator().manual_seed(0))
    return result


def images(scan: Scan, mask: str, methods: Mapping[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Return the magnitude ``(h, w)`` of each method's reconstruction."""
    return {name: reconstruct(scan, mask, *options).image.abs()[0].numpy() for name, options in methods.items()}


def scan_of(kspace: Tensor, source: str) -> Scan:
    """Make a scan of k-space ``(coil, h, w)`` that was measured whole; the root sum of squares is the reference."""
    target = root_sum_of_squares(ifftc(kspace[None]))
    mask = torch.ones(1, 1, 1, kspace.shape[-1], dtype=torch.bool)
    return Scan(Example(Acquisition(kspace[None], mask), target, target.max()[None], (source,), (0,)), source)


@cache
def phantom(data: str) -> Scan:
    """A slice of the first test volume of ``data=phantom``, which the networks of the demo have not seen."""
    options = (f"data.source.files.root={data}", *(f"data.source.files.n_{split}=1" for split in ("train", "val")))
    source = instantiate(
        configured("data=phantom", *options, "data.source.files.n_test=1").data.source, _convert_="all"
    )
    source.prepare()
    return Scan(source.read(source.volumes("test")[0], 4), PHANTOM)


def shared(path: str) -> Path:
    """Return a file or folder of the real scans."""
    if not (SHARED / path).exists():
        raise FileNotFoundError(f"there is no {SHARED / path}; SPINWARP_SHARED names the folder of real scans")
    return SHARED / path


@cache
def brain() -> Scan:
    """A raw brain at 3 T with seven coils; the nose is up."""
    return scan_of(raw_scans.brain(shared("data")), BRAIN)


@cache
def animal() -> Scan:
    """The middle slice of a small animal at 1 T."""
    measured = open_measurement(shared("data/raw_vendor/bruker/brukerfileCart"))
    return scan_of(measured.read(measured.n_slices // 2).kspace[0], ANIMAL)


@cache
def pelvis() -> Scan:
    """A magnitude slice of a pelvis with simulated coils, phase and noise."""
    import nibabel

    path = next(shared("data/pelvis").rglob("*.nii*"))
    volume = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    magnitude = np.rot90(volume[..., volume.shape[-1] // 2])[::2, ::2].copy()
    rng = RandomState(0)
    h, w = magnitude.shape
    whole = acquire(
        magnitude * np.exp(1j * smooth_phase((h, w), rng)), loop_coil_maps(8, (h, w), rng),
        noise_std=0.01 * magnitude.max(), rng=rng,
    )  # fmt: skip
    return scan_of(torch.from_numpy(whole), PELVIS)


def head_of(target: np.ndarray) -> tuple[slice, slice]:
    """Return the box around the object."""
    parts, _ = label(target > 0.08 * target.max())
    sizes = np.bincount(parts.ravel(), parts.ravel() > 0)  # the air counts as none
    inside = np.argwhere((sizes > 0.01 * sizes.sum())[parts])  # without what wraps around the edge
    (top, left), (bottom, right) = np.maximum(inside.min(0) - 4, 0), inside.max(0) + 5
    return slice(top, bottom), slice(left, right)


Panel = tuple[str, np.ndarray, float]  # its title, its values, and the value that is drawn white


def draw(rows: Iterable[Iterable[Panel]], path: Path, note: str) -> None:
    """Write rows of pictures on black, those of a row of one size, with a line below them."""
    panels = [list(row) for row in rows]
    columns = max(len(row) for row in panels)
    lines = max(title.count("\n") for row in panels for title, _, _ in row) + 1
    side, above = 11.0 / columns, 0.06 + 0.17 * lines
    heights = [side * row[0][1].shape[0] / row[0][1].shape[1] for row in panels]
    total = sum(heights) + len(panels) * above + 0.26
    figure = plt.figure(figsize=(11.0, total), facecolor="black")
    bottom = total
    for row, height in zip(panels, heights, strict=True):
        bottom -= height + above
        for j, (title, values, top) in enumerate(row):
            axes = figure.add_axes((j / columns + 0.003, bottom / total, 1 / columns - 0.006, height / total))
            axes.imshow(values, cmap="gray", vmin=0, vmax=top, aspect="auto", interpolation="lanczos")
            axes.set_title(title, color="white", fontsize=9, pad=3)
            axes.axis("off")
    figure.text(0.005, 0.04 / total, note, color="0.7", fontsize=10.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="webp", dpi=110, facecolor="black", pil_kwargs={"quality": 82, "method": 6})
    plt.close(figure)
    print(f"{path} ({path.stat().st_size / 1000:.0f} kB)", flush=True)


def compared(scan: Scan, images: Mapping[str, np.ndarray], errors: float | None = None) -> list[list[Panel]]:
    """Return the target and images with their PSNR and, magnified so many times, a row of their errors."""
    box, top = head_of(scan.target), WINDOW * float(scan.target.max())
    truth, limit = torch.from_numpy(scan.target)[None], scan.example.data_range
    first = [("fully sampled\n", scan.target[box], top)]
    for name, values in images.items():
        first.append((f"{name}\n{float(psnr(torch.from_numpy(values)[None], truth, limit)):.1f} dB", values[box], top))
    if errors is None:
        return [first]
    second = [(f"error x {errors:g}", errors * np.abs(values - scan.target)[box], top) for values in images.values()]
    return [first, [("", np.zeros_like(scan.target[box]), 1.0), *second]]


def undersampling(args: Any) -> list[list[Panel]]:
    """Whole against undersampled: k-space, mask, image."""
    scan = phantom(args.data)
    energies = [
        root_sum_of_squares(acquisition.kspace)[0].numpy()
        for acquisition in (scan.example.acquisition, scan.measured("equispaced_4x"))
    ]
    whole, part = (np.log1p(1e3 * energy / energies[0].max()) for energy in energies)
    top, height = WINDOW * float(scan.target.max()), float(whole.max())
    aliased = images(scan, "equispaced_4x", {"": ZERO_FILLED})[""]
    return [
        [
            ("all of k-space", whole, height), ("its image", scan.target, top),
            ("every fourth line and the centre", part, height), ("its image", aliased, top),
        ]
    ]  # fmt: skip


def edge_map(args: Any) -> list[list[Panel]]:
    """The edge map, whose sum is the total variation."""
    scan = phantom(args.data)
    found = images(scan, "equispaced_4x", {"zero-filled": ZERO_FILLED, "total variation": TV})
    row: list[Panel] = []
    for name, values in {"fully sampled": scan.target, **found}.items():
        edges = finite_difference()(torch.from_numpy(values)[None]).abs().square().sum(1).sqrt()[0].numpy()
        total = edges.sum() / scan.target.max() / 1e3
        row += [
            (name, values, WINDOW * scan.target.max()),
            (f"edges, sum {total:.2f} thousand", edges, 0.3 * scan.target.max()),
        ]
    return [row]


def tv_weight(args: Any) -> list[list[Panel]]:
    """Total variation with too small a weight, the chosen one, and too large a one."""
    methods = {
        "zero-filled": ZERO_FILLED, "weight .0003": (*TV, "recon.weight=0.0003"), "chosen from the data": TV,
        "weight .03": (*TV, "recon.weight=0.03"),
    }  # fmt: skip
    scan = phantom(args.data)
    return compared(scan, images(scan, "equispaced_4x", methods), errors=4)


def demo(args: Any, network: str) -> tuple[str, ...]:
    """Return the method of a network of the demo, ``unet`` or ``varnet``, or of one that is trained for figures."""
    path = args.demo / f"train_{network}" / "checkpoints" / "best.ckpt"
    if not path.is_file():
        hint = "make figures trains it" if network in ("naive_cnn", "vae") else "run make demo first"
        raise FileNotFoundError(f"there is no {path}; {hint}, or name its folder with --demo")
    return "recon=latent" if network == "vae" else "recon=checkpoint", f'recon.path="{path}"'


def unet_tv(args: Any) -> list[list[Panel]]:
    """U-Net and total variation at 4x and 8x."""
    scan, rows = phantom(args.data), []
    methods = {"zero-filled": ZERO_FILLED, "U-Net": demo(args, "unet"), "total variation": TV}
    for rate in (4, 8):
        of_rate = {f"{name}, {rate}x": options for name, options in methods.items()}
        rows += compared(scan, images(scan, f"equispaced_{rate}x", of_rate))
    return rows


def varnet(args: Any) -> list[list[Panel]]:
    """VarNet and the network that comes with spinwarp beside the truth."""
    scan = phantom(args.data)
    methods = {"zero-filled": ZERO_FILLED, "VarNet": demo(args, "varnet"), "pretrained": PRETRAINED}
    return compared(scan, images(scan, "equispaced_4x", methods), errors=5)


def other(scan: Scan) -> list[list[Panel]]:
    """A prior and a network of heads on another anatomy."""
    return compared(scan, images(scan, "random_4x", {**GENERAL, "posterior mean": PRIOR}), errors=4)


def scanner(_: Any) -> list[list[Panel]]:
    """A raw brain at 4x and 8x."""
    rows = []
    for rate in (4, 8):
        of_rate = {f"{name}, {rate}x": options for name, options in GENERAL.items()}
        rows += compared(brain(), images(brain(), f"equispaced_{rate}x", of_rate))
    return rows


def untrained(args: Any) -> list[list[Panel]]:
    """ConvDecoder, U-Net and total variation, with a zoom."""
    scan = phantom(args.data)
    methods = {"U-Net": demo(args, "unet"), "total variation": TV, "ConvDecoder": ("recon=convdecoder",)}
    row = compared(scan, images(scan, "equispaced_4x", methods))[0]
    h, w = row[0][1].shape
    zoom = slice(h // 5, h // 5 + h * 2 // 5), slice(w // 4, w // 4 + w * 2 // 5)
    return [row, [("", values[zoom], top) for _, values, top in row]]


def uncertainty(args: Any) -> list[list[Panel]]:
    """The error beside two predictions of it: draws of a posterior, and SURE."""
    scan = phantom(args.data)
    box, top = head_of(scan.target), WINDOW * float(scan.target.max())
    rows = []
    sure = (*TV, "recon.weight=0.003", "uncertainty=sure")
    for name, options in (("posterior mean", PRIOR), ("TV with SURE", sure)):
        result = reconstruct(scan, "random_4x", *options)
        assert result.std is not None
        values, std = result.image.abs()[0].numpy(), result.std[0].numpy()
        error = np.abs(values - scan.target)
        outside = ((error > 1.645 * std) & (scan.target > 0.05 * scan.target.max())).astype(float)
        rows.append(
            [
                (name, values[box], top), ("error x 5", 5 * error[box], top), ("predicted std x 5", 5 * std[box], top),
                ("outside the 90 % interval,\nof the foreground", outside[box], 1.0),
            ]
        )  # fmt: skip
    return rows


def method(name: str, *options: str, mask: str = "equispaced_4x") -> Callable[[Any], list[list[Panel]]]:
    """Return what draws one method beside zero-filling on the phantom; ``demo=`` names one of the demo's networks."""

    def made(args: Any) -> list[list[Panel]]:
        scan = phantom(args.data)
        chosen = demo(args, options[0].removeprefix("demo=")) if options[0].startswith("demo=") else options
        row, below = compared(scan, images(scan, mask, {"zero-filled": ZERO_FILLED, name: chosen}), errors=5)
        return [[*row, *below[1:]]]

    return made


def latent(args: Any) -> list[list[Panel]]:
    """The image of a generator, and what it gains by leaving the generator's range."""
    scan, vae = phantom(args.data), demo(args, "vae")
    methods = {"zero-filled": ZERO_FILLED, "VAE": vae, "VAE and a sparse deviation": (*vae, "recon.deviation=0.01")}
    return compared(scan, images(scan, "equispaced_4x", methods), errors=4)


def pocs(args: Any) -> list[list[Panel]]:
    """Five eighths of the lines, the rest zero or filled."""
    scan = phantom(args.data)
    whole = scan.example.acquisition
    mask = torch.arange(whole.kspace.shape[-1]) < 5 * whole.kspace.shape[-1] // 8
    part = Acquisition(whole.kspace * mask, mask.view(1, 1, 1, -1))
    methods = {"zero-filled": ZeroFilled(), "POCS": ZeroFilled(pocs=20)}
    found = {name: method(part).image.abs()[0].numpy() for name, method in methods.items()}
    row, below = compared(scan, found, errors=10)
    return [[*row, *below[1:]]]


def zero_filled(args: Any) -> list[list[Panel]]:
    """Zero-filling with regular and with random lines."""
    scan = phantom(args.data)
    masks = {"every fourth line": "equispaced_4x", "random lines": "random_4x", "Poisson disc": "poisson_4x"}
    return compared(scan, {name: images(scan, mask, {"": ZERO_FILLED})[""] for name, mask in masks.items()}, errors=2)


FIGURES: dict[str, tuple[Callable[[Any], list[list[Panel]]], str]] = {
    "undersampling": (undersampling, PHANTOM),
    "edge_map": (edge_map, f"{PHANTOM}, 4x; sums in units of the brightest pixel"),
    "tv_weight": (tv_weight, f"{PHANTOM}, 4x"),
    "unet_tv": (unet_tv, f"{PHANTOM}; the U-Net of make demo, trained for minutes at 4x"),
    "varnet": (varnet, f"{PHANTOM}, 4x; the VarNet of make demo, trained for minutes"),
    "untrained": (untrained, f"{PHANTOM}, 4x; below, a part of each"),
    "uncertainty": (uncertainty, f"{PHANTOM}, random lines, 4x"),
    "other_anatomy": (lambda _: other(animal()), f"{ANIMAL}, random lines, 4x; network and prior have seen heads only"),
    "scanner": (scanner, BRAIN),
    "local/pelvis": (lambda _: other(pelvis()), f"{PELVIS}; 8 coils, 4x"),
    "methods/zero_filled": (zero_filled, f"{PHANTOM}, 4x"),
    "methods/pocs": (pocs, f"{PHANTOM}, smooth phase; partial Fourier 5/8, 20 iterations"),
    "methods/cg_sense": (method("CG-SENSE", "recon=cg_sense"), f"{PHANTOM}, 4x"),
    "methods/tv": (method("total variation", *TV), f"{PHANTOM}, 4x"),
    "methods/l1_image": (method("sparse image", "recon=l1_image"), f"{PHANTOM}, 4x"),
    "methods/l1_wavelet": (method("wavelets", "recon=l1_wavelet"), f"{PHANTOM}, 4x"),
    "methods/naive_cnn": (
        method("naive CNN", "demo=naive_cnn"),
        f"{PHANTOM}, 4x; 4 layers of 16 channels, trained for two minutes",
    ),
    "methods/latent": (latent, f"{PHANTOM}, 4x; a VAE trained for five minutes, on 192 slices"),
    "methods/unet": (method("U-Net", "demo=unet"), f"{PHANTOM}, 4x; make demo"),
    "methods/varnet": (method("VarNet", "demo=varnet"), f"{PHANTOM}, 4x; make demo"),
    "methods/unrolled": (method("pretrained", *PRETRAINED), f"{PHANTOM}, 4x"),
    "methods/score": (
        method("posterior mean", *PRIOR, mask="random_4x"),
        f"{PHANTOM}, random lines, 4x; pretrained:heads_score, 4 draws",
    ),
    "methods/convdecoder": (method("ConvDecoder", "recon=convdecoder"), f"{PHANTOM}, 4x"),
    "methods/deep_decoder": (method("Deep Decoder", "recon=deep_decoder"), f"{PHANTOM}, 4x"),
    "methods/dip": (method("deep image prior", "recon=dip"), f"{PHANTOM}, 4x"),
}


def main() -> None:
    """Draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of make demo")
    parser.add_argument("--data", default="runs/figures/phantom", help="where the phantoms go")
    parser.add_argument("--only", nargs="*", default=list(FIGURES), choices=list(FIGURES), metavar="NAME")
    args = parser.parse_args()
    for name in args.only:
        make, note = FIGURES[name]
        try:
            draw(make(args), args.folder / f"{name}.webp", note)
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}", flush=True)


if __name__ == "__main__":
    main()
