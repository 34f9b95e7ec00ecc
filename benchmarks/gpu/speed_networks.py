"""Part three: the networks at full size, a training step and a forward pass, and fastMRI's VarNet beside ours."""

import json
import os
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from gpu.problems import acquisition, composed, learning, without_maps
from gpu.setting import FailedError, Rows, Setting, SkippedError, Values, tensor_cores
from gpu.timing import in_ms, measure
from spinwarp.losses import SSIMLoss
from spinwarp.models.loading import build_network, load_network
from spinwarp.operators import sense
from spinwarp.samplers import ChainNoise, Problem, chain_generators, geometric, pula

FULL, DRY = (15, 640, 368), (2, 64, 48)
#: overrides of the networks in a dry run
SMALL = {
    "varnet": (
        "net.n_cascades=1",
        "net.regulariser.channels=2",
        "net.regulariser.pools=1",
        "net.sensitivity.network.channels=2",
        "net.sensitivity.network.pools=1",
    ),
    "unet": ("net.channels=2", "net.pools=1"),
    "score": ("net.network.widths=[8,16]",),
    "score_edm": ("net.network.width=32", "net.network.multipliers=[1,1]"),
}
#: rounding of a training step: TF32 in convolutions and matrix products, autocast
PRECISIONS: dict[str, dict[str, bool]] = {
    "float32": {},
    "TF32": {"tf32": True},
    "bf16": {"tf32": True, "bf16": True},
}


def rows(setting: Setting) -> Rows:
    """The row that is asked for most comes first."""
    torch.backends.cudnn.benchmark = True
    return {
        **{f"VarNet step, {name}": partial(varnet, setting, **options) for name, options in PRECISIONS.items()},
        "VarNet step, bf16, checkpointed (trainer=8gb)": partial(
            varnet, setting, tf32=True, bf16=True, checkpoint=True
        ),
        "VarNet step, TF32, beside fastMRI's": partial(beside_fastmri, setting),
        "VarNet forward, TF32": partial(varnet, setting, tf32=True, forward=True),
        "VarNet forward, bf16": partial(varnet, setting, tf32=True, bf16=True, forward=True),
        "pretrained:heads with its coil maps, TF32": partial(pretrained, setting),
        "U-Net of 256 channels step, TF32": partial(unet, setting),
        "U-Net of 256 channels step, bf16": partial(unet, setting, bf16=True),
        **{
            f"{model} {what}, batch {batch}, bf16": partial(score, setting, model, batch, step)
            for model in ("score", "score_edm")
            for what, batch, step in (("step", 4, True), ("forward", 8, False))
        },
        "pula, a step of 8 chains with score_edm, bf16": partial(langevin, setting),
        "VarNet step, float32, checkpointed": partial(varnet, setting, checkpoint=True),
    }


def network(setting: Setting, model: str, *overrides: str) -> nn.Module:
    """Build the network of ``conf/model`` on the device."""
    smaller = SMALL[model] if setting.dry else ()
    config = composed("train", f"model={model}", *(f"model.{override}" for override in (*overrides, *smaller)))
    torch.manual_seed(0)
    built: nn.Module = build_network(OmegaConf.to_container(config.model.net, resolve=True), ("spinwarp.models",)).to(
        setting.device
    )
    return built


def shape(setting: Setting) -> tuple[int, int, int]:
    """Coils, height and width."""
    return DRY if setting.dry else FULL


def training_step(
    net: Callable[..., Tensor], parameters: list[Tensor], setting: Setting, bf16: bool
) -> Callable[[], None]:
    """Return a function that takes one step: forward, SSIM loss, backward, Adam."""
    coils, h, w = shape(setting)
    made, loss = acquisition(coils, h, w, device=setting.device), SSIMLoss()
    made = type(made)(made.kspace, made.mask, n_acs=made.n_acs)  # without maps: the network estimates its own
    target, data_range = torch.rand(1, h, w, device=setting.device), torch.ones(1, device=setting.device)
    with learning(*parameters) as optimizer:

        def step() -> None:
            with torch.autocast(torch.device(setting.device).type, torch.bfloat16, enabled=bf16):
                value = loss(net(made).abs(), target, data_range)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def varnet(
    setting: Setting, tf32: bool = False, bf16: bool = False, checkpoint: bool = False, forward: bool = False
) -> Values:
    """E2E-VarNet of 12 cascades of 18 channels."""
    tensor_cores(tf32)
    net = network(setting, "varnet", f"net.checkpoint={str(checkpoint).lower()}")
    if not forward:
        return measure(training_step(net, list(net.parameters()), setting, bf16), setting)
    coils, h, w = shape(setting)
    made = acquisition(coils, h, w, device=setting.device)

    def run() -> None:
        with torch.inference_mode(), torch.autocast(torch.device(setting.device).type, torch.bfloat16, enabled=bf16):
            net.eval()(made)

    return measure(run, setting)


