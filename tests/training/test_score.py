"""Denoisers and their training."""

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

from spinwarp.acquisition import Acquisition
from spinwarp.coils import low_resolution_maps
from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc
from spinwarp.masks import RandomMask
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.score_unet import ScoreUNet
from spinwarp.models.unet import UNet
from spinwarp.preparation import prior_scale
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.recon.posterior import Posterior
from spinwarp.samplers import geometric, pula
from spinwarp.training import ScoreModule
from spinwarp.training.callbacks import ExamplePanel, SamplePanel
from spinwarp.training.images import full_images

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    # torch renamed a class that Lightning still asks for
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

NET = {
    "_target_": "spinwarp.models.denoiser.Denoiser",
    "network": {"_target_": "spinwarp.models.score_unet.ScoreUNet", "widths": [8, 16]},
    "channels": "complex",
}


def score_module(channels: str = "complex", **settings: Any) -> ScoreModule:
    network = ScoreUNet({"complex": 2, "magnitude": 1}[channels], widths=(8, 16))
    module = ScoreModule(Denoiser(network, channels), partial(torch.optim.Adam, lr=2e-3), **settings)
    module.record = {"net": NET, "name": "score"}
    return module


def data(mask: RandomMask | None = None) -> FastMRIDataModule:
    return FastMRIDataModule(MemorySource(crop=(24, 32)), mask, batch_size=2)


def train(module: ScoreModule, folder: Path, steps: int = 2, **settings: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(folder),
        **settings,
    )
    trainer.fit(module, datamodule=data())
    return trainer


