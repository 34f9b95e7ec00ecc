"""``hydra/sweeper=optuna``: search the hyperparameters with Optuna (arXiv 1907.10902).

The study is in ``study.db`` in the sweep's folder. Starting the same command again continues it; starting it several
times at once gives several workers that share the trials.
"""

import logging
import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from spinwarp.cli import app
from spinwarp.cli.sweep import space
from spinwarp.cli.sweep.study import SharedStudy
from spinwarp.errors import InputError
from spinwarp.files import atomic_write

if TYPE_CHECKING:
    from optuna import Trial

log = logging.getLogger("spinwarp")

Direction = Literal["maximize", "minimize"]
STUDY = "study.db"
BEST = "best.yaml"


@dataclass(eq=False)
class OptunaSweeper(Sweeper):
    """Asks Optuna for the parameters of a trial, runs it as one job and reports its metric, ``n_trials`` times.

    Parameters
    ----------
    n_trials : over all workers and restarts; failed trials count, killed ones do not.
    params : searched or fixed parameters, written as on the command line, which takes precedence.
    direction : ``maximize`` or ``minimize``; null: as ``callbacks.best.mode`` says.
    sampler : configuration of Optuna's trial sampler.
    heartbeat_s, grace_s : see :class:`~spinwarp.cli.sweep.study.SharedStudy`.
    """

    n_trials: int
    params: dict[str, Any]
    direction: str | None
    sampler: dict[str, Any]
    heartbeat_s: float
    grace_s: float

    def __post_init__(self) -> None:
        self.config: DictConfig = OmegaConf.create()
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra passes before the sweep."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> float:
        """Search; return the best value."""
        try:
            return self._search(arguments)
        except InputError as error:
            app.end(error)

    def _search(self, arguments: list[str]) -> float:
        """Run trials, wait for those of other workers, and write the best to a file."""
        assert self.hydra_context is not None
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise InputError("hydra/sweeper=optuna needs Optuna: pip install 'spinwarp[sweep]'") from error
        from hydra.utils import instantiate

        if self.n_trials < 1 or not 0 < self.heartbeat_s < self.grace_s:
            raise InputError("hydra.sweeper: n_trials is at least 1, and grace_s is longer than heartbeat_s")
        written = [f"{key}={value}" for key, value in self.params.items()] + arguments
        parsed = OverridesParser.create(self.hydra_context.config_loader).parse_overrides(written)
        fixed, searched = space.split(list({o.get_key_element(): o for o in parsed}.values()))
        folder = Path(str(self.config.hydra.sweep.dir)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        goal = self._goal(fixed)
        search = {
            "fixed": sorted(fixed),
            "space": {key: str(value) for key, value in searched.items()},
            "goal": list(goal),
        }
        study = SharedStudy(
            folder / STUDY, instantiate(self.sampler), goal[1], search, self.n_trials, self.heartbeat_s, self.grace_s
        )
        log.info("study %s: %d trials over %s", study.path, self.n_trials, ", ".join(searched))
        waited_for: list[int] = []
        while True:
            if (trial := study.ask(searched)) is not None:
                self._run(study, trial, fixed, goal)
            elif running := study.running():
                if running != waited_for:
                    log.info("waiting for trials of other workers: %s", ", ".join(map(str, running)))
                waited_for = running
                time.sleep(min(self.heartbeat_s, 5.0))
            else:
                return self._conclude(study, fixed, goal)

    def _run(self, study: SharedStudy, trial: "Trial", fixed: list[str], goal: tuple[str, Direction]) -> None:
        """Run one trial; an exception makes it a failed one, with the reason in the log and in the study."""
        assert self.launcher is not None
        overrides = fixed + space.as_overrides(trial.params)
        try:
            with study.alive(trial):
                if self._goal(overrides) != goal:
                    raise InputError(f"the study is to {goal[1]} {goal[0]}, but this model monitors something else")
                (job,) = self.launcher.launch([overrides], initial_job_idx=trial.number)
                value = _value(job)
                assert job.hydra_cfg is not None  # set by a job that succeeded
        except Exception as error:
            reason = app.message(error)
            log.error("trial %d failed: %s", trial.number, reason)
            study.end(trial, None, {"error": reason})
        except BaseException:  # Ctrl-C
            study.give_back(trial)
            raise
        else:
            study.end(trial, value, {"folder": str(job.hydra_cfg.hydra.runtime.output_dir)})
            log.info("trial %d: %s %.6g", trial.number, goal[0], value)

    def _goal(self, overrides: list[str]) -> tuple[str, Direction]:
        """Return what a job with these overrides monitors, and the direction of the search.

        Raises
        ------
        InputError : if the direction is unknown, or a job would start the search again.
        """
        assert self.hydra_context is not None
        job = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        app.refuse_parallel_sweep(job, job.hydra)
        best = OmegaConf.select(job, "callbacks.best") or {}
        words: dict[str | None, Direction] = {"max": "maximize", "min": "minimize"}
        words |= {word: word for word in words.values()}
        direction = words.get(self.direction or best.get("mode"))
        if direction is None:
            raise InputError(
                "the direction of the search is unknown; give hydra.sweeper.direction=maximize or minimize"
            )
        return best.get("monitor", "the returned value"), direction

    def _conclude(self, study: SharedStudy, fixed: list[str], goal: tuple[str, Direction]) -> float:
        """Print the best trial, and write it to a file with the command that trains it again."""
        complete, failed = study.complete(), study.failed()
        if not complete:
            raise InputError(f"all {len(failed)} trials failed, the last one with: {failed[-1].user_attrs['error']}")
        best = study.study.best_trial
        overrides = fixed + space.as_overrides(best.params)
        result: dict[str, Any] = {
            "trial": best.number,
            "metric": goal[0],
            "direction": goal[1],
            "value": best.value,
            "folder": best.user_attrs["folder"],
            "overrides": overrides,
            "command": shlex.join(["python", f"{self.config.hydra.job.name}.py", *overrides]),
        }
        path = study.path.with_name(BEST)
        with atomic_write(path) as temporary:
            OmegaConf.save(OmegaConf.create(result), temporary)
        log.info("%d trials have ended, %d of them failed", len(complete) + len(failed), len(failed))
        log.info("best: trial %d, %s %.6g, in %s\n%s", best.number, goal[0], best.value, path, result["command"])
        return float(result["value"])


def _value(job: JobReturn) -> float:
    """Return the metric of a job that has ended; an error if there is none, or it is not finite."""
    value = job.return_value
    if value is None:
        raise InputError("the job returned no metric; a sweep needs callbacks.best, which keeps the best checkpoint")
    if not math.isfinite(value):
        raise InputError(f"training diverged: the monitored metric was never finite (the best is {value})")
    return float(value)
