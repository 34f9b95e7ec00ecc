"""Masks of points: their count, centre and density, the distances of Poisson discs, the draws of Gaussian ones."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState
from scipy.spatial import cKDTree

from spinwarp.acquisition import Acquisition, Example, acs_columns, collate
from spinwarp.coils import low_resolution_maps
from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.masks import GaussianLineMask, GaussianPlaneMask, PlaneMask, PoissonDiscMask, RandomMask
from spinwarp.masks.poisson import poisson_disc

MASKS: list[type[PlaneMask]] = [PoissonDiscMask, GaussianPlaneMask]
PAIRS = st.sampled_from([(0.1, 4), (0.08, 8), (0.25, 6), (0.3, 2), (0.0, 16)])
SIZES = st.integers(1, 60)
SEEDS = st.integers(0, 2**32 - 1)

every_mask = pytest.mark.parametrize("cls", MASKS)
both_rates = pytest.mark.parametrize(("fraction", "acceleration"), [(0.1, 4), (0.08, 8)])


def distance(h: int, w: int) -> np.ndarray:
    """Distance to the centre of k-space, 1 at the edge of each direction."""
    return np.hypot(((np.arange(h) - h // 2) / (h / 2))[:, None], (np.arange(w) - w // 2) / (w / 2))


def center_of(h: int, w: int, rows: int, columns: int) -> np.ndarray:
    top, left = (h - rows + 1) // 2, (w - columns + 1) // 2
    center = np.zeros((h, w), dtype=bool)
    center[top : top + rows, left : left + columns] = True
    return center


def drawn(mask: PlaneMask, h: int, w: int, seed: int = 0) -> np.ndarray:
    return mask((h, w), RandomState(seed))[0].numpy()


def smallest_ratio(points: np.ndarray, scale: np.ndarray) -> float:
    """Smallest distance of two points over the smaller of their scales, which vary little from point to point."""
    places, scales = np.argwhere(points), scale[points]
    lengths, others = cKDTree(places).query(places, k=7)  # itself and the six nearest
    return float((lengths[:, 1:] / np.minimum(scales[:, None], scales[others[:, 1:]])).min())


@given(cls=st.sampled_from(MASKS), pair=PAIRS, h=SIZES, w=SIZES, seed=SEEDS)
def test_every_mask_has_exactly_the_nominal_number_of_points_and_a_full_centre_or_says_why_not(
    cls: type[PlaneMask], pair: tuple, h: int, w: int, seed: int
) -> None:
    fraction, acceleration = pair
    center = center_of(h, w, round(h * fraction), round(w * fraction))
    if h * w < 2 * acceleration or center.sum() >= round(h * w / acceleration):
        with pytest.raises(InputError, match=r"too few|lower mask"):
            cls([fraction], [acceleration])((h, w), RandomState(seed))
        return
    mask, n_center = cls([fraction], [acceleration])((h, w), RandomState(seed))
    assert (mask.dtype, mask.shape) == (torch.bool, (h, w))
    assert int(mask.sum()) == round(h * w / acceleration)
    assert mask.numpy()[center].all()
    assert n_center == min(round(h * fraction), round(w * fraction))
    assert mask.numpy()[center_of(h, w, n_center, n_center)].all()


@every_mask
@pytest.mark.parametrize(("h", "w"), [(256, 256), (320, 320), (218, 170), (33, 29)])
@both_rates
def test_the_realised_acceleration_is_within_two_percent_on_every_draw(
    cls: type[PlaneMask], h: int, w: int, fraction: float, acceleration: int
) -> None:
    counts = [drawn(cls([fraction], [acceleration]), h, w, seed).sum() for seed in range(5)]
    assert all(abs(h * w / count / acceleration - 1) < 0.02 for count in counts)


@every_mask
def test_the_same_seed_draws_the_same_mask_and_another_seed_another(cls: type[PlaneMask]) -> None:
    first, second = ([drawn(cls([0.1], [4]), 33, 30, seed).tobytes() for seed in range(30)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 30


@given(h=st.integers(2, 45), w=st.integers(2, 45), slope=st.floats(0, 6), share=st.floats(0.005, 1), seed=SEEDS)
def test_no_two_points_are_nearer_than_the_smaller_of_their_radii(
    h: int, w: int, slope: float, share: float, seed: int
) -> None:
    scale = 1 + slope * distance(h, w)
    wanted = distance(h, w) <= 1
    n = max(round(share * wanted.sum()), 1)
    points, r0 = poisson_disc(scale, wanted, n, RandomState(seed))
    assert points.sum() == n
    assert not points[~wanted].any()
    places, scales = np.argwhere(points), scale[points]
    lengths = np.hypot(*(places[:, None] - places).transpose(2, 0, 1))
    np.fill_diagonal(lengths, np.inf)
    assert (lengths >= r0 * np.minimum(scales[:, None], scales) * (1 - 1e-12)).all()  # rounding


@pytest.mark.parametrize(("fraction", "acceleration"), [(0.1, 4), (0.08, 8), (0.08, 16)])
def test_points_outside_the_centre_keep_about_the_distance_that_their_number_allows(
    fraction: float, acceleration: int
) -> None:
    h, w = 256, 240
    scale, center = 1 + 2 * distance(h, w), center_of(h, w, round(h * fraction), round(w * fraction))
    inside = (distance(h, w) <= 1) & ~center
    n = round(h * w / acceleration) - center.sum()
    # No set of points can beat the hexagonal lattice. Random discs that fill the plane have .78 of its distance (they
    # cover .547, it .907), and a spread of the radii of up to sqrt(2) takes at most that: .55, less a last step of 5 %.
    hexagonal = math.sqrt(2 / math.sqrt(3) * (1 / scale[inside] ** 2).sum() / n)
    kept = smallest_ratio(drawn(PoissonDiscMask([fraction], [acceleration]), h, w) & ~center, scale)
    assert 0.52 * hexagonal < kept < hexagonal
    # independent points are neighbours anywhere: a distance of 1 at a scale of 3, .38 at most of these lattices'
    independent = drawn(GaussianPlaneMask([fraction], [acceleration]), h, w) & inside
    assert smallest_ratio(independent, scale) < 0.4 * hexagonal


@both_rates
def test_points_that_keep_their_distance_alias_less_nearby_than_independent_ones(
    fraction: float, acceleration: int
) -> None:
    h, w = 128, 128
    ring = np.minimum((distance(h, w) * 16).astype(int), 16)
    mask = drawn(PoissonDiscMask([fraction], [acceleration], crop_corner=False), h, w).astype(float)
    density = np.bincount(ring.ravel(), mask.ravel()) / np.bincount(ring.ravel())
    independent = RandomState(1).uniform(size=(h, w)) < density[ring]
    nearby = (distance(h, w) > 0.12) & (distance(h, w) < 0.25)
    energy = [(np.abs(np.fft.fftshift(np.fft.fft2(m)))[nearby] ** 2).mean() for m in (mask, independent)]
    assert energy[0] < 0.5 * energy[1]  # .2 to .31 in eight draws; 600 speckles tell energies to 4 %


@every_mask
@both_rates
def test_the_density_falls_outwards(cls: type[PlaneMask], fraction: float, acceleration: int) -> None:
    density = _density(cls([fraction], [acceleration]), fraction)
    # from ring to ring it falls by 4 % and more; ten masks know it to 3 % where rings are smallest and points rarest
    assert (np.diff(density) < 0).all()
    assert density[-1] < 0.5 * density[0]


def test_the_density_of_discs_is_uniform_without_a_slope_up_to_the_rim() -> None:
    density = _density(PoissonDiscMask([0.08], [8], slope=0.0), 0.08)
    # independent points would vary by 1 to 3 % from ring to ring of 1,000 to 8,000 positions, discs by half of that
    assert np.abs(density / density.mean() - 1).max() < 0.03


def _density(mask: PlaneMask, fraction: float) -> np.ndarray:
    """Mean over ten masks of 256x256 in rings of equal width between the corners of the centre and the ellipse."""
    mean = np.mean([drawn(mask, 256, 256, seed) for seed in range(10)], axis=0)
    k = distance(256, 256)
    edges = np.linspace(1.6 * fraction, 1, 13)
    return np.array([mean[(k > a) & (k <= b)].mean() for a, b in pairwise(edges)])


def test_only_cropped_discs_leave_the_corners_empty() -> None:
    corner = distance(65, 48) > 1
    assert not drawn(PoissonDiscMask([0.1], [4]), 65, 48)[corner].any()
    # below the mean of all positions, the density falling outwards
    assert 0 < drawn(PoissonDiscMask([0.1], [4], crop_corner=False), 65, 48)[corner].mean() < 0.25


def test_a_few_points_in_a_large_plane_are_still_drawn() -> None:
    # the widest discs start at a radius of 24, the smallest at 17; two steps, 10 %, give room for all 51
    points = drawn(PoissonDiscMask([0.0], [2000], slope=0.0), 320, 320)
    assert points.sum() == 51
    assert smallest_ratio(points, np.ones((320, 320))) > 15


def test_everything_is_sampled_where_nothing_is_accelerated() -> None:
    assert drawn(PoissonDiscMask([0.1], [1], crop_corner=False), 21, 16).all()
    assert drawn(GaussianPlaneMask([0.0], [1]), 21, 16).all()


@pytest.mark.parametrize("std", [0.3, 0.6])
@pytest.mark.parametrize(
    ("draw", "shape", "fraction", "acceleration"),
    [(GaussianLineMask, (1, 40), 0.03, 20), (GaussianPlaneMask, (16, 13), 0.08, 104)],
)
def test_a_single_gaussian_draw_has_the_gaussian_density(
    draw: Callable, shape: tuple[int, int], fraction: float, acceleration: int, std: float
) -> None:
    # two positions are sampled, of which one is the centre
    mask, counts = draw([fraction], [acceleration], std=std), np.zeros(shape)
    for seed in range(4000):
        sampled = mask(shape, RandomState(seed))[0].numpy()
        assert sampled.sum() == 2
        counts += sampled
    expected = np.exp(-(distance(*shape) ** 2) / (2 * std**2))
    expected[counts == 4000] = 0
    expected *= 4000 / expected.sum()
    frequent = expected > 5
    chi_square = ((counts - expected)[frequent] ** 2 / expected[frequent]).sum()
    degrees = frequent.sum() - 1
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees)  # mean and four deviations of its distribution


@every_mask
def test_a_centre_that_leaves_nothing_to_accelerate_is_refused(cls: type[PlaneMask]) -> None:
    with pytest.raises(InputError, match=r"center_fraction=0\.5 at acceleration=4 .* of the positions; lower mask"):
        cls([0.5], [4])
    cls([0.4], [4])  # .4 of either direction is .16 of the positions
    with pytest.raises(InputError, match=r"the 4x2 central positions of 8x4 leave no point .* acceleration 4; lower"):
        cls([0.49], [4])((8, 4), RandomState(0))
    with pytest.raises(InputError, match=r"15 positions are too few .* acceleration 8, which needs at least 16"):
        cls([0.08], [8])((5, 3), RandomState(0))


def test_what_lies_outside_its_range_is_refused() -> None:
    with pytest.raises(InputError, match="an acceleration is at least 1"):
        PoissonDiscMask([0.08], [0])
    with pytest.raises(InputError, match="one center_fraction for each acceleration"):
        GaussianPlaneMask([0.1], [4, 8])
    with pytest.raises(InputError, match=r"mask\.slope is at least 0"):
        PoissonDiscMask([0.1], [4], slope=-1.0)
    for cls in (GaussianLineMask, GaussianPlaneMask):
        with pytest.raises(InputError, match=r"mask\.std is a positive fraction"):
            cls([0.1], [4], std=0.0)
    with pytest.raises(InputError, match=r"ellipse in 32x30 has \d+ positions.* asks for 951.*crop_corner=false"):
        PoissonDiscMask([0.1], [1])((32, 30), RandomState(0))


@every_mask
def test_a_mix_draws_both_accelerations(cls: type[PlaneMask]) -> None:
    mixed = cls([0.1, 0.08], [4, 8])
    assert {int(drawn(mixed, 32, 32, seed).sum()) for seed in range(20)} == {256, 128}
    assert (math.isnan(mixed.nominal_acceleration), cls([0.1], [4]).nominal_acceleration) == (True, 4.0)


@every_mask
def test_an_accelerated_slice_has_the_points_their_rate_and_maps_from_their_centre(cls: type[PlaneMask]) -> None:
    rng = RandomState(0)
    kspace = torch.from_numpy((rng.randn(1, 3, 40, 48) + 1j * rng.randn(1, 3, 40, 48)).astype(np.complex64))
    full = Acquisition(kspace, torch.ones(1, 1, 1, 48, dtype=torch.bool))
    example = Example(full, torch.ones(1, 40, 48), torch.ones(1), ("a.h5",), (0,))
    points = Undersample(cls([0.2], [4]), low_resolution_maps)(example, RandomState(1))
    lines = Undersample(RandomMask([0.2], [4]), low_resolution_maps)(example, RandomState(1))
    assert collate([points, lines]).acquisition.mask.shape == (2, 1, 40, 48)
    acquisition = points.acquisition
    assert acquisition.n_acs is not None
    assert acquisition.maps is not None
    assert acquisition.mask.shape == (1, 1, 40, 48)
    assert torch.equal(acquisition.kspace != 0, acquisition.mask.expand(-1, 3, -1, -1))
    assert float(acquisition.acceleration()) == 4.0
    assert int(acquisition.n_acs) == 8  # a fifth of 40; the centre has 10 columns
    assert int(acs_columns(acquisition.mask)) in (8, 9)  # by chance the ninth row may be full
