"""The table of metrics, which a resumed run goes on with."""

import csv
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from spinwarp.files import whole_file


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
