import torch
from torch import Tensor

from spinwarp.operators import finite_difference, sense, squared_norm_bound
from spinwarp.solvers import largest_eigenvalue


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def test_the_largest_eigenvalue_of_each_item_is_found_from_below() -> None:
    matrices = draw(3, 9, 6)
    gram = matrices.mH @ matrices * torch.tensor([1e-6, 1, 1e6])[:, None, None]
    exact = torch.linalg.eigvalsh(gram)[:, -1]
    found = [largest_eigenvalue(lambda x: (gram @ x[..., None])[..., 0], draw(3, 6), iterations=n) for n in (1, 5, 99)]
    assert found[0].shape == (3,)
    assert (found[0] < found[1]).all()
    assert (found[1] < exact * (1 + 1e-12)).all()
    torch.testing.assert_close(found[2], exact, rtol=1e-6, atol=0)  # neighbouring eigenvalues a fifth apart, say


def test_the_bound_of_the_differences_is_approached() -> None:
    operator = finite_difference(periodic=True)
    value = float(largest_eigenvalue(operator.normal, draw(1, 16, 16), iterations=300))
    assert 7.9 < value < 8 + 1e-12


def test_the_bound_of_the_sense_operator_holds(make_acquisition) -> None:
    acquisition = make_acquisition()
    value = largest_eigenvalue(sense(acquisition).normal, sense(acquisition).adjoint(acquisition.kspace), iterations=50)
    bound = squared_norm_bound(acquisition)
    assert (value <= bound * (1 + 1e-5)).all()  # float32
    assert (value > 0.9 * bound).all()  # somewhere all of the object's signal is in the sampled centre


def test_a_start_of_zeros_or_a_tiny_one_stays_finite() -> None:
    start = torch.zeros(2, 4)
    start[1] = 1e-30  # its square is below the range of float32
    value = largest_eigenvalue(lambda x: 3 * x, start, iterations=5)
    assert value[0] == 0
    torch.testing.assert_close(value[1], torch.tensor(3.0))


def test_gradients_reach_the_operator() -> None:
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    largest_eigenvalue(lambda x: factor * weights * x, draw(1, 3), iterations=80).sum().backward()
    torch.testing.assert_close(factor.grad, torch.tensor(5.0, dtype=torch.float64))
