"""Sampling masks, one family per file."""

from spinwarp.masks.base import LineMask, Mask, seed_of
from spinwarp.masks.equispaced import EquispacedMask, LiteralEquispacedMask
from spinwarp.masks.magic import MagicFractionMask, MagicMask
from spinwarp.masks.random import RandomMask

__all__ = [
    "EquispacedMask",
    "LineMask",
    "LiteralEquispacedMask",
    "MagicFractionMask",
    "MagicMask",
    "Mask",
    "RandomMask",
    "seed_of",
]
