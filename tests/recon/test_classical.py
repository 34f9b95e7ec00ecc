"""The four optimisation problems whose prior is a formula: what is minimal, what is exact, what is equivariant."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.operators import finite_difference, sense, wavelet
from spinwarp.recon.cg_sense import CGSense, cg_sense
from spinwarp.recon.l1_image import L1Image, l1_image
from spinwarp.recon.l1_wavelet import L1Wavelet, l1_wavelet
from spinwarp.recon.regularised import Regularised
from spinwarp.recon.tv import TotalVariation, total_variation

Solve = Callable[..., Tensor]
# iterations after which the objective stands still on images this small
SOLVERS: dict[str, tuple[Solve, int]] = {
    "cg_sense": (cg_sense, 60),
    "total_variation": (total_variation, 80),
    "l1_image": (l1_image, 200),
    "l1_wavelet": (lambda *arguments, **options: l1_wavelet(*arguments, shifts=False, **options), 200),
}
ACQUISITIONS = {
    "lines": {"shape": (15, 18)},
    "odd sizes": {"shape": (17, 13), "n_coils": 3},
    "plane": {"shape": (15, 18), "two_dimensional": True},
    "one coil": {"shape": (16, 17), "n_coils": 1, "maps": False},
}
METHODS: list[type[Regularised]] = [CGSense, TotalVariation, L1Image, L1Wavelet]


@pytest.fixture(params=SOLVERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=ACQUISITIONS)
def acquisition(request: pytest.FixtureRequest, make_acquisition: Callable[..., Acquisition]) -> Acquisition:
    return in_double(make_acquisition(**ACQUISITIONS[request.param]))


def in_double(acquisition: Acquisition) -> Acquisition:
    """In double precision, so that what remains is how far the iterations have come."""
    maps = None if acquisition.maps is None else acquisition.maps.to(torch.complex128)
    return replace(acquisition, kspace=acquisition.kspace.to(torch.complex128), maps=maps)


def solve(name: str, acquisition: Acquisition, weight: float | Tensor, **options: object) -> Tensor:
    solver, iterations = SOLVERS[name]
    return solver(sense(acquisition), acquisition.kspace, weight, **{"iterations": iterations, **options})


def penalty(name: str, x: Tensor) -> Tensor:
    """R(x) of each item, written out."""
    if name == "cg_sense":
        size = x.abs().square() / 2
    elif name == "total_variation":
        size = torch.linalg.vector_norm(finite_difference()(x), dim=1)
    else:
        size = x.abs() if name == "l1_image" else wavelet(tuple(x.shape[1:]), "db2")(x).abs()
    return size.flatten(1).sum(1)


def misfit(acquisition: Acquisition, x: Tensor) -> Tensor:
    return (sense(acquisition)(x) - acquisition.kspace).abs().square().flatten(1).sum(1) / 2


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def test_nothing_near_the_image_has_a_lower_objective(name: str, acquisition: Acquisition) -> None:
    weight = torch.tensor([0.02, 0.3], dtype=torch.float64)

    def objective(x: Tensor) -> Tensor:
        return misfit(acquisition, x) + weight * penalty(name, x)

    image = solve(name, acquisition, weight)
    least = objective(image)
    zero_filled = sense(acquisition).adjoint(acquisition.kspace)
    # directions at random, to nothing, to the zero-filled image, to a scaled one
    directions = [draw(*image.shape, seed=i) for i in range(10)] + [-image, zero_filled - image, image]
    # total variation converges like 1 / iterations
    slack = 1e-3 if name == "total_variation" else 1e-8
    for direction in directions:
        for step in (1e-1, 1e-2, 1e-3):
            assert (least <= objective(image + step * direction) * (1 + slack)).all()
    assert (least < 0.995 * objective(zero_filled)).all()


def test_a_larger_weight_means_less_of_what_it_weighs_and_a_larger_misfit(name: str, make_acquisition) -> None:
    made = in_double(make_acquisition(shape=(15, 18), batch=1))
    thrice = replace(made, **{k: getattr(made, k).expand(3, -1, -1, -1) for k in ("kspace", "mask", "maps")})
    images = solve(name, thrice, torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64))
    assert (penalty(name, images).diff() < 0).all()
    assert (misfit(thrice, images).diff() > 0).all()


def test_data_turned_and_scaled_give_the_image_turned_and_scaled(name: str, acquisition: Acquisition) -> None:
    factor = 300 * torch.exp(torch.tensor(2.1j, dtype=torch.complex128))
    turned = replace(acquisition, kspace=factor * acquisition.kspace)
    image = solve(name, acquisition, 0.05, iterations=10)
    # quadratic terms grow alike; a norm grows with the scale, the misfit with its square
    weight = 0.05 if name == "cg_sense" else 0.05 * 300
    # rounding in ten iterations
    torch.testing.assert_close(solve(name, turned, weight, iterations=10), factor * image, rtol=0, atol=1e-6)


def test_each_item_of_a_batch_has_its_own_weight(name: str, make_acquisition) -> None:
    acquisition = in_double(make_acquisition(shape=(15, 18)))
    weights = torch.tensor([0.02, 0.4], dtype=torch.float64)
    batch = solve(name, acquisition, weights, iterations=20)
    for i, weight in enumerate(weights.tolist()):
        alone = solve(name, acquisition, weight, iterations=20)
        torch.testing.assert_close(batch[i], alone[i], rtol=0, atol=1e-10)


def test_any_start_leads_to_the_same_objective(name: str, make_acquisition) -> None:
    acquisition = in_double(make_acquisition(shape=(15, 18)))
    image = solve(name, acquisition, 0.1)
    other = solve(name, acquisition, 0.1, x0=draw(*image.shape))
    values = [misfit(acquisition, x) + 0.1 * penalty(name, x) for x in (image, other)]
    torch.testing.assert_close(values[0], values[1], rtol=2e-3 if name == "total_variation" else 1e-6, atol=0)


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_a_full_scan_is_recovered_exactly_with_any_maps_that_vanish_nowhere(
    make_acquisition, two_dimensional: bool
) -> None:
    """Neither smooth nor normalised: the sum of squares varies by a factor of some ten."""
    made = in_double(make_acquisition(shape=(15, 18), acceleration=1.0, two_dimensional=two_dimensional))
    maps = draw(*made.kspace.shape)
    truth = draw(2, 15, 18, seed=1)
    full = replace(made, maps=maps)
    full = replace(full, kspace=sense(full)(truth))
    image = cg_sense(sense(full), full.kspace, 0.0, iterations=100)
    torch.testing.assert_close(image, truth, rtol=0, atol=1e-12)
    single = replace(full, kspace=full.kspace.to(torch.complex64), maps=maps.to(torch.complex64))
    image = CGSense(0.0, "given", iterations=100, tolerance=0.0)(single).image
    torch.testing.assert_close(image, truth.to(torch.complex64), rtol=0, atol=1e-4)  # float32, magnitudes up to 4


def test_total_variation_moves_the_plateaus_of_a_step_by_the_weight_over_their_length(make_acquisition) -> None:
    """Of a fully sampled image that changes along one direction: in each line as in one dimension."""
    made = in_double(make_acquisition(shape=(6, 12), n_coils=1, maps=False, acceleration=1.0))
    step = torch.tensor([1.0] * 4 + [3.0] * 8, dtype=torch.complex128).expand(2, 6, 12)
    data = replace(made, kspace=sense(made)(step))
    expected = torch.tensor([1.125] * 4 + [2.9375] * 8, dtype=torch.complex128).expand(2, 6, 12)
    image = solve("total_variation", data, 0.5, iterations=250)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)


def test_an_l1_weight_above_every_gradient_leaves_nothing(make_acquisition) -> None:
    made = in_double(make_acquisition(shape=(15, 18)))
    rhs = sense(made).adjoint(made.kspace)
    assert not solve("l1_image", made, 1.01 * float(rhs.abs().max())).any()
    assert solve("l1_image", made, 0.99 * float(rhs.abs().max())).any()
    coefficients = wavelet((15, 18), "db2")(rhs)
    assert not solve("l1_wavelet", made, 1.01 * float(coefficients.abs().max())).any()


def test_moving_the_image_under_the_wavelets_lowers_the_error(make_acquisition) -> None:
    made = in_double(make_acquisition(shape=(32, 24)))
    y, x = torch.linspace(-1, 1, 32)[:, None], torch.linspace(-1, 1, 24)
    disc = ((x - 0.1) ** 2 + (y + 0.1) ** 2 < 0.5).expand(2, 32, 24).to(torch.complex128)
    data = replace(made, kspace=sense(made)(disc))
    errors = {}
    for shifts in (False, True):
        image = l1_wavelet(sense(data), data.kspace, 0.02, name="haar", shifts=shifts, iterations=60)
        errors[shifts] = float(torch.linalg.vector_norm(image - disc))
    assert errors[True] < 0.8 * errors[False]


def test_rounding_does_not_grow_while_the_image_moves_under_the_wavelets(make_acquisition) -> None:
    """One rounding of the data per sample; unbounded momentum makes 3e-4 of it, which differs between processors."""
    made = make_acquisition(n_coils=3, shape=(33, 29))
    noise = torch.randn(made.kspace.shape, generator=torch.Generator().manual_seed(1))
    nearly = replace(made, kspace=made.kspace * (1 + 1e-7 * noise))
    method = L1Wavelet(weight=2e-3, iterations=200)
    image, other = method(made).image, method(nearly).image
    # each of 200 iterations adds about 1e-7
    assert torch.linalg.vector_norm(image - other) < 4e-5 * torch.linalg.vector_norm(image)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_an_empty_slice_gives_an_empty_image(make_acquisition, method: type[Regularised]) -> None:
    acquisition = make_acquisition(shape=(16, 24))
    empty = acquisition.kspace.clone()
    empty[0] = 0
    for maps in ("given", "low_resolution"):
        image = method(0.01, maps)(replace(acquisition, kspace=empty)).image
        assert image.isfinite().all()
        assert not image[0].any()
        assert image[1].any()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -0.1}, r"weight=-0\.1 is neither auto nor a number of at least zero"),
        ({"weight": float("nan")}, "weight=nan is neither auto nor"),
        ({"weight": float("inf")}, "weight=inf is neither auto nor"),
        ({"weight": "0.1"}, "weight='0.1' is neither auto nor"),
        ({"weight": None}, "weight=None is neither auto nor"),
        ({"maps": "sense"}, "maps='sense' is not one of espirit, low_resolution, given"),
        ({"iterations": 0}, "at least 1 iteration and a tolerance of at least 0; got 0"),
        ({"tolerance": -1.0}, r"at least 0; got \d+ and -1"),
        ({"virtual_coils": 0}, "virtual_coils=0 must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(method: type[Regularised], options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        method(**options)
