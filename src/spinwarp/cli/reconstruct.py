"""``reconstruct.py``: from a file of measured k-space to images, without a reference."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from spinwarp.cli import configuration

log = logging.getLogger("spinwarp")
KINDS = {
    "input": str | None,
    "slices": list[int] | None,
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
    width of the intervals. Ctrl-C leaves the slices that were finished in ``<name>_unfinished.h5``.
    """
    import numpy as np
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from numpy.random import RandomState

    from spinwarp.acquisition import acs_columns, center_crop, collate
    from spinwarp.cli.conformal import conformal
    from spinwarp.cli.progress import slices_progress
    from spinwarp.coils import low_resolution_maps
    from spinwarp.data.measured import Measurement
    from spinwarp.data.undersample import Undersample
    from spinwarp.errors import InputError
    from spinwarp.figures import comparison, save
    from spinwarp.masks import seed_of
    from spinwarp.models.unet import reconstruction_size
    from spinwarp.progress import steps
    from spinwarp.recon.base import slice_generator
    from spinwarp.results import write_reconstruction
    from spinwarp.uncertainty import gaussian_factor

    if config.input is None:
        raise InputError("give the file to reconstruct: reconstruct.py input=FILE recon=METHOD")
    choices = HydraConfig.get().runtime.choices
    folder = Path(config.out or HydraConfig.get().runtime.output_dir)
    configuration.check_device(config.device)
    measurement = Measurement(config.input)
    method = instantiate(config.recon)
    width = None
    if config.conformal is not None:
        name = getattr(method, "record", {}).get("name") or choices["recon"]
        mask = choices["mask"] if config.mask else None  # that of the scanner has no name
        method = conformal(method, config.conformal, config.conformal_level, method=name, mask=mask)
        width = (gaussian_factor(config.conformal_level), config.conformal_level)
    method = method.to(config.device)
    undersample = Undersample(
        instantiate(config.mask) if config.mask else None,
        low_resolution_maps if config.maps == "low_resolution" else None,
    )
    if (folder / f"{measurement.path.stem}.h5").resolve() == measurement.path.resolve():
        raise InputError(f"out={folder} would write the images over the measured {measurement.path.name}; give another")
    indices = list(range(measurement.n_slices)) if config.slices is None else [int(i) for i in config.slices]
    if not indices:
        raise InputError("slices=[] names no slice; leave it out for all, or give indices such as slices=[3,4]")
    if config.batch_size < 1:
        raise InputError(f"batch_size={config.batch_size} must be at least 1")
    images: list[np.ndarray] = []
    stds: list[np.ndarray] = []
    rates: list[float] = []
    try:
        with slices_progress(len(indices), choices["recon"]) as advance:
            for start in range(0, len(indices), config.batch_size):
                fulls = measurement.slices(indices[start : start + config.batch_size])
                example = collate([undersample(full, RandomState(seed_of(measurement.path.name))) for full in fulls])
                acquisition = example.acquisition
                rates += acquisition.acceleration().tolist()
                generator = slice_generator(config.seed, example, config.device)
                with steps(len(example), advance):
                    result = method(acquisition.to(config.device), generator=generator)
                size = reconstruction_size(acquisition)
                images += list(center_crop(result.image.abs(), size).cpu().numpy())
                if result.std is not None:
                    stds += list(center_crop(result.std, size).cpu().numpy())
    except KeyboardInterrupt:
        if images:
            finished = np.stack(stds) if stds else None
            write_reconstruction(folder, f"{measurement.path.stem}_unfinished", np.stack(images), finished, width)
        raise
    log.info(
        "%s: %d coils, realised R %.2f, %d central columns",
        measurement.path.name,
        acquisition.kspace.shape[1],
        np.mean(rates),
        int(acs_columns(acquisition.mask)[0]),
    )
    claimed = np.stack(stds) if stds else None
    written = write_reconstruction(folder, measurement.path.stem, np.stack(images), claimed, width)
    picture = written.with_suffix(".png")
    middle = len(images) // 2
    title = f"{measurement.path.name}, slice {indices[middle]}, R {np.mean(rates):.2f}"
    std = {choices["recon"]: stds[middle]} if stds else None
    save(comparison(None, {choices["recon"]: images[middle]}, std=std, title=title), picture)
    log.info("images %s, picture %s", written, picture)
