"""Training whose loss is not finite ends with a sentence, and leaves no NaN on the disk."""

import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from memory import MemorySource
from torch import Tensor, nn

from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.losses import L1Loss
from spinwarp.masks import RandomMask
from spinwarp.models.gan import GAN, Discriminator
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.training import GANModule, UNetModule
from spinwarp.training.base import NetworkModule
from spinwarp.training.checkpoints import BestCheckpoint, LastCheckpoint, WholeCheckpoints
from spinwarp.training.divergence import LEAST_SCALE, SCALED_BATCHES, DivergenceCheck

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    # torch renamed a class that Lightning still asks for
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

BATCHES = 6  # an epoch of the twelve slices, two at a time


class NaNAt(UNetModule):
    """Multiplies the loss of one batch, counted over all epochs, by NaN or infinity."""

    def __init__(self, number: int, factor: float = float("nan")) -> None:
        super().__init__(MagnitudeUNet(channels=2, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
        self.number, self.factor, self.seen = number, factor, 0

    def training_step(self, example: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(example, batch_idx)
        self.seen += 1
        return loss * self.factor if self.seen == self.number else loss


def fit(module: NetworkModule, folder: Path, *callbacks: Callback, minutes: float = 5, **settings: Any) -> Trainer:
    seed_everything(0, verbose=False)
    mask = None if module.whole_images else RandomMask([0.16], [4])
    source = MemorySource({s: {f"{s}.h5": (12 if s == "train" else 2, (2, 32, 40))} for s in ("train", "val")})
    keep = [
        BestCheckpoint(folder, "best", monitor="val/ssim", mode="max", save_on_train_epoch_end=False),
        LastCheckpoint(str(folder), minutes=minutes),
    ]
    defaults: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 3, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "plugins": [WholeCheckpoints()], "callbacks": [*callbacks, *keep],
        "default_root_dir": folder, "num_sanity_val_steps": 0,
    }  # fmt: skip
    trainer = Trainer(**{**defaults, **settings})
    trainer.fit(module, datamodule=FastMRIDataModule(source, mask, batch_size=2))
    return trainer


def assert_finite(path: Path) -> int:
    """Every number of a checkpoint is finite; returns its step."""
    content = torch.load(path, weights_only=True)
    numbers = [*content["state_dict"].values()]
    numbers += [v for state in content["optimizer_states"][0]["state"].values() for v in state.values()]
    assert numbers and all(value.isfinite().all() for value in numbers)
    return int(content["global_step"])


# minutes=0 asks for a checkpoint after every step, as SIGTERM does after one
@pytest.mark.parametrize(("number", "minutes", "kept"), [(3, 5, None), (3, 0, 2), (9, 5, 6), (9, 0, 8), (6, 0, 5)])
def test_a_loss_that_is_nan_stops_training_and_its_weights_are_never_written(
    number: int, minutes: float, kept: int | None, tmp_path: Path
) -> None:
    epoch = (number - 1) // BATCHES
    # the weights are looked at before the loss where a checkpoint is due
    found = f"the (training loss|weights).* not finite (since|at) step {number} .*so training stopped.*lower model.opt"
    with pytest.raises(InputError, match=found) as error:
        fit(NaNAt(number), tmp_path, minutes=minutes)
    assert "trainer.gradient_clip_val=1.0" in str(error.value) and "model.optimizer.lr (here 0.001)" in str(error.value)
    if "loss" in str(error.value):
        assert f"(epoch {epoch})" in str(error.value)
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    assert (assert_finite(last) if last.exists() else None) == kept
    assert (assert_finite(best) if best.exists() else None) == (None if number <= BATCHES else BATCHES)


def test_an_infinite_loss_is_one_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loss is not finite since step 2 \(epoch 0\)"):
        fit(NaNAt(2, float("inf")), tmp_path, gradient_clip_val=1.0)


def test_without_validation_and_checkpoints_training_stops_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="since step 2 "):
        fit(NaNAt(2), tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[], enable_checkpointing=False)


def test_the_step_is_right_where_gradients_are_accumulated(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="since step 2 "):
        fit(NaNAt(4), tmp_path, accumulate_grad_batches=2)


def test_the_loss_of_two_players_is_watched(tmp_path: Path) -> None:
    module = GANModule(GAN((32, 40), 3, 4, 2), Discriminator(4, 2), partial(torch.optim.Adam, lr=1e30))
    with pytest.raises(InputError, match="not finite"):
        fit(module, tmp_path)


def test_a_gradient_that_is_nan_is_found_before_the_weights_are_written(tmp_path: Path) -> None:
    """The loss of the last step of an epoch is finite, and no later one says that the weights are not."""

    class Spoil(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
            if trainer.global_step == BATCHES - 1:
                next(module.parameters()).grad.fill_(float("nan"))

    with pytest.raises(InputError, match=r"not finite (after|at) step 6"):
        fit(NaNAt(0), tmp_path, Spoil(), max_epochs=1)
    assert not list(tmp_path.glob("*.ckpt"))
    with pytest.raises(InputError, match=r"the weights are not finite at step 6 \(net\.\w+"):
        fit(NaNAt(0), tmp_path, Spoil(), max_epochs=1, limit_val_batches=0)
    assert not list(tmp_path.glob("*.ckpt"))


# ------------------------------------------------------------------------------------- validation


class NaNMetric(UNetModule):
    """Its SSIM, or its validation loss, is NaN in some epochs."""

    def __init__(self, epochs: set[int], name: str = "ssim") -> None:
        super().__init__(MagnitudeUNet(channels=2, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
        self.epochs, self.name = epochs, name

    def on_validation_epoch_end(self) -> None:
        if self.current_epoch in self.epochs:
            found = self.metrics.compute()
            nan = torch.tensor(float("nan"))
            if self.name == "ssim":
                self.metrics.compute = lambda: {**found, "ssim": nan}  # type: ignore[method-assign]
            else:
                self.validation_loss.compute = lambda: nan  # type: ignore[method-assign]
        super().on_validation_epoch_end()
        self.metrics.__dict__.pop("compute", None)
        self.validation_loss.__dict__.pop("compute", None)


@pytest.mark.parametrize("epochs", [{0}, {1}, {0, 2}])
def test_a_metric_that_is_nan_is_never_the_best(
    epochs: set[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopping = EarlyStopping("val/ssim", mode="max", patience=5, check_finite=False)
    with caplog.at_level(logging.WARNING, "spinwarp"):
        trainer = fit(NaNMetric(epochs), tmp_path, stopping)
    assert trainer.current_epoch == 3
    assert [f"at step {6 * (epoch + 1)}" in caplog.text for epoch in range(3)] == [e in epochs for e in range(3)]
    best = trainer.checkpoint_callback
    assert isinstance(best, BestCheckpoint)
    assert best.best_model_score is not None and 0 < float(best.best_model_score) <= 1
    assert assert_finite(tmp_path / "best.ckpt") // BATCHES - 1 not in epochs


def test_a_run_whose_metric_was_never_finite_has_no_best_checkpoint(tmp_path: Path) -> None:
    trainer = fit(NaNMetric({0, 1, 2}), tmp_path)
    assert trainer.checkpoint_callback.best_model_score is None  # type: ignore[union-attr]
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


def test_a_validation_loss_that_is_nan_stops_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the validation loss is not finite after step 12 \(epoch 1\)"):
        fit(NaNMetric({1}, "loss"), tmp_path)
    assert assert_finite(tmp_path / "last.ckpt") == assert_finite(tmp_path / "best.ckpt") == BATCHES


# ------------------------------------------------------------------------------------- float16 skips single steps


def watched(losses: list[float], scale: float | None = None) -> None:
    """Show losses to a check that stands beside a loss scale."""
    scaler = None if scale is None else SimpleNamespace(get_scale=lambda: scale)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    alone = SimpleNamespace(reduce=lambda tensor, **_: tensor, root_device="cpu")
    trainer = SimpleNamespace(
        strategy=alone, precision="16-mixed", global_step=len(losses),
        precision_plugin=SimpleNamespace(scaler=scaler), accumulate_grad_batches=1, current_epoch=0,
        optimizers=[optimizer], gradient_clip_val=1.0,
    )  # fmt: skip
    check = DivergenceCheck()
    for loss in losses:
        check.see(torch.tensor(loss))
    check.check(trainer)


def test_with_a_loss_scale_only_a_long_row_of_nan_is_a_fault() -> None:
    nan = float("nan")
    watched([1.0, *[nan] * (SCALED_BATCHES - 1)], scale=1024.0)
    watched([*[nan] * SCALED_BATCHES, 1.0], scale=1024.0)
    with pytest.raises(InputError, match=r"since step 2 \(epoch 0\).*or trainer\.precision=32-true; trainer"):
        watched([1.0, *[nan] * SCALED_BATCHES], scale=1024.0)
    with pytest.raises(InputError, match=r"since step 2 "):
        watched([1.0, nan])


def test_a_loss_scale_that_has_come_to_nothing_is_a_fault() -> None:
    watched([1.0], scale=LEAST_SCALE)
    with pytest.raises(InputError, match="the gradient is not finite in any step up to 1"):
        watched([1.0], scale=LEAST_SCALE / 2)
