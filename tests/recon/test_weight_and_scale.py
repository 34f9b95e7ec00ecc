"""What the classical methods learn from the measured data alone: the scale of it and the weight of the prior."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from spinwarp.acquisition import Acquisition, item_acquisition
from spinwarp.errors import InputError
from spinwarp.masks import hold_out
from spinwarp.operators import sense
from spinwarp.preparation import data_scale
from spinwarp.recon import weight as search
from spinwarp.recon.cg_sense import CGSense
from spinwarp.recon.l1_image import L1Image
from spinwarp.recon.l1_wavelet import L1Wavelet
from spinwarp.recon.regularised import Regularised
from spinwarp.recon.tv import TotalVariation
from spinwarp.recon.weight import held_out_weight

METHODS: list[type[Regularised]] = [CGSense, TotalVariation, L1Image, L1Wavelet]
MASKS = {
    "lines": {},
    "plane": {"two_dimensional": True},
    "odd lines": {"shape": (21, 37)},
    "odd plane": {"shape": (35, 33), "two_dimensional": True},
    "everything": {"acceleration": 1.0},
}


def by_name(method: type) -> str:
    return method.__name__


@pytest.fixture(scope="module")
def noisy(make_acquisition: Callable[..., Acquisition]) -> tuple[Acquisition, Tensor]:
    """A phantom of a few ellipses at 4x under noise of .03 and its truth; two items, two masks."""
    h, w = 48, 40
    made = make_acquisition(shape=(h, w), acceleration=4.0, two_dimensional=True)
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    image = ((x / 0.8) ** 2 + (y / 0.9) ** 2 < 1).float()
    for cx, cy, a, b, value in [(0.2, 0.1, 0.3, 0.2, 0.5), (-0.3, 0.3, 0.15, 0.3, -0.4), (0, -0.5, 0.3, 0.1, 0.3)]:
        image = image + value * (((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1)
    truth = torch.polar(image, (x - 0.5 * y).expand(h, w)).expand(2, h, w)
    noise = 0.03 * torch.randn(made.kspace.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    return replace(made, kspace=(sense(made)(truth) + noise) * made.mask, noise_std=None), truth


def centre(acquisition: Acquisition, n: int) -> Tensor:
    """The central ``n`` columns (and rows, of a plane mask), as masks place them."""
    inside = torch.zeros_like(acquisition.mask)
    rows, columns = inside.shape[-2:]
    first, top = (columns - n + 1) // 2, (rows - n + 1) // 2
    inside[..., slice(None) if rows == 1 else slice(top, top + n), first : first + n] = True
    return inside


@pytest.mark.parametrize("case", MASKS)
def test_a_fifth_of_the_samples_outside_the_centre_is_held_out(make_acquisition, case: str) -> None:
    acquisition = make_acquisition(**MASKS[case])
    held = hold_out(acquisition)
    assert held.shape == acquisition.mask.shape
    assert held.dtype == torch.bool
    assert torch.equal(held & acquisition.mask, held)
    # of odd widths the mask's eight central columns lie one too far to the left
    assert not (held & centre(acquisition, 7)).any()
    for item, mask in zip(held, acquisition.mask & ~centre(acquisition, 6), strict=True):
        # every fifth; between the eight columns that are always kept and the six counted here lie a few more
        assert 0.1 < float(item.sum() / mask.sum()) <= 0.25


def test_the_same_mask_is_always_split_alike_whatever_was_measured(make_acquisition) -> None:
    acquisition = make_acquisition()
    before = acquisition.mask.clone()
    held = hold_out(acquisition)
    torch.rand(5)
    assert torch.equal(hold_out(replace(acquisition, kspace=-3 * acquisition.kspace)), held)
    assert torch.equal(acquisition.mask, before)
    for i in range(2):
        assert torch.equal(hold_out(item_acquisition(acquisition, i)), held[i : i + 1])


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_data_of_nothing_but_a_centre_is_refused_with_a_remedy(make_acquisition, two_dimensional: bool) -> None:
    acquisition = make_acquisition(two_dimensional=two_dimensional)
    only = acquisition.mask & centre(acquisition, 7)
    with pytest.raises(
        InputError, match=r"too few sampled lines.*give the weight as a number, such as recon\.weight=0\.01"
    ):
        hold_out(replace(acquisition, mask=only))


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_the_weight_lies_within_the_grid_and_a_batch_chooses_as_its_items_do(
    noisy: tuple[Acquisition, Tensor], method: type[Regularised]
) -> None:
    acquisition, _ = noisy
    kspace = acquisition.kspace * torch.tensor([1.0, 0.3]).view(2, 1, 1, 1)  # other weights
    noise = torch.randn(kspace.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(3))
    kspace = kspace + 0.05 * noise * acquisition.mask
    problem = replace(acquisition, kspace=kspace)
    reconstructor = method("auto", "given")
    weights = reconstructor.choose_weight(problem)
    assert weights.shape == (2,)
    assert (weights >= min(reconstructor.weights)).all()
    assert (weights <= max(reconstructor.weights)).all()
    for i in range(2):
        alone = reconstructor.choose_weight(item_acquisition(problem, i))
        # sums in float32 over other batch sizes, and the logarithm of their differences
        torch.testing.assert_close(alone[0], weights[i], rtol=0.01, atol=0)


@pytest.mark.parametrize("method", [CGSense, TotalVariation, L1Wavelet], ids=by_name)
def test_the_chosen_weight_loses_less_than_half_a_decibel_to_the_best_one(
    noisy: tuple[Acquisition, Tensor], method: type[Regularised]
) -> None:
    acquisition, truth = noisy

    def error(weight: float | str) -> Tensor:
        return (method(weight, "given")(acquisition).image - truth).abs().square().flatten(1).sum(1)

    sweep = torch.stack([error(10 ** (-k / 4)) for k in range(5, 12)])
    best = sweep.amin(0)
    assert (10 * torch.log10(error("auto") / best) < 0.5).all()
    assert (10 * torch.log10(sweep[-1] / best) > 0.5).all()  # a choice matters here


def test_more_noise_asks_for_a_larger_weight(noisy: tuple[Acquisition, Tensor]) -> None:
    acquisition, _ = noisy
    noise = torch.randn(acquisition.kspace.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(4))
    noisier = replace(acquisition, kspace=acquisition.kspace + 0.15 * noise * acquisition.mask)
    for method in (CGSense, TotalVariation, L1Wavelet):
        chosen = [method("auto", "given").choose_weight(problem) for problem in (acquisition, noisier)]
        assert (chosen[1] > 1.5 * chosen[0]).all()


def test_a_curve_with_one_minimum_is_followed_to_it_between_the_weights() -> None:
    """A stand-in solver: what it predicts is off by |log(weight / 0.02)|, the rest by nothing."""
    kspace, mask = torch.ones(1, 1, 4, 40, dtype=torch.complex64), torch.ones(1, 1, 1, 40, dtype=torch.bool)
    problem = Acquisition(kspace, mask, maps=torch.ones_like(kspace), n_acs=torch.tensor([8]))
    exact = sense(problem).adjoint(kspace)
    tried = []

    def stand_in(training: Acquisition, weight: Tensor) -> Tensor:
        tried.append(float(weight))
        assert torch.equal(training.kspace != 0, training.mask.expand(-1, -1, 4, -1))
        # the logarithm of 1 + t^2 is nearly a parabola near its minimum
        return exact * (1 + torch.sqrt(1 + (weight / 0.02).log().square())).view(-1, 1, 1)

    weight = held_out_weight(stand_in, problem, [1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003])
    assert tried == pytest.approx([0.01, 0.003, 0.03, 0.1])  # from the middle downhill, and one beyond the minimum
    assert 0.015 < float(weight) < 0.025


@pytest.mark.parametrize("lowest", range(8))
def test_the_lowest_point_is_found_wherever_it_is_and_never_from_more_than_its_neighbours(lowest: int) -> None:
    values = [abs(i - lowest) + 0.1 * i for i in range(8)]
    known: dict[int, float] = {4: values[4]}
    while (wanted := search._descend(known, 8)[1]) is not None:
        known[wanted] = values[wanted]
    assert search._descend(known, 8) == (lowest, None)
    assert {i for i in (lowest - 1, lowest + 1) if 0 <= i < 8} <= known.keys()
    assert len(known) <= abs(lowest - 4) + 3
    assert search._descend(dict(enumerate(values)), 8) == (lowest, None)  # what else is known changes nothing


def test_the_block_of_rows_is_the_scan_of_a_narrower_field_of_view() -> None:
    """Its noiseless data are those of the block of the image, by a transform written out as a matrix."""
    h, w, n_coils = 128, 24, 3
    rng = np.random.RandomState(0)
    image, maps = (rng.randn(*s) + 1j * rng.randn(*s) for s in ((2, h, w), (2, n_coils, h, w)))
    image[0, :60] *= 0.1  # most signal below the middle in one item, above in the other
    image[1, 70:] *= 0.1
    mask = torch.zeros(2, 1, 1, w, dtype=torch.bool)
    mask[..., ::3] = mask[..., 8:16] = True

    def transform(n: int) -> np.ndarray:
        k = np.arange(n) - n // 2
        return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)

    def measure(x: np.ndarray, s: np.ndarray) -> torch.Tensor:
        kspace = transform(x.shape[-2]) @ (s * x[:, None]) @ transform(w).T
        return torch.from_numpy(kspace.astype(np.complex64)) * mask

    problem = Acquisition(measure(image, maps), mask, maps=torch.from_numpy(maps.astype(np.complex64)))
    part = search.part_of(problem)
    assert part.kspace.shape == (2, n_coils, 64, w) and torch.equal(part.mask, mask)
    firsts = [int((problem.maps[i, 0, :, 0] == part.maps[i, 0, 0, 0]).nonzero()) for i in range(2)]  # type: ignore[index]
    assert firsts[0] > 50 and firsts[1] < 30
    for i, first in enumerate(firsts):
        rows = slice(first, first + 64)
        expected = measure(image[i : i + 1, rows], maps[i : i + 1, :, rows])[0]
        torch.testing.assert_close(part.kspace[i], expected * mask[i], rtol=1e-4, atol=1e-4)


def test_points_and_missing_centres_leave_rows_and_coils_as_they_are(make_acquisition) -> None:
    acquisition = make_acquisition(shape=(64, 40), two_dimensional=True)
    assert search.part_of(acquisition).kspace.shape[-2:] == acquisition.kspace.shape[-2:]
    empty = torch.zeros(1, 9, 96, 32, dtype=torch.complex64)
    lines = (torch.arange(32) % 4 == 1).view(1, 1, 1, 32)
    problem = Acquisition(empty, lines, maps=torch.ones_like(empty))
    assert search.part_of(problem).kspace.shape == (1, 9, 64, 32)
    assert search.part_of(replace(problem, mask=torch.ones_like(lines))).kspace.shape == (1, 6, 64, 32)


@pytest.mark.parametrize("case", [*MASKS, "one coil"])
def test_twice_the_data_is_twice_the_scale_which_is_about_the_level_of_the_bright_parts(
    make_acquisition, case: str
) -> None:
    one = {"n_coils": 1, "maps": False}
    acquisition = make_acquisition(**(one if case == "one coil" else MASKS[case]))
    scale = data_scale(acquisition)
    assert scale.shape == (2,)
    torch.testing.assert_close(data_scale(replace(acquisition, kspace=2 * acquisition.kspace)), 2 * scale)
    turned = replace(acquisition, kspace=acquisition.kspace * 1j)
    torch.testing.assert_close(data_scale(turned), scale)
    # an ellipse of one, with a texture of .3, at low resolution
    assert ((scale > 0.8) & (scale < 1.6)).all()
    for i in range(2):
        torch.testing.assert_close(data_scale(item_acquisition(acquisition, i)), scale[i : i + 1])


def test_the_scale_takes_the_maximum_only_where_it_stands_out(make_acquisition) -> None:
    made = make_acquisition(n_coils=1, maps=False, shape=(64, 64), acceleration=1.0)
    image = torch.zeros(2, 64, 64, dtype=torch.complex64)
    image[:, 8:56, 8:56] = 1
    image[1, 28:36, 28:36] = 20  # a vessel, a surface near a coil
    scale = data_scale(replace(made, kspace=sense(made)(image)))
    assert 0.9 < scale[0] < 1.3  # with the ringing of low resolution
    assert 15 < scale[1] < 25


def test_data_of_zeros_has_a_scale_that_can_be_divided_by(make_acquisition) -> None:
    acquisition = make_acquisition()
    assert torch.equal(data_scale(replace(acquisition, kspace=0 * acquisition.kspace)), torch.ones(2))
