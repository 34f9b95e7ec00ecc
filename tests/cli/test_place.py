"""Where evaluate.py and reconstruct.py leave results, and what is checked before the work and kept when it fails."""

import errno
import os
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from command_calls import Command, folders
from torch import Generator

from spinwarp.acquisition import Acquisition, Reconstruction
from spinwarp.cli.output import check_room, one_sentence
from spinwarp.errors import InputError
from spinwarp.recon import Reconstructor, ZeroFilled
from spinwarp.results import read_rows

EVALUATE = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 1, "n_val": 1, "n_test": 3, "n_slices": 2, "height": 64, "width": 48, "n_coils": 2,
}.items()] + ["mask=random_2x", "save_reconstructions=true"]  # fmt: skip


class Failing(Reconstructor):
    """Zero-filled, until its third call."""

    def __init__(self, error: str, pocs: int = 0) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        self.calls += 1
        result = ZeroFilled()(acquisition)
        if self.calls < 3:
            return result
        if self.error == "diverged":
            return Reconstruction(result.image * torch.nan)
        raise {
            "input": InputError("this slice is odd"),
            "memory": torch.OutOfMemoryError("CUDA out of memory"),
            "interrupt": KeyboardInterrupt(),
            "disk": OSError(errno.ENOSPC, "No space left on device"),
            "bug": ZeroDivisionError("a bug"),
        }[self.error]


def failing(error: str) -> list[str]:
    return ["recon._target_=test_place.Failing", f"+recon.error={error}"]


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


def images(path: Path) -> tuple[np.ndarray, list[int]]:
    with h5py.File(path) as file:
        return file["reconstruction"][()], file["reconstruction"].attrs["slices"].tolist()


def test_a_slice_of_zeros_has_an_image_of_zeros(scan: np.ndarray, command: Command, tmp_path: Path) -> None:
    done = command("reconstruct", "input=scan.npy", "maps=none", "out=r", "batch_size=2")
    assert done.code == 0, done.err
    assert "scan.npy, slice 1, has only zeros in k-space, so its image is zero" in done.out
    found, indices = images(tmp_path / "r" / "scan.h5")
    assert indices == [0, 1, 2, 3]
    assert not found[1].any() and all(found[i].any() for i in (0, 2, 3))


def test_slices_of_an_earlier_call_are_not_lost_to_one_that_makes_others(
    scan: np.ndarray, command: Command, tmp_path: Path
) -> None:
    assert command("reconstruct", "input=scan.npy", "maps=none", "out=r", "slices=[0,2]").code == 0
    done = command("reconstruct", "input=scan.npy", "maps=none", "out=r", "slices=2")
    assert done.code == 1
    assert "scan.h5 holds other slices too (0), which would be lost; give another folder with out=" in done.err
    assert images(tmp_path / "r" / "scan.h5")[1] == [0, 2]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("input", "this slice is odd; "),
        ("diverged", "the method returned NaN or infinite values for slices [3]; "),
        ("memory", "the memory of device=cpu is too small for this method; use batch_size=1"),
        ("disk", "results cannot be written to r: the disk is full or read-only; make room"),
    ],
)
def test_the_slices_before_one_that_fails_are_kept_and_named(
    scan: np.ndarray, command: Command, tmp_path: Path, error: str, message: str
) -> None:
    sentence = command("reconstruct", "input=scan.npy", "maps=none", "out=r", *failing(error)).sentence
    assert message in sentence
    assert "slices 0, 1, 2 are finished; their images are in r/scan_unfinished.h5" in sentence
    found, indices = images(tmp_path / "r" / "scan_unfinished.h5")
    assert indices == [0, 1, 2] and found[2].any()
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["scan_unfinished.h5"]


def test_ctrl_c_and_a_bug_keep_slices_too(scan: np.ndarray, command: Command, tmp_path: Path) -> None:
    assert command("reconstruct", "input=scan.npy", "maps=none", "out=r", *failing("interrupt")).code == 130
    assert images(tmp_path / "r" / "scan_unfinished.h5")[1] == [0, 1, 2]
    assert command("reconstruct", "input=scan.npy", "maps=none", "out=s", *failing("bug")).code == 1
    assert images(tmp_path / "s" / "scan_unfinished.h5")[1] == [0, 1, 2]
    # another method leaves them alone
    assert (
        "scan_unfinished.h5 holds other images"
        in command("reconstruct", "input=scan.npy", "out=r", "recon=tv").sentence
    )


