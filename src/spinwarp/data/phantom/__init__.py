"""Simulated scans of procedural heads, generated from a seed."""

from spinwarp.data.phantom.source import Phantoms

__all__ = ["Phantoms"]
