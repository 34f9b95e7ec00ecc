r"""Train the network of ``recon=pretrained`` for some minutes, as fast as a GPU can.

    python benchmarks/train_heads.py heads.safetensors --heads HEADS CHENG HKU --coil-maps xGT.mat \
        --start pretrained:heads --minutes 10

Network, simulation, masks and loss are those of ``experiment=pretrained_varnet``. A step of this network is twelve
thousand small operations, and a GPU waits for the host that starts them. Here a step is recorded once for each of a few
shapes and replayed as a whole (CUDA graphs): on an H200, 25 steps of 11 scans a second instead of 3.5 of 16. Other
processes make the batches, coil maps included. Whenever the next one is late, an earlier batch is used again. The
shapes have 1, 2, 4, 8 or 12 coils and at most 256 columns, and points sample whole images. There is no moving average.
Without a GPU the same steps run one operation at a time.

``--start`` names a denoiser or an unrolled network, which may have fewer channels. The learning rate falls to zero at
the end of the time. Validation is ``python benchmarks/comparison.py`` or ``evaluate.py`` on the file. The last 166
seconds of the training of the shipped weights ran on an earlier form of this script; this form has run on CPUs alone.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from heads_batches import Batches, Shape, served, work
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from spinwarp import __version__
from spinwarp.acquisition import Acquisition
from spinwarp.cli.app import conf_folder
from spinwarp.errors import InputError
from spinwarp.models.loading import build_network, load_network
from spinwarp.models.residual_unet import BiasFreeDenoiser
from spinwarp.models.unrolled import UnrolledNet
from spinwarp.models.weights import write_safetensors
from spinwarp.models.widening import widen
from spinwarp.training.schedule import WarmupDecay

PIXELS = {"cuda": 130_000, "cpu": 22_000}  # of the images of a batch


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
    schedule = WarmupDecay(warmup=0.04, decay=0.96)
    begin, n_steps, n_items = time.monotonic(), 0, 0
    running: list[torch.cuda.Event] = []
    while (progress := (time.monotonic() - begin) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = rate * schedule(progress)
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


def started(description: dict[str, Any], start: str) -> UnrolledNet:
    """Build the network, and give it the weights of a denoiser or of an unrolled network."""
    net: UnrolledNet = build_network(description, ("spinwarp.models",))
    trained, _ = load_network(start)
    if not isinstance(trained, UnrolledNet | BiasFreeDenoiser):
        raise InputError(f"--start {start} is a {type(trained).__name__}; name a denoiser or an unrolled network")
    whole = isinstance(trained, UnrolledNet)
    try:
        widen(trained if whole else trained.get_submodule("network"), net if whole else net.regulariser)
    except InputError as error:
        raise InputError(f"--start {start} does not fit: {error}") from error
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
        if args.out.suffix != ".safetensors" or args.out.exists() or not os.access(args.out.resolve().parent, os.W_OK):
            raise InputError(
                f"OUT is a new file FOLDER/NAME.safetensors in a folder that can be written; got {args.out}"
            )
        if not (0.01 <= args.minutes < math.inf and 0 < args.rate < 1 and args.workers > 0 and 0 <= args.seed < 2**32):
            raise InputError(
                "--minutes is at least .01, --rate between 0 and 1, --workers at least 1 and --seed at least 0"
            )
        with initialize_config_dir(str(conf_folder()), version_base=None):
            config = compose("train", ["experiment=pretrained_varnet", "data.source.path="])
        config.data.source.path = [str(folder.resolve()) for folder in args.heads]
        config.data.source.coil_maps = args.coil_maps and str(args.coil_maps.resolve())
        source, mask = instantiate(config.data.source, _convert_="all"), instantiate(config.mask, _convert_="all")
        source.prepare()
        description: Any = OmegaConf.to_container(config.model.net, resolve=True)
        torch.manual_seed(args.seed)
        net = started(description, args.start)
        batches = Batches(source, mask, PIXELS[device], net.prepared)
    except InputError as error:
        parser.error(str(error))
    context = torch.multiprocessing.get_context("fork")  # before CUDA is used
    made = context.Queue(2 * args.workers)  # a batch has 10 MB on average
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
    mean, n_steps, n_items = torch.zeros((), device=device), 0, 0
    found = served(made, workers, args.seed, device == "cuda")
    for n_steps, n_items in train(step, found, args.rate, 60 * args.minutes):
        # the gradient of a loss that is not finite counts as zero
        mean = torch.where(step.value.isfinite(), mean.lerp(step.value, max(0.01, 1 / n_steps)), mean)
        now = time.monotonic()
        if now - said > 10:
            left = 60 * args.minutes - (now - begin)
            print(f"{n_steps} steps, {n_items} scans, loss {float(mean):.4f}, {left:.0f} s left", flush=True)
            said = now
    for worker in workers:
        worker.terminate()
    if not n_steps or not all(p.isfinite().all() for p in step.parameters):
        sys.exit("no weights to write: none, or some that are not finite; train longer, or with a lower --rate")
    state = {f"net.{name}": value.cpu() for name, value in net.state_dict().items()}
    volumes = sorted(volume.name for volume in source.volumes("train"))
    trained_on = {"dataset": source.name, "volumes": volumes, "patients": []}
    write_safetensors(
        args.out, {name: value.half() if value.ndim > 1 else value for name, value in state.items()},
        {"version": __version__, "name": "pretrained", "net": description, "trained_on": trained_on},
    )  # fmt: skip
    print(f"{n_steps} steps, {n_items} scans: {args.out}")


if __name__ == "__main__":
    try:
        main()
    except InputError as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
