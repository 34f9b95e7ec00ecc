"""A loss that is NaN on one process of a training ends all of them, each with the sentence."""

import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from memory import MemorySource
from torch import Tensor

from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.losses import L1Loss
from spinwarp.masks import RandomMask
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.training import UNetModule
from spinwarp.training.checkpoints import LastCheckpoint, WholeCheckpoints
from spinwarp.training.ddp import WatchedDDP

pytestmark = pytest.mark.ddp

WORLD = 2


class NaNOnTheSecond(UNetModule):
    """The loss of the second process is NaN in its third batch."""

    def training_step(self, example: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(example, batch_idx)
        return loss * float("nan") if (self.global_rank, batch_idx) == (1, 2) else loss


def one_of_two(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    seed_everything(1, verbose=False)
    trainer = Trainer(
        accelerator="cpu", devices=WORLD, strategy=WatchedDDP(timeout=60), logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, use_distributed_sampler=False, max_epochs=2,
        plugins=[WholeCheckpoints()], callbacks=[LastCheckpoint(folder)],
    )  # fmt: skip
    module = NaNOnTheSecond(MagnitudeUNet(channels=2, pools=2), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
    try:
        trainer.fit(module, datamodule=FastMRIDataModule(MemorySource(crop=(24, 32)), RandomMask([0.2], [3])))
    except InputError as error:
        Path(folder, f"rank{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()


def test_a_loss_that_is_nan_on_one_process_ends_all_of_them(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = int(bound.getsockname()[1])
    torch.multiprocessing.spawn(one_of_two, args=(str(tmp_path), port), nprocs=WORLD)
    messages = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(WORLD)]
    assert messages[0] == messages[1]  # together: nobody waits for the others
    assert messages[0].startswith("the training loss is not finite since step 3 (epoch 0)")
    assert not (tmp_path / "last.ckpt").exists()
