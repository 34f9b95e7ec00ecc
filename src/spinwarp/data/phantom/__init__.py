"""Simulated scans of procedural heads, generated from a seed."""

from spinwarp.data.phantom.example import head_example
from spinwarp.data.phantom.source import Phantoms

__all__ = ["Phantoms", "head_example"]
