import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from spinwarp.data.phantom import source
from spinwarp.data.phantom.source import Phantoms
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc


def small(root: Path, **settings: object) -> Phantoms:
    defaults = {"n_train": 2, "n_val": 1, "n_test": 1, "n_slices": 2, "height": 48, "width": 40, "n_coils": 3}
    return Phantoms(str(root), **{**defaults, **settings})


def all_files(phantoms: Phantoms) -> list[Path]:
    return [path for split in phantoms.folders for path in phantoms.files(split)]


def kspace(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["kspace"][:]


def test_prepare_writes_every_volume_in_the_fastmri_layout(tmp_path: Path) -> None:
    phantoms = small(tmp_path)
    phantoms.prepare()
    assert [p.name for p in phantoms.files("train")] == ["phantom_train_0000.h5", "phantom_train_0001.h5"]
    for split, folder in phantoms.folders.items():
        assert sorted(folder.iterdir()) == phantoms.files(split)
    for path in all_files(phantoms):
        with h5py.File(path) as file:
            assert file["kspace"].shape == (2, 3, 48, 40)
            assert file["kspace"].dtype == np.complex64
            rss = file["reconstruction_rss"][:]
            assert file.attrs["provenance"] == "phantom"
            assert file.attrs["orientation"] == "axial"
            assert file.attrs["acquisition"] in ("T1", "T1GRE", "T2", "PD", "FLAIR")
            assert file.attrs["patient_id"] == path.stem
            coils = ifftc(torch.from_numpy(file["kspace"][:]))
        np.testing.assert_allclose(coils.abs().square().sum(1).sqrt().numpy(), rss, rtol=1e-4, atol=1e-9)


def test_volumes_come_in_different_units(tmp_path: Path) -> None:
    phantoms = small(tmp_path, n_train=6)
    phantoms.prepare()
    peaks = [np.abs(kspace(path)).max() for path in phantoms.files("train")]
    assert max(peaks) < 0.1
    assert max(peaks) > 2 * min(peaks)


def test_the_noise_is_as_strong_as_the_ratio_says(tmp_path: Path) -> None:
    phantoms = small(tmp_path, n_train=1, height=96, width=96, snr=(20.0, 20.0))
    phantoms.prepare()
    images = ifftc(torch.from_numpy(kspace(phantoms.files("train")[0]))).numpy()
    corners = np.concatenate(
        [images[..., a, b] for a in (slice(8), slice(-8, None)) for b in (slice(8), slice(-8, None))]
    )
    rss = np.sqrt((np.abs(images) ** 2).sum(1))
    ratio = rss[rss > 0.1 * rss.max()].mean() / corners.std()
    assert ratio == pytest.approx(20, rel=0.15)  # the threshold falls on noisy pixels; 1500 noise samples: 2 %


def test_a_volume_depends_on_seed_split_and_index_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = small(tmp_path / "a"), small(tmp_path / "b")
    forward.prepare()
    monkeypatch.setattr(source, "track", lambda todo, *_, **__: reversed(todo))
    np.random.seed(99)  # the global stream must not matter
    backward.prepare()
    for one, other in zip(all_files(forward), all_files(backward), strict=True):
        np.testing.assert_array_equal(kspace(one), kspace(other))


def test_splits_volumes_and_seeds_are_all_different(tmp_path: Path) -> None:
    sets = [small(tmp_path, seed=seed) for seed in (0, 1)]
    volumes = []
    for phantoms in sets:
        phantoms.prepare()
        volumes += [kspace(path) for path in all_files(phantoms)]
    assert len({volume.tobytes() for volume in volumes}) == len(volumes) == 8


def test_a_second_prepare_touches_nothing(tmp_path: Path) -> None:
    phantoms = small(tmp_path)
    phantoms.prepare()
    before = {path: path.stat().st_mtime_ns for path in all_files(phantoms)}
    small(tmp_path).prepare()
    assert {path: path.stat().st_mtime_ns for path in all_files(phantoms)} == before


def test_a_missing_volume_is_made_again_exactly(tmp_path: Path) -> None:
    phantoms = small(tmp_path)
    phantoms.prepare()
    lost = phantoms.files("train")[1]
    before = kspace(lost)
    lost.unlink()
    phantoms.prepare()
    np.testing.assert_array_equal(kspace(lost), before)


def test_a_larger_set_keeps_the_volumes_of_a_smaller_one(tmp_path: Path) -> None:
    few, many = small(tmp_path), small(tmp_path, n_train=3)
    few.prepare()
    first = few.files("train")[0].stat().st_mtime_ns
    many.prepare()
    assert many.files("train")[:2] == few.files("train")
    assert many.files("train")[0].stat().st_mtime_ns == first


@pytest.mark.parametrize(
    "other", [{"n_slices": 3}, {"height": 50}, {"width": 50}, {"n_coils": 2}, {"snr": (10, 20)}, {"seed": 1}]
)
def test_other_settings_have_another_folder(tmp_path: Path, other: dict[str, object]) -> None:
    assert small(tmp_path).folders["train"] != small(tmp_path, **other).folders["train"]


def test_a_failure_while_writing_leaves_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantoms = small(tmp_path)
    create = h5py.Group.__setitem__
    written = []

    def stop_in_the_second_file(group: h5py.Group, name: str, value: object) -> None:
        create(group, name, value)
        written.append(name)
        if written.count("kspace") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(h5py.Group, "__setitem__", stop_in_the_second_file)
    with pytest.raises(KeyboardInterrupt):
        phantoms.prepare()
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == phantoms.files("train")[:1]
    phantoms.prepare()
    assert all(kspace(path).shape == (2, 3, 48, 40) for path in all_files(phantoms))


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files_only_and_the_next_run_completes_the_set(tmp_path: Path) -> None:
    settings = {"n_train": 400, "n_val": 0, "n_test": 0, "n_slices": 1}
    script = (
        "import pathlib; from spinwarp.data.phantom import Phantoms; "
        f"Phantoms({str(tmp_path)!r}, height=48, width=40, n_coils=3, **{settings!r}).prepare()"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    many = small(tmp_path, **settings)
    try:
        deadline = time.monotonic() + 60
        while not many.files("train")[2].exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    made = sorted(many.folders["train"].glob("*.h5"))
    assert 3 <= len(made) < 400
    assert all(np.isfinite(kspace(path)).all() for path in made)
    completed = small(tmp_path, **{**settings, "n_train": len(made) + 1})
    completed.prepare()
    fresh = small(tmp_path / "fresh", **{**settings, "n_train": len(made) + 1})
    fresh.prepare()
    for one, other in zip(completed.files("train"), fresh.files("train"), strict=True):
        np.testing.assert_array_equal(kspace(one), kspace(other))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_train": -1}, "no negative number of volumes"),
        ({"n_coils": 0}, "n_coils=0"),
        ({"height": 8}, "height=8"),
        ({"snr": (30, 10)}, "not a range"),
        ({"snr": (0, 10)}, "not a range"),
        ({"snr": (10,)}, "not a range"),
    ],
)
def test_settings_without_sense_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(tmp_path, **settings)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split='training' is not one of train, val, test"):
        small(tmp_path).files("training")
