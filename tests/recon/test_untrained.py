import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinwarp.acquisition import Acquisition
from spinwarp.channels import to_complex
from spinwarp.coils import combine
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import hold_out
from spinwarp.models.conv_decoder import ConvDecoder
from spinwarp.models.deep_decoder import DeepDecoder
from spinwarp.models.skip_net import SkipNet
from spinwarp.progress import listen
from spinwarp.recon.network_fit import BatchedNetworks, Iterate, fit
from spinwarp.recon.untrained import UntrainedNetwork, put_back

SMALL: dict[str, Callable[..., nn.Module]] = {
    "convdecoder": partial(ConvDecoder, channels=8, layers=4),
    "deep_decoder": partial(DeepDecoder, channels=16, layers=3),
    "dip": partial(SkipNet, channels=8, levels=2),
}


def untrained(network: str = "convdecoder", iterations: int = 8, **options: Any) -> UntrainedNetwork:
    return UntrainedNetwork(SMALL[network], iterations=iterations, **options)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


class Picture(nn.Module):
    """A network that is its pictures ``(batch, n)``: what a fit does to it is known in advance."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.picture = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        return self.picture + 0.0


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("output", ["image", "coils"])
def test_the_loss_falls(make_acquisition, network: str, output: str) -> None:
    seen: list[Iterate] = []
    # the networks start near zero; the amplitude of one lets these few steps reach the picture
    untrained(network, 40, output=output, amplitude=1).reconstruct(make_acquisition(batch=1), on_iterate=seen.append)
    assert [i.number for i in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].loss < 0.3 * seen[0].loss


def test_the_held_out_lines_are_not_in_the_loss(make_acquisition) -> None:
    acquisition = make_acquisition(batch=1)
    held = hold_out(acquisition)
    traces: list[list[Iterate]] = []
    for kspace in (acquisition.kspace, torch.where(held, 5 * acquisition.kspace.conj(), acquisition.kspace)):
        torch.manual_seed(0)
        network, trace = SMALL["convdecoder"]((37, 29), 8), []
        fit(network, lambda o: fftc(to_complex(o)), kspace, held, iterations=5, on_iterate=trace.append)
        traces.append(trace)
    for before, after in zip(*traces, strict=True):
        assert before.loss == after.loss
        assert torch.equal(before.picture, after.picture)
        assert before.held_out != after.held_out


def test_a_reconstruction_holds_out_where_its_rule_asks_for_it(make_acquisition) -> None:
    for stop, held in (("held_out", True), ("authors", False), ("fixed", False)):
        seen: list[Iterate] = []
        untrained(stop=stop).reconstruct(make_acquisition(batch=1), on_iterate=seen.append)
        assert (seen[0].held_out is not None) == held


def test_the_picture_with_the_least_held_out_error_is_kept_and_the_fit_ends_after_the_patience() -> None:
    # gradient steps of one size take the first pixel to 1; the second, held out, follows it by the operator
    seen: list[Iterate] = []
    measured, held = torch.tensor([[1.0, 0.3]]), torch.tensor([[False, True]])
    kept = fit(
        Picture(torch.zeros(1, 1)),
        lambda picture: picture.expand(1, 2),
        measured,
        held,
        iterations=500,
        learning_rate=0.02,
        stop="held_out",
        patience=20,
        on_iterate=seen.append,
    )
    assert len(seen) < 60
    best = max(i.number for i in seen if i.kept)
    assert len(seen) == best + 20
    assert torch.equal(kept, seen[best - 1].picture)
    # 0.3 is passed at the 16th step of 0.02; the running mean over ten iterations is later by some
    assert 0.3 <= float(kept) < 0.6


@pytest.mark.parametrize("stop", ["authors", "fixed"])
def test_the_other_rules_run_to_the_end(stop: str) -> None:
    seen: list[Iterate] = []
    options = {"iterations": 300, "stop": stop, "on_iterate": seen.append}
    kept = fit(Picture(torch.zeros(1, 3)), lambda p: p, torch.ones(1, 3), **options)
    assert len(seen) == 300
    assert seen[-1].held_out is None
    last = [i for i in seen if i.kept][-1]
    assert torch.equal(kept, last.picture)
    if stop == "fixed":
        assert last.number == 300
        return
    best = float("inf")
    for iterate in seen:  # as the authors' fit.py: a new best net where best_mse > 1.005 * loss
        assert bool(iterate.kept) == (best > 1.005 * float(iterate.loss))
        best = float(iterate.loss) if iterate.kept else best


def test_without_lines_to_spare_the_remedy_is_named(make_acquisition) -> None:
    acquisition = make_acquisition(batch=1)
    center = torch.zeros_like(acquisition.mask)
    center[..., 10:18] = True
    only = replace(acquisition, mask=center, kspace=acquisition.kspace * center)
    with pytest.raises(InputError, match=r"too few sampled lines outside the centre.*recon\.stop=fixed"):
        untrained()(only)
    assert untrained(stop="fixed")(only).image.isfinite().all()


@pytest.mark.parametrize("network", SMALL)
def test_the_same_seed_gives_the_same_image_and_another_one_another(make_acquisition, network: str) -> None:
    acquisition, method = make_acquisition(), untrained(network)
    image = method(acquisition, generator=seeded(1)).image
    assert torch.equal(method(acquisition, generator=seeded(1)).image, image)
    assert norm(method(acquisition, generator=seeded(2)).image - image) > 1e-3 * norm(image)
    assert torch.equal(method(acquisition).image, method(acquisition).image)


def test_nothing_leaks_from_one_call_to_the_next_nor_to_the_global_generator(make_acquisition) -> None:
    acquisition, other, method = make_acquisition(), make_acquisition(seed=5), untrained()
    alone = method(acquisition, generator=seeded(1)).image
    method(other, generator=seeded(1))
    before = torch.get_rng_state()
    assert torch.equal(method(acquisition, generator=seeded(1)).image, alone)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_fits_within_inference_mode_too(make_acquisition) -> None:
    method = untrained()
    outside = method(make_acquisition()).image
    with torch.inference_mode():
        assert torch.equal(method(make_acquisition()).image, outside)
    with torch.no_grad():
        assert torch.equal(method(make_acquisition()).image, outside)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("network", SMALL)
def test_networks_side_by_side_make_the_pictures_that_they_make_alone(
    network: str, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    networks = [SMALL[network]((21, 18), 2).double().to(memory_format=layout) for _ in range(3)]
    together = BatchedNetworks(networks)
    pictures = torch.cat([alone() for alone in networks])
    torch.testing.assert_close(together(), pictures)
    target = torch.randn(pictures.shape, dtype=torch.float64)
    (together() - target).square().sum().backward()
    (pictures - target).square().sum().backward()
    for weights, *alone in zip(together.parameters(), *(n.parameters() for n in networks), strict=True):
        torch.testing.assert_close(weights.grad, torch.stack([w.grad for w in alone]))


@pytest.mark.parametrize("stop", ["held_out", "authors", "fixed"])
def test_fits_side_by_side_do_not_meet_and_stop_each_by_itself(stop: str) -> None:
    torch.manual_seed(0)
    measured = torch.randn(3, 2, 16, 18, dtype=torch.float64) * torch.tensor([1.0, 0.01, 3.0]).view(3, 1, 1, 1)
    held = torch.rand(3, 1, 16, 18) < 0.3 if stop == "held_out" else None
    networks = [SMALL["deep_decoder"]((16, 18), 2).double() for _ in range(3)]
    copies = [copy.deepcopy(network) for network in networks]
    options = {"iterations": 60, "stop": stop, "patience": 6}
    together = fit(BatchedNetworks(networks), lambda p: p, measured, held, **options)
    for i, alone in enumerate(copies):
        mask = None if held is None else held[i : i + 1]
        kept = fit(alone, lambda p: p, measured[i : i + 1], mask, **options)
        # double precision, which sixty steps of Adam amplify
        torch.testing.assert_close(together[i : i + 1], kept, rtol=1e-5, atol=1e-6)


def test_slices_and_seeds_fitted_at_once_agree_with_those_fitted_one_by_one(make_acquisition) -> None:
    acquisition = make_acquisition()  # the two masks have other numbers of lines
    alone, together = (untrained(iterations=2, n_seeds=3, at_once=n)(acquisition) for n in (1, 4))
    assert alone.samples is not None and together.samples is not None
    # Adam's first step is the sign of a gradient, whatever its size, and follows rounding where there is hardly any
    assert norm(together.samples - alone.samples) < 1e-3 * norm(alone.samples)
    assert norm(alone.samples[1:] - alone.samples[:-1]) > 1e-2 * norm(alone.samples[1:])  # seeds differ by more


def test_a_warm_start_goes_on_from_the_slice_before_and_only_within_a_batch(make_acquisition) -> None:
    acquisition = make_acquisition()
    traces: dict[int | None, list[Iterate]] = {}
    for warm_start in (None, 4):
        method = untrained(iterations=30, warm_start=warm_start, amplitude=1)
        traces[warm_start] = []
        image = method.reconstruct(acquisition, on_iterate=traces[warm_start].append)
        assert torch.equal(method.reconstruct(acquisition), image)
    cold, warm = traces[None], traces[4]
    assert [i.number for i in cold] == 2 * list(range(1, 31))
    assert [i.number for i in warm] == [*range(1, 31), *range(1, 5)]
    assert warm[30].loss < 0.5 * cold[30].loss  # the two slices are nearly the same ellipse
    # of several seeds each begins afresh with the first slice
    both = untrained(iterations=8, warm_start=4, n_seeds=2).reconstruct(acquisition, [1, 2])
    single = untrained(iterations=8, warm_start=4).reconstruct(acquisition, [2])
    assert torch.equal(both[1], single[0])


@pytest.mark.parametrize("options", [{}, {"at_once": 2, "n_seeds": 2}, {"warm_start": 3}, {"patience": 1}])
def test_a_listener_is_told_how_far_the_call_is(make_acquisition, options: dict[str, Any]) -> None:
    fractions: list[float] = []
    method, acquisition = untrained(**options), make_acquisition()
    with listen(fractions.append):
        method(acquisition)
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.5
    assert fractions[-1] == 1
    n_reports = len(fractions)
    method(acquisition)
    assert len(fractions) == n_reports  # nobody listens outside


@pytest.mark.parametrize("two_dimensional", [False, True])
@pytest.mark.parametrize("output", ["image", "coils"])
def test_one_coil_without_maps_keeps_its_measured_k_space_exactly(
    make_acquisition, output: str, two_dimensional: bool
) -> None:
    acquisition = make_acquisition(n_coils=1, maps=False, two_dimensional=two_dimensional)
    image = untrained(output=output)(acquisition).image
    kspace = fftc(image[:, None])
    # a transform back and forth in float32
    assert norm((kspace - acquisition.kspace) * acquisition.mask) < 1e-5 * norm(acquisition.kspace)
    free = untrained(output=output, data_consistency=False)(acquisition).image
    assert norm((fftc(free[:, None]) - acquisition.kspace) * acquisition.mask) > 1e-2 * norm(acquisition.kspace)


def test_putting_back_changes_what_was_measured_and_nothing_else(make_acquisition) -> None:
    acquisition = make_acquisition()
    images = torch.randn(acquisition.kspace.shape, dtype=torch.complex64, generator=seeded(0))
    kspace = fftc(put_back(images, acquisition))
    tolerance = {"rtol": 0, "atol": 1e-5}  # float32, values of a few
    torch.testing.assert_close(kspace * acquisition.mask, acquisition.kspace, **tolerance)
    torch.testing.assert_close(kspace * ~acquisition.mask, fftc(images) * ~acquisition.mask, **tolerance)


@pytest.mark.parametrize("output", ["image", "coils"])
def test_the_image_has_the_scale_of_the_data(make_acquisition, output: str) -> None:
    acquisition = make_acquisition(acceleration=1.5)
    truth = combine(ifftc(make_acquisition(acceleration=1).kspace), acquisition.maps)
    method = untrained(output=output, iterations=30)
    image = method(acquisition).image
    # far from converged, but neither normalised nor of the network's units, thirty times as bright
    assert 0.8 < norm(image) / norm(truth) < 1.2
    scaled = replace(acquisition, kspace=1e-5 * acquisition.kspace)
    # data scaled are rounded anew, 1e-7, which the iterations amplify
    assert norm(method(scaled).image / 1e-5 - image) < 1e-3 * norm(image)


def test_several_seeds_give_their_mean_and_their_deviation(make_acquisition) -> None:
    acquisition = make_acquisition()
    result = untrained(n_seeds=3)(acquisition)
    assert result.samples is not None and result.std is not None
    assert result.samples.shape == (3, *result.image.shape)
    torch.testing.assert_close(result.image, result.samples.mean(0))
    magnitudes = result.samples.abs()  # the phase of a seed is no part of its deviation
    spread = (magnitudes - magnitudes.mean(0)).square().sum(0).div(2)
    torch.testing.assert_close(result.std, (4 / 3 * spread).sqrt())  # of the error of a mean of three
    assert untrained()(acquisition).std is None


def test_the_trace_ends_with_the_image_that_is_returned(make_acquisition) -> None:
    acquisition = make_acquisition(batch=1)
    seen: list[Iterate] = []
    image = untrained(stop="held_out", iterations=40, patience=5).reconstruct(acquisition, [3], seen.append)
    assert torch.equal([i for i in seen if i.kept][-1].picture, image[0])
    assert seen[0].picture.shape == image[0].shape == (1, 37, 29)


def test_half_precision_stays_near_and_returns_full_precision(make_acquisition) -> None:
    acquisition = make_acquisition()
    full, half = untrained()(acquisition).image, untrained(precision="bf16")(acquisition).image
    assert half.dtype == torch.complex64
    assert 0 < norm(half - full) < 0.1 * norm(full)  # bf16 has eight bits, 0.4 %, here over eight iterations


@pytest.mark.parametrize("data_consistency", [False, True])
def test_where_no_coil_sees_the_picture_there_is_no_image(make_acquisition, data_consistency: bool) -> None:
    """ESPIRiT's maps are zero outside the object, so the data say nothing of the picture there."""
    acquisition = make_acquisition()
    maps = acquisition.maps.clone()
    maps[..., :9] = 0
    method = untrained(maps="given", data_consistency=data_consistency)
    image = method(replace(acquisition, maps=maps)).image
    assert not image[..., :9].any()
    assert image[..., 9:].abs().amin() > 0


