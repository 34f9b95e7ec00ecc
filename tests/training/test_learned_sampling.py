"""A mask learned with a network: what the network gets, what validation sees, and the file that is written."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from memory import MemorySource
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition
from spinwarp.cli.train import learn_sampling
from spinwarp.data.given import FileMask
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.undersample import MAPS, AddMaps, Undersample
from spinwarp.errors import InputError
from spinwarp.losses import L1Loss
from spinwarp.masks import LearnedMask, RandomMask
from spinwarp.models.cascades import CascadeNet
from spinwarp.models.data_steps import ImageGradient
from spinwarp.models.norm_unet import NormUNet, PlainUNet
from spinwarp.models.varnet import VarNet
from spinwarp.training import EveryCascadeModule, SelfSupervisedModule, VarNetModule
from spinwarp.training.sampling import LearnedSampling, write_mask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]
SOURCE = MemorySource({split: {f"{split}.h5": (3, (2, 32, 40))} for split in ("train", "val", "test")})
ADAM = partial(torch.optim.Adam, lr=1e-2)


def data(mask: object, **options: object) -> FastMRIDataModule:
    return FastMRIDataModule(SOURCE, mask, **options)  # type: ignore[arg-type]


def module() -> VarNetModule:
    return VarNetModule(VarNet(partial(NormUNet, 4, 2), 1), L1Loss(), ADAM)


@pytest.mark.parametrize("maps", ["low_resolution", "espirit"])
def test_the_network_gets_masked_kspace_and_the_maps_that_evaluation_makes(maps: str) -> None:
    mask = LearnedMask(4, 0.16, (1, 40))
    whole = data(mask, n_adjacent=3).dataset("train").example(0, 1)
    assert whole.acquisition.mask.all()
    assert whole.acquisition.maps is None  # maps of the whole k-space would know too much
    given = LearnedSampling(mask, AddMaps(MAPS[maps]))(whole, RandomState(5)).acquisition
    lines = mask((32, 40), RandomState(5))[0]
    assert torch.equal(given.mask[0, 0], lines)
    assert torch.allclose(given.kspace, whole.acquisition.kspace * lines, atol=1e-6)
    assert torch.equal(given.kspace == 0, ~lines.expand_as(given.kspace))
    assert given.n_acs.tolist() == [6]
    fixed = Undersample(lambda *_: (lines, 6), MAPS[maps])(whole, RandomState(0)).acquisition  # type: ignore[arg-type]
    assert given.maps is not None
    assert not given.maps.requires_grad
    # masked k-space is a product with ones in training, and the same numbers otherwise
    torch.testing.assert_close(given.maps, fixed.maps)
    assert all(torch.equal(one.mask, given.mask) and one.maps is not None for one in given.adjacent)
    assert given.kspace.requires_grad
    again = LearnedSampling(mask, AddMaps(None))(whole, None).acquisition
    assert torch.equal(again.mask[0, 0], mask((32, 40), RandomState(0))[0])
    assert again.maps is None


def test_training_moves_the_mask_and_the_written_file_is_that_of_validation(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    mask, net = LearnedMask(4, 0.16, (1, 40)), module()
    source = data(mask)
    assert learn_sampling(net, source) is mask
    seen: list[Acquisition] = []
    net.net.register_forward_pre_hook(lambda network, args: None if network.training else seen.append(args[0]))
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(net, datamodule=source)
    assert float(mask.logits.detach().abs().max()) > 1e-3
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    learned = mask.logits.detach().clone()
    with torch.no_grad():
        mask.logits.zero_()
    write_mask(str(tmp_path / "last.ckpt"), mask, tmp_path / "mask.npy")
    assert torch.equal(mask.logits, learned)
    written, n_center = FileMask(str(tmp_path / "mask.npy"))((32, 40), RandomState(9))
    assert n_center >= 6
    assert int(written.sum()) == 10  # 40 lines, R 4
    assert torch.equal(seen[-1].mask[0, 0], written)
    other = LearnedMask(4, 0.16, (1, 48))
    with pytest.raises(InputError, match=r"no learned mask of size \[1, 48\]"):
        write_mask(str(tmp_path / "last.ckpt"), other, tmp_path / "mask.npy")


def test_models_that_need_other_data_do_not_learn_a_mask() -> None:
    mask = LearnedMask(4, 0.16, (1, 40))
    with pytest.raises(InputError, match=r"mask=learned is learned by networks that are trained end to end"):
        learn_sampling(SelfSupervisedModule(VarNet(partial(NormUNet, 4, 2), 1), L1Loss(), ADAM), data(mask))
    with pytest.raises(InputError, match="validates with the same mask"):
        learn_sampling(module(), data(mask, eval_mask=RandomMask([0.16], [4])))
    assert learn_sampling(module(), data(RandomMask([0.16], [4]))) is None
    with pytest.raises(InputError, match=r"mask=learned is for train\.py alone"):
        data(mask).dataset("test", evaluate=True)


def test_a_loss_on_every_cascade_weights_them_geometrically() -> None:
    torch.manual_seed(0)
    net = CascadeNet(partial(PlainUNet, channels=4, pools=2), ImageGradient, n_cascades=3)
    every = EveryCascadeModule(net, L1Loss(), ADAM, first=0.01)
    example = data(RandomMask([0.16], [4])).dataset("val").example(0, 0)
    with torch.no_grad():
        images = net.cascade_images(example.acquisition)
    losses = [float(L1Loss()(image.abs(), example.target, example.data_range)) for image in images]
    loss, magnitude = every.loss_and_magnitude(example)
    assert float(loss.detach()) == pytest.approx(np.dot(losses, [0.01, 0.1, 1]) / 1.11, rel=1e-5)
    assert torch.equal(magnitude, net(example.acquisition).abs())
    every.eval()
    assert float(every.loss_and_magnitude(example)[0].detach()) == pytest.approx(losses[-1], rel=1e-6)
    with pytest.raises(InputError, match="which VarNet does not return"):
        EveryCascadeModule(VarNet(partial(NormUNet, 4, 2), 1), L1Loss(), ADAM)
    with pytest.raises(InputError, match="weight of the first cascade"):
        EveryCascadeModule(net, L1Loss(), ADAM, first=0.0)


def test_the_mask_has_a_learning_rate_of_its_own_and_no_decay() -> None:
    net, mask = module(), LearnedMask(4, 0.16, (1, 40), learning_rate=0.02)
    assert learn_sampling(net, data(mask)) is mask
    optimizer = torch.optim.AdamW(net.parameter_groups(), lr=1e-4, weight_decay=1e-2)
    weights, probabilities = optimizer.param_groups
    assert (weights["lr"], weights["weight_decay"]) == (1e-4, 1e-2)
    assert (probabilities["lr"], probabilities["weight_decay"]) == (0.02, 0.0)
    assert probabilities["params"] == [mask.logits]
    assert len(weights["params"]) == len(list(net.net.parameters()))
    with pytest.raises(InputError, match=r"mask\.learning_rate=0\.0 must be positive"):
        LearnedMask(4, 0.16, (1, 40), learning_rate=0.0)
