"""Loggers that a resumed run continues (the table of metrics, a run at Weights & Biases), and results for loggers."""

import csv
import logging
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.files import atomic_write
from spinwarp.lightning_internals import wandb_run, wandb_settings
from spinwarp.results import RESULTS, Row, markdown_table

log = logging.getLogger("spinwarp")

#: steps between two writes of the table of metrics
SAVE_EVERY = 100
#: seconds that the end of a run waits until Weights & Biases has everything, unless the user says otherwise
FINISH_SECONDS = "300"
_MEANS = ("nmse", "psnr", "ssim", "ssim_foreground")  # of the volumes of a result folder


class MetricsTable(Logger):
    """``folder/metrics.csv``: one table for a run, however often it is stopped.

    Parameters
    ----------
    folder : where the table and ``hparams.yaml`` go.
    """

    name = version = ""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []
        self._new: list[dict[str, Any]] = []  # the rows that are not in the file yet

    @property
    def save_dir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Write the configuration to ``hparams.yaml``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_hparams_to_yaml(self.path.with_name("hparams.yaml"), params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        step = len(self._new) if step is None else step
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._new.append({**row, "step": step})
        if (step + 1) % SAVE_EVERY == 0:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the new rows to the file."""
        columns = sorted({*self._columns, *(name for row in self._new for name in row)})
        if columns != self._columns:
            self._rewrite(self._rows(), columns)
        if self._new:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerows(self._new)
        self._new = []

    def finalize(self, status: str) -> None:  # noqa: ARG002
        """Write what is left."""
        self.save()

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Remove the rows from a step on, all of them if it is 0: training writes them again."""
        rows = [row for row in self._rows() if int(row["step"]) < step]
        self._rewrite(rows, list(rows[0]) if rows else [])

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        # a killed run may have written a part of the last line
        lines = self.path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        return list(csv.DictReader(lines))

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        self._columns = columns
        if not columns:
            self.path.unlink(missing_ok=True)
            return
        with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


class WandbRun(WandbLogger):
    """A run at Weights & Biases. The log reports the first failure there; no failure stops the training.

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
        wandb_settings(self).pop("anonymous")  # newer versions warn of it
        self.offline = offline
        self._failed = False

    def begin(self, goes_on: bool, group: str | None = None, name: str | None = None) -> None:
        """Start the run.

        Parameters
        ----------
        goes_on : whether the run of the folder goes on; it then keeps its id.
        group, name : of the run, unless it has one.

        Raises
        ------
        InputError : if Weights & Biases does not know the user.
        """
        import wandb

        kept, settings = Path(str(self.save_dir)) / "wandb" / "run_id.txt", wandb_settings(self)
        if settings["id"] is None:
            settings["id"] = run_id = kept.read_text().strip() if goes_on and kept.is_file() else secrets.token_hex(4)
            with atomic_write(kept) as temporary:
                temporary.write_text(run_id)
        settings["group"], settings["name"] = settings["group"] or group, settings["name"] or name
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)
        if self.offline:
            settings["mode"] = "offline"
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
            settings["mode"] = "offline"
            with self._spared():
                wandb.teardown()  # the run that failed to start still holds the id
                _ = self.experiment

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Let the training go on whatever fails in the block; log the first failure only."""
        try:
            yield
        except Exception as error:
            if not self._failed:
                log.warning("Weights & Biases failed (%s); the command goes on", " ".join(str(error).split())[:200])
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

    def send_results(self, folder: Path, rows: Sequence[Row]) -> None:
        """Send a result folder: its table and figures to look at, and all of it but the images as an artifact."""
        import wandb

        with self._spared():
            run = self.experiment
            table = wandb.Table([field.name for field in fields(Row)], [list(astuple(row)) for row in rows])
            kept = wandb.Artifact(f"results-{run.id}", type="results")
            shown: dict[str, Any] = {"results": table}
            for path in _to_send(folder):
                kept.add_file(str(path), path.relative_to(folder).as_posix())
                if path.suffix == ".png":
                    shown[f"figures/{path.stem}"] = wandb.Image(str(path))
            run.log(shown)
            run.log_artifact(kept)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Send the checkpoint if ``log_model`` is on."""
        with self._spared():
            super().after_save_checkpoint(checkpoint_callback)

    def finalize(self, status: str) -> None:
        """Send the checkpoints if ``log_model`` is on."""
        with self._spared():
            super().finalize(status)


def send_results(loggers: Iterable[Any], folder: Path, rows: Sequence[Row]) -> None:
    """Send the means, the table, the figures and the report of a result folder to the loggers.

    Weights & Biases keeps ``results.csv``, figures and report as an artifact. TensorBoard shows no HTML, so it gets the
    path of the report.
    """
    values = {f"{rows[0].split}/{name}": _mean([getattr(row, name) for row in rows]) for name in _MEANS}
    for logger in loggers:
        logger.log_metrics(values)
        if isinstance(logger, WandbRun):
            logger.send_results(folder, rows)
        elif isinstance(logger, TensorBoardLogger):
            report = folder / "report.html"
            text = markdown_table(rows) + (f"\nThe report: {report}\n" if report.is_file() else "")
            logger.experiment.add_text("results", text)
            for path in _to_send(folder):
                if path.suffix == ".png":
                    with Image.open(path) as picture:
                        pixels = np.asarray(picture.convert("RGB"))
                    logger.experiment.add_image(f"figures/{path.stem}", pixels, dataformats="HWC")
        logger.finalize("success")


def _mean(values: Sequence[float]) -> float:
    """Return the mean of what is known; NaN if nothing is."""
    return float(np.mean([value for value in values if not math.isnan(value)] or [math.nan]))


def _to_send(folder: Path) -> list[Path]:
    """Return the files of a result folder that tell of the whole: the table, the figures and the report."""
    found = [folder / RESULTS, *sorted((folder / "figures").glob("*.png")), folder / "report.html"]
    return [path for path in found if path.is_file()]


def finish(loggers: Iterable[Any], exit_code: int) -> None:
    """End the runs at Weights & Biases, as failed ones unless ``exit_code`` is 0.

    The next job of a sweep runs in the same process and then begins a run of its own.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and (run := wandb_run(logger)) is not None:
            try:
                run.finish(exit_code=exit_code)
            except Exception as error:
                log.warning("Weights & Biases did not take the end of the run (%s)", " ".join(str(error).split())[:200])
