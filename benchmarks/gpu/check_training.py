"""Part two: every model's training step against the CPU, mixed precision, resume, and the limits of the memory."""

import contextlib
import csv
import io
import logging
import os
import sys
import warnings
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from torch import Tensor

from gpu.problems import composed, names, phantoms
from gpu.same_numbers import agree, difference, perturbed
from gpu.setting import FailedError, Rows, Setting, SkippedError, Values, tensor_cores
from spinwarp.acquisition import Example

#: small networks of every kind; a model that is not here is trained at its own size
SMALL: dict[str, dict[str, Any]] = {
    "flow": {"net.size": "[64,64]", "net.levels": 2, "net.depth": 2, "net.channels": 8},
    "gan": {"net.size": "[64,64]", "net.levels": 3, "net.channels": 8, "net.n_latents": 16, "steps": 4},
    "modl": {"net.n_unrolls": 2, "net.cg_iterations": 3, "net.regulariser.channels": 8},
    "naive_cnn": {"net.channels": 8, "net.n_layers": 3},
    "score": {"net.network.widths": "[16,32]"},
    "score_edm": {"net.network.width": 32, "net.network.multipliers": "[1,2]"},
    "vae": {"net.size": "[64,64]", "net.levels": 3, "net.channels": 8},
    **{key: {"net.channels": 8, "net.pools": 3} for key in ("unet", "unet_heteroscedastic", "unet_small")},
    **{
        key: {"net.n_cascades": 2, "net.regulariser.channels": 4, "net.sensitivity.network.channels": 4}
        for key in ("promptmr", "promptmr_plus", "promptmr_plus_small", "promptmr_small")
    },
    **{
        key: {"net.n_cascades": 2, "net.regulariser.channels": 4, "net.consistency.iterations": 2}
        for key in ("vsharp", "vsharp_small")
    },
    **{key: {"net.n_cascades": 2, "net.regulariser.channels": 4} for key in ("varnet", "varnet_image", "varnet_small")},
}
# a gradient goes through some twenty layers with kinks, across which rounding moves a few features
ALLOWED = 1e-2
METRICS = 1e-3  # of SSIM and NMSE, which are numbers below one
EIGHT = 8e9


def rows(setting: Setting) -> Rows:
    """Two rows for each model, then the rest."""
    tensor_cores(False)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")  # of Lightning, on few workers and the like
    models = names("model")
    mixable = [model for model in models if model not in FLOAT32_ONLY]
    return {
        "trainer=8gb": partial(eight_gigabytes, setting),
        **{f"model={model}, step": partial(step, setting, model) for model in models},
        **{f"model={model}, {kind}": partial(mixed, setting, model, kind) for model in mixable for kind in MIXED},
        "resume": partial(resume, setting),
        "evaluate.py": partial(evaluate, setting),
        "out of memory": partial(out_of_memory, setting),
    }


MIXED = ("bf16-mixed", "16-mixed")
#: their losses take a derivative by small steps, and refuse mixed precision in a sentence
FLOAT32_ONLY = {"varnet_ensure", "varnet_rei"}


def configuration(setting: Setting, model: str, *overrides: str) -> Any:
    """Compose what train.py composes for a small network on tiny phantoms."""
    small = [f"model.{key}={value}" for key, value in SMALL.get(model, {}).items()]
    return composed(
        "train", f"model={model}", *phantoms(setting, tiny=True), *small, "callbacks=none", "logger=none", *overrides
    )


def data(config: Any) -> Any:
    """Build the data module."""
    made = instantiate(config.data, mask=instantiate(config.mask) if config.mask else None)
    made.prepare_data()
    return made


