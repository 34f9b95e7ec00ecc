"""A network with a deviation through the Trainer: what is logged, and what its checkpoint gives back."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from memory import MemorySource

from spinwarp.acquisition import Example
from spinwarp.data.module import FastMRIDataModule
from spinwarp.evaluation import Protocol, evaluate
from spinwarp.losses import LaplaceNLL
from spinwarp.masks import RandomMask
from spinwarp.models.heteroscedastic import HeteroscedasticUNet
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.training import HeteroscedasticModule

NET = {"_target_": "spinwarp.models.heteroscedastic.HeteroscedasticUNet", "channels": 4, "pools": 2}


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*logging interval")
@pytest.mark.filterwarnings("ignore:.*LeafSpec")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_logs_as_the_others_and_its_checkpoint_gives_the_deviation(tmp_path: Path, precision: str) -> None:
    seed_everything(0, verbose=False)
    data = FastMRIDataModule(MemorySource(crop=(24, 32)), RandomMask([0.16], [4]), batch_size=2)
    module = HeteroscedasticModule(HeteroscedasticUNet(4, 2), LaplaceNLL(1.0), partial(torch.optim.Adam, lr=1e-3))
    module.record = {"net": NET, "name": "unet_heteroscedastic"}
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fit = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        precision=precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        callbacks=[ModelCheckpoint(tmp_path, filename="best", monitor="val/ssim", mode="max")],
    )
    fit.fit(module, datamodule=data)
    assert all(value.isfinite() for value in fit.callback_metrics.values())
    assert fit.callback_metrics.keys() >= {"train/loss", "val/loss", "val/ssim", "val/psnr", "val/nmse"}
    assert not [name for name, value in module.state_dict().items() if torch.equal(before[name], value)]

    method = Checkpoint(str(tmp_path / "best.ckpt"))
    (example, *_) = data.loader("val")
    assert isinstance(example, Example)
    result = method(example.acquisition)
    with torch.no_grad():
        expected = module.eval().net(example.acquisition)
    assert result.std is not None
    assert torch.equal(result.std, expected.std) and torch.equal(result.image, expected.image)
    volumes = data.source.volumes("val")
    protocol = Protocol("net", "memory", "val", "random_4x", 4.0, {v.name: v.n_slices for v in volumes})
    rows = evaluate(method, data.loader("val"), protocol, tmp_path / "results")
    assert all(0 <= row.coverage <= 1 for row in rows)
