"""Coil sensitivities, coil combination, coil compression and noise."""

from spinwarp.coils.calibration import calibration_blocks, calibration_region
from spinwarp.coils.combine import combine, root_sum_of_squares, with_phase_of
from spinwarp.coils.compression import compress, compression_matrix
from spinwarp.coils.espirit import espirit_maps
from spinwarp.coils.low_resolution import low_resolution_images, low_resolution_maps, with_smooth_phase
from spinwarp.coils.whitening import border_covariance, noise_covariance, noise_level, whiten

__all__ = [
    "border_covariance", "calibration_blocks", "calibration_region", "combine", "compress", "compression_matrix",
    "espirit_maps", "low_resolution_images", "low_resolution_maps", "noise_covariance", "noise_level",
    "root_sum_of_squares", "whiten", "with_phase_of", "with_smooth_phase",
]  # fmt: skip
