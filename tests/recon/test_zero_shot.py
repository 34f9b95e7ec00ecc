"""ZS-SSL: training on the scan that is reconstructed, and when it ends."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import draw_held_out
from spinwarp.models.loading import build_network
from spinwarp.progress import listen
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.recon.zero_shot import ZeroShot

NET: dict[str, Any] = {
    "_target_": "spinwarp.models.unrolled.UnrolledNet", "n_unrolls": 3, "cg_iterations": 2,
    "regulariser": {
        "_target_": "spinwarp.models.residual_unet.ComplexResidualUNet", "_partial_": True, "widths": [8], "blocks": 1,
    },
}  # fmt: skip
SHORT: dict[str, Any] = {"n_splits": 2, "epochs": 2, "patience": 2, "learning_rate": 1e-3}


@pytest.fixture
def path(tmp_path: Path) -> str:
    torch.manual_seed(0)
    network = build_network(NET, ("spinwarp.models",))
    state = {f"net.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "spinwarp": {"net": NET, "name": "tiny"}}, tmp_path / "tiny.ckpt")
    return str(tmp_path / "tiny.ckpt")


@pytest.fixture
def scan(make_acquisition: Callable[..., Acquisition]) -> Acquisition:
    return make_acquisition(shape=(32, 48), batch=1)


class Filter(nn.Module):
    """Closed form: every missing line is a factor times the line on its left; the lines given stay as they are."""

    def __init__(self, factor: float = 0.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, acquisition: Acquisition) -> Tensor:
        kspace = acquisition.kspace
        return ifftc(torch.where(acquisition.mask, kspace, self.factor * kspace.roll(1, -1)))[:, 0]


def lines(noise: float = 0.0) -> Acquisition:
    """One coil, 32 lines that are all measured, each 0.6 times the one on its left."""
    generator = np.random.RandomState(0)
    kspace = 0.6 ** np.arange(32) * (generator.normal(size=(8, 1)) + 1j * generator.normal(size=(8, 1)))
    kspace = kspace + noise * np.abs(kspace) * np.exp(2j * np.pi * generator.uniform(size=(8, 32)))
    kspace = torch.from_numpy(kspace).to(torch.complex64)[None, None]
    return Acquisition(kspace, torch.ones(1, 1, 1, 32, dtype=torch.bool))


def test_what_holds_for_the_measured_lines_of_this_scan_is_learned(path: str) -> None:
    method = ZeroShot(path, **{**SHORT, "epochs": 30, "patience": 30, "learning_rate": 0.06})
    method.network = Filter()
    missing = replace(lines(), mask=(torch.arange(32) != 20).view(1, 1, 1, 32))
    missing = replace(missing, kspace=missing.kspace * missing.mask)
    found, true = fftc(method(missing).image)[0, :, 20], lines().kspace[0, 0, :, 20]
    assert found.numpy() == pytest.approx(true.numpy(), rel=2e-2)  # Adam still swings at the end


def test_training_ends_by_the_validation_lines_and_the_log_says_when(
    path: str, scan: Acquisition, caplog: pytest.LogCaptureFixture
) -> None:
    method = ZeroShot(path, **{**SHORT, "epochs": 50, "patience": 2, "learning_rate": 30.0})  # which ruins any network
    with caplog.at_level(logging.INFO, "spinwarp"):
        image = method(scan).image
    found = re.search(r"stopped after (\d+) of 50 epochs; epoch (\d+) had the smallest error", caplog.text)
    assert found is not None and int(found[1]) == int(found[2]) + 2
    if found[2] == "0":  # the weights at the start were the best ones: they make the image
        plain = Checkpoint(path)(scan).image
        assert torch.linalg.vector_norm(image - plain) < 1e-5 * torch.linalg.vector_norm(plain)


def test_the_validation_lines_are_in_no_loss_and_the_lines_of_the_loss_in_no_input(
    path: str, scan: Acquisition, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = ZeroShot(path, **SHORT)
    seen: list[tuple[Tensor, Tensor, bool]] = []
    error = ZeroShot._error

    def watched(self: ZeroShot, network: nn.Module, given: Acquisition, compared: Tensor, measured: Tensor) -> Tensor:
        seen.append((given.mask, compared, torch.is_grad_enabled()))
        assert not given.kspace[~given.mask.expand_as(given.kspace)].any()
        return error(self, network, given, compared, measured)

    monkeypatch.setattr(ZeroShot, "_error", watched)
    method(scan)
    (first, validation, _), *_ = [entry for entry in seen if not entry[2]]
    assert torch.equal(first | validation, scan.mask) and not (first & validation).any()
    losses = [entry for entry in seen if entry[2]]
    assert len(losses) == 4
    for given, compared, _ in losses:
        assert not (compared & validation).any() and not (given & validation).any()
        held = compared & ~given
        assert held.any() and torch.equal(held | given, first)
    assert not torch.equal(losses[0][0], losses[1][0])  # two splits
    assert torch.equal(losses[0][0], losses[2][0])  # which return in the next epoch


@pytest.mark.parametrize("kind", [{"two_dimensional": True}, {"n_coils": 1, "maps": False}, {"shape": (33, 41)}])
@pytest.mark.parametrize("warm_start", [True, False])
def test_points_one_coil_and_odd_sizes_work(
    path: str, kind: dict[str, Any], warm_start: bool, make_acquisition: Callable[..., Acquisition]
) -> None:
    acquisition = make_acquisition(**{"shape": (32, 48), "batch": 2, **kind})
    method = ZeroShot(path, warm_start=warm_start, **SHORT)
    state = torch.get_rng_state()
    result = method(acquisition)
    assert result.image.isfinite().all() and result.image.any()
    assert torch.equal(torch.get_rng_state(), state)


def test_random_weights_do_not_depend_on_those_of_the_file(path: str, scan: Acquisition) -> None:
    images = []
    for factor in (1.0, 2.0):
        method = ZeroShot(path, warm_start=False, **SHORT)
        method.network.load_state_dict({k: factor * v for k, v in method.network.state_dict().items()})
        images.append(method(scan).image)
    assert torch.equal(*images)


def test_results_do_not_pass_for_those_of_the_weights_as_they_are(path: str) -> None:
    assert ZeroShot(path).record["name"] == "tiny zero_shot"
    assert ZeroShot(path).record["net"] == Checkpoint(path).record["net"]


def test_progress_reaches_the_end(path: str, make_acquisition: Callable[..., Acquisition]) -> None:
    seen: list[float] = []
    with listen(seen.append):
        ZeroShot(path, **SHORT)(make_acquisition(shape=(32, 48), batch=2))
    assert seen == sorted(seen) and seen[-1] == 1 and 0.25 in seen


def test_a_scan_with_too_few_lines_is_refused(path: str, scan: Acquisition) -> None:
    center = torch.zeros_like(scan.mask)
    center[..., 20:28] = True
    few = replace(scan, mask=center, kspace=scan.kspace * center)
    with pytest.raises(InputError, match=r"too few to take 0\.2 of them.*recon=checkpoint recon\.path="):
        ZeroShot(path, **SHORT)(few)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.0}, r"recon\.validation is a fraction"),
        ({"held_out": 0.0}, r"recon\.held_out is a fraction"),
        ({"epochs": 0}, r"recon\.epochs is at least 1"),
        ({"learning_rate": 0.0}, r"recon\.learning_rate is above 0"),
        ({"path": "pretrained:heads_score"}, r"holds a score model"),
    ],
)
def test_wrong_options_are_refused(path: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ZeroShot(**{"path": path, **options})


def test_drawn_lines_lie_outside_the_centre_and_have_the_wanted_number() -> None:
    mask = torch.zeros(1, 1, 1, 96, dtype=torch.bool)
    mask[..., ::4] = True
    mask[..., 44:53] = True
    n = int(mask.sum()) - 9
    held = draw_held_out(mask, 0.4, torch.Generator().manual_seed(1))
    assert int(held.sum()) == round(0.4 * n) and not held[..., 44:53].any() and not (held & ~mask).any()
    assert not torch.equal(held, draw_held_out(mask, 0.4, torch.Generator().manual_seed(2)))
