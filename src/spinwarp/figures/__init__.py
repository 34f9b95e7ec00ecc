"""Figures from result files: comparisons with zooms and error maps, panels, distributions, claims. Never a model.

``python -m spinwarp.figures DIR DIR ... --out DIR`` joins result folders into one table and its figures. Matplotlib is
imported here and nowhere else, and only once something is drawn.
"""

from spinwarp.figures.comparison import comparison, zoom_region
from spinwarp.figures.convergence import convergence
from spinwarp.figures.distribution import distribution
from spinwarp.figures.draw import draw
from spinwarp.figures.panel import panel
from spinwarp.figures.reliability import reliability
from spinwarp.figures.sheet import save
from spinwarp.figures.uncertainty import uncertainty

__all__ = [
    "comparison",
    "convergence",
    "distribution",
    "draw",
    "panel",
    "reliability",
    "save",
    "uncertainty",
    "zoom_region",
]
