"""Loggers that a resumed run goes on with: the table of metrics, and a run at Weights & Biases."""

import csv
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from spinwarp.errors import InputError
from spinwarp.files import whole_file

log = logging.getLogger("spinwarp")

#: seconds that the end of a run waits for Weights & Biases to take what is left, unless the user says otherwise
FINISH_SECONDS = "300"


class MetricsTable(CSVLogger):
    """``folder/metrics.csv``, one table for a run however often it was stopped.

    Parameters
    ----------
    folder : where the table and ``hparams.yaml`` go.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """What writes the table."""
        writer = self._experiment
        if not isinstance(writer, _Writer):
            self._experiment = writer = _Writer(self.log_dir)
        return writer

    def drop_from(self, step: int) -> None:
        """Forget the rows from a step on: training goes on there and writes them again. At step 0 that is all."""
        if isinstance(self._experiment, _Writer):  # on the first process
            self._experiment.drop_from(step)


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Let be what is there; Lightning's own deletes it."""

    def drop_from(self, step: int) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        # of the last line a killed run may have written a part
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        table = csv.DictReader(whole.splitlines())
        rows = [row for row in table if int(row["step"]) < step]
        self.metrics_keys = list(table.fieldnames or []) if rows else []
        self._rewrite(rows)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with Path(self.metrics_file_path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.metrics_keys = fieldnames
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        path = Path(self.metrics_file_path)
        if not rows:
            path.unlink(missing_ok=True)
            return
        with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


class WandbRun(WandbLogger):
    """A run at Weights & Biases. Whatever fails there is said once in the log and never costs the training.

    Parameters
    ----------
    save_dir : the run folder; the files of Weights & Biases go to its subfolder ``wandb``.
    project, name, group, entity, tags : of the run, see ``wandb.init``.
    id : of the run; None: the one that the run folder keeps, or a new one.
    offline : write to ``save_dir`` only; ``wandb sync`` sends it later.
    log_model : send the checkpoints too, see Lightning's ``WandbLogger``.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "spinwarp",
        name: str | None = None,
        group: str | None = None,
        entity: str | None = None,
        tags: Sequence[str] | None = None,
        id: str | None = None,
        offline: bool = True,
        log_model: Literal["all"] | bool = False,
    ) -> None:
        super().__init__(
            name=name, save_dir=save_dir, offline=offline, id=id, project=project, log_model=log_model,
            group=group, entity=entity, tags=tags,
        )  # fmt: skip
        self._wandb_init.pop("anonymous")  # of which newer versions warn
        self._failed = False

    def begin(self, goes_on: bool, group: str | None = None) -> None:
        """Start the run.

        Parameters
        ----------
        goes_on : whether the run in the folder goes on, which then keeps its id.
        group : of the run unless it has one.

        Raises
        ------
        InputError : if Weights & Biases does not know who is asking.
        """
        import wandb

        kept = Path(str(self.save_dir)) / "wandb" / "run_id.txt"
        if self._id is None:
            self._id = kept.read_text().strip() if goes_on and kept.is_file() else secrets.token_hex(4)
            with whole_file(kept) as temporary:
                temporary.write_text(self._id)
        self._wandb_init["id"] = self._id
        self._wandb_init["group"] = self._wandb_init["group"] or group
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)
        if self._offline:
            self._wandb_init["mode"] = "offline"
        try:
            _ = self.experiment
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise InputError(
                f"Weights & Biases refuses the run ({' '.join(str(error).split())[:200]}); log in with wandb login, or "
                f"set logger.wandb.offline=true"
            ) from error
        except Exception as error:
            log.warning(
                "Weights & Biases cannot be reached (%s); the run is written to %s, and wandb sync sends it later",
                " ".join(str(error).split())[:200],
                kept.parent,
            )
            self._wandb_init["mode"] = "offline"
            with self._spared():
                wandb.teardown()  # what failed to start still holds the id
                _ = self.experiment

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Let the training go on whatever fails in the block; only the first failure is said."""
        try:
            yield
        except Exception as error:
            if not self._failed:
                log.warning("Weights & Biases failed (%s); training goes on", " ".join(str(error).split())[:200])
            self._failed = True

    def log_hyperparams(self, params: Any) -> None:
        """Send the configuration."""
        with self._spared():
            super().log_hyperparams(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics."""
        with self._spared():
            super().log_metrics(metrics, step)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Send pictures."""
        with self._spared():
            super().log_image(key, images, step, **kwargs)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Send the checkpoint if ``log_model`` asks for it."""
        with self._spared():
            super().after_save_checkpoint(checkpoint_callback)

    def finalize(self, status: str) -> None:
        """Send the checkpoints if ``log_model`` asks for it."""
        with self._spared():
            super().finalize(status)


def finish(loggers: Iterable[Any], exit_code: int) -> None:
    """End the runs at Weights & Biases, as failed ones unless ``exit_code`` is 0.

    So the next job of a sweep, in the same process, begins a run of its own.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            try:
                logger._experiment.finish(exit_code=exit_code)
            except Exception as error:
                log.warning("Weights & Biases did not take the end of the run (%s)", " ".join(str(error).split())[:200])
