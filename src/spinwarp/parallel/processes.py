"""A job on several processes: which of them this is, that they agree on one folder, and that none outlives the rest.

Lightning starts the processes of a training itself; torchrun or srun may start them for any command.
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

STAMP = "SPINWARP_STAMP"  # the date and time of the run, which names its folder
PARENT = "SPINWARP_PARENT"  # the process that started this one for its training
_STORE_SECONDS = 60


@dataclass(frozen=True)
class Place:
    """Number of this process in the job and on its machine, and how many processes the job has."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1


def place() -> Place:
    """Return where torchrun or srun put this process; one that was started alone is the first of one."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return Place(int(env["RANK"]), int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"]))
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Place(int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"]), int(env["SLURM_STEP_NUM_TASKS"]))
    return Place()


def is_first() -> bool:
    """Say whether this process speaks and writes for the job."""
    return place().rank == 0 and _parent() is None


def _parent() -> int | None:
    """Return the process that started this one for its training, or None."""
    parent = int(os.environ.get(PARENT, os.getpid()))
    return None if parent == os.getpid() else parent


def stamp() -> str:
    """Return the date and time at which the run began; all processes of a job agree on it, and so on its folder."""
    if STAMP not in os.environ:
        now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S") + f"_{os.getpid() % 10000:04d}"
        os.environ[STAMP] = agreed(now)
    return os.environ[STAMP]


def agreed(stamp: str) -> str:
    """Return the stamp of the job that this process belongs to; ``stamp`` if it is alone, or the first to ask.

    Raises
    ------
    InputError : if torchrun gives its processes nothing through which they could agree.
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
    # whoever comes first sets it, the others are told what it is
    return store.compare_set("spinwarp/stamp", "", stamp).decode()


def prepare_process() -> None:
    """Make a process that is not the first quiet, and let it end when what started it has ended.

    Without the latter the processes of a killed training would wait for it.
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
    """End this process, whatever it is doing, once ``parent`` is no longer what started it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        print(f"error: process {parent}, which started this one, has ended, and so does this one", file=sys.stderr)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


@contextmanager
def in_turn() -> Iterator[None]:
    """Let the processes of a job on one machine do something one after another: the first does it, the others find it.

    So no two of them make the same data at once.
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
    """Note in a folder that this process is done; say whether it is the last one of the job that ``stamp`` names."""
    here = place()
    (folder / f"{here.rank}.done").write_text(stamp)
    try:
        if any((folder / f"{rank}.done").read_text() != stamp for rank in range(here.world)):
            return False
        (folder / f"{stamp}.last").touch(exist_ok=False)
    except (FileNotFoundError, FileExistsError):  # of one that is not done yet; another was done at the same moment
        return False
    return True


@contextmanager
def together(world: int, resume: Path) -> Iterator[None]:
    """Turn the error of a process whose peer was lost into a sentence.

    Raises
    ------
    InputError : instead of the error of gloo or NCCL; ``resume`` is the checkpoint to go on from.
    """
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        lost = isinstance(error, DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if world == 1 or not lost:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning's handler would talk to the lost one
        if not is_first():
            raise SystemExit(1) from error  # the first says it for all
        time.sleep(1)  # whoever watches the processes says which one it was
        hint = f"; go on with ckpt_path={resume}" if resume.exists() else ""
        raise InputError(f"another process of this training was lost, so it ends{hint}") from error
