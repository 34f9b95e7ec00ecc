"""What the tests of figures share: images to draw, and a check that nothing overlaps."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NAMES = [
    "zero-filled",
    "total variation",
    "VarNet",
    "a_very_long_method_name/with_joints_v2",
    "W" * 40,
    "$sigma$ model",
]


def head(h: int, w: int) -> np.ndarray:
    """Return an ellipse with a bright rim, smooth shading and stripes in its lower left."""
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    radius = (x / 0.8) ** 2 + (y / 0.9) ** 2
    image = np.where(radius < 1, 0.3 + 0.1 * np.cos(3 * x), 0.0)
    image[(radius < 1) & (radius > 0.85)] = 1.0
    stripes = (np.abs(x + 0.25) < 0.2) & (np.abs(y - 0.2) < 0.2) & (np.sin(40 * x) > 0)
    return np.where(stripes, 0.7, image) * 2e-4  # scanner units are small


def case(h: int, w: int, n: int) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, dict[str, float]], np.ndarray]:
    target = head(h, w)
    images = {name: target + np.roll(target, 5 + i, axis=1) / (3 + i) for i, name in enumerate(NAMES[:n])}
    numbers = {
        name: {"psnr": 20.0 + i, "ssim": 0.8 + i / 100, "ssim_foreground": 0.9 - i / 100, "nmse": 0.1 / (1 + i)}
        for i, name in enumerate(images)
    }
    return target, images, numbers, np.arange(w + 10)[None] % 4 == 0


def assert_tidy(figure: Figure) -> None:
    """No text leaves the figure or touches another text or a picture."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [t for t in figure.texts if t.get_text()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    for axes in figure.axes:
        box = axes.get_tightbbox(renderer)
        assert box is not None
        boxes.append(("axes", box))
    for i, (name, box) in enumerate(boxes):
        # Half a pixel: antialiasing of glyphs at the edge.
        assert box.x0 > -0.5 and box.y0 > -0.5, name
        assert box.x1 < figure.bbox.x1 + 0.5 and box.y1 < figure.bbox.y1 + 0.5, name
        for other, second in boxes[i + 1 :]:
            across = min(box.x1, second.x1) - max(box.x0, second.x0)
            down = min(box.y1, second.y1) - max(box.y0, second.y0)
            # Two pixels of 1/150 inch: boxes of texts include room above the letters.
            assert across <= 2 or down <= 2, f"{name!r} overlaps {other!r} by {across:.1f} x {down:.1f} pixels"


def texts(figure: Figure) -> dict[str, str]:
    return {str(t.get_text()): str(t.get_fontweight()) for t in figure.texts}
