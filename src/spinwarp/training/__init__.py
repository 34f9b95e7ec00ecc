"""LightningModules, schedules and callbacks."""

from spinwarp.training.ambient import AmbientScoreModule
from spinwarp.training.consistency import ConsistencyModule
from spinwarp.training.gan import GANModule
from spinwarp.training.generator import FlowModule, GeneratorModule, VAEModule
from spinwarp.training.noise2recon import Noise2ReconModule
from spinwarp.training.score import ScoreModule
from spinwarp.training.self_supervised import SelfSupervisedModule
from spinwarp.training.stein import EnsureModule, EquivariantModule
from spinwarp.training.supervised import (
    EveryCascadeModule,
    HeteroscedasticModule,
    SupervisedModule,
    UNetModule,
    VarNetModule,
)

__all__ = [
    "AmbientScoreModule",
    "ConsistencyModule",
    "EnsureModule",
    "EquivariantModule",
    "EveryCascadeModule",
    "FlowModule",
    "GANModule",
    "GeneratorModule",
    "HeteroscedasticModule",
    "Noise2ReconModule",
    "ScoreModule",
    "SelfSupervisedModule",
    "SupervisedModule",
    "UNetModule",
    "VAEModule",
    "VarNetModule",
]
