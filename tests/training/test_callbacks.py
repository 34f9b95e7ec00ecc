"""What happens beside training."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from memory import MemorySource
from PIL import Image

from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.lightning_internals import TrainingProgressBar
from spinwarp.losses import L1Loss
from spinwarp.masks import RandomMask
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.training import UNetModule
from spinwarp.training.averaging import MovingAverage
from spinwarp.training.callbacks import ExamplePanel, LearningRateWhenLogged, WarmStart
from spinwarp.training.checkpoints import LastCheckpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    # torch renamed a class that Lightning still asks for
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


def fit(
    callbacks: list[Callback], logger: Logger | bool = False, folder: Path | None = None, **settings: Any
) -> Trainer:
    seed_everything(0, verbose=False)
    module = UNetModule(MagnitudeUNet(channels=2, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
    data = FastMRIDataModule(MemorySource(crop=(24, 32)), RandomMask([0.16], [4]), batch_size=2)
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "callbacks": callbacks,
        "logger": logger,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
        "default_root_dir": folder,
    }
    checkpoint = settings.pop("ckpt_path", None)
    trainer = Trainer(**{**defaults, **settings})
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return trainer


def test_a_panel_is_drawn_after_each_validation(tmp_path: Path) -> None:
    fit([ExamplePanel(str(tmp_path / "panels"))], folder=tmp_path, max_epochs=2)
    # six batches an epoch; the sanity check before training draws nothing
    assert sorted(path.name for path in (tmp_path / "panels").iterdir()) == ["step_000006.png", "step_000012.png"]
    with Image.open(tmp_path / "panels" / "step_000006.png") as picture:
        picture.load()
        assert min(picture.size) > 100
        pixels = np.asarray(picture.convert("L"))
    assert pixels.std() > 10  # not blank
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(("n_examples", "n_drawn"), [(1, 1), (2, 2), (9, 3)])
def test_a_panel_has_target_reconstruction_and_error_of_the_slices_asked_for(
    tmp_path: Path, n_examples: int, n_drawn: int
) -> None:
    panel = ExamplePanel(str(tmp_path), n_examples=n_examples)
    fit([panel], folder=tmp_path)
    assert len(panel._rows) == len(panel._titles) == 3 * n_drawn  # validation has three batches
    for target, image, error in zip(panel._rows[::3], panel._rows[1::3], panel._rows[2::3], strict=True):
        assert target.shape == image.shape == (24, 32)
        np.testing.assert_array_equal(error, np.abs(target - image))
    assert len({title for title in panel._titles if "slice" in title}) == n_drawn


def test_training_goes_on_without_any_logger(tmp_path: Path) -> None:
    trainer = fit([LearningRateWhenLogged(), ExamplePanel(str(tmp_path))], logger=False, folder=tmp_path)
    assert trainer.state.finished


def test_an_empty_list_of_loggers_is_no_logger(tmp_path: Path) -> None:
    # what logger=none becomes
    trainer = fit([LearningRateWhenLogged(), ExamplePanel(str(tmp_path))], logger=[], folder=tmp_path)  # type: ignore[arg-type]
    assert trainer.state.finished
    assert trainer.loggers == []


def test_the_learning_rate_is_logged_where_there_is_a_logger(tmp_path: Path) -> None:
    fit(
        [LearningRateWhenLogged(logging_interval="step")],
        logger=CSVLogger(tmp_path, name="", version=""),
        folder=tmp_path,
        log_every_n_steps=1,
    )
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    rates = [float(row["lr-Adam"]) for row in rows if row["lr-Adam"]]
    assert rates == [1e-3] * 6
    assert {"train/loss", "val/loss", "val/ssim", "val/psnr", "val/nmse"} <= rows[0].keys()


def test_the_panel_goes_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra spinwarp[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit([ExamplePanel(str(tmp_path / "panels"))], logger=logger, folder=tmp_path)
    logger.experiment.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["validation"]


def started(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Weights of a network of ``fit`` after a warm start, before any step."""

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            self.state = {k: v.clone() for k, v in pl_module.net.state_dict().items()}
            trainer.should_stop = True

    look = Look()
    fit([WarmStart(str(path), **options), look])
    return look.state


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    net = MagnitudeUNet(channels=2, pools=2)
    description = {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 2, "pools": 2}
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    torch.save({"state_dict": state, "spinwarp": {"net": description}}, tmp_path / "trained.ckpt")
    return tmp_path / "trained.ckpt"


@pytest.mark.parametrize("part", ["", "unet", "unet.head"])
def test_a_warm_start_copies_the_part_and_nothing_else(trained: Path, part: str) -> None:
    theirs = {k[4:]: v for k, v in torch.load(trained)["state_dict"].items()}
    ours = started(trained, take=part, into=part)
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert same == {name for name in ours if name.startswith(part)}


