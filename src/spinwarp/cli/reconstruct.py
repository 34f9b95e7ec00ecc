"""``reconstruct.py``: reconstruct a file of measured k-space, without a reference image."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from spinwarp.cli import app

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("spinwarp")
TYPES = {
    "input": str | None,
    "slices": list[int] | str | int | None,
    "batch_size": int,
    "maps": str,
    "report": bool,
    "out": str | None,
    "conformal": str | None,
    "conformal_level": float,
    "device": str,
    "seed": int,
}


def main() -> None:
    """Entry point of ``spinwarp-reconstruct``."""
    app.run("reconstruct", reconstruct, TYPES)


def reconstruct(config: DictConfig) -> None:
    """Reconstruct a file; write ``<name>.h5`` in fastMRI's submission layout and ``<name>.png``.

    Both include the standard deviation if the method predicts one; with ``conformal`` the ``.h5`` file also holds the
    half width of the intervals. A slice of zeros becomes an image of zeros. If the run fails or is interrupted, the
    finished slices are in ``<name>_unfinished.h5``.
    """
    import numpy as np
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from numpy.random import RandomState

    from spinwarp.acquisition import acs_columns, center_crop, collate, slice_generator
    from spinwarp.cli.method import build_method
    from spinwarp.cli.output import check_room, one_sentence
    from spinwarp.cli.progress import slices_progress
    from spinwarp.coils import low_resolution_maps
    from spinwarp.data.fastmri.measured import Measurement
    from spinwarp.data.undersample import Undersample
    from spinwarp.errors import InputError
    from spinwarp.figures import comparison, save
    from spinwarp.masks import seed_of
    from spinwarp.models.unet import reconstruction_size
    from spinwarp.progress import steps
    from spinwarp.recon.base import reconstruct_batch
    from spinwarp.uncertainty import gaussian_factor

    if config.input is None:
        raise InputError("give the file to reconstruct: reconstruct.py input=FILE recon=METHOD")
    if config.batch_size < 1:
        raise InputError(f"batch_size={config.batch_size} must be at least 1")
    choices = HydraConfig.get().runtime.choices
    folder = Path(config.out or HydraConfig.get().runtime.output_dir)
    app.check_device(config.device)
    check_room(folder)
    measurement = Measurement(config.input)
    source = measurement.path.name
    indices = _indices(config, source, measurement.n_slices)
    method = build_method(config, choices)
    # data as measured have a mask without a name
    calibrated = method.calibrated(config, choices["mask"] if config.mask else None)
    interval = None if config.conformal is None else (gaussian_factor(calibrated.level), calibrated.level)
    reconstructor = calibrated.reconstructor.to(config.device)
    undersample = Undersample(
        instantiate(config.mask) if config.mask else None,
        low_resolution_maps if config.maps == "low_resolution" else None,
    )
    images = _Images(folder, measurement.path, method.name, choices["mask"], interval)
    images.check(indices)
    rates: list[float] = []
    try:
        with (
            one_sentence(folder, config.device, "use batch_size=1, or a method that needs less"),
            slices_progress(len(indices), choices["recon"]) as advance,
        ):
            for start in range(0, len(indices), config.batch_size):
                fulls = measurement.slices(indices[start : start + config.batch_size])
                example = collate([undersample(full, RandomState(seed_of(source))) for full in fulls])
                acquisition = example.acquisition
                size = reconstruction_size(acquisition)
                if not start:
                    check_room(folder, 4 * len(indices) * size[0] * size[1])
                rates += acquisition.acceleration().tolist()
                generator = slice_generator(config.seed, example, config.device)
                names = [f"{source}, slice {index}," for index in example.slice]
                with steps(len(example), advance):
                    result = reconstruct_batch(reconstructor, acquisition.to(config.device), generator, names)
                for part in (result.image, result.std):
                    if part is not None and not part.isfinite().all():
                        raise InputError(f"the method returned NaN or infinite values for slices {list(example.slice)}")
                stds = None if result.std is None else center_crop(result.std, size).cpu().numpy()
                images.add(example.slice, center_crop(result.image.abs(), size).cpu().numpy(), stds)
            written = images.write()
    except BaseException as error:  # Ctrl-C too
        kept = images.write_unfinished()
        if kept and isinstance(error, InputError):
            raise InputError(f"{error}; {kept}") from error
        if kept:
            log.info(kept)
        raise
    log.info(
        "%s: %d coils, realised R %.2f, %d central columns",
        source,
        acquisition.kspace.shape[1],
        np.mean(rates),
        int(acs_columns(acquisition.mask)[0]),
    )
    middle = indices[len(indices) // 2]
    title = f"{source}, slice {middle}, R {np.mean(rates):.2f}"
    std = {choices["recon"]: images.stds[middle]} if middle in images.stds else None
    picture = written.with_suffix(".png")
    save(comparison(None, {choices["recon"]: images.slices[middle]}, std=std, title=title), picture)
    if config.report:
        from spinwarp.report import write_report

        log.info("report %s", write_report([written], written.with_suffix(".html")))
    log.info("images %s, picture %s", written, picture)


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


class _Images:
    """The images of one file and the file that they are written to.

    Parameters
    ----------
    folder : for the images.
    source : the measured file.
    method, mask : names, stored with the images.
    interval : see :func:`spinwarp.results.write_reconstruction`.
    """

    def __init__(
        self, folder: Path, source: Path, method: str, mask: str, interval: tuple[float, float] | None
    ) -> None:
        self.folder = folder
        self.source = source
        self.origin = {"method": method, "mask": mask, "input": str(source.resolve())}
        self.interval = interval
        self.slices: dict[int, np.ndarray] = {}
        self.stds: dict[int, np.ndarray] = {}

    def check(self, indices: Sequence[int]) -> None:
        """Check that only images of the same method, mask, measured file and slices would be overwritten.

        Parameters
        ----------
        indices : of the slices that are reconstructed.

        Raises
        ------
        InputError : if another file is in the way, or it holds more slices.
        """
        from spinwarp.errors import InputError
        from spinwarp.results import read_origin, read_slices

        remedy = "give another folder with out="
        for path in (self.folder / f"{self.source.stem}.h5", self.folder / f"{self.source.stem}_unfinished.h5"):
            if path.resolve() == self.source.resolve():
                raise InputError(f"{path} is the measured file, which the images would overwrite; {remedy}")
            if path.exists() and (found := read_origin(path)) != self.origin:
                what = ", ".join(f"{key} {value}" for key, value in found.items()) or "not written by reconstruct.py"
                raise InputError(f"{path} holds other images ({what}); {remedy}, or remove it")
            if path.exists() and (lost := sorted(set(read_slices(path)) - set(indices))):
                named = ", ".join(map(str, lost[:10])) + (", ..." if len(lost) > 10 else "")
                raise InputError(
                    f"{path} holds other slices too ({named}), which would be lost; {remedy}, or remove it"
                )

    def add(self, indices: Sequence[int], images: "np.ndarray", stds: "np.ndarray | None") -> None:
        """Add a batch ``(batch, h, w)`` of images, and their standard deviations if the method predicts them."""
        self.slices.update(zip(indices, images, strict=True))
        if stds is not None:
            self.stds.update(zip(indices, stds, strict=True))

    def write(self, suffix: str = "") -> Path:
        """Write the images in the order in which they were added; return the path of the file."""
        import numpy as np

        from spinwarp.results import write_reconstruction

        # an empty slice has no standard deviation
        stds = [self.stds.get(index, np.zeros_like(image)) for index, image in self.slices.items()]
        name = f"{self.source.stem}{suffix}"
        written = write_reconstruction(
            self.folder,
            name,
            np.stack(list(self.slices.values())),
            np.stack(stds) if self.stds else None,
            self.interval,
            self.origin,
            list(self.slices),
        )
        if not suffix:
            (self.folder / f"{self.source.stem}_unfinished.h5").unlink(missing_ok=True)  # from an earlier call
        return written

    def write_unfinished(self) -> str:
        """Write the finished slices; return a sentence that says which and where, or an empty one if there are none."""
        if not self.slices:
            return ""
        try:
            path = self.write("_unfinished")
        except OSError as error:
            return f"the finished slices could not be written ({error.strerror})"
        return f"slices {', '.join(map(str, self.slices))} are finished; their images are in {path}"
