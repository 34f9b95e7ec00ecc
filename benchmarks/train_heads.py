r"""Train the network of ``recon=pretrained`` for some minutes, as fast as a GPU can: how the shipped weights were made.

    python benchmarks/train_heads.py heads.safetensors --heads HEADS CHENG HKU --coil-maps xGT.mat \
        --start pretrained:heads_score --minutes 10

The network is that of ``experiment=pretrained_varnet``, and so are the data, the masks and the loss. What differs from
``train.py`` is the way to the device. A step of this network is twelve thousand small operations, and starting them
takes longer than computing them. Here a step is recorded once for each of a few shapes and replayed as a whole (CUDA
graphs): on an H200, 25 steps a second instead of 3.5. Other processes make the batches, coil maps included. Whenever
the next one is late, an earlier batch is used again. Without a GPU the same steps run one operation at a time.

``--start`` names a denoiser or an unrolled network, which may have fewer channels. The learning rate falls to zero at
the end of the time. Validation is ``python benchmarks/comparison.py`` or ``evaluate.py`` on the file.
"""

import argparse
import os
import queue
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from numpy.random import RandomState
from omegaconf import OmegaConf
from torch import Tensor

from spinwarp import __version__
from spinwarp.acquisition import Acquisition, Example, acs_columns
from spinwarp.cli.app import conf_folder
from spinwarp.coils import espirit_maps, noise_level, with_smooth_phase
from spinwarp.data.heads import SimulatedHeads
from spinwarp.data.source import Volume
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import GaussianPlaneMask, Mask, MixedMask, PoissonDiscMask
from spinwarp.models.loading import build_network, load_network
from spinwarp.models.unrolled import UnrolledNet
from spinwarp.models.weights import write_safetensors
from spinwarp.models.widening import widen

ROWS = 64  # of a block; undersampling by lines does not couple rows
DRAWN = 3  # blocks of each simulated scan: simulating takes longer than cutting
KEPT = 256  # batches that may be used again
PIXELS = {"cuda": 130_000, "cpu": 22_000}  # of a batch, all coils together
POINTS = 0.7  # part of the whole images that are undersampled by points; the others by lines


