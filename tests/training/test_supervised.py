"""Supervised training, on slices in memory."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from memory import MemorySource
from skimage.metrics import structural_similarity
from torch import nn

from spinwarp.acquisition import Example, center_crop
from spinwarp.coils import root_sum_of_squares
from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.evaluation import Protocol, evaluate
from spinwarp.fourier import ifftc
from spinwarp.losses import L1Loss, SSIMLoss
from spinwarp.masks import RandomMask
from spinwarp.models.naive_cnn import NaiveCNN
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.models.varnet import VarNet
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.training import SupervisedModule, UNetModule, VarNetModule
from spinwarp.training.schedule import Cosine

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    # torch renamed a class that Lightning still asks for
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

UNET = {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 4, "pools": 2}
VARNET = {
    "_target_": "spinwarp.models.varnet.VarNet",
    "n_cascades": 2,
    "regulariser": {
        "_target_": "spinwarp.models.norm_unet.NormUNet", "_partial_": True, "channels": 4, "pools": 2,
    },
}  # fmt: skip
MODELS = ("unet", "varnet", "naive_cnn")


def data(**settings: Any) -> FastMRIDataModule:
    source = settings.pop("source", MemorySource(crop=(24, 32)))
    return FastMRIDataModule(source, RandomMask([0.16], [4]), **{"batch_size": 2, **settings})


def unet() -> UNetModule:
    module = UNetModule(MagnitudeUNet(channels=4, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3), Cosine())
    module.record = {"net": UNET, "name": "unet"}
    return module


def varnet() -> VarNetModule:
    net = VarNet(partial(NormUNet, channels=4, pools=2), n_cascades=2)
    module = VarNetModule(net, SSIMLoss(), partial(torch.optim.Adam, lr=1e-3))
    module.record = {"net": VARNET, "name": "varnet"}
    return module


def model(name: str, seed: int = 0) -> SupervisedModule:
    seed_everything(seed, verbose=False)
    if name == "naive_cnn":
        return SupervisedModule(NaiveCNN(4, 2, 3), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
    return unet() if name == "unet" else varnet()


def trainer(folder: Path, **settings: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "gradient_clip_val": 1.0,
        "num_sanity_val_steps": 0,
        "callbacks": [ModelCheckpoint(folder, filename="best", monitor="val/ssim", mode="max", save_last=True)],
    }
    return Trainer(default_root_dir=folder, **{**defaults, **settings})


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class StopAfterFirstEpoch(Callback):
    """Ends training as a time limit of the machine would, with a whole last checkpoint."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


@pytest.fixture
def batch() -> Example:
    (first, *_) = data().loader("val")
    assert isinstance(first, Example)
    assert len(first) == 2
    return first


@torch.no_grad()
def test_the_loss_of_the_unet_is_that_of_fastmri(batch: Example) -> None:
    module = model("unet").eval()
    assert batch.target is not None
    batch.target[:, 5, 7] *= 1000  # brighter than six deviations, to which the reference clamps
    losses = []
    for i in range(len(batch)):
        # fastmri/data/transforms.py, UnetDataTransform, and pl_modules/unet_module.py
        image = center_crop(root_sum_of_squares(ifftc(batch.acquisition.kspace[i : i + 1])), (24, 32))
        mean, std = image.mean(), image.std()
        normalised = ((image - mean) / (std + 1e-11)).clamp(-6, 6)
        target = ((batch.target[i : i + 1] - mean) / (std + 1e-11)).clamp(-6, 6)
        output = module.net.unet(normalised[:, None])[:, 0]
        assert (output * std + mean > 0).all()  # ours takes the magnitude, which would fold a negative pixel up
        losses.append(F.l1_loss(output, target))
    found = module.loss_and_magnitude(batch)[0]
    # single precision, to units of the data and back
    assert float(found) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