def test_other_images_are_not_overwritten_but_those_of_the_same_call_are(
    scan: np.ndarray, command: Command, tmp_path: Path
) -> None:
    call = ["input=scan.npy", "maps=none", "out=r", "slices=2:"]
    for _ in range(2):
        assert command("reconstruct", *call).code == 0
    assert images(tmp_path / "r" / "scan.h5")[1] == [2, 3]
    before = (tmp_path / "r" / "scan.h5").read_bytes()
    assert "holds other images (input" in command("reconstruct", *call, "mask=random_2x").sentence
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "scan.npy", tmp_path / "b" / "scan.npy")
    assert "give another folder with out=" in command("reconstruct", *call, "input=b/scan.npy").sentence
    assert (tmp_path / "r" / "scan.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ("[4]", "scan.npy has slices 0 to 3; slice 4 does not exist"),
        ("4:", "scan.npy has slices 0 to 3; slices=4: does not exist"),
        ("3:3", "slices=3:3 contains no slice"),
        ("[-1]", "has a negative index"),
        ("[1,1]", "names a slice twice"),
        ("last", "slices=last is not a range; give slices=START:STOP"),
    ],
)
def test_slices_that_do_not_exist_are_told_before_the_work(
    scan: np.ndarray, command: Command, tmp_path: Path, slices: str, message: str
) -> None:
    assert message in command("reconstruct", "input=scan.npy", "out=r", f"slices={slices}").sentence
    assert not (tmp_path / "r").exists()


def test_a_place_that_cannot_hold_files_is_told_before_the_work(
    scan: np.ndarray, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for name, *call in (["reconstruct", "input=scan.npy"], ["evaluate", *EVALUATE]):
        for out in ("file", "file/below", "/proc/nowhere"):
            sentence = command(name, *call, f"out={out}").sentence
            assert f"results cannot be written to {out}: " in sentence and "out=" in sentence
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        with monkeypatch.context() as patch:
            patch.setattr("spinwarp.cli.output.shutil.disk_usage", lambda _, usage=usage: usage)
            assert "GB left; make room" in command(name, *call, "maps=none" if name[0] == "r" else "seed=0").sentence
    check_room(tmp_path / "new" / "parents")
    assert not (tmp_path / "new").exists()


def test_what_is_not_about_disk_or_memory_stays_what_it_is(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "x"), RuntimeError("a bug")):
        with pytest.raises(type(error)), one_sentence(tmp_path, "cpu", "less"):
            raise error
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/data/file.h5")
    with pytest.raises(PermissionError), one_sentence(tmp_path, "cpu", "less"):
        raise elsewhere
    blocked = FileExistsError(errno.EEXIST, "File exists", str(tmp_path / "reconstructions"))
    with pytest.raises(InputError, match=r"reconstructions.*give another"), one_sentence(tmp_path, "cpu", "less"):
        raise blocked
    closing = RuntimeError("Can't decrement id ref count (file write failed: errno = 28, No space left on device)")
    with pytest.raises(InputError, match="the disk is full"), one_sentence(tmp_path, "cpu", "less"):
        raise closing
    full = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    with pytest.raises(InputError, match="memory of device=cpu is too small"), one_sentence(tmp_path, "cpu", "less"):
        raise RuntimeError(full)


def test_slices_that_are_not_made_again_are_not_overwritten(scan: np.ndarray, command: Command, tmp_path: Path) -> None:
    call = ["input=scan.npy", "maps=none", "out=r"]
    assert command("reconstruct", *call, "slices=[1,2]").code == 0
    sentence = command("reconstruct", *call, "slices=2").sentence
    assert "scan.h5 holds other slices too (1), which would be lost; give another folder with out=" in sentence
    assert images(tmp_path / "r" / "scan.h5")[1] == [1, 2]
    assert command("reconstruct", *call).code == 0
    assert images(tmp_path / "r" / "scan.h5")[1] == list(range(len(scan)))
    assert command("reconstruct", *call[:2], "out=s", "slices=2").code == 0
    assert images(tmp_path / "s" / "scan.h5")[1] == [2]


# --------------------------------------------------------------------------------------------------- evaluate.py


def test_part_of_a_split_is_evaluated_and_named_everywhere(command: Command, tmp_path: Path) -> None:
    done = command("evaluate", *EVALUATE, "n_volumes=2", "slices=[1]", "out=part", "by=contrast")
    assert done.code == 0, done.err
    assert "split test (2 of 3 volumes, slices 1)" in done.out and "contrast T1" in done.out
    rows = read_rows(tmp_path / "part" / "results.csv")
    assert [row.volume[-7:-3] for row in rows] == ["0000", "0001"]
    assert {(row.split, row.selection, row.n_slices, row.crop) for row in rows} == {
        ("test", "2 of 3 volumes, slices 1", 1, "48x48")
    }
    assert all(row.contrast for row in rows)
    assert images(tmp_path / "part" / "reconstructions" / rows[0].volume)[1] == [1]
    assert len({row.volume for row in rows}) == 2
    # nothing was left out: the whole, whatever is asked for
    done = command("evaluate", *EVALUATE, "n_volumes=9", "slices=:8", "out=whole", "crop=none")
    whole = read_rows(tmp_path / "whole" / "results.csv")
    assert {(row.selection, row.n_slices, row.crop) for row in whole} == {("", 2, "64x48")}
    # the whole is not mixed with the part, nor one method with another; the same call may be repeated
    for other in (["slices=[1]"], ["n_volumes=2"], ["n_volumes=2", "slices=[1]", "method=new"]):
        assert (
            "part holds results of zero_filled on phantom"
            in command("evaluate", *EVALUATE, *other, "out=part").sentence
        )
    assert command("evaluate", *EVALUATE, "n_volumes=2", "slices=[1]", "out=part").code == 0
    # images without a row are of a run that failed early: its own, or another's
    (tmp_path / "part" / "results.csv").unlink()
    assert command("evaluate", *EVALUATE, "n_volumes=2", "slices=[1]", "out=part").code == 0
    (tmp_path / "part" / "results.csv").unlink()
    assert "part holds images of something else" in command("evaluate", *EVALUATE, "out=part").sentence


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n_volumes=0"], "n_volumes=0 must be at least 1"),
        (["slices=[0,5]"], "no volume has slices=[0, 5]; the longest has slices 0 to 1"),
        (["crop=square"], "crop=square is not fastmri or none"),
        (["by=colour"], "by=colour is not contrast or null"),
    ],
)
def test_a_selection_that_cannot_be_is_told(command: Command, overrides: list[str], message: str) -> None:
    assert message in command("evaluate", *EVALUATE, *overrides, "out=r").sentence