@dataclass(frozen=True)
class Shape:
    """What the items of a batch have in common: coils, height, width, and whether they are whole images."""

    coils: int
    h: int
    w: int
    whole: bool = False

    def layout(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parts of a batch of ``n``; complex numbers are two real ones."""
        images = (n, self.coils, self.h, self.w, 2)
        mask = (n, 1, self.h if self.whole else 1, self.w)
        return {
            "kspace": images,
            "maps": images,
            "target": (n, self.h, self.w),
            "mask": mask,
            "noise": (n,),
            "range": (n,),
        }

    def views(self, flat: Tensor, n: int) -> dict[str, Tensor]:
        """Return the parts of a batch that lies in one piece of memory."""
        layout = self.layout(n)
        pieces = flat.split([prod(shape) for shape in layout.values()])
        return {name: piece.view(layout[name]) for name, piece in zip(layout, pieces, strict=True)}

    def empty(self, n: int) -> Tensor:
        """Return memory for a batch."""
        return torch.zeros(sum(prod(shape) for shape in self.layout(n).values()))


#: of the batches; each costs a second before training. One coil is the hardest.
WIDTHS = {
    1: (96, 113, 128, 160, 192, 216, 256), 2: (128, 160, 192, 224), 4: (96, 144, 192, 256),
    8: (128, 160, 192, 216), 12: (144, 181, 224),
}  # fmt: skip
OF_COILS = {1: 0.38, 2: 0.16, 4: 0.17, 8: 0.16, 12: 0.13}
WHOLE = ((1, 160, 160), (1, 224, 224), (4, 192, 160), (8, 128, 128), (8, 256, 192))
SHAPES = {Shape(c, ROWS, w): 0.76 * OF_COILS[c] / len(widths) for c, widths in WIDTHS.items() for w in widths}
SHAPES |= {Shape(*size, whole=True): 0.24 / len(WHOLE) for size in WHOLE}


class Batches:
    """Simulates batches.

    Parameters
    ----------
    source : of the scans.
    mask : the mixture of masks, of lines and of points.
    pixels : of a batch.
    """

    def __init__(self, source: SimulatedHeads, mask: MixedMask, pixels: int) -> None:
        self.source, self.pixels = source, pixels
        self.lines, self.points = (
            MixedMask(
                *zip(
                    *((m, p) for m, p in zip(mask.masks, mask.probabilities, strict=True) if of_points(m) is kind),
                    strict=True,
                )
            )
            for kind in (False, True)
        )
        self.of_size: dict[tuple[int, int], list[Volume]] = {}
        for volume in source.volumes("train"):
            for size in source.sizes(volume):
                self.of_size.setdefault(size, []).append(volume)
        self.shapes = [s for s in SHAPES if self.sizes(s)]
        if not self.shapes:
            raise InputError("no matrix of data.source.matrices fits these images; name images of at least 74 pixels")
        self.weights = np.array([SHAPES[s] for s in self.shapes]) / sum(SHAPES[s] for s in self.shapes)

    def sizes(self, shape: Shape) -> list[tuple[int, int]]:
        """Return the matrices of which a batch can be made."""
        return [size for size in self.of_size if size[1] == shape.w and (size[0] == shape.h or not shape.whole)]

    def number(self, shape: Shape) -> int:
        """Return how many items a batch of a shape has."""
        return max(2, round(self.pixels / (shape.h * shape.w)))

    def draw(self, rng: RandomState) -> tuple[Shape, Tensor]:
        """Return a batch."""
        shape = self.shapes[rng.choice(len(self.shapes), p=self.weights)]
        mask = self.points if shape.whole and rng.uniform() < POINTS else self.lines
        n = self.number(shape)
        flat = shape.empty(n)
        parts, i = shape.views(flat, n), 0
        while i < n:
            sizes = self.sizes(shape)
            size = sizes[rng.randint(len(sizes))]
            there = self.of_size[size]
            volume = there[rng.randint(len(there))]
            scan = self.source.draw(Volume(volume.name, volume.path, 1, (shape.coils, *size, *size)), 0, rng)
            for item in items(scan, shape, mask, rng):
                if i < n:
                    for name, value in item.items():
                        parts[name][i] = value
                    i += 1
        return shape, flat


def of_points(mask: Mask) -> bool:
    """Whether a mask samples points, and not whole lines."""
    return isinstance(mask, PoissonDiscMask | GaussianPlaneMask)


def items(scan: Example, shape: Shape, mask: Mask, rng: RandomState) -> Iterator[dict[str, Tensor]]:
    """Undersample the scan, or blocks of its rows, and estimate coil maps; as ``RowBlock`` and ``UnrolledNet`` do."""
    whole, target, h = scan.acquisition, scan.target, scan.acquisition.kspace.shape[-2]
    assert target is not None
    rows = ifftc(whole.kspace, (-2,))
    energy = rows.abs().square().sum((0, 1, 3)).numpy().astype(np.float64) + 1e-30
    # of the whole scan: cutting moves signal into the corners of k-space
    level = noise_level(whole.kspace, whole.mask)
    for _ in range(1 if shape.whole else DRAWN):
        middle = int(rng.choice(h, p=energy / energy.sum()))
        first = min(max(middle - shape.h // 2, 0), h - shape.h)
        block = fftc(rows[:, :, first : first + shape.h].contiguous(), (-2,))
        sampled = mask((shape.h, shape.w), rng)[0].reshape(1, 1, -1, shape.w) & whole.mask
        kspace, n_acs = block * sampled, acs_columns(sampled)
        if not n_acs.all():
            continue
        maps = with_smooth_phase(espirit_maps(kspace, sampled)[0], kspace, n_acs)
        yield {
            "kspace": torch.view_as_real(kspace[0]), "maps": torch.view_as_real(maps[0]),
            "target": target[0, first : first + shape.h], "mask": sampled[0].float(),
            "noise": (noise_level(kspace, sampled) if shape.whole else level)[0], "range": scan.data_range[0],
        }  # fmt: skip


def work(batches: Batches, seed: tuple[int, int], out: Any) -> None:
    """Make batches until the process is ended."""
    torch.set_num_threads(1)
    rng = RandomState(seed)
    while True:
        out.put(batches.draw(rng))


class Step:
    """Loss and gradients of a batch, replayed from a recording on a GPU.

    Parameters
    ----------
    net : whose gradients are computed; their norm is at most one.
    loss : on magnitudes.
    """

    def __init__(self, net: UnrolledNet, loss: torch.nn.Module) -> None:
        self.net, self.loss = net, loss
        self.parameters = list(net.parameters())
        self.device = self.parameters[0].device
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        self.value = torch.zeros((), device=self.device)
        self.recorded: dict[Shape, tuple[Tensor, torch.cuda.CUDAGraph]] = {}

    def compute(self, parts: dict[str, Tensor]) -> None:
        """Compute the loss of a batch into ``value``, and the gradients in place; nothing asks the host."""
        maps, kspace = (torch.view_as_complex(parts[name]) for name in ("maps", "kspace"))
        scan = Acquisition(kspace, parts["mask"] > 0.5, maps=maps, noise_std=parts["noise"])
        with torch.autocast(self.device.type, torch.bfloat16):
            image = self.net.alternate(scan)
        loss = self.loss(image.abs(), parts["target"], parts["range"])
        found = [torch.nan_to_num(g, 0.0, 0.0, 0.0) for g in torch.autograd.grad(loss, self.parameters)]
        factor = (1 / torch.stack([g.square().sum() for g in found]).sum().sqrt().clamp_min(1e-12)).clamp_max(1)
        for p, g in zip(self.parameters, found, strict=True):
            p.grad.copy_(g * factor)  # type: ignore[union-attr]
        self.value.copy_(loss.detach())

    def record(self, shape: Shape, n: int) -> None:
        """Record the step for batches of a shape."""
        flat = shape.empty(n).normal_().to(self.device)
        parts = shape.views(flat, n)
        for name in ("mask", "noise", "range"):
            parts[name].fill_(1)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is made at the first call may not be recorded
            self.compute(parts)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.recorded.values()))[1].pool() if self.recorded else None
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self.compute(parts)
        self.recorded[shape] = flat, graph

    def __call__(self, shape: Shape, flat: Tensor) -> None:
        """Compute loss and gradients."""
        if shape in self.recorded:
            memory, graph = self.recorded[shape]
            memory.copy_(flat, non_blocking=True)
            graph.replay()
        else:
            self.compute(shape.views(flat.to(self.device), len(flat) // shape.empty(1).numel()))


def train(
    step: Step, batches: Iterator[tuple[Shape, Tensor]], rate: float, seconds: float
) -> Iterator[tuple[int, int]]:
    """Take steps for a time, and return the number of steps and of items so far.

    The learning rate rises in the first 4 % of the time and falls to zero in the rest.
    """
    device = step.device.type
    optimizer = torch.optim.Adam(step.parameters, lr=rate, betas=(0.9, 0.99), fused=device == "cuda")
    begin, n_steps, n_items = time.monotonic(), 0, 0
    running: list[torch.cuda.Event] = []
    while (progress := (time.monotonic() - begin) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (progress + 1e-3) / 0.04) * (1 - progress)
        shape, flat = next(batches)
        step(shape, flat)
        optimizer.step()
        n_steps, n_items = n_steps + 1, n_items + len(flat) // shape.empty(1).numel()
        if device == "cuda":  # the host is at most two steps ahead
            running.append(torch.cuda.Event())
            running[-1].record()
            if len(running) > 2:
                running.pop(0).synchronize()
        yield n_steps, n_items


def served(made: Any, seed: int, again: bool) -> Iterator[tuple[Shape, Tensor]]:
    """Return batches as they are made. If one is late and ``again`` is true, return an earlier one.

    This is "data echoing" (Choi et al., "Faster neural network training with data echoing", 2019).
    """
    kept: list[tuple[Shape, Tensor]] = []
    rng = RandomState(seed)
    while True:
        try:
            batch = made.get(block=not again or len(kept) < KEPT // 4)
        except queue.Empty:
            yield kept[rng.randint(len(kept))]
            continue
        if again:
            batch = batch[0], batch[1].pin_memory()
            kept.append(batch)
            if len(kept) > KEPT:
                kept.pop(rng.randint(KEPT // 4))
        yield batch


def started(description: dict[str, Any], start: str) -> UnrolledNet:
    """Build the network, and give it the weights of a denoiser or of an unrolled network."""
    net: UnrolledNet = build_network(description, ("spinwarp.models",))
    trained, _ = load_network(start)
    if isinstance(trained, UnrolledNet):
        widen(trained, net)
    else:
        widen(trained.get_submodule("network"), net.regulariser)
    return net


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file of safetensors")
    parser.add_argument("--heads", nargs="+", type=Path, required=True, help="folders of magnitudes; see docs/data.md")
    parser.add_argument("--coil-maps", type=Path, help="MATLAB file of measured coil sensitivities")
    parser.add_argument("--start", default="pretrained:heads_score", help="denoiser or unrolled network to start from")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--rate", type=float, default=5e-4, help="highest learning rate")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="that make batches")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if args.out.suffix != ".safetensors" or args.minutes <= 0 or args.workers < 1:
            raise InputError("OUT ends in .safetensors, and --minutes and --workers are above 0")
        paths = ",".join(str(folder.resolve()) for folder in args.heads)
        maps = args.coil_maps.resolve() if args.coil_maps else "null"
        options = [f"data.source.path=[{paths}]", f"data.source.coil_maps={maps}"]
        with initialize_config_dir(str(conf_folder()), version_base=None):
            config = compose("train", ["experiment=pretrained_varnet", *options])
        source, mask = instantiate(config.data.source, _convert_="all"), instantiate(config.mask, _convert_="all")
        source.prepare()
        batches = Batches(source, mask, PIXELS[device])
        description: Any = OmegaConf.to_container(config.model.net, resolve=True)
        torch.manual_seed(args.seed)
        net = started(description, args.start)
    except InputError as error:
        parser.error(str(error))
    context = torch.multiprocessing.get_context("fork")  # before CUDA is used; the workers share what is read
    made = context.Queue(4 * args.workers)
    workers = [
        context.Process(target=work, args=(batches, (args.seed, i), made), daemon=True) for i in range(args.workers)
    ]
    for worker in workers:
        worker.start()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    step = Step(net.to(device).train(), instantiate(config.model.loss))
    if device == "cuda":
        for shape in batches.shapes:
            step.record(shape, batches.number(shape))
    said = begin = time.monotonic()
    mean = torch.zeros((), device=device)
    for n_steps, n_items in train(step, served(made, args.seed, device == "cuda"), args.rate, 60 * args.minutes):
        mean = mean.lerp(step.value, max(0.01, 1 / n_steps))
        now = time.monotonic()
        if now - said > 10:
            left = 60 * args.minutes - (now - begin)
            print(f"{n_steps} steps, {n_items} scans, loss {float(mean):.4f}, {left:.0f} s left", flush=True)
            said = now
    for worker in workers:
        worker.terminate()
    if not all(p.isfinite().all() for p in step.parameters):
        sys.exit("the weights are not finite, and nothing was written; train again with a lower --rate")
    state = {f"net.{name}": value.cpu() for name, value in net.state_dict().items()}
    volumes = sorted(volume.name for volume in source.volumes("train"))
    trained_on = {"dataset": source.name, "volumes": volumes, "patients": []}
    write_safetensors(
        args.out, {name: value.half() if value.ndim > 1 else value for name, value in state.items()},
        {"version": __version__, "name": "pretrained", "net": description, "trained_on": trained_on},
    )  # fmt: skip
    print(f"{n_steps} steps, {n_items} scans: {args.out}")


if __name__ == "__main__":
    main()
