"""Merges the result folders of several processes into one."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spinwarp.files import atomic_write
from spinwarp.results.calibration import CALIBRATION, read_calibration, write_calibration
from spinwarp.results.images import EXAMPLES, RECONSTRUCTIONS, TARGETS, read_examples, write_examples
from spinwarp.results.rows import RESULTS, Row, read_rows, write_rows

_FILES = (RESULTS, EXAMPLES, CALIBRATION)


def merge(parts: Sequence[Path], folder: Path, order: Sequence[str]) -> list[Row]:
    """Move the volumes of several result folders into one; return their rows.

    Parameters
    ----------
    parts : folders written by evaluation, which are emptied; those without a finished volume are skipped.
    folder : to move the volumes to.
    order : names of volumes, in the order of the rows.

    Raises
    ------
    NotImplementedError : if a part holds a file that this function does not know.
    """
    rows: dict[str, Row] = {}
    examples, curves = [], []
    for part in (part for part in parts if (part / RESULTS).exists()):
        unknown = [
            p.name for p in part.iterdir() if p.is_file() and p.name not in _FILES and not p.name.startswith(".")
        ]
        if unknown:
            raise NotImplementedError(f"{part} holds {', '.join(unknown)}, which merge does not know")
        for row in read_rows(part / RESULTS):
            rows[row.volume] = row
            name = row.volume if row.volume.endswith(".h5") else f"{row.volume}.h5"
            for kind in (RECONSTRUCTIONS, TARGETS):
                images = part / kind / name
                if images.exists():
                    with atomic_write(folder / kind / name) as temporary:
                        images.replace(temporary)
        if (part / EXAMPLES).exists():
            examples += read_examples(part / EXAMPLES)
        if (part / CALIBRATION).exists():
            curves.append(read_calibration(part / CALIBRATION))
        for path in _FILES:
            (part / path).unlink(missing_ok=True)
        for kind in (RECONSTRUCTIONS, TARGETS):
            shutil.rmtree(part / kind, ignore_errors=True)
    place = {name: i for i, name in enumerate(order)}
    merged = sorted(rows.values(), key=lambda row: place[row.volume])
    if examples:
        write_examples(folder / EXAMPLES, sorted(examples, key=lambda example: place[example.volume]))
    if curves:
        volumes = sorted((v for part in curves for v in part.volumes), key=lambda v: place[v.volume])
        write_calibration(folder / CALIBRATION, replace(curves[0], volumes=volumes))
    if merged:
        write_rows(folder / RESULTS, merged)
    return merged