@pytest.mark.parametrize("options", [{"whiten": True}, {"virtual_coils": 2}, {"maps": "low_resolution"}])
def test_the_coils_are_prepared_as_for_the_classical_methods(make_acquisition, options: dict[str, Any]) -> None:
    acquisition = make_acquisition(shape=(40, 36))
    image = untrained(iterations=30, **options)(acquisition).image
    plain = untrained(iterations=30)(acquisition).image
    # the same ellipse in the same units, differently far after thirty iterations from other coils
    assert 1e-4 * norm(plain) < norm(image.abs() - plain.abs()) < 0.5 * norm(plain)


def test_an_acquisition_of_zeros_gives_zeros(make_acquisition) -> None:
    acquisition = make_acquisition()
    empty = replace(acquisition, kspace=torch.zeros_like(acquisition.kspace))
    assert not untrained()(empty).image.any()


PROBLEMS: dict[str, Callable[[Tensor], Tensor]] = {
    "denoising": lambda picture: picture,
    "inpainting": lambda picture: picture[..., ::2],
    "super-resolution": lambda picture: F.avg_pool2d(picture, 2),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_same_fit_solves_other_problems_by_another_operator(problem: str) -> None:
    y, x = torch.linspace(-1, 1, 32)[:, None], torch.linspace(-1, 1, 32)
    truth = torch.exp(-3 * ((x - 0.3) ** 2 + (y + 0.2) ** 2))[None, None]
    operator = PROBLEMS[problem]
    clean = operator(truth)
    measured = clean + 0.2 * torch.randn(clean.shape, generator=seeded(0))
    torch.manual_seed(0)
    picture = fit(SMALL["convdecoder"]((32, 32), 1), operator, measured, iterations=60)
    # it takes to the image before it takes to the noise; measured: 0.4 to 0.6 of the noise is left
    assert norm(operator(picture) - clean) < 0.8 * norm(measured - clean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "volume"}, "output='volume' is not one of image, coils"),
        ({"stop": "never"}, "stop='never' is not one of held_out, authors, fixed"),
        ({"precision": "16"}, "precision='16' is not one of 32, bf16"),
        ({"iterations": 0}, "iterations=0 must be at least 1"),
        ({"patience": 0}, "patience=0"),
        ({"n_seeds": 0}, "n_seeds=0"),
        ({"learning_rate": 0}, "learning_rate=0 must be above 0"),
        ({"amplitude": -1}, "amplitude=-1"),
        ({"holdout_every": 1}, "holdout_every=1 must be at least 2"),
        ({"at_once": 0}, "at_once=0"),
        ({"maps": "learned"}, "maps='learned'"),
        ({"virtual_coils": 0}, "virtual_coils=0"),
        ({"output": "coils", "whiten": True}, "output=coils fits the coils as they are"),
        ({"warm_start": 0}, "warm_start=0"),
        ({"warm_start": 5, "at_once": 2}, "warm_start=5 must be at least 1, and at_once=2 must be 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        UntrainedNetwork(SMALL["convdecoder"], **options)


def test_several_coils_without_maps_need_an_image_for_each(make_acquisition) -> None:
    acquisition: Acquisition = make_acquisition(maps=False)
    assert untrained(output="coils")(acquisition).image.shape == (2, 37, 29)
    with pytest.raises(InputError, match="has no coil maps"):
        untrained(output="image", maps="given")(acquisition)


def test_a_fit_needs_something_to_fit_and_something_to_stop_by() -> None:
    network, ones = Picture(torch.zeros(1, 2)), torch.ones(1, 2)
    with pytest.raises(InputError, match="nothing is left to fit"):
        fit(network, lambda p: p, ones, torch.tensor([[True, True]]), iterations=1)
    with pytest.raises(InputError, match=r"nothing is held out; choose recon\.stop=fixed"):
        fit(network, lambda p: p, ones, iterations=1, stop="held_out")
    with pytest.raises(InputError, match="stop='soon'"):
        fit(network, lambda p: p, ones, iterations=1, stop="soon")
