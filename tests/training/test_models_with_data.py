"""Every model trains on every data set: a step, a validation and its picture, with networks as small as they get."""

import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning import Trainer
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import savemat

from spinwarp.cli.app import conf_folder
from spinwarp.cli.train import build_data, build_module
from spinwarp.training.callbacks import ExamplePanel

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    # torch renamed a class that Lightning still asks for
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

#: what makes a network small, by the name of its option, wherever in the network it stands
SMALL = {
    "pools": 2, "n_cascades": 1, "n_unrolls": 2, "cg_iterations": 2, "n_layers": 2, "kernel_size": 3, "depth": 1,
    "levels": 2, "max_channels": 8, "latent_channels": 2, "n_latents": 3, "widths": [8, 8], "width": 32,
    "multipliers": [1, 1, 1], "steps": 2,
}  # fmt: skip
MODELS = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))
ENTRIES = sorted(path.stem for path in (conf_folder() / "data").glob("*.yaml"))


def centered(x: np.ndarray, inverse: bool = False) -> np.ndarray:
    transform = np.fft.ifft2 if inverse else np.fft.fft2
    return np.fft.fftshift(transform(np.fft.ifftshift(x, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def object_and_coils(n_coils: int, h: int, w: int) -> np.ndarray:
    """Coil images ``(2, coil, h, w)`` of two slices: an ellipse with a smooth phase and a little noise."""
    rng = np.random.default_rng(h * w)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    image = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1) * (1 + 0.3 * np.cos(5 * x + 3 * y)) * np.exp(1j * (x + 0.5 * y))
    angles = 2 * np.pi * np.arange(n_coils) / n_coils
    coils = np.stack([np.exp(-((x - np.cos(a)) ** 2) - (y - np.sin(a)) ** 2 + 1j * a) for a in angles])
    noise = rng.standard_normal((2, 2, n_coils, h, w)) * 0.01
    return np.stack([coils * image, 0.9 * coils * image]) + noise[0] + 1j * noise[1]


def write_fastmri(path: Path, n_coils: int, size: tuple[int, int], crop: tuple[int, int], padding: int) -> None:
    """A file of the official layout: k-space larger than the target, its outer columns not acquired."""
    images = object_and_coils(n_coils, *size)
    kspace = centered(images)
    if padding:
        kspace[..., :padding] = kspace[..., -padding:] = 0
    magnitude = np.sqrt((np.abs(centered(kspace, inverse=True)) ** 2).sum(1))
    top, left = ((n - m) // 2 for n, m in zip(size, crop, strict=True))
    target = magnitude[:, top : top + crop[0], left : left + crop[1]].astype(np.float32)
    single = n_coils == 1
    spaces = "".join(
        f"<{name}><matrixSize><x>{h}</x><y>{w}</y><z>1</z></matrixSize>"
        f"<fieldOfView_mm><x>{h}</x><y>{w}</y><z>5</z></fieldOfView_mm></{name}>"
        for name, (h, w) in (("encodedSpace", size), ("reconSpace", crop))
    )
    limits = (
        f"<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{size[1] - 2 * padding - 1}</maximum>"
        f"<center>{size[1] // 2 - padding}</center></kspace_encoding_step_1></encodingLimits>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = (kspace[:, 0] if single else kspace).astype(np.complex64)
        file["reconstruction_esc" if single else "reconstruction_rss"] = target
        file["ismrmrd_header"] = (
            f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>{spaces}{limits}</encoding></ismrmrdHeader>'
        ).encode()
        file.attrs["max"] = float(target.max())


def fastmri(folder: Path, kind: str, n_coils: int, size: tuple[int, int], crop: tuple[int, int], padding: int) -> Any:
    for split in ("train", "val"):
        write_fastmri(folder / f"{kind}_{split}" / f"{split}.h5", n_coils, size, crop, padding)
    return [f"data.source.files.root={folder}"], size


def converted(folder: Path) -> Any:
    """Files of the fastMRI layout in sub-folders of their own."""
    for split in ("train", "val"):
        write_fastmri(folder / split / "scan.h5", 2, (40, 37), (40, 37), 0)
    return [f"data.source.path={folder}"], (40, 37)


def phantoms(folder: Path) -> Any:
    files = {"n_train": 1, "n_val": 1, "n_test": 1, "n_slices": 2, "height": 40, "width": 36, "n_coils": 2}
    return [f"data.source.files.root={folder}", *(f"data.source.files.{k}={v}" for k, v in files.items())], (40, 36)


def pictures(folder: Path) -> Any:
    folder.mkdir()
    for i in range(3):
        magnitude = np.abs(object_and_coils(1, 37, 42)[0, 0]) * (100 + i)
        Image.fromarray(magnitude.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return [f"data.source.path={folder}", "data.source.n_coils=2", "data.source.block=1"], (37, 42)


def heads(folder: Path) -> Any:
    """Three subjects of one slice each."""
    for i, subject in enumerate(("ann", "ben", "cat")):
        (folder / subject).mkdir(parents=True)
        magnitude = np.abs(object_and_coils(1, 48, 40)[0, 0]) * (100 + i)
        Image.fromarray(magnitude.clip(0, 255).astype(np.uint8)).save(folder / subject / "slice.png")
    settings = {"path": folder, "val": "[ben]", "test": "[cat]", "matrices": "[[40,36]]", "coils": "[2]", "n_val": 1}
    return [f"data.source.{key}={value}" for key, value in settings.items()], (40, 36)


def low_field(folder: Path) -> Any:
    """Scans of one coil as their authors publish them; they all have a readout of 128."""
    names = [f"Figure {patient}/0.055T/0.055T_FLAIR_kspace_postEMI.mat" for patient in ("1A", "1B", "1C")]
    lines = ["# repository owner/scans at commit 0123abcd", "bytes\tsha256\tpath"]
    for name in names:
        path = folder / "mat" / name
        path.parent.mkdir(parents=True)
        savemat(path, {"ksp": centered(object_and_coils(1, 128, 126)[:, 0]).transpose(1, 2, 0)})
        content = path.read_bytes()
        lines.append(f"{len(content)}\t{hashlib.sha256(content).hexdigest()}\tAll Data/{name}")
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    files = {"root": folder / "set", "source": folder / "mat", "train": "[1A]", "val": "[1B]", "test": "[1C]"}
    overrides = [f"data.source.files.{key}={value}" for key, value in files.items()]
    return [*overrides, f"+data.source.files.manifest={folder / 'manifest.tsv'}"], (128, 126)


# how to make the smallest set of each entry: its overrides, and the size of its images
SETS: dict[str, Callable[[Path], Any]] = {
    # twice oversampled along the readout, and columns that were not acquired, as the official sets are
    "fastmri_brain_multicoil": lambda folder: fastmri(folder, "multicoil", 3, (64, 40), (32, 32), 3),
    # odd on every side
    "fastmri_knee_multicoil": lambda folder: fastmri(folder, "multicoil", 2, (45, 37), (27, 31), 0),
    "fastmri_knee_singlecoil": lambda folder: fastmri(folder, "singlecoil", 1, (48, 36), (24, 24), 0),
    "folder": converted,
    "images": pictures,
    "phantom": phantoms,
    "simulated_heads": heads,
    "ulf_brain": low_field,
}


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Any]]:
    """Compose a model with a data set; each is composed once, which takes most of the time, and each set made once."""

    def compose_plain(*overrides: str) -> Any:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return OmegaConf.to_container(compose("train", list(overrides)))

    @cache
    def of_model(model: str) -> Any:
        return compose_plain(f"model={model}")

    @cache
    def of_data(entry: str) -> Any:
        overrides, size = SETS[entry](tmp_path_factory.mktemp(entry) / "set")
        return compose_plain(f"data={entry}", "data.batch_size=2", *overrides)["data"], size

    def compose_both(model: str, entry: str) -> Any:
        config, (data, size) = deepcopy(of_model(model)), of_data(entry)
        shrink(config["model"], size)
        chosen = {key: config["data"][key] for key in ("supervision", "split", "n_adjacent")}  # by the model
        return OmegaConf.create({**config, "data": {**data, **chosen}})

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPINWARP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield compose_both
    GlobalHydra.instance().clear()


def shrink(config: Any, size: tuple[int, int]) -> None:
    for key, value in config.items():
        if isinstance(value, dict):
            shrink(value, size)
        elif key in SMALL:
            config[key] = SMALL[key]
        elif key == "size":
            config[key] = list(size)
        elif key == "channels" and isinstance(value, int):
            config[key] = min(value, 4)


def test_every_data_entry_has_a_small_set() -> None:
    assert sorted(SETS) == ENTRIES, "say in SETS how to make the smallest set of the new entry"


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("model", MODELS)
def test_a_model_takes_a_step_and_its_validation_fits_the_target(
    model: str, entry: str, composed: Callable[[str, str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spinwarp.training.callbacks.save", lambda *_: None)  # how pictures look is tested elsewhere
    config = composed(model, entry)
    torch.manual_seed(0)
    module, data = build_module(config), build_data(config)
    assert sum(p.numel() for p in module.parameters()) < 1_000_000  # an ADM network with three levels has no less
    panel = ExamplePanel(str(tmp_path), n_examples=1)
    trainer = Trainer(
        accelerator="cpu", max_steps=1, limit_val_batches=1, num_sanity_val_steps=0, callbacks=[panel], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data.prepare_data()
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 1
    assert all(trainer.callback_metrics[f"val/{name}"].isfinite() for name in ("loss", "ssim", "psnr", "nmse"))
    target, image, error = panel._rows
    assert target.shape == image.shape == next(iter(data.val_dataloader())).target[0].shape
    np.testing.assert_array_equal(error, np.abs(target - image))
