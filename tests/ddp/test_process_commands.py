"""The commands on several processes: one folder, one result, and one end."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).parents[2]
TINY = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 3, "n_val": 1, "n_test": 3, "n_slices": 2, "height": 48, "width": 48, "n_coils": 2,
}.items()]  # fmt: skip
# random weights, fitted from two seeds each, so that there is a deviation
RANDOM = [
    "recon=convdecoder", "recon.iterations=3", "recon.network.channels=4", "recon.n_seeds=2",
    "recon.maps=low_resolution",
]  # fmt: skip
LONG = [
    "model=unet_small", "model.net.channels=4", "model.net.pools=2", "trainer=ddp", "trainer.accelerator=cpu",
    "trainer.devices=2", "trainer.max_epochs=100000", "trainer.log_every_n_steps=1", "callbacks.progress=null",
    "callbacks.early_stopping=null",
]  # fmt: skip

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("processes")
    removed = ("HYDRA_FULL_ERROR", "SPINWARP_STAMP", "SPINWARP_PARENT")
    return {k: v for k, v in os.environ.items() if k not in removed} | {
        "SPINWARP_DATA": str(root / "data"), "SPINWARP_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1",
        "COLUMNS": "200", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip


def call(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, text=True, capture_output=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def one(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process finds."""
    folder = tmp_path_factory.mktemp("one")
    call(environment, ROOT / "evaluate.py", *TINY, *RANDOM, f"out={folder}")
    return folder


def assert_same(folder: Path, expected: Path) -> None:
    """The same files, rows but for their seconds, and images bit for bit."""
    assert rows(folder) == rows(expected)
    assert files(folder) == files(expected)
    for name in files(expected):
        if name.suffix == ".h5":
            assert images(folder / name) == images(expected / name)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as stream:
        return [{k: v for k, v in row.items() if k != "seconds_per_slice"} for row in csv.DictReader(stream)]


def files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(p.relative_to(folder) for p in found if p.suffix != ".log" and ".hydra" not in p.parts)


def images(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with h5py.File(path) as file:
        file.visititems(lambda key, item: found.update({key: item[()].tobytes()} if hasattr(item, "dtype") else {}))
    assert found
    return found


def test_two_processes_write_the_results_of_one(environment: dict[str, str], one: Path, tmp_path: Path) -> None:
    call(environment, ROOT / "evaluate.py", *TINY, *RANDOM, f"out={tmp_path}", "processes=2")
    assert len(list((one / "reconstructions").iterdir())) == 3
    assert_same(tmp_path, one)


def test_four_processes_of_torchrun_one_without_a_volume_agree_on_one_folder(
    environment: dict[str, str], one: Path, tmp_path: Path
) -> None:
    done = call(
        {**environment, "SPINWARP_RUNS": str(tmp_path)},
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", ROOT / "evaluate.py", *TINY, *RANDOM,
    )  # fmt: skip
    (folder,) = (tmp_path / "evaluate").iterdir()
    assert_same(folder, one)
    assert done.stdout.count("PSNR") == 1


class Training:
    """A long training of two processes, started by Lightning."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.folder, self.errors = folder, folder / "errors.txt"
        with self.errors.open("w") as errors, (folder / "output.txt").open("w") as output:
            self.main = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *TINY, *LONG],
                env={**environment, "SPINWARP_RUNS": str(folder / "runs")},
                stdout=output, stderr=errors,
            )  # fmt: skip
        self.child = 0

    def wait_for_an_epoch(self) -> None:
        deadline = time.monotonic() + 300
        while not list(self.folder.glob("runs/train/*/checkpoints/last.ckpt")):
            assert self.main.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (self.child,) = self.children()

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self.main.pid}/task").glob("*/children")
        return [int(pid) for path in listed for pid in path.read_text().split()]

    def is_over_within_a_minute(self) -> bool:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.main.poll() is not None and not _runs(self.child):
                return True
            time.sleep(0.2)
        return False


def _runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def training(environment: dict[str, str], tmp_path: Path) -> Iterator[Training]:
    started = Training(environment, tmp_path)
    yield started
    for pid in (started.main.pid, started.child):
        if pid and _runs(pid):
            os.kill(pid, signal.SIGKILL)
    started.main.wait()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes under /proc")
def test_a_killed_process_ends_the_training_with_a_message(training: Training) -> None:
    training.wait_for_an_epoch()
    (folder,) = (training.folder / "runs" / "train").iterdir()
    assert [path.name for path in folder.glob("*.log")] == ["train.log"]
    output = (training.folder / "output.txt").read_text()
    assert output.count("run folder") == 1
    assert "effective batch size 2 (2 processes x batch 1 x accumulation 1), learning rate 0.001" in output
    os.kill(training.child, signal.SIGKILL)
    assert training.is_over_within_a_minute()
    assert training.main.returncode == 1
    output = (training.folder / "output.txt").read_text()
    assert "process 1 of this training was killed (SIGKILL)" in output
    errors = training.errors.read_text()
    assert f"error: another process of this training was lost, so it ends; continue with ckpt_path={folder}" in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes under /proc")
def test_nothing_outlives_a_killed_first_process(training: Training) -> None:
    training.wait_for_an_epoch()
    training.main.kill()
    assert training.is_over_within_a_minute()
