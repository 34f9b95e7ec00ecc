"""Simulated scans of procedural heads, made from nothing but a seed."""

from spinwarp.data.phantom.source import Phantoms

__all__ = ["Phantoms"]
