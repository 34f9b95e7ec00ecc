"""The learned mask: its budget, its probabilities, and that they move to where the energy is."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from spinwarp.data.undersample import Undersample
from spinwarp.errors import InputError
from spinwarp.masks import LearnedMask


def trained(size: tuple[int, int], acceleration: float = 4.0, center: float = 0.1) -> LearnedMask:
    """A mask with random probabilities."""
    torch.manual_seed(0)
    mask = LearnedMask(acceleration, center, size)
    torch.nn.init.normal_(mask.logits, std=0.6)
    return mask


@pytest.mark.parametrize(
    ("size", "shape"), [((1, 64), (32, 64)), ((1, 64), (9, 61)), ((24, 30), (24, 30)), ((16, 16), (25, 31))]
)
@pytest.mark.parametrize("acceleration", [2.0, 4.0, 5.5])
def test_every_draw_has_exactly_the_budget_and_the_whole_centre(
    size: tuple[int, int], shape: tuple[int, int], acceleration: float
) -> None:
    mask = trained(size, acceleration)
    positions = (1, shape[1]) if size[0] == 1 else shape
    budget = round(positions[0] * positions[1] / acceleration)
    probability = mask.probability(shape).detach()
    assert float(probability.double().sum()) == pytest.approx(budget, abs=1e-3)  # float32
    assert ((probability >= 0) & (probability <= 1)).all()
    for seed in range(30):
        drawn, n_center = mask(shape, RandomState(seed))
        assert drawn.shape == positions
        assert int(drawn.sum()) == budget
        first = (shape[1] - n_center + 1) // 2
        rows = slice(None) if size[0] == 1 else slice((shape[0] - n_center + 1) // 2, (shape[0] + n_center) // 2)
        assert drawn[rows, first : first + n_center].all()
        assert n_center >= 1


@pytest.mark.parametrize("size", [(1, 40), (8, 10)])
def test_each_position_is_drawn_with_its_own_probability(size: tuple[int, int]) -> None:
    mask = trained(size)
    n = 4000
    draws = sum(mask(size, RandomState(seed))[0].numpy().astype(float) for seed in range(n)) / n
    # four standard deviations of a mean of n draws
    assert np.abs(draws - mask.probability(size).detach().numpy()).max() < 4 * 0.5 / n**0.5


def test_lines_of_equal_probability_are_evenly_spread() -> None:
    lines = LearnedMask(4, 0.0, (1, 64))((16, 64), RandomState(0))[0]
    assert set(np.diff(np.flatnonzero(lines.numpy().ravel()))) == {4}


def test_a_relaxed_draw_is_the_draw_and_has_the_gradient_of_the_probabilities() -> None:
    mask = trained((1, 32))
    relaxed = mask.relaxed((8, 32), RandomState(3))
    assert torch.allclose(relaxed, mask((8, 32), RandomState(3))[0].float(), atol=1e-6)  # a sum and its difference
    weights = torch.randn(1, 32)
    (gradient,) = torch.autograd.grad((relaxed * weights).sum(), mask.logits)
    (expected,) = torch.autograd.grad((mask.probability((8, 32)) * weights).sum(), mask.logits)
    assert torch.equal(gradient, expected)


def test_probability_moves_to_where_the_energy_is() -> None:
    torch.manual_seed(0)
    strong = torch.zeros(48, dtype=torch.bool)
    strong[[3, 4, 9, 30, 36, 37, 41, 44]] = True
    kspace = torch.where(strong, 3.0, 0.3) * torch.randn(20, 16, 48)
    mask = LearnedMask(4, 0.08, (1, 48))
    before = float(mask.probability((16, 48)).detach()[0, strong].mean())
    optimizer = torch.optim.Adam(mask.parameters(), lr=0.02)
    generator = RandomState(0)
    for step in range(100):
        loss = (kspace[step % 20] * (1 - mask.relaxed((16, 48), generator))).square().mean()  # what is left out
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    probability = mask.probability((16, 48))[0].detach()
    assert before < 0.25
    assert probability[strong].mean() > 0.8
    drawn, _ = mask((16, 48), RandomState(0))
    assert int(drawn[0, strong].sum()) >= 7
    assert int(drawn.sum()) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acceleration": 0.5}, "leaves none to learn"),
        ({"center_fraction": 0.3}, "leaves none to learn"),
        ({"size": [64]}, r"\[1, w\] for lines or \[h, w\]"),
        ({"size": [0, 64]}, r"\[1, w\] for lines or \[h, w\]"),
    ],
)
def test_impossible_options_end_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LearnedMask(**{"acceleration": 4, "center_fraction": 0.08, "size": [1, 64], **options})


def test_it_does_not_undersample_data_outside_training() -> None:
    with pytest.raises(InputError, match=r"mask=learned is for train\.py alone.*mask=file mask\.path"):
        Undersample(LearnedMask(4, 0.08, (1, 64)))
