"""Training of generators, on slices in memory."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from memory import MemorySource
from torch import Tensor

from spinwarp.acquisition import Example
from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.masks import RandomMask
from spinwarp.models.flow import Flow
from spinwarp.models.gan import GAN, Discriminator
from spinwarp.models.unet import UNet
from spinwarp.models.vae import VAE
from spinwarp.recon.latent import LatentOptimisation
from spinwarp.training import FlowModule, GANModule, GeneratorModule, VAEModule
from spinwarp.training.schedule import Cosine

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    # torch renamed a class that Lightning still asks for
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

SIZE = (32, 40)
TYPES = ("vae", "gan", "flow")
ADAM = partial(torch.optim.Adam, lr=1e-3)
VOLUMES = {"train": {"a.h5": (4, (2, *SIZE))}, "val": {"d.h5": (2, (2, *SIZE))}, "test": {"f.h5": (1, (2, *SIZE))}}


def data(mask: RandomMask | None = None, **settings: Any) -> FastMRIDataModule:
    source = settings.pop("source", MemorySource(VOLUMES, crop=(24, 32)))
    return FastMRIDataModule(source, mask, **{"batch_size": 2, **settings})


def model(kind: str) -> GeneratorModule:
    seed_everything(0, verbose=False)
    module: GeneratorModule
    if kind == "vae":
        net = {"_target_": "spinwarp.models.vae.VAE", "size": SIZE, "channels": 4, "levels": 2, "latent_channels": 2}
        module = VAEModule(VAE(SIZE, channels=4, levels=2, latent_channels=2), ADAM, Cosine())
    elif kind == "gan":
        net = {"_target_": "spinwarp.models.gan.GAN", "size": SIZE, "n_latents": 6, "channels": 4, "levels": 2}
        module = GANModule(GAN(SIZE, 6, 4, 2), Discriminator(4, 2), ADAM, steps=3)
    else:
        net = {"_target_": "spinwarp.models.flow.Flow", "size": SIZE, "levels": 2, "depth": 2, "channels": 4}
        module = FlowModule(Flow(SIZE, levels=2, depth=2, channels=4), ADAM, noise_std=0.1)
    module.record = {"net": {**net, "size": list(SIZE)}, "name": kind}
    return module


def trainer(folder: Path, **settings: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "gradient_clip_val": 1.0,
        "num_sanity_val_steps": 0,
        "callbacks": [ModelCheckpoint(folder, filename="best", monitor="val/ssim", mode="max")],
    }
    return Trainer(default_root_dir=folder, **{**defaults, **settings})


@pytest.fixture(scope="module")
def batch() -> Example:
    (first, *_) = data().loader("val")
    assert isinstance(first, Example)
    return first


@pytest.mark.parametrize("kind", TYPES)
def test_an_epoch_moves_all_weights_and_leaves_a_checkpoint_that_reconstructs(kind: str, tmp_path: Path) -> None:
    module = model(kind)
    before = {name: value.clone() for name, value in module.named_parameters()}
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=data())
    # the first layer inside a block whose last one starts at zero moves from the second step on; there are two
    assert not [name for name, value in module.named_parameters() if torch.equal(value, before[name])]
    assert {"val/loss", "val/ssim", "val/psnr"} <= fit.callback_metrics.keys()
    assert math.isfinite(fit.callback_metrics["val/ssim"])
    (example, *_) = data(RandomMask([0.3], [2])).loader("test")
    method = LatentOptimisation(str(tmp_path / "best.ckpt"), iterations=2)
    assert method.record["name"] == kind
    assert method(example.acquisition, generator=torch.Generator()).image.shape == (1, *SIZE)


@pytest.mark.parametrize("kind", ["vae", "flow"])  # the loss of two players need not fall
def test_a_few_steps_on_one_batch_lower_the_loss(kind: str, batch: Example) -> None:
    module = model(kind)
    images, _ = module.images(batch)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = module.training_loss(images, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1  # nats a number


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_drawn_depends_on_the_generator_alone(kind: str) -> None:
    module = model(kind).eval()
    first = module.sample(3, torch.Generator().manual_seed(1))
    assert first.shape == (3, *SIZE)
    assert first.is_complex()
    assert not first.requires_grad
    assert torch.equal(module.sample(3, torch.Generator().manual_seed(1)), first)
    assert not torch.equal(module.sample(3, torch.Generator().manual_seed(2)), first)


@pytest.mark.parametrize("kind", TYPES)
def test_validating_twice_gives_the_same_numbers(kind: str, batch: Example, tmp_path: Path) -> None:
    module, found = model(kind), []
    for _ in range(2):
        fit = trainer(tmp_path, callbacks=[], enable_checkpointing=False)
        fit.validate(module, datamodule=data(), verbose=False)
        found.append({name: float(value) for name, value in fit.callback_metrics.items()})
    assert found[0] == found[1]


def test_images_have_unit_brightness_and_no_phase_of_their_own(batch: Example) -> None:
    images, unit = model("vae").images(batch)
    assert images.abs().square().mean().sqrt() == pytest.approx(1, abs=0.3)
    # the phase of these images is random, but that of a few central lines is taken out
    turned = model("vae").images(scaled(batch, 5j))
    torch.testing.assert_close(turned[0], images, rtol=0, atol=1e-4)
    torch.testing.assert_close(turned[1], 5j * unit, rtol=1e-4, atol=1e-4)


def scaled(example: Example, factor: complex) -> Example:
    acquisition = replace(example.acquisition, kspace=example.acquisition.kspace * factor)
    return replace(example, acquisition=acquisition)


@torch.no_grad()
def test_the_loss_of_a_vae_is_minus_the_bound_at_the_best_noise_level(batch: Example) -> None:
    module = model("vae")
    images, _ = module.images(batch)
    mean, log_variance = module.net.encode(images)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    made = module.net.generate(mean + (log_variance / 2).exp() * noise, SIZE)
    prior = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()), prior
    ).sum()

    def bound(std: float) -> float:
        error = torch.view_as_real(made - images)
        return float(-torch.distributions.Normal(0.0, std).log_prob(error).sum() + divergence) / error.numel()

    best = float(torch.view_as_real(made - images).square().mean().sqrt())
    loss = float(module.training_loss(images, torch.Generator().manual_seed(0)))
    assert loss == pytest.approx(bound(best), rel=1e-4)
    assert loss < min(bound(0.9 * best), bound(1.1 * best))


class Scaling(Flow):
    """``z = x / scale``: the flow of white noise, whose density is known."""

    def __init__(self, scale: float) -> None:
        super().__init__((4, 6), levels=1, depth=1, channels=2)
        self.scale = scale

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.view_as_real(images).flatten(1) / self.scale
        return z, torch.full((len(z),), -z.shape[1] * math.log(self.scale))


def test_the_loss_of_a_flow_is_minus_the_log_likelihood() -> None:
    images = torch.randn(2, 4, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    module = FlowModule(Scaling(0.7), ADAM, noise_std=1e-6)
    expected = -torch.distributions.Normal(0.0, 0.7).log_prob(torch.view_as_real(images)).mean()
    assert float(module.training_loss(images)) == pytest.approx(float(expected), rel=1e-4)


def test_a_flow_denoises_as_wiener_does_where_images_are_white() -> None:
    # images of variance 1 a part and complex noise of variance 0.5, 0.25 a part: noisy ones have 1.25 a part
    module = FlowModule(Scaling(1.25**0.5), ADAM, noise_std=0.5**0.5)
    images = torch.randn(2, 4, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    noisy = module.noisy(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(module.restore(images), noisy / 1.25)


def test_the_players_of_a_gan_get_their_own_gradients(batch: Example) -> None:
    module = model("gan")
    assert isinstance(module, GANModule)
    images, _ = module.images(batch)
    module.training_loss(images, torch.Generator().manual_seed(0)).backward()
    together = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    softplus = torch.nn.functional.softplus
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    made = module.net.generate(z)
    generator_loss = softplus(-module.discriminator(made)).mean()
    for name, gradient in zip(
        (n for n, _ in module.net.named_parameters()),
        torch.autograd.grad(generator_loss, list(module.net.parameters()), retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(together[f"net.{name}"], gradient)
    real = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(module.discriminator(real).sum(), real, create_graph=True)
    penalty = 0.5 * torch.view_as_real(slope).square().sum((1, 2, 3)).mean()
    loss = softplus(-module.discriminator(images)).mean() + softplus(module.discriminator(made.detach())).mean()
    gradients = torch.autograd.grad(loss + penalty, list(module.discriminator.parameters()), allow_unused=True)
    for (name, _), gradient in zip(module.discriminator.named_parameters(), gradients, strict=True):
        assert gradient is not None
        torch.testing.assert_close(together[f"discriminator.{name}"], gradient)


def test_latent_descent_that_arrives_early_gives_its_last_iterate(monkeypatch: pytest.MonkeyPatch) -> None:
    """L-BFGS ends by itself at a minimum, however many steps it was given, and at the start if that is one."""
    module = model("gan")
    assert isinstance(module, GANModule)
    images = torch.zeros(1, *SIZE, dtype=torch.complex64)
    for made in (1, 2, 4):  # of iterates; the module takes the start and three steps
        iterates = [(torch.full((1, *module.net.latent_shape()), 0.1 * i), torch.zeros(1)) for i in range(made)]
        monkeypatch.setattr("spinwarp.training.gan.lbfgs", lambda *_, found=iterates: iter(found))
        torch.testing.assert_close(module.restore(images), module.net.generate(iterates[-1][0], SIZE))
    flat = torch.nn.Parameter(torch.zeros(()))  # a generator that makes the same of every latent is at its minimum
    monkeypatch.undo()
    monkeypatch.setattr(module.net, "generate", lambda z, _: z.sum() * flat + images)
    assert torch.equal(module.restore(images), images)


def test_undersampled_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="undersampled; train with mask=none"):
        trainer(tmp_path, callbacks=[], enable_checkpointing=False).fit(
            model("vae"), datamodule=data(RandomMask([0.3], [2]))
        )


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_latent_descent_of_a_gan_that_arrives_early_gives_the_image_where_it_arrived(half: bool) -> None:
    module = model("gan")
    module.steps = 60
    with torch.no_grad():
        images = module.net.generate(torch.zeros(1, 6), SIZE)  # where it starts: there is no step to take
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            restored = module.restore(images)
    # the last call of the network is in half precision: eight bits, eight layers
    assert float((restored - images).norm() / images.norm()) < (0.05 if half else 1e-6)


@torch.no_grad()
def test_latent_descent_of_a_gan_under_autocast_finds_what_it_finds_without() -> None:
    module, errors = model("gan"), []
    module.steps = 30
    images = torch.ones(1, *SIZE, dtype=torch.complex64) / 2
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            errors.append(float((module.restore(images) - images).norm()))
    assert abs(errors[1] / errors[0] - 1) < 0.01


def test_a_gan_says_so_when_the_images_have_another_size(tmp_path: Path) -> None:
    volumes = {split: dict.fromkeys(names, (1, (2, 32, 48))) for split, names in VOLUMES.items()}
    with pytest.raises(InputError, match=r"makes images of 32x40, but 32x48 are needed"):
        trainer(tmp_path, callbacks=[], enable_checkpointing=False).fit(
            model("gan"), datamodule=data(source=MemorySource(volumes))
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAEModule(UNet(2, 2), ADAM), "VAEModule trains a VAE of spinwarp.models; got UNet"),
        (lambda: FlowModule(VAE(SIZE, 4, 2), ADAM), "FlowModule trains a Flow of spinwarp.models; got VAE"),
        (lambda: FlowModule(Flow(SIZE), ADAM, noise_std=0), "without noise the likelihood has no bound"),
        (lambda: GANModule(GAN(SIZE), Discriminator(), ADAM, penalty=-1), "penalty is at least 0"),
    ],
)
def test_modules_that_cannot_be_are_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
