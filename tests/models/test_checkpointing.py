"""Cascades computed again for the backward pass: the same numbers from less memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.models.cascades import CascadeNet
from spinwarp.models.data_steps import ADMM, KSpaceGradient
from spinwarp.models.modl import MoDL
from spinwarp.models.norm_unet import NormUNet, PlainUNet
from spinwarp.models.prompt_unet import PromptUNet
from spinwarp.models.varnet import SensitivityNet, VarNet

SMALL = partial(NormUNet, channels=4, pools=2)
PROMPT = partial(PromptUNet, channels=4, pools=2, prompt_size=4)
LEARNED = partial(SensitivityNet, network=SMALL)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "varnet": partial(VarNet, SMALL, 3, LEARNED),
    "varnet with dropout": partial(VarNet, partial(SMALL, dropout=0.3), 3, LEARNED),
    "varnet with given maps": partial(VarNet, SMALL, 3),
    "varnet in the image": partial(VarNet, SMALL, 3, update_domain="image"),
    "varnet in the image, learned maps": partial(VarNet, SMALL, 3, LEARNED, "image"),
    "modl": partial(MoDL, SMALL, 3, 2),
    "cascades with history": partial(
        CascadeNet, partial(PROMPT, history=2), KSpaceGradient, n_cascades=3, buffer=True
    ),
    "cascades of admm": partial(
        CascadeNet, partial(PlainUNet, channels=4, pools=2, dropout=0.3), partial(ADMM, iterations=2, channels=4),
        n_cascades=3,
    ),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> list[nn.Module]:
    """The network without and with checkpoints, of the same weights."""
    networks = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        networks.append(NETWORKS[request.param](checkpoint=checkpoint))
    return networks


def step(network: nn.Module, acquisition: Acquisition, precision: torch.dtype | None) -> list[Tensor]:
    """Image and gradients of one step."""
    torch.manual_seed(1)  # of the dropout
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        image = network(acquisition)
    image.abs().square().sum().backward()
    return [image.detach(), *(p.grad for p in network.parameters() if p.requires_grad)]


@contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """Bytes of each storage that autograd is given to keep."""
    storages: dict[int, tuple[int, Tensor]] = {}
    sizes: list[int] = []

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = (x.untyped_storage().nbytes(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield sizes
    sizes += [size for size, _ in storages.values()]


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("two_dimensional", [False, True], ids=["lines", "plane"])
def test_image_and_gradients_are_the_same_bit_for_bit(
    pair: list[nn.Module], make_acquisition, precision: torch.dtype | None, two_dimensional: bool
) -> None:
    acquisition = make_acquisition(two_dimensional=two_dimensional)
    without, with_checkpoints = (step(network, acquisition, precision) for network in pair)
    assert all(map(torch.equal, without, with_checkpoints))


def test_the_weights_have_the_same_names(pair: list[nn.Module]) -> None:
    assert list(pair[0].state_dict()) == list(pair[1].state_dict())


def test_much_less_is_kept_for_the_backward_pass(pair: list[nn.Module], make_acquisition) -> None:
    acquisition, kept = make_acquisition(), []
    for network in pair:
        with kept_bytes() as sizes:
            image = network(acquisition)
        kept.append(sum(sizes))
        image.abs().sum().backward()
    # three cascades of some twenty feature maps each against their inputs
    assert kept[1] < 0.4 * kept[0]


def test_a_regulariser_runs_twice_in_training_and_once_without_gradients(
    pair: list[nn.Module], make_acquisition
) -> None:
    network, calls = pair[1], []
    for module in network.modules():
        if isinstance(module, NormUNet | PromptUNet):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    n_networks = sum(isinstance(m, NormUNet) for m in network.modules()) if isinstance(network, VarNet) else 3
    acquisition = make_acquisition()
    network(acquisition).abs().sum().backward()
    assert len(calls) == 2 * n_networks
    calls.clear()
    network.eval()
    for without_gradients in (torch.no_grad, torch.inference_mode):
        with without_gradients():
            network(acquisition)
    assert len(calls) == 2 * n_networks
