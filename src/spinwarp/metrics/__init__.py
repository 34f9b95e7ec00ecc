"""Image quality as fastMRI's evaluation defines it, and SSIM inside the foreground."""

from spinwarp.metrics.functional import foreground, nmse, psnr, ssim, ssim_map
from spinwarp.metrics.volume import BatchMean, VolumeMetrics

__all__ = ["BatchMean", "VolumeMetrics", "foreground", "nmse", "psnr", "ssim", "ssim_map"]
