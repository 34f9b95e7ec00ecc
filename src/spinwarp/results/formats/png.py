"""Images as pictures: a folder with one greyscale PNG of 16 bits a slice, to look at."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spinwarp.files import whole_folder
from spinwarp.results.formats.volume import Record, Volume

log = logging.getLogger("spinwarp")
_WHITE = 99.8  # per cent of the pixels that are not above white
_KEY = "spinwarp"


def path_of(folder: Path, name: str) -> Path:
    """Return the folder of the pictures."""
    return folder / f"{name}_png"


def write(path: Path, volume: Volume) -> None:
    """Write the slices, black at zero and with one white for a series, which the log names; rows are rows."""
    info = PngInfo()
    info.add_text(_KEY, volume.record.to_text())
    with whole_folder(path) as folder:
        for series in volume.series():
            white = float(np.percentile(series.images, _WHITE)) or float(series.images.max()) or 1.0
            log.info("%s: white is %.4g in the pictures of %s", volume.name, white, series.title)
            for index, image in zip(volume.record.slices, series.images, strict=True):
                grey = np.rint(image / white * 65535).clip(0, 65535).astype(np.uint16)
                Image.fromarray(grey).save(folder / f"slice{series.suffix}_{index:04d}.png", pnginfo=info)


def read_record(path: Path) -> Record | None:
    """Return what made the pictures; None if they are not from here."""
    try:
        with Image.open(next(iter(sorted(path.glob("slice_*.png"))))) as picture:
            return Record.from_text(str(picture.info.get(_KEY)))
    except Exception:  # libraries raise anything on damaged files
        return None
