"""A run that was stopped and taken up again is the run that would have been, bit for bit."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from short_runs import BATCHES, QUIET, numpy_noise, run, score, unet

from spinwarp.losses import L1Loss
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.training import UNetModule
from spinwarp.training.base import NetworkModule

pytestmark = QUIET

# the run folders differ; the score validated last is stored by Lightning, but neither restored nor used
APART = ("_path", "dirpath", "best_k_models", "current_score")


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Everything of a checkpoint, to the bit: weights, averages, optimizer, schedule, counters, callbacks."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        keys = {key for key in one if not str(key).endswith(APART)}
        assert keys == {key for key in other if not str(key).endswith(APART)}, place
        for key in keys:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{place}[{i}]")
    else:
        assert one == other, place


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics" / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


# what is on the disk is of the step before: a run that is stopped within its third batch goes on from the second step
STOPS = [
    (score, (3,), {}),  # within the first epoch
    (unet, (6,), {}),  # in its last batch
    (score, (7, 1, 3), {}),  # at its end; again and again, once without a single step
    (numpy_noise, (13, 6), {}),
    (unet, (3, 8), {"workers": 2}),  # which have prepared batches that nobody has trained
    (unet, (5, 7), {"val_check_interval": 2}),  # at validations within an epoch
    (unet, (7, 8), {"check_val_every_n_epoch": 2}),  # at the end of an epoch without one
    (score, (4, 4), {"accumulate_grad_batches": 2}),  # within what a step collects
    (unet, (7,), {"accumulate_grad_batches": 4}),  # the last step of an epoch has less to collect
    (unet, (5, 3), {"limit_train_batches": 4}),
    (unet, (5, 10), {"max_epochs": -1, "max_steps": 15}),  # ends within an epoch
]


# torch forks its workers; Python from 3.12 on warns of that in a process with threads
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(("make", "stops", "settings"), STOPS)
def test_a_run_that_was_stopped_ends_as_the_one_that_was_not(
    tmp_path: Path, make: Callable[[int], NetworkModule], stops: tuple[int, ...], settings: dict[str, Any]
) -> None:
    straight = run(tmp_path / "straight", make, **settings)
    for i, stop in enumerate(stops):
        run(tmp_path / "stopped", make, stop=stop, going_on=i > 0, **settings)
    resumed = run(tmp_path / "stopped", make, going_on=True, **settings)
    assert_same(straight, resumed)
    assert table(tmp_path / "stopped") == table(tmp_path / "straight")


def test_more_steps_after_an_end_within_an_epoch_are_those_that_would_have_followed(tmp_path: Path) -> None:
    endless: dict[str, Any] = {"max_epochs": -1}
    straight = run(tmp_path / "straight", numpy_noise, max_steps=15, **endless)
    for i, max_steps in enumerate((4, 12, 15)):
        resumed = run(tmp_path / "longer", numpy_noise, going_on=i > 0, max_steps=max_steps, **endless)
        assert resumed["global_step"] == max_steps
    assert_same(straight, resumed)


def test_the_best_checkpoint_can_be_gone_on_from_too(tmp_path: Path) -> None:
    """Lightning writes it within a validation."""
    straight = run(tmp_path / "straight", score, max_epochs=2)
    run(tmp_path / "stopped", score, stop=7, max_epochs=2)
    assert torch.load(tmp_path / "stopped" / "best.ckpt", weights_only=True)["global_step"] == BATCHES
    resumed = run(tmp_path / "stopped", score, going_on=True, max_epochs=2, ckpt="best.ckpt")
    assert_same(straight["state_dict"], resumed["state_dict"])
    assert_same(straight["optimizer_states"], resumed["optimizer_states"])


def test_the_learning_rate_that_is_said_is_the_one_of_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def of_rate(rate: float) -> Callable[[int], NetworkModule]:
        def make(seed: int) -> NetworkModule:
            seed_everything(seed, verbose=False)
            net = MagnitudeUNet(channels=2, pools=2)
            return UNetModule(net, L1Loss(), partial(torch.optim.Adam, lr=rate), reference_batch=4)

        return make

    with caplog.at_level("INFO", "spinwarp"):
        run(tmp_path, of_rate(1e-2), max_epochs=1)
        content = run(tmp_path, of_rate(1e-5), going_on=True, max_epochs=2)
    # a batch of two where the rate is for four
    assert (
        "effective batch size 2 (1 processes x batch 2 x accumulation 1), learning rate 0.005: 0.01 x 2/4"
        in caplog.text
    )
    assert "learning rate 0.005 of the checkpoint (a new run would have 5e-06)" in caplog.text
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(5e-3)  # there is no schedule


def test_a_run_that_had_stopped_early_stays_stopped_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    early = (EarlyStopping("val/loss", patience=1, min_delta=1e9, mode="max", check_on_train_epoch_end=False),)
    assert run(tmp_path, unet, callbacks=early, max_epochs=9)["global_step"] == 2 * BATCHES
    with caplog.at_level("INFO", "spinwarp"):
        assert run(tmp_path, unet, going_on=True, callbacks=early, max_epochs=9)["global_step"] == 2 * BATCHES
    assert "this run had stopped early and is at its end; callbacks.early_stopping=null lets it go on" in caplog.text
