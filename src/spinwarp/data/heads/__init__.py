"""Simulated raw data of heads, with the variety of real scanners."""

from spinwarp.data.heads.source import SimulatedHeads

__all__ = ["SimulatedHeads"]
