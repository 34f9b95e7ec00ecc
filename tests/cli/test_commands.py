"""The three commands from end to end, as a user calls them, and what they say to wrong input.

A start of Python with Lightning costs seconds, so that wrong input is given to commands inside this process.
"""

import csv
import errno
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from spinwarp.acquisition import Header
from spinwarp.data.fastmri.layout import write_volume
from spinwarp.results import Row, read_rows

ROOT = Path(__file__).parents[2]
TINY = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 2, "n_val": 1, "n_test": 2, "n_slices": 2, "height": 64, "width": 64, "n_coils": 2,
}.items()]  # fmt: skip
WEIGHTS = {"net.layers.0.weight": torch.ones(1)}
TINY_UNET = ["model=unet_small", "model.net.channels=4", "model.net.pools=2"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


@dataclass
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that starts with ``error:``; there is no traceback anywhere."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert "Traceback" not in self.out + self.err, self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        # nothing but a progress bar may stand above it
        assert self.err.rstrip().endswith(line), self.err
        return line


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of their own for data, index and runs; phantoms are made once."""
    root = tmp_path_factory.mktemp("commands")
    return {
        "SPINWARP_DATA": str(root / "data"),
        "SPINWARP_CACHE": str(root / "cache"),
        "SPINWARP_RUNS": str(root / "runs"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def start(environment: dict[str, str], *arguments: str | Path, **settings: Any) -> subprocess.Popen[str]:
    removed = ("HYDRA_FULL_ERROR", "SPINWARP_STAMP")
    full = {k: v for k, v in os.environ.items() if k not in removed} | environment
    command = [sys.executable, *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    return subprocess.Popen(command, env=full, text=True, **pipes)


def call(environment: dict[str, str], *arguments: str | Path, cwd: Path | None = None) -> Finished:
    process = start(environment, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=240)
    return Finished(process.returncode, out, err)


Command = Callable[..., Finished]


@pytest.fixture
def command(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """Run a command in this process, its runs in ``tmp_path/runs``."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, {k: logging.getLogger(k).level for k in ("lightning.pytorch", "spinwarp")}
    for name, value in {**environment, "SPINWARP_RUNS": str(tmp_path / "runs")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(tmp_path)
    counter = iter(range(100))

    def run(name: str, *overrides: str | Path) -> Finished:
        monkeypatch.setenv("SPINWARP_STAMP", f"call_{next(counter)}")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, overrides)])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code = 0
        try:
            importlib.import_module(f"spinwarp.cli.{name}").main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    yield run
    GlobalHydra.instance().clear()
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before[0], before[1]
    for name, level in before[2].items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def trained(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small U-Net, trained by ``train.py`` from another folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    runs = tmp_path_factory.mktemp("runs")
    overrides = [*TINY, *TINY_UNET, "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
    done = call({**environment, "SPINWARP_RUNS": str(runs)}, ROOT / "train.py", *overrides, cwd=elsewhere)
    assert done.code == 0, done.err
    assert list(elsewhere.iterdir()) == []
    assert "realised R" in done.out
    (folder,) = (runs / "train").iterdir()
    assert str(folder) in done.out
    return folder


@pytest.fixture
def measured(environment: dict[str, str], trained: Path) -> Path:
    """A phantom of the test split."""
    (path,) = Path(environment["SPINWARP_DATA"]).rglob("phantom_test_0000.h5")
    return path


def leftovers(folder: Path) -> list[str]:
    """Every file below a folder but Hydra's own record of the call."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    return sorted(path.name for path in found if path.suffix != ".log" and path.name != "multirun.yaml")


# ------------------------------------------------------------------------------------------------ what is promised


@pytest.mark.parametrize("name", ["train", "evaluate", "reconstruct"])
def test_help_answers_at_once_without_anything_heavy(environment: dict[str, str], name: str) -> None:
    before = os.times()
    done = call(environment, "-X", "importtime", ROOT / f"{name}.py", "--help")
    after = os.times()
    # processor time, which does not depend on what else the machine does
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert done.code == 0
    assert f"spinwarp {name}" in done.out
    group = "recon: annealed_langevin, cg_sense, checkpoint" if name != "train" else "model: "
    assert group in done.out
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.err.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "matplotlib", "h5py", "scipy", "numpy"}
    assert seconds < 2.5  # half a second on a machine of 2024


@pytest.mark.slow
def test_training_leaves_what_it_promises(trained: Path) -> None:
    assert trained.name.endswith("_unet_small_equispaced_4x")
    assert {"best.ckpt", "last.ckpt"} == {path.name for path in (trained / "checkpoints").iterdir()}
    assert (trained / ".hydra" / "overrides.yaml").is_file()
    with (trained / "metrics" / "metrics.csv").open() as stream:
        columns = next(csv.reader(stream))
    assert {"val/ssim", "val/psnr", "val/nmse", "val/loss", "lr-Adam"} <= set(columns)
    panels = sorted((trained / "panels").iterdir())
    assert [panel.name for panel in panels] == ["step_000004.png", "step_000008.png"]
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["spinwarp"]["name"] == "unet_small"
    assert content["spinwarp"]["trained_on"]["volumes"] == ["phantom_train_0000.h5", "phantom_train_0001.h5"]
    json.dumps(content["spinwarp"])  # plain Python throughout
    assert not list(trained.rglob("*.part"))


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_into_a_table_images_and_figures(
    environment: dict[str, str], trained: Path, command: Command, tmp_path: Path
) -> None:
    checkpoint = trained / "checkpoints" / "best.ckpt"
    overrides = [*TINY, "recon=checkpoint", f"recon.path={checkpoint}", f"out={tmp_path / 'unet'}"]
    done = call(environment, ROOT / "evaluate.py", *overrides, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "unet_small" in done.out and "SSIM" in done.out
    done = command("evaluate", *TINY, f"out={tmp_path / 'zf'}")
    assert done.code == 0, done.err
    rows = []
    for folder, method in (("unet", "unet_small"), ("zf", "zero_filled")):
        with (tmp_path / folder / "results.csv").open() as stream:
            found = list(csv.DictReader(stream))
        assert list(found[0]) == [field.name for field in fields(Row)]
        assert [row["volume"] for row in found] == ["phantom_test_0000.h5", "phantom_test_0001.h5"]
        for row in found:
            assert (row["method"], row["dataset"], row["split"]) == (method, "phantom", "test")
            assert (row["provenance"], row["mask"]) == ("phantom", "equispaced_4x")
            assert (row["acceleration_nominal"], row["target_type"], row["crop"]) == ("4.0", "rss", "64x64")
            assert 3 < float(row["acceleration"]) < 5
            assert float(row["seconds_per_slice"]) > 0
        rows.append(found)
        for name in ("phantom_test_0000.h5", "phantom_test_0001.h5"):
            with h5py.File(tmp_path / folder / "reconstructions" / name) as file:
                assert file["reconstruction"].shape == (2, 64, 64)
        figures = sorted((tmp_path / folder / "figures").iterdir())
        assert figures and all(path.suffix == ".png" for path in figures)
    # the same input whatever the method
    assert [row["input_sha256"] for row in rows[0]] == [row["input_sha256"] for row in rows[1]]
    joined = call(environment, "-m", "spinwarp.figures", "zf", "unet", "--out", "both", cwd=tmp_path)
    assert joined.code == 0, joined.err
    assert "zero_filled" in joined.out and "unet_small" in joined.out
    assert {"results.csv", "results.md"} < {path.name for path in (tmp_path / "both").iterdir()}
    assert list((tmp_path / "both").rglob("*.png"))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_the_metrics_of_training_are_those_of_its_checkpoint_evaluated(
    trained: Path, command: Command, tmp_path: Path
) -> None:
    with (trained / "metrics" / "metrics.csv").open() as stream:
        logged = [row for row in csv.DictReader(stream) if row["val/ssim"]]
    best = max(logged, key=lambda row: float(row["val/ssim"]))
    checkpoint = trained / "checkpoints" / "best.ckpt"
    done = command("evaluate", *TINY, "split=val", "recon=checkpoint", f"recon.path={checkpoint}", f"out={tmp_path}")
    assert done.code == 0, done.err
    with (tmp_path / "results.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    for name in ("ssim", "psnr", "nmse"):
        assert float(row[name]) == pytest.approx(float(best[f"val/{name}"]), rel=1e-5)  # logged in single precision


@pytest.mark.slow
def test_an_array_is_reconstructed_with_a_checkpoint(
    environment: dict[str, str], trained: Path, measured: Path, tmp_path: Path
) -> None:
    with h5py.File(measured) as file:
        kspace = file["kspace"][()]
    kspace[..., np.arange(64) % 3 > 0] *= np.abs(np.arange(64) - 32)[np.arange(64) % 3 > 0] < 6
    np.save(tmp_path / "scan.npy", kspace)
    overrides = ["recon=checkpoint", f"recon.path={trained / 'checkpoints' / 'last.ckpt'}", "out=result"]
    done = call(environment, ROOT / "reconstruct.py", "input=scan.npy", *overrides, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "realised R 2." in done.out and "central columns" in done.out
    assert sorted(path.name for path in (tmp_path / "result").iterdir()) == ["scan.h5", "scan.png"]
    with h5py.File(tmp_path / "result" / "scan.h5") as file:
        assert list(file) == ["reconstruction"]
        assert file["reconstruction"].shape == (2, 64, 64)
        assert np.isfinite(file["reconstruction"][()]).all() and file["reconstruction"][()].any()
    with Image.open(tmp_path / "result" / "scan.png") as picture:
        picture.verify()


def test_a_file_is_reconstructed_after_further_undersampling(measured: Path, command: Command, tmp_path: Path) -> None:
    done = command("reconstruct", f"input={measured}", "mask=random_4x", "slices=[1]", "maps=none", "out=result")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "result" / "phantom_test_0000.h5") as file:
        assert file["reconstruction"].shape == (1, 64, 64)


def report_of(path: Path) -> Any:
    """The head of a report page."""
    return json.loads(path.read_text().partition('id="head">')[2].partition("</script>")[0])


def test_the_report_of_an_evaluation_has_all_slices_and_its_logger_the_means(command: Command, tmp_path: Path) -> None:
    done = command("evaluate", *TINY, "report=true", "out=results", "logger=csv", "hydra.run.dir=run")
    assert done.code == 0, done.err
    head = report_of(tmp_path / "results" / "report.html")
    assert [volume["slices"] for volume in head["volumes"]] == [[0, 1], [0, 1]]
    rows = read_rows(tmp_path / "results" / "results.csv")
    for volume, row in zip(head["volumes"], rows, strict=True):
        # slices of one size: the mean squared error of the volume is the mean of theirs
        errors = [10 ** (-psnr / 10) for psnr in volume["psnr"][0]]
        assert -10 * np.log10(np.mean(errors)) == pytest.approx(row.psnr, abs=1e-4)
    assert head["warnings"] == ["all 2 volumes are computed by a program, not measured on a person"]
    with (tmp_path / "run" / "metrics" / "metrics.csv").open(newline="") as file:
        (logged,) = csv.DictReader(file)
    assert float(logged["test/psnr"]) == pytest.approx(np.mean([row.psnr for row in rows]))


def test_the_report_of_a_file_without_reference_has_its_images(
    measured: Path, command: Command, tmp_path: Path
) -> None:
    done = command("reconstruct", f"input={measured}", "report=true", "out=scan")
    assert done.code == 0, done.err
    head = report_of(tmp_path / "scan" / "phantom_test_0000.html")
    assert head["rows"] == [] and head["volumes"][0]["methods"] == ["zero_filled"]


def test_the_reconstruction_of_full_data_is_the_target(measured: Path, command: Command, tmp_path: Path) -> None:
    assert command("reconstruct", f"input={measured}", "out=result").code == 0
    with h5py.File(tmp_path / "result" / "phantom_test_0000.h5") as file, h5py.File(measured) as source:
        target = source["reconstruction_rss"][()]
        # the same transform in single precision
        np.testing.assert_allclose(file["reconstruction"][()], target, rtol=1e-4, atol=1e-5 * target.max())


@pytest.mark.slow
def test_models_train_with_masks_in_one_sweep(environment: dict[str, str], tmp_path: Path) -> None:
    # each model with each data set is trained elsewhere; this is the sweep
    models, masks = ("unet_small", "varnet_image"), ("equispaced_4x", "random_8x")
    overrides = [*TINY, f"model={','.join(models)}", f"mask={','.join(masks)}", "trainer=debug"]
    done = call(
        {**environment, "SPINWARP_RUNS": str(tmp_path)}, ROOT / "train.py", "-m", *overrides, "callbacks.progress=null",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    (sweep,) = (tmp_path / "sweep").iterdir()
    jobs = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    expected = [f"{m}_{k}" for m in models for k in masks]
    assert [job.partition("_")[2] for job in jobs] == expected
    for job in jobs:
        content = torch.load(sweep / job / "checkpoints" / "last.ckpt", weights_only=True)
        assert f"_{content['spinwarp']['name']}_" in job
        assert content["global_step"] == 2
        assert all(torch.isfinite(value).all() for value in content["state_dict"].values())


# ----------------------------------------------------------------------------------- what is misspelt or cannot be


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("modle=unet_small", "modle"),
        ("model=untt", "untt"),
        ("mask=equispaced_5x", "equispaced_5x"),
        ("experiment=demo", "demo"),
        ("trainer.max_epoch=1", "max_epoch"),
        ("model.net.n_cascade=2", "n_cascade"),
        ("data.source.files.n_trian=2", "n_trian"),
        ("data.source.snr=2", "snr"),
        ("model unet", "model unet"),
    ],
)
def test_a_misspelt_group_option_or_key_is_named_and_nothing_is_written(
    command: Command, tmp_path: Path, override: str, names: str
) -> None:
    done = command("train", *TINY, override)
    assert done.code == 1
    assert names in done.err
    assert "Traceback" not in done.err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mask.center_fractions=[0.5]"], r"center_fraction=0.5 at acceleration=4 is impossible"),
        (["mask.center_fractions=[0.25]"], r"center_fraction=0.25 at acceleration=4 is impossible"),
        (["mask.accelerations=[4,8]"], "a mask needs one center_fraction for each acceleration"),
        (["mask.accelerations=[0]"], "an acceleration is at least 1; got 0"),
        (["mask.accelerations=[40]", "mask.center_fractions=[0]"], "64 columns are too few for a mask of acceleration"),
        (
            ["data.maps=esprit"],
            "data.maps=esprit is not low_resolution, espirit or none, nor a file or folder of coil maps",
        ),
        (["data.batch_size=0"], "data.batch_size is at least 1; got 0"),
        (["data.volume_sample_rate=0"], "data.volume_sample_rate is a fraction above 0"),
        (["data.edge_slices=1"], "the train split of phantom has no slices left"),
        (["data.source.files.height=8"], "height=8"),
        (["model.net.update_domain=imgae"], "update_domain='imgae' is not one of kspace, image"),
        (["model.net.n_cascades=0"], "a VarNet has at least one cascade; got n_cascades=0"),
        (["trainer.max_epochs=-1"], "training has no end"),
        (["ckpt_path=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["data=fastmri_knee_multicoil", "data.source.files.root=nowhere"], "no folder nowhere/multicoil_train"),
        (["data=fastmri_knee_multicoil", "data.source.files.train=null"], "this data set has no train folder"),
    ],
)
def test_a_value_that_cannot_be_ends_training_in_one_sentence(
    command: Command, tmp_path: Path, overrides: list[str], message: str
) -> None:
    fastmri = any("fastmri" in override for override in overrides)
    arguments = overrides if fastmri else [*TINY, *overrides]
    done = command("train", *arguments, "callbacks.progress=null")
    assert message in done.sentence
    assert not {name for name in leftovers(tmp_path) if name.endswith((".ckpt", ".part", ".png"))}


def test_a_sweep_over_several_devices_a_job_is_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # should the refusal be lost, no process may start
    monkeypatch.setattr("lightning.Trainer.fit", lambda *_, **__: pytest.fail("training began"))
    done = command("train", "-m", *TINY, "model=unet_small,varnet_small", "trainer.devices=2")
    assert "a multirun with trainer.devices=2 would start the whole sweep again in every process" in done.sentence
    assert leftovers(tmp_path) == []


def test_a_split_that_does_not_exist_is_refused(command: Command, tmp_path: Path) -> None:
    assert "split='tset' is not one of train, val, test" in command("evaluate", *TINY, "split=tset").sentence
    assert leftovers(tmp_path) == []


# ----------------------------------------------------------------------------------------------- files that are wrong


def knee(root: Path) -> Path:
    """A folder of one healthy volume in each split, as fastMRI is unpacked."""
    rng = np.random.RandomState(0)
    for split in ("train", "val"):
        kspace = rng.randn(3, 2, 64, 64) + 1j * rng.randn(3, 2, 64, 64)
        write_volume(root / f"multicoil_{split}" / "file1.h5", kspace.astype(np.complex64), Header())
    return root


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_kspace(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["kspace"]


def poison(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["kspace"][2, 1, 5, 7] = np.nan


def drop_target(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["reconstruction_rss"]


WRONG_FILES = [
    (truncate, "file1.h5 is truncated or not HDF5"),
    (drop_kspace, "file1.h5 has no dataset 'kspace'"),
    (poison, "file1.h5 has NaN or infinite k-space in slice 2"),
    (drop_target, "file1.h5 has no reference image"),
    (Path.unlink, "split has no .h5 files"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG_FILES)
@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_wrong_file_ends_a_command_in_one_sentence(
    command: Command, tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    root = knee(tmp_path / "knee")
    damage(root / "multicoil_val" / "file1.h5")
    more = [*TINY_UNET, "trainer=debug", "trainer.limit_val_batches=3", "callbacks.progress=null"]
    overrides = more if name == "train" else ["out=result"]
    done = command(name, "data=fastmri_knee_multicoil", f"data.source.files.root={root}", *overrides)
    assert message in done.sentence
    # the slices before are kept, and nothing looks finished
    assert not (tmp_path / "result" / "results.csv").exists()
    assert not {path for path in leftovers(tmp_path) if path.endswith((".part", "best.ckpt"))}


# torch forks its workers; Python from 3.12 on warns of that in a process with threads
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_wrong_file_ends_in_one_sentence_with_workers_too(command: Command, tmp_path: Path) -> None:
    root = knee(tmp_path / "knee")
    poison(root / "multicoil_val" / "file1.h5")
    overrides = ["data=fastmri_knee_multicoil", f"data.source.files.root={root}", "data.num_workers=1"]
    done = command("evaluate", *overrides, "out=result")
    assert "file1.h5 has NaN or infinite k-space in slice 2" in done.sentence


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty; copy or download it again"),
        (b"hello", "cannot be loaded as plain weights"),
        ([1, 2], "holds a list; a dictionary of weights is expected"),
        ({"state_dict": {}}, "is not a checkpoint of spinwarp's train.py"),
        ({"spinwarp": {"net": {"_target_": "os.system", "command": "true"}}, "state_dict": WEIGHTS}, "wants to build"),
        ({"spinwarp": {"net": {"_target_": "spinwarp.models.unet.UNett"}}, "state_dict": WEIGHTS}, "cannot build"),
        (
            {
                "spinwarp": {"net": {"_target_": "spinwarp.models.unet.MagnitudeUNet", "channels": 2, "pools": 2}},
                "state_dict": WEIGHTS,
            },
            "do not fit the network that it describes",
        ),
    ],
)
def test_a_file_that_is_no_checkpoint_of_this_network_is_refused(
    command: Command, tmp_path: Path, content: Any, message: str
) -> None:
    path = tmp_path / "some.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    done = command("evaluate", *TINY, "recon=checkpoint", f"recon.path={path}", "out=result")
    assert message in done.sentence
    assert "some.ckpt" in done.sentence or "the checkpoint" in done.sentence or "cannot build" in done.sentence
    assert not (tmp_path / "result").exists()


def test_a_checkpoint_of_ours_is_no_weights_of_fastmri_and_the_message_says_what_to_use(
    command: Command, trained: Path
) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    done = command("evaluate", *TINY, "recon=fastmri_weights", f"recon.path={path}")
    assert "is a checkpoint of spinwarp; use recon=checkpoint" in done.sentence


def test_a_truncated_checkpoint_is_refused(command: Command, trained: Path, tmp_path: Path) -> None:
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    done = command("evaluate", *TINY, "recon=checkpoint", f"recon.path={tmp_path / 'cut.ckpt'}")
    assert "cut.ckpt cannot be loaded as plain weights" in done.sentence


@pytest.mark.parametrize("kind", ["another model", "not a checkpoint"])
def test_going_on_from_the_checkpoint_of_something_else_ends_in_one_sentence(
    command: Command, trained: Path, tmp_path: Path, kind: str
) -> None:
    path = trained / "checkpoints" / "last.ckpt"
    if kind == "not a checkpoint":
        path = tmp_path / "other.ckpt"
        path.write_bytes(b"hello")
    done = command("train", *TINY, "model=naive_cnn", f"ckpt_path={path}", "callbacks.progress=null")
    assert path.name in done.sentence


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_going_on_from_a_run_that_had_ended_has_nothing_to_do(command: Command, trained: Path) -> None:
    path = trained / "checkpoints" / "last.ckpt"
    overrides = ["trainer.max_epochs=2", f"ckpt_path={path}", "callbacks.progress=null"]
    assert command("train", *TINY, *TINY_UNET, *overrides).code == 0


def test_a_full_disk_ends_training_in_one_sentence_and_leaves_the_checkpoint_before(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("spinwarp.training.checkpoints.os.fsync", fsync)
    overrides = ["callbacks.progress=null", "callbacks.last.minutes=0", f"hydra.run.dir={tmp_path / 'run'}"]
    done = command("train", *TINY, *TINY_UNET, *overrides)
    assert "the disk is full; make room, and continue from the last whole checkpoint with ckpt_path" in done.sentence
    (last,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert torch.load(last, weights_only=True)["global_step"] == 2


def test_training_without_callbacks_and_loggers_ends_well(command: Command, tmp_path: Path) -> None:
    done = command("train", *TINY, *TINY_UNET, "trainer=debug", "callbacks=none", "logger=none")
    assert done.code == 0, done.err
    assert not list(tmp_path.rglob("*.csv"))


def test_one_callback_can_be_switched_off(command: Command, tmp_path: Path) -> None:
    done = command("train", *TINY, *TINY_UNET, "trainer=debug", "callbacks.panel=null", "callbacks.progress=null")
    assert done.code == 0, done.err
    assert list(tmp_path.rglob("last.ckpt")) and not list(tmp_path.rglob("*.png"))


def test_evaluating_on_what_was_trained_on_warns(command: Command, trained: Path, tmp_path: Path) -> None:
    overrides = ["recon=checkpoint", f"recon.path={trained / 'checkpoints' / 'best.ckpt'}"]
    done = command("evaluate", *TINY, *overrides, "split=train", "out=seen", "n_examples=0")
    assert done.code == 0
    assert "trained on 2 of the 2 volumes that it is evaluated on" in done.out
    done = command("evaluate", *TINY, *overrides, "split=val", "out=unseen", "n_examples=0")
    assert "trained on" not in done.out


# ------------------------------------------------------------------------------------------------ conformal=FOLDER

WITH_STD = ["recon._target_=with_std.WithStd", "save_reconstructions=false"]


def test_predictions_are_scaled_by_the_calibration_of_another_split(
    command: Command, measured: Path, tmp_path: Path
) -> None:
    done = command("evaluate", *TINY, *WITH_STD, "split=val", "out=val")
    assert done.code == 0, done.err
    assert (tmp_path / "val" / "calibration.json").exists()
    conformal = ["conformal=val", "conformal_level=0.5"]  # a single volume promises half at most
    done = command("evaluate", *TINY, *WITH_STD, *conformal, "out=test")
    assert done.code == 0, done.err
    assert "hold 50 % of the foreground, by 1 volumes of phantom" in done.out
    assert "promise nothing" not in done.out and "says nothing" not in done.out
    (row, _) = read_rows(tmp_path / "test" / "results.csv")
    (plain,) = read_rows(tmp_path / "val" / "results.csv")
    assert row.method == "zero_filled conformal" and row.coverage > plain.coverage
    assert any(path.name.startswith("reliability") for path in (tmp_path / "test" / "figures").iterdir())
    # the message says what promises nothing
    done = command("evaluate", *TINY, *WITH_STD, *conformal, "out=same", "split=val", "mask=random_4x")
    assert "was calibrated on 1 volumes of phantom, mask equispaced_4x; on another data set or mask" in done.out
    assert "calibrated on 1 of the 1 volumes that are evaluated (phantom_val_0000" in done.out
    # and a file without a reference gets its intervals
    done = command("reconstruct", f"input={measured}", WITH_STD[0], *conformal, "mask=equispaced_4x", "out=scan")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "scan" / measured.name) as file:
        assert sorted(file) == ["half_width", "reconstruction", "std"]
        assert file["half_width"].attrs["level"] == 0.5
        # the half of a Gaussian lies within .6744898 deviations; float32
        np.testing.assert_allclose(file["half_width"][()], 0.6744898 * file["std"][()], rtol=1e-6)


def test_a_calibration_that_does_not_fit_ends_in_one_sentence(command: Command, tmp_path: Path) -> None:
    assert command("evaluate", *TINY, *WITH_STD, "split=val", "out=val", "n_examples=0").code == 0
    for overrides, message in [
        (["conformal=nowhere"], "nowhere/calibration.json does not exist"),
        (["conformal=val"], "a coverage of 0.9 needs at least 9 calibration volumes, got 1"),
        (["conformal=val", "method=other"], "val/calibration.json calibrates the method zero_filled, not other"),
        (["conformal=val", "conformal_level=90"], "conformal_level=90 is not a coverage"),
    ]:
        assert message in command("evaluate", *TINY, *WITH_STD, *overrides, "out=test").sentence
    assert not (tmp_path / "test" / "results.csv").exists()


# ------------------------------------------------------------------------------------------------ reconstruct.py


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give the file to reconstruct: reconstruct.py input=FILE recon=METHOD"),
        (["input=nowhere.npy"], "there is no file nowhere.npy"),
        (["input=nowhere.h5"], "there is no file nowhere.h5"),
        (["input=scan.mat"], "scan.mat is empty; copy or download it again"),
        (["input=scan.raw"], "scan.raw is none of the formats that are read"),
        (["input=good.npy", "axes=hw"], "good.npy: its array is 2x32x32; say what its axes are with axes=hwc"),
        (["input=cut.npy"], "cut.npy is not a whole .npy file of numbers"),
        (["input=real.npy"], "real.npy holds float64 of shape (32, 32)"),
        (["input=zero.npy"], "zero.npy has nothing but zeros in its k-space"),
        (["input=nan.npy"], "nan.npy has NaN or infinite k-space in slice 0"),
        (["input=good.npy", "batch_size=0"], "batch_size=0 must be at least 1"),
        (
            ["input=good.npy", "recon=convdecoder", "recon.stop=soon"],
            "stop='soon' is not one of held_out, authors, fixed",
        ),
        (["input=good.npy", "recon=dip", "recon.network.levels=9"], "32x32 is too small for a skip net of 9 levels"),
        (["input=good.npy", "slices=[4]"], "good.npy has slices 0 to 0; slice 4 does not exist"),
        (["input=good.npy", "mask=random_8x", "mask.center_fractions=[0.2]"], "center_fraction=0.2 at acceleration=8"),
        (["input=good.npy", "recon=checkpoint"], "there is no file ''; give the weights as recon.path=FILE"),
        (["input=good.npy", "slices=[]"], "slice"),
        (["input=good.npy", "device=cdua"], "device=cdua cannot be used here"),
    ],
)
def test_what_cannot_be_reconstructed_ends_in_one_sentence(
    command: Command, tmp_path: Path, overrides: list[str], message: str
) -> None:
    good = np.random.RandomState(0).randn(2, 32, 32).astype(np.complex64)
    np.save(tmp_path / "good.npy", good)
    np.save(tmp_path / "real.npy", np.ones((32, 32)))
    np.save(tmp_path / "zero.npy", np.zeros((32, 32), np.complex64))
    np.save(tmp_path / "nan.npy", np.full((32, 32), np.nan, np.complex64))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:500])
    (tmp_path / "scan.mat").write_bytes(b"")
    (tmp_path / "scan.raw").write_bytes(b"raw data")
    done = command("reconstruct", *overrides, "out=result")
    assert message in done.sentence
    assert not (tmp_path / "result").exists()


def test_the_measured_file_is_never_overwritten(command: Command, measured: Path, tmp_path: Path) -> None:
    (tmp_path / "scan.h5").write_bytes(measured.read_bytes())
    command("reconstruct", "input=scan.h5", "out=.")
    assert (tmp_path / "scan.h5").read_bytes() == measured.read_bytes()


@pytest.fixture
def three_slices(tmp_path: Path) -> None:
    """``scan.npy`` in the working folder."""
    noise = torch.randn(3, 2, 32, 30, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "scan.npy", noise.numpy())


def test_slices_given_together_are_reconstructed_as_by_themselves(
    three_slices: None, command: Command, tmp_path: Path
) -> None:
    images = []
    for size in (1, 2):
        assert command("reconstruct", "input=scan.npy", f"batch_size={size}", f"out=by_{size}").code == 0
        with h5py.File(tmp_path / f"by_{size}" / "scan.h5") as file:
            images.append(file["reconstruction"][()])
    assert images[0].shape == (3, 32, 30)
    np.testing.assert_array_equal(*images)


# ------------------------------------------------------------------------------------------------------ Ctrl-C


@pytest.mark.slow
def test_ctrl_c_ends_training_with_a_checkpoint_to_go_on_from(environment: dict[str, str], tmp_path: Path) -> None:
    overrides = [*TINY, *TINY_UNET, "trainer.max_epochs=100000", "callbacks.early_stopping=null"]
    process = start({**environment, "SPINWARP_RUNS": str(tmp_path)}, ROOT / "train.py", *overrides, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("last.ckpt")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in out + err
    (last,) = tmp_path.rglob("last.ckpt")
    assert f"interrupted; continue with ckpt_path={last}" in out
    content = torch.load(last, weights_only=True)
    assert content["global_step"] > 0
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())
    assert not list(tmp_path.rglob("*.part"))


def test_ctrl_c_leaves_the_slices_that_were_reconstructed(
    three_slices: None, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in the middle of the third fit, through the progress that the fit reports."""
    reported: list[float] = []

    def interrupt(done: float, total: float) -> None:
        reported.append(done / total)
        if len(reported) == 7:  # three iterations of two slices, one of the third
            raise KeyboardInterrupt

    monkeypatch.setattr("spinwarp.recon.network_fit.report", interrupt)
    fast = ["recon=convdecoder", "recon.iterations=3", "recon.network.channels=4", "recon.network.layers=3"]
    done = command("reconstruct", "input=scan.npy", *fast, "maps=none", "out=result")
    assert done.code == 130
    assert "interrupted; what was finished is in the run folder" in done.err
    assert [path.name for path in (tmp_path / "result").iterdir()] == ["scan_unfinished.h5"]
    with h5py.File(tmp_path / "result" / "scan_unfinished.h5") as file:
        assert file["reconstruction"].shape == (2, 32, 30)


def test_any_method_predicts_a_deviation_by_sure_and_a_regular_mask_is_refused(
    command: Command, tmp_path: Path
) -> None:
    options = ["evaluate", *TINY, "uncertainty=sure", "uncertainty.n_probes=2", "split=val", f"out={tmp_path}"]
    assert "uncertainty=sure needs lines that are drawn independently" in command(*options).sentence
    done = command(*options, "mask=random_4x")
    assert done.code == 0, done.err
    assert "coverage" in done.out
    (row,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert 0 < float(row["coverage"]) <= 1