def step(setting: Setting, model: str) -> Values:
    """Compare loss and gradient of one step in float32, and the metrics of a validation step."""
    config = configuration(setting, model)
    (batch, *_) = data(config).loader("val")
    torch.manual_seed(5)
    state = instantiate(config.model).state_dict()
    for value in state.values():
        if value.is_floating_point() and value.ndim > 1 and not value.any():
            value.normal_(std=0.1)  # layers that begin at zero would hide what is before them

    def compute(device: str, change: float) -> list[Tensor]:
        module = instantiate(config.model)
        module.load_state_dict(state)
        module.to(device).train()
        module.log = lambda *_, **__: None  # which asks for a trainer
        loss = module.training_step(changed(batch, change).to(device), 0)
        loss.backward()
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        with torch.no_grad():
            module.eval().validation_step(changed(batch, change).to(device), 0)
        figures = torch.stack(list(module.metrics.compute().values()))
        return [loss, torch.cat(gradients), figures.to(device)]

    return agree(compute, setting.device, ALLOWED)


def changed(batch: Example, change: float) -> Example:
    """Change the measured data."""
    if not change:
        return batch
    kspace = perturbed(batch.acquisition.kspace, change)
    return replace(batch, acquisition=replace(batch.acquisition, kspace=kspace))


def mixed(setting: Setting, model: str, precision: str) -> Values:
    """Train and validate an epoch by Lightning, and see that what comes out is float32 and finite."""
    n_epochs = 1
    if precision == "16-mixed":
        setting.require_cuda()
        n_epochs = 4  # the first steps may do nothing but find the scale of the gradients
    config = configuration(
        setting, model, *trainer(setting), f"trainer.precision={precision}", f"trainer.max_epochs={n_epochs}"
    )
    torch.manual_seed(5)
    module, made = instantiate(config.model), data(config)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    fit = instantiate(config.trainer, logger=False, default_root_dir=str(setting.folder))
    fit.fit(module, datamodule=made)
    figures = {name: float(value) for name, value in fit.callback_metrics.items() if name.startswith("val/")}
    parameters = dict(module.named_parameters())
    if not figures or not all(abs(value) < float("inf") for value in figures.values()):
        raise FailedError(f"validation gave {figures}")
    if any(p.dtype != torch.float32 or not p.isfinite().all() for p in parameters.values()):
        raise FailedError("some weights are not finite float32 numbers")
    moved = sum(not torch.equal(p.detach().cpu(), before[name]) for name, p in parameters.items() if p.requires_grad)
    if not moved:
        raise FailedError("no weight has changed")
    return {"val/loss": round(figures["val/loss"], 4), "val/ssim": round(figures["val/ssim"], 3)}


def trainer(setting: Setting) -> list[str]:
    """Overrides that choose the device."""
    return ["trainer.accelerator=gpu" if setting.cuda else "trainer.accelerator=cpu"]


def command(setting: Setting, name: str, *overrides: str) -> tuple[int, str]:
    """Run train.py or evaluate.py in this process, so that its memory can be counted; exit code and standard error."""
    GlobalHydra.instance().clear()
    os.environ |= {"SPINWARP_CACHE": str(setting.folder / "cache"), "SPINWARP_RUNS": str(setting.folder / "runs")}
    os.environ.pop("SPINWARP_STAMP", None)
    sys.argv = [f"{name}.py", *overrides]
    heard, code = io.StringIO(), 0
    with contextlib.redirect_stderr(heard):
        try:
            import_module(f"spinwarp.cli.{name}").main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    print(heard.getvalue())
    return code, heard.getvalue()


def eight_gigabytes(setting: Setting) -> Values:
    """Train the VarNet of 12 cascades at full size while the allocator may hold eight gigabytes."""
    small = [f"model.{key}={value}" for key, value in SMALL["varnet"].items()] if setting.dry else []
    folder = setting.folder / "eight"
    with at_most(setting, EIGHT):
        code, output = command(
            setting, "train", "model=varnet", "trainer=8gb", *trainer(setting), *phantoms(setting, tiny=False), *small,
            "trainer.max_steps=3", "+trainer.limit_val_batches=1", "callbacks=none", "logger=none",
            f"hydra.run.dir={folder}",
        )  # fmt: skip
        if code:
            raise FailedError(output.strip().splitlines()[-1])
        peak = setting.peak()
        if isinstance(peak, float) and peak * 1e9 > EIGHT:
            raise FailedError(f"{peak} GB were allocated, more than 8")
    return {"GB": peak}


