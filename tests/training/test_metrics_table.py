"""The table of metrics of a run that goes on, and of one that begins."""

import csv
from pathlib import Path

from spinwarp.training.loggers import MetricsTable


def test_the_table_goes_on_at_the_step_of_the_checkpoint_with_columns_old_and_new(tmp_path: Path) -> None:
    first = MetricsTable(str(tmp_path))
    for step in range(5):
        first.log_metrics({"loss": 0.5, "rate": 1.0}, step)
    first.save()
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "0.5,1")  # the beginning of row 17, which a kill has cut
    second = MetricsTable(str(tmp_path))
    second.drop_from(3)
    second.log_metrics({"loss": 0.25, "ssim": 0.9}, 3)
    second.save()
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["loss"] for row in rows] == ["0.5", "0.5", "0.5", "0.25"]
    assert [row["ssim"] for row in rows] == ["", "", "", "0.9"]
    assert [row["rate"] for row in rows] == ["1.0", "1.0", "1.0", ""]


def test_a_new_run_begins_a_new_table(tmp_path: Path) -> None:
    for _ in range(2):
        logger = MetricsTable(str(tmp_path))
        logger.drop_from(0)
        logger.log_metrics({"loss": 0.5}, 0)
        logger.save()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