@torch.no_grad()
def test_the_loss_of_the_unet_does_not_depend_on_the_scale_of_a_slice(batch: Example) -> None:
    module = model("unet").eval()
    assert batch.target is not None
    scaled = replace(
        batch,
        acquisition=replace(batch.acquisition, kspace=batch.acquisition.kspace * 1e-4),
        target=batch.target * 1e-4,
        data_range=batch.data_range * 1e-4,
    )
    found, expected = (float(module.loss_and_magnitude(b)[0]) for b in (scaled, batch))
    assert found == pytest.approx(expected, rel=1e-4)  # single precision after a division by a small deviation


@torch.no_grad()
def test_the_loss_of_the_varnet_is_one_minus_ssim_in_the_crop(batch: Example) -> None:
    module = model("varnet").eval()
    assert batch.target is not None
    image = center_crop(module.net(batch.acquisition).abs(), (24, 32)).numpy()
    pairs = zip(batch.target.numpy(), image, batch.data_range.tolist(), strict=True)
    similarity = [structural_similarity(target, x, data_range=r) for target, x, r in pairs]
    found = module.loss_and_magnitude(batch)[0]
    assert float(found) == pytest.approx(1 - np.mean(similarity), abs=1e-5)  # single precision on both sides


@pytest.mark.parametrize("name", MODELS)
def test_training_changes_every_weight_and_ends_in_a_finite_loss(name: str, tmp_path: Path) -> None:
    module = model(name)
    before = weights(module)
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(module, datamodule=data())
    assert torch.isfinite(fit.callback_metrics["train/loss"])
    assert fit.callback_metrics.keys() >= {"train/loss", "val/loss", "val/ssim", "val/psnr", "val/nmse"}
    after = weights(module)
    # the biases before an instance norm, of which the networks have none, would stay
    assert not [key for key in before if key.startswith("net.") and torch.equal(before[key], after[key])]


def test_a_few_steps_on_one_slice_lower_the_loss(batch: Example) -> None:
    module = model("varnet")
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = module.loss_and_magnitude(batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["unet", "varnet"])
def test_the_metrics_that_training_logs_are_those_of_the_checkpoint_evaluated(name: str, tmp_path: Path) -> None:
    module = model(name)
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(module, datamodule=data())
    volumes = data().source.volumes("val")
    protocol = Protocol(name, "memory", "val", "random_4x", 4.0, {v.name: v.n_slices for v in volumes})
    rows = evaluate(Checkpoint(str(tmp_path / "best.ckpt")), data().loader("val"), protocol, tmp_path / "results")
    assert len(rows) == 2
    for metric in ("ssim", "psnr", "nmse"):
        logged = float(fit.callback_metrics[f"val/{metric}"])
        # logged in single precision
        assert np.mean([getattr(row, metric) for row in rows]) == pytest.approx(logged, rel=1e-5, abs=1e-5)


def test_validation_is_volume_wise_whatever_the_batches(tmp_path: Path) -> None:
    found = []
    for batch_size in (1, 2):
        fit = trainer(tmp_path, callbacks=[], enable_checkpointing=False)
        module = model("unet")
        fit.validate(module, datamodule=data(batch_size=batch_size), verbose=False)
        found.append([float(fit.callback_metrics[f"val/{name}"]) for name in ("ssim", "psnr", "nmse")])
        assert len(module.metrics.rows) == 0  # nothing is carried into the next validation
    assert found[0] == pytest.approx(found[1], rel=1e-5)  # batched convolutions round otherwise


def test_a_checkpoint_is_plain_python_and_says_what_it_is(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=1).fit(model("varnet"), datamodule=data())
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert content["spinwarp"]["net"] == VARNET
    assert content["spinwarp"]["version"]
    assert all(key.startswith("net.") for key in content["state_dict"])  # no metric, no operator, no loss


