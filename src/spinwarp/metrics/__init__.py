"""Image quality as fastMRI's evaluation defines it."""

from spinwarp.metrics.functional import nmse, psnr, ssim, ssim_map
from spinwarp.metrics.volume import BatchMean, VolumeMetrics

__all__ = ["BatchMean", "VolumeMetrics", "nmse", "psnr", "ssim", "ssim_map"]
