"""Stein's term: what it takes back, and the two trainings that need it."""

import math
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
from small_scan import CENTER, LINES, SIGMA, W, cases, features, minimiser, risk
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Example
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.row_block import RowBlock
from spinwarp.data.split import Splitter
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.losses import SquaredError
from spinwarp.masks import RandomMask
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.varnet import VarNet
from spinwarp.training import EnsureModule, EquivariantModule, SelfSupervisedModule
from spinwarp.training.stein import probe, stein_term, with_level

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # torch renamed a class that Lightning still asks for
]

MASK = RandomMask([0.16], [4])
MODULES: dict[str, Callable[..., SelfSupervisedModule]] = {"ensure": EnsureModule, "rei": EquivariantModule}


def module(name: str, net: nn.Module | None = None, **options: Any) -> Any:
    seed_everything(0, verbose=False)
    net = net or VarNet(partial(NormUNet, channels=4, pools=2), n_cascades=2, update_domain="image")
    return MODULES[name](net, SquaredError(), partial(torch.optim.Adam, lr=1e-3), **options)


def data(source: MemorySource | None = None, **settings: Any) -> FastMRIDataModule:
    split = Splitter(weighted=True, density="uniform")
    return FastMRIDataModule(
        source or MemorySource(crop=(24, 32)), MASK, batch_size=2, supervision="split", split=split, **settings
    )


def fit(
    folder: Path, model: SelfSupervisedModule, source: FastMRIDataModule, checkpoint: str | None = None, **more: Any
) -> Trainer:
    trainer = Trainer(**{
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0,
        "enable_checkpointing": False, "default_root_dir": folder, **more,
    })  # fmt: skip
    trainer.fit(model, datamodule=source, ckpt_path=checkpoint)
    return trainer


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Linear(nn.Module):
    """The network of :mod:`small_scan`, with one coil and one row; its k-space is a filter over neighbouring lines."""

    def __init__(self, taps: np.ndarray) -> None:
        super().__init__()
        self.taps = torch.from_numpy(taps)

    def forward(self, acquisition: Acquisition) -> Tensor:
        padded = nn.functional.pad(acquisition.kspace, (2, 2))
        return ifftc(sum(self.taps[d] * padded[..., d : d + W] for d in range(5)))[:, 0]  # type: ignore[arg-type]


def small(kspace: np.ndarray, kept: np.ndarray) -> Acquisition:
    mask = torch.from_numpy(kept).view(1, 1, 1, W)
    return Acquisition(torch.from_numpy(kspace).view(1, 1, 1, W), mask, noise_std=torch.tensor([SIGMA]).double())


def test_the_term_is_twice_the_variance_times_the_divergence() -> None:
    generator = np.random.RandomState(0)
    taps = generator.normal(size=5) + 1j * generator.normal(size=5)
    kept = np.array([True, False, True, True, True, False, True])
    given, net = small(kept * generator.normal(size=W) + 0j, kept), Linear(taps)
    # the mean over the columns of a unitary matrix is the trace; so is that over signs
    found = [
        float(stein_term(net, given, net(given), given.noise_std, math.sqrt(W) * column.view(1, 1, 1, W) * given.mask))
        for column in torch.eye(W, dtype=torch.complex128)
    ]
    # each given line comes back with the middle tap
    assert np.mean(found) == pytest.approx(2 * SIGMA**2 * kept.sum() * taps[2].real, rel=1e-9)
    signs = torch.cat([probe(given, torch.Generator().manual_seed(i)) for i in range(400)])
    covariance = torch.einsum("ncij,ncik->jk", signs, signs.conj()) / 400
    assert covariance.numpy() == pytest.approx(np.diag(kept).astype(complex), abs=0.2)  # 4 / sqrt(400)


def expected(case: dict[str, np.ndarray], taps: np.ndarray) -> float:
    """The expectation of the loss over all masks, splits, scans and noise; of Stein's term by its closed form."""
    _, x = features(case, False)
    error = case["weight"] * (x @ taps - case["compared"])
    term = 2 * SIGMA**2 * taps[2].real * case["kept"].sum(1)
    noise = SIGMA**2 * (case["weight"] ** 2).sum(1)  # no network changes it
    return float((case["probability"][:, 0] * ((np.abs(error) ** 2).sum(1) + term - noise)).sum())


def test_the_expectation_of_ensure_is_the_true_risk_without_noise() -> None:
    case = cases(Splitter(center=CENTER, weighted=True, density="uniform"), SIGMA, None)
    generator = np.random.RandomState(0)
    for _ in range(3):
        taps = generator.normal(size=5) + 1j * generator.normal(size=5)
        assert expected(case, taps) == pytest.approx(risk(case, taps, False), rel=1e-6)  # weights are single


