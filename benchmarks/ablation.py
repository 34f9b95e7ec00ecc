r"""Which parts of an unrolled network pay: each added to a VarNet in turn, and each left out of the whole.

    python benchmarks/ablation.py data=simulated_heads 'data.source.path=[HEADS,CHENG]' \
        --out FOLDER --seconds 1200 --seeds 0 1 2 --real SCANS
    python benchmarks/ablation.py --out FOLDER --draw      # the table and the figure of what is there

All networks have about ``--weights`` weights, by their width, and all train for the same time on the
same data with the same masks (equispaced, 4x and 8x). With one thread on the CPU that is the processor time of the
process, because machines are shared; elsewhere it is the time of the clock. The learning rate follows the time. Then
the test split is measured at 4x and at 8x, and so are the whole scans of ``--real`` (a folder in the fastMRI layout,
such as ``spinwarp-convert`` writes). results.json grows with each training; the same command goes on where it stopped.

Table: mean over the seeds, and the standard error of the difference, which is paired by seed. The last row
has the network class of ``model=unrolled``, with zeros beyond the edges and the loss and learning rate of the others:
one network for all alternations, bias-free and told the noise level, with conjugate gradients and ESPIRiT maps.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from numpy.random import RandomState
from torch import nn

from spinwarp.acquisition import Example, center_crop
from spinwarp.cli.app import conf_folder
from spinwarp.data.module import Augmentation, FastMRIDataModule
from spinwarp.data.mraugment import MRAugment
from spinwarp.files import atomic_write
from spinwarp.losses import MixedLoss, MultiScaleLoss
from spinwarp.masks import EquispacedMask
from spinwarp.metrics.functional import psnr, ssim
from spinwarp.models.loading import build_network
from spinwarp.training.schedule import WarmupDecay
from spinwarp.training.supervised import EveryCascadeModule, SupervisedModule

N_CASCADES, POOLS = 6, 3
#: in the order in which they are added, each with the parts that it needs
PARTS: dict[str, tuple[str, ...]] = {
    "ESPIRiT maps": (),
    "residual blocks": (),
    "channel attention": ("residual blocks",),
    "history of features": ("residual blocks",),
    "image buffer": (),
    "prompts": ("residual blocks",),
    "conditioning": ("residual blocks",),
    "refined maps": (),
    "weighted data consistency": (),
    "momentum": (),
    "loss on every cascade": (),
    "multi-scale loss": (),
    "augmentation": (),
}
#: other data steps in the whole, in place of k-space gradients
STEPS = ("image gradient", "conjugate gradient", "ADMM")
#: the class of the network that comes with spinwarp, here from random weights
SHIPPED = "unrolled"
MODELS = "spinwarp.models"


def settings() -> dict[str, frozenset[str]]:
    """Return the parts of every network: the ladder from a VarNet to everything, then the whole without each."""
    made, so_far = {"varnet": frozenset[str]()}, frozenset[str]()
    for part in PARTS:
        so_far |= {part}
        made[f"+ {part}"] = so_far
    whole = frozenset(PARTS)
    for part in PARTS:
        made[f"all but {part}"] = whole - {part} - {other for other, needs in PARTS.items() if part in needs}
    for step in STEPS:
        made[f"all with {step}"] = whole | {step}
    return made | {SHIPPED: frozenset({SHIPPED})}


def description(parts: frozenset[str], channels: int) -> dict[str, Any]:
    """Describe the network of some parts."""

    def has(part: str) -> bool:
        return part in parts

    if has(SHIPPED):
        network = {"_target_": f"{MODELS}.residual_unet.ComplexResidualUNet", "_partial_": True, "blocks": 2}
        widths = [channels, 2 * channels, 4 * channels]
        whole = {"_target_": f"{MODELS}.unrolled.UnrolledNet", "smooth_phase": True}
        return whole | {"regulariser": network | {"widths": widths}}
    blocks, plain = f"{MODELS}.prompt_unet.PromptUNet", f"{MODELS}.norm_unet.PlainUNet"
    small = {"_target_": plain, "_partial_": True, "channels": 4, "pools": 2}  # one for every coil of every cascade
    unet: dict[str, Any] = {"_target_": plain, "_partial_": True, "channels": channels, "pools": POOLS}
    if has("residual blocks"):
        unet |= {
            "_target_": blocks,
            "attention": has("channel attention"),
            "n_prompts": 5 if has("prompts") else 0,
            "prompt_size": 32,
            "history": N_CASCADES - 1 if has("history of features") else 0,
        }
    names = {"image gradient": "ImageGradient", "conjugate gradient": "ConjugateGradient", "ADMM": "ADMM"}
    step = next((names[s] for s in STEPS if s in parts), "KSpaceGradient")
    consistency: dict[str, Any] = {
        "_target_": f"{MODELS}.data_steps.{step}",
        "_partial_": True,
        "momentum": has("momentum"),
    }
    if step in ("KSpaceGradient", "ImageGradient"):
        consistency["weighted"] = has("weighted data consistency")
    if step == "ADMM":
        consistency["iterations"] = 4
    maps = {
        "_target_": f"{MODELS}.map_net.MapNet",
        "_partial_": True,
        "espirit": has("ESPIRiT maps"),
        "refinement": small if has("refined maps") else None,
    }
    return {
        "_target_": f"{MODELS}.cascades.CascadeNet",
        "n_cascades": N_CASCADES,
        "buffer": has("image buffer"),
        "regulariser": unet,
        "consistency": consistency,
        "sensitivity": maps,
        "conditioning": {"_target_": f"{MODELS}.conditioning.ScanCode"} if has("conditioning") else None,
    }


def n_weights(network: dict[str, Any]) -> int:
    """Count the learned weights of a network, without making them."""
    with torch.device("meta"):
        made = build_network(network, (MODELS,))
    return sum(p.numel() for p in made.parameters() if p.requires_grad)


def of_size(parts: frozenset[str], weights: int) -> dict[str, Any]:
    """Describe the network of some parts whose number of weights is nearest to ``weights``."""
    guess = round(8 * (weights / n_weights(description(parts, 8))) ** 0.5)  # weights grow with the square of the width
    near = [description(parts, max(channels, 2)) for channels in (guess - 1, guess, guess + 1)]
    return min(near, key=lambda network: abs(n_weights(network) - weights))


def module_of(parts: frozenset[str], network: dict[str, Any], rate: float) -> SupervisedModule:
    """Make the network and its loss."""
    loss = MultiScaleLoss(0.5) if "multi-scale loss" in parts else MixedLoss(0.5)
    net = build_network(network, (MODELS,))
    kind = EveryCascadeModule if "loss on every cascade" in parts else SupervisedModule
    return kind(net, loss, lambda weights: torch.optim.Adam([p for p in weights if p.requires_grad], lr=rate))


def masks(rates: Sequence[int]) -> EquispacedMask:
    """Lines at one of several rates, with fastMRI's centre."""
    return EquispacedMask([{4: 0.08, 8: 0.04}[rate] for rate in rates], rates)


