"""Magnitude images, and raw data simulated from them on reading."""

from spinwarp.data.images.source import SimulatedImages

__all__ = ["SimulatedImages"]
