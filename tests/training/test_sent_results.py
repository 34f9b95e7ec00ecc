"""A result folder as TensorBoard and Weights & Biases get it, the latter offline: what lies on the disk afterwards."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from PIL import Image

from spinwarp.cli.loggers import result_loggers
from spinwarp.errors import InputError
from spinwarp.parallel import processes
from spinwarp.results import RESULTS, Row, read_rows, write_rows
from spinwarp.training.loggers import WandbRun, finish, send_results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two volumes, one of which has no SSIM; a figure whose first pixel is red; a report."""
    made = tmp_path / "results"
    measured = ("knee", "test", "phantom", "equispaced_4x", 4.0, 3.9)
    rows = [
        Row("tv", *measured, "a.h5", 2, "rss", "8x8", 0.1, 30.0, 0.9, 0.5, "abc"),
        Row("tv", *measured, "b.h5", 2, "rss", "8x8", 0.3, 20.0, float("nan"), 0.5, "abc"),
    ]
    write_rows(made / RESULTS, rows)
    (made / "figures").mkdir()
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = (255, 0, 0)
    Image.fromarray(pixels).save(made / "figures" / "a_001.png")
    (made / "report.html").write_text("<p>the report</p>")
    return made


def test_tensorboard_gets_the_means_the_table_and_the_figures(folder: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the extra spinwarp[tensorboard] is not installed",
    )
    send_results([TensorBoardLogger(tmp_path / "logs", name="", version="")], folder, read_rows(folder / RESULTS))
    events = accumulator.EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    values = {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]}
    assert values["test/psnr"] == 25.0 and values["test/ssim"] == pytest.approx(0.9)  # of what is known
    picture = events.Images("figures/a_001")[0]
    assert (picture.width, picture.height) == (6, 4)
    text = events.Tensors("results/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| tv |" in text and str(folder / "report.html") in text


def test_weights_and_biases_keeps_table_figures_and_report(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    logger = WandbRun(str(tmp_path / "run"))
    logger.begin(goes_on=False, name="tv equispaced_4x knee")
    send_results([logger], folder, read_rows(folder / RESULTS))
    run = Path(logger.experiment.dir)
    finish([logger], 0)
    assert logger.experiment.name == "tv equispaced_4x knee"
    (table,) = (run / "media" / "table").glob("results_*.table.json")
    rows = json.loads(table.read_text())
    assert [dict(zip(rows["columns"], r, strict=True))["volume"] for r in rows["data"]] == ["a.h5", "b.h5"]
    (figure,) = (run / "media" / "images" / "figures").glob("a_001_*.png")
    with Image.open(figure) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)
    kept = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert b"<p>the report</p>" in kept and (folder / RESULTS).read_bytes() in kept


def test_torchrun_is_refused_before_the_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, loud = OmegaConf.create({"logger": {}}), OmegaConf.create({"logger": {"a": {"_target_": "builtins.object"}}})
    assert len(result_loggers(loud)) == 1
    monkeypatch.setattr(processes, "place", lambda: SimpleNamespace(world=2))
    assert result_loggers(quiet) == []
    with pytest.raises(InputError, match="torchrun and srun; take processes=N"):
        result_loggers(loud)
