"""MoDL: its equations, its learned weight, and what every network promises."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition, item_acquisition
from spinwarp.errors import InputError
from spinwarp.models.loading import build_network
from spinwarp.models.modl import MoDL
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.residual_cnn import ResidualCNN
from spinwarp.operators import sense
from spinwarp.recon.cg_sense import cg_sense

CONF = Path(__file__).parents[2] / "conf" / "model" / "modl.yaml"
SMALL = partial(ResidualCNN, channels=6, n_layers=3)
REGULARISERS = {"cnn": SMALL, "norm_unet": partial(NormUNet, channels=4, pools=2)}
ACQUISITIONS = {
    "lines": {},
    "plane": {"two_dimensional": True},
    "one coil": {"n_coils": 1, "maps": False, "shape": (24, 33)},
    "wide": {"shape": (19, 50)},
    "full": {"acceleration": 1.0},
}


class Nothing(nn.Module):
    """A regulariser that has nothing to add."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros_like(image)


class Half(nn.Module):
    """Adds half of the image."""

    def forward(self, image: Tensor) -> Tensor:
        return 0.5 * image


@pytest.fixture(params=REGULARISERS)
def network(request: pytest.FixtureRequest) -> MoDL:
    torch.manual_seed(0)
    return MoDL(REGULARISERS[request.param], n_unrolls=3, cg_iterations=4).eval()


@pytest.fixture(params=ACQUISITIONS)
def acquisition(request: pytest.FixtureRequest, make_acquisition) -> Acquisition:
    return make_acquisition(**ACQUISITIONS[request.param])


