"""What every network promises, whatever is inside: shape, precision, scale, batches, gradients."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, item_acquisition
from spinwarp.errors import InputError
from spinwarp.models.naive_cnn import NaiveCNN
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.unet import MagnitudeUNet, UNet
from spinwarp.models.varnet import SensitivityNet, VarNet

SMALL = partial(NormUNet, channels=4, pools=2)
LEARNED = partial(SensitivityNet, network=SMALL)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "varnet": partial(VarNet, SMALL, n_cascades=2, sensitivity=LEARNED),
    "varnet with given maps": partial(VarNet, SMALL, n_cascades=2),
    "varnet in the image": partial(VarNet, SMALL, n_cascades=2, update_domain="image"),
    "varnet in the image, learned maps": partial(VarNet, SMALL, 2, LEARNED, "image"),
    "unet": partial(MagnitudeUNet, channels=4, pools=2),
    "naive cnn": partial(NaiveCNN, channels=6, n_layers=3, kernel_size=3),
}
ACQUISITIONS = {
    "lines": {},
    "plane": {"two_dimensional": True},
    "one coil": {"n_coils": 1, "maps": False, "shape": (24, 33)},
    "wide": {"shape": (19, 50)},
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


@pytest.fixture(params=ACQUISITIONS)
def acquisition(request: pytest.FixtureRequest, make_acquisition) -> Acquisition:
    return make_acquisition(**ACQUISITIONS[request.param])


def difference(a: Tensor, b: Tensor) -> float:
    """Norm of the difference relative to the norm; random maps of air amplify rounding in single pixels."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def test_the_image_is_finite_and_complex_on_odd_and_oblong_sizes(network: nn.Module, acquisition: Acquisition) -> None:
    with torch.no_grad():
        image = network(acquisition)
    b, _, h, w = acquisition.kspace.shape
    assert image.shape == (b, h, w)
    assert image.dtype == torch.complex64
    assert image.isfinite().all()
    assert image.abs().max() > 0


def test_a_batch_equals_its_items(network: nn.Module, acquisition: Acquisition) -> None:
    with torch.no_grad():
        batch = network(acquisition)
        items = torch.cat([network(item_acquisition(acquisition, i)) for i in range(len(batch))])
    assert difference(items, batch) < 1e-5  # convolutions of other batch sizes sum in another order


# 1e-6 is the scale of fastMRI's scanners
@pytest.mark.parametrize("scale", [3.0, 1e-6])
def test_scaled_data_give_a_scaled_image(network: nn.Module, acquisition: Acquisition, scale: float) -> None:
    with torch.no_grad():
        image = network(acquisition)
        scaled = network(replace(acquisition, kspace=scale * acquisition.kspace))
    # the scaled data are rounded anew (1e-7), which normalisation layers of a random network amplify; measured 6e-6
    assert difference(scaled / scale, image) < 3e-5


def test_data_of_nothing_but_zeros_give_a_finite_image(network: nn.Module, acquisition: Acquisition) -> None:
    with torch.no_grad():
        image = network(replace(acquisition, kspace=torch.zeros_like(acquisition.kspace)))
    assert image.isfinite().all()
    assert image.abs().max() < 1e-30


def test_the_data_are_left_as_they_were(network: nn.Module, acquisition: Acquisition) -> None:
    kspace, mask = acquisition.kspace.clone(), acquisition.mask.clone()
    with torch.no_grad():
        network(acquisition)
    assert torch.equal(acquisition.kspace, kspace)
    assert torch.equal(acquisition.mask, mask)


def test_a_line_mask_written_as_a_plane_gives_the_same_image(network: nn.Module, make_acquisition) -> None:
    acquisition = make_acquisition()
    plane = replace(acquisition, mask=acquisition.mask.expand(-1, -1, acquisition.kspace.shape[-2], -1).contiguous())
    with torch.no_grad():
        # other transforms in another order, amplified as above; measured 3e-6
        assert difference(network(plane), network(acquisition)) < 2e-5


def test_autocast_to_bfloat16_keeps_a_complex64_image_near_the_exact_one(network: nn.Module, make_acquisition) -> None:
    acquisition = make_acquisition()
    with torch.no_grad():
        image = network(acquisition)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(acquisition)
    assert rounded.dtype == torch.complex64
    # bf16 has 8 bits, 4e-3; measured 9e-3; magnitudes, since the phase of a dark pixel may be anything
    assert 0 < difference(rounded.abs(), image.abs()) < 0.05


def test_gradients_are_finite_and_reach_every_parameter(network: nn.Module, acquisition: Acquisition) -> None:
    network.train()
    weight = torch.rand(acquisition.kspace[:, 0].shape, generator=torch.Generator().manual_seed(1))
    (network(acquisition).abs() * weight).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name != "steps":
            assert parameter.grad.abs().max() > 1e-6, name


def test_every_step_size_but_an_idle_first_one_has_a_gradient(make_acquisition) -> None:
    for domain, idle in (("kspace", [True, False, False]), ("image", [False, False, False])):
        torch.manual_seed(0)
        network = VarNet(SMALL, n_cascades=3, update_domain=domain)
        network(make_acquisition()).abs().square().sum().backward()
        # E2E-VarNet starts at the measured data, from which its first step cannot differ
        assert (network.steps.grad == 0).tolist() == idle


@pytest.mark.parametrize(("network", "size"), [(MagnitudeUNet(4, 3), 15), (UNet(1, 1, 4, 2), 7)])
def test_an_image_too_small_for_the_poolings_is_refused_with_the_smallest_size(network: nn.Module, size: int) -> None:
    h, w = 40, size
    acquisition = Acquisition(torch.ones(1, 1, h, w, dtype=torch.complex64), torch.ones(1, 1, 1, w, dtype=torch.bool))
    argument = acquisition if isinstance(network, MagnitudeUNet) else torch.ones(1, 1, h, w)
    with pytest.raises(InputError, match=rf"40x{size} is too small.*at least {size + 1} pixels a side, or fewer pools"):
        network(argument)
    larger = replace(acquisition, kspace=torch.rand(1, 1, h, w + 1, dtype=torch.complex64))
    argument = larger if isinstance(network, MagnitudeUNet) else torch.rand(1, 1, h, w + 1)
    assert network(argument).isfinite().all()


@pytest.mark.parametrize(("h", "w"), [(16, 16), (17, 16), (16, 23), (19, 29), (33, 31)])
def test_a_unet_keeps_any_size(h: int, w: int) -> None:
    network = UNet(2, 3, channels=2, pools=3)
    assert network(torch.randn(1, 2, h, w)).shape == (1, 3, h, w)


def test_dropout_is_at_work_in_training_only() -> None:
    torch.manual_seed(0)
    network, x = UNet(1, 1, channels=4, pools=1, dropout=0.5), torch.randn(1, 1, 8, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
