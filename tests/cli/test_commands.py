"""What the three commands have in common, as a user calls them: help at once, and one sentence for a wrong file."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_calls import QUIET, ROOT, TINY_UNET, Command, call, leftovers

from spinwarp.acquisition import Header
from spinwarp.data.fastmri.layout import write_volume

pytestmark = QUIET


@pytest.mark.parametrize("name", ["train", "evaluate", "reconstruct"])
def test_help_answers_at_once_without_anything_heavy(environment: dict[str, str], name: str) -> None:
    before = os.times()
    done = call(environment, "-X", "importtime", ROOT / f"{name}.py", "--help")
    after = os.times()
    # processor time, which does not depend on what else the machine does
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert done.code == 0
    assert f"spinwarp {name}" in done.out
    group = "recon: annealed_langevin, cg_sense, checkpoint" if name != "train" else "model: "
    assert group in done.out
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.err.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "matplotlib", "h5py", "scipy", "numpy"}
    assert seconds < 2.5  # half a second on a machine of 2024


def knee(root: Path) -> Path:
    """A folder of one healthy volume in each split, as fastMRI is unpacked."""
    rng = np.random.RandomState(0)
    for split in ("train", "val"):
        kspace = rng.randn(3, 2, 64, 64) + 1j * rng.randn(3, 2, 64, 64)
        write_volume(root / f"multicoil_{split}" / "file1.h5", kspace.astype(np.complex64), Header())
    return root


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_kspace(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["kspace"]


def poison(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["kspace"][2, 1, 5, 7] = np.nan


def drop_target(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["reconstruction_rss"]


WRONG_FILES = [
    (truncate, "file1.h5 is truncated or not HDF5"),
    (drop_kspace, "file1.h5 has no dataset 'kspace'"),
    (poison, "file1.h5 has NaN or infinite k-space in slice 2"),
    (drop_target, "file1.h5 has no reference image"),
    (Path.unlink, "split has no .h5 files"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG_FILES)
@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_wrong_file_ends_a_command_in_one_sentence(
    command: Command, tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    root = knee(tmp_path / "knee")
    damage(root / "multicoil_val" / "file1.h5")
    more = [*TINY_UNET, "trainer=debug", "trainer.limit_val_batches=3", "callbacks.progress=null"]
    overrides = more if name == "train" else ["out=result"]
    done = command(name, "data=fastmri_knee_multicoil", f"data.source.files.root={root}", *overrides)
    assert message in done.sentence
    # the slices before are kept, and nothing looks finished
    assert not (tmp_path / "result" / "results.csv").exists()
    assert not {path for path in leftovers(tmp_path) if path.endswith((".part", "best.ckpt"))}


# torch forks its workers; Python from 3.12 on warns of that in a process with threads
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_wrong_file_ends_in_one_sentence_with_workers_too(command: Command, tmp_path: Path) -> None:
    root = knee(tmp_path / "knee")
    poison(root / "multicoil_val" / "file1.h5")
    overrides = ["data=fastmri_knee_multicoil", f"data.source.files.root={root}", "data.num_workers=1"]
    done = command("evaluate", *overrides, "out=result")
    assert "file1.h5 has NaN or infinite k-space in slice 2" in done.sentence
