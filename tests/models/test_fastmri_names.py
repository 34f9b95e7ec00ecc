"""The names of fastMRI's published weights."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spinwarp.errors import InputError
from spinwarp.models.fastmri_weights import network_from_fastmri
from spinwarp.models.unet import MagnitudeUNet
from spinwarp.models.varnet import VarNet

Weights = Callable[..., dict[str, Tensor]]


@pytest.mark.parametrize(("channels", "pools"), [(4, 2), (3, 4), (2, 1)])
def test_a_published_unet_is_rebuilt_with_every_weight(fastmri_weights: Weights, channels: int, pools: int) -> None:
    state = fastmri_weights("unet", channels, pools)
    network = network_from_fastmri(state)
    assert isinstance(network, MagnitudeUNet)
    assert len(network.unet.down) == pools
    ours = network.state_dict()
    assert len(ours) == len(state)
    assert torch.equal(ours["unet.down.0.0.weight"], state["down_sample_layers.0.layers.0.weight"])
    assert torch.equal(ours["unet.bottom.4.weight"], state["conv.layers.4.weight"])
    assert torch.equal(ours["unet.up.0.0.weight"], state["up_transpose_conv.0.layers.0.weight"])
    last = pools - 1
    assert torch.equal(ours[f"unet.merge.{last}.4.weight"], state[f"up_conv.{last}.0.layers.4.weight"])
    assert torch.equal(ours["unet.head.bias"], state[f"up_conv.{last}.1.bias"])
    assert sorted(float(v.sum()) for v in ours.values()) == sorted(float(v.sum()) for v in state.values())


@pytest.mark.parametrize(("n_cascades", "pools"), [(1, 2), (3, 3), (12, 1)])
def test_a_published_varnet_is_rebuilt_with_every_weight(fastmri_weights: Weights, n_cascades: int, pools: int) -> None:
    state = fastmri_weights("varnet", channels=2, pools=pools, n_cascades=n_cascades)
    network = network_from_fastmri(state)
    assert isinstance(network, VarNet)
    assert len(network.regularisers) == n_cascades
    # 10 comes after 9, not after 1
    expected = [float(state[f"cascades.{i}.dc_weight"]) for i in range(n_cascades)]
    assert network.steps.tolist() == pytest.approx(expected)
    for i in (0, n_cascades - 1):
        theirs = state[f"cascades.{i}.model.unet.conv.layers.0.weight"]
        assert torch.equal(network.regularisers[i].unet.bottom[0].weight, theirs)
    last = ".0" if pools == 1 else ""
    theirs = state[f"sens_net.norm_unet.unet.up_conv.0{last}.layers.0.weight"]
    assert torch.equal(network.sensitivity.network.unet.merge[0][0].weight, theirs)
    assert sum(p.numel() for p in network.parameters()) == sum(v.numel() for v in state.values())


@pytest.mark.parametrize("kind", ["unet", "varnet"])
def test_the_names_of_lightning_checkpoints_are_understood(fastmri_weights: Weights, kind: str) -> None:
    state = fastmri_weights(kind)
    prefixed = {f"{kind}.{name}": value for name, value in state.items()} | {"loss.w": torch.ones(1, 1, 7, 7)}
    plain, lightning = network_from_fastmri(state).state_dict(), network_from_fastmri(prefixed).state_dict()
    assert plain.keys() == lightning.keys()
    assert all(torch.equal(plain[name], lightning[name]) for name in plain)


def test_the_weights_given_are_left_as_they_were(fastmri_weights: Weights) -> None:
    state = fastmri_weights("varnet")
    kept = {name: value.clone() for name, value in state.items()}
    network = network_from_fastmri(state)
    for parameter in network.parameters():
        parameter.data.zero_()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def without(state: dict[str, Tensor], pattern: str) -> dict[str, Tensor]:
    kept = {name: value for name, value in state.items() if not re.search(pattern, name)}
    assert len(kept) < len(state)
    return kept


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: {"weight": torch.ones(3)}, id="foreign"),
        pytest.param(lambda _: {}, id="nothing"),
        pytest.param(lambda given: without(given["unet"], r"^conv\."), id="unet without a bottom"),
        pytest.param(lambda given: without(given["varnet"], "sens_net"), id="varnet without a sensitivity network"),
        pytest.param(lambda given: without(given["varnet"], r"dc_weight"), id="varnet without step sizes"),
        pytest.param(lambda given: without(given["varnet"], r"cascades\.0\."), id="varnet without its first cascade"),
        pytest.param(lambda given: given["varnet"] | {"extra.weight": torch.ones(1)}, id="one weight too many"),
        pytest.param(lambda given: given["unet"] | {"conv.layers.0.weight": torch.ones(2, 2, 3, 3)}, id="wrong shape"),
    ],
)
def test_foreign_weights_are_refused_with_a_remedy(fastmri_weights: Weights, change: Callable[..., dict]) -> None:
    state = change({kind: fastmri_weights(kind) for kind in ("unet", "varnet")})
    with pytest.raises(InputError, match=r"neither fastMRI's U-Net nor its VarNet.*use recon=checkpoint"):
        network_from_fastmri(state)


def test_a_unet_with_two_input_channels_is_refused(fastmri_weights: Weights) -> None:
    first = {"down_sample_layers.0.layers.0.weight": torch.ones(4, 2, 3, 3)}
    with pytest.raises(InputError, match="has one input channel; these weights have 2"):
        network_from_fastmri(fastmri_weights("unet") | first)