def test_a_warm_start_names_settings_that_differ_though_the_weights_fit(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(trained)
    started(trained)
    assert "was trained" not in caplog.text
    content["spinwarp"]["net"]["dropout"] = 0.25
    torch.save(content, trained)
    started(trained)
    # once, though every block has it
    assert caplog.text.count("is 0.0; it was 0.25 when") == 1


@pytest.mark.parametrize("options", [{"take": "absent"}, {"into": "absent"}, {"take": "unet.head", "into": "unet"}])
def test_a_warm_start_that_does_not_fit_is_explained(trained: Path, options: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"cannot start model\.net"):
        started(trained, **options)


def test_a_warm_start_of_a_wider_network_that_concatenates_is_refused(trained: Path) -> None:
    # the wider U-Net would get weights of other channels where it concatenates
    content = torch.load(trained)
    torch.manual_seed(5)
    narrow = MagnitudeUNet(channels=1, pools=2)
    content["state_dict"] = {f"net.{k}": v for k, v in narrow.state_dict().items()}
    content["spinwarp"]["net"]["channels"] = 1
    torch.save(content, trained)
    with pytest.raises(InputError, match=r"cannot start model\.net.*only the widths of a ResidualUNet"):
        started(trained)


class Watch(Callback):
    """Keeps one weight of each step and of each validation."""

    def __init__(self) -> None:
        self.trained: list[float] = []
        self.validated: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.trained.append(pl_module.net.unet.head.weight.detach().flatten()[0].item())

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.validated.append(pl_module.net.unet.head.weight.detach().flatten()[0].item())


@pytest.mark.parametrize("order", [1, -1])
def test_a_short_run_from_trained_weights_validates_and_saves_its_own_average(
    trained: Path, tmp_path: Path, order: int
) -> None:
    watch, decay = Watch(), 0.5
    start = float(torch.load(trained)["state_dict"]["net.unet.head.weight"].flatten()[0])
    trainer = fit(
        [watch, *[MovingAverage(decay), WarmStart(str(trained))][::order]], folder=tmp_path, val_check_interval=3
    )
    sanity, *validated = sorted(set(watch.validated), key=watch.validated.index)
    assert sanity == start  # before any step
    mean, means = watch.trained[0], [watch.trained[0]]
    for n, value in enumerate(watch.trained[1:], start=1):
        keep = min(decay, (1 + n) / (10 + n))
        mean = keep * mean + (1 - keep) * value
        means.append(mean)
    assert len(set(means)) == len(means) == 6
    # float32
    assert validated == pytest.approx([means[2], means[5]], rel=1e-6)
    assert trainer.lightning_module.net.unet.head.weight.detach().flatten()[0].item() == pytest.approx(
        means[5], rel=1e-6
    )


@pytest.mark.parametrize(
    ("limits", "seen"),
    [
        # six batches an epoch
        ({"max_epochs": 2}, {"Epoch 0/1", "Epoch 1/1"}),
        ({"max_epochs": -1, "max_steps": 8}, {"Epoch 0/1", "Epoch 1/1"}),
        ({"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 3}, {"Epoch 0/1", "Epoch 1/1"}),
        # the last two batches of an epoch are a step too
        ({"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 4}, {"Epoch 0/1", "Epoch 1/1"}),
    ],
)
def test_the_bar_counts_the_epochs_of_any_limit(limits: dict[str, Any], seen: set[str]) -> None:
    bar, titles = TrainingProgressBar(), set()

    class Look(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            titles.update(task.description.strip() for task in bar.progress.tasks)

    fit([bar, Look()], enable_progress_bar=True, **limits)
    assert {title for title in titles if "Epoch" in title} == seen


def test_a_longer_run_from_the_end_of_one_with_an_average_is_that_which_never_stopped(tmp_path: Path) -> None:
    def weights(folder: Path, **settings: Any) -> dict[str, Any]:
        last = LastCheckpoint(str(folder))
        fit([MovingAverage(0.9), last], folder=folder, enable_checkpointing=True, **settings)
        return torch.load(folder / "last.ckpt", weights_only=True)

    whole = weights(tmp_path / "whole", max_epochs=2)
    weights(tmp_path / "first", max_epochs=1)
    both = weights(tmp_path / "second", max_epochs=2, ckpt_path=tmp_path / "first" / "last.ckpt")
    for part in ("state_dict", "current_model_state"):
        assert whole[part].keys() == both[part].keys()
        assert all(torch.equal(value, both[part][name]) for name, value in whole[part].items())
    name = "net.unet.head.weight"
    assert not torch.equal(whole["state_dict"][name], whole["current_model_state"][name])
