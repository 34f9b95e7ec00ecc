"""Linear operators: the forward model of MRI and sparsifying transforms."""

from spinwarp.operators.finite_difference import finite_difference
from spinwarp.operators.linear import LinearOperator
from spinwarp.operators.sense import coil_maps, sense, squared_norm_bound
from spinwarp.operators.wavelet import wavelet

__all__ = ["LinearOperator", "coil_maps", "finite_difference", "sense", "squared_norm_bound", "wavelet"]
