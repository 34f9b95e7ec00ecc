"""What ``evaluate.py`` evaluates on what, built from the configuration: the same on every process."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from spinwarp.acquisition import Example
from spinwarp.cli import configuration, processes
from spinwarp.cli.conformal import conformal
from spinwarp.cli.output import check_room, one_sentence
from spinwarp.cli.selection import select
from spinwarp.cli.train import build_data
from spinwarp.data.patients import digest, warn_of_shared_patients
from spinwarp.errors import InputError
from spinwarp.evaluation import UNFINISHED, Protocol, evaluate
from spinwarp.recon.base import Reconstructor
from spinwarp.results import RECONSTRUCTIONS, RESULTS, Row, group_of, read_origin, read_rows

log = logging.getLogger("spinwarp")


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
        self.data = build_data(config)
        self.reconstructor: Reconstructor = instantiate(config.recon)
        self.record: dict[str, Any] = getattr(self.reconstructor, "record", {})
        name = config.method or self.record.get("name") or choices["recon"]
        if config.uncertainty:
            self.reconstructor = instantiate(config.uncertainty)(self.reconstructor, mask=self.data.eval_mask)
            name = config.method or f"{name} {choices['uncertainty']}"  # its claims are not the method's own
        with processes.in_turn():
            self.data.prepare_data()
        self.volumes = self.data.source.volumes(config.split)
        self.slices, selection = select(self.volumes, config.n_volumes, configuration.plain(config)["slices"])
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

    def loader(self) -> DataLoader[Example]:
        """Return the batches of all volumes that are evaluated."""
        return self.data.loader(self.config.split, evaluate=True, only=self.slices)

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

    def evaluate(
        self, batches: Iterable[Example], folder: Path, device: str, advance: Callable[[float], None]
    ) -> list[Row]:
        """Evaluate batches into a folder."""
        with one_sentence(folder, device, "use data.batch_size=1, or a method that needs less"):
            return evaluate(
                self.reconstructor,
                batches,
                self.protocol,
                folder,
                n_examples=self.config.n_examples,
                save_reconstructions=self.config.save_reconstructions,
                device=device,
                seed=self.config.seed,
                advance=advance,
            )

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
