"""An Optuna study in a file, shared by several workers; it survives their death."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinwarp.errors import InputError

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

log = logging.getLogger("spinwarp")

# number of tries for parameters whose process is killed
ATTEMPTS = 3


class SharedStudy:
    """Hands out trials, at most ``n_trials`` over all workers and restarts.

    A failed trial counts. One whose process was killed does not, and its parameters are tried again. Optuna's own
    heartbeat works only with ``Study.optimize``, and misses a process that dies before its first beat.

    Parameters
    ----------
    path : the SQLite file.
    sampler : trial sampler of Optuna.
    direction : ``maximize`` or ``minimize``.
    search : plain Python that describes the search; a study of another search is refused.
    n_trials : see above.
    heartbeat_s : interval at which a running trial reports that it is alive.
    grace_s : a trial that is silent for this long counts as killed.

    Raises
    ------
    InputError : if the study is of another search, whose values cannot be compared.
    """

    def __init__(
        self,
        path: Path,
        sampler: "BaseSampler",
        direction: Literal["maximize", "minimize"],
        search: dict[str, Any],
        n_trials: int,
        heartbeat_s: float,
        grace_s: float,
    ) -> None:
        import optuna

        self.path = path
        self.n_trials = n_trials
        self.heartbeat_s = heartbeat_s
        self.grace_s = grace_s
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._alone():
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}", {"connect_args": {"timeout": 300}})
            self.study = optuna.create_study(
                storage=storage, sampler=sampler, study_name="study", direction=direction, load_if_exists=True
            )
            before = self.study.user_attrs.get("search")
            if before is None:
                self.study.set_user_attr("search", search)
        if before not in (None, search):
            changed = next(key for key in search if before[key] != search[key])
            raise InputError(
                f"{path} is the study of another search ({changed}: {before[changed]}, now {search[changed]}); "
                f"give another hydra.sweep.dir"
            )

    def ask(self, space: dict[str, "BaseDistribution"]) -> "Trial | None":
        """Return the next trial, or None if all have been handed out."""
        with self._alone():
            for silent in self._in_state("RUNNING"):
                if time.time() - silent.user_attrs.get("alive", 0.0) > self.grace_s:
                    log.warning("trial %d was killed; its parameters are tried again", silent.number)
                    self._retry(silent.number)
            if len(self._in_state("COMPLETE", "RUNNING")) + len(self.failed()) >= self.n_trials:
                return None
            trial = self.study.ask(space)
            trial.set_user_attr("alive", time.time())
            return trial

    def running(self) -> list[int]:
        """Return the numbers of the trials that have not ended."""
        return [trial.number for trial in self._in_state("RUNNING")]

    def complete(self) -> "list[FrozenTrial]":
        """Return the trials that have a value."""
        return self._in_state("COMPLETE")

    def failed(self) -> "list[FrozenTrial]":
        """Return the trials that failed with an error; it is among their attributes as ``error``."""
        return [trial for trial in self._in_state("FAIL") if "error" in trial.user_attrs]

    def end(self, trial: "Trial", value: float | None, attributes: dict[str, str]) -> None:
        """End a trial with its value, or with None and an ``error`` among the attributes if it failed."""
        with self._alone():
            if trial.number not in self.running():
                log.warning("trial %d was silent for too long and is tried again elsewhere", trial.number)
                return
            for key, text in attributes.items():
                trial.set_user_attr(key, text)
            self._tell(trial.number, value)

    def give_back(self, trial: "Trial") -> None:
        """End a trial that was interrupted; its parameters are tried again."""
        with self._alone():
            if trial.number in self.running():
                self._retry(trial.number)

    @contextmanager
    def alive(self, trial: "Trial") -> Iterator[None]:
        """Report regularly that the trial is alive while the block runs."""
        from optuna.exceptions import UpdateFinishedTrialError

        stop = threading.Event()

        def beat() -> None:
            with suppress(UpdateFinishedTrialError):  # another worker may have declared it dead
                while not stop.wait(self.heartbeat_s):
                    trial.set_user_attr("alive", time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _in_state(self, *names: str) -> "list[FrozenTrial]":
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=tuple(TrialState[name] for name in names))

    def _retry(self, number: int) -> None:
        (trial,) = (trial for trial in self._in_state("RUNNING") if trial.number == number)
        attempt = trial.user_attrs.get("attempt", 1)
        if attempt < ATTEMPTS:
            self.study.enqueue_trial(trial.params, user_attrs={"attempt": attempt + 1})
        self._tell(number, None)

    def _tell(self, number: int, value: float | None) -> None:
        from optuna.trial import TrialState

        self.study.tell(number, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one worker in at a time; the lock is released when its process dies."""
        connection = sqlite3.connect(self.path.with_name(f".{self.path.name}.lock"), timeout=300, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            yield
        finally:
            connection.close()
