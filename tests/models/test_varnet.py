from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from numpy.random import RandomState
from omegaconf import OmegaConf
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.coils import root_sum_of_squares
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import RandomMask
from spinwarp.models.fastmri_weights import network_from_fastmri
from spinwarp.models.loading import build_network
from spinwarp.models.norm_unet import NormUNet
from spinwarp.models.varnet import SensitivityNet, VarNet
from spinwarp.operators import sense

CONF = Path(__file__).parents[2] / "conf" / "model"
SMALL = partial(NormUNet, channels=4, pools=2)


class Nothing(nn.Module):
    """A regulariser that has nothing to say."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros_like(image)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict, Acquisition]:
    content = torch.load(shared / "golden" / "fastmri_varnet.pt", weights_only=True)
    return content, Acquisition(torch.view_as_complex(content["kspace"]), content["mask"][..., 0])


@pytest.mark.parametrize("plane", [False, True], ids=["line mask", "the same mask as a plane"])
def test_image_and_maps_are_those_of_the_fastmri_reference(golden: tuple[dict, Acquisition], plane: bool) -> None:
    content, acquisition = golden
    if plane:
        acquisition = replace(acquisition, mask=acquisition.mask.expand(-1, -1, acquisition.kspace.shape[-2], -1))
    network = network_from_fastmri(content["state"]).eval()
    assert len(network.regularisers) == content["cfg"]["num_cascades"]
    maps = {}
    network.sensitivity.register_forward_hook(lambda *call: maps.update(found=call[-1]))
    with torch.no_grad():
        image = network(acquisition)
    # float32 through three cascades
    assert difference(image.abs(), content["out"]) < 1e-5
    torch.testing.assert_close(maps["found"], torch.view_as_complex(content["sens"]), rtol=0, atol=1e-5)


def test_the_central_columns_that_the_protocol_fixes_are_used_before_those_of_the_mask(
    golden: tuple[dict, Acquisition],
) -> None:
    content, acquisition = golden
    network = network_from_fastmri(content["state"]).eval()
    with torch.no_grad():
        image = network(acquisition)
        other = network(replace(acquisition, n_acs=torch.tensor([4])))
    assert difference(other.abs(), image.abs()) > 1e-3


@pytest.mark.parametrize("two_dimensional", [False, True])
@pytest.mark.parametrize("acceleration", [1.0, 3.0])
def test_without_a_regulariser_the_image_is_the_root_sum_of_squares_of_the_data(
    make_acquisition, two_dimensional: bool, acceleration: float
) -> None:
    acquisition = make_acquisition(two_dimensional=two_dimensional, acceleration=acceleration)
    expected = root_sum_of_squares(ifftc(acquisition.kspace))
    for sensitivity in (None, partial(SensitivityNet, network=SMALL)):
        network = VarNet(Nothing, n_cascades=3, sensitivity=sensitivity)
        with torch.no_grad():
            assert difference(network(acquisition).abs(), expected) < 1e-5  # float32 transforms there and back


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_with_full_sampling_and_no_regulariser_the_image_is_restored_in_either_domain(
    make_acquisition, two_dimensional: bool
) -> None:
    acquisition = make_acquisition(two_dimensional=two_dimensional, acceleration=1.0)
    truth = torch.randn(2, 37, 29, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    acquisition = replace(acquisition, kspace=sense(acquisition)(truth))
    for domain in ("kspace", "image"):
        with torch.no_grad():
            image = VarNet(Nothing, n_cascades=2, update_domain=domain)(acquisition)
        assert difference(image, truth) < 1e-5, domain


def test_in_the_image_the_cascades_descend_the_gradient_of_the_data_term(make_acquisition) -> None:
    acquisition = make_acquisition()
    network = VarNet(Nothing, n_cascades=3, update_domain="image")
    steps = torch.tensor([1.0, 0.7, 0.3])
    network.steps.data.copy_(steps)
    operator = sense(acquisition)
    image = operator.adjoint(acquisition.kspace)  # the first step from a blank image
    for step in steps:
        image = image - step * operator.adjoint(operator(image) - acquisition.kspace)
    with torch.no_grad():
        assert difference(network(acquisition), image) < 1e-5


def test_in_k_space_the_cascades_follow_the_published_equation(make_acquisition) -> None:
    """``k <- k - step * M (k - y) - F S net(S^H F^-1 k)``, written out with both transforms."""

    class Half(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return 0.5 * image

    acquisition = make_acquisition()
    network = VarNet(Half, n_cascades=3)
    steps = torch.tensor([1.0, 0.7, 0.3])
    network.steps.data.copy_(steps)
    k, y, mask, maps = acquisition.kspace, acquisition.kspace, acquisition.mask, acquisition.maps
    for step in steps:
        prior = 0.5 * (maps.conj() * ifftc(k)).sum(1)
        k = k - step * mask * (k - y) - fftc(maps * prior[:, None])
    with torch.no_grad():
        image = network(acquisition)
    assert difference(image.abs(), root_sum_of_squares(ifftc(k))) < 1e-5


@pytest.mark.parametrize(("n_coils", "maps"), [(1, False), (4, True)])
def test_the_phase_is_relative_to_the_maps_of_the_data_not_to_learned_ones(
    make_acquisition, n_coils: int, maps: bool
) -> None:
    acquisition = make_acquisition(n_coils=n_coils, maps=maps, acceleration=1.0)
    torch.manual_seed(0)
    network = VarNet(Nothing, n_cascades=2, sensitivity=partial(SensitivityNet, network=SMALL))
    with torch.no_grad():
        image = network(acquisition)
    # the noise of several coils is not in the range of A; .02 of noise beside an object of about 1
    residual = torch.linalg.vector_norm(sense(acquisition)(image) - acquisition.kspace)
    assert residual < 0.1 * torch.linalg.vector_norm(acquisition.kspace)


def test_several_coils_without_maps_need_a_sensitivity_network(make_acquisition) -> None:
    with pytest.raises(InputError, match="4 coils and no coil maps"):
        VarNet(Nothing, n_cascades=1)(make_acquisition(maps=False))


def test_twelve_cascades_are_twelve_networks() -> None:
    description = OmegaConf.to_container(OmegaConf.load(CONF / "varnet.yaml").net, resolve=True)
    description["regulariser"] |= {"channels": 2, "pools": 1}
    description["sensitivity"]["network"] |= {"channels": 2, "pools": 1}
    network = build_network(description, ("spinwarp.models",))
    assert len(network.regularisers) == 12
    assert len({id(regulariser) for regulariser in network.regularisers}) == 12
    pointers = [parameter.data_ptr() for parameter in network.parameters()]
    assert len(set(pointers)) == len(pointers)
    first, second = (next(network.regularisers[i].parameters()) for i in (0, 1))
    assert not torch.equal(first, second)


def test_the_factory_is_called_once_a_cascade() -> None:
    made = []

    def make() -> nn.Module:
        made.append(Nothing())
        return made[-1]

    network = VarNet(make, n_cascades=5)
    assert list(network.regularisers) == made
    assert len(made) == 5


def test_learned_maps_have_a_sum_of_squares_of_one_and_ignore_what_lies_outside_the_centre(make_acquisition) -> None:
    acquisition = make_acquisition()
    torch.manual_seed(0)
    network = SensitivityNet(SMALL).eval()
    n = torch.tensor([8, 5])
    with torch.no_grad():
        maps = network(acquisition.kspace, n, ifftc)
        loud = acquisition.kspace.clone()
        loud[..., :8] *= 100
        again = network(loud, n, ifftc)
        alone = network(acquisition.kspace[1:], n[1:], ifftc)
    torch.testing.assert_close(maps.abs().square().sum(1), torch.ones(2, 37, 29), rtol=0, atol=1e-5)
    assert torch.equal(maps, again)
    torch.testing.assert_close(alone, maps[1:], rtol=0, atol=1e-4)  # each item has its own centre


@pytest.mark.parametrize(("width", "n"), [(29, 8), (29, 5), (30, 8), (30, 5)])
def test_the_centre_of_learned_maps_is_the_one_that_masks_sample(make_acquisition, width: int, n: int) -> None:
    acquisition = make_acquisition(shape=(20, width), acceleration=1.0)
    mask, n_center = RandomMask([n / width], [2])((20, width), RandomState(0))
    first = (width - n + 1) // 2
    outside = torch.ones(width, dtype=torch.bool)
    outside[first : first + n] = False
    assert n_center == n
    assert mask[0, ~outside].all()
    torch.manual_seed(0)
    network, counts = SensitivityNet(SMALL).eval(), torch.tensor([n, n])
    with torch.no_grad():
        maps = network(acquisition.kspace, counts, ifftc)
        only_centre = network(acquisition.kspace * ~outside, counts, ifftc)
        without_edges = acquisition.kspace.clone()
        without_edges[..., [first, first + n - 1]] = 0
        assert not torch.equal(network(without_edges, counts, ifftc), maps)
    assert torch.equal(only_centre, maps)


def test_data_without_a_centre_still_give_finite_maps(make_acquisition) -> None:
    acquisition = make_acquisition()
    maps = SensitivityNet(SMALL)(acquisition.kspace, torch.tensor([0, 1]), ifftc)
    assert maps.isfinite().all()
    assert maps.abs().max() > 0


def test_norm_unet_commutes_with_scale_and_offset_and_pads_about_the_centre() -> None:
    torch.manual_seed(0)
    network, x = SMALL().eval(), torch.randn(2, 1, 19, 22, dtype=torch.complex64)
    with torch.no_grad():
        y = network(x)
        assert y.shape == x.shape
        torch.testing.assert_close(network(1e-4 * x) * 1e4, y, rtol=0, atol=1e-4)
        torch.testing.assert_close(network(x + (3 - 2j)), y + (3 - 2j), rtol=0, atol=1e-4)
    seen = []
    network.unet.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    network(x)
    assert seen[0].shape == (2, 2, 32, 32)  # to a multiple of 16, as the reference
    inside = seen[0][..., 6 : 6 + 19, 5 : 5 + 22]
    torch.testing.assert_close(inside.std((-2, -1)), torch.ones(2, 2))
    assert seen[0].count_nonzero() == inside.count_nonzero()  # zeros around it


def test_an_unknown_domain_and_no_cascades_are_refused() -> None:
    with pytest.raises(InputError, match="update_domain='wavelet' is not one of kspace, image"):
        VarNet(Nothing, update_domain="wavelet")
    with pytest.raises(InputError, match="at least one cascade; got n_cascades=0"):
        VarNet(Nothing, n_cascades=0)
