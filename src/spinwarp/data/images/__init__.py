"""Magnitude images, turned into simulated raw data as they are read."""

from spinwarp.data.images.source import SimulatedImages

__all__ = ["SimulatedImages"]
