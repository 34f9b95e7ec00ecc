"""ADMM and the primal-dual method on total variation, whose answer for a step is known (methods.md 13.5)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spinwarp.operators import finite_difference
from spinwarp.solvers import admm, primal_dual, project_ball, soft_threshold

Denoise = Callable[..., Tensor]


def by_admm(y: Tensor, weight: float | Tensor, penalty: float = 2.0, **options: object) -> Tensor:
    """Minimise 1/2 |x - y|^2 + weight TV(x), isotropic."""
    return admm(
        lambda x: x,
        y,
        finite_difference(),
        lambda v: soft_threshold(v, weight / penalty, dim=1),
        options.pop("x0", y),
        penalty=penalty,
        **{"inner_iterations": 4, "iterations": 100, **options},
    )


def by_primal_dual(y: Tensor, weight: float | Tensor, dual_step: float = 1.0, **options: object) -> Tensor:
    """The same."""
    return primal_dual(
        lambda x: x - y,
        finite_difference(),
        lambda v: project_ball(v, weight, dim=1),
        options.pop("x0", y),
        transform_norm=(4 * (y.ndim - 1)) ** 0.5,
        dual_step=dual_step,
        **{"iterations": 500, **options},
    )


DENOISE = pytest.mark.parametrize("denoise", [by_admm, by_primal_dual])
# both converge linearly on so few pixels, ADMM after a hundred iterations to 5e-6 at the worst
CONVERGED = 1e-5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@DENOISE
@pytest.mark.parametrize(("left", "right"), [(4, 8), (1, 11)])
@pytest.mark.parametrize("weight", [0.5, 2.5])
def test_the_plateaus_of_a_step_move_by_the_weight_over_their_length(
    denoise: Denoise, left: int, right: int, weight: float
) -> None:
    low, high = torch.tensor([1.0 + 1.0j, 4.0 + 5.0j], dtype=torch.complex128)  # five apart
    y = torch.cat([low.expand(left), high.expand(right)])[None]
    direction = (high - low) / 5
    expected = torch.cat(
        [(low + weight / left * direction).expand(left), (high - weight / right * direction).expand(right)]
    )
    assert weight / left + weight / right < 5
    torch.testing.assert_close(denoise(y, weight), expected[None], rtol=0, atol=CONVERGED)


@DENOISE
def test_plateaus_that_meet_merge_at_the_mean(denoise: Denoise) -> None:
    y = torch.tensor([[1.0] * 4 + [4.0] * 8], dtype=torch.complex128)
    for weight in (8.5, 20.0):  # they meet at 8
        torch.testing.assert_close(denoise(y, weight), torch.full_like(y, 3), rtol=0, atol=CONVERGED)


@DENOISE
@pytest.mark.parametrize("shape", [(1, 7), (3, 4, 2)])
def test_constants_are_fixed_and_without_a_weight_so_is_everything(denoise: Denoise, shape: tuple[int, ...]) -> None:
    constant, image = torch.full((2, *shape), 2 - 1j, dtype=torch.complex128), draw(2, *shape)
    torch.testing.assert_close(denoise(constant, 1.0), constant, rtol=0, atol=1e-13)
    start = torch.zeros_like(image)
    torch.testing.assert_close(denoise(constant, 1.0, x0=start), constant, rtol=0, atol=CONVERGED)
    torch.testing.assert_close(denoise(image, 0.0), image, rtol=0, atol=1e-13)
    small = {"penalty": 0.2} if denoise is by_admm else {}  # where the prior has no say, neither should its penalty
    torch.testing.assert_close(denoise(image, 0.0, x0=start, **small), image, rtol=0, atol=CONVERGED)


@DENOISE
def test_a_start_that_fits_the_data_does_not_look_converged(denoise: Denoise) -> None:
    """The noisy image itself: nothing draws it away from the data in the first step but the prior."""
    y = draw(2, 8, 8)
    exact = denoise(y, 0.5)
    # a stop at changes of 1e-3 leaves .005 and .02
    assert (denoise(y, 0.5, tolerance=1e-3) - exact).abs().max() < 0.05
    assert (exact - y).abs().max() > 0.5


@DENOISE
def test_both_steps_and_penalties_change_the_way_not_the_end(denoise: Denoise) -> None:
    y = draw(1, 7, 6)
    name = "penalty" if denoise is by_admm else "dual_step"
    results = [denoise(y, 0.4, **{name: value}) for value in (1.0, 1.5, 2.0)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-4)


@DENOISE
@pytest.mark.parametrize("tolerance", [0.0, 1e-2, 1e-4])
def test_a_batch_equals_its_items(denoise: Denoise, tolerance: float) -> None:
    y = draw(3, 6, 5) * torch.tensor([0.1, 1, 30])[:, None, None]  # the weight's effect, and so the stop, differs
    options = {"iterations": 60, "tolerance": tolerance}
    batch = denoise(y, 0.3, **options)
    for i in range(3):
        alone = denoise(y[i : i + 1], 0.3, **options)
        torch.testing.assert_close(alone[0], batch[i], rtol=0, atol=1e-10)


def test_steps_and_penalties_may_differ_from_item_to_item() -> None:
    y, values = draw(2, 6, 5), torch.tensor([0.2, 0.7], dtype=torch.float64)
    short = {"iterations": 9}

    def batch_admm(y: Tensor, penalty: Tensor) -> Tensor:
        threshold = (0.3 / penalty).view(-1, 1, 1, 1)
        prox = lambda v: soft_threshold(v, threshold, dim=1)  # noqa: E731
        return admm(lambda x: x, y, finite_difference(), prox, y, penalty=penalty, **short)

    def batch_primal_dual(y: Tensor, dual_step: Tensor) -> Tensor:
        return primal_dual(
            lambda x: 2 * (x - y),
            finite_difference(),
            lambda v: project_ball(v, 0.3, dim=1),
            y,
            transform_norm=8**0.5,
            dual_step=dual_step,
            lipschitz=torch.full_like(dual_step, 2),
            **short,
        )

    for solve in (batch_admm, batch_primal_dual):
        batch = solve(y, values)
        for i in range(2):
            torch.testing.assert_close(batch[i], solve(y[i : i + 1], values[i : i + 1])[0], rtol=0, atol=1e-13)


@DENOISE
def test_gradients_flow_through_the_iterations(denoise: Denoise) -> None:
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def solve(y: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
        # two inner iterations: at the exact solution of six pixels the derivative of the steps is 0/0
        inner = {"inner_iterations": 2} if denoise is by_admm else {}
        return denoise(y, weight, x0=x0, iterations=4, **inner)

    arguments = (draw(1, 2, 3).requires_grad_(), draw(1, 2, 3, seed=1).requires_grad_(), weight)
    assert torch.autograd.gradcheck(solve, arguments)


def test_the_duality_gap_of_the_primal_dual_method_goes_to_zero() -> None:
    """P(x) = 1/2 |x - y|^2 + w |K x| is never below D(p) = 1/2 |y|^2 - 1/2 |y - K^H p|^2 for any |p| <= w."""
    y, weight, difference = draw(1, 8, 7), 0.4, finite_difference()
    last: list[Tensor] = []
    gaps = []

    def dual_proximal(v: Tensor) -> Tensor:
        last[:] = [project_ball(v, weight, dim=1)]
        return last[0]

    def gap(_: int, x: Tensor) -> None:
        lengths = torch.linalg.vector_norm(difference(x), dim=1)
        primal = (x - y).abs().square().sum() / 2 + weight * lengths.sum()
        dual = y.abs().square().sum() / 2 - (y - difference.adjoint(last[0])).abs().square().sum() / 2
        gaps.append(float(primal - dual))

    primal_dual(
        lambda x: x - y,
        difference,
        dual_proximal,
        y,
        transform_norm=8**0.5,
        dual_step=1.0,
        iterations=600,
        trace=gap,
    )
    assert min(gaps) > -1e-12
    assert gaps[0] > 1
    assert gaps[-1] < 1e-9 * gaps[0]
    assert max(gaps[300:]) < 1e-4 * gaps[0]
