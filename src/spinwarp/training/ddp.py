"""Training on several processes that end together."""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

#: environment variable with the number of the process that started this one
PARENT = "SPINWARP_PARENT"
#: seconds that the first process has to end by itself, its last checkpoint written
GRACE = 20.0

log = logging.getLogger("spinwarp")


class EndTogether(DDPStrategy):
    """Lightning's DDP, whose launcher says which process was lost instead of killing the first one without a word.

    Parameters
    ----------
    timeout : seconds that a process waits for the others in an exchange; the longest validation of the first process
        alone, such as its pictures, has to fit in. One that is killed is noticed at once.
    find_unused_parameters : of :class:`torch.nn.parallel.DistributedDataParallel`; True for networks that leave some of
        their weights out of a step.
    """

    def __init__(self, timeout: float = 600.0, find_unused_parameters: bool = False) -> None:
        super().__init__(timeout=timedelta(seconds=timeout), find_unused_parameters=find_unused_parameters)

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


class _Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine and watches them."""

    def launch(self, function: Callable, *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:  # noqa: ARG002
        """Start the processes, then call the function here."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[PARENT] = str(os.getpid())
            self._call_children_scripts()
            threading.Thread(target=_watch, args=(self.procs,), daemon=True, name="watch").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


def _watch(processes: Sequence[subprocess.Popen]) -> None:
    """Wait until a process fails; say so, and see to it that this one and the others end too."""
    while not any(process.poll() for process in processes):
        if all(process.returncode == 0 for process in processes):
            return
        time.sleep(0.25)
    number, process = next((i, p) for i, p in enumerate(processes, start=1) if p.returncode)
    code = process.returncode
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"failed (exit code {code})"
    log.error("process %d of this training %s, so all of them end", number, how)
    # gloo finds out by itself and raises an error in the main thread; NCCL would wait
    time.sleep(GRACE)
    for process in processes:
        process.kill()
    os._exit(1)
