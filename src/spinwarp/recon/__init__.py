"""Reconstructors, one method per file."""

from spinwarp.recon.base import NetworkReconstructor, Reconstructor
from spinwarp.recon.zero_filled import ZeroFilled

__all__ = ["NetworkReconstructor", "Reconstructor", "ZeroFilled"]
