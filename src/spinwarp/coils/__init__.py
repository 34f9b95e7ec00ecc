"""Coil sensitivities and coil combination."""

from spinwarp.coils.combine import combine, root_sum_of_squares, with_phase_of
from spinwarp.coils.low_resolution import low_resolution_maps

__all__ = ["combine", "low_resolution_maps", "root_sum_of_squares", "with_phase_of"]
