"""Samples of the prior alone."""

import torch
from closed_form import Many, gaussian

from spinwarp.progress import listen
from spinwarp.samplers import ChainNoise, chain_generators, geometric, pula, unconditional


def test_samples_of_a_gaussian_prior_have_its_mean_and_covariance() -> None:
    prior = gaussian(0.05)
    seen: list[float] = []
    with listen(seen.append):
        x = unconditional(prior.denoise, Many(5000), (8,))
    assert seen == [(i + 1) / 79 for i in range(79)]
    along = ((x - prior.mean) @ prior.basis.conj()) / prior.variances.sqrt()
    # 5000 draws know a std to 0.7 % and a mean to 1.4 % of it; Heun's method in 40 levels leaves 1 to 2 %
    torch.testing.assert_close(along.std(0), torch.ones(8), atol=0.035, rtol=0)
    assert along.mean(0).abs().max() < 0.05
    correlation = along.T @ along.conj() / len(along) - torch.eye(8)
    assert correlation.abs().max() < 0.08


def test_a_chain_does_not_depend_on_those_beside_it() -> None:
    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / (1 + sigma[:, None].square())

    both = unconditional(denoise, ChainNoise(chain_generators([1, 2])), (8,))
    assert torch.equal(both[1:], unconditional(denoise, ChainNoise(chain_generators([2])), (8,)))


def test_pula_without_data_samples_the_prior_too() -> None:
    prior = gaussian(1e4)  # noise so high that the data say nothing
    x = pula(prior.problem, Many(3000), schedule=geometric(10.0, 0.01, 99))
    along = ((x - prior.mean) @ prior.basis.conj()) / prior.variances.sqrt()
    # 3000 draws know a std to 0.9 %; 99 levels leave 2 %
    torch.testing.assert_close(along.std(0), torch.ones(8), atol=0.05, rtol=0)


def test_a_schedule_may_be_any() -> None:
    prior = gaussian(0.05)
    x = unconditional(prior.denoise, Many(2000), (8,), schedule=geometric(20.0, 0.01, 40))
    assert torch.isfinite(x.abs()).all()
