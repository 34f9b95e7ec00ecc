"""Image quality as fastMRI's evaluation defines it."""

from spinwarp.metrics.functional import nmse, psnr, ssim, ssim_map
from spinwarp.metrics.volume import VolumeMetrics

__all__ = ["VolumeMetrics", "nmse", "psnr", "ssim", "ssim_map"]
