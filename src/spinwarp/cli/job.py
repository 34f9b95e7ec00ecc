"""One evaluation: a method, its data and its protocol, on one process or on several.

Each process takes whole volumes; their results are merged into one folder.
"""

import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from spinwarp.acquisition import Example
from spinwarp.cli import app
from spinwarp.cli.method import build_method
from spinwarp.cli.output import check_room, one_sentence
from spinwarp.cli.progress import slices_progress
from spinwarp.cli.selection import select
from spinwarp.cli.train import build_data
from spinwarp.data.batches import Batch, finished_order, partition
from spinwarp.data.module import SliceDataset
from spinwarp.data.patients import digest, warn_of_shared_patients
from spinwarp.errors import InputError
from spinwarp.evaluation import UNFINISHED, Protocol, evaluate
from spinwarp.parallel import pool, processes
from spinwarp.parallel.pool import Advance
from spinwarp.results import RECONSTRUCTIONS, RESULTS, TARGETS, Row, group_of, read_origin, read_rows
from spinwarp.results.merge import merge

log = logging.getLogger("spinwarp")

PARTS = "parts"  # holds the results of each process until they are merged


def check_processes(config: DictConfig) -> None:
    """Raise an :class:`InputError` if the requested number of processes is impossible."""
    if config.processes < 1:
        raise InputError(f"processes={config.processes} must be at least 1")
    if processes.place().world > 1 and (config.processes > 1 or HydraConfig.get().mode == RunMode.MULTIRUN):
        raise InputError(
            "processes=N and -m start processes and jobs themselves; leave them out under torchrun and srun, or call "
            "evaluate.py without these"
        )


