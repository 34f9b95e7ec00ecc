"""A job on several processes: which one this is, how they agree on one folder, and how they end together.

Lightning starts the processes of a training itself; torchrun or srun can start them for any command.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from spinwarp.errors import InputError

STAMP = "SPINWARP_STAMP"  # date and time of the run, in the name of its folder
PARENT = "SPINWARP_PARENT"  # the process that started this one for its training
_STORE_SECONDS = 60


@dataclass(frozen=True)
class Place:
    """Number of this process in the job and on its machine, and number of processes of the job."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1


def place() -> Place:
    """Return the place that torchrun or srun gave this process; a process started alone is the first of one."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return Place(int(env["RANK"]), int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"]))
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Place(int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"]), int(env["SLURM_STEP_NUM_TASKS"]))
    return Place()


def is_first() -> bool:
    """Whether this process prints and writes for the job."""
    return place().rank == 0 and _parent() is None


def _parent() -> int | None:
    """Return the process whose training started this one, or None."""
    parent = int(os.environ.get(PARENT, os.getpid()))
    return None if parent == os.getpid() else parent


def stamp() -> str:
    """Return the date and time at which the run began; all processes of a job agree on it and on its folder."""
    if STAMP not in os.environ:
        now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S") + f"_{os.getpid() % 10000:04d}"
        os.environ[STAMP] = agreed(now)
    return os.environ[STAMP]


def agreed(stamp: str) -> str:
    """Return the stamp of the job: ``stamp`` if this process is alone or the first to ask.

    Raises
    ------
    InputError : if torchrun provides no store through which its processes can agree.
    """
    env = os.environ
    if place().world == 1:
        return stamp
    if "TORCHELASTIC_RUN_ID" not in env:
        return f"slurm_{env['SLURM_JOB_ID']}_{env['SLURM_STEP_ID']}"
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise InputError(f"the processes of torchrun cannot agree on a folder; set the environment variable {STAMP}")
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(
        env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=_STORE_SECONDS)
    )
    # the first process sets it, the others read it
    return store.compare_set("spinwarp/stamp", "", stamp).decode()


def prepare_process() -> None:
    """Silence a process that is not the first, and let it end with the process that started it.

    Otherwise the processes of a killed training would wait for it forever.
    """
    if not is_first():
        root = logging.getLogger()
        for handler in [h for h in root.handlers if isinstance(h, logging.FileHandler)]:
            root.removeHandler(handler)
        root.setLevel(logging.ERROR)
    parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else _parent()
    if parent is not None:
        end_with(parent)


def end_with(parent: int) -> None:
    """End this process, whatever it is doing, once ``parent`` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        print(f"error: process {parent}, which started this one, has ended; this one ends too", file=sys.stderr)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


@contextmanager
def in_turn() -> Iterator[None]:
    """Let the processes of a job on one machine run the block one after another.

    The first then makes the data, and the others find them.
    """
    if place().world == 1:
        yield
        return
    import fcntl

    path = Path(tempfile.gettempdir()) / f"spinwarp-{os.getuid()}-{os.environ.get(STAMP, '')}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_last(folder: Path, stamp: str) -> bool:
    """Mark in a folder that this process is done; return whether it is the last one of the job named ``stamp``."""
    here = place()
    (folder / f"{here.rank}.done").write_text(stamp)
    try:
        if any((folder / f"{rank}.done").read_text() != stamp for rank in range(here.world)):
            return False
        (folder / f"{stamp}.last").touch(exist_ok=False)
    except (FileNotFoundError, FileExistsError):  # one is not done yet; another finished at the same moment
        return False
    return True


@contextmanager
def together(world: int, resume: Path) -> Iterator[None]:
    """Turn the error that follows the loss of another process into one sentence.

    Raises
    ------
    InputError : instead of the error of gloo or NCCL; ``resume`` is the checkpoint to continue from.
    """
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        lost = isinstance(error, DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if world == 1 or not lost:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning's handler would wait for the lost one
        if not is_first():
            raise SystemExit(1) from error  # the first reports it
        time.sleep(1)  # the launcher's message about the lost process comes first
        hint = f"; continue with ckpt_path={resume}" if resume.exists() else ""
        raise InputError(f"another process of this training was lost, so it ends{hint}") from error
