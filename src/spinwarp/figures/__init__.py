"""Figures from result files, never from a model: comparisons with error maps, panels, distributions, uncertainty.

``python -m spinwarp.figures DIR DIR ... --out DIR`` joins result folders into one table and its figures. Matplotlib is
imported only here, and only when something is drawn.
"""

from spinwarp.figures.comparison import comparison, zoom_region
from spinwarp.figures.convergence import convergence
from spinwarp.figures.distribution import distribution
from spinwarp.figures.draw import draw, in_words
from spinwarp.figures.panel import panel
from spinwarp.figures.reliability import reliability
from spinwarp.figures.sheet import save
from spinwarp.figures.uncertainty import uncertainty

__all__ = [
    "comparison", "convergence", "distribution", "draw", "in_words", "panel", "reliability", "save", "uncertainty",
    "zoom_region",
]  # fmt: skip
