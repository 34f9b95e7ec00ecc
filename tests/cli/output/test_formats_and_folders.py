"""Several formats and many files in one call of reconstruct.py: what fails does not stop the others."""

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from command_calls import Command
from failing import images


def test_all_formats_are_written_by_one_call_and_other_images_are_not_overwritten(
    scan: np.ndarray, command: Command, tmp_path: Path
) -> None:
    call = ["input=scan.npy", "maps=none", "out=r", "format=h5,nifti,dicom,png", "patient.id=x7"]
    for _ in range(2):
        done = command("reconstruct", *call)
        assert done.code == 0, done.err
    assert "scan does not say where its images lie in the patient: the NIfTI file has no position" in done.out
    names = ["scan.h5", "scan.nii.gz", "scan.png", "scan_dicom", "scan_png"]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == names
    truth, _ = images(tmp_path / "r" / "scan.h5")
    nifti = np.asarray(nibabel.load(tmp_path / "r" / "scan.nii.gz").dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(nifti, truth)
    file = pydicom.dcmread(tmp_path / "r" / "scan_dicom" / "image_0003.dcm")
    assert file.PatientID == "x7"
    assert np.abs(file.pixel_array * float(file.RescaleSlope) - truth[2]).max() < truth.max() / 65535
    assert len(list((tmp_path / "r" / "scan_png").iterdir())) == 4
    for name, path in (("nifti", "scan.nii.gz"), ("dicom", "scan_dicom"), ("png", "scan_png")):
        other = ["input=scan.npy", "maps=none", "out=r", f"format={name}", "mask=random_2x"]
        assert f"r/{path} holds other images (input " in command("reconstruct", *other).sentence
        fewer = ["input=scan.npy", "maps=none", "out=r", f"format={name}", "slices=0"]
        assert f"r/{path} holds other slices too (1, 2, 3)" in command("reconstruct", *fewer).sentence


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["format=jpeg"], "format=jpeg is not"),
        (["format=h5,jpeg"], "format=['h5', 'jpeg'] is not"),
        (["format=[]"], "format=[] names no format; give h5, nifti, dicom or png"),
        (["patient.sex=male"], "patient.sex=male is not M, F or O"),
        (["patient.birth_date=19800101"], "patient.birth_date=19800101 is not a text or null"),
        (["patient.age=3"], "patient.age"),
    ],
)
def test_a_format_or_patient_that_cannot_be_is_told_before_the_work(
    scan: np.ndarray, command: Command, tmp_path: Path, overrides: list[str], message: str
) -> None:
    assert message in command("reconstruct", "input=scan.npy", "out=r", *overrides).sentence
    assert not (tmp_path / "r").exists()


def test_a_folder_goes_on_after_a_file_that_fails_and_resumes_where_it_stopped(
    scans: Path, command: Command, tmp_path: Path
) -> None:
    call = ["input=scans", "maps=none", "out=r", "format=h5,nifti"]
    done = command("reconstruct", *call)
    assert "error: 1 of 3 files failed (scans/b.npy), for the reasons above; the same command with out=r " in done.err
    assert done.code == 1 and "Traceback" not in done.out + done.err
    assert "\nscans/b.npy is not a whole .npy file of numbers" in done.out
    assert "2 files reconstructed, 0 finished before, 1 failed; images in r" in done.out
    files = {name: tmp_path / "r" / name for name in ("a.h5", "c.h5", "a.nii.gz", "c.nii.gz")}
    before = {name: path.stat().st_mtime_ns for name, path in files.items()}
    # the broken one is repaired, and one is half finished
    shutil.copy(scans / "a.npy", scans / "b.npy")
    files["c.nii.gz"].unlink()
    done = command("reconstruct", *call)
    assert done.code == 0, done.err
    assert "a.npy is finished: r/a.h5, r/a.nii.gz" in done.out
    assert "2 files reconstructed, 1 finished before, 0 failed" in done.out
    after = {name: path.stat().st_mtime_ns for name, path in files.items()}
    assert {name for name in files if after[name] == before[name]} == {"a.h5", "a.nii.gz"}
    np.testing.assert_allclose(images(tmp_path / "r" / "c.h5")[0], 2 * images(tmp_path / "r" / "a.h5")[0], rtol=1e-5)
    # other settings or slices, and a scan that is newer, are not finished
    assert "3 files reconstructed, 0 finished before" in command("reconstruct", *call, "seed=3").out
    os.utime(scans / "a.npy")
    assert "1 files reconstructed, 2 finished before" in command("reconstruct", *call, "seed=3").out
    done = command("reconstruct", *call, "seed=3", "slices=0")
    assert "3 of 3 files failed" in done.err and done.out.count("holds other slices too (1, 2, 3)") == 3


def test_a_pattern_keeps_the_folders_apart(scans: Path, command: Command, tmp_path: Path) -> None:
    (scans / "b.npy").unlink()
    done = command("reconstruct", "input=scans/**/*.npy", "maps=none", "out=r")
    assert done.code == 0, done.err
    found = sorted(path.relative_to(tmp_path / "r").as_posix() for path in (tmp_path / "r").rglob("*.h5"))
    assert found == ["a.h5", "below/a.h5", "c.h5"]
    np.testing.assert_allclose(
        images(tmp_path / "r" / "below" / "a.h5")[0], 3 * images(tmp_path / "r" / "a.h5")[0], rtol=1e-5
    )


def test_names_that_clash_and_folders_without_a_scan_are_told(scans: Path, command: Command, tmp_path: Path) -> None:
    assert "no file matches input=scans/*.h5" in command("reconstruct", "input=scans/*.h5", "out=r").sentence
    (tmp_path / "empty").mkdir()
    assert "the folder empty has no file ending in .h5" in command("reconstruct", "input=empty", "out=r").sentence
    (scans / "a.h5").write_bytes(b"")
    sentence = command("reconstruct", "input=scans", "out=r").sentence
    assert "the images of scans/a.h5 and scans/a.npy would have the same name; rename one" in sentence
    assert not (tmp_path / "r").exists()


def test_ctrl_c_in_a_folder_keeps_what_is_finished(scans: Path, command: Command, tmp_path: Path) -> None:
    (scans / "b.npy").unlink()
    done = command("reconstruct", "input=scans", "maps=none", "out=r", "recon._target_=failing.Failing",
                   "+recon.error=interrupt")  # fmt: skip
    assert done.code == 130
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["a_unfinished.h5"]
    assert command("reconstruct", "input=scans", "maps=none", "out=r").code == 0
    assert sorted(path.name for path in (tmp_path / "r").glob("*.h5")) == ["a.h5", "c.h5"]
