"""Where the rows run: the device, the sizes, the folders, and what they tell the parent process."""

import gc
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

ROOT = Path(__file__).parents[2]
NEEDS_CUDA = "needs CUDA"

Values = dict[str, float | int | str]
Rows = Mapping[str, Callable[[], Values]]


class FailedError(Exception):
    """A check that did not hold; the message says what was expected."""


class SkippedError(Exception):
    """A row that cannot run here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What all parts share.

    Parameters
    ----------
    device : that everything is held against the CPU on, and timed on.
    dry : tiny sizes, few repeats.
    folder : for data, checkpoints and runs; lies in the output folder.
    peer : a Python that has fastmri, or empty.
    """

    device: str
    dry: bool
    folder: Path
    peer: str = ""

    @property
    def cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return torch.device(self.device).type == "cuda"

    def require_cuda(self) -> None:
        """Skip the row on any other device."""
        if not self.cuda:
            raise SkippedError(NEEDS_CUDA)

    def synchronise(self) -> None:
        """Wait until the device has done all it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give unused memory back and begin to count its peak anew."""
        if self.cuda:
            gc.collect()  # of networks that point to each other
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | str:
        """Most memory in GB that tensors held since :meth:`forget`, as torch's allocator counts it."""
        return round(torch.cuda.max_memory_allocated() / 1e9, 3) if self.cuda else NEEDS_CUDA


def tensor_cores(use: bool) -> None:
    """Let float32 convolutions and matrix products be rounded to TF32, or not; by default torch rounds the former."""
    torch.backends.cudnn.allow_tf32 = use
    torch.backends.cuda.matmul.allow_tf32 = use


def run(rows: Rows, channel: TextIO, setting: Setting) -> None:
    """Run the rows one after the other and write a line of JSON before and after each; one that fails stops no other.

    The traceback of a failure goes to the log.
    """

    def tell(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    torch.ones(1, device=setting.device)  # before it was used, the allocator has no peak to forget
    tell(rows=list(rows))
    for name, row in rows.items():
        tell(begin=name)
        setting.forget()
        try:
            status, values, note = "ok", row(), ""
        except SkippedError as reason:
            status, values, note = "skipped", {}, str(reason)
        except torch.cuda.OutOfMemoryError:
            status, values, note = "skipped", {}, "does not fit into the memory of this device"
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            status, values, note = "failed", {}, f"{type(error).__name__}: {first_line(error)}"
        tell(end=name, status=status, values=values, note=note)


def first_line(error: BaseException) -> str:
    """Return what fits into a table of the message of an error."""
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
