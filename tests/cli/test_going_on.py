"""From which files a run can go on, and what it says of them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from spinwarp.cli import resume
from spinwarp.errors import InputError
from spinwarp.losses import L1Loss
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.training import UNetModule

CONFIG: dict[str, Any] = {
    "model": {
        "net": {"channels": 2},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.9, 0.999]},
    },
    "data": {"batch_size": 1, "num_workers": 0, "seed": 0},
    "mask": {"accelerations": [4]},
    "trainer": {"max_epochs": 4, "max_steps": 100, "log_every_n_steps": 10},
    "callbacks": {
        "early_stopping": {"monitor": "val/ssim", "mode": "max", "patience": 20},
        "best": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "here"},
    },
    "seed": 42,
    "ckpt_path": None,
}


@pytest.fixture
def module() -> UNetModule:
    return UNetModule(MagnitudeUNet(channels=2, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3))


def checkpoint(folder: Path, module: UNetModule, **changes: Any) -> str:
    content = {
        "state_dict": module.state_dict(), "optimizer_states": [], "lr_schedulers": [], "loops": {},
        "epoch": 3, "global_step": 7, "spinwarp": {"config": CONFIG}, **changes,
    }  # fmt: skip
    torch.save({key: value for key, value in content.items() if value is not None}, folder / "last.ckpt")
    return str(folder / "last.ckpt")


def config(**changes: Any) -> DictConfig:
    return OmegaConf.merge(CONFIG, changes)  # type: ignore[return-value]


def test_last_is_the_last_checkpoint_of_the_run_folder_if_there_is_one(tmp_path: Path) -> None:
    assert resume.checkpoint_of("last", tmp_path) is None
    last = resume.last_checkpoint(tmp_path)
    last.parent.mkdir()
    last.touch()
    assert resume.checkpoint_of("last", tmp_path) == str(last)
    assert resume.checkpoint_of("elsewhere.ckpt", tmp_path) == "elsewhere.ckpt"
    assert resume.checkpoint_of(None, tmp_path) is None


def test_the_step_that_training_goes_on_from_is_told(tmp_path: Path, module: UNetModule) -> None:
    path = checkpoint(tmp_path, module)
    sentences, used = resume.check(path, module, config())
    assert sentences == [f"going on from step 7 (epoch 3) of {path}"]
    assert used == CONFIG


def test_what_takes_effect_of_what_is_set_otherwise_is_named_and_what_does_not(
    tmp_path: Path, module: UNetModule
) -> None:
    path = checkpoint(tmp_path, module)
    changes = {
        "data": {"batch_size": 2, "num_workers": 3}, "mask": {"accelerations": [4, 8]}, "seed": 1, "ckpt_path": path,
        "trainer": {"max_epochs": 9, "log_every_n_steps": 1},
        "model": {"net": {"dropout": 0.1}, "optimizer": {"lr": 1e-5, "betas": [0.5, 0.9]}, "reference_batch": 8},
        "callbacks": {"early_stopping": {"patience": 50}, "best": {"dirpath": "elsewhere"}, "panel": {"n_examples": 1}},
    }  # fmt: skip
    (_, effective, kept), used = resume.check(path, module, config(**changes))
    assert effective == (
        "the run continues with other settings: data.batch_size=2 (was 1), mask.accelerations=[4, 8] (was [4]), "
        "model.net.dropout=0.1 (was None), trainer.max_epochs=9 (was 4)"
    )
    assert kept == (
        "the checkpoint restores these settings, so changing them has no effect: callbacks.early_stopping.patience "
        "stays 20 (not 50), model.optimizer.betas stays [0.9, 0.999] (not [0.5, 0.9]), model.optimizer.lr stays 0.001 "
        "(not 1e-05), model.reference_batch stays None (not 8), seed stays 42 (not 1)"
    )
    # what is recorded is what is used, so that a run that goes on from this one compares with that
    assert used["model"]["optimizer"] == CONFIG["model"]["optimizer"]
    assert (used["seed"], used["callbacks"]["early_stopping"]["patience"]) == (42, 20)
    assert (used["trainer"]["max_epochs"], used["data"]["batch_size"]) == (9, 2)


@pytest.mark.parametrize(
    ("stopping", "words"),
    [
        ({"patience": 50, "monitor": "val/loss"}, "callbacks.early_stopping.patience=50 (was 20)"),
        (None, "callbacks.early_stopping.patience=None (was 20)"),
    ],
)
def test_early_stopping_that_begins_anew_has_the_new_patience(
    tmp_path: Path, module: UNetModule, stopping: Any, words: str
) -> None:
    changed = config()
    changed.callbacks.early_stopping = (
        None if stopping is None else {**CONFIG["callbacks"]["early_stopping"], **stopping}
    )
    (_, effective), _ = resume.check(checkpoint(tmp_path, module), module, changed)
    assert words in effective


def test_another_optimizer_cannot_go_on(tmp_path: Path, module: UNetModule) -> None:
    sgd = config(model={"optimizer": {"_target_": "torch.optim.SGD"}})
    with pytest.raises(InputError, match=r"holds the state of torch\.optim\.Adam, which torch\.optim\.SGD cannot use"):
        resume.check(checkpoint(tmp_path, module), module, sgd)


def test_a_checkpoint_that_says_nothing_of_its_run_is_gone_on_from(tmp_path: Path, module: UNetModule) -> None:
    sentences, used = resume.check(checkpoint(tmp_path, module, spinwarp=None), module, config(seed=1))
    assert len(sentences) == 1 and used["seed"] == 1


@pytest.mark.parametrize("where", ["state_dict", "optimizer_states"])
def test_a_checkpoint_of_a_training_that_diverged_is_refused(tmp_path: Path, module: UNetModule, where: str) -> None:
    spoilt = module.state_dict()
    name = next(iter(spoilt))
    moments = {
        0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.tensor([0.0, float("inf")])}
    }
    changes: dict[str, Any] = {"optimizer_states": [{"state": moments, "param_groups": []}]}
    if where == "state_dict":
        changes = {"state_dict": {**spoilt, name: torch.full_like(spoilt[name], float("nan"))}}
    with pytest.raises(
        InputError, match=r"last\.ckpt has NaN or infinite weights \((net\.|exp_avg_sq of the optimizer)"
    ):
        resume.check(checkpoint(tmp_path, module, **changes), module, config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict": {"net.weight": torch.ones(2)}}, r"last\.ckpt is not a checkpoint of this model"),
        ({"state_dict": [1]}, r"last\.ckpt is not a checkpoint of this model"),
        ({"optimizer_states": None}, r"last\.ckpt holds weights alone"),
        ({"epoch": 5}, r"has been trained for 5 epochs; set trainer\.max_epochs to more than 4"),
        ({"global_step": 101}, r"has been trained for 101 steps; set trainer\.max_steps to more than 100"),
    ],
)
def test_a_file_that_training_cannot_go_on_from_is_refused(
    tmp_path: Path, module: UNetModule, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resume.check(checkpoint(tmp_path, module, **changes), module, config())


def test_a_path_to_nothing_is_refused(tmp_path: Path, module: UNetModule) -> None:
    with pytest.raises(InputError, match=r"there is no checkpoint .* to go on from; .* or ckpt_path=last with hydra"):
        resume.check(str(tmp_path / "absent.ckpt"), module, config())
