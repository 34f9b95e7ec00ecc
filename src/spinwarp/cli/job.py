"""One evaluation: a method, its data and its protocol, on one process or on several.

Several processes take whole volumes each, and what they finish becomes one result folder.
"""

import logging
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from spinwarp.acquisition import Example
from spinwarp.cli import app
from spinwarp.cli.output import check_room, one_sentence
from spinwarp.cli.progress import slices_progress
from spinwarp.cli.selection import select
from spinwarp.cli.train import build_data
from spinwarp.data.batches import Batch, finished_order, partition
from spinwarp.data.module import SliceDataset
from spinwarp.data.patients import digest, warn_of_shared_patients
from spinwarp.errors import InputError
from spinwarp.evaluation import UNFINISHED, Protocol, evaluate
from spinwarp.evaluation.conformal import conformal
from spinwarp.parallel import pool, processes
from spinwarp.parallel.pool import Advance
from spinwarp.recon.base import Reconstructor
from spinwarp.results import RECONSTRUCTIONS, RESULTS, Row, group_of, read_origin, read_rows
from spinwarp.results.merge import merge

log = logging.getLogger("spinwarp")

PARTS = "parts"  # the folder of what each process finished, until the parts are merged


def check_processes(config: DictConfig) -> None:
    """Raise an :class:`InputError` if the processes asked for cannot be."""
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
    choices : the options chosen of the groups ``recon``, ``mask`` and ``uncertainty``.
    """

    def __init__(self, config: DictConfig, choices: dict[str, str]) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.choices = choices
        self.data = build_data(config)
        self.reconstructor: Reconstructor = instantiate(config.recon)
        self.record = self.reconstructor.record
        name = config.method or self.record.get("name") or choices["recon"]
        if config.uncertainty:
            self.reconstructor = instantiate(config.uncertainty)(self.reconstructor, mask=self.data.eval_mask)
            name = config.method or f"{name} {choices['uncertainty']}"  # its claims are not the method's own
        with processes.in_turn():
            self.data.prepare_data()
        self.volumes = self.data.source.volumes(config.split)
        self.slices, selection = select(self.volumes, config.n_volumes, app.plain(config)["slices"])
        self.protocol = Protocol(
            method=name,
            dataset=self.data.source.name,
            split=config.split,
            mask=choices["mask"],
            acceleration_nominal=getattr(self.data.eval_mask, "nominal_acceleration", float("nan")),
            n_slices={name: len(indices) for name, indices in self.slices.items()},
            crop=config.crop,
            selection=selection,
        )
        if config.conformal is not None:
            self._scale()

    def _scale(self) -> None:
        """Scale the method's claims by those of a calibration."""
        level = self.config.conformal_level
        self.reconstructor = conformal(
            self.reconstructor,
            self.config.conformal,
            level,
            method=self.protocol.method,
            mask=self.protocol.mask,
            dataset=self.protocol.dataset,
            volumes=list(self.protocol.n_slices),
        )
        # by this name its own calibration.json is not taken for that of the plain method
        self.protocol = replace(self.protocol, method=f"{self.protocol.method} conformal", level=level)

    def run(self, folder: Path) -> list[Row] | None:
        """Evaluate into a folder; None on a process of torchrun or srun that was not the last to finish."""
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
        """Check what can be known before the work: that ``folder`` has room for the images, and no other results.

        Raises
        ------
        InputError : if it has not; results of the same method on the same volumes may be overwritten.
        """
        remedy = "give another folder with out=, or remove this one"
        for part in (folder, folder / UNFINISHED):
            images = sorted((part / RECONSTRUCTIONS).rglob("*.h5"))
            # those of a run that failed before its first row are its own
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
                    raise InputError(f"{part} holds results of {theirs}; those of {mine} go elsewhere: {remedy}")
        if self.config.save_reconstructions:
            n_pixels = sum(len(self.slices.get(v.name, ())) * math.prod(v.shape[-2:]) for v in self.volumes)
            replaced = sum(path.stat().st_size for path in (folder / RECONSTRUCTIONS).rglob("*.h5"))
            check_room(folder, 4 * n_pixels - replaced, ", or save_reconstructions=false")

    def evaluate(self, batches: Sequence[Batch] | None, folder: Path, device: str, advance: Advance) -> list[Row]:
        """Evaluate some batches, or all, into a folder."""
        with one_sentence(folder, device, "use data.batch_size=1, or a method that needs less"):
            return evaluate(
                self.reconstructor,
                self._loader(batches),
                self.protocol,
                folder,
                n_examples=self.config.n_examples,
                save_reconstructions=self.config.save_reconstructions,
                device=device,
                seed=self.config.seed,
                advance=advance,
            )

    def _loader(self, batches: Sequence[Batch] | None = None) -> DataLoader[Example]:
        return self.data.loader(self.config.split, evaluate=True, only=self.slices, batches=batches)

    def _batches(self) -> list[Batch]:
        return list(self._loader().sampler)

    def _volume_of(self, index: int) -> str:
        dataset = self._loader().dataset
        assert isinstance(dataset, SliceDataset)
        return dataset.volume_of(index)

    def _partition(self, n: int) -> list[list[Batch]]:
        """Divide the batches among processes, whole volumes each."""
        return partition(self._batches(), self._volume_of, n)

    def _on_processes(self, folder: Path, advance: Advance) -> list[Row]:
        """Evaluate on processes of this machine; what they finished is merged even if one is lost."""
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        n_processes = self.config.processes
        n_threads = torch.get_num_threads() // (1 if "OMP_NUM_THREADS" in os.environ else n_processes)
        plain = app.plain(self.config)
        parts = [
            _Part(plain, self.choices, batches, folder / PARTS / str(i), self._device(i), max(n_threads, 1))
            for i, batches in enumerate(self._partition(n_processes))
            if batches
        ]
        if len(parts) < n_processes:
            log.warning(
                "only %d of %d processes have something to do: there are too few volumes, or data.batch_size=%d makes "
                "batches across them",
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
        """Evaluate the part of one of torchrun's or srun's processes; the last to finish merges and gets the rows.

        Nobody waits for a process that was lost: what the others finished then stays in the folder of parts.
        """
        place, stamp = processes.place(), app.stamp()
        mine = folder / PARTS / str(place.rank)
        shutil.rmtree(mine, ignore_errors=True)
        mine.mkdir(parents=True)
        batches = self._partition(place.world)[place.rank]
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
        """Make one result folder of those of the processes."""
        parts = [folder / PARTS / str(i) for i in range(n_parts)]
        order = finished_order(self._batches(), self._volume_of)
        rows = merge(parts, folder, order)
        merge([part / UNFINISHED for part in parts], folder / UNFINISHED, order)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        return rows

    def _device(self, local_rank: int) -> str:
        """Give each process of a machine a GPU of its own, as far as there are any."""
        name: str = self.config.device
        return f"cuda:{local_rank % torch.cuda.device_count()}" if name == "cuda" else name

    def say_first(self) -> None:
        """Say what part of the targets is judged, how much of the split is evaluated, and warn of leaks."""
        sizes = {(v.shape[-2], v.shape[-1]) for v in self.volumes if v.name in self.slices}
        for h, w in sorted(sizes) if self.config.crop == "fastmri" else []:
            if h > w:
                log.info("targets of %dx%d are judged inside %dx%d, as by fastMRI's evaluate.py (crop)", h, w, w, w)
            elif h < w:
                log.info("targets of %dx%d are judged whole: the square crop of fastMRI only cuts height", h, w)
        if self.protocol.selection:
            log.info("not the whole %s split is evaluated: %s", self.protocol.split, self.protocol.selection)
        self.warn_of_leaks()

    def warn_of_leaks(self) -> None:
        """Say so if the method was trained on what it is evaluated on, or one patient is in several splits."""
        # the patients of training come with the checkpoint: to list its volumes may take long on a large set
        warn_of_shared_patients(self.data.source, ("val", "test"))
        trained_on, volumes = self.record.get("trained_on"), self.protocol.n_slices
        if isinstance(trained_on, dict) and trained_on.get("dataset") == self.data.source.name:
            seen = sorted(set(volumes) & set(trained_on.get("volumes", [])))
            if seen:
                log.warning(
                    "this checkpoint was trained on %d of the %d volumes that it is evaluated on (%s, ...): these "
                    "figures say nothing about new data",
                    len(seen),
                    len(volumes),
                    seen[0],
                )
            others = self.data.source.volumes(self.config.split)
            patients = {v.patient for v in others if v.patient and v.name not in seen}
            trained = set(trained_on.get("patients", []))
            if known := sorted(p for p in patients if digest(self.data.source.name, p) in trained):
                log.warning(
                    "this checkpoint was trained on other scans of %d patients that it is evaluated on (%s, ...): "
                    "these figures are not those of new patients",
                    len(known),
                    known[0],
                )


@dataclass(frozen=True)
class _Part:
    """What one process evaluates, as plain Python."""

    config: dict[str, Any]
    choices: dict[str, str]
    batches: list[Batch]
    folder: Path
    device: str
    n_threads: int


def _evaluate_part(part: _Part, advance: Advance) -> None:
    log.setLevel(logging.ERROR)  # the first process has said the rest
    torch.set_num_threads(part.n_threads)
    job = EvaluationJob(OmegaConf.create(part.config), part.choices)
    job.evaluate(part.batches, part.folder, part.device, advance)