class Scalar(nn.Module):
    """A network that is one number for each noise level of a few: the least that can learn a Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        return self.layers(log_sigma[:, None])[..., None, None] * x


def test_matching_learns_the_score_of_a_gaussian() -> None:
    torch.manual_seed(0)
    # told the wrong deviation of the images, 2, the network has something to learn: that it is 1
    module = ScoreModule(Denoiser(Scalar(), sigma_data=2.0), partial(torch.optim.Adam, lr=1e-2))
    optimizer = module.make_optimizer(module.net.parameters())
    for _ in range(600):
        images = torch.randn(256, 4, 4, dtype=torch.complex64)
        sigma = (torch.randn(256) * 1.3 - 0.5).exp()
        loss = module.matching_errors(module.net, images, sigma, torch.randn_like(images)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(64, 4, 4, dtype=torch.complex64)
    for sigma in (0.2, 0.5, 1.0, 2.0):
        score = (module.net(x, torch.tensor(sigma)) - x) / sigma**2
        expected = -x / (1 + sigma**2)
        # 600 steps of 256 images leave 1 to 2 %
        assert (score - expected).norm() < 0.06 * expected.norm(), sigma


def test_the_logarithmic_loss_weighs_the_relative_change_of_each_error() -> None:
    """The gradient is that of the mean of log e: each image pulls by its own error, however large that is."""
    module = ScoreModule(Denoiser(Scalar()), partial(torch.optim.Adam, lr=1e-2), logarithmic=True)
    module.matching_errors = lambda *_: torch.stack([p.sum() for p in (a, b)])  # type: ignore[method-assign]
    a, b = torch.tensor([4.0], requires_grad=True), torch.tensor([0.01], requires_grad=True)
    module.images = lambda _: torch.zeros(2, 4, 4, dtype=torch.complex64)  # type: ignore[method-assign]
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    module.training_step([None, None], 0).backward()  # type: ignore[arg-type]
    assert a.grad is not None
    assert b.grad is not None
    # d/de mean log(e + 1e-4) = 1 / (2 (e + 1e-4))
    assert torch.allclose(torch.cat([a.grad, b.grad]), torch.tensor([1 / 8.0002, 1 / 0.0202]), rtol=1e-5)


def test_a_magnitude_denoiser_sees_the_noise_of_one_real_part() -> None:
    torch.manual_seed(0)
    seen = []

    class Network(nn.Module):
        def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
            seen.append((x, log_sigma.exp()))
            return x * 0

    denoiser = Denoiser(Network(), "magnitude")
    x = torch.randn(3, 8, 8, dtype=torch.complex64)
    sigma = torch.tensor([0.3, 1.0, 2.0])
    image = denoiser(x, sigma)
    inputs, level = seen[0]
    assert inputs.shape == (6, 1, 8, 8)
    assert torch.allclose(level, sigma.repeat(2) / 2**0.5)
    shrink = 1 / (1 + sigma.square() / 2)  # of a Gaussian of variance one under half of the complex noise
    assert torch.allclose(image, shrink.view(-1, 1, 1) * x, atol=1e-6)


def test_training_of_magnitudes_and_sampling_agree_on_the_noise() -> None:
    """What training calls a level, the denoiser of real images, is what sampling calls it for complex ones."""
    torch.manual_seed(0)
    module = score_module("magnitude")
    levels = []
    module.net.register_forward_pre_hook(lambda _, args: levels.append(args))
    images = torch.rand(2, 8, 8)
    noise = torch.ones(2, 8, 8)
    module.matching_errors(module.net, images, torch.full((2,), 0.6), noise)
    noisy, sigma = levels[0]
    assert torch.allclose(noisy, images + 0.6 / 2**0.5)
    assert torch.allclose(sigma, torch.full((2,), 0.6 / 2**0.5))


@pytest.mark.parametrize("size", [(8, 8), (33, 29), (5, 40), (1, 3)])
def test_the_score_network_takes_any_size(size: tuple[int, int]) -> None:
    network = ScoreUNet(2, widths=(8, 16), blocks=2)
    x = torch.randn(2, 2, *size)
    assert network(x, torch.zeros(2)).shape == x.shape


def test_an_untrained_denoiser_is_that_of_a_gaussian() -> None:
    x, sigma = torch.randn(2, 16, 16, dtype=torch.complex64), torch.tensor([0.5, 2.0])
    image = Denoiser(ScoreUNet(widths=(8, 16)))(x, sigma)
    assert torch.allclose(image, x / (1 + sigma.square()).view(-1, 1, 1), atol=1e-6)


def test_the_network_knows_the_noise_level() -> None:
    torch.manual_seed(0)
    network = ScoreUNet(widths=(8, 16))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 2, 16, 16)
    assert (network(x, torch.zeros(1)) - network(x, torch.ones(1))).abs().max() > 1e-3


@pytest.mark.parametrize("channels", ["complex", "magnitude"])
def test_it_trains_and_validates_and_draws_samples(channels: str, tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    module = score_module(channels)
    before = [p.clone() for p in module.average.parameters()]
    trainer = train(module, tmp_path, callbacks=[SamplePanel(str(tmp_path / "samples"), n_samples=2)])
    assert np.isfinite(float(trainer.callback_metrics["val/loss"]))
    assert 0 < float(trainer.callback_metrics["val/ssim"]) <= 1
    assert any((a - b).abs().max() > 0 for a, b in zip(before, module.average.parameters(), strict=True))
    assert len(list((tmp_path / "samples").glob("step_*.png"))) >= 1
    samples = module.sample(2, torch.Generator().manual_seed(1))
    assert samples.shape == (2, 32, 48)
    assert torch.equal(samples, module.sample(2, torch.Generator().manual_seed(1)))


def test_validation_is_that_of_the_images_inside_the_crop_of_the_target() -> None:
    module = score_module().eval()
    example = data().dataset("val").example(0, 0)  # k-space of 32x40, a target of 24x32
    with torch.no_grad():
        denoised = module.validation_step(example, 0)
    assert example.target is not None and denoised.shape == example.target.shape == (1, 24, 32)
    shifted = np.fft.ifftshift(example.acquisition.kspace.numpy(), axes=(-2, -1))
    coils = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    clean = np.sqrt((np.abs(coils[0]) ** 2).sum(0))[4:28, 4:36]
    error = np.mean((denoised[0].numpy() - clean) ** 2)
    expected = 10 * np.log10(float(example.data_range) ** 2 / error)
    # 1e-4: images in single precision
    assert float(module.metrics.compute()["psnr"]) == pytest.approx(expected, rel=1e-4)


def test_images_without_a_target_are_trained_on_and_need_no_picture(tmp_path: Path) -> None:
    panel = ExamplePanel(str(tmp_path))
    source = MemorySource(has_targets=False)
    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path, callbacks=[panel],
    )  # fmt: skip
    trainer.fit(score_module(), datamodule=FastMRIDataModule(source, None))
    assert panel._rows == [] and trainer.global_step == 1


def test_the_loss_falls(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    module = score_module(ema_decay=0.5)
    first = float(train(module, tmp_path, steps=1).callback_metrics["val/loss"])
    last = float(train(module, tmp_path, steps=40).callback_metrics["val/loss"])
    assert last < 0.9 * first


def test_a_checkpoint_carries_the_average_and_reconstructs_by_itself(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    module = score_module()
    trainer = train(module, tmp_path)
    path = tmp_path / "score.ckpt"
    trainer.save_checkpoint(path)
    sampler = partial(pula, schedule=geometric(4.0, 0.05, 6))
    posterior = Posterior(str(path), sampler, n_samples=2)
    for ours, theirs in zip(module.average.parameters(), posterior.denoiser.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    example = data(RandomMask([0.16], [4])).dataset("test").example(0, 0)
    result = posterior(example.acquisition, generator=torch.Generator().manual_seed(0))
    assert result.std is not None
    assert result.image.isfinite().all()
    with pytest.raises(InputError, match="score model; use recon=posterior"):
        Checkpoint(str(path))


def test_a_prior_is_not_trained_on_undersampled_data() -> None:
    example = data(RandomMask([0.16], [4])).dataset("train").example(0, 0)
    with pytest.raises(InputError, match="undersampled; train with mask=none"):
        full_images(example)


def test_images_of_every_brightness_are_alike_to_the_prior() -> None:
    example = data().dataset("train").example(0, 0)
    images = full_images(example)
    assert 0.8 < float(images.abs().square().mean().sqrt()) < 2.0


def test_images_have_the_phase_that_the_maps_of_an_accelerated_scan_leave() -> None:
    example = data().dataset("train").example(0, 0)
    maps = low_resolution_maps(example.acquisition.kspace, torch.tensor([12]))
    expected = (ifftc(example.acquisition.kspace) * maps.conj()).sum(1)
    assert torch.allclose(torch.sgn(full_images(example)), torch.sgn(expected), atol=1e-3)


def test_the_scale_does_not_depend_on_the_mask(make_acquisition: Any) -> None:
    acquisition: Acquisition = make_acquisition(shape=(64, 64))
    full = torch.randn(acquisition.kspace.shape, dtype=torch.complex64)
    scales = []
    for n in (8, 16, 64):
        mask = torch.zeros_like(acquisition.mask)
        mask[..., 32 - n // 2 : 32 + n // 2] = True
        scales.append(prior_scale(Acquisition(full * mask, mask)))
    assert torch.allclose(scales[0], scales[1])
    assert torch.allclose(scales[0], scales[2])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Denoiser(ScoreUNet(widths=(8,)), "phase"), "not one of complex, magnitude"),
        (lambda: Denoiser(ScoreUNet(2, widths=(8,)), "magnitude"), "set model.net.network.channels=1"),
        (lambda: ScoreUNet(widths=(12,)), "multiples of 8"),
        (lambda: ScoreUNet(widths=()), "needs at least one level"),
        (lambda: score_module(ema_decay=1.0), "in \\[0, 1\\)"),
        (lambda: score_module(log_sigma_std=0.0), "above 0"),
        (lambda: ScoreModule(UNet(2, 2, 4, 2), partial(torch.optim.Adam, lr=1e-3)), "got UNet"),
    ],
)
def test_what_cannot_be_is_said(make: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()


def test_samples_need_a_size() -> None:
    with pytest.raises(InputError, match="validate first"):
        score_module().sample(1)


def test_the_images_of_several_coils_come_without_their_phase_and_of_one_coil_as_they_are() -> None:
    module, example = score_module(), data().dataset("train").example(0, 0)
    one = replace(example, acquisition=replace(example.acquisition, kspace=example.acquisition.kspace[:, :1]))
    turned = replace(one, acquisition=replace(one.acquisition, kspace=1j * one.acquisition.kspace))
    assert module.nearly_real(example.acquisition.kspace.shape[1]) is True
    image = module.images(example)
    # what 12 lines do not resolve is left
    assert float(image.real.clamp_min(0).square().sum() / image.abs().square().sum()) > 0.9
    assert module.nearly_real(1) is None
    module.every_phase = True
    assert module.nearly_real(1) is False
    assert torch.allclose(module.images(turned), 1j * module.images(one), atol=1e-5)
