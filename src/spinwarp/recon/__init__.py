"""Reconstructors, one method per file."""

from spinwarp.recon.base import NetworkReconstructor, Reconstructor
from spinwarp.recon.cg_sense import CGSense
from spinwarp.recon.l1_image import L1Image
from spinwarp.recon.l1_wavelet import L1Wavelet
from spinwarp.recon.tv import TotalVariation
from spinwarp.recon.tv_fastmri import FastMRITotalVariation
from spinwarp.recon.zero_filled import ZeroFilled

__all__ = [
    "CGSense", "FastMRITotalVariation", "L1Image", "L1Wavelet", "NetworkReconstructor", "Reconstructor",
    "TotalVariation", "ZeroFilled",
]  # fmt: skip
