"""Equality with the fastMRI reference, draw by draw."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.random import RandomState

from spinwarp.masks import (
    EquispacedMask,
    LineMask,
    LiteralEquispacedMask,
    MagicFractionMask,
    MagicMask,
    RandomMask,
    seed_of,
)

FILE = "file1000000.h5"
# the reference's names
TYPES: dict[str, type[LineMask]] = {
    "random": RandomMask,
    "equispaced": LiteralEquispacedMask,
    "equispaced_fraction": EquispacedMask,
    "magic": MagicMask,
    "magic_fraction": MagicFractionMask,
}
CENTER_FRACTION = {4: 0.08, 8: 0.04}


def test_all_golden_masks_of_the_reference_are_drawn_bit_for_bit(shared: Path) -> None:
    golden = np.load(shared / "golden" / "fastmri_masks.npz")
    keys = [key for key in golden if not key.endswith("|nlow")]
    assert len(keys) == 180
    wrong = []
    for key in keys:
        kind, acceleration, fraction, width, seed = key.split("|")
        generator = RandomState(seed_of(FILE) if seed == "fname" else int(seed))
        mask, n_center = TYPES[kind]([float(fraction)], [int(acceleration)])((640, int(width)), generator)
        if not np.array_equal(mask[0].numpy(), golden[key].astype(bool)) or n_center != int(golden[f"{key}|nlow"]):
            wrong.append(key)
    assert not wrong


# from the reference implementation at a width of 368: md5 of the comma-joined sampled columns
@pytest.mark.parametrize(
    ("kind", "acceleration", "n_sampled", "md5"),
    [
        ("random", 4, 88, "bdf985827b"),
        ("equispaced_fraction", 4, 93, "d185db62ff"),
        ("equispaced", 4, 114, "ace7a609e2"),
        ("magic", 4, 114, "e3af0ff58b"),
        ("magic_fraction", 4, 86, "b16bdbbecf"),
        ("random", 8, 46, "e65454949e"),
        ("equispaced_fraction", 8, 45, "b9da88f9a8"),
    ],
)
def test_masks_have_the_fingerprints_of_the_reference(kind: str, acceleration: int, n_sampled: int, md5: str) -> None:
    draw = TYPES[kind]([CENTER_FRACTION[acceleration]], [acceleration])
    mask, _ = draw((640, 368), RandomState(seed_of(FILE)))
    columns = mask[0].nonzero()[:, 0].tolist()
    assert len(columns) == n_sampled
    assert hashlib.md5(",".join(map(str, columns)).encode()).hexdigest()[:10] == md5


def test_the_pair_is_drawn_before_the_lines_as_the_reference_does() -> None:
    draws = []

    class Recorder(RandomState):
        def randint(self, *args: int, **kwargs: int) -> int:
            draws.append(args)
            return super().randint(*args, **kwargs)

    EquispacedMask([0.08], [4])((640, 368), Recorder(0))
    # R' = R (n - W) / (n R - W) = 4 (29 - 368) / (116 - 368) = 5.38, rounded to 5
    assert draws == [(1,), (0, 5)]


def test_the_seed_of_a_file_is_the_reference_s() -> None:
    assert seed_of("a.h5") == (97, 46, 104, 53)
