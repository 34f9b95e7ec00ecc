"""A network that returns mean and deviation: what it learns, in which units, and where it predicts nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, Example, Header, center_crop
from spinwarp.coils import combine
from spinwarp.fourier import fftc, ifftc
from spinwarp.losses import GaussianNLL, LaplaceNLL
from spinwarp.models.heteroscedastic import LEAST_STD, HeteroscedasticUNet
from spinwarp.models.unet import MagnitudeUNet, statistics
from spinwarp.recon.base import NetworkReconstructor
from spinwarp.training import HeteroscedasticModule

CROP = (16, 12)


@pytest.fixture
def network() -> HeteroscedasticUNet:
    torch.manual_seed(0)
    return HeteroscedasticUNet(4, 2).eval()


def laplace(shape: torch.Size) -> Tensor:
    """Laplace draws of deviation one: the difference of two exponential ones has a variance of two."""
    return (torch.empty(shape).exponential_() - torch.empty(shape).exponential_()) / 2**0.5


@pytest.mark.parametrize(
    ("loss", "draw"),
    [(GaussianNLL(), torch.randn), (GaussianNLL(0.5), torch.randn), (LaplaceNLL(), laplace), (LaplaceNLL(1), laplace)],
    ids=["Gaussian", "Gaussian, beta .5", "Laplace", "Laplace, beta 1"],
)
def test_training_finds_the_image_and_the_deviation_of_its_noise(
    loss: nn.Module, draw: Callable[[torch.Size], Tensor]
) -> None:
    """Targets are a ramp with noise whose deviation grows along the ramp, drawn anew at every step."""
    torch.manual_seed(0)
    n = 48
    ramp = torch.linspace(1, 3, n).expand(1, n, n)
    std = 0.05 + 0.1 * (ramp - 1)  # from .05 to .25
    acquisition = Acquisition(fftc(torch.complex(ramp, torch.zeros_like(ramp)))[:, None], torch.ones(1, 1, 1, n) > 0)
    net = HeteroscedasticUNet(4, 2)
    # a function of the pixel's own value, which a hundred steps can fit
    net.unet = nn.Sequential(nn.Conv2d(1, 24, 1), nn.SiLU(), nn.Conv2d(24, 2, 1))
    module = HeteroscedasticModule(net, loss, partial(torch.optim.Adam, lr=0.02))
    optimizer = module.make_optimizer(module.parameters())
    n_steps = 400
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        target = ramp + std * draw(ramp.shape)
        value, _ = module.loss_and_magnitude(Example(acquisition, target, torch.ones(1), ("ramp",), (0,)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        fall.step()
    with torch.no_grad():
        result = net(acquisition)
    # the last hundred steps show each column some 5000 draws, of which mean and deviation are good to 2 % of the
    # deviation; the rest is the curve that 24 units make of the ramp
    assert ((result.image.abs() - ramp).abs() / std).mean() < 0.05
    assert (result.std / std - 1).abs().mean() < 0.05


def test_the_image_is_that_of_the_u_net_with_the_same_weights(network: HeteroscedasticUNet, make_acquisition) -> None:
    plain = MagnitudeUNet(4, 2).eval()
    state = network.state_dict()
    plain.load_state_dict({name: value[:1] if ".head." in name else value for name, value in state.items()})
    acquisition = make_acquisition()
    with torch.no_grad():
        # another number of output channels adds up in another order
        torch.testing.assert_close(network(acquisition).image, plain(acquisition), rtol=1e-5, atol=1e-5)


def test_outside_of_the_reconstruction_size_nothing_is_claimed(network: HeteroscedasticUNet, make_acquisition) -> None:
    acquisition = replace(make_acquisition(), headers=(Header(reconstruction_size=CROP),) * 2)
    result = NetworkReconstructor(network)(acquisition)
    assert result.std is not None and result.std.shape == result.image.shape
    outside = torch.ones(result.std.shape, dtype=torch.bool)
    center_crop(outside, CROP)[:] = False
    assert (result.std[outside] == 0).all()
    assert (result.std[~outside] > 0).all()


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_deviation_is_in_the_units_of_the_data(
    network: HeteroscedasticUNet, make_acquisition, scale: float
) -> None:
    acquisition = make_acquisition()
    with torch.no_grad():
        std = network(acquisition).std
        scaled = network(replace(acquisition, kspace=scale * acquisition.kspace)).std
    torch.testing.assert_close(scaled / scale, std, rtol=1e-3, atol=0)  # scaled data are rounded anew


@pytest.mark.parametrize("raw", [-1e4, -20.0, 0.0, 1e4])
@pytest.mark.parametrize("autocast", [False, True], ids=["32", "bf16"])
def test_the_deviation_has_a_floor_and_no_ceiling_in_either_precision(
    network: HeteroscedasticUNet, make_acquisition, raw: float, autocast: bool
) -> None:
    acquisition = make_acquisition()
    with torch.no_grad():
        network.unet.head.weight.zero_()
        network.unet.head.bias.copy_(torch.tensor([0.0, raw]))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            std = network(acquisition).std
        unit = statistics(network_input(acquisition))[1]
    assert std.dtype == torch.float32
    expected = torch.nn.functional.softplus(torch.tensor(raw)) + LEAST_STD
    # bf16 rounds the output of the network, here its bias, by 2^-9
    torch.testing.assert_close(std, (expected * unit).expand_as(std), rtol=5e-3 if autocast else 1e-5, atol=0)


def network_input(acquisition: Acquisition) -> Tensor:
    """Zero-filled magnitude: what the network sees of it."""
    return combine(ifftc(acquisition.kspace), acquisition.maps).abs()


@pytest.mark.parametrize("loss", [GaussianNLL(), LaplaceNLL(1.0)], ids=repr)
def test_the_gradient_under_autocast_is_finite(network: HeteroscedasticUNet, make_acquisition, loss: nn.Module) -> None:
    acquisition = make_acquisition()
    module = HeteroscedasticModule(network.train(), loss, torch.optim.Adam)
    target = network_input(acquisition)
    with torch.autocast("cpu", torch.bfloat16):
        value, magnitude = module.loss_and_magnitude(
            Example(acquisition, target, target.amax((1, 2)), ("a", "a"), (0, 1))
        )
    value.backward()
    assert magnitude.shape == target.shape
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_loss_does_not_depend_on_the_scale_of_a_slice(network: HeteroscedasticUNet, make_acquisition) -> None:
    acquisition = make_acquisition()
    module = HeteroscedasticModule(network, GaussianNLL(), torch.optim.Adam).eval()
    values = []
    for scale in (1.0, 1e-4):
        scaled = replace(acquisition, kspace=scale * acquisition.kspace)
        target = 0.9 * network_input(scaled)
        example = Example(scaled, target, target.amax((1, 2)), ("a", "a"), (0, 1))
        values.append(float(module.loss_and_magnitude(example)[0].detach()))
    assert values[1] == pytest.approx(values[0], rel=1e-4)  # single precision after a division by a small deviation
