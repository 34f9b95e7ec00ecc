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
from small_scan import CENTER, LINES, SCANS, SIGMA, W, cases
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Example, Split
from spinwarp.cli.train import check_fit
from spinwarp.data.module import FastMRIDataModule
from spinwarp.data.source import Volume
from spinwarp.data.split import Splitter
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import RandomMask, seed_of
from spinwarp.models.denoiser import Denoiser
from spinwarp.models.residual_unet import BiasFreeDenoiser
from spinwarp.training import AmbientScoreModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # torch renamed a class that Lightning still asks for
]

MASK = RandomMask([0.16], [4])


def module(net: Denoiser | None = None, **options: Any) -> AmbientScoreModule:
    seed_everything(0, verbose=False)
    return AmbientScoreModule(net or BiasFreeDenoiser([4, 8]), partial(torch.optim.Adam, lr=1e-3), **options)


def data(source: MemorySource | None = None, mask: RandomMask | None = MASK, **settings: Any) -> FastMRIDataModule:
    split = Splitter(weighted=mask is not None, density="uniform")
    options = {"batch_size": 2, "supervision": "split", "split": split, **settings}
    return FastMRIDataModule(source or MemorySource(crop=(24, 32)), mask, **options)


class Filter(nn.Module):
    """A linear denoiser: its k-space is a filter over five neighbouring lines of the k-space of its input."""

    sigma_data = 1.0

    def __init__(self, taps: np.ndarray) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.from_numpy(taps))

    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        padded = nn.functional.pad(fftc(image), (2, 2))
        return ifftc(sum(self.taps[d] * padded[..., d : d + W] for d in range(5)))  # type: ignore[arg-type]


# root of W in one line at a time, of both signs: mean zero, covariance one
VECTORS = W**0.5 * torch.cat([torch.eye(W), -torch.eye(W)]).to(torch.complex128)


def clean_minimiser(case: dict[str, np.ndarray], sigma: float) -> np.ndarray:
    """Of training with whole scans without noise, on the same inputs, by the normal equations."""
    padded = np.pad(case["given"], ((0, 0), (2, 2)))
    x = np.stack([padded[:, d : d + W] for d in range(5)], axis=-1)
    seen = np.pad(np.ones_like(case["kept"]), ((0, 0), (2, 2)))  # the noise has no gaps
    noise = np.stack([seen[:, d : d + W] for d in range(5)], axis=-1)
    p = case["probability"]
    a = np.einsum("nj,njd,nje->de", p, x.conj(), x) + sigma**2 * np.diag(np.einsum("nj,njd->d", p, noise))
    return np.linalg.solve(a, np.einsum("nj,njd,nj->d", p, x.conj(), case["clean"]))


def expected_gradient(taps: np.ndarray, sigma: float, scan_noise: float, gsure: bool) -> np.ndarray:
    """Of the loss of the module, over all masks, splits, scans, noise of the scan and of the training, and probes."""
    splitter = Splitter(center=CENTER, weighted=True, density="uniform")
    case = cases(splitter, 0.0, None)
    n_each = len(SCANS)
    measured, kept = case["weight"].reshape(n_each, -1, W)[0] > 0, case["kept"].reshape(n_each, -1, W)[0]
    weights, chance = case["weight"].reshape(n_each, -1, W)[0], case["probability"].reshape(n_each, -1)[0]
    scans = (SCANS[:, None] + scan_noise * VECTORS).flatten(0, 1) if scan_noise else SCANS
    i, j = (index.flatten() for index in torch.meshgrid(torch.arange(len(scans)), torch.arange(14), indexing="ij"))
    # the network is linear, so its divergence depends on no data: each probe has its turn
    parts = scans[i], VECTORS[j], VECTORS[(i + j) % W]
    whole, noise, sign = (part.view(-1, 1, 1, W) for part in parts)
    net, model = Filter(taps), module()
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for seen, inside, weight, p in zip(measured, kept, weights, chance, strict=True):
        mask, given = (torch.from_numpy(m).view(1, 1, 1, W) for m in (seen, inside))
        acquisition = Acquisition(whole * mask, mask, noise_std=torch.full((len(whole),), SIGMA).double())
        split = Split(given, torch.from_numpy(weight).view(1, 1, 1, W))
        level = torch.full((len(whole),), sigma, dtype=torch.float64)
        signs = sign * given if gsure else None
        total = total + p * model.ambient_loss(net, acquisition, split, level, noise, signs)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(total, net.taps)
    return gradient.numpy()


