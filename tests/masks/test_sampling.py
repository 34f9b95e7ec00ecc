"""What the masks promise whatever the seed: their centre, their acceleration, their symmetry, their errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from spinwarp.errors import InputError
from spinwarp.masks import (
    EquispacedMask,
    GaussianLineMask,
    LineMask,
    LiteralEquispacedMask,
    MagicFractionMask,
    MagicMask,
    RandomMask,
)

MASKS = [RandomMask, LiteralEquispacedMask, EquispacedMask, MagicMask, MagicFractionMask, GaussianLineMask]
PAIRS = st.sampled_from([(0.08, 4), (0.04, 8), (0.06, 6), (0.16, 2)])
SEEDS = st.integers(0, 2**32 - 1)


def by_name(mask: type[LineMask]) -> str:
    return mask.__name__


@given(cls=st.sampled_from(MASKS), pair=PAIRS, width=st.integers(24, 420), seed=SEEDS)
def test_the_centre_is_fully_sampled_at_every_width(cls: type[LineMask], pair: tuple, width: int, seed: int) -> None:
    mask, n_center = cls([pair[0]], [pair[1]])((13, width), RandomState(seed))
    assert mask.dtype == torch.bool
    assert mask.shape == (1, width)
    first = (width - n_center + 1) // 2
    assert mask[0, first : first + n_center].all()
    if cls is MagicFractionMask:
        assert 1 <= n_center <= max(round(width / pair[1]), 1)
    else:
        assert n_center == round(width * pair[0])


@given(cls=st.sampled_from(MASKS), pair=PAIRS, width=st.integers(24, 420), seed=SEEDS)
def test_the_same_seed_draws_the_same_mask_and_the_readout_does_not_matter(
    cls: type[LineMask], pair: tuple, width: int, seed: int
) -> None:
    draw = cls([pair[0]], [pair[1]])
    mask, _ = draw((13, width), RandomState(seed))
    again, _ = draw((640, width), RandomState(seed))
    assert torch.equal(mask, again)


@pytest.mark.parametrize("cls", MASKS, ids=by_name)
def test_other_seeds_draw_other_masks(cls: type[LineMask]) -> None:
    drawn = {tuple(cls([0.08], [4])((1, 368), RandomState(seed))[0][0].tolist()) for seed in range(50)}
    # random masks never repeat; equispaced ones have as many as offsets, of which magic's leaves two
    assert len(drawn) == 50 if cls in (RandomMask, GaussianLineMask) else 2 <= len(drawn) <= 6


# mean, smallest and largest over 400 seeds, measured with the reference (methods.md, section 1)
@pytest.mark.parametrize(
    ("cls", "width", "acceleration", "mean", "smallest", "largest"),
    [
        (RandomMask, 320, 4, 4.01, 2.96, 5.16),
        (RandomMask, 368, 4, 4.01, 3.17, 5.04),
        (RandomMask, 368, 8, 8.10, 5.58, 11.15),
        (LiteralEquispacedMask, 320, 4, 3.22, 3.19, 3.25),
        (LiteralEquispacedMask, 368, 4, 3.23, 3.20, 3.26),
        (LiteralEquispacedMask, 368, 8, 6.22, 6.12, 6.25),
        (EquispacedMask, 320, 4, 4.00, 3.95, 4.05),
        (EquispacedMask, 368, 4, 4.00, 3.95, 4.05),
        (EquispacedMask, 368, 8, 8.02, 7.82, 8.18),
        (MagicMask, 320, 4, 3.22, 3.19, 3.24),
        (MagicMask, 368, 4, 3.23, 3.20, 3.24),
        (MagicMask, 368, 8, 6.24, 6.22, 6.25),
    ],
)
def test_the_realised_acceleration_is_that_of_the_reference(
    cls: type[LineMask], width: int, acceleration: int, mean: float, smallest: float, largest: float
) -> None:
    draw = cls([{4: 0.08, 8: 0.04}[acceleration]], [acceleration])
    rates = [width / int(draw((1, width), RandomState(seed))[0].sum()) for seed in range(400)]
    # random: a standard deviation of .35 (4x) and 1.0 (8x) over 400 draws, so .018 and .05 on the mean, and two of
    # them; other kinds vary by the offset only. The extremes of 400 draws vary by half a deviation or so.
    spread = {4: 0.35, 8: 1.0}[acceleration] if cls is RandomMask else 0.0
    assert abs(np.mean(rates) - mean) < 0.01 + 2 * spread / 20 * 2**0.5
    assert min(rates) > smallest - 0.7 * spread
    assert max(rates) < largest + 1.6 * spread


@given(pair=PAIRS, width=st.integers(24, 420), seed=SEEDS)
def test_gaussian_lines_are_exactly_as_many_as_the_acceleration_allows(pair: tuple, width: int, seed: int) -> None:
    mask, _ = GaussianLineMask([pair[0]], [pair[1]])((1, width), RandomState(seed))
    assert int(mask.sum()) == round(width / pair[1])


@given(
    cls=st.sampled_from([MagicMask, MagicFractionMask]),
    pair=st.sampled_from([(0.08, 4), (0.04, 8), (0.06, 6), (0.05, 5), (0.1, 3)]),
    width=st.integers(24, 420),
    seed=SEEDS,
)
def test_no_magic_line_outside_the_centre_has_its_conjugate_sampled_there(
    cls: type[LineMask], pair: tuple, width: int, seed: int
) -> None:
    mask, n_center = cls([pair[0]], [pair[1]])((1, width), RandomState(seed))
    columns = mask[0].numpy().copy()
    first = (width - n_center + 1) // 2
    columns[first : first + n_center] = False
    frequencies = set((columns.nonzero()[0] - width // 2).tolist())
    # at even widths the lowest frequency -W/2 is its own conjugate
    mirrored = {f for f in frequencies if -f in frequencies and f != -(width // 2)}
    assert not mirrored
    # a centre of n columns runs from -n/2 to n/2 - 1 (n and W even) or one to the right (W odd): its one column without
    # a partner inside is the only one that a line outside may mirror
    centre = set(range(first - width // 2, first + n_center - width // 2))
    assert len([f for f in frequencies if -f in centre]) <= 1


def test_magic_lines_at_twofold_acceleration_mirror_each_other_as_in_the_reference() -> None:
    # the offsets of the two halves differ by two, a multiple of the spacing
    mask, _ = MagicMask([0.16], [2])((1, 64), RandomState(0))
    outside = set((mask[0].numpy().nonzero()[0] - 32).tolist()) - set(range(-5, 5))
    assert any(-f in outside for f in outside)


@pytest.mark.parametrize("cls", MASKS, ids=by_name)
@pytest.mark.parametrize(("fraction", "acceleration"), [(0.25, 4), (0.3, 4), (0.5, 2), (1.0, 1), (-0.01, 4)])
def test_a_centre_that_leaves_nothing_to_accelerate_is_refused(
    cls: type[LineMask], fraction: float, acceleration: int
) -> None:
    with pytest.raises(InputError, match=rf"center_fraction={fraction} at acceleration={acceleration}.*lower mask"):
        cls([fraction], [acceleration])


@pytest.mark.parametrize("cls", MASKS, ids=by_name)
@pytest.mark.parametrize("acceleration", [0, -4, 0.5, float("nan")])
def test_an_acceleration_below_one_is_refused(cls: type[LineMask], acceleration: float) -> None:
    with pytest.raises(InputError, match="an acceleration is at least 1"):
        cls([0.08], [acceleration])


@pytest.mark.parametrize("cls", MASKS, ids=by_name)
@pytest.mark.parametrize(("fractions", "accelerations"), [([0.08], [4, 8]), ([0.08, 0.04], [4]), ([], [])])
def test_unpaired_lists_are_refused(cls: type[LineMask], fractions: list, accelerations: list) -> None:
    with pytest.raises(InputError, match="one center_fraction for each acceleration"):
        cls(fractions, accelerations)


@pytest.mark.parametrize("cls", MASKS, ids=by_name)
def test_k_space_with_too_few_columns_is_refused(cls: type[LineMask]) -> None:
    with pytest.raises(InputError, match="7 columns are too few for a mask of acceleration 4, which needs at least 8"):
        cls([0.08], [4])((64, 7), RandomState(0))


@pytest.mark.parametrize(
    ("fraction", "width", "n_center"),
    [(0.24, 23, 6), (0.249, 320, 80), (0.24, 24, 6)],  # more than, and twice exactly, a quarter of the width
)
def test_a_centre_that_rounds_up_to_the_whole_share_is_refused_not_divided_by(
    fraction: float, width: int, n_center: int
) -> None:
    with pytest.raises(InputError, match=rf"the {n_center} central columns of {width} .* lower mask\.center_fractions"):
        EquispacedMask([fraction], [4])((1, width), RandomState(0))


@settings(max_examples=300)
@given(
    cls=st.sampled_from(MASKS), share=st.floats(0, 0.999), acceleration=st.integers(1, 12), width=st.integers(2, 160)
)
def test_every_accepted_mask_is_drawn_or_its_centre_or_width_is_refused(
    cls: type[LineMask], share: float, acceleration: int, width: int
) -> None:
    draw = cls([share / acceleration], [acceleration])
    n_center = round(width * (share / acceleration))
    if width < 2 * acceleration or (cls is EquispacedMask and n_center * acceleration >= width):
        with pytest.raises(InputError, match=f"{width}.*acceleration {acceleration}"):
            draw((5, width), RandomState(0))
    else:
        mask, n_drawn = draw((5, width), RandomState(0))
        assert mask.shape == (1, width)
        assert int(mask.sum()) >= n_drawn


@pytest.mark.parametrize("cls", MASKS, ids=by_name)
def test_a_mix_draws_both_accelerations_about_equally_often(cls: type[LineMask]) -> None:
    mixed = cls([0.08, 0.04], [4, 8])
    centers = [mixed((1, 368), RandomState(seed))[1] for seed in range(200)]
    assert set(centers) == {29, 15}
    assert 70 < centers.count(29) < 130  # 100 expected, a standard deviation of 7
    assert np.isnan(mixed.nominal_acceleration)


def test_the_nominal_acceleration_is_the_one_asked_for() -> None:
    assert RandomMask([0.08], [4]).nominal_acceleration == 4.0
    assert RandomMask([0.08, 0.04], [4, 4]).nominal_acceleration == 4.0


@pytest.mark.parametrize("cls", MASKS, ids=by_name)
def test_a_mask_leaves_the_global_generators_and_its_arguments_alone(cls: type[LineMask]) -> None:
    fractions, accelerations = [0.08, 0.04], [4, 8]
    draw = cls(fractions, accelerations)
    before = dict(vars(draw))
    np_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    draw((1, 368), RandomState(3))
    assert vars(draw) == before
    assert (fractions, accelerations) == ([0.08, 0.04], [4, 8])
    assert np.array_equal(np.random.get_state()[1], np_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