def test_ensure_has_the_minimiser_of_training_with_whole_scans_without_noise() -> None:
    case = cases(Splitter(center=CENTER, weighted=True, density="uniform"), SIGMA, None)
    clean = minimiser(case, case["clean"], np.ones_like(case["weight"]), False)
    _, x = features(case, False)
    w = case["probability"] * case["weight"].astype(float) ** 2
    b = np.einsum("nj,njd,nj->d", w, x.conj(), case["compared"])
    b[2] -= SIGMA**2 * (case["probability"][:, 0] * case["kept"].sum(1)).sum()
    assert np.linalg.solve(np.einsum("nj,njd,nje->de", w, x.conj(), x), b) == pytest.approx(clean, abs=1e-6)


def test_the_published_loss_is_no_estimate_of_the_risk_and_zero_filled_images_have_its_least() -> None:
    case = cases(Splitter(center=CENTER, weighted=True, density="uniform"), 0.0, None)
    p = LINES.density((1, W)).double().numpy()
    zero_filled = np.array([0, 0, 1, 0, 0])
    _, x = features({"given": case["whole"] * (case["weight"] > 0), "kept": case["weight"] > 0}, False)
    measured = case["weight"] > 0
    published = (case["probability"] / p * measured * np.abs(x @ zero_filled - case["whole"]) ** 2).sum()
    truth = (case["probability"] * np.abs(x @ zero_filled - case["whole"]) ** 2).sum()
    assert published == 0 and truth > 0.5


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_squared_error_plus_the_term(training: bool) -> None:
    source = data()
    batch = source.on_after_batch_transfer(next(iter(source.train_dataloader())), 0)
    model = module("ensure").train(training)
    batch = replace(batch, acquisition=with_level(batch))
    plain = SelfSupervisedModule.kspace_loss(model, batch)
    torch.manual_seed(3)
    found = model.kspace_loss(batch)
    torch.manual_seed(4)
    again = model.kspace_loss(batch)
    assert (found == again) != training  # validation always draws the same probe
    assert batch.split is not None
    given = replace(batch.acquisition, kspace=batch.acquisition.kspace * batch.split.mask, mask=batch.split.mask)
    values = []
    for seed in range(40):  # E over probes, each of which estimates the divergence
        signs = probe(given, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            values.append(stein_term(model.net, given, model.net(given), given.noise_std, signs))
    peak = batch.acquisition.kspace.abs().amax((1, 2, 3))
    terms = (torch.stack(values) / peak**2).mean(1)
    assert abs(float(found.detach() - plain.detach() - terms.mean())) < 5 * float(terms.std())  # one probe of 40
    assert float(terms.mean()) > 3 * float(terms.std())  # and it is no zero


@pytest.mark.parametrize("name", MODULES)
def test_every_weight_learns_and_the_validation_loss_is_finite(name: str, tmp_path: Path) -> None:
    model = module(name)
    before = weights(model)
    trainer = fit(tmp_path, model, data())
    assert torch.isfinite(trainer.callback_metrics["val/loss"]) and not trainer.callback_metrics["val/psnr"].isnan()
    assert (weights(model) != before).float().mean() > 0.99  # a gradient may be zero by chance


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("name", MODULES)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    ends = []
    for part, epochs in (("straight", [2]), ("stopped", [1, 2])):
        for number in epochs:  # the random numbers of a step depend on the step, not on what was drawn before
            model = module(name)
            last = ModelCheckpoint(tmp_path / part, save_last=True)
            there = tmp_path / part / "last.ckpt"
            more = {"max_epochs": number, "enable_checkpointing": True, "callbacks": [last]}
            fit(tmp_path, model, data(), str(there) if there.exists() else None, **more)
        ends.append(weights(model))
    assert torch.equal(*ends)


class Poisoned(MemorySource):
    """The same scans, with references and data ranges of NaN."""

    def read(self, volume: Any, slice_index: int) -> Example:
        example = super().read(volume, slice_index)
        assert example.target is not None
        return replace(example, target=example.target * torch.nan, data_range=example.data_range * torch.nan)


@pytest.mark.parametrize("name", MODULES)
def test_references_do_not_change_the_training(name: str, tmp_path: Path) -> None:
    found = []
    for source in (MemorySource(crop=(24, 32)), Poisoned(crop=(24, 32))):
        model = module(name)
        fit(tmp_path, model, data(source))
        found.append(weights(model))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", MODULES)
def test_scans_without_noise_and_mixed_precision_are_refused(name: str, tmp_path: Path) -> None:
    batch = next(iter(data().train_dataloader()))
    silent = replace(batch.acquisition, noise_std=torch.zeros(len(batch)))
    with pytest.raises(InputError, match=r"has no noise in the corners.*model=varnet_ssdu_weighted"):
        module(name).training_step(replace(batch, acquisition=silent), 0)
    with pytest.raises(InputError, match=r"takes a derivative.*set trainer\.precision=32"):
        fit(tmp_path, module(name), data(), precision="bf16-mixed")


def test_an_image_that_stays_where_it_is_and_a_network_that_finds_it_again_have_the_loss_of_stein_alone() -> None:
    kept = np.ones(W, bool)
    identity = Linear(np.array([0, 0, 1, 0, 0], complex))
    acquisition = small(np.random.RandomState(0).normal(size=W) + 0j, kept)
    acquisition = replace(acquisition, noise_std=acquisition.noise_std * 1e-3)  # type: ignore[operator]
    model = module("rei", identity, flips=False, shift=0.0, degrees=0.0)
    peak2 = float(acquisition.kspace.abs().max()) ** 2
    # the identity explains the data; what is left is 2 s^2 N of Stein, and the noise that it keeps in the second image
    torch.manual_seed(5)
    probe(acquisition), torch.rand(5)
    noise = 1e-3 * SIGMA * torch.randn_like(acquisition.kspace)
    left = 2 * (1e-3 * SIGMA) ** 2 * W + float(noise.abs().square().sum())
    torch.manual_seed(5)
    assert float(model.equivariant_loss(acquisition)) == pytest.approx(left / peak2, rel=1e-6)


def test_a_scan_of_which_nothing_moves_is_learned_from_moved_images() -> None:
    """One line is never measured. Turned images put something else there, so the second term asks for it."""
    kept = np.array([True, True, True, True, True, True, False])
    acquisition = small(np.where(kept, np.random.RandomState(0).normal(size=W) + 0j, 0), kept)
    model = module("rei", Linear(np.array([0, 0.3, 1, 0, 0], complex)), flips=True, shift=0.3, degrees=0.0)
    model.net.taps = nn.Parameter(model.net.taps)
    torch.manual_seed(0)
    loss = model.equivariant_loss(acquisition)
    (gradient,) = torch.autograd.grad(loss, model.net.taps)
    assert gradient[1].abs() > 1e-3  # the tap that fills a line from its neighbour


@pytest.mark.parametrize("shape", [(24, 24), (20, 30)])
def test_moving_an_image_mirrors_shifts_and_turns_it(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    h, w = shape
    y, x = np.mgrid[:h, :w]

    def blob(row: float, column: float) -> Tensor:
        bump = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 8) * np.exp(0.7j)
        return torch.from_numpy(bump)[None].to(torch.complex64)

    middle = (h - 1) / 2, (w - 1) / 2
    image = blob(middle[0] + 4, middle[1])

    def moved(draws: list[float], **options: Any) -> Tensor:
        monkeypatch.setattr(torch, "rand", lambda _: torch.tensor(draws))
        return module("rei", nn.Identity(), **options).moved(image)  # type: ignore[no-any-return]

    flipped = moved([0.4, 0.6, 0.5, 0.5, 0.5])
    assert torch.allclose(flipped, image.flip(-2), atol=1e-6)
    # half the side of a pixel is interpolated: 2 % of the bump
    turned = moved([0.6, 0.6, 1.0, 0.5, 0.5], degrees=90.0)
    sideways = [blob(middle[0], middle[1] + 4), blob(middle[0], middle[1] - 4)]
    assert min(float((turned - there).abs().max()) for there in sideways) < 0.05
    shifted = moved([0.6, 0.6, 0.5, 1.0, 0.5], degrees=0.0, shift=0.1)
    assert float((shifted - blob(middle[0] + 4 - 0.1 * h, middle[1])).abs().max()) < 0.05


@pytest.mark.parametrize("option", [{"weight": -1.0}, {"shift": 2.0}, {"degrees": 200.0}])
def test_wrong_options_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"model\.weight=.*model\.shift=.*model\.degrees="):
        module("rei", nn.Identity(), **option)


def test_blocks_of_rows_keep_the_probabilities_that_weights_need() -> None:
    batch = next(iter(data(MemorySource(), augment=RowBlock(8)).train_dataloader()))
    assert batch.split is not None and batch.acquisition.kspace.shape[-2] == 8
    whole = next(iter(data(MemorySource()).train_dataloader()))
    held = batch.split.weight > 1
    assert held.any() and not (held & ~batch.acquisition.mask).any()
    assert set(batch.split.weight.unique().tolist()) == set(whole.split.weight.unique().tolist())
