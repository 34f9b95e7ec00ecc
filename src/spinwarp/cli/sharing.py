"""Evaluation on several processes: each takes whole volumes, and what they finish becomes one result folder."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from spinwarp.cli import configuration, processes, workers
from spinwarp.cli.job import EvaluationJob
from spinwarp.cli.progress import slices_progress
from spinwarp.cli.shares import Batches, finished_order, restricted, share_out
from spinwarp.cli.workers import Advance
from spinwarp.errors import InputError
from spinwarp.evaluation import UNFINISHED
from spinwarp.results import Row
from spinwarp.results.merge import merge

log = logging.getLogger("spinwarp")

PARTS = "parts"  # the folder of what each process finished, until they are merged


@dataclass(frozen=True)
class _Share:
    """What one process evaluates, as plain Python."""

    config: dict[str, Any]
    choices: dict[str, str]
    batches: Batches
    folder: Path
    device: str
    n_threads: int


def on_processes(
    config: DictConfig, choices: dict[str, str], job: EvaluationJob, folder: Path, advance: Advance
) -> list[Row]:
    """Evaluate on processes of this machine; what they finished is merged even if one is lost."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    n_threads = torch.get_num_threads() // (1 if "OMP_NUM_THREADS" in os.environ else config.processes)
    plain = configuration.plain(config)
    shares = [
        _Share(plain, choices, batches, folder / PARTS / str(i), _device(config.device, i), max(n_threads, 1))
        for i, batches in enumerate(share_out(job.loader(), config.processes))
        if batches
    ]
    if len(shares) < config.processes:
        log.warning(
            "only %d of %d processes have something to do: there are too few volumes, or data.batch_size=%d makes "
            "batches across them",
            len(shares),
            config.processes,
            job.data.batch_size,
        )
    try:
        workers.run(_evaluate_share, shares, advance)
    finally:
        rows = _merge(job, folder, len(shares))
    return rows


def _evaluate_share(share: _Share, advance: Advance) -> None:
    log.setLevel(logging.ERROR)  # the first process has said the rest
    torch.set_num_threads(share.n_threads)
    job = EvaluationJob(OmegaConf.create(share.config), share.choices)
    job.evaluate(restricted(job.loader(), share.batches), share.folder, share.device, advance)


def among_others(config: DictConfig, choices: dict[str, str], folder: Path) -> list[Row] | None:
    """Evaluate the share of one of torchrun's or srun's processes; the last one that is done merges and gets the rows.

    So nobody waits for a process that was lost: what the others finished then stays in the folder of parts.
    """
    place, stamp = processes.place(), configuration.stamp()
    parts = folder / PARTS
    shutil.rmtree(parts / str(place.rank), ignore_errors=True)
    job = EvaluationJob(config, choices)
    job.check(folder)
    batches = share_out(job.loader(), place.world)[place.rank]
    (parts / str(place.rank)).mkdir(parents=True)
    if processes.is_first():
        job.say_first()
    device = _device(config.device, place.local_rank)
    if batches and processes.is_first():
        with slices_progress(sum(map(len, batches)), f"{job.protocol.method}, process 0") as advance:
            job.evaluate(restricted(job.loader(), batches), parts / "0", device, advance)
    elif batches:
        job.evaluate(restricted(job.loader(), batches), parts / str(place.rank), device, lambda _: None)
    if not processes.is_last(parts, stamp):
        return None
    log.setLevel(logging.INFO)
    return _merge(job, folder, place.world)


def _merge(job: EvaluationJob, folder: Path, n_parts: int) -> list[Row]:
    """Make one result folder of those of the processes."""
    parts = [folder / PARTS / str(i) for i in range(n_parts)]
    order = finished_order(job.loader())
    rows = merge(parts, folder, order)
    merge([part / UNFINISHED for part in parts], folder / UNFINISHED, order)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return rows


def _device(name: str, local_rank: int) -> str:
    """Give each process of a machine a GPU of its own, as far as there are any."""
    return f"cuda:{local_rank % torch.cuda.device_count()}" if name == "cuda" else name


def check(config: DictConfig) -> None:
    """Raise an :class:`InputError` if the processes asked for cannot be."""
    if config.processes < 1:
        raise InputError(f"processes={config.processes} must be at least 1")
    if processes.place().world > 1 and (config.processes > 1 or HydraConfig.get().mode == RunMode.MULTIRUN):
        raise InputError(
            "processes=N and -m start processes and jobs themselves; leave them out under torchrun and srun, or call "
            "evaluate.py without these"
        )
