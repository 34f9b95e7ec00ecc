import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from spinwarp.data.ulf import source
from spinwarp.data.ulf.pinned import PinnedFile
from spinwarp.data.ulf.source import MANIFEST, UltraLowFieldBrains
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc


def head(h: int, w: int) -> np.ndarray:
    """Return a bright ellipse with a dark spot to the upper left."""
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    ellipse = (x**2 / 0.4 + y**2 / 0.6 < 1).astype(float)
    return ellipse - 0.8 * ((x + 0.3) ** 2 + (y + 0.4) ** 2 < 0.02)


def scan(n_phase: int, empty: tuple[int, int], phase_first: bool = False) -> tuple[bytes, np.ndarray]:
    """Return a .mat as the scanner's authors lay it out, and its image (slice, readout, phase)."""
    image = np.stack([head(128, n_phase) * (i + 1) for i in range(3)])
    kspace = fftc(torch.from_numpy(image).to(torch.complex128)).numpy()
    residue = 1e-17 * abs(kspace).max()
    kspace[..., : empty[0]] = kspace[..., n_phase - empty[1] :] = residue
    stored = kspace.transpose(2, 1, 0) if phase_first else kspace.transpose(1, 2, 0)
    file = io.BytesIO()
    savemat(file, {"ksp": stored}, do_compression=True)
    return file.getvalue(), image


FILES = {
    "Figure 1A/0.055T/0.055T_FSE_kspace_postEMI.mat": scan(126, (1, 0)),
    "Figure 1A/0.055T/0.055T_FLAIR_kspace_postEMI.mat": scan(126, (5, 4)),
    "Figure 1B/0.055T/0.055T_GRE_kspace_postEMI.mat": scan(196, (1, 0)),
    "Supplementary Figure 1A/0.055T/0.055T_FSE_kspace_postEMI.mat": scan(126, (1, 0)),
    "Figure 2A/0.055T_3DGRE_Sagittal_2D kspace.mat": scan(196, (0, 0), phase_first=True),
}


def write_set(folder: Path, leave_out: str = "nothing") -> Path:
    """Write a folder of made-up scans and return its manifest, which lists all of them."""
    lines = ["# repository owner/scans at commit 0123abcd", "bytes\tsha256\tpath"]
    for name, (content, _) in FILES.items():
        lines.append(f"{len(content)}\t{hashlib.sha256(content).hexdigest()}\tAll Data/{name}")
        if leave_out not in name:
            (folder / "mat" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "mat" / name).write_bytes(content)
    manifest = folder / "manifest.tsv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def brains(folder: Path, leave_out: str = "nothing", **options: Any) -> UltraLowFieldBrains:
    options = {"train": ["1A"], "test": ["1B"], "source": folder / "mat", **options}
    return UltraLowFieldBrains(folder / "set", manifest=write_set(folder, leave_out), **options)


def test_volumes_have_readout_on_h_phase_on_w_and_know_their_empty_columns(tmp_path: Path) -> None:
    data = brains(tmp_path)
    data.prepare()
    padding = {"1A_FSE": (1, 126), "1A_FLAIR": (5, 122), "1B_GRE": (1, 196)}
    for name, columns in padding.items():
        with h5py.File(tmp_path / "set" / f"{name}.h5") as file:
            kspace = file["kspace"][()]
            assert kspace.dtype == np.complex64
            assert kspace.shape == (3, 128, 196 if "GRE" in name else 126)
            assert (file.attrs["padding_left"], file.attrs["padding_right"]) == columns
            assert not kspace[..., : columns[0]].any()
            assert not kspace[..., columns[1] :].any()
            assert kspace[..., columns[0]].any()
            assert kspace[..., columns[1] - 1].any()
            assert file.attrs["provenance"] == "scanner"
            assert file.attrs["acquisition"] == name.split("_")[1]
            assert file.attrs["patient_id"] == f"Figure {name[:2]}"


def test_a_scan_stored_phase_first_is_turned_and_kept_apart(tmp_path: Path) -> None:
    data = brains(tmp_path, test=["Figure 2A"], val=[])
    data.prepare()
    [path] = data.files("test")
    assert path == tmp_path / "set" / "other_orientations" / "2A_GRE_sagittal.h5"
    with h5py.File(path) as file:
        image = ifftc(torch.from_numpy(file["kspace"][()])).abs().numpy()
        assert "padding_left" not in file.attrs
        assert file.attrs["orientation"] == "sagittal"
    np.testing.assert_allclose(image, FILES["Figure 2A/0.055T_3DGRE_Sagittal_2D kspace.mat"][1], atol=1e-5)


def test_patients_that_are_neither_trained_on_nor_tested_validate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = brains(tmp_path)
    data.prepare()
    assert [p.stem for p in data.files("train")] == ["1A_FLAIR", "1A_FSE"]
    assert [p.stem for p in data.files("val")] == ["S1A_FSE"]
    assert [p.stem for p in data.files("test")] == ["1B_GRE"]
    assert not caplog.records


