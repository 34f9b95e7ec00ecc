"""``reconstruct.py``: from a file of measured k-space to images, without a reference."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from spinwarp.cli import configuration

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("spinwarp")
KINDS = {
    "input": str | None,
    "slices": list[int] | str | int | None,
    "batch_size": int,
    "maps": str,
    "out": str | None,
    "conformal": str | None,
    "conformal_level": float,
    "device": str,
    "seed": int,
}


def main() -> None:
    """Entry point of ``spinwarp-reconstruct``."""
    configuration.run("reconstruct", reconstruct, KINDS)


def reconstruct(config: DictConfig) -> None:
    """Reconstruct a file; write ``<name>.h5`` in fastMRI's submission layout and ``<name>.png``.

    Both hold the standard deviation too where the method claims one, and with ``conformal`` the first also the half
    width of the intervals. A slice of zeros has an image of zeros. Where the run is interrupted or fails, the slices
    that were finished are in ``<name>_unfinished.h5``.
    """
    import numpy as np
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from numpy.random import RandomState

    from spinwarp.acquisition import acs_columns, center_crop, collate
    from spinwarp.cli.conformal import conformal
    from spinwarp.cli.output import check_room, one_sentence
    from spinwarp.cli.progress import slices_progress
    from spinwarp.coils import low_resolution_maps
    from spinwarp.data.measured import Measurement
    from spinwarp.data.undersample import Undersample
    from spinwarp.errors import InputError
    from spinwarp.figures import comparison, save
    from spinwarp.masks import seed_of
    from spinwarp.models.unet import reconstruction_size
    from spinwarp.progress import steps
    from spinwarp.recon.base import reconstruct_batch, slice_generator
    from spinwarp.uncertainty import gaussian_factor

    if config.input is None:
        raise InputError("give the file to reconstruct: reconstruct.py input=FILE recon=METHOD")
    if config.batch_size < 1:
        raise InputError(f"batch_size={config.batch_size} must be at least 1")
    choices = HydraConfig.get().runtime.choices
    folder = Path(config.out or HydraConfig.get().runtime.output_dir)
    configuration.check_device(config.device)
    check_room(folder)
    measurement = Measurement(config.input)
    source = measurement.path.name
    indices = _indices(config, source, measurement.n_slices)
    method = instantiate(config.recon)
    name = getattr(method, "record", {}).get("name") or choices["recon"]
    width = None
    if config.conformal is not None:
        mask = choices["mask"] if config.mask else None  # that of the scanner has no name
        method = conformal(method, config.conformal, config.conformal_level, method=name, mask=mask)
        width = (gaussian_factor(config.conformal_level), config.conformal_level)
    method = method.to(config.device)
    undersample = Undersample(
        instantiate(config.mask) if config.mask else None,
        low_resolution_maps if config.maps == "low_resolution" else None,
    )
    images = _Images(folder, measurement.path, name, choices["mask"], width)
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
                    result = reconstruct_batch(method, acquisition.to(config.device), generator, names)
                for part in (result.image, result.std):
                    if part is not None and not part.isfinite().all():
                        raise InputError(f"the method returned NaN or infinite values for slices {list(example.slice)}")
                std = None if result.std is None else center_crop(result.std, size).cpu().numpy()
                images.add(example.slice, center_crop(result.image.abs(), size).cpu().numpy(), std)
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
    claimed = {choices["recon"]: images.stds[middle]} if middle in images.stds else None
    picture = written.with_suffix(".png")
    save(comparison(None, {choices["recon"]: images.slices[middle]}, std=claimed, title=title), picture)
    log.info("images %s, picture %s", written, picture)


def _indices(config: DictConfig, source: str, n_slices: int) -> list[int]:
    """Return the slices that are asked for.

    Raises
    ------
    InputError : if the file does not have them, or the same one is named twice.
    """
    from spinwarp.cli.selection import slice_indices
    from spinwarp.errors import InputError

    asked = configuration.plain(config)["slices"]
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
    """The images of one file, and where they go.

    Parameters
    ----------
    folder : of the images.
    source : the measured file.
    method, mask : names, for whoever finds the images.
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
        """Check that what would be overwritten is of the same method, mask, measured file and slices.

        Parameters
        ----------
        indices : of the slices that are reconstructed.

        Raises
        ------
        InputError : if it is not, or holds more slices.
        """
        from spinwarp.errors import InputError
        from spinwarp.results import read_origin, read_slices

        remedy = "give another folder with out="
        for path in (self.folder / f"{self.source.stem}.h5", self.folder / f"{self.source.stem}_unfinished.h5"):
            if path.resolve() == self.source.resolve():
                raise InputError(f"{path} is the measured file, and would be overwritten by its images; {remedy}")
            if path.exists() and (found := read_origin(path)) != self.origin:
                what = ", ".join(f"{key} {value}" for key, value in found.items()) or "not of reconstruct.py"
                raise InputError(f"{path} holds other images ({what}); {remedy}, or remove it")
            if path.exists() and (lost := sorted(set(read_slices(path)) - set(indices))):
                named = ", ".join(map(str, lost[:10])) + (", ..." if len(lost) > 10 else "")
                raise InputError(
                    f"{path} holds other slices too ({named}), which would be lost; {remedy}, or remove it"
                )

    def add(self, indices: Sequence[int], images: "np.ndarray", stds: "np.ndarray | None") -> None:
        """Add a batch ``(batch, h, w)`` of images, and of deviations where the method claims some."""
        self.slices.update(zip(indices, images, strict=True))
        if stds is not None:
            self.stds.update(zip(indices, stds, strict=True))

    def write(self, suffix: str = "") -> Path:
        """Write the images in the order in which they came; return the path of their file."""
        import numpy as np

        from spinwarp.results import write_reconstruction

        # of a slice of which nothing was measured nothing is claimed
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
            (self.folder / f"{self.source.stem}_unfinished.h5").unlink(missing_ok=True)  # of an earlier call
        return written

    def write_unfinished(self) -> str:
        """Write the slices that were finished, and say which they are and where; nothing if there are none."""
        if not self.slices:
            return ""
        try:
            path = self.write("_unfinished")
        except OSError as error:
            return f"the finished slices could not be written either ({error.strerror})"
        return f"the images of slices {', '.join(map(str, self.slices))} are finished, in {path}"
