"""train.py from end to end: what it leaves, what it says to wrong input, how it goes on, and Ctrl-C."""

import csv
import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from command_calls import QUIET, ROOT, TINY, TINY_UNET, Command, call, leftovers, start

pytestmark = QUIET


@pytest.mark.slow
def test_training_leaves_what_it_promises(trained: Path) -> None:
    assert trained.name.endswith("_unet_small_equispaced_4x")
    assert {"best.ckpt", "last.ckpt"} == {path.name for path in (trained / "checkpoints").iterdir()}
    assert (trained / ".hydra" / "overrides.yaml").is_file()
    with (trained / "metrics" / "metrics.csv").open() as stream:
        columns = next(csv.reader(stream))
    assert {"val/ssim", "val/psnr", "val/nmse", "val/loss", "lr-Adam"} <= set(columns)
    panels = sorted((trained / "panels").iterdir())
    assert [panel.name for panel in panels] == ["step_000004.png", "step_000008.png"]
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["spinwarp"]["name"] == "unet_small"
    assert content["spinwarp"]["trained_on"]["volumes"] == ["phantom_train_0000.h5", "phantom_train_0001.h5"]
    json.dumps(content["spinwarp"])  # plain Python throughout
    assert not list(trained.rglob("*.part"))


@pytest.mark.slow
def test_models_train_with_masks_in_one_sweep(environment: dict[str, str], tmp_path: Path) -> None:
    # each model with each data set is trained elsewhere; this is the sweep
    models, masks = ("unet_small", "varnet_image"), ("equispaced_4x", "random_8x")
    overrides = [*TINY, f"model={','.join(models)}", f"mask={','.join(masks)}", "trainer=debug"]
    done = call(
        {**environment, "SPINWARP_RUNS": str(tmp_path)}, ROOT / "train.py", "-m", *overrides, "callbacks.progress=null",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    (sweep,) = (tmp_path / "sweep").iterdir()
    jobs = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    expected = [f"{m}_{k}" for m in models for k in masks]
    assert [job.partition("_")[2] for job in jobs] == expected
    for job in jobs:
        content = torch.load(sweep / job / "checkpoints" / "last.ckpt", weights_only=True)
        assert f"_{content['spinwarp']['name']}_" in job
        assert content["global_step"] == 2
        assert all(torch.isfinite(value).all() for value in content["state_dict"].values())


def test_training_without_callbacks_and_loggers_ends_well(command: Command, tmp_path: Path) -> None:
    done = command("train", *TINY, *TINY_UNET, "trainer=debug", "callbacks=none", "logger=none")
    assert done.code == 0, done.err
    assert not list(tmp_path.rglob("*.csv"))


def test_one_callback_can_be_switched_off(command: Command, tmp_path: Path) -> None:
    done = command("train", *TINY, *TINY_UNET, "trainer=debug", "callbacks.panel=null", "callbacks.progress=null")
    assert done.code == 0, done.err
    assert list(tmp_path.rglob("last.ckpt")) and not list(tmp_path.rglob("*.png"))


# --------------------------------------------------------------------------------- what is misspelt or cannot be


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("modle=unet_small", "modle"),
        ("model=untt", "untt"),
        ("mask=equispaced_5x", "equispaced_5x"),
        ("experiment=demo", "demo"),
        ("trainer.max_epoch=1", "max_epoch"),
        ("model.net.n_cascade=2", "n_cascade"),
        ("data.source.files.n_trian=2", "n_trian"),
        ("data.source.snr=2", "snr"),
        ("model unet", "model unet"),
    ],
)
def test_a_misspelt_group_option_or_key_is_named_and_nothing_is_written(
    command: Command, tmp_path: Path, override: str, names: str
) -> None:
    done = command("train", *TINY, override)
    assert done.code == 1
    assert names in done.err
    assert "Traceback" not in done.err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mask.center_fractions=[0.5]"], r"center_fraction=0.5 at acceleration=4 is impossible"),
        (["mask.center_fractions=[0.25]"], r"center_fraction=0.25 at acceleration=4 is impossible"),
        (["mask.accelerations=[4,8]"], "a mask needs one center_fraction for each acceleration"),
        (["mask.accelerations=[0]"], "an acceleration is at least 1; got 0"),
        (["mask.accelerations=[40]", "mask.center_fractions=[0]"], "64 columns are too few for a mask of acceleration"),
        (
            ["data.maps=esprit"],
            "data.maps=esprit is not low_resolution, espirit or none, nor a file or folder of coil maps",
        ),
        (["data.batch_size=0"], "data.batch_size is at least 1; got 0"),
        (["data.volume_sample_rate=0"], "data.volume_sample_rate is a fraction above 0"),
        (["data.edge_slices=1"], "the train split of phantom has no slices left"),
        (["data.source.files.height=8"], "height=8"),
        (["model.net.update_domain=imgae"], "update_domain='imgae' is not one of kspace, image"),
        (["model.net.n_cascades=0"], "a VarNet has at least one cascade; got n_cascades=0"),
        (["trainer.max_epochs=-1"], "training has no end"),
        (["ckpt_path=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["data=fastmri_knee_multicoil", "data.source.files.root=nowhere"], "no folder nowhere/multicoil_train"),
        (["data=fastmri_knee_multicoil", "data.source.files.train=null"], "this data set has no train folder"),
    ],
)
def test_a_value_that_cannot_be_ends_training_in_one_sentence(
    command: Command, tmp_path: Path, overrides: list[str], message: str
) -> None:
    fastmri = any("fastmri" in override for override in overrides)
    arguments = overrides if fastmri else [*TINY, *overrides]
    done = command("train", *arguments, "callbacks.progress=null")
    assert message in done.sentence
    assert not {name for name in leftovers(tmp_path) if name.endswith((".ckpt", ".part", ".png"))}


