"""A multirun: a job that fails does not end the others, and the user sees the outcome of each at the end.

Every job writes its outcome to a file in the folder of the sweep, because jobs may run in other processes or on other
machines.
"""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, read_write

from spinwarp.errors import InputError
from spinwarp.files import atomic_write, with_home
from spinwarp.parallel import processes

log = logging.getLogger("spinwarp")

UNFINISHED = "it had not ended: it was interrupted or killed, or is still running elsewhere"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Parameters
    ----------
    number : of the job in its sweep.
    overrides : of the job, as on the command line.
    folder : of its run.
    metric : name of what ``value`` is, such as ``val/ssim``, or None.
    value : what the job returned, or None.
    error : why it failed, in one sentence, or None.
    out, input : of the job, where it has such keys.
    """

    number: int
    overrides: list[str]
    folder: str
    metric: str | None = None
    value: float | None = None
    error: str | None = None
    out: str | None = None
    input: str | None = None


class Sweep(Callback):
    """Keeps the settings of the multirun that this process runs; Hydra calls it before the first job.

    It also expands ``~/...`` in the folder for runs, which Hydra creates before our code could.
    """

    config: ClassVar[DictConfig | None] = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Expand ``~``."""
        _expand_home(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep the settings, and remove the outcomes of an earlier sweep of the same name."""
        _expand_home(config, "sweep")
        Sweep.config = config
        shutil.rmtree(_notes(config.hydra), ignore_errors=True)

    @classmethod
    def of_this_process(cls) -> DictConfig | None:
        """Return the settings; None if this process runs no multirun."""
        return cls.config


def note(config: DictConfig, value: Any = None, error: str | None = None) -> None:
    """Write the outcome of the current job to its file; only the first of its processes writes.

    Parameters
    ----------
    config : of the job.
    value, error : see :class:`Outcome`; a value that is not a number is dropped.
    """
    if not processes.is_first():
        return
    job = HydraConfig.get()
    outcome = Outcome(
        number=job.job.num,
        overrides=list(job.overrides.task),
        folder=job.runtime.output_dir,
        metric=OmegaConf.select(config, "callbacks.best.monitor"),
        value=float(value) if isinstance(value, (int, float)) else None,
        error=error,
        out=config.get("out"),
        input=config.get("input"),
    )
    with atomic_write(_notes(job) / f"{outcome.number}.json") as temporary:
        temporary.write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def check_out(config: DictConfig) -> None:
    """Check that no earlier job of this multirun has its results in the ``out`` of the job that runs here.

    Raises
    ------
    InputError : if one has: this job would overwrite them.
    """
    job = HydraConfig.get()
    for other in _outcomes(job) if config.get("out") else []:
        same = (other.out, other.input) == (config.out, config.get("input"))
        if same and other.number != job.job.num and other.error in (None, UNFINISHED):
            raise InputError(
                f"out={config.out} holds the results of job {other.number} of this multirun; leave out= unset, and "
                f"each job has its own folder below hydra.sweep.dir={job.sweep.dir}"
            )


def fail(config: DictConfig, reason: str) -> None:
    """Note that the current job failed; return only if Hydra's own sweeper continues with the next job.

    Raises
    ------
    InputError : with the reason, if another sweeper needs it, or if other processes of the job must end.
    """
    note(config, error=reason)
    if processes.place().world > 1 or not _is_basic(HydraConfig.get()):
        raise InputError(reason)
    log.error("job %d failed: %s", HydraConfig.get().job.num, reason)


def finished(config: DictConfig) -> list[Path]:
    """Return the folders of the jobs of this multirun that succeeded, in order."""
    return [Path(outcome.folder) for outcome in _outcomes(config.hydra) if outcome.error is None]


@contextmanager
def summary() -> Iterator[None]:
    """Print the outcomes of a multirun's jobs at the end, however it ended; wraps everything that Hydra does.

    Raises
    ------
    SystemExit : with code 1 if a job failed or there was no job.
    """
    Sweep.config = None
    stopped: BaseException | None = None
    try:
        yield
    except BaseException as error:
        stopped = error
    config = Sweep.of_this_process()
    outcomes = [] if config is None else _outcomes(config.hydra)
    if config is not None and outcomes:
        if stopped is not None:  # Hydra calls them only after a sweep without errors
            for callback in filter(None, config.hydra.callbacks.values()):
                instantiate(callback).on_multirun_end(config=config)
        _report(config.hydra, outcomes)
        shutil.rmtree(_notes(config.hydra), ignore_errors=True)
    failed = any(outcome.error is not None for outcome in outcomes)
    if stopped is not None and not (failed and _is_of_a_job(stopped)):
        raise stopped
    if config is not None and _is_basic(config.hydra) and (failed or not outcomes):
        if not outcomes:
            print("error: this multirun has no jobs; one of the ranges or choices is empty", file=sys.stderr)
        raise SystemExit(1)


def _report(settings: Any, outcomes: list[Outcome]) -> None:
    """Print the table of trained models and the failed jobs."""
    fixed = set(settings.overrides.task)  # what remains differs from job to job
    names = {o.number: " ".join([part for part in o.overrides if part not in fixed] or o.overrides) for o in outcomes}
    if settings.job.name == "train":
        _print_table(settings, outcomes, names)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed or not _is_basic(settings):  # a search succeeds even if some trials fail
        return
    reasons = {outcome.error for outcome in failed}
    if len(failed) == len(outcomes) and len(reasons) == 1:
        which = f"all {len(failed)} jobs" if len(failed) > 1 else f"job {failed[0].number}"
        print(f"error: {which} failed: {reasons.pop()}", file=sys.stderr)
        return
    lines = [f"  job {outcome.number} ({names[outcome.number]}): {outcome.error}" for outcome in failed]
    print("\n".join([f"error: {len(failed)} of {len(outcomes)} jobs failed", *lines]), file=sys.stderr)


def _print_table(settings: Any, outcomes: list[Outcome], names: dict[int, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"jobs in {settings.sweep.dir}"), title_justify="left")
    for header in ("job", "overrides", "best", "folder"):
        table.add_column(header, overflow="fold")
    for outcome in outcomes:
        best = "" if outcome.value is None else f"{outcome.metric or ''} {outcome.value:.4f}".strip()
        cells = (str(outcome.number), names[outcome.number], outcome.error or best, Path(outcome.folder).name)
        table.add_row(*map(Text, cells))
    Console().print(table)


def _expand_home(config: DictConfig, part: str) -> None:
    written = OmegaConf.to_container(config.hydra[part], resolve=False)["dir"]  # type: ignore[call-overload, index]
    if str(written).startswith("~"):
        folder = with_home(str(written))
        with read_write(config):
            config.hydra[part].dir = folder
            config.hydra.overrides.hydra.append(f'hydra.{part}.dir="{folder}"')  # jobs are composed from these


def _notes(settings: Any) -> Path:
    return Path(str(settings.sweep.dir)) / f".jobs-{processes.stamp()}"


def _outcomes(settings: Any) -> list[Outcome]:
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in _notes(settings).glob("*.json")]
    return sorted((Outcome(**content) for content in notes), key=lambda outcome: outcome.number)


def _is_of_a_job(error: BaseException) -> bool:
    """Whether an error that ended a sweep is that of a job; the summary already names it."""
    return isinstance(error, InputError) or type(error).__module__.startswith("submitit.")


def _is_basic(settings: Any) -> bool:
    return bool(settings.sweeper._target_ == "hydra._internal.core_plugins.basic_sweeper.BasicSweeper")
