"""Simulated raw data of heads, as varied as scanners are."""

from spinwarp.data.heads.source import SimulatedHeads

__all__ = ["SimulatedHeads"]
