"""Noise of the data as an image, and sums over the coils in parts."""

import sys

import pytest
import torch

from spinwarp.acquisition import Acquisition
from spinwarp.operators import sense
from spinwarp.samplers import ChainNoise, chain_generators


def acquisition(h: int, w: int) -> Acquisition:
    """Return three coils under a mask of every other line."""
    maps = torch.randn(1, 3, h, w, dtype=torch.complex64, generator=torch.manual_seed(0))
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = (torch.arange(w) % 2 == 0).view(1, 1, 1, w)
    return Acquisition(kspace=torch.zeros(1, 3, h, w, dtype=torch.complex64), mask=mask, maps=maps)


@pytest.mark.parametrize("w", [4, 5])
def test_noise_has_the_covariance_of_the_normal_operator(w: int) -> None:
    operator = sense(acquisition(2, w))
    assert operator.noise is not None
    n = operator.noise(ChainNoise(chain_generators(range(4000)))).flatten(1)
    basis = torch.eye(2 * w, dtype=torch.complex64).view(-1, 2, w)
    exact = operator.normal(basis).flatten(1).T
    torch.testing.assert_close(n.T @ n.conj() / len(n), exact, atol=0.06, rtol=0)


def test_a_chains_noise_does_not_depend_on_those_beside_it() -> None:
    operator = sense(acquisition(8, 10))
    assert operator.noise is not None
    together = operator.noise(ChainNoise(chain_generators([1, 2, 3])))
    torch.testing.assert_close(operator.noise(ChainNoise(chain_generators([2]))), together[1:2])


def test_coils_in_parts_give_the_image_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, x = sense(acquisition(8, 10)), torch.randn(2, 8, 10, dtype=torch.complex64)
    whole = operator.normal(x), operator.adjoint(operator(x))
    monkeypatch.setattr(sys.modules["spinwarp.operators.sense"], "CACHE", 1)
    torch.testing.assert_close((operator.normal(x), operator.adjoint(operator(x))), whole)
