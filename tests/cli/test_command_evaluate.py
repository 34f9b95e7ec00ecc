"""evaluate.py from end to end: tables, figures and reports, checkpoints that are wrong, and predicted deviations."""

import csv
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from command_calls import QUIET, ROOT, TINY, Command, call, leftovers, report_of

from spinwarp.results import Row, read_rows

pytestmark = QUIET

WEIGHTS = {"net.layers.0.weight": torch.ones(1)}


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_into_a_table_images_and_figures(
    environment: dict[str, str], trained: Path, command: Command, tmp_path: Path
) -> None:
    checkpoint = trained / "checkpoints" / "best.ckpt"
    overrides = [*TINY, "recon=checkpoint", f"recon.path={checkpoint}", f"out={tmp_path / 'unet'}"]
    done = call(environment, ROOT / "evaluate.py", *overrides, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "unet_small" in done.out and "SSIM" in done.out
    done = command("evaluate", *TINY, f"out={tmp_path / 'zf'}")
    assert done.code == 0, done.err
    rows = []
    for folder, method in (("unet", "unet_small"), ("zf", "zero_filled")):
        with (tmp_path / folder / "results.csv").open() as stream:
            found = list(csv.DictReader(stream))
        assert list(found[0]) == [field.name for field in fields(Row)]
        assert [row["volume"] for row in found] == ["phantom_test_0000.h5", "phantom_test_0001.h5"]
        for row in found:
            assert (row["method"], row["dataset"], row["split"]) == (method, "phantom", "test")
            assert (row["provenance"], row["mask"]) == ("phantom", "equispaced_4x")
            assert (row["acceleration_nominal"], row["target_type"], row["crop"]) == ("4.0", "rss", "64x64")
            assert 3 < float(row["acceleration"]) < 5
            assert float(row["seconds_per_slice"]) > 0
        rows.append(found)
        for name in ("phantom_test_0000.h5", "phantom_test_0001.h5"):
            with h5py.File(tmp_path / folder / "reconstructions" / name) as file:
                assert file["reconstruction"].shape == (2, 64, 64)
        figures = sorted((tmp_path / folder / "figures").iterdir())
        assert figures and all(path.suffix == ".png" for path in figures)
    # the same input whatever the method
    assert [row["input_sha256"] for row in rows[0]] == [row["input_sha256"] for row in rows[1]]
    joined = call(environment, "-m", "spinwarp.figures", "zf", "unet", "--out", "both", cwd=tmp_path)
    assert joined.code == 0, joined.err
    assert "zero_filled" in joined.out and "unet_small" in joined.out
    assert {"results.csv", "results.md"} < {path.name for path in (tmp_path / "both").iterdir()}
    assert list((tmp_path / "both").rglob("*.png"))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_the_metrics_of_training_are_those_of_its_checkpoint_evaluated(
    trained: Path, command: Command, tmp_path: Path
) -> None:
    with (trained / "metrics" / "metrics.csv").open() as stream:
        logged = [row for row in csv.DictReader(stream) if row["val/ssim"]]
    best = max(logged, key=lambda row: float(row["val/ssim"]))
    checkpoint = trained / "checkpoints" / "best.ckpt"
    done = command("evaluate", *TINY, "split=val", "recon=checkpoint", f"recon.path={checkpoint}", f"out={tmp_path}")
    assert done.code == 0, done.err
    with (tmp_path / "results.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    for name in ("ssim", "psnr", "nmse"):
        assert float(row[name]) == pytest.approx(float(best[f"val/{name}"]), rel=1e-5)  # logged in single precision


def test_the_report_of_an_evaluation_has_all_slices_and_its_logger_the_means(command: Command, tmp_path: Path) -> None:
    done = command("evaluate", *TINY, "report=true", "out=results", "logger=csv", "hydra.run.dir=run")
    assert done.code == 0, done.err
    head = report_of(tmp_path / "results" / "report.html")
    assert [volume["slices"] for volume in head["volumes"]] == [[0, 1], [0, 1]]
    rows = read_rows(tmp_path / "results" / "results.csv")
    for volume, row in zip(head["volumes"], rows, strict=True):
        # slices of one size: the mean squared error of the volume is the mean of theirs
        errors = [10 ** (-psnr / 10) for psnr in volume["psnr"][0]]
        assert -10 * np.log10(np.mean(errors)) == pytest.approx(row.psnr, abs=1e-4)
    assert head["warnings"] == ["all 2 volumes are computed by a program, not measured on a person"]
    with (tmp_path / "run" / "metrics" / "metrics.csv").open(newline="") as file:
        (logged,) = csv.DictReader(file)
    assert float(logged["test/psnr"]) == pytest.approx(np.mean([row.psnr for row in rows]))


def test_evaluating_on_what_was_trained_on_warns(command: Command, trained: Path, tmp_path: Path) -> None:
    overrides = ["recon=checkpoint", f"recon.path={trained / 'checkpoints' / 'best.ckpt'}"]
    done = command("evaluate", *TINY, *overrides, "split=train", "out=seen", "n_examples=0")
    assert done.code == 0
    assert "trained on 2 of the 2 volumes that it is evaluated on" in done.out
    done = command("evaluate", *TINY, *overrides, "split=val", "out=unseen", "n_examples=0")
    assert "trained on" not in done.out


# ---------------------------------------------------------------------------------------------- what is refused


def test_a_split_that_does_not_exist_is_refused(command: Command, tmp_path: Path) -> None:
    assert "split='tset' is not one of train, val, test" in command("evaluate", *TINY, "split=tset").sentence
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty; copy or download it again"),
        (b"hello", "cannot be loaded as plain weights"),
        ([1, 2], "holds a list; a dictionary of weights is expected"),
        ({"state_dict": {}}, "is not a checkpoint of spinwarp's train.py"),
        ({"spinwarp": {"net": {"_target_": "os.system", "command": "true"}}, "state_dict": WEIGHTS}, "wants to build"),
        ({"spinwarp": {"net": {"_target_": "spinwarp.models.unet.UNett"}}, "state_dict": WEIGHTS}, "cannot build"),
        (
            {
                "spinwarp": {"net": {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 2, "pools": 2}},
                "state_dict": WEIGHTS,
            },
            "do not fit the network that it describes",
        ),
    ],
)
def test_a_file_that_is_no_checkpoint_of_this_network_is_refused(
    command: Command, tmp_path: Path, content: Any, message: str
) -> None:
    path = tmp_path / "some.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    done = command("evaluate", *TINY, "recon=checkpoint", f"recon.path={path}", "out=result")
    assert message in done.sentence
    assert "some.ckpt" in done.sentence or "the checkpoint" in done.sentence or "cannot build" in done.sentence
    assert not (tmp_path / "result").exists()


