import torch
from torch import Tensor

from spinwarp.operators import LinearOperator

GENERATOR = torch.Generator().manual_seed(0)
# double precision: rounding of 1e-16 over some dozen sums
EXACT = 1e-12


def matrix_operator(rows: int, columns: int) -> tuple[Tensor, LinearOperator]:
    matrix = torch.randn(rows, columns, dtype=torch.complex128, generator=GENERATOR)
    return matrix, LinearOperator(forward=lambda x: matrix @ x, adjoint=lambda y: matrix.conj().T @ y)


def vector(n: int) -> Tensor:
    return torch.randn(n, dtype=torch.complex128, generator=GENERATOR)


def test_forward_adjoint_and_normal_are_those_of_the_matrix() -> None:
    matrix, operator = matrix_operator(5, 3)
    x, y = vector(3), vector(5)
    torch.testing.assert_close(operator(x), matrix @ x)
    torch.testing.assert_close(operator.adjoint(y), matrix.conj().T @ y)
    torch.testing.assert_close(operator.normal(x), matrix.conj().T @ matrix @ x)


def test_the_adjoint_of_the_adjoint_is_the_operator() -> None:
    matrix, operator = matrix_operator(5, 3)
    x, y = vector(3), vector(5)
    torch.testing.assert_close(operator.H(y), matrix.conj().T @ y)
    torch.testing.assert_close(operator.H.adjoint(x), matrix @ x)
    torch.testing.assert_close(operator.H.H(x), matrix @ x)
    torch.testing.assert_close(operator.H.normal(y), matrix @ matrix.conj().T @ y)


def test_composition_applies_the_right_one_first() -> None:
    (a, left), (b, right) = matrix_operator(5, 3), matrix_operator(3, 4)
    x, y = vector(4), vector(5)
    both = left @ right
    torch.testing.assert_close(both(x), a @ b @ x)
    torch.testing.assert_close(both.adjoint(y), (a @ b).conj().T @ y)
    torch.testing.assert_close(both.normal(x), (a @ b).conj().T @ (a @ b) @ x)
    defect = torch.vdot(both(x), y) - torch.vdot(x, both.adjoint(y))
    assert abs(defect) < EXACT * abs(torch.vdot(both(x), y))


def test_a_cheaper_normal_operator_is_used_where_it_is_given_and_only_there() -> None:
    calls = []

    def gram(x: Tensor) -> Tensor:
        calls.append("gram")
        return 4 * x

    double = LinearOperator(forward=lambda x: 2 * x, adjoint=lambda y: 2 * y, gram=gram)
    x = vector(3)
    torch.testing.assert_close(double.normal(x), 4 * x)
    assert calls == ["gram"]
    torch.testing.assert_close(double.H.normal(x), 4 * x)  # A A^H is another operator than A^H A
    assert calls == ["gram"]
    _, right = matrix_operator(3, 2)
    z = vector(2)
    torch.testing.assert_close((double @ right).normal(z), 4 * right.normal(z))
    assert calls == ["gram", "gram"]
