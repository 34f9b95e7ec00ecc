"""Scans to reconstruct, and folders of their own for the commands."""

from pathlib import Path

import numpy as np
import pytest
from command_calls import folders


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of their own, since the phantoms here have another size than those of other tests of commands."""
    return folders(tmp_path_factory.mktemp("place"))


@pytest.fixture
def scan(tmp_path: Path) -> np.ndarray:
    """``scan.npy`` in the working folder: four slices, the second of zeros."""
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=(4, 2, 32, 30)) + 1j * rng.normal(size=(4, 2, 32, 30))).astype(np.complex64)
    kspace[1] = 0
    np.save(tmp_path / "scan.npy", kspace)
    return kspace


@pytest.fixture
def scans(scan: np.ndarray, tmp_path: Path) -> Path:
    """A folder of three scans, the second of which cannot be read, and one more in a folder below."""
    folder = tmp_path / "scans"
    (folder / "below").mkdir(parents=True)
    for i, name in enumerate(["a", "c", "below/a"]):
        np.save(folder / f"{name}.npy", scan * (i + 1))
    (folder / "b.npy").write_bytes(b"no array")
    (folder / "notes.txt").write_text("not a scan")
    return folder