def test_where_nobody_is_left_validation_reuses_training_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = brains(tmp_path, leave_out="Supplementary")
    data.prepare()
    caplog.clear()
    assert data.files("val") == data.files("train") == data.files("val")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "not held out" in record.getMessage()
    assert not set(data.files("test")) & set(data.files("train"))


def test_the_default_test_patient_never_validates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_TEST", ("1B",))
    data = brains(tmp_path, test=["2A"])
    data.prepare()
    assert [p.stem for p in data.files("val")] == ["S1A_FSE"]


@pytest.mark.parametrize("options", [{"val": ["1A"]}, {"test": ["1A"]}, {"train": ["1A", "Figure 1B"]}])
def test_a_patient_in_two_splits_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="in two splits; a patient belongs to one"):
        brains(tmp_path, **options)


def test_an_unknown_patient_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no patient 9Z; choose from 1A, 1B, S1A, 2A"):
        brains(tmp_path, test=["9Z"])


def test_an_unknown_split_and_an_unprepared_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split='testing' is not one of"):
        brains(tmp_path).files("testing")
    with pytest.raises(InputError, match="no train volume"):
        brains(tmp_path).files("train")
    with pytest.raises(InputError, match=r"expected .*/Figure NAME/"):
        manifest = tmp_path / "odd.tsv"
        manifest.write_text("# repository a/b at commit 01\nbytes\tsha256\tpath\n1\t0\tData/README.md\n")
        UltraLowFieldBrains(tmp_path, manifest=manifest)


def test_files_that_a_folder_lacks_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = brains(tmp_path, leave_out="Supplementary")
    made = data.fetch(tmp_path / "mat")
    assert len(made) == len(FILES) - 1
    assert "All Data/Supplementary Figure 1A" in caplog.text


def test_a_needed_file_that_the_folder_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no source files of 1B_GRE\.h5"):
        brains(tmp_path, leave_out="1B").prepare()


def test_a_changed_file_is_refused_and_leaves_no_volume(tmp_path: Path) -> None:
    data = brains(tmp_path)
    path = tmp_path / "mat" / next(iter(FILES))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="SHA-256"):
        data.prepare()
    assert not (tmp_path / "set" / "1A_FSE.h5").exists()


def test_a_stopped_run_goes_on_and_a_finished_one_does_nothing(tmp_path: Path) -> None:
    data = brains(tmp_path)
    lost = tmp_path / "mat" / "Figure 1B/0.055T/0.055T_GRE_kspace_postEMI.mat"
    content = lost.read_bytes()
    lost.write_bytes(content[:100])
    with pytest.raises(InputError, match="has 100 bytes"):
        data.prepare()
    before = (tmp_path / "set" / "1A_FSE.h5").stat().st_mtime_ns
    lost.write_bytes(content)
    assert len(data.fetch(tmp_path / "mat")) == len(FILES) - 2
    assert (tmp_path / "set" / "1A_FSE.h5").stat().st_mtime_ns == before
    assert data.fetch(tmp_path / "mat") == []
    assert not list((tmp_path / "set").rglob("*.part"))


def test_an_array_without_the_scanner_s_readout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_READOUT", 100)
    with pytest.raises(InputError, match="expected one, with 100 readout samples"):
        brains(tmp_path).prepare()


def test_without_a_terminal_the_error_names_both_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(InputError, match=r"spinwarp.data.download ulf_brain --to .*ulf_brain --from FOLDER"):
        brains(tmp_path, source=None).prepare()


@pytest.mark.parametrize("answer", ["y", "no", ""])
def test_on_a_terminal_only_a_yes_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    questions: list[str] = []
    urls: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        return answer

    def fetch_pinned(url: str, file: PinnedFile, _: object) -> bytes:
        urls.append(url)
        return FILES[file.path.removeprefix("All Data/")][0]

    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(source, "fetch_pinned", fetch_pinned)
    data = brains(tmp_path, source=None)
    if answer == "y":
        data.prepare()
        data.prepare()
        assert urls == ["https://raw.githubusercontent.com/owner/scans/0123abcd"] * len(FILES)
    else:
        with pytest.raises(InputError, match="is not in"):
            data.prepare()
        assert urls == []
    assert len(questions) == 1
    assert "CC0 1.0; download" in questions[0]


def test_the_shipped_manifest_lists_six_patients_and_two_volunteers(tmp_path: Path) -> None:
    data = UltraLowFieldBrains(tmp_path)
    names = [scan.path.name for scan in data.scans]
    assert len(set(names)) == 22
    assert {scan.patient for scan in data.scans} == {"4A", "4B", "6A", "6B", "7A", "7B", "S6A", "S6B"}
    assert {"6A_FSE.h5", "4A_GRE_coronal.h5", "S6B_FLAIR.h5"} <= set(names)
    assert "here" not in MANIFEST.read_text()
