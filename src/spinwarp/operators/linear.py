"""Linear operators as plain values."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

#: shape to ``(batch, *shape)``, complex noise of variance one
Draw = Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class LinearOperator:
    """A linear operator given by functions: an immutable value, not a module, without parameters.

    ``A(x)`` applies the operator, ``A.adjoint(y)`` its adjoint, and ``A.normal(x)`` one after the other. ``A.H`` is the
    adjoint as an operator, and ``A @ B`` the composition. Gradients flow through all of them.

    Parameters
    ----------
    forward : x to A x.
    adjoint : y to A^H y.
    gram : x to A^H A x, if there is a cheaper way than forward and adjoint.
    noise : draws A^H n with n ~ CN(0, 1), if there is a cheaper way than the adjoint of noise of the data's full size.
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    gram: Callable[[Tensor], Tensor] | None = None
    noise: Callable[[Draw], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""
        return self.forward(x)

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x."""
        return self.gram(x) if self.gram is not None else self.adjoint(self.forward(x))

    @property
    def H(self) -> "LinearOperator":  # noqa: N802
        """The adjoint operator."""
        return LinearOperator(forward=self.adjoint, adjoint=self.forward)

    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        return LinearOperator(
            forward=lambda x: self.forward(other.forward(x)),
            adjoint=lambda y: other.adjoint(self.adjoint(y)),
            gram=lambda x: other.adjoint(self.normal(other.forward(x))),
        )
