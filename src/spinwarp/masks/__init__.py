"""Sampling masks, one family per file."""

from spinwarp.masks.base import CenteredMask, IndependentMask, LineMask, Mask, PlaneMask, seed_of
from spinwarp.masks.equispaced import EquispacedMask, LiteralEquispacedMask
from spinwarp.masks.gaussian import GaussianLineMask, GaussianPlaneMask
from spinwarp.masks.held_out import draw_held_out, hold_out
from spinwarp.masks.learned import LearnedMask
from spinwarp.masks.magic import MagicFractionMask, MagicMask
from spinwarp.masks.mixed import MixedMask
from spinwarp.masks.poisson import PoissonDiscMask
from spinwarp.masks.random import RandomMask

__all__ = [
    "CenteredMask", "EquispacedMask", "GaussianLineMask", "GaussianPlaneMask", "IndependentMask", "LearnedMask",
    "LineMask", "LiteralEquispacedMask", "MagicFractionMask", "MagicMask", "Mask", "MixedMask", "PlaneMask",
    "PoissonDiscMask", "RandomMask", "draw_held_out", "hold_out", "seed_of",
]  # fmt: skip
