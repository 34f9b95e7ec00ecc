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

CONFIG = {
    "model": {"net": {"channels": 2}},
    "data": {"batch_size": 1, "num_workers": 0, "seed": 0},
    "mask": {"accelerations": [4]},
    "trainer": {"max_epochs": 4, "log_every_n_steps": 10},
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
    assert resume.check(path, module, config()) == [f"going on from step 7 (epoch 3) of {path}"]


def test_what_is_set_otherwise_than_it_was_is_named(tmp_path: Path, module: UNetModule) -> None:
    path = checkpoint(tmp_path, module)
    changes = {
        "data": {"batch_size": 2, "num_workers": 3}, "mask": {"accelerations": [4, 8]}, "seed": 1, "ckpt_path": path,
        "trainer": {"max_epochs": 9, "log_every_n_steps": 1},
    }  # fmt: skip
    (_, sentence) = resume.check(path, module, config(**changes))
    assert sentence == (
        "this is not the run continued as it was: data.batch_size=2 (was 1), mask.accelerations=[4, 8] (was [4]), "
        "seed=1 (was 42), trainer.max_epochs=9 (was 4)"
    )


def test_a_checkpoint_that_says_nothing_of_its_run_is_gone_on_from(tmp_path: Path, module: UNetModule) -> None:
    assert len(resume.check(checkpoint(tmp_path, module, spinwarp=None), module, config())) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict": {"net.weight": torch.ones(2)}}, r"last\.ckpt is not a checkpoint of this model"),
        ({"state_dict": [1]}, r"last\.ckpt is not a checkpoint of this model"),
        ({"optimizer_states": None}, r"last\.ckpt holds weights alone"),
        ({"epoch": 5}, r"has been trained for 5 epochs; set trainer\.max_epochs to more than 4"),
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
