"""The quick look at a few coils of a slice finds what the look at all of them finds."""

from pathlib import Path

import numpy as np
import pytest
from measured_files import random_kspace
from numpy.random import RandomState

from spinwarp.data import sampling
from spinwarp.errors import InputError


def some_scan(kind: str, scale: float, generator: RandomState) -> tuple[np.ndarray, tuple[int, int] | None]:
    """A slice of four coils, strong in the centre, and the acquired columns that its header gives."""
    n_coils, h, w = 4, 24, 20
    distance = np.hypot(np.arange(h)[:, None] - h // 2, np.arange(w) - w // 2)
    kspace = (random_kspace(n_coils, h, w, seed=generator.randint(1000)) / (1 + distance)) * scale
    columns = (3, 17) if "padding" in kind else None
    if columns:
        kspace[..., :3] = kspace[..., 17:] = 0
    if "spill" in kind:
        kspace[..., :3] = 1e-7 * scale
    if "lines" in kind:
        kspace[..., generator.permutation(w)[:6]] = 0
    if "echo" in kind:
        kspace[:, :5] = 0
    if "points" in kind:
        kspace[:, generator.rand(h, w) < 0.3] = 0
    if "rounding" in kind:
        kspace[..., generator.permutation(w)[:6]] *= 1e-9
    if "chance" in kind:
        kspace[:, 2, 3] = 0
    if "silent coil" in kind:
        kspace[0] = 0
    return kspace.astype(np.complex64), columns


KINDS = (
    "full",
    "padding",
    "spill padding",
    "lines",
    "echo",
    "points",
    "rounding",
    "chance",
    "silent coil",
    "lines padding",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1.0, 1e18])
def test_the_look_at_a_few_coils_finds_what_the_look_at_all_finds(
    kind: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        kspace, columns = some_scan(kind, scale, RandomState(seed))
        quick = sampling.read_slice(Path("a.h5"), kspace[None], None, 0, columns)
        with monkeypatch.context() as patched:
            patched.setattr(sampling, "_is_full", lambda *_: False)
            thorough = sampling.read_slice(Path("a.h5"), kspace[None], None, 0, columns)
        for one, other in zip(quick, thorough, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["full", "padding", "silent coil"])
def test_a_few_coils_are_enough_for_a_full_scan(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kspace, columns = some_scan(kind, 1e-4, RandomState(0))
    looked_at = []
    monkeypatch.setattr(sampling, "_peak", lambda k, *_: looked_at.append(k) or np.abs(k[0]).astype(np.float32))
    assert sampling._is_full(kspace, columns)
    assert 0 < len(looked_at) < len(kspace)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1j * np.inf])
def test_one_sample_that_is_no_number_in_the_last_coil_is_found(value: complex) -> None:
    kspace, _ = some_scan("full", 1.0, RandomState(0))
    kspace[-1, 2, 3] = value
    with pytest.raises(InputError, match="NaN or infinite k-space in slice 0"):
        sampling.read_slice(Path("a.h5"), kspace[None], None, 0)