@pytest.mark.parametrize(("scan_noise", "gsure"), [(0.0, False), (SIGMA, True), (SIGMA, False)])
def test_the_minimiser_of_a_linear_denoiser_is_that_of_training_with_whole_images(
    scan_noise: float, gsure: bool
) -> None:
    sigma = 0.6
    case = cases(Splitter(center=CENTER, weighted=True, density="uniform"), scan_noise, None)
    taps = clean_minimiser(case, sigma).astype(complex)
    at_minimum = np.abs(expected_gradient(taps, sigma, scan_noise, gsure)).max()
    beside = np.abs(expected_gradient(taps + 0.1, sigma, scan_noise, gsure)).max()
    if scan_noise and not gsure:  # the noise of the scans is then part of what is learned
        assert at_minimum > 0.1 * beside
    else:
        assert at_minimum < 1e-6 * beside  # weights are single


def test_with_everything_measured_and_nothing_held_out_it_is_denoising_score_matching() -> None:
    model = module()
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 3, 1, 16, 20, dtype=torch.complex64, generator=generator)
    everything = torch.ones(1, 1, 1, 20, dtype=torch.bool)
    sigma = torch.tensor([0.1, 0.5, 2.0])
    split = Split(everything, torch.ones(1, 1, 1, 20))
    found = model.ambient_loss(model.net, Acquisition(fftc(images), everything), split, sigma, fftc(noise), None)
    expected = model.matching_errors(model.net, images[:, 0], sigma, noise[:, 0]).mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)  # two transforms in between


def test_the_noise_has_no_gaps_and_the_strength_of_its_level_as_in_sampling() -> None:
    seen: list[Tensor] = []

    class Watching(BiasFreeDenoiser):
        def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
            seen.append(image)
            return super().forward(image, sigma)

    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(48) % 4 == 0).view(1, 1, 1, 48)
    kspace, noise = torch.randn(2, 1, 1, 64, 48, dtype=torch.complex64, generator=generator)
    acquisition = Acquisition(kspace * mask, mask)
    level = torch.tensor([50.0])
    model = module()
    model.ambient_loss(Watching([4, 8]), acquisition, Split(mask, mask.float()), level, noise, None)
    # 3072 draws: a standard error of 1 %; with the gaps of the mask it would be half
    assert float(seen[0].abs().square().mean().sqrt()) == pytest.approx(50, rel=0.05)
    lines = fftc(seen[0]).abs().square().mean((0, 1)).sqrt()
    assert float(lines.min()) > 35  # 64 draws a line: 6 % standard error, the least of 48 about 15 % low


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


@pytest.mark.parametrize("gsure", [False, True])
def test_what_was_not_measured_does_not_change_the_training(gsure: bool, tmp_path: Path) -> None:
    found = []
    for source in (MemorySource(crop=(24, 32)), Poisoned(crop=(24, 32))):
        model = module(gsure=gsure)
        before = torch.cat([p.detach().flatten() for p in model.net.parameters()])
        trainer = fit(tmp_path, model, data(source))
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert torch.isfinite(trainer.callback_metrics["val/loss"])
        assert trainer.callback_metrics["val/psnr"].isnan() == isinstance(source, Poisoned)
        assert not torch.equal(found[-1][: len(before)], before)
    assert torch.equal(*found)


def test_data_that_are_undersampled_already_need_no_weights(tmp_path: Path) -> None:
    trainer = fit(tmp_path, module(), data(mask=None))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"complex images; set model\.net\.channels=complex"):
        module(Denoiser(nn.Identity(), channels="magnitude"))
    with pytest.raises(InputError, match=r"is not split.*set data\.supervision=split"):
        fit(tmp_path, module(), data(supervision="full"))
    with pytest.raises(InputError, match=r"model=net learns from held-out lines; set data\.supervision=split"):
        check_fit("net", module(), data(supervision="full"))
    with pytest.raises(InputError, match=r"trainer\.precision=32"):
        fit(tmp_path, module(gsure=True), data(), precision="bf16-mixed")
    assert LINES.density((1, W)).min() > 0  # what the closed form above relies on
