"""``reconstruct.py``: reconstruct files of measured k-space, without reference images."""

import hashlib
import json
import logging
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from spinwarp.cli import app

if TYPE_CHECKING:
    from torch import Tensor

    from spinwarp.cli.method import Method
    from spinwarp.data.given import GivenMaps
    from spinwarp.data.undersample import Undersample

log = logging.getLogger("spinwarp")
_Format = Literal["h5", "nifti", "dicom", "png"]
TYPES = {
    "input": str | None,
    "variable": str | None,
    "axes": str | None,
    "slices": list[int] | str | int | None,
    "batch_size": int,
    "maps": str,
    "out": str | None,
    "format": list[_Format] | _Format,
    "report": bool,
    "patient": dict,
    "conformal": str | None,
    "conformal_level": float,
    "device": str,
    "seed": int,
}
_ELSEWHERE = ("input", "out", "slices", "format", "report", "patient", "device")  # keys that do not change the images


def main() -> None:
    """Entry point of ``spinwarp-reconstruct``."""
    app.run("reconstruct", reconstruct, TYPES)


def reconstruct(config: DictConfig) -> None:
    """Reconstruct a file, or each file of a folder or pattern; write the images and a picture ``<name>.png``.

    The images include the standard deviation if the method predicts one, and with ``conformal`` the half width of the
    intervals. A slice of zeros becomes an image of zeros. If a file fails or Ctrl-C comes, its finished slices are in
    ``<name>_unfinished.h5``. Of several files, finished ones are left as they are, and one that fails does not stop the
    others.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from spinwarp.cli.inputs import measured_files
    from spinwarp.cli.method import build_method, hand_over_maps, named_choices
    from spinwarp.cli.output import check_room
    from spinwarp.data.given import GivenMaps
    from spinwarp.data.undersample import MAPS, Undersample
    from spinwarp.errors import InputError

    if config.input is None:
        raise InputError("give the file to reconstruct: reconstruct.py input=FILE recon=METHOD")
    if config.batch_size < 1:
        raise InputError(f"batch_size={config.batch_size} must be at least 1")
    if not config.format:
        raise InputError("format=[] names no format; give h5, nifti, dicom or png, or several")
    if config.report and "h5" not in config.format:
        raise InputError("report=true reads the images from their .h5 file; add h5 to format, such as format=h5,nifti")
    choices = named_choices(config, HydraConfig.get().runtime.choices)
    hand_over_maps(config, config)
    given = None if config.maps in MAPS else GivenMaps(config.maps)
    folder = Path(config.out or HydraConfig.get().runtime.output_dir)
    app.check_device(config.device)
    check_room(folder)
    files = measured_files(config.input)
    method = build_method(config, choices)
    # data as measured have a mask without a name
    calibrated = method.calibrated(config, choices["mask"] if config.mask else None)
    calibrated = replace(calibrated, name=method.name)  # the images are those of the method as it is
    undersample = Undersample(instantiate(config.mask) if config.mask else None, MAPS.get(config.maps))
    one = _OneFile(config, choices, calibrated, undersample, given)
    if len(files) == 1:
        one.reconstruct(next(iter(files)), folder)
        return
    failed: list[Path] = []
    n_skipped = 0
    for number, (path, below) in enumerate(files.items(), start=1):
        log.info("file %d of %d: %s", number, len(files), path)
        try:
            n_skipped += not one.reconstruct(path, folder / below, resume=True)
        except Exception as error:
            reason = app.message(error, config)
            shown = reason if path.name in reason else f"{path}: {reason}"
            log.error("%s", shown, exc_info=app.input_error(error) is None)
            failed.append(path)
    n_new = len(files) - len(failed) - n_skipped
    log.info(
        "%d files reconstructed, %d finished before, %d failed; images in %s", n_new, n_skipped, len(failed), folder
    )
    if failed:
        named = ", ".join(map(str, failed[:5])) + (", ..." if len(failed) > 5 else "")
        raise InputError(
            f"{len(failed)} of {len(files)} files failed ({named}), for the reasons above; the same command with "
            f"out={folder} goes on with these"
        )


class _OneFile:
    """Reconstructs one file after the other by the same method.

    Parameters
    ----------
    config : of the command.
    choices : the chosen option of each group.
    method, undersample : what makes the images.
    given : coil maps of the user's own, or None.
    """

    def __init__(
        self,
        config: DictConfig,
        choices: dict[str, str],
        method: "Method",
        undersample: "Undersample",
        given: "GivenMaps | None",
    ) -> None:
        from hydra.utils import instantiate

        from spinwarp.cli.inputs import named_files
        from spinwarp.uncertainty import gaussian_factor

        self.config = config
        self.choices = choices
        self.name = method.name
        self.reconstructor = method.reconstructor.to(config.device)
        self.n_adjacent = method.n_adjacent
        self.interval = None if config.conformal is None else (gaussian_factor(method.level), method.level)
        self.undersample = undersample
        self.given = given
        self.patient = instantiate(config.patient)
        self.formats = [config.format] if isinstance(config.format, str) else list(config.format)
        settings = {key: value for key, value in app.plain(config).items() if key not in _ELSEWHERE}
        self.settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.sources = list(named_files(settings))

    def reconstruct(self, path: Path, folder: Path, resume: bool = False) -> bool:
        """Reconstruct a file into a folder; return False if ``resume`` and all was there already."""
        import numpy as np
        from numpy.random import RandomState

        from spinwarp.acquisition import Example, collate
        from spinwarp.cli.method import magnitudes
        from spinwarp.cli.output import check_room, one_sentence
        from spinwarp.cli.progress import slices_progress
        from spinwarp.cli.reconstructed import Reconstructed
        from spinwarp.data.adjacent import adjacent_indices, with_adjacent
        from spinwarp.data.raw import open_measurement
        from spinwarp.errors import InputError
        from spinwarp.figures import comparison, in_words, save
        from spinwarp.masks import seed_of
        from spinwarp.models.unet import reconstruction_size
        from spinwarp.progress import steps
        from spinwarp.results.formats import Record

        config = self.config
        measurement = open_measurement(path, config.variable, config.axes)
        source = measurement.path.name
        indices = _indices(config, source, measurement.n_slices)
        record = Record(self.name, self.choices["mask"], str(measurement.path.resolve()), self.settings, tuple(indices))
        images = Reconstructed(folder, measurement.path, self.formats, record, self.interval, self.patient)
        if resume and images.is_finished(self.sources):
            log.info("%s is finished: %s", source, ", ".join(map(str, images.paths)))
            return False
        images.check()

        @lru_cache(self.n_adjacent)  # those of the last slice are needed again for the next
        def accelerated(index: int) -> Example:
            (full,) = measurement.slices([index])
            return self.undersample(full if self.given is None else self.given(full), RandomState(seed_of(source)))

        def with_neighbours(index: int) -> Example:
            if self.n_adjacent == 1:
                return accelerated(index)
            beside = adjacent_indices(index, measurement.n_slices, self.n_adjacent)
            return with_adjacent([accelerated(i) for i in beside])

        rates: list[float] = []
        shown = self.choices["recon"]
        try:
            with (
                one_sentence(folder, config.device, "use batch_size=1, or a method that needs less"),
                slices_progress(len(indices), shown) as advance,
            ):
                for start in range(0, len(indices), config.batch_size):
                    example = collate([with_neighbours(i) for i in indices[start : start + config.batch_size]])
                    acquisition = example.acquisition
                    size = reconstruction_size(acquisition)
                    if not start:
                        check_room(folder, 4 * len(indices) * size[0] * size[1] * len(self.formats))
                    rates += acquisition.acceleration().tolist()
                    names = [f"{source}, slice {index}," for index in example.slice]
                    with steps(len(example), advance):
                        pixels, stds = magnitudes(self.reconstructor, example, config.seed, config.device, names)
                    h, w = acquisition.kspace.shape[-2:]
                    images.add(example.slice, pixels, stds, acquisition.headers, (h, w))
                rate = float(np.mean(rates))
                written = images.write(rate)
        except BaseException as error:  # Ctrl-C too
            kept = images.write_unfinished()
            if kept and isinstance(error, InputError):
                raise InputError(f"{error}; {kept}") from error
            if kept:
                log.info(kept)
            raise
        n_coils = acquisition.kspace.shape[1]
        log.info("%s: %d coils, realised R %.2f, %s", source, n_coils, rate, _centre(acquisition.mask[0, 0]))
        middle = indices[len(indices) // 2]
        title = f"{source}, slice\u00a0{middle}, R\u00a0=\u00a0{rate:.2f}"  # numbers are not parted from their names
        name = in_words(shown)
        std = {name: images.stds[middle]} if middle in images.stds else None
        picture = folder / f"{images.name}.png"
        save(comparison(None, {name: images.images[middle]}, std=std, title=title), picture)
        if config.report:
            from spinwarp.report import write_report

            log.info("report %s", write_report([folder / f"{images.name}.h5"], folder / f"{images.name}.html"))
        log.info("images %s, picture %s", ", ".join(map(str, written)), picture)
        return True


class CompareImages(Callback):
    """Draws the images of a multirun side by side; Hydra calls it after the last job."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Compare the images of the jobs that succeeded; jobs with an ``out`` of their own are left out."""
        from spinwarp.cli import multirun
        from spinwarp.errors import InputError
        from spinwarp.report import draw_images, write_report

        folders = multirun.finished(config)
        files = [path for folder in folders for path in sorted(folder.rglob("*.h5"))]
        if len(folders) < 2 or not files:
            return
        together = Path(config.hydra.sweep.dir) / "comparison"
        try:
            for path in draw_images(files, together):
                print(f"figure {path}")
            if config.report:
                print(f"report {write_report(files, together / 'report.html')}")
        except InputError as error:
            print(f"all images were written, but could not be compared: {error}", file=sys.stderr)


def _centre(mask: "Tensor") -> str:
    """Say how much of the centre ``mask``, bool ``(1 or h, w)``, has: rows if only rows are missing, else columns."""
    from spinwarp.acquisition import acs_columns

    if mask.any(-2).all() and not mask.any(-1).all():
        return f"{int(acs_columns(mask.T[None, None])[0])} central rows"
    return f"{int(acs_columns(mask[None, None])[0])} central columns"


def _indices(config: DictConfig, source: str, n_slices: int) -> list[int]:
    """Return the requested slices.

    Raises
    ------
    InputError : if the file lacks one, or one is named twice.
    """
    from spinwarp.cli.selection import slice_indices
    from spinwarp.errors import InputError

    asked = app.plain(config)["slices"]
    indices = slice_indices(asked, n_slices)
    named_ones = [asked] if isinstance(asked, int) else asked if isinstance(asked, list) else []
    absent = [index for index in named_ones if index not in indices]
    if absent or not indices:
        named = f"slice {absent[0]}" if absent else f"slices={asked}"
        raise InputError(f"{source} has slices 0 to {n_slices - 1}; {named} does not exist")
    if len(set(indices)) < len(indices):
        raise InputError(f"slices={asked} names a slice twice; name each once")
    return indices
