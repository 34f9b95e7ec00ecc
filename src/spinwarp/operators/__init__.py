"""Linear operators, the forward model of MRI first."""

from spinwarp.operators.linear import LinearOperator
from spinwarp.operators.sense import coil_maps, sense

__all__ = ["LinearOperator", "coil_maps", "sense"]
