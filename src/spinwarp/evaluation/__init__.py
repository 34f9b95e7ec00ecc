"""One protocol for every method."""

from spinwarp.evaluation.evaluate import UNFINISHED, evaluate
from spinwarp.evaluation.volume import Protocol

__all__ = ["UNFINISHED", "Protocol", "evaluate"]
