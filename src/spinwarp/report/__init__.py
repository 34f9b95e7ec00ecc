"""A page to look at results: one HTML file with all slices and tables, which opens without a network.

``python -m spinwarp.report DIR DIR ... --out report.html`` puts result folders side by side.
"""

from spinwarp.report.page import write_report
from spinwarp.report.side_by_side import draw_images

__all__ = ["draw_images", "write_report"]
