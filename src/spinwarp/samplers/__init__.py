"""Posterior samplers: plain functions of a problem and of noise, for images of any shape. None knows a network.

Each takes ``(problem, noise, *, options)``, returns samples ``(chain, *shape)`` and reports its progress to
:mod:`spinwarp.progress`. Each chain depends on its own generator alone.

``pula``, and ``annealed_langevin`` with the exact or the annealed likelihood, sample the posterior up to the error of
their finite steps. The others give good images whose spread is not that of the posterior. Each docstring gives the
spread that we measured, as its ratio to the exact standard deviation (std).
"""

from spinwarp.samplers.annealed_langevin import annealed_langevin
from spinwarp.samplers.daps import daps
from spinwarp.samplers.ddnm import ddnm
from spinwarp.samplers.dds import dds
from spinwarp.samplers.diffpir import diffpir
from spinwarp.samplers.dps import dps
from spinwarp.samplers.noise import ChainNoise, chain_generators
from spinwarp.samplers.predictor_corrector import predictor_corrector
from spinwarp.samplers.problem import Denoiser, Problem
from spinwarp.samplers.pula import pula
from spinwarp.samplers.schedules import Schedule, geometric, jalal, karras
from spinwarp.samplers.unconditional import unconditional

__all__ = [
    "ChainNoise", "Denoiser", "Problem", "Schedule", "annealed_langevin", "chain_generators", "daps", "ddnm", "dds",
    "diffpir", "dps", "geometric", "jalal", "karras", "predictor_corrector", "pula", "unconditional",
]  # fmt: skip
