"""LightningModules, schedules and callbacks."""

from spinwarp.training.generator import VAEModule
from spinwarp.training.score import ScoreModule
from spinwarp.training.supervised import SupervisedModule, UNetModule, VarNetModule

__all__ = ["ScoreModule", "SupervisedModule", "UNetModule", "VAEModule", "VarNetModule"]