def augmented(then: Augmentation | None) -> Augmentation:
    """Return MRAugment with its largest probability from the start, because epochs are long, and another after it."""
    first = MRAugment(epochs=1)

    def both(example: Example, generator: RandomState) -> Example:
        example = first(example, generator)
        return example if then is None else then(example, generator)

    return both


def train(module: SupervisedModule, data: FastMRIDataModule, seconds: float, device: str) -> int:
    """Train for a time; return the number of steps."""
    clock: Callable[[], float] = time.process_time if device == "cpu" else time.perf_counter
    (optimizer,) = [module.make_optimizer(module.trained_parameters())]
    rate, schedule = optimizer.param_groups[0]["lr"], WarmupDecay()
    module.to(device).train()
    start = clock()
    for steps, example in enumerate(_endless(data)):
        progress = (clock() - start) / seconds
        if progress >= 1:
            return steps
        optimizer.param_groups[0]["lr"] = rate * schedule(progress)
        loss, _ = module.loss_and_magnitude(example.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.net.parameters(), 1.0)
        optimizer.step()
    raise AssertionError


def _endless(data: FastMRIDataModule) -> Iterator[Any]:
    loader = data.loader("train")
    for epoch in count():
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        yield from loader


@torch.no_grad()
def measure(net: nn.Module, data: FastMRIDataModule, device: str) -> dict[str, float]:
    """Measure the test split: mean over volumes of PSNR in dB and SSIM."""
    net.to(device).eval()
    volumes: dict[str, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {}
    for example in data.loader("test", evaluate=True):
        image = center_crop(net(example.acquisition.to(device)).abs().cpu(), tuple(example.target.shape[-2:]))
        for i, name in enumerate(example.volume):
            volumes.setdefault(name, []).append((image[i], example.target[i], example.data_range[i]))
    figures = []
    for slices in volumes.values():
        image, target, peak = (torch.stack(part) for part in zip(*slices, strict=True))
        figures.append((float(psnr(image, target, peak[0])), float(ssim(image, target, peak).mean())))
    decibels, similarities = zip(*figures, strict=True)
    return {"psnr": statistics.fmean(decibels), "ssim": statistics.fmean(similarities)}


def load_data(overrides: Sequence[str], seed: int, rates: Sequence[int], real: Path | None = None) -> FastMRIDataModule:
    """Make the data as train.py does, or those of a folder of whole scans."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", ["mask=none", *(overrides if real is None else ["data=folder"])])
    if real is not None:
        config.data.source.path = str(real)
    data: FastMRIDataModule = instantiate(config.data, mask=masks(rates), seed=seed)
    data.prepare_data()
    return data


def run(name: str, seed: int, options: argparse.Namespace, weights: int) -> dict[str, Any]:
    """Train and measure one network."""
    parts = settings()[name]
    network = of_size(parts, weights)
    torch.manual_seed(seed)
    module = module_of(parts, network, options.rate)
    data = load_data(options.overrides, seed, (4, 8))
    if "augmentation" in parts:
        data.augment = augmented(data.augment)
    steps = train(module, data, options.seconds, options.device)
    row: dict[str, Any] = {"name": name, "seed": seed, "weights": n_weights(network), "steps": steps, "net": network}
    for rate in (4, 8):
        for what, folder in (("test", None), ("real", options.real)):
            if what == "test" or folder is not None:
                data = load_data(options.overrides, 0, (rate,), folder)
                row[f"{what} {rate}x"] = measure(module.net, data, options.device)
    return row


def difference(rows: Sequence[dict[str, Any]], name: str, other: str, column: str) -> tuple[float, float]:
    """Return by how much one network is better than another, and its standard error, both paired by seed."""
    by_seed = [{r["seed"]: r[column]["psnr"] for r in rows if r["name"] == n and column in r} for n in (name, other)]
    gains = [by_seed[0][seed] - by_seed[1][seed] for seed in by_seed[0] if seed in by_seed[1]]
    if not gains:
        return math.nan, math.nan
    return statistics.fmean(gains), statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else math.nan


def comparisons() -> dict[str, tuple[str, str]]:
    """Return the two networks whose difference is the gain of a part: on the ladder, and in the whole."""
    names = list(settings())
    ladder = names[: len(PARTS) + 1]
    return {after.removeprefix("+ "): (after, before) for before, after in pairwise(ladder)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of all networks, and of the gain of each part."""
    columns = [c for c in ("test 4x", "test 8x", "real 4x", "real 8x") if any(c in row for row in rows)]
    lines = ["| network | weights / M | seeds | steps | " + " | ".join(f"{c} / dB" for c in columns) + " |"]
    lines.append("|:--|--:|--:|--:|" + "--:|" * len(columns))
    for name in settings():
        found = [row for row in rows if row["name"] == name]
        if found:
            cells = [_with_error([row[c]["psnr"] for row in found if c in row]) for c in columns]
            steps = round(statistics.fmean(row["steps"] for row in found))
            size = f"{found[0]['weights'] / 1e6:.2f} | {len(found)}"
            lines.append(f"| {name} | {size} | {steps} | " + " | ".join(cells) + " |")
    top = f"+ {list(PARTS)[-1]}"
    lines += ["", "| part | " + " | ".join(f"added, {c} | in the whole, {c}" for c in columns) + " |"]
    lines.append("|:--|" + "--:|--:|" * len(columns))
    for part, (after, before) in comparisons().items():
        pairs = [((after, before), (top, f"all but {part}")) for _ in columns]
        cells = [_gain(*difference(rows, *pair, c)) for c, both in zip(columns, pairs, strict=True) for pair in both]
        if any(cell != "" for cell in cells):
            lines.append(f"| {part} | " + " | ".join(cells) + " |")
    needed = [f"{part} needs {', '.join(needs)}" for part, needs in PARTS.items() if needs]
    lines += [
        "",
        "Gains in dB, with the standard error over the seeds. Leaving a part out also leaves out those that need it:",
    ]
    lines.append("; ".join(needed) + ".")
    return "\n".join(lines)


def _with_error(values: Sequence[float]) -> str:
    if not values:
        return ""
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{error}"


def _gain(mean: float, error: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:+.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")


def figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the gain of each part, with error bars: added in turn, and in the whole."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    columns = [c for c in ("test 4x", "test 8x", "real 4x", "real 8x") if any(c in row for row in rows)]
    top, parts = f"+ {list(PARTS)[-1]}", list(PARTS)
    drawn, axes = plt.subplots(1, len(columns), figsize=(2 + 3 * len(columns), 5), sharey=True, squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        for offset, label, color in ((-0.15, "added in turn", "tab:blue"), (0.15, "in the whole", "tab:orange")):
            for i, part in enumerate(parts):
                pair = comparisons()[part] if offset < 0 else (top, f"all but {part}")
                mean, error = difference(rows, *pair, column)
                if not math.isnan(mean):
                    axis.errorbar(
                        mean, i + offset, xerr=None if math.isnan(error) else error, fmt="o", color=color, capsize=3,
                        label=label if not axis.get_legend_handles_labels()[1].count(label) else None,
                    )  # fmt: skip
        axis.axvline(0, color="gray", linewidth=0.8)
        axis.set(title=column, xlabel="gain / dB")
    axes[0, 0].set_yticks(range(len(parts)), parts)
    axes[0, 0].invert_yaxis()
    drawn.tight_layout(rect=(0, 0, 1, 0.94))
    handles, labels = axes[0, -1].get_legend_handles_labels()
    if labels:  # one network alone has no gain
        drawn.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    drawn.savefig(path, dpi=120)
    plt.close(drawn)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json, table.md and gains.png")
    parser.add_argument("--seconds", type=float, default=1200.0, help="of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(settings()), metavar="NAME", default=list(settings()))
    parser.add_argument("--weights", type=int, default=1_000_000, help="of every network, about")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--real", type=Path, help="folder of whole scans in the fastMRI layout")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    parser.add_argument("overrides", nargs="*", help="of train.py, such as data=phantom")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    asked = {key: getattr(options, key) for key in ("seconds", "weights", "rate", "device", "overrides")}
    known = json.loads(path.read_text()) if path.exists() else {"settings": asked, "rows": []}
    if known["settings"] != asked and not options.draw:
        parser.error(f"{path} holds results of other settings ({known['settings']}); give another --out")
    done = {(row["name"], row["seed"]) for row in known["rows"]}
    todo = [(name, seed) for seed in options.seeds for name in options.only if (name, seed) not in done]
    for i, (name, seed) in enumerate([] if options.draw else todo, start=1):
        row = run(name, seed, options, options.weights)
        known["rows"].append(row)
        with atomic_write(path) as file:
            file.write_text(json.dumps(known, indent=1))
        figures = ", ".join(f"{key} {value['psnr']:.2f} dB" for key, value in row.items() if key[-1:] == "x")
        print(f"{i} of {len(todo)}: {name}, seed {seed}: {row['steps']} steps, {figures}", flush=True)
    text = table(known["rows"])
    (options.out / "table.md").write_text(text + "\n")
    figure(known["rows"], options.out / "gains.png")
    print(text)


if __name__ == "__main__":
    main()