@pytest.mark.parametrize("error", ["diverged", "memory"])
def test_an_evaluation_that_fails_keeps_the_slices_before(command: Command, tmp_path: Path, error: str) -> None:
    assert command("evaluate", *EVALUATE, "slices=[0,1]", *failing(error), "out=r").code == 1
    (row,) = read_rows(tmp_path / "r" / "results.csv")
    assert row.n_slices == 2  # of the first volume; the first slice of the second failed


# ------------------------------------------------------------------------------------------ formats, many files


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
    done = command("reconstruct", "input=scans", "maps=none", "out=r", "recon._target_=test_place.Failing",
                   "+recon.error=interrupt")  # fmt: skip
    assert done.code == 130
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["a_unfinished.h5"]
    assert command("reconstruct", "input=scans", "maps=none", "out=r").code == 0
    assert sorted(path.name for path in (tmp_path / "r").glob("*.h5")) == ["a.h5", "c.h5"]


# ------------------------------------------------------------------------------------------- own maps and masks


def test_own_maps_and_an_own_mask_are_what_the_method_gets(command: Command, tmp_path: Path) -> None:
    """Two slices with maps of their own; the answer of CG-SENSE is computed from its operator written out."""
    rng = np.random.default_rng(3)
    maps = (rng.normal(size=(2, 3, 16, 12)) + 1j * rng.normal(size=(2, 3, 16, 12))).astype(np.complex64)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(1, keepdims=True))
    truth = rng.normal(size=(2, 16, 12)) + 1j * rng.normal(size=(2, 16, 12))
    shift = lambda function, x: np.fft.fftshift(function(np.fft.ifftshift(x, (-2, -1)), norm="ortho"), (-2, -1))  # noqa: E731
    mask = np.arange(12) % 2 == 0
    np.save(tmp_path / "scan.npy", shift(np.fft.fft2, maps * truth[:, None]).astype(np.complex64))
    np.save(tmp_path / "maps.npy", maps)
    np.save(tmp_path / "mask.npy", mask)
    call = ["input=scan.npy", "recon=cg_sense", "recon.weight=0", "mask=file", "mask.path=mask.npy"]
    done = command("reconstruct", *call, "recon.maps=maps.npy", "out=r")
    assert done.code == 0, done.err
    # three coils at twice the speed: the least squares problem has one solution, the truth
    np.testing.assert_allclose(images(tmp_path / "r" / "scan.h5")[0], np.abs(truth), atol=1e-3)
    with h5py.File(tmp_path / "r" / "scan.h5") as file:
        assert file.attrs["mask"] == "file mask.npy"
    assert (
        "recon.maps=eslirit is not one of espirit, low_resolution, given, and there is no such file"
        in command("reconstruct", *call, "recon.maps=eslirit", "out=s").sentence
    )
    assert (
        "maps=no is not low_resolution, espirit or none, nor a file or folder"
        in command("reconstruct", *call, "maps=no", "out=s").sentence
    )
    assert not (tmp_path / "s").exists()


def test_an_evaluation_takes_own_maps_and_an_own_mask_too(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.arange(48) % 2 == 0)
    maps = np.ones((2, 64, 48), np.complex64)
    np.save(tmp_path / "maps.npy", maps)
    own = ["mask=file", "mask.path=mask.npy", "n_volumes=1", "recon=cg_sense", "recon.weight=0.01"]
    done = command("evaluate", *EVALUATE[:-2], *own, "recon.maps=maps.npy", "out=r")
    assert done.code == 0, done.err
    assert "maps.npy: the squares of its maps do not add up to one" in done.out
    (row,) = read_rows(tmp_path / "r" / "results.csv")
    assert row.mask == "file mask.npy" and row.acceleration == pytest.approx(2)
    np.save(tmp_path / "maps.npy", maps[..., :-1])
    sentence = command("evaluate", *EVALUATE[:-2], *own, "recon.maps=maps.npy", "out=s").sentence
    assert "maps.npy holds maps (coil, h, w) of (2, 64, 47); k-space is (2, 64, 48)" in sentence
