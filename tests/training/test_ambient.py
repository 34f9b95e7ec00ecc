"""Score models from undersampled scans: what they converge to, and what they may not see."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from memory import MemorySource
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Example, Split
from spinwarp.cli.train import check_fit
from spinwarp.coils import noise_level
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.source import Volume
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import RandomMask, seed_of
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.residual_unet import BiasFreeDenoiser
from spinwarp.operators.sense import coil_maps
from spinwarp.preparation import prior_scale
from spinwarp.recon.tv import TotalVariation
from spinwarp.samplers import geometric, pula
from spinwarp.training import AmbientScoreModule
from spinwarp.training import ambient as ambient_training

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # torch renamed a class that Lightning still asks for
]

MASK = RandomMask([0.16], [4])
SAMPLER = partial(pula, schedule=geometric(2.0, 0.1, 3))
FIRST = TotalVariation(weight=0.005, iterations=5, maps="given")


def module(net: Denoiser | None = None, **options: Any) -> AmbientScoreModule:
    seed_everything(0, verbose=False)
    settings = {"sampler": SAMPLER, "first": FIRST, "first_steps": 3, "ema_decay": 0.9, **options}
    return AmbientScoreModule(net or BiasFreeDenoiser([4, 8]), partial(torch.optim.Adam, lr=1e-3), **settings)


def data(source: MemorySource | None = None, mask: RandomMask | None = MASK, **settings: Any) -> FastMRIDataModule:
    options = {"batch_size": 2, "supervision": "split", **settings}
    return FastMRIDataModule(source or MemorySource(crop=(24, 32)), mask, **options)


class Wiener(Denoiser):
    """The exact denoiser of Gaussian images with independent columns of k-space, whose power is to be learned."""

    def __init__(self, w: int) -> None:
        super().__init__(nn.Identity(), "complex")
        self.log_power = nn.Parameter(torch.zeros(w))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        power = self.log_power.exp()
        return ifftc(fftc(x) * power / (power + sigma.view(-1, 1, 1).square()))


def test_the_power_of_gaussian_images_is_learned_without_the_noise_and_the_gaps_of_their_scans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    h, w, noise_std = 16, 12, 0.2
    power = 1 / (0.5 + (torch.arange(w) - w // 2).abs()) ** 1.5  # 2.8 to 0.06; that of the noise is 0.04
    net = Wiener(w)
    sampler = partial(pula, schedule=geometric(4.0, 0.02, 40))
    model = module(net, sampler=sampler, first_steps=0, n_images=16, n_kept=16, log_sigma_mean=-0.5)
    model.average = net
    monkeypatch.setattr(ambient_training, "in_prior_units", lambda example: example.acquisition)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    found = []
    for step in range(240):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 if step < 80 else 0.02
        image = fftc(torch.randn(1, 1, h, w, dtype=torch.complex64)) * power.sqrt()
        mask = (torch.rand(w) < 0.5).view(1, 1, 1, w)
        kspace = (image + noise_std * torch.randn(1, 1, h, w, dtype=torch.complex64)) * mask
        scan = Acquisition(kspace, mask, torch.ones(1, 1, h, w), noise_std=torch.tensor([noise_std]))
        split = Split(mask, mask.float())
        images = model.images(Example(scan, None, torch.ones(1), (str(step),), (0,), split=split))
        sigma = model.draw(len(images))[1]
        loss = model.matching_errors(net, images, sigma, torch.randn_like(images)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 120:
            found.append(net.log_power.detach().exp())
    ratio = torch.stack(found).mean(0) / power
    # a sampler of 40 levels lacks 2 % of the power, and this adds up where little is measured; with the noise the power
    # of the weakest line would be 1.7 times too large, and with the gaps all would be half
    assert float(ratio.log().square().mean().sqrt()) < 0.15


def test_the_first_images_are_those_of_a_classical_method_and_then_draws() -> None:
    model, example = module(flip=0.0), data().dataset("train").example(0, 0)
    scan = ambient_training.in_prior_units(example)
    (image,) = model.images(example)
    assert torch.equal(image, model.first(scan).image[0])
    model.first_steps = 0
    expected = model.draws(scan, 1, torch.Generator().manual_seed(3))
    torch.manual_seed(3)
    images = model.images(example)
    assert len(images) == 2
    assert any(torch.equal(one, expected[0]) for one in images)
    assert any(torch.equal(one, image) for one in images)


def test_a_step_learns_from_a_few_of_the_images_that_were_kept_last() -> None:
    model, dataset = module(n_images=2, n_kept=3, first_steps=9), data(batch_size=1).dataset("train")
    narrow = [i for i in range(len(dataset)) if dataset.example(0, i).acquisition.kspace.shape[-1] == 40]
    sizes = [len(model.images(dataset.example(0, i))) for i in narrow[:5]]
    assert sizes == [1, 2, 2, 2, 2]
    assert len(model._kept) == 3
    wide = next(i for i in range(len(dataset)) if i not in narrow)
    assert model.images(dataset.example(0, wide)).shape == (1, 32, 48)  # images of one size only


def test_images_are_mirrored_along_each_axis() -> None:
    example = data(batch_size=1).dataset("train").example(0, 0)
    (whole,), (mirrored,) = module(flip=0.0).images(example), module(flip=1.0).images(example)
    assert torch.equal(mirrored, whole.flip((-2, -1)))


class Poisoned(MemorySource):
    """The same scans, with NaN for references and garbage in the lines that a scan leaves out."""

    def read(self, volume: Volume, slice_index: int) -> Example:
        example = super().read(volume, slice_index)
        assert example.target is not None
        mask = MASK(volume.shape[1:3], np.random.RandomState(seed_of(volume.name)))[0]
        kspace = torch.where(mask, example.acquisition.kspace, 1e3)
        acquisition = replace(example.acquisition, kspace=kspace)
        return replace(example, acquisition=acquisition, target=example.target * torch.nan)


def fit(folder: Path, model: AmbientScoreModule, source: FastMRIDataModule, **more: Any) -> Trainer:
    trainer = Trainer(**{
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0,
        "enable_checkpointing": False, "default_root_dir": folder, **more,
    })  # fmt: skip
    trainer.fit(model, datamodule=source)
    return trainer


def test_what_was_not_measured_does_not_change_the_training(tmp_path: Path) -> None:
    found = []
    for source in (MemorySource(crop=(24, 32)), Poisoned(crop=(24, 32))):
        model = module()
        before = torch.cat([p.detach().flatten() for p in model.net.parameters()])
        trainer = fit(tmp_path, model, data(source))
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert torch.isfinite(trainer.callback_metrics["val/loss"])
        assert trainer.callback_metrics["val/psnr"].isnan() == isinstance(source, Poisoned)
        assert not torch.equal(found[-1][: len(before)], before)
    assert torch.equal(*found)


def test_data_that_are_undersampled_already_need_no_mask(tmp_path: Path) -> None:
    trainer = fit(tmp_path, module(), data(mask=None))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_the_loss_of_validation_is_the_missed_fraction_of_the_held_out_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = module(), data().dataset("val")[[(0, 0), (0, 1)]]
    assert batch.split is not None and len(batch) == 2
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    seen: list[tuple[Acquisition, int]] = []

    def nothing(scan: Acquisition, n: int, generator: torch.Generator) -> Tensor:
        seen.append((scan, int(torch.randint(2**31, (1,), generator=generator))))
        return torch.zeros(n, *scan.kspace.shape[-2:], dtype=torch.cfloat)

    monkeypatch.setattr(model, "draws", nothing)
    model.validation_step(batch, 0)
    assert float(model.validation_loss.compute()) == pytest.approx(1.0)
    given = batch.acquisition.kspace * batch.split.mask / prior_scale(batch.acquisition).view(-1, 1, 1, 1)
    for i, (scan, _) in enumerate(seen):  # each item without its held-out lines
        assert torch.equal(scan.mask[0], batch.split.mask[i])
        assert torch.allclose(scan.kspace[0], given[i])
    model.validation_step(batch, 0)
    assert [number for _, number in seen[:2]] == [number for _, number in seen[2:]]
    assert seen[0][1] != seen[1][1]


def test_a_slice_of_zeros_is_no_divergence_and_teaches_nothing() -> None:
    model, example = module(first_steps=0), data(batch_size=1).dataset("val").example(0, 0)
    scan = example.acquisition
    empty = replace(example, acquisition=replace(scan, kspace=0 * scan.kspace, maps=torch.ones_like(scan.kspace)))
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model.validation_step(empty, 0)
    model.validation_step(example, 0)
    assert torch.isfinite(model.validation_loss.compute())


def test_draws_are_of_the_average_without_dropout_where_a_coil_sees_the_image() -> None:
    model, example = module(), data(batch_size=1).dataset("train").example(0, 0)
    scan = ambient_training.in_prior_units(example)
    maps = scan.maps.clone()
    maps[..., :8] = 0
    model.train()
    model.net = None  # type: ignore[assignment]
    drawn = model.draws(replace(scan, maps=maps), 1)
    assert not model.average.training
    assert not drawn[..., :8].any()
    assert drawn[..., 8:].abs().min() > 0


def test_a_scan_is_seen_in_the_units_and_with_the_phase_of_the_prior() -> None:
    example = data(batch_size=1).dataset("train").example(0, 0)
    scale = float(prior_scale(example.acquisition))
    turn = torch.polar(torch.ones(()), torch.tensor(2.0))
    scan = replace(
        example.acquisition, kspace=1e3 * turn * example.acquisition.kspace, noise_std=torch.tensor([5e2 * scale])
    )
    seen = ambient_training.in_prior_units(replace(example, acquisition=scan))
    assert seen.noise_std is not None
    assert float(seen.noise_std) == pytest.approx(0.5)
    image = (ifftc(seen.kspace) * coil_maps(seen).conj()).sum(1)
    assert float((image * image.abs()).sum().angle()) == pytest.approx(0.0, abs=0.1)
    assert module().nearly_real(1) is True
    measured = ambient_training.in_prior_units(replace(example, acquisition=replace(scan, noise_std=None)))
    assert measured.noise_std is not None
    assert float(measured.noise_std) == pytest.approx(float(noise_level(measured.kspace, measured.mask)), rel=1e-4)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"complex images; set model\.net\.channels=complex"):
        module(Denoiser(nn.Identity(), channels="magnitude"))
    with pytest.raises(InputError, match=r"set data\.supervision=split"):
        fit(tmp_path, module(), data(supervision="noisy"))
    with pytest.raises(InputError, match=r"n_images=5 from 1 to n_kept=4"):
        module(n_images=5, n_kept=4)
    with pytest.raises(InputError, match=r"is not split.*set data\.supervision=split"):
        fit(tmp_path, module(), data(supervision="full"))
    with pytest.raises(InputError, match=r"model=net learns from held-out lines; set data\.supervision=split"):
        check_fit("net", module(), data(supervision="full"))
