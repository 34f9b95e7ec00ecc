"""Training on three gloo processes is that of one."""

import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from memory import MemorySource

from spinwarp.data.module import FastMRIDataModule
from spinwarp.losses import L1Loss, NormalisedL1L2, SquaredError
from spinwarp.masks import RandomMask
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.residual_unet import BiasFreeDenoiser
from spinwarp.models.score_unet import ScoreUNet
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.recon.tv import TotalVariation
from spinwarp.samplers import geometric, pula
from spinwarp.training import AmbientScoreModule, EnsureModule, ScoreModule, SelfSupervisedModule, UNetModule
from spinwarp.training.ddp import WatchedDDP

pytestmark = [
    pytest.mark.ddp,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*srun"),
]

# more processes than the two volumes of validation, whose three slices and two make three batches
WORLD = 3


class FirstGradients(Callback):
    """Keeps the gradients of the first step, and what it was made of."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.slices: list[tuple[str, int]] = []
        self.noise: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.slices += zip(batch.volume, batch.slice, strict=True)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: torch.Tensor) -> None:
        self.noise.append(float(torch.rand(())))  # as the step itself would draw it

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        self.gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]


def unet() -> UNetModule:
    torch.manual_seed(0)
    return UNetModule(MagnitudeUNet(channels=4, pools=2), L1Loss(), partial(torch.optim.SGD, lr=0.1))


def score() -> ScoreModule:
    torch.manual_seed(0)
    return ScoreModule(Denoiser(ScoreUNet(2, widths=(8, 16)), "complex"), partial(torch.optim.SGD, lr=0.1))


def ssdu() -> SelfSupervisedModule:
    torch.manual_seed(0)
    return SelfSupervisedModule(MagnitudeUNet(channels=4, pools=2), NormalisedL1L2(), partial(torch.optim.SGD, lr=0.1))


def ensure() -> EnsureModule:
    torch.manual_seed(0)
    return EnsureModule(MagnitudeUNet(channels=4, pools=2), SquaredError(), partial(torch.optim.SGD, lr=0.1))


def ambient() -> AmbientScoreModule:
    torch.manual_seed(0)
    sampler, first = partial(pula, schedule=geometric(2.0, 0.1, 3)), TotalVariation(weight=0.005, maps="given")
    return AmbientScoreModule(BiasFreeDenoiser([4, 8]), partial(torch.optim.SGD, lr=0.1), sampler, first)


def train(folder: Path, n_processes: int, n_accumulated: int = 1) -> dict[str, Any]:
    """Validate several kinds of models as they begin, and take the first step of those without a prior."""

    def trainer(**settings: Any) -> Trainer:
        return Trainer(
            accelerator="cpu",
            devices=n_processes,
            strategy=WatchedDDP() if n_processes > 1 else "auto",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=str(folder),
            use_distributed_sampler=False,
            **settings,
        )

    seed_everything(1, verbose=False)
    mask = RandomMask([0.2], [3])
    found: dict[str, Any] = {}
    kinds = (
        ("unet", unet(), mask, "full"), ("score", score(), None, "full"), ("ssdu", ssdu(), mask, "noisy"),
        ("ensure", ensure(), mask, "split"), ("ambient", ambient(), mask, "split"),
    )  # fmt: skip
    for name, module, used, supervision in kinds:
        source = MemorySource(crop=(24, 32))
        validation = trainer()
        data = FastMRIDataModule(source, used, batch_size=2, supervision=supervision)
        validation.validate(module, datamodule=data, verbose=False)
        found[name] = {key: float(value) for key, value in validation.callback_metrics.items()}
        if name not in ("score", "ambient"):
            first = FirstGradients()
            step = trainer(max_steps=1, limit_val_batches=0, callbacks=[first], accumulate_grad_batches=n_accumulated)
            step.fit(module, datamodule=FastMRIDataModule(source, used, supervision=supervision))
            found[f"step of {name}"] = {key: getattr(first, key) for key in ("gradients", "slices", "noise")}
    return found


def one_of_several(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    found = train(Path(folder), WORLD)
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("several")
    torch.multiprocessing.spawn(one_of_several, args=(str(folder), free_port()), nprocs=WORLD)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(tmp_path_factory.mktemp("alone"), 1, n_accumulated=WORLD)


@pytest.mark.parametrize("name", ["unet", "score", "ssdu", "ensure", "ambient"])
def test_loss_and_metrics_of_validation_are_those_of_one_process(
    name: str, alone: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    assert {"val/loss", "val/ssim", "val/psnr", "val/nmse"} <= alone[name].keys()
    for found in several:
        # 1e-6: logged in single precision
        assert found[name] == pytest.approx(alone[name], rel=1e-6)


@pytest.mark.parametrize("name", ["unet", "ssdu"])
def test_the_first_step_has_the_gradients_of_one_process_that_accumulates(
    name: str, alone: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    one, steps = alone[f"step of {name}"], [found[f"step of {name}"] for found in several]
    assert len(one["slices"]) == WORLD
    assert [step["slices"][0] for step in steps] == one["slices"]
    size = max(float(g.abs().max()) for g in one["gradients"])
    assert size > 0
    for step in steps:
        assert len(step["gradients"]) == len(one["gradients"])
        for ours, theirs in zip(step["gradients"], one["gradients"], strict=True):
            assert float((ours - theirs).abs().max()) < 1e-5 * size


def test_each_process_has_random_numbers_of_its_own(several: list[dict[str, Any]]) -> None:
    assert len({found["step of unet"]["noise"][0] for found in several}) == WORLD
