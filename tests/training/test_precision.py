"""Mixed precision: networks in bf16, Fourier transforms in complex64, losses and metrics in float32 or more."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Trainer, seed_everything
from memory import MemorySource
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spinwarp.data.module import FastMRIDataModule
from spinwarp.losses import L1Loss, SSIMLoss
from spinwarp.masks import RandomMask
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.flow import Flow
from spinwarp.models.gan import GAN, Discriminator
from spinwarp.models.modl import MoDL
from spinwarp.models.naive_cnn import NaiveCNN
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.residual_cnn import ResidualCNN
from spinwarp.models.score_unet import ScoreUNet
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.models.vae import VAE
from spinwarp.models.varnet import SensitivityNet, VarNet
from spinwarp.training import (
    FlowModule,
    GANModule,
    ScoreModule,
    SupervisedModule,
    UNetModule,
    VAEModule,
    VarNetModule,
)
from spinwarp.training.base import NetworkModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    # torch renamed a class that Lightning still asks for
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

SIZE = (32, 40)
VOLUMES = {"train": {"a.h5": (2, (2, *SIZE))}, "val": {"d.h5": (2, (2, *SIZE))}, "test": {"f.h5": (1, (2, *SIZE))}}
ADAM = partial(torch.optim.Adam, lr=1e-3)
SMALL = partial(NormUNet, channels=4, pools=2)
LEARNED = partial(SensitivityNet, network=SMALL)
MODULES: dict[str, Callable[[], NetworkModule]] = {
    "unet": lambda: UNetModule(MagnitudeUNet(4, 2), L1Loss(), ADAM),
    "varnet": lambda: VarNetModule(VarNet(SMALL, 2, LEARNED), SSIMLoss(), ADAM),
    "varnet, checkpointed": lambda: VarNetModule(VarNet(SMALL, 2, LEARNED, checkpoint=True), SSIMLoss(), ADAM),
    "varnet with given maps": lambda: VarNetModule(VarNet(SMALL, 2), SSIMLoss(), ADAM),
    "varnet in the image": lambda: VarNetModule(VarNet(SMALL, 2, update_domain="image"), SSIMLoss(), ADAM),
    "modl": lambda: VarNetModule(MoDL(partial(ResidualCNN, 6, 3), 2, 3), SSIMLoss(), ADAM),
    "naive cnn": lambda: SupervisedModule(NaiveCNN(4, 3, 3), L1Loss(), ADAM),
    "score": lambda: ScoreModule(Denoiser(ScoreUNet(2, [8, 16])), ADAM),
    "vae": lambda: VAEModule(VAE(SIZE, 4, 2, 2), ADAM),
    "flow": lambda: FlowModule(Flow(SIZE, 2, 2, 4), ADAM, noise_std=0.1),
    "gan": lambda: GANModule(GAN(SIZE, 6, 4, 2), Discriminator(4, 2), ADAM, steps=2),
}


class Seen(TorchDispatchMode):
    """Notes the types of numbers that every operation is given and gives, after autocast has had its say."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        seen = {x.dtype for x in tree_leaves((args, out)) if isinstance(x, Tensor)}
        self.types.setdefault(operation.overloadpacket.__name__, set()).update(seen)
        return out


def module(name: str) -> NetworkModule:
    seed_everything(0, verbose=False)
    return MODULES[name]()


def data(network: NetworkModule) -> FastMRIDataModule:
    mask = None if network.whole_images else RandomMask([0.16], [4])
    return FastMRIDataModule(MemorySource(VOLUMES, crop=(24, 32)), mask, batch_size=2)


def trainer(folder: Path, precision: str) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        precision=precision,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


@pytest.mark.parametrize("name", MODULES)
def test_under_bf16_transforms_are_complex64_and_losses_metrics_and_weights_float32(name: str, tmp_path: Path) -> None:
    network, losses, images = module(name), [], []
    step, update = network.training_step, network.metrics.update

    def noted_step(*arguments):
        losses.append(step(*arguments))
        return losses[-1]

    def noted_update(image, *arguments):
        images.append(image)
        return update(image, *arguments)

    network.training_step, network.metrics.update = noted_step, noted_update
    fit = trainer(tmp_path, "bf16-mixed")
    with Seen() as seen:
        fit.fit(network, datamodule=data(network))
    assert fit.global_step == 1
    assert fit.callback_metrics.keys() >= {"val/loss", "val/ssim"}
    assert all(value.isfinite() and value.dtype == torch.float32 for value in fit.callback_metrics.values())
    assert torch.bfloat16 in seen.types["convolution"]  # otherwise nothing was mixed
    transforms = {kind for name, kinds in seen.types.items() if "fft_c" in name for kind in kinds}
    assert transforms == {torch.complex64}
    assert not {torch.complex32} & set().union(*seen.types.values())
    assert {x.dtype for x in losses + images} == {torch.float32}
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("gan", "flow")])
def test_gradients_in_half_precision_are_near_those_of_float32_as_far_as_their_bits_go(name: str) -> None:
    """A GAN's penalty and a flow that has not set itself are steeper; the step above is what they promise."""
    gradients = []
    for precision in (None, torch.float16, torch.bfloat16):
        network = module(name)
        network.log = lambda *_, **__: None
        torch.manual_seed(1)  # of levels and noise
        (batch, *_) = data(network).loader("val")
        with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
            loss = network.training_step(batch, 0)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.net.parameters() if p.grad is not None]))
    exact, float16, bf16 = gradients
    # bf16 has 8 bits. Rounding of some 2^-8 moves about 1 % of the features across the kink of a LeakyReLU, where the
    # slope is 0.2 or 1: over a dozen layers sqrt(0.01 * 12) * 0.8, a quarter of the gradient; measured up to 0.25
    errors = [float((gradient - exact).norm() / exact.norm()) for gradient in (float16, bf16)]
    assert 0 < errors[1] < 0.4
    # float16 rounds eight times finer, so an eighth of the features cross, which is a third of the error; measured
    # up to 0.16. In a network this small a few features decide, so the ratio of both errors may be anything
    assert 0 < errors[0] < 0.2


@pytest.mark.parametrize("name", ["varnet", "varnet with given maps"])
def test_float16_too_is_for_the_networks_alone(name: str) -> None:
    """As on a GPU; Lightning itself has no 16-mixed on a CPU, and torch's autocast there has."""
    network: nn.Module = module(name).net
    (batch, *_) = data(module(name)).loader("val")
    with Seen() as seen, torch.autocast("cpu", torch.float16):
        # the scale of fastMRI's scanners squared is below float16's smallest number
        batch.acquisition.kspace.mul_(1e-6)
        image = network(batch.acquisition)
        (image.abs() * 1e6).mean().backward()
    assert torch.float16 in seen.types["convolution"]
    assert image.dtype == torch.complex64
    assert image.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert {kind for name, kinds in seen.types.items() if "fft_c" in name for kind in kinds} == {torch.complex64}