def pretrained(setting: Setting) -> Values:
    """The network that comes with spinwarp, and ESPIRiT's maps, which it makes itself."""
    tensor_cores(True)
    net = load_network("pretrained:heads")[0].to(setting.device).eval()
    made = without_maps(acquisition(*shape(setting), device=setting.device))

    def run() -> None:
        with torch.inference_mode():
            net(made)

    return measure(run, setting)


def unet(setting: Setting, bf16: bool = False) -> Values:
    """Train the U-Net of fastMRI's leaderboard, on the same slices."""
    tensor_cores(True)
    net = network(setting, "unet", *() if setting.dry else ("net.channels=256",))
    return measure(training_step(net, list(net.parameters()), setting, bf16), setting)


def score(setting: Setting, model: str, batch: int, step: bool) -> Values:
    """A score network on images of 320x320: denoising, with or without learning from it."""
    tensor_cores(True)
    net = network(setting, model)
    size = (16, 16) if setting.dry else (320, 320)
    images = torch.randn(batch, *size, dtype=torch.complex64, device=setting.device)
    sigma = torch.full((batch,), 0.3, device=setting.device)
    autocast = partial(torch.autocast, torch.device(setting.device).type, torch.bfloat16)
    if not step:

        def forward() -> None:
            with torch.inference_mode(), autocast():
                net.eval()(images, sigma)

        return measure(forward, setting)
    with learning(*net.parameters()) as optimizer:

        def train() -> None:
            with autocast():
                loss = (net(images, sigma) - images).abs().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return measure(train, setting)


def langevin(setting: Setting) -> Values:
    """A step of the Langevin sampler: one call of the network and one solve with fifteen coils, for 8 chains."""
    tensor_cores(True)
    net = network(setting, "score_edm").eval().requires_grad_(False)
    coils, size = (2, (16, 16)) if setting.dry else (15, (320, 320))
    made = acquisition(coils, *size, device=setting.device)
    levels = 2 if setting.dry else 6
    noise = ChainNoise(chain_generators(range(8), setting.device))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return net(x, sigma)

    problem = Problem(denoise, sense(made), made.kspace, 0.02, size)

    def run() -> None:
        pula(problem, noise, schedule=geometric(1.0, 0.1, levels), denoise_last=False)

    return measure(run, setting, part=1 / levels)


def beside_fastmri(setting: Setting) -> Values:
    """Steps of ours and of fastMRI's VarNet in turn, in two processes on one device, and the ratio of neighbours."""
    if not setting.peer:
        raise SkippedError("FASTMRI names no Python that has fastmri (benchmarks/varnet.py says how to make one)")
    tensor_cores(True)
    net = network(setting, "varnet")
    step = training_step(net, list(net.parameters()), setting, bf16=False)
    coils, h, w = shape(setting)
    sizes = (1, 2, 2) if setting.dry else (12, 18, 8)  # cascades, channels, channels of the sensitivity network
    asked: dict[str, Any] = {"device": setting.device, "shape": [coils, h, w], "network": sizes}
    peer = subprocess.Popen(
        [setting.peer, str(Path(__file__).with_name("peer.py")), json.dumps(asked)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    try:
        answers = []
        for _ in range(2 if setting.dry else 6):
            ours = measure(step, setting, repeats=3, seconds=1.0)
            print("step", file=peer.stdin, flush=True)
            answer = peer.stdout.readline() if peer.stdout else ""
            if not answer:
                raise FailedError("the process of fastMRI ended; its reason is in speed_networks.log")
            answers.append((float(ours["ms"]) / 1e3, json.loads(answer), ours["GB"]))
    finally:
        peer.kill()
        peer.wait()
    answers = answers[1:]  # the first call of either chooses algorithms
    ratios = [ours / theirs["seconds"] for ours, theirs, _ in answers]
    return {
        **in_ms([ours for ours, _, _ in answers]),
        "GB": answers[-1][2],
        "fastMRI ms": in_ms([theirs["seconds"] for _, theirs, _ in answers])["ms"],
        "fastMRI GB": answers[-1][1]["GB"],
        "ratio": f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    }
