"""Training on several processes that end together."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta

from spinwarp.lightning_internals import LaunchingDDP
from spinwarp.renamed import old_names

#: seconds that the first process has to write its last checkpoint and end by itself
GRACE = 20.0

log = logging.getLogger("spinwarp")


class WatchedDDP(LaunchingDDP):
    """Lightning's DDP with a log line that names the process that was lost; Lightning ends the others without a word.

    Parameters
    ----------
    timeout : seconds that a process waits for the others in an exchange. What the first process does alone, such as
        drawing pictures after a validation, must not take longer. A killed process is noticed at once.
    find_unused_parameters : of :class:`torch.nn.parallel.DistributedDataParallel`; True for networks that do not use
        all of their weights in every step.
    """

    def __init__(self, timeout: float = 600.0, find_unused_parameters: bool = False) -> None:
        super().__init__(timeout=timedelta(seconds=timeout), find_unused_parameters=find_unused_parameters)

    def watch(self, processes: Sequence[subprocess.Popen]) -> None:
        """Wait until a process fails; say so, then end this one and the others."""
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


__getattr__ = old_names(__name__, EndTogether="spinwarp.training.ddp.WatchedDDP")