@contextlib.contextmanager
def at_most(setting: Setting, size: float) -> Any:
    """Let torch's allocator hold at most so many bytes."""
    setting.forget()
    if setting.cuda:
        total = torch.cuda.get_device_properties(setting.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))
    try:
        yield
    finally:
        if setting.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)


def out_of_memory(setting: Setting) -> Values:
    """Train with memory for little more than the weights: it ends in a sentence that says what to do."""
    setting.require_cuda()
    with at_most(setting, torch.cuda.memory_reserved() + 400e6):
        code, output = command(
            setting, "train", "model=varnet", "trainer=gpu", *trainer(setting), *phantoms(setting, tiny=False),
            "trainer.max_steps=3", "callbacks=none", "logger=none", f"hydra.run.dir={setting.folder / 'memory'}",
        )  # fmt: skip
    last = (output.strip().splitlines() or [""])[-1]
    if code != 1 or not last.startswith("error: ") or "memory" not in last or "Traceback" in output:
        raise FailedError(f"ended with {code} and: {last[:200]}")
    return {"message": last.removeprefix("error: ")}


def resume(setting: Setting) -> Values:
    """Train four steps at once, and two and two: the weights are the same, up to what the device itself varies."""
    weights: dict[str, Tensor] = {}
    small = [f"model.{key}={value}" for key, value in SMALL["unet_small"].items()]
    for name, ends in {"whole": [4], "parts": [2, 4]}.items():
        folder = setting.folder / f"resume_{name}"
        for end in ends:
            code, output = command(
                setting, "train", "model=unet_small", "model.schedule=null", *trainer(setting), *small,
                *phantoms(setting, tiny=True), f"trainer.max_steps={end}", "trainer.num_sanity_val_steps=0",
                "callbacks.progress=null", "callbacks.panel=null", "logger=none", f"hydra.run.dir={folder}",
                *["ckpt_path=last"] * (end != ends[0]),
            )  # fmt: skip
            if code:
                raise FailedError(output.strip().splitlines()[-1])
            weights[f"{name} {end}"] = _weights(folder / "checkpoints" / "last.ckpt")
    moved = difference(weights["parts 2"], weights["whole 4"])
    apart = difference(weights["parts 4"], weights["whole 4"])
    # Adam's steps have the sign of a gradient that the device sums in any order; a lost moment or batch gives half
    if moved == 0 or not apart <= 0.1 * moved:
        raise FailedError(f"the weights differ by {apart / max(moved, 1e-30):.1e} of what two steps move them")
    return {"difference": float(f"{apart / moved:.2g}"), "allowed": 0.1}


def _weights(path: Path) -> Tensor:
    if not path.is_file():
        raise FailedError(f"there is no {path}")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])


def evaluate(setting: Setting) -> Values:
    """Evaluate the checkpoint of the row before on the CPU and on the device: the tables of results agree."""
    path = setting.folder / "resume_whole" / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise SkippedError("needs the checkpoint of the row resume")
    tables = []
    for device in ("cpu", setting.device):
        out = setting.folder / f"evaluate_{len(tables)}"
        code, output = command(
            setting, "evaluate", "recon=checkpoint", f"recon.path={path}", *phantoms(setting, tiny=True),
            f"device={device}", f"out={out}",
        )  # fmt: skip
        if code:
            raise FailedError(output.strip().splitlines()[-1])
        tables.append(_figures(out / "results.csv"))
    worst = max(abs(a - b) for a, b in zip(*tables, strict=True))
    if not worst <= METRICS:
        raise FailedError(f"the metrics of the two differ by {worst:.1e}, and {METRICS:.0e} is allowed")
    return {"difference": float(f"{worst:.2g}"), "allowed": METRICS}


def _figures(path: Path) -> list[float]:
    with path.open() as file:
        lines = list(csv.DictReader(row for row in file if not row.startswith("#")))
    found = [float(line[name]) for line in lines for name in ("nmse", "ssim") if line.get(name)]
    if not found:
        raise FailedError(f"{path} has no metrics")
    return found
