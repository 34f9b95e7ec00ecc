"""Monte Carlo dropout: what is random, what is not, and which networks have it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, nn

from spinwarp.acquisition import Reconstruction, item_acquisition
from spinwarp.errors import InputError
from spinwarp.models.loading import build_network
from spinwarp.models.unet import InstanceNorm
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.recon.mc_dropout import MCDropout

UNET = {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 4, "pools": 2, "dropout": 0.2}
HETEROSCEDASTIC = {**UNET, "_target_": "spinwarp.models.heteroscedastic.HeteroscedasticUNet"}
VARNET = {
    "_target_": "spinwarp.models.varnet.VarNet",
    "n_cascades": 2,
    "regulariser": {**UNET, "_target_": "spinwarp.models.norm_unet.NormUNet", "_partial_": True},
}


def checkpoint(folder: Path, net: dict[str, Any] = UNET) -> str:
    torch.manual_seed(0)
    state = build_network(net, ("spinwarp.models",)).state_dict()
    record = {"net": net, "name": "tiny", "trained_on": {"dataset": "a", "volumes": ["x"]}}
    torch.save({"state_dict": {f"net.{k}": v for k, v in state.items()}, "spinwarp": record}, folder / "file.ckpt")
    return str(folder / "file.ckpt")


def draw(method: MCDropout, acquisition: Any, seed: int = 3) -> Reconstruction:
    return method(acquisition, generator=Generator().manual_seed(seed))


@pytest.mark.parametrize("net", [UNET, VARNET], ids=["U-Net", "VarNet"])
def test_mean_and_spread_are_those_of_the_samples_magnitudes(tmp_path: Path, net: dict, make_acquisition) -> None:
    result = draw(MCDropout(checkpoint(tmp_path, net), n_samples=5), make_acquisition())
    assert result.samples is not None and result.std is not None
    assert len(result.samples) == 5
    torch.testing.assert_close(result.image.abs(), result.samples.abs().mean(0))
    torch.testing.assert_close(result.std, result.samples.abs().std(0))
    assert all(not torch.equal(result.samples[0], other) for other in result.samples[1:])


def test_a_deviation_of_the_network_s_own_is_added(tmp_path: Path, make_acquisition) -> None:
    result = draw(MCDropout(checkpoint(tmp_path, HETEROSCEDASTIC), n_samples=3), make_acquisition())
    assert result.samples is not None and result.std is not None
    assert (result.std > result.samples.abs().std(0)).all()


def test_an_item_s_samples_do_not_depend_on_its_neighbours(tmp_path: Path, make_acquisition) -> None:
    method, acquisition = MCDropout(checkpoint(tmp_path), n_samples=3), make_acquisition()
    batch = draw(method, acquisition)
    for i in range(len(acquisition.kspace)):
        alone = draw(method, item_acquisition(acquisition, i))
        assert torch.equal(alone.samples[:, 0], batch.samples[:, i])
        assert torch.equal(alone.std[0], batch.std[i])


def test_the_samples_come_from_the_generator_alone(tmp_path: Path, make_acquisition) -> None:
    method, acquisition = MCDropout(checkpoint(tmp_path), n_samples=2), make_acquisition()
    first = draw(method, acquisition)
    torch.manual_seed(99)
    assert torch.equal(draw(method, acquisition).samples, first.samples)
    assert not torch.equal(draw(method, acquisition, seed=4).samples, first.samples)


def test_torch_s_own_generator_is_left_as_it_was(tmp_path: Path, make_acquisition) -> None:
    method, acquisition = MCDropout(checkpoint(tmp_path), n_samples=2), make_acquisition()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draw(method, acquisition)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_dropout_is_in_training(tmp_path: Path, make_acquisition) -> None:
    method = MCDropout(checkpoint(tmp_path), n_samples=2)
    draw(method, make_acquisition())
    training = {type(m) for m in method.network.modules() if m.training}
    assert training == {nn.Dropout2d}
    assert {type(m) for m in method.network.modules() if not m.training} >= {InstanceNorm, nn.Conv2d}


def test_the_mean_of_many_draws_is_near_the_network_without_dropout(tmp_path: Path, make_acquisition) -> None:
    """For little dropout: its noise is then nearly linear in the masks, whose mean is the network in evaluation."""
    path, acquisition = checkpoint(tmp_path, {**UNET, "dropout": 0.002}), make_acquisition()
    expected = Checkpoint(path)(acquisition).image.abs()
    result = draw(MCDropout(path, n_samples=64), acquisition)
    assert result.std is not None
    # 64 draws leave an eighth of the deviation; a U-Net's pixels move together, so three of them
    assert (result.image.abs() - expected).norm() < 3 / 8 * result.std.norm()


@pytest.mark.parametrize("net", [{**UNET, "dropout": 0.0}, {k: v for k, v in UNET.items() if k != "dropout"}])
def test_a_network_without_dropout_is_refused_with_the_way_out(tmp_path: Path, net: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"without dropout.*model\.net\.dropout=0\.1"):
        MCDropout(checkpoint(tmp_path, net))


@pytest.mark.parametrize("n_samples", [1, 0, -2])
def test_fewer_than_two_samples_are_refused(tmp_path: Path, n_samples: int) -> None:
    with pytest.raises(InputError, match=f"n_samples={n_samples} gives no spread"):
        MCDropout(checkpoint(tmp_path), n_samples=n_samples)


def test_the_record_is_kept_for_the_check_of_leaks_but_the_method_s_name_is_its_own(tmp_path: Path) -> None:
    record = MCDropout(checkpoint(tmp_path)).record
    assert record["trained_on"] == {"dataset": "a", "volumes": ["x"]}
    assert "name" not in record
