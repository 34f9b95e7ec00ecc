"""Peak memory and time of a training step of a network (conf/model/varnet.yaml): 15 coils of 640x368 by default.

    OMP_NUM_THREADS=1 python benchmarks/memory.py                          # measure
    python benchmarks/memory.py --count                                    # count tensors, without computing anything
    OMP_NUM_THREADS=1 python benchmarks/memory.py --shape 15 160 96        # a sixteenth of the pixels
    python benchmarks/memory.py --count --model promptmr_plus              # with its five adjacent slices

A step is forward, SSIM loss, backward and Adam. Each configuration has a process of its own, on the CPU. Measured is
the peak of its resident memory less what it held once torch was imported, so that weights, data, gradients and
optimizer count, and the shortest step after the first. Counted is the largest sum of the tensors alive at one time,
on torch's fake tensors, which have shapes and no numbers: what every device has to hold, beside which a convolution
needs a workspace of its own. The activations grow with coils and pixels, weights and optimizer do not.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

CONFIGURATIONS = {
    "float32": {},
    "bf16": {"precision": "bf16"},
    "float32, checkpointed": {"checkpoint": True},
    "bf16, checkpointed (trainer=8gb)": {"precision": "bf16", "checkpoint": True},
    "float32, compiled": {"compile": True},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}


def measured(settings: dict) -> dict[str, float]:
    """Train a few steps; peak in GB and seconds."""
    before = _resident()
    step, seconds = training(settings), []
    for _ in range(1 + settings["steps"]):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"peak": _resident() - before, "seconds": min(seconds[1:])}


def counted(settings: dict) -> dict[str, float]:
    """Train a step of fake tensors; the peak in GB, and what the forward pass leaves for the backward pass."""
    import weakref

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Alive(TorchDispatchMode):
        """Sums the storages that operations make until they are freed."""

        def __init__(self) -> None:
            super().__init__()
            self.sizes: dict[int, int] = {}
            self.now = self.peak = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            out = operation(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    if storage._cdata not in self.sizes:
                        self.sizes[storage._cdata] = storage.nbytes()
                        self.now += storage.nbytes()
                        self.peak = max(self.peak, self.now)
                        weakref.finalize(storage, self.forget, storage._cdata)
            return out

        def forget(self, key: int) -> None:
            self.now -= self.sizes.pop(key)

    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        alive = stack.enter_context(Alive())
        step, kept = training(settings), []
        step(lambda: kept.append(alive.now))
        return {"peak": alive.peak / 1e9, "kept": kept[0] / 1e9}


def training(settings: dict) -> Callable[..., None]:
    """Build network, data and optimizer; return a function that takes a step and calls another before the backward."""
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from spinwarp.acquisition import Acquisition
    from spinwarp.cli.app import conf_folder
    from spinwarp.losses import SSIMLoss
    from spinwarp.models.loading import build_network

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed = compose(overrides=["+mask=none", "+callbacks=default", f"+model={settings['model']}"])
    description = OmegaConf.to_container(composed.model.net, resolve=True)
    description["checkpoint"] = settings.get("checkpoint", False)
    if settings["cascades"] is not None:
        description["n_cascades"] = settings["cascades"]
    torch.manual_seed(0)
    network = build_network(description, ("spinwarp.models",)).train()
    if settings.get("compile"):
        network.compile()
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=3e-4), SSIMLoss()
    for parameter in filter(lambda p: p.requires_grad, network.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its moments, which every step but the first finds there
    optimizer.zero_grad()
    coils, h, w = settings["shape"]
    center = round(0.08 * w)
    mask = torch.rand(1, 1, 1, w) < 0.18
    mask[..., (w - center + 1) // 2 :][..., :center] = True
    kspace = torch.randn(1, coils, h, w, dtype=torch.complex64) * mask
    maps = torch.ones_like(kspace) / coils**0.5 if description.get("sensitivity") is None else None
    alone = Acquisition(kspace, mask, maps, n_acs=torch.tensor([center]))
    beside = (alone,) * (description.get("n_adjacent", 1) - 1)
    acquisition = Acquisition(kspace, mask, maps, n_acs=torch.tensor([center]), adjacent=beside)
    target, data_range = torch.rand(1, h, w), torch.ones(1)

    def step(before_backward: Callable[[], object] = lambda: None) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.get("precision") == "bf16"):
            value = loss(network(acquisition).abs(), target, data_range)
        before_backward()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _resident() -> float:
    """Largest resident memory so far, in GB."""
    import spinwarp.recon.checkpoint  # noqa: F401  what is imported is in both figures

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def ask(name: str, options: argparse.Namespace) -> dict[str, float] | None:
    """Answer of a fresh process; None beyond the time limit."""
    settings = {
        **CONFIGURATIONS[name], "cascades": options.cascades, "shape": options.shape, "steps": options.steps,
        "count": options.count, "model": options.model,
    }  # fmt: skip
    command = [sys.executable, __file__, "--worker", json.dumps(settings)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        sys.exit(f"{settings}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Take every configuration and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[15, 640, 368], metavar=("COILS", "H", "W"))
    parser.add_argument("--model", default="varnet", help="of conf/model; one that can compute its cascades again")
    parser.add_argument("--cascades", type=int, help="the model's own by default")
    parser.add_argument("--steps", type=int, default=1, help="timed steps, after one that is not")
    parser.add_argument("--count", action="store_true", help="count tensors instead of measuring")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds of one configuration")
    parser.add_argument("--only", nargs="*", default=list(CONFIGURATIONS), choices=CONFIGURATIONS, metavar="NAME")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        settings = json.loads(options.worker)
        print(json.dumps(counted(settings) if settings["count"] else measured(settings)))
        return
    second = "kept for the backward pass / GB" if options.count else "step / s"
    shape = "x".join(map(str, options.shape))
    cascades = "" if options.cascades is None else f", {options.cascades} cascades"
    print(f"| {options.model}{cascades}, {shape} | peak / GB | ratio | {second} | ratio |\n|---|---|---|---|---|")
    reference: dict[str, float] = {}
    for name in options.only:
        if options.count and "compile" in CONFIGURATIONS[name]:
            continue  # a compiled graph allocates by itself
        result = ask(name, options)
        if result is None:
            print(f"| {name} | stopped after {options.timeout:.0f} s | | | |", flush=True)
            continue
        reference = reference or result
        cells = " | ".join(f"{value:.2f} | {value / reference[key]:.2f}" for key, value in result.items())
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
