"""``evaluate.py``: any method on any data set, under one protocol, into one result folder."""

import logging
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from spinwarp.cli import configuration
from spinwarp.cli.train import build_data

log = logging.getLogger("spinwarp")
KINDS = {
    "split": str,
    "method": str | None,
    "out": str | None,
    "conformal": str | None,
    "conformal_level": float,
    "n_examples": int,
    "save_reconstructions": bool,
    "device": str,
    "seed": int,
}


def main() -> None:
    """Entry point of ``spinwarp-evaluate``."""
    configuration.run("evaluate", evaluate, KINDS)


def evaluate(config: DictConfig) -> float:
    """Evaluate a method; return its mean SSIM."""
    import numpy as np
    import torch
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from rich.console import Console

    from spinwarp.cli.conformal import conformal
    from spinwarp.cli.progress import slices_progress
    from spinwarp.evaluation import Protocol
    from spinwarp.evaluation import evaluate as evaluate_method
    from spinwarp.figures import draw
    from spinwarp.results import table
    from spinwarp.results.combine import combine

    configuration.check_device(config.device)
    torch.manual_seed(config.seed)
    choices = HydraConfig.get().runtime.choices
    folder = Path(config.out or HydraConfig.get().runtime.output_dir)
    data = build_data(config)
    reconstructor = instantiate(config.recon)
    record = getattr(reconstructor, "record", {})
    name = config.method or record.get("name") or choices["recon"]
    if config.uncertainty:
        reconstructor = instantiate(config.uncertainty)(reconstructor, mask=data.eval_mask)
        name = config.method or f"{name} {choices['uncertainty']}"  # its claims are not the method's own
    data.prepare_data()
    volumes = data.source.volumes(config.split)
    _warn_of_leaks(record, data.source.name, [v.name for v in volumes])
    protocol = Protocol(
        method=name,
        dataset=data.source.name,
        split=config.split,
        mask=choices["mask"],
        acceleration_nominal=getattr(data.eval_mask, "nominal_acceleration", float("nan")),
        n_slices={v.name: v.n_slices for v in volumes},
    )
    if config.conformal is not None:
        reconstructor = conformal(
            reconstructor,
            config.conformal,
            config.conformal_level,
            method=protocol.method,
            mask=protocol.mask,
            dataset=protocol.dataset,
            volumes=[v.name for v in volumes],
        )
        # by this name its own calibration.json is not taken for that of the plain method
        protocol = replace(protocol, method=f"{protocol.method} conformal", level=config.conformal_level)
    with slices_progress(sum(v.n_slices for v in volumes), protocol.method) as advance:
        rows = evaluate_method(
            reconstructor,
            data.loader(config.split, evaluate=True),
            protocol,
            folder,
            n_examples=config.n_examples,
            save_reconstructions=config.save_reconstructions,
            device=config.device,
            seed=config.seed,
            advance=advance,
        )
    Console().print(table(rows))
    for path in draw(combine([folder]), folder / "figures"):
        log.info("figure %s", path)
    log.info("results %s", folder / "results.csv")
    return float(np.mean([row.ssim for row in rows]))


def _warn_of_leaks(record: dict[str, object], dataset: str, volumes: list[str]) -> None:
    trained_on = record.get("trained_on")
    if isinstance(trained_on, dict) and trained_on.get("dataset") == dataset:
        seen = sorted(set(volumes) & set(trained_on.get("volumes", [])))
        if seen:
            log.warning(
                "this checkpoint was trained on %d of the %d volumes that it is evaluated on (%s, ...): these figures "
                "say nothing about new data",
                len(seen),
                len(volumes),
                seen[0],
            )
