"""Chains are independent, seeded, of any image shape, end early by themselves and say what is wrong."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from closed_form import elementwise
from torch import Tensor

import spinwarp.samplers as samplers
from spinwarp.errors import InputError
from spinwarp.operators.linear import LinearOperator
from spinwarp.progress import listen
from spinwarp.samplers import ChainNoise, Problem, chain_generators, geometric

SHORT = geometric(5.0, 0.02, 12)
ALL: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "pula": (samplers.pula, {}),
    "pula_undenoised": (samplers.pula, {"denoise_last": False}),
    "pula_to_tolerance": (samplers.pula, {"tolerance": 0.05, "steps_per_level": 2}),
    "exact": (samplers.annealed_langevin, {"likelihood": "exact"}),
    "annealed": (samplers.annealed_langevin, {"likelihood": "annealed", "tolerance": 0.05}),
    "released": (samplers.annealed_langevin, {"likelihood": "released"}),
    "predictor_corrector": (samplers.predictor_corrector, {}),
    "dps": (samplers.dps, {"scale": 0.3}),
    "diffpir": (samplers.diffpir, {"zeta": 0.5}),
    "ddnm": (samplers.ddnm, {}),
    "dds": (samplers.dds, {}),
    "daps": (samplers.daps, {}),
}
each = pytest.mark.parametrize("name", ALL)


def run(name: str, seeds: list[int], shape: tuple[int, ...] = (8, 4), **more: Any) -> Tensor:
    # 32 pixels fill vector registers: the rest of a row that does not is computed by other instructions, a bit apart
    sampler, options = ALL[name]
    noise = ChainNoise(chain_generators(seeds))
    return sampler(elementwise(shape), noise, **{"schedule": SHORT} | options | more)


@each
def test_a_chain_does_not_depend_on_those_beside_it(name: str) -> None:
    together, alone = run(name, [3, 1, 2]), run(name, [2])
    assert torch.equal(together[2], alone[0])


@each
def test_the_same_seed_gives_the_same_chain_and_another_seed_another(name: str) -> None:
    first = run(name, [1, 2])
    assert torch.equal(first, run(name, [1, 2]))
    assert (first[0] - first[1]).abs().mean() > 0.1  # half of the pixels are not measured and have a std of 1


@each
def test_images_may_have_any_shape_and_samples_carry_no_graph(name: str) -> None:
    x = run(name, [1, 2], shape=(3, 4, 2))
    assert x.shape == (2, 3, 4, 2)
    assert x.dtype == torch.complex64
    assert torch.isfinite(x.abs()).all()
    assert not x.requires_grad


@each
def test_the_evaluations_of_the_network_are_counted(name: str) -> None:
    seen: list[float] = []
    with listen(seen.append):
        run(name, [1])
    total = round(1 / seen[0])
    assert seen == [(i + 1) / total for i in range(len(seen))]
    assert len(seen) == total or "tolerance" in ALL[name][1]


@each
def test_a_denoiser_that_gives_nan_is_named(name: str) -> None:
    sampler, options = ALL[name]
    good = elementwise((4,))
    broken = Problem(lambda x, _: x * math.nan, good.operator, good.data, 0.05, (4,))
    with pytest.raises(InputError, match="the denoiser gave NaN or infinity at sigma"):
        sampler(broken, ChainNoise(chain_generators([0])), **{"schedule": SHORT} | options)


@each
def test_every_sampler_has_the_same_call(name: str) -> None:
    parameters = list(inspect.signature(ALL[name][0]).parameters.values())
    assert [p.name for p in parameters[:2]] == ["problem", "noise"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])
    assert "schedule" in {p.name for p in parameters}


@pytest.mark.parametrize("name", ["pula", "annealed"])
def test_a_tolerance_ends_chains_early(name: str) -> None:
    seen: list[float] = []
    with listen(seen.append):
        run(name, [1, 2], tolerance=0.9)
    assert 1 < len(seen) < 1 / seen[0]
    assert seen[-1] < 1


def test_only_dps_needs_a_gradient_of_the_denoiser() -> None:
    wanted: dict[str, bool] = {}
    good = elementwise((4,))
    for name, (sampler, options) in ALL.items():
        wanted[name] = False

        def denoise(x: Tensor, sigma: Tensor, name: str = name) -> Tensor:
            wanted[name] |= torch.is_grad_enabled()
            return x / (1 + sigma[:, None].square())

        problem = Problem(denoise, good.operator, good.data, 0.05, (4,))
        sampler(problem, ChainNoise(chain_generators([0])), **{"schedule": SHORT} | options)
    assert {name for name, yes in wanted.items() if yes} == {"dps"}


@pytest.mark.parametrize("noise_std", [0.0, -1.0, math.nan, math.inf])
def test_a_problem_needs_the_noise_of_the_data(noise_std: float) -> None:
    with pytest.raises(InputError, match="give a positive noise_std"):
        elementwise((4,), noise_std)


def test_a_problem_is_one_slice() -> None:
    operator = LinearOperator(lambda x: x, lambda y: y)
    with pytest.raises(InputError, match="one problem per slice"):
        Problem(lambda x, _: x, operator, torch.zeros(2, 4, dtype=torch.complex64), 0.1, (4,))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pula", {"gamma": 2.0}),
        ("exact", {"step": 2.0}),
        ("exact", {"likelihood": "guessed"}),
        ("diffpir", {"zeta": 1.5}),
        ("dds", {"eta": 1.5}),
        ("ddnm", {"eta": 0.0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        run(name, [0], **options)


def test_the_noise_is_complex_of_variance_one_and_needs_a_chain() -> None:
    draw = ChainNoise(chain_generators([0, 1]))((20000,))
    # 20000 draws know a variance to 0.7 %
    for part in (draw.real, draw.imag):
        torch.testing.assert_close(part.var(1), torch.full((2,), 0.5), atol=0.015, rtol=0)
    assert (draw.real * draw.imag).mean().abs() < 0.01
    assert (draw[0] * draw[1].conj()).mean().abs() < 0.02
    with pytest.raises(InputError, match="no chains"):
        ChainNoise([])
