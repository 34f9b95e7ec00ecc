"""Where evaluate.py and reconstruct.py leave results, and what is checked before the work and kept when it fails."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_calls import Command
from failing import EVALUATE, failing, images

from spinwarp.cli.output import check_room, one_sentence
from spinwarp.errors import InputError


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
