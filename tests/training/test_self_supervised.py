"""Training without references: what the loss sees, what it may not see, and what it converges to."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from memory import MemorySource
from small_scan import ALPHA, CENTER, SIGMA, cases, minimiser, risk
from torch import nn

from spinwarp.acquisition import Example, Split
from spinwarp.cli.train import check_fit
from spinwarp.data.augment import FlipsAndPhase
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.source import Volume
from spinwarp.data.split import Splitter
from spinwarp.errors import InputError
from spinwarp.evaluation import Protocol, evaluate
from spinwarp.losses import NormalisedL1L2, SquaredError
from spinwarp.masks import RandomMask, seed_of
from spinwarp.models.naive_cnn import NaiveCNN
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.models.varnet import VarNet
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.training import SelfSupervisedModule, VarNetModule
from spinwarp.training.base import NetworkModule
from spinwarp.training.self_supervised import given_and_compared

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # torch renamed a class that Lightning still asks for
]

MASK = RandomMask([0.16], [4])
VARNET = {
    "_target_": "spinwarp.models.varnet.VarNet",
    "n_cascades": 2,
    "regulariser": {"_target_": "spinwarp.models.norm_unet.NormUNet", "_partial_": True, "channels": 4, "pools": 2},
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "varnet": lambda: VarNet(partial(NormUNet, channels=4, pools=2), n_cascades=2),
    "unet": lambda: MagnitudeUNet(channels=4, pools=2),
    "naive_cnn": lambda: NaiveCNN(4, 2, 3),
}


def data(source: MemorySource | None = None, supervision: Any = "split", **settings: Any) -> FastMRIDataModule:
    source = source or MemorySource(crop=(24, 32))
    return FastMRIDataModule(source, MASK, **{"batch_size": 2, "supervision": supervision, **settings})


def model(name: str = "varnet", loss: nn.Module | None = None, seed: int = 0) -> SelfSupervisedModule:
    seed_everything(seed, verbose=False)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    module = SelfSupervisedModule(NETWORKS[name](), loss or NormalisedL1L2(), optimizer)
    module.record = {"net": VARNET, "name": name}
    return module


def fit(
    folder: Path, module: SelfSupervisedModule, source: FastMRIDataModule, checkpoint: str | None = None, **more: Any
) -> Trainer:
    best = ModelCheckpoint(folder, filename="best", monitor="val/loss", mode="min", save_last=True)
    settings = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 2, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0, "callbacks": [best],
        "default_root_dir": folder,
    }  # fmt: skip
    trainer = Trainer(**{**settings, **more})
    trainer.fit(module, datamodule=source, ckpt_path=checkpoint)
    return trainer


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Poisoned(MemorySource):
    """The same scans. Targets and data ranges are NaN, and what the mask of a scan leaves out is garbage."""

    def read(self, volume: Volume, slice_index: int) -> Example:
        example = super().read(volume, slice_index)
        assert example.target is not None
        mask = MASK(volume.shape[1:3], np.random.RandomState(seed_of(volume.name)))[0]
        kspace = torch.where(mask, example.acquisition.kspace, 1e3 * (slice_index + 1))
        return replace(
            example,
            acquisition=replace(example.acquisition, kspace=kspace),
            target=torch.full_like(example.target, torch.nan),
            data_range=torch.full_like(example.data_range, torch.nan),
        )


@pytest.mark.parametrize("supervision", ["split", "noisy"])
@pytest.mark.parametrize("augment", [None, FlipsAndPhase()])
def test_neither_references_nor_lines_that_were_not_measured_change_the_training(
    supervision: str, augment: FlipsAndPhase | None, tmp_path: Path
) -> None:
    # the level of the noise is asked of the measured lines too
    found = []
    for source in (MemorySource(crop=(24, 32)), Poisoned(crop=(24, 32))):
        module = model()
        trainer = fit(tmp_path / type(source).__name__, module, data(source, supervision, augment=augment))
        found.append((weights(module), trainer.callback_metrics["val/loss"], trainer.callback_metrics["val/ssim"]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])  # nor does the loss by which the best checkpoint is chosen
    assert not found[0][2].isnan() and found[1][2].isnan()


@pytest.mark.parametrize("supervision", ["split", "noisy"])
@pytest.mark.parametrize("loss", [NormalisedL1L2(), SquaredError()])
def test_the_loss_is_that_of_the_formula(loss: nn.Module, supervision: str) -> None:
    batch = next(iter(data(supervision=supervision, split=Splitter(weighted=True, alpha=0.7)).loader("train")))
    module = model(loss=loss).eval()
    split, acquisition = batch.split, batch.acquisition
    assert split is not None and acquisition.maps is not None
    y, kept, w = acquisition.kspace.numpy(), split.mask.numpy(), split.weight.numpy()
    e = np.zeros_like(y) if split.noise is None else split.noise.numpy()
    given = kept * (y + 0.7 * e)
    with torch.no_grad():
        found = float(module.kspace_loss(batch))
        inputs = replace(acquisition, kspace=torch.from_numpy(given), mask=split.mask)
        image = module.net(inputs).numpy()
    coils = np.fft.ifftshift(image[:, None] * acquisition.maps.numpy(), axes=(-2, -1))
    predicted = np.fft.fftshift(np.fft.fft2(coils, norm="ortho"), axes=(-2, -1))
    target = y - kept * e / 0.7
    losses = []
    for i in range(len(y)):
        r, t = (w[i] * (predicted[i] - target[i])).ravel(), (w[i] * target[i]).ravel()
        if isinstance(loss, SquaredError):
            losses.append((np.abs(r) ** 2).sum() / np.abs(y[i]).max() ** 2)
        else:
            norms = np.linalg.norm(r) / np.linalg.norm(t), np.abs(r).sum() / np.abs(t).sum()
            losses.append(sum(norms) / 2)
    assert found == pytest.approx(np.mean(losses), rel=1e-4)  # single precision through a network


@pytest.mark.parametrize("loss", [NormalisedL1L2(), SquaredError()])
def test_a_slice_of_which_the_loss_sees_nothing_teaches_nothing(loss: nn.Module) -> None:
    batch = next(iter(data().loader("train")))
    assert batch.split is not None
    nothing = Split(batch.acquisition.mask, torch.zeros_like(batch.split.weight))
    module = model(loss=loss)
    module.kspace_loss(replace(batch, split=nothing)).backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("loss", [NormalisedL1L2(), SquaredError()])
def test_an_empty_slice_adds_nothing_to_the_loss_of_the_others(loss: nn.Module) -> None:
    kspace, measured = torch.randn(2, 2, 3, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    measured[1] = 0
    kspace.requires_grad_()
    found = loss(kspace, measured, measured.abs().flatten(1).amax(1))
    alone = loss(kspace[:1], measured[:1], measured[:1].abs().amax((1, 2, 3)))
    assert float(found.detach()) == pytest.approx(float(alone.detach()) / 2, rel=1e-6)
    found.backward()
    assert kspace.grad is not None and kspace.grad[0].any() and not kspace.grad[1].any()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("supervision", ["split", "noisy"])
def test_every_weight_of_every_network_learns(name: str, supervision: str, tmp_path: Path) -> None:
    module = model(name)
    before = weights(module)
    trainer = fit(tmp_path, module, data(supervision=supervision), max_epochs=1)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert (weights(module) != before).float().mean() > 0.99  # a gradient may be zero by chance


def test_mixed_precision_gives_a_finite_loss_near_that_of_single_precision(tmp_path: Path) -> None:
    losses = [
        float(fit(tmp_path / p, model(), data(), max_epochs=1, precision=p).callback_metrics["val/loss"])
        for p in ("32-true", "bf16-mixed")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # bf16 has eight bits


def test_a_few_steps_on_one_slice_lower_the_loss() -> None:
    batch = next(iter(data().loader("train")))
    module = model()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = module.kspace_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    straight, stopped, resumed = model(), model(), model(seed=9)
    fit(tmp_path / "straight", straight, data(supervision="noisy"))
    fit(tmp_path / "stopped", stopped, data(supervision="noisy"), max_epochs=1)
    fit(tmp_path / "stopped", resumed, data(supervision="noisy"), str(tmp_path / "stopped" / "last.ckpt"))
    assert not torch.equal(weights(stopped), weights(straight))
    assert torch.equal(weights(resumed), weights(straight))


def test_the_metrics_beside_the_loss_are_those_of_the_checkpoint_on_all_measured_lines(tmp_path: Path) -> None:
    trainer = fit(tmp_path, model(), data(), max_epochs=1)
    volumes = data().source.volumes("val")
    protocol = Protocol("varnet", "memory", "val", "random_4x", 4.0, {v.name: v.n_slices for v in volumes})
    loader = data(supervision="full").loader("val")
    rows = evaluate(Checkpoint(str(tmp_path / "best.ckpt")), loader, protocol, tmp_path / "results")
    logged = float(trainer.callback_metrics["val/ssim"])
    assert np.mean([row.ssim for row in rows]) == pytest.approx(logged, rel=1e-5)  # logged in single precision


def test_scans_without_any_reference_train_and_validate(tmp_path: Path) -> None:
    trainer = fit(tmp_path, model(), data(MemorySource(has_targets=False)), max_epochs=1)
    assert torch.isfinite(trainer.callback_metrics["val/loss"]) and trainer.callback_metrics["val/ssim"].isnan()
    assert (tmp_path / "best.ckpt").exists()


def test_examples_without_a_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not split.*set data\.supervision=split"):
        fit(tmp_path, model(), data(supervision="full"))


@pytest.mark.parametrize(
    ("module", "supervision", "message"),
    [
        (model(), "full", r"model=net learns from held-out lines; set data\.supervision=split or noisy"),
        (
            VarNetModule(nn.Identity(), NormalisedL1L2(), torch.optim.Adam),
            "noisy",
            r"model=net does not learn from held-out lines \(data\.supervision=noisy\)",
        ),
    ],
)
def test_a_model_and_data_that_do_not_fit_each_other_are_refused(
    module: NetworkModule, supervision: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_fit("net", module, data(supervision=supervision))


def test_several_coils_without_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no coil maps.*data\.maps=low_resolution"):
        fit(tmp_path, model("unet"), data(maps="none"))


def test_learned_maps_are_made_of_central_lines_that_are_given() -> None:
    batch = next(iter(data().loader("train")))
    assert batch.split is not None
    given, _ = given_and_compared(batch.acquisition, batch.split)
    for i, n in enumerate(given.n_acs.tolist()):  # type: ignore[union-attr]
        width = given.mask.shape[-1]
        first = (width - n + 1) // 2
        assert n >= 4 and given.mask[i, 0, 0, first : first + n].all()


@pytest.mark.parametrize("density", ["gaussian", "uniform"])
@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("noise", [0.0, SIGMA])
def test_weighted_ssdu_has_the_minimiser_of_training_with_whole_scans(
    noise: float, consistent: bool, density: str
) -> None:
    case = cases(Splitter(center=CENTER, weighted=True, density=density), noise, None)
    assert case["probability"].sum() == pytest.approx(3 * (14 if noise else 1), rel=1e-12)
    supervised = minimiser(case, case["whole"], np.ones_like(case["weight"]), consistent)
    found = minimiser(case, case["compared"], case["weight"], consistent)
    assert found == pytest.approx(supervised, abs=1e-6)


def test_plain_ssdu_has_another_minimiser() -> None:
    case = cases(Splitter(center=CENTER, density="gaussian"), 0.0, None)
    supervised = minimiser(case, case["whole"], np.ones_like(case["weight"]), True)
    plain = minimiser(case, case["compared"], case["weight"], True)
    assert np.abs(plain - supervised).max() == pytest.approx(0.08, abs=0.005)
    # the figure of docs/self_supervised.md
    assert risk(case, plain, True) / risk(case, supervised, True) == pytest.approx(1.008, abs=5e-4)


@pytest.mark.parametrize("alpha", [ALPHA, 0.3])
def test_robust_ssdu_has_the_minimiser_of_training_with_whole_scans_without_noise(alpha: float) -> None:
    case = cases(Splitter(center=CENTER, weighted=True), SIGMA, alpha)
    clean = minimiser(case, case["clean"], np.ones_like(case["weight"]), False)
    found = minimiser(case, case["compared"], case["weight"], False)
    assert found == pytest.approx(clean, abs=1e-6)
    noisy = minimiser(case, case["whole"], np.ones_like(case["weight"]), False)
    assert risk(case, noisy, False) > 1.05 * risk(case, clean, False)


def test_the_comparison_is_that_of_robust_ssdu_with_its_correction_inside_the_network() -> None:
    case = cases(Splitter(center=CENTER), SIGMA, ALPHA)
    f = np.random.RandomState(1).normal(size=case["given"].shape)  # whatever their network returns
    y, given = case["whole"], case["given"]
    corrected = ((1 + ALPHA**2) * f - given) / ALPHA**2
    inside = case["kept"]
    theirs = (1 + 1 / ALPHA**2) * np.abs(f - y)
    assert np.abs(corrected - case["compared"])[inside] == pytest.approx(theirs[inside], rel=1e-9)  # doubles
