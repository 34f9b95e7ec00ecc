"""``evaluate.py``: any method on any data set, under one protocol, into one result folder."""

import logging
import shutil
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from spinwarp.cli import configuration, processes

log = logging.getLogger("spinwarp")
KINDS = {
    "split": str,
    "n_volumes": int | None,
    "slices": list[int] | str | int | None,
    "crop": Literal["fastmri", "none"],
    "by": Literal["contrast"] | None,
    "method": str | None,
    "out": str | None,
    "conformal": str | None,
    "conformal_level": float,
    "n_examples": int,
    "save_reconstructions": bool,
    "device": str,
    "processes": int,
    "seed": int,
}


def main() -> None:
    """Entry point of ``spinwarp-evaluate``."""
    configuration.run("evaluate", evaluate, KINDS)


def evaluate(config: DictConfig) -> float:
    """Evaluate a method; return its mean SSIM, or NaN on a process that torchrun started and that was not the last."""
    import numpy as np
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console

    from spinwarp.cli import sharing
    from spinwarp.cli.job import EvaluationJob
    from spinwarp.cli.output import check_room
    from spinwarp.cli.progress import slices_progress
    from spinwarp.evaluation import UNFINISHED
    from spinwarp.figures import draw
    from spinwarp.results import table
    from spinwarp.results.combine import combine

    sharing.check(config)
    configuration.check_device(config.device)
    choices = {group: HydraConfig.get().runtime.choices[group] for group in ("recon", "mask", "uncertainty")}
    folder = Path(config.out or HydraConfig.get().runtime.output_dir)
    check_room(folder)
    if processes.place().world > 1:
        rows = sharing.among_others(config, choices, folder)
        if rows is None:
            return float("nan")
    else:
        job = EvaluationJob(config, choices)
        job.check(folder)
        job.say_first()
        with slices_progress(sum(job.protocol.n_slices.values()), job.protocol.method) as advance:
            if config.processes == 1:
                rows = job.evaluate(job.loader(), folder, config.device, advance)
            else:
                rows = sharing.on_processes(config, choices, job, folder, advance)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # of an earlier call that was interrupted
    Console().print(table(rows, config.by))
    for path in draw(combine([folder]), folder / "figures"):
        log.info("figure %s", path)
    log.info("results %s", folder / "results.csv")
    return float(np.mean([row.ssim for row in rows if not np.isnan(row.ssim)] or [np.nan]))
