"""``evaluate.py``: any method on any data set, under one protocol, into one result folder."""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from spinwarp.cli import app
from spinwarp.errors import InputError
from spinwarp.renamed import old_names

log = logging.getLogger("spinwarp")
TYPES = {
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
    "report": bool,
    "device": str,
    "processes": int,
    "seed": int,
}


def main() -> None:
    """Entry point of ``spinwarp-evaluate``."""
    app.run("evaluate", evaluate, TYPES)


def evaluate(config: DictConfig) -> float:
    """Evaluate a method; return its mean SSIM, or NaN on all processes of torchrun or srun but the last to finish."""
    import numpy as np
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console

    from spinwarp.cli.job import EvaluationJob, check_processes
    from spinwarp.cli.loggers import publish, result_loggers
    from spinwarp.cli.method import hand_over_maps, named_choices
    from spinwarp.cli.output import check_room
    from spinwarp.evaluation import UNFINISHED
    from spinwarp.figures import draw
    from spinwarp.results import table
    from spinwarp.results.comparison import compare

    check_processes(config)
    app.check_device(config.device)
    loggers = result_loggers(config)
    chosen = {group: HydraConfig.get().runtime.choices[group] for group in ("recon", "mask", "uncertainty")}
    choices = named_choices(config, chosen)
    hand_over_maps(config, config.data)
    folder = Path(config.out or HydraConfig.get().runtime.output_dir)
    check_room(folder)
    rows = EvaluationJob(config, choices).run(folder)
    if rows is None:
        return float("nan")
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # left by an interrupted call
    Console().print(table(rows, config.by))
    for path in draw(compare([folder]), folder / "figures"):
        log.info("figure %s", path)
    if config.report:
        from spinwarp.report import write_report

        log.info("report %s", write_report([folder], folder / "report.html"))
    log.info("results %s", folder / "results.csv")
    publish(loggers, folder, rows)
    return float(np.mean([row.ssim for row in rows if not np.isnan(row.ssim)] or [np.nan]))


class CompareResults(Callback):
    """Compares the result folders of a multirun; Hydra calls it after the last job."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Compare the results of the jobs that succeeded; jobs with an ``out`` of their own are left out."""
        from spinwarp.cli import multirun
        from spinwarp.figures.compare import write_comparison
        from spinwarp.results import RESULTS

        sweep = Path(config.hydra.sweep.dir)
        folders = [folder for folder in multirun.finished(config) if (folder / RESULTS).is_file()]
        if len(folders) < 2:
            return
        try:
            write_comparison(folders, sweep / "comparison", by=config.by)
            if config.report:
                from spinwarp.report import write_report

                print(f"report {write_report(folders, sweep / 'comparison' / 'report.html')}")
        except InputError as error:
            print(f"all results were written, but could not be compared: {error}", file=sys.stderr)


__getattr__ = old_names(__name__, JoinResults="spinwarp.cli.evaluate.CompareResults")
