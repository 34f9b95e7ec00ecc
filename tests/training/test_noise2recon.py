"""Noise2Recon: which scans keep their reference, and what the others teach."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from memory import MemorySource
from torch import Tensor, nn

from spinwarp.acquisition import Example
from spinwarp.cli.train import check_fit
from spinwarp.data.augment import FlipsAndPhase
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.source import Volume
from spinwarp.errors import InputError
from spinwarp.losses import L1Loss
from spinwarp.masks import RandomMask
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.varnet import VarNet
from spinwarp.training import Noise2ReconModule, VarNetModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # torch renamed a class that Lightning still asks for
]

MASK = RandomMask([0.16], [4])


def data(source: MemorySource | None = None, rate: float = 0.3, **settings: Any) -> FastMRIDataModule:
    return FastMRIDataModule(source or MemorySource(crop=(24, 32)), MASK, reference_rate=rate, **settings)


def module(**options: Any) -> Noise2ReconModule:
    seed_everything(0, verbose=False)
    net = VarNet(partial(NormUNet, channels=4, pools=2), n_cascades=2)
    return Noise2ReconModule(net, L1Loss(), partial(torch.optim.Adam, lr=1e-3), **options)


def fit(folder: Path, model: Noise2ReconModule, source: FastMRIDataModule) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_progress_bar=False, default_root_dir=folder,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=source)
    return trainer


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def batches(source: FastMRIDataModule) -> list[Example]:
    return [source.on_after_batch_transfer(batch, 0) for batch in source.train_dataloader()]


@pytest.mark.parametrize(("rate", "n"), [(0.3, 1), (0.7, 2), (1.0, 3)])
def test_so_many_volumes_keep_their_reference(rate: float, n: int) -> None:
    seen = {batch.volume[0]: batch.target is not None for batch in batches(data(rate=rate))}
    assert len(seen) == 3 and sum(seen.values()) == n
    again = {batch.volume[0]: batch.target is not None for batch in batches(data(rate=rate))}
    assert again == seen
    assert all(batch.target is not None for batch in data(rate=rate).val_dataloader())


@pytest.mark.parametrize("augment", [None, FlipsAndPhase()])
def test_hidden_references_and_lines_that_were_not_measured_change_nothing(
    augment: FlipsAndPhase | None, tmp_path: Path
) -> None:
    hidden = data().dataset("train").unreferenced
    masks = {batch.volume[0]: batch.acquisition.mask for batch in batches(data())}

    class Poisoned(MemorySource):
        def read(self, volume: Volume, slice_index: int) -> Example:
            example = super().read(volume, slice_index)
            if volume.name not in hidden:
                return example
            kspace = torch.where(masks[volume.name], example.acquisition.kspace, 1e3)
            assert example.target is not None
            return replace(
                example,
                acquisition=replace(example.acquisition, kspace=kspace),
                target=example.target * torch.nan,
                data_range=example.data_range * torch.nan,
            )

    found = []
    for source in (MemorySource(crop=(24, 32)), Poisoned(crop=(24, 32))):
        model = module()
        fit(tmp_path, model, data(source, augment=augment))
        found.append(weights(model))
    assert len(hidden) == 2 and torch.equal(*found)


def test_the_image_of_the_samples_is_a_constant_reference_for_that_of_noisier_ones() -> None:
    model = module(noise=(2.0, 2.0))
    batch = next(batch for batch in batches(data()) if batch.target is None)
    acquisition = replace(batch.acquisition, noise_std=torch.tensor([0.05]))
    torch.manual_seed(1)
    loss = model.consistency_loss(acquisition)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    torch.manual_seed(1)
    torch.rand(())
    kspace = acquisition.kspace + 0.1 * torch.randn_like(acquisition.kspace) * acquisition.mask
    noisier = replace(acquisition, kspace=kspace, noise_std=torch.tensor([0.05 * 5**0.5]))
    reference = model.net(acquisition).abs()
    peak = float(reference.detach().max())
    by_hand = (model.net(noisier).abs() - reference.detach()).abs().mean() / peak
    assert float(loss.detach()) == pytest.approx(
        float(by_hand.detach()), rel=1e-5
    )  # single precision through a network
    expected = torch.autograd.grad(by_hand, list(model.parameters()))
    for found, true in zip(gradient, expected, strict=True):
        assert torch.allclose(found, true, rtol=1e-3, atol=1e-6)


def test_a_step_without_a_reference_counts_with_its_weight() -> None:
    batch = next(batch for batch in batches(data()) if batch.target is None)
    steps = []
    for weight in (0.1, 0.3):
        model = module(weight=weight)
        model.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        torch.manual_seed(2)
        steps.append(float(model.training_step(batch, 0).detach()))
    assert steps[1] == pytest.approx(3 * steps[0], rel=1e-5) and steps[0] > 0


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.batch_size=1"):
        data(batch_size=2)
    with pytest.raises(InputError, match=r"data\.reference_rate is a fraction"):
        data(rate=0.0)
    with pytest.raises(InputError, match=r"model\.weight=0\.1 is at least 0, and model\.noise=\[3, 1\]"):
        module(noise=(3, 1))
    supervised = VarNetModule(nn.Identity(), L1Loss(), torch.optim.Adam)
    with pytest.raises(InputError, match=r"model=net needs a reference for every scan.*model=varnet_noise2recon"):
        check_fit("net", supervised, data())
    check_fit("net", module(), data())
