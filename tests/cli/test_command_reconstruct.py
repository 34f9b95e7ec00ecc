"""reconstruct.py from end to end: arrays and files, what cannot be reconstructed, and Ctrl-C."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from command_calls import QUIET, ROOT, Command, call, report_of
from PIL import Image

pytestmark = QUIET


@pytest.mark.slow
def test_an_array_is_reconstructed_with_a_checkpoint(
    environment: dict[str, str], trained: Path, measured: Path, tmp_path: Path
) -> None:
    with h5py.File(measured) as file:
        kspace = file["kspace"][()]
    kspace[..., np.arange(64) % 3 > 0] *= np.abs(np.arange(64) - 32)[np.arange(64) % 3 > 0] < 6
    np.save(tmp_path / "scan.npy", kspace)
    overrides = ["recon=checkpoint", f"recon.path={trained / 'checkpoints' / 'last.ckpt'}", "out=result"]
    done = call(environment, ROOT / "reconstruct.py", "input=scan.npy", *overrides, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "realised R 2." in done.out and "central columns" in done.out
    assert sorted(path.name for path in (tmp_path / "result").iterdir()) == ["scan.h5", "scan.png"]
    with h5py.File(tmp_path / "result" / "scan.h5") as file:
        assert list(file) == ["reconstruction"]
        assert file["reconstruction"].shape == (2, 64, 64)
        assert np.isfinite(file["reconstruction"][()]).all() and file["reconstruction"][()].any()
    with Image.open(tmp_path / "result" / "scan.png") as picture:
        picture.verify()


def test_a_file_is_reconstructed_after_further_undersampling(measured: Path, command: Command, tmp_path: Path) -> None:
    done = command("reconstruct", f"input={measured}", "mask=random_4x", "slices=[1]", "maps=none", "out=result")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "result" / "phantom_test_0000.h5") as file:
        assert file["reconstruction"].shape == (1, 64, 64)


def test_the_report_of_a_file_without_reference_has_its_images(
    measured: Path, command: Command, tmp_path: Path
) -> None:
    done = command("reconstruct", f"input={measured}", "report=true", "out=scan")
    assert done.code == 0, done.err
    head = report_of(tmp_path / "scan" / "phantom_test_0000.html")
    assert head["rows"] == [] and head["volumes"][0]["methods"] == ["zero_filled"]


def test_the_reconstruction_of_full_data_is_the_target(measured: Path, command: Command, tmp_path: Path) -> None:
    assert command("reconstruct", f"input={measured}", "out=result").code == 0
    with h5py.File(tmp_path / "result" / "phantom_test_0000.h5") as file, h5py.File(measured) as source:
        target = source["reconstruction_rss"][()]
        # the same transform in single precision
        np.testing.assert_allclose(file["reconstruction"][()], target, rtol=1e-4, atol=1e-5 * target.max())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give the file to reconstruct: reconstruct.py input=FILE recon=METHOD"),
        (["input=nowhere.npy"], "there is no file nowhere.npy"),
        (["input=nowhere.h5"], "there is no file nowhere.h5"),
        (["input=scan.mat"], "scan.mat is empty; copy or download it again"),
        (["input=scan.raw"], "scan.raw is none of the formats that are read"),
        (["input=good.npy", "axes=hw"], "good.npy: its array is 2x32x32; say what its axes are with axes=hwc"),
        (["input=cut.npy"], "cut.npy is not a whole .npy file of numbers"),
        (["input=real.npy"], "real.npy holds float64 of shape (32, 32)"),
        (["input=zero.npy"], "zero.npy has nothing but zeros in its k-space"),
        (["input=nan.npy"], "nan.npy has NaN or infinite k-space in slice 0"),
        (["input=good.npy", "batch_size=0"], "batch_size=0 must be at least 1"),
        (
            ["input=good.npy", "recon=convdecoder", "recon.stop=soon"],
            "stop='soon' is not one of held_out, authors, fixed",
        ),
        (["input=good.npy", "recon=dip", "recon.network.levels=9"], "32x32 is too small for a skip net of 9 levels"),
        (["input=good.npy", "slices=[4]"], "good.npy has slices 0 to 0; slice 4 does not exist"),
        (["input=good.npy", "mask=random_8x", "mask.center_fractions=[0.2]"], "center_fraction=0.2 at acceleration=8"),
        (["input=good.npy", "recon=checkpoint"], "there is no file ''; give the weights as recon.path=FILE"),
        (["input=good.npy", "slices=[]"], "slice"),
        (["input=good.npy", "device=cdua"], "device=cdua cannot be used here"),
    ],
)
def test_what_cannot_be_reconstructed_ends_in_one_sentence(
    command: Command, tmp_path: Path, overrides: list[str], message: str
) -> None:
    good = np.random.RandomState(0).randn(2, 32, 32).astype(np.complex64)
    np.save(tmp_path / "good.npy", good)
    np.save(tmp_path / "real.npy", np.ones((32, 32)))
    np.save(tmp_path / "zero.npy", np.zeros((32, 32), np.complex64))
    np.save(tmp_path / "nan.npy", np.full((32, 32), np.nan, np.complex64))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:500])
    (tmp_path / "scan.mat").write_bytes(b"")
    (tmp_path / "scan.raw").write_bytes(b"raw data")
    done = command("reconstruct", *overrides, "out=result")
    assert message in done.sentence
    assert not (tmp_path / "result").exists()


def test_the_measured_file_is_never_overwritten(command: Command, measured: Path, tmp_path: Path) -> None:
    (tmp_path / "scan.h5").write_bytes(measured.read_bytes())
    command("reconstruct", "input=scan.h5", "out=.")
    assert (tmp_path / "scan.h5").read_bytes() == measured.read_bytes()


@pytest.fixture
def three_slices(tmp_path: Path) -> None:
    """``scan.npy`` in the working folder."""
    noise = torch.randn(3, 2, 32, 30, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "scan.npy", noise.numpy())


def test_slices_given_together_are_reconstructed_as_by_themselves(
    three_slices: None, command: Command, tmp_path: Path
) -> None:
    images = []
    for size in (1, 2):
        assert command("reconstruct", "input=scan.npy", f"batch_size={size}", f"out=by_{size}").code == 0
        with h5py.File(tmp_path / f"by_{size}" / "scan.h5") as file:
            images.append(file["reconstruction"][()])
    assert images[0].shape == (3, 32, 30)
    np.testing.assert_array_equal(*images)


def test_ctrl_c_leaves_the_slices_that_were_reconstructed(
    three_slices: None, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in the middle of the third fit, through the progress that the fit reports."""
    reported: list[float] = []

    def interrupt(done: float, total: float) -> None:
        reported.append(done / total)
        if len(reported) == 7:  # three iterations of two slices, one of the third
            raise KeyboardInterrupt

    monkeypatch.setattr("spinwarp.recon.network_fit.report", interrupt)
    fast = ["recon=convdecoder", "recon.iterations=3", "recon.network.channels=4", "recon.network.layers=3"]
    done = command("reconstruct", "input=scan.npy", *fast, "maps=none", "out=result")
    assert done.code == 130
    assert "interrupted; what was finished is in the run folder" in done.err
    assert [path.name for path in (tmp_path / "result").iterdir()] == ["scan_unfinished.h5"]
    with h5py.File(tmp_path / "result" / "scan_unfinished.h5") as file:
        assert file["reconstruction"].shape == (2, 32, 30)