def test_a_sweep_over_several_devices_a_job_is_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # should the refusal be lost, no process may start
    monkeypatch.setattr("lightning.Trainer.fit", lambda *_, **__: pytest.fail("training began"))
    done = command("train", "-m", *TINY, "model=unet_small,varnet_small", "trainer.devices=2")
    assert "a multirun with trainer.devices=2 would start the whole sweep again in every process" in done.sentence
    assert leftovers(tmp_path) == []


# ---------------------------------------------------------------------------------------- going on, and the end


@pytest.mark.parametrize("kind", ["another model", "not a checkpoint"])
def test_going_on_from_the_checkpoint_of_something_else_ends_in_one_sentence(
    command: Command, trained: Path, tmp_path: Path, kind: str
) -> None:
    path = trained / "checkpoints" / "last.ckpt"
    if kind == "not a checkpoint":
        path = tmp_path / "other.ckpt"
        path.write_bytes(b"hello")
    done = command("train", *TINY, "model=naive_cnn", f"ckpt_path={path}", "callbacks.progress=null")
    assert path.name in done.sentence


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_going_on_from_a_run_that_had_ended_has_nothing_to_do(command: Command, trained: Path) -> None:
    path = trained / "checkpoints" / "last.ckpt"
    overrides = ["trainer.max_epochs=2", f"ckpt_path={path}", "callbacks.progress=null"]
    assert command("train", *TINY, *TINY_UNET, *overrides).code == 0


def test_a_full_disk_ends_training_in_one_sentence_and_leaves_the_checkpoint_before(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("spinwarp.training.checkpoints.os.fsync", fsync)
    overrides = ["callbacks.progress=null", "callbacks.last.minutes=0", f"hydra.run.dir={tmp_path / 'run'}"]
    done = command("train", *TINY, *TINY_UNET, *overrides)
    assert "the disk is full; make room, and continue from the last whole checkpoint with ckpt_path" in done.sentence
    (last,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert torch.load(last, weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_ctrl_c_ends_training_with_a_checkpoint_to_go_on_from(environment: dict[str, str], tmp_path: Path) -> None:
    overrides = [*TINY, *TINY_UNET, "trainer.max_epochs=100000", "callbacks.early_stopping=null"]
    process = start({**environment, "SPINWARP_RUNS": str(tmp_path)}, ROOT / "train.py", *overrides, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("last.ckpt")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in out + err
    (last,) = tmp_path.rglob("last.ckpt")
    assert f"interrupted; continue with ckpt_path={last}" in out
    content = torch.load(last, weights_only=True)
    assert content["global_step"] > 0
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())
    assert not list(tmp_path.rglob("*.part"))
