import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from spinwarp.data.download import main
from spinwarp.data.ulf.source import UltraLowFieldBrains

SHARED = Path(os.environ.get("SPINWARP_SHARED", Path(__file__).parents[4] / "shared"))
REAL = SHARED / "data" / "ulf_0055T"
pytestmark = pytest.mark.skipif(
    not REAL.is_dir(),
    reason=f"no folder {REAL}: the 0.055 T raw data are not here; set SPINWARP_SHARED to their parent",
)


def test_the_real_scans_convert_with_their_measured_properties(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINWARP_DATA", str(tmp_path))
    assert main(["ulf_brain", "--from", str(REAL)]) == 0
    assert "13 new volumes" in capsys.readouterr().out
    paths = sorted((tmp_path / "ulf_brain").rglob("*.h5"))
    assert len(paths) == 13
    padding = {"FSE": (1, 126), "GRE": (1, 196), "FLAIR": (5, 122)}
    for path in paths:
        contrast = path.stem.split("_")[1]
        with h5py.File(path) as file:
            kspace, image = file["kspace"][()], file["reconstruction_esc"][()]
            axial = file.attrs["orientation"] == "axial"
            if axial:
                assert (file.attrs["padding_left"], file.attrs["padding_right"]) == padding[contrast]
        assert kspace.shape == (4 if axial else 10, 128, 196 if contrast == "GRE" else 126)
        peak = np.unravel_index((abs(kspace) ** 2).sum(0).argmax(), kspace.shape[1:])
        assert abs(peak[0] - 64) <= 3
        assert abs(peak[1] - kspace.shape[2] // 2) <= 3
        if axial:  # the head is in the middle and air in the corners
            middle = image[:, 44:84, kspace.shape[2] // 3 : -kspace.shape[2] // 3].mean()
            assert middle > 5 * max(image[:, :10, :10].mean(), image[:, -10:, -10:].mean())
    data = UltraLowFieldBrains(tmp_path / "ulf_brain")
    data.prepare()
    assert {p.stem.split("_")[0] for p in data.files("train")} == {"6A", "6B"}
    assert {p.stem for p in data.files("test")} == {"7A_FSE", "7A_GRE", "7A_FLAIR"}