def test_a_checkpoint_of_ours_is_no_weights_of_fastmri_and_the_message_says_what_to_use(
    command: Command, trained: Path
) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    done = command("evaluate", *TINY, "recon=fastmri_weights", f"recon.path={path}")
    assert "is a checkpoint of spinwarp; use recon=checkpoint" in done.sentence


def test_a_truncated_checkpoint_is_refused(command: Command, trained: Path, tmp_path: Path) -> None:
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    done = command("evaluate", *TINY, "recon=checkpoint", f"recon.path={tmp_path / 'cut.ckpt'}")
    assert "cut.ckpt cannot be loaded as plain weights" in done.sentence


# ----------------------------------------------------------------------------------------- predicted deviations


WITH_STD = ["recon._target_=with_std.WithStd", "save_reconstructions=false"]


def test_predictions_are_scaled_by_the_calibration_of_another_split(
    command: Command, measured: Path, tmp_path: Path
) -> None:
    done = command("evaluate", *TINY, *WITH_STD, "split=val", "out=val")
    assert done.code == 0, done.err
    assert (tmp_path / "val" / "calibration.json").exists()
    conformal = ["conformal=val", "conformal_level=0.5"]  # a single volume promises half at most
    done = command("evaluate", *TINY, *WITH_STD, *conformal, "out=test")
    assert done.code == 0, done.err
    assert "hold 50 % of the foreground, by 1 volumes of phantom" in done.out
    assert "promise nothing" not in done.out and "says nothing" not in done.out
    (row, _) = read_rows(tmp_path / "test" / "results.csv")
    (plain,) = read_rows(tmp_path / "val" / "results.csv")
    assert row.method == "zero_filled conformal" and row.coverage > plain.coverage
    assert any(path.name.startswith("reliability") for path in (tmp_path / "test" / "figures").iterdir())
    # the message says what promises nothing
    done = command("evaluate", *TINY, *WITH_STD, *conformal, "out=same", "split=val", "mask=random_4x")
    assert "was calibrated on 1 volumes of phantom, mask equispaced_4x; on another data set or mask" in done.out
    assert "calibrated on 1 of the 1 volumes that are evaluated (phantom_val_0000" in done.out
    # and a file without a reference gets its intervals
    done = command("reconstruct", f"input={measured}", WITH_STD[0], *conformal, "mask=equispaced_4x", "out=scan")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "scan" / measured.name) as file:
        assert sorted(file) == ["half_width", "reconstruction", "std"]
        assert file["half_width"].attrs["level"] == 0.5
        # the half of a Gaussian lies within .6744898 deviations; float32
        np.testing.assert_allclose(file["half_width"][()], 0.6744898 * file["std"][()], rtol=1e-6)


def test_a_calibration_that_does_not_fit_ends_in_one_sentence(command: Command, tmp_path: Path) -> None:
    assert command("evaluate", *TINY, *WITH_STD, "split=val", "out=val", "n_examples=0").code == 0
    for overrides, message in [
        (["conformal=nowhere"], "nowhere/calibration.json does not exist"),
        (["conformal=val"], "a coverage of 0.9 needs at least 9 calibration volumes, got 1"),
        (["conformal=val", "method=other"], "val/calibration.json calibrates the method zero_filled, not other"),
        (["conformal=val", "conformal_level=90"], "conformal_level=90 is not a coverage"),
    ]:
        assert message in command("evaluate", *TINY, *WITH_STD, *overrides, "out=test").sentence
    assert not (tmp_path / "test" / "results.csv").exists()


def test_any_method_predicts_a_deviation_by_sure_and_a_regular_mask_is_refused(
    command: Command, tmp_path: Path
) -> None:
    options = ["evaluate", *TINY, "uncertainty=sure", "uncertainty.n_probes=2", "split=val", f"out={tmp_path}"]
    assert "uncertainty=sure needs lines that are drawn independently" in command(*options).sentence
    done = command(*options, "mask=random_4x")
    assert done.code == 0, done.err
    assert "coverage" in done.out
    (row,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert 0 < float(row["coverage"]) <= 1
