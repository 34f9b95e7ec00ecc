"""Consistency training: what noise and motion do to a scan, and the second term of the loss."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from spinwarp.acquisition import Acquisition, Example
from spinwarp.errors import InputError
from spinwarp.losses import L1Loss
from spinwarp.training import ConsistencyModule
from spinwarp.training.consistency import MoreNoise, Motion

ADAM = partial(torch.optim.Adam, lr=1e-3)


def test_noise_is_added_to_the_measured_samples_in_units_of_that_of_the_scan(make_acquisition) -> None:
    torch.manual_seed(0)
    acquisition = make_acquisition(shape=(64, 60), n_coils=6, batch=2)
    worse = MoreNoise([3.0, 3.0])(acquisition)
    added = worse.kspace - acquisition.kspace
    assert torch.equal(added != 0, acquisition.mask.expand_as(added))
    measured = added[acquisition.mask.expand_as(added)]
    # .02 is the noise of the scan; the relative deviation of the mean of n squares is n^-1/2
    assert float(measured.abs().square().mean().sqrt()) == pytest.approx(0.06, rel=3 / len(measured) ** 0.5)
    assert worse.noise_std.tolist() == pytest.approx([0.02 * 10**0.5] * 2)
    # without a level that is given, it is that of the corners of k-space; here all of k-space is noise
    silent = replace(acquisition, kspace=0.1 * torch.randn_like(acquisition.kspace) * acquisition.mask, noise_std=None)
    estimated = MoreNoise([3.0, 3.0])(silent)
    assert estimated.noise_std is None
    measured = (estimated.kspace - silent.kspace)[acquisition.mask.expand_as(added)]
    assert float(measured.abs().square().mean().sqrt()) == pytest.approx(0.3, rel=0.05)


def test_motion_turns_even_and_odd_lines_by_two_phases(make_acquisition) -> None:
    torch.manual_seed(0)
    acquisition = make_acquisition(batch=3)
    worse = Motion([0.3, 0.3])(acquisition)
    turns = (worse.kspace * acquisition.kspace.conj()).sum((1, 2)).angle()  # (b, w)
    seen = acquisition.mask[:, 0, 0]
    found = set()
    for i in range(3):
        for parity in (0, 1):
            phases = turns[i, parity::2][seen[i, parity::2]]
            assert float(phases.std()) < 1e-4
            assert abs(float(phases[0])) < 0.3 * math.pi
            found.add(round(float(phases[0]), 3))
    assert len(found) == 6
    assert torch.allclose(worse.kspace.abs(), acquisition.kspace.abs(), atol=1e-5)


class Scaled(nn.Module):
    """The first coil times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, acquisition: Acquisition) -> torch.Tensor:
        return self.weight * acquisition.kspace[:, 0]


def test_the_loss_is_the_supervised_one_and_the_weighted_change(make_acquisition) -> None:
    acquisition = make_acquisition()
    target = acquisition.kspace[:, 1].abs()
    example = Example(acquisition, target, torch.tensor([2.0, 4.0]), ("a", "a"), (0, 1))

    def worse(one: Acquisition) -> Acquisition:
        return replace(one, kspace=3 * one.kspace)

    module = ConsistencyModule(Scaled(), L1Loss(), ADAM, worse, weight=0.5)
    loss, magnitude = module.loss_and_magnitude(example)
    supervised = L1Loss()(magnitude, target, example.data_range)
    change = (3 * magnitude - magnitude).abs() / example.data_range.view(-1, 1, 1)
    assert torch.allclose(loss, supervised + 0.5 * change.mean())
    loss.backward()
    sign = torch.sign(magnitude - target) * acquisition.kspace[:, 0].abs() / example.data_range.view(-1, 1, 1)
    # the gradient goes through f(T y) alone: 3 |k| and not 3 |k| - |k|
    expected = sign.mean() + 0.5 * (3 * acquisition.kspace[:, 0].abs() / example.data_range.view(-1, 1, 1)).mean()
    assert torch.allclose(module.net.weight.grad, expected, rtol=1e-4)
    module.eval()
    assert torch.allclose(module.loss_and_magnitude(example)[0], supervised)


def test_impossible_options_end_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"factor is a range"):
        MoreNoise([2.0, 1.0])
    with pytest.raises(InputError, match=r"alpha is a range"):
        Motion([0.0, 0.5])
    with pytest.raises(InputError, match="at least 0"):
        ConsistencyModule(Scaled(), L1Loss(), ADAM, MoreNoise(), weight=-1.0)