def test_a_checkpoint_rebuilds_the_network_bit_for_bit(tmp_path: Path, batch: Example) -> None:
    module = model("varnet")
    trainer(tmp_path, max_epochs=1).fit(module, datamodule=data())
    with torch.inference_mode():
        expected = module.eval().net(batch.acquisition)
    # one epoch: the best weights are the last
    assert torch.equal(Checkpoint(str(tmp_path / "best.ckpt"))(batch.acquisition).image, expected)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("name", ["unet", "varnet"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    straight = model(name)
    trainer(tmp_path / "straight").fit(straight, datamodule=data())
    stopped = model(name)
    last = ModelCheckpoint(tmp_path / "stopped", filename="last")
    trainer(tmp_path / "stopped", callbacks=[last, StopAfterFirstEpoch()]).fit(stopped, datamodule=data())
    assert not equal(weights(stopped), weights(straight))
    resumed = model(name, seed=99)
    again = trainer(tmp_path / "stopped", callbacks=[ModelCheckpoint(tmp_path / "stopped", filename="last")])
    again.fit(resumed, datamodule=data(), ckpt_path=str(tmp_path / "stopped" / "last.ckpt"))
    assert again.current_epoch == 2
    assert equal(weights(resumed), weights(straight))


def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    found = []
    for run in range(2):
        module = model("varnet", seed=4)
        trainer(tmp_path / str(run), max_epochs=1).fit(module, datamodule=data())
        found.append(weights(module))
    assert equal(*found)


def test_each_epoch_of_training_sees_other_masks(tmp_path: Path) -> None:
    class Spy(Callback):
        masks: ClassVar[list[dict[tuple[str, int], torch.Tensor]]] = []

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.masks.append({})

        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Example, batch_idx: int
        ) -> None:
            self.masks[-1][batch.volume[0], batch.slice[0]] = batch.acquisition.mask[0]

    trainer(tmp_path, callbacks=[Spy()], enable_checkpointing=False).fit(model("unet"), datamodule=data(batch_size=1))
    first, second = Spy.masks
    assert first.keys() == second.keys() and len(first) == 12
    assert sum(torch.equal(first[key], second[key]) for key in first) <= 1
    assert list(first) != list(second)


def test_the_learning_rate_follows_the_schedule_over_all_steps(tmp_path: Path) -> None:
    rates: list[float] = []

    class Spy(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit = trainer(tmp_path, callbacks=[Spy()], enable_checkpointing=False, max_epochs=3)
    fit.fit(model("unet"), datamodule=data())
    n_steps = fit.estimated_stepping_batches
    assert len(rates) == n_steps
    schedule = Cosine()
    assert rates == pytest.approx([1e-3 * schedule((i + 1) / n_steps) for i in range(len(rates))])


def test_training_without_an_end_is_refused(tmp_path: Path) -> None:
    endless = trainer(tmp_path, max_epochs=-1, callbacks=[], enable_checkpointing=False)
    with pytest.raises(InputError, match=r"training has no end: set trainer\.max_epochs or trainer\.max_steps"):
        endless.fit(model("unet"), datamodule=data())


def test_data_without_targets_are_refused_with_the_way_out(tmp_path: Path) -> None:
    source = MemorySource(has_targets=False)
    fit = trainer(tmp_path, callbacks=[], enable_checkpointing=False)
    with pytest.raises(InputError, match=r"\.h5 has no reference image.*reconstruct\.py works without"):
        fit.fit(model("unet"), datamodule=data(source=source))


def test_the_learning_rate_follows_the_slices_of_a_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = UNetModule(
        MagnitudeUNet(channels=4, pools=2), L1Loss(), partial(torch.optim.RMSprop, lr=1e-3), reference_batch=24
    )
    trainer = Trainer(
        accelerator="cpu", max_steps=1, accumulate_grad_batches=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    with caplog.at_level("INFO", "spinwarp"):
        trainer.fit(module, datamodule=data(batch_size=2))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * 6 / 24, rel=1e-12)
    assert "learning rate 0.00025: 0.001 x 6/24 slices a step" in caplog.text


def test_a_reference_batch_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="reference_batch is at least 1; got 0"):
        UNetModule(MagnitudeUNet(channels=4, pools=2), L1Loss(), partial(torch.optim.Adam), reference_batch=0)