class EvaluationJob:
    """A method, its data and its protocol.

    Parameters
    ----------
    config : of ``evaluate.py``.
    choices : the chosen options of the groups ``recon``, ``mask`` and ``uncertainty``.
    """

    def __init__(self, config: DictConfig, choices: dict[str, str]) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.choices = choices
        self.data = build_data(config)
        method = build_method(config, choices, self.data.eval_mask)
        if method.n_adjacent > self.data.n_adjacent:
            log.info("%s sees %d adjacent slices at once", method.name, method.n_adjacent)
            self.data.n_adjacent = method.n_adjacent
        with processes.in_turn():
            self.data.prepare_data()
        self.volumes = self.data.source.volumes(config.split)
        self.slices, selection = select(self.volumes, config.n_volumes, app.plain(config)["slices"])
        self.method = method.calibrated(config, choices["mask"], self.data.source.name, list(self.slices))
        self.protocol = Protocol(
            method=self.method.name,
            dataset=self.data.source.name,
            split=config.split,
            mask=choices["mask"],
            acceleration_nominal=getattr(self.data.eval_mask, "nominal_acceleration", float("nan")),
            n_slices={name: len(indices) for name, indices in self.slices.items()},
            level=self.method.level,
            crop=config.crop,
            selection=selection,
            trained_on=self.trained_on(),
        )

    def run(self, folder: Path) -> list[Row] | None:
        """Evaluate into a folder. Under torchrun or srun only the last process to finish returns rows, others None."""
        self.check(folder)
        if processes.is_first():
            self.say_first()
        if processes.place().world > 1:
            return self._among_others(folder)
        with slices_progress(sum(self.protocol.n_slices.values()), self.protocol.method) as advance:
            if self.config.processes == 1:
                return self.evaluate(None, folder, self.config.device, advance)
            return self._on_processes(folder, advance)

    def check(self, folder: Path) -> None:
        """Check before the work that ``folder`` has room for the images and holds no other results.

        Raises
        ------
        InputError : if it fails; results of the same method on the same volumes may be overwritten.
        """
        remedy = "give another folder with out=, or remove this one"
        for part in (folder, folder / UNFINISHED):
            images = sorted((part / RECONSTRUCTIONS).rglob("*.h5"))
            # images without rows may come from a run of this method that failed early
            if images and not (part / RESULTS).exists() and read_origin(images[0]) != self.protocol.origin:
                raise InputError(f"{part} holds images of something else, such as {images[0].name}; {remedy}")
            try:
                rows = read_rows(part / RESULTS) if (part / RESULTS).exists() else []
            except InputError as error:
                raise InputError(f"{error}; {remedy}") from error
            for row in rows:
                found, ours = (row.method, group_of(row)), (self.protocol.method, self.protocol.group)
                if found != ours:
                    theirs, mine = (f"{method} on {group}" for method, group in (found, ours))
                    raise InputError(f"{part} holds results of {theirs}, not of {mine}; {remedy}")
        if self.config.save_reconstructions:
            n_pixels = sum(len(self.slices.get(v.name, ())) * math.prod(v.shape[-2:]) for v in self.volumes)
            written = [path for kind in (RECONSTRUCTIONS, TARGETS) for path in (folder / kind).rglob("*.h5")]
            replaced = sum(path.stat().st_size for path in written)
            n_copies = 2 if self.config.report else 1  # the targets too
            check_room(folder, 4 * n_copies * n_pixels - replaced, ", or save_reconstructions=false")

    def evaluate(self, batches: Sequence[Batch] | None, folder: Path, device: str, advance: Advance) -> list[Row]:
        """Evaluate the given batches, or all if None, into a folder."""
        with one_sentence(folder, device, "use data.batch_size=1, or a method that needs less"):
            return evaluate(
                self.method.reconstructor,
                self._loader(batches),
                self.protocol,
                folder,
                n_examples=self.config.n_examples,
                save_reconstructions=self.config.save_reconstructions,
                save_targets=self.config.report and self.config.save_reconstructions,
                device=device,
                seed=self.config.seed,
                advance=advance,
                with_maps=self.data.with_maps,
            )

    def _loader(self, batches: Sequence[Batch] | None = None) -> DataLoader[Example]:
        return self.data.loader(self.config.split, evaluate=True, only=self.slices, batches=batches, maps=False)

    def _batches(self) -> tuple[list[Batch], Callable[[int], str]]:
        """Return all batches, and a function from the index of a slice to the name of its volume."""
        loader = self._loader()
        assert isinstance(loader.dataset, SliceDataset)
        return list(loader.sampler), loader.dataset.volume_of

    def _on_processes(self, folder: Path, advance: Advance) -> list[Row]:
        """Evaluate on processes of this machine; finished volumes are merged even if a process is lost."""
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        n_processes = self.config.processes
        n_threads = torch.get_num_threads() // (1 if "OMP_NUM_THREADS" in os.environ else n_processes)
        plain = app.plain(self.config)
        parts = [
            _Part(plain, self.choices, batches, folder / PARTS / str(i), self._device(i), max(n_threads, 1))
            for i, batches in enumerate(partition(*self._batches(), n_processes))
            if batches
        ]
        if len(parts) < n_processes:
            log.warning(
                "only %d of %d processes have work: there are too few volumes, or batches of data.batch_size=%d span "
                "several volumes",
                len(parts),
                n_processes,
                self.data.batch_size,
            )
        try:
            pool.run(_evaluate_part, parts, advance)
        finally:
            rows = self._merge(folder, len(parts))
        return rows

    def _among_others(self, folder: Path) -> list[Row] | None:
        """Evaluate the part of this process of torchrun or srun; the last to finish merges all and returns the rows.

        Nobody waits for a lost process: the results of the others then stay in the folder of parts.
        """
        place, stamp = processes.place(), app.stamp()
        mine = folder / PARTS / str(place.rank)
        shutil.rmtree(mine, ignore_errors=True)
        mine.mkdir(parents=True)
        batches = partition(*self._batches(), place.world)[place.rank]
        device = self._device(place.local_rank)
        if batches and processes.is_first():
            with slices_progress(sum(map(len, batches)), f"{self.protocol.method}, process 0") as advance:
                self.evaluate(batches, mine, device, advance)
        elif batches:
            self.evaluate(batches, mine, device, lambda _: None)
        if not processes.is_last(folder / PARTS, stamp):
            return None
        log.setLevel(logging.INFO)
        return self._merge(folder, place.world)

    def _merge(self, folder: Path, n_parts: int) -> list[Row]:
        """Merge the result folders of the processes into one."""
        parts = [folder / PARTS / str(i) for i in range(n_parts)]
        order = finished_order(*self._batches())
        rows = merge(parts, folder, order)
        merge([part / UNFINISHED for part in parts], folder / UNFINISHED, order)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        return rows

    def _device(self, local_rank: int) -> str:
        """Return the device of a process; with ``cuda`` the GPUs of the machine are dealt out in turn."""
        name: str = self.config.device
        return f"cuda:{local_rank % torch.cuda.device_count()}" if name == "cuda" else name

    def say_first(self) -> None:
        """Log how targets are cropped and how much of the split is evaluated; warn of leaks."""
        sizes = {(v.shape[-2], v.shape[-1]) for v in self.volumes if v.name in self.slices}
        for h, w in sorted(sizes) if self.config.crop == "fastmri" else []:
            if h > w:
                log.info("the metrics crop targets of %dx%d to %dx%d, like fastMRI's evaluate.py (crop)", h, w, w, w)
            elif h < w:
                log.info("the metrics do not crop targets of %dx%d: the square crop of fastMRI only cuts height", h, w)
        if self.protocol.selection:
            log.info("only part of the %s split is evaluated: %s", self.protocol.split, self.protocol.selection)
        self.warn_of_leaks()

    def warn_of_leaks(self) -> None:
        """Warn if the method was trained on the evaluated volumes or patients, or a patient is in several splits."""
        # the checkpoint knows its patients: listing the training volumes of a large set takes long
        warn_of_shared_patients(self.data.source, ("val", "test"))
        seen = self.protocol.trained_on
        if volumes := sorted(name for name, kind in seen.items() if kind == "volume"):
            log.warning(
                "this checkpoint was trained on %d of the %d volumes that it is evaluated on (%s, ...): these "
                "figures say nothing about new data",
                len(volumes),
                len(self.protocol.n_slices),
                volumes[0],
            )
        if known := sorted({v.patient for v in self.volumes if v.patient and seen.get(v.name) == "patient"}):
            log.warning(
                "this checkpoint was trained on other scans of %d patients that it is evaluated on (%s, ...): "
                "these figures do not hold for new patients",
                len(known),
                known[0],
            )

    def trained_on(self) -> dict[str, str]:
        """Return the evaluated volumes that the method was trained on, or whose patient, see :class:`Row`."""
        record = self.method.record.get("trained_on")
        if not isinstance(record, dict) or record.get("dataset") != self.data.source.name:
            return {}
        names, patients = set(record.get("volumes", [])), set(record.get("patients", []))
        evaluated = [v for v in self.volumes if v.name in self.slices]
        by_patient = [v.name for v in evaluated if v.patient and digest(self.data.source.name, v.patient) in patients]
        return dict.fromkeys(by_patient, "patient") | {v.name: "volume" for v in evaluated if v.name in names}


@dataclass(frozen=True)
class _Part:
    """What one process evaluates, in types that can be pickled."""

    config: dict[str, Any]
    choices: dict[str, str]
    batches: list[Batch]
    folder: Path
    device: str
    n_threads: int


def _evaluate_part(part: _Part, advance: Advance) -> None:
    log.setLevel(logging.ERROR)  # the parent process logs the rest
    torch.set_num_threads(part.n_threads)
    job = EvaluationJob(OmegaConf.create(part.config), part.choices)
    job.evaluate(part.batches, part.folder, part.device, advance)