def difference(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_full_sampling_without_noise_or_regulariser_gives_the_image(make_acquisition, two_dimensional: bool) -> None:
    acquisition = make_acquisition(acceleration=1.0, two_dimensional=two_dimensional)
    truth = torch.randn(2, 37, 29, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    acquisition = replace(acquisition, kspace=sense(acquisition)(truth))
    with torch.no_grad():
        assert difference(MoDL(Nothing)(acquisition), truth) < 1e-5  # float32 transforms there and back
        # and with any regulariser, where its weight is small
        assert difference(MoDL(SMALL, n_unrolls=3, weight=1e-7)(acquisition), truth) < 1e-5


def test_the_unrolls_follow_the_published_equations(make_acquisition) -> None:
    acquisition = make_acquisition()
    operator = sense(acquisition)
    h, w = acquisition.kspace.shape[-2:]
    basis = torch.eye(h * w, dtype=torch.complex64).view(-1, h, w)
    rhs = operator.adjoint(acquisition.kspace)
    one = sense(item_acquisition(acquisition, 0))
    gram = torch.cat([one.normal(basis[i : i + 29]) for i in range(0, h * w, 29)]).flatten(1).T  # columns A^H A e
    image = rhs[0].flatten()
    for _ in range(2):
        target = rhs[0].flatten() + 0.3 * 1.5 * image
        image = torch.linalg.solve(gram + 0.3 * torch.eye(h * w), target)
    with torch.no_grad():
        found = MoDL(Half, n_unrolls=2, cg_iterations=30, weight=0.3)(acquisition)[0]
    assert difference(found.flatten(), image) < 1e-4  # float32, a condition of four


def test_without_a_regulariser_the_unrolls_go_to_the_least_misfit(make_acquisition) -> None:
    """The proximal point algorithm: each unroll forgets a part of what the start had wrong."""
    acquisition = make_acquisition()
    operator = sense(acquisition)

    def misfit(image: Tensor) -> Tensor:
        return (operator(image) - acquisition.kspace).abs().square().sum()

    least = misfit(cg_sense(operator, acquisition.kspace, 0.0, iterations=300))
    with torch.no_grad():
        excess = [misfit(MoDL(Nothing, n, weight=0.3)(acquisition)) - least for n in (1, 4, 16)]
    # 10 conjugate gradients in each unroll; what is left is in directions that are hardly measured, and goes slowly
    assert excess[0] > 1.4 * excess[1] > 1.4**2 * excess[2] > 0


def test_the_weight_says_whom_to_trust(make_acquisition) -> None:
    acquisition = make_acquisition()
    operator = sense(acquisition)
    doubled = 1.5 * operator.adjoint(acquisition.kspace)
    with torch.no_grad():
        images = [MoDL(Half, n_unrolls=1, weight=weight)(acquisition) for weight in (1e-3, 0.1, 1e4)]
    misfits = [float(torch.linalg.vector_norm(operator(x) - acquisition.kspace)) for x in images]
    assert misfits[0] < misfits[1] < misfits[2]
    assert difference(images[2], doubled) < 1e-3


@pytest.mark.parametrize("acceleration", [1.0, 3.0])  # at 1 the conjugate gradients have nothing to do after one step
def test_the_weight_is_learned_and_stays_positive(make_acquisition, acceleration: float) -> None:
    acquisition = make_acquisition(acceleration=acceleration)
    torch.manual_seed(0)
    network = MoDL(SMALL, n_unrolls=2, weight=0.05)
    assert network.log_weight.exp().item() == pytest.approx(0.05)

    def loss() -> Tensor:
        return (network(acquisition).abs() - 1).square().mean()

    loss().backward()
    gradient = float(network.log_weight.grad)
    with torch.no_grad():
        values = []
        for step in (1e-2, -2e-2):
            network.log_weight.add_(step)
            values.append(loss().item())
        network.log_weight.sub_(100.0)
        assert network(acquisition).isfinite().all()
        assert network.log_weight.exp() > 0
    # central differences in float32
    assert gradient == pytest.approx((values[0] - values[1]) / 2e-2, rel=0.05)
    assert gradient != 0


def test_one_network_serves_all_unrolls() -> None:
    made, calls = [], []

    def make() -> nn.Module:
        made.append(Half())
        made[-1].register_forward_hook(lambda *_: calls.append(1))
        return made[-1]

    kspace = torch.ones(1, 1, 6, 7, dtype=torch.complex64)
    MoDL(make, n_unrolls=5)(Acquisition(kspace, torch.ones(1, 1, 1, 7, dtype=torch.bool)))
    assert len(made) == 1
    assert len(calls) == 5


def test_recomputing_the_features_changes_neither_image_nor_gradient(make_acquisition) -> None:
    acquisition, results = make_acquisition(), []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        network = MoDL(SMALL, n_unrolls=3, cg_iterations=4, checkpoint=checkpoint)
        image = network(acquisition)
        image.abs().square().sum().backward()
        results.append([image.detach(), *(p.grad for p in network.parameters())])
    assert all(map(torch.equal, *results))


def test_the_image_is_finite_and_complex_and_its_gradients_reach_every_parameter(
    network: MoDL, acquisition: Acquisition
) -> None:
    image = network.train()(acquisition)
    assert image.shape == (2, *acquisition.kspace.shape[-2:])
    assert image.dtype == torch.complex64
    assert image.isfinite().all()
    image.abs().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-6, name


def test_a_batch_equals_its_items(network: MoDL, acquisition: Acquisition) -> None:
    with torch.no_grad():
        batch = network(acquisition)
        items = torch.cat([network(item_acquisition(acquisition, i)) for i in range(2)])
    assert difference(items, batch) < 1e-5  # convolutions of other batch sizes sum in another order


@pytest.mark.parametrize("scale", [3.0, 1e-6])
def test_scaled_data_give_a_scaled_image(network: MoDL, acquisition: Acquisition, scale: float) -> None:
    with torch.no_grad():
        image = network(acquisition)
        scaled = network(replace(acquisition, kspace=scale * acquisition.kspace))
    assert difference(scaled / scale, image) < 3e-5  # data rounded anew, amplified by the normalisation of a U-Net


def test_data_of_nothing_but_zeros_and_reduced_precision_give_finite_images(network: MoDL, make_acquisition) -> None:
    acquisition = make_acquisition()
    with torch.no_grad():
        empty = network(replace(acquisition, kspace=torch.zeros_like(acquisition.kspace)))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(acquisition)
        image = network(acquisition)
    assert empty.abs().max() < 1e-30
    assert rounded.dtype == torch.complex64
    assert difference(rounded, image) < 0.05  # eight bits


def test_the_cnn_sees_data_of_unit_scale_and_adds_little_at_first() -> None:
    torch.manual_seed(0)
    network, seen = ResidualCNN(), []
    network.layers.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    image = 1e-5 * torch.randn(2, 1, 30, 21, dtype=torch.complex64) * torch.tensor([1, 1000]).view(2, 1, 1, 1)
    with torch.no_grad():
        residual = network(image)
    torch.testing.assert_close(seen[0].square().sum(1).mean((-2, -1)), torch.ones(2))
    assert 0 < difference(residual + image, image) < 0.3


def test_the_published_size_is_that_of_the_configuration() -> None:
    description = OmegaConf.to_container(OmegaConf.load(CONF).net, resolve=True)
    network = build_network(description, ("spinwarp.models",))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 64, 64, 2]
    assert (network.n_unrolls, network.cg_iterations) == (10, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_unrolls": 0}, "at least one unroll and one CG step; got 0 and 10"),
        ({"cg_iterations": 0}, "at least one unroll and one CG step; got 10 and 0"),
        ({"weight": 0.0}, r"weight=0\.0 must be positive"),
        ({"weight": float("nan")}, "weight=nan must be positive"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MoDL(Nothing, **options)


def test_a_cnn_of_one_layer_and_coils_without_maps_are_refused(make_acquisition) -> None:
    with pytest.raises(InputError, match="at least two layers; got n_layers=1"):
        ResidualCNN(n_layers=1)
    with pytest.raises(InputError, match="4 coils and no coil maps"):
        MoDL(Nothing)(make_acquisition(maps=False))
