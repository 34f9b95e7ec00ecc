"""A folder of its own for the index of data files, so that no test sees the index of another or of the user."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("measured_files")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path / "cache"))
