"""The examples of docs/extending.md, as they are printed: written to a folder outside the package, and run there."""

import importlib
import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import contract
import numpy as np
import pytest
import test_contract
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from numpy.random import RandomState

from spinwarp.acquisition import Acquisition
from spinwarp.errors import InputError
from spinwarp.models.loading import build_network
from spinwarp.recon import Reconstructor, ZeroFilled
from spinwarp.recon.checkpoint import Checkpoint
from spinwarp.recon.sure_risk import SureRisk
from spinwarp.results import Row, read_rows

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
# what makes the printed commands quick
PHANTOMS = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 2, "n_val": 1, "n_test": 1, "n_slices": 1, "height": 64, "width": 64,
}.items()]  # fmt: skip
QUICK = {"train": ["trainer=debug", "callbacks.progress=null", "callbacks.panel=null"], "evaluate": ["n_examples=0"]}
SMALL = {
    "recon=tv": ["recon.iterations=5", "recon.weight=0.003"],
    "model=unet_small": ["model.net.channels=4", "model.net.pools=2"],
    "model=varnet_small": ["model.net.n_cascades=1", "model.net.regulariser.channels=4"],
    "recon=my_sampler": ["recon.n_samples=2", "recon.sampler.schedule.n_levels=3"],
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds ``my_project``, with every file of the page that says its name in its first line."""
    folder = tmp_path_factory.mktemp("home")
    for block in blocks("python") + blocks("yaml"):
        path = folder / block.partition("\n")[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block, encoding="utf-8")
    return folder


@pytest.fixture
def project(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be in ``home``, with what ``export PYTHONPATH=$PWD/my_project`` does, and leave no trace of it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric", "spinwarp")}
    assert blocks("bash")[0] == "export PYTHONPATH=$PWD/my_project\n"
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home / "my_project")
    for name in ("data", "cache", "runs"):
        monkeypatch.setenv(f"SPINWARP_{name.upper()}", str(home / name))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    yield home / "my_project"
    GlobalHydra.instance().clear()
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[Row]]]:
    """Run the commands of a section in this process; returns the rows of each evaluation."""

    def run(section: str) -> list[list[Row]]:
        tables = []
        for number, line in enumerate(blocks("bash", SECTIONS[section])[0].splitlines()):
            python, script, *words = shlex.split(line)
            name = script.removesuffix(".py")
            assert (python, name in QUICK) == ("python", True), line
            out = project.parent / "out" / f"{section}_{number}".replace(" ", "_")
            more = [*QUICK[name], *(option for word in words for option in SMALL.get(word, []))]
            more += [] if "data=my_data" in words else PHANTOMS
            more += [f"out={out}"] if name == "evaluate" else []
            monkeypatch.setenv("SPINWARP_STAMP", f"{out.name}")
            monkeypatch.setattr(sys, "argv", [script, *words, *more])
            GlobalHydra.instance().clear()
            importlib.import_module(f"spinwarp.cli.{name}").main()
            if name == "evaluate":
                tables.append(read_rows(out / "results.csv"))
        for row in [row for rows in tables for row in rows]:
            assert np.isfinite([row.ssim, row.psnr, row.nmse]).all()
        return tables

    return run


def hold_to_the_contract(reconstructor: Reconstructor, acquisition: Acquisition) -> None:
    before = contract.fingerprint(reconstructor), contract.fingerprint(acquisition)
    result = contract.reconstruct(reconstructor, acquisition)
    after = contract.fingerprint(reconstructor), contract.fingerprint(acquisition)
    first = contract.First(result, before, after)
    test_contract.test_shape_precision_and_device_are_kept(first, acquisition)
    test_contract.test_the_image_explains_the_data_better_than_nothing(first, acquisition)
    for test in (
        test_contract.test_a_call_changes_neither_the_reconstructor_nor_the_acquisition,
        test_contract.test_equal_generators_give_equal_images_bit_for_bit,
        test_contract.test_a_batch_equals_its_items,
    ):
        test(first, reconstructor, acquisition)
    test_contract.test_the_physical_scale_is_kept(first, reconstructor, acquisition, 700.0)


def test_the_page_shows_five_examples_of_about_twenty_lines() -> None:
    examples = {name for name, text in SECTIONS.items() if blocks("python", text)}
    assert examples == {"A method", "A mask", "A network with a loss", "A data set", "A sampler"}
    for name in examples:
        (code,) = blocks("python", SECTIONS[name])
        body = code.partition("\n\n\n")[2]  # without the imports
        assert len([line for line in body.splitlines() if line.strip()]) <= 30
        (yaml,) = blocks("yaml", SECTIONS[name])
        assert yaml.startswith("# my_project/conf/")


def test_a_method_of_ones_own_is_evaluated_and_keeps_the_contract(
    run: Callable[[str], list[list[Row]]], make_acquisition: Callable[..., Acquisition]
) -> None:
    ((row,),) = run("A method")
    assert (row.method, row.mask) == ("my_method", "equispaced_4x")
    method = instantiate(contract.options("recon", Path.cwd() / "my_project" / "conf")["my_method"])
    for kind in contract.ACQUISITIONS.values():
        hold_to_the_contract(method, make_acquisition(**kind))


def test_a_mask_without_a_centre_trains_and_is_evaluated(
    run: Callable[[str], list[list[Row]]], make_acquisition: Callable[..., Acquisition]
) -> None:
    tables = run("A mask")
    assert len(tables) == 2
    for row in (row for rows in tables for row in rows):
        assert (row.mask, row.acceleration_nominal) == ("my_mask_4x", 4)
        assert 2 < row.acceleration < 8
    (config,) = contract.options("mask", Path.cwd() / "my_project" / "conf").values()
    mask = instantiate(config)
    for shape in ((64, 96), (33, 73)):
        contract.check_mask(mask, shape)
    # lines that are drawn independently, with known probabilities, are what SURE asks for
    drawn = np.mean([mask((1, 96), RandomState(seed))[0].numpy() for seed in range(400)], axis=0)
    density = mask.density((1, 96))
    assert density.mean() == pytest.approx(1 / 4, rel=0.02)
    assert np.abs(drawn - density.numpy()).max() < 4.5 * 0.5 / 400**0.5  # standard errors of a fraction
    acquisition = make_acquisition(n_coils=1, maps=False, shape=(32, 36))
    std = SureRisk(ZeroFilled(), mask)(acquisition).std
    assert std is not None
    assert std.mean() > 0


def test_a_network_with_its_loss_is_trained_and_evaluated_from_its_checkpoint(
    run: Callable[[str], list[list[Row]]], make_acquisition: Callable[..., Acquisition]
) -> None:
    ((row,),) = run("A network with a loss")
    assert row.method == "my_network"
    network = Checkpoint("runs/my_network/checkpoints/best.ckpt", trusted=["my_network"])
    for kind in contract.ACQUISITIONS.values():
        hold_to_the_contract(network, make_acquisition(**kind))


def test_a_command_that_does_not_find_the_users_files_says_what_is_missing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(project)])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--config-dir", f"{project}/conf", "mask=my_mask_4x"])
    with pytest.raises(SystemExit, match="1"):
        importlib.import_module("spinwarp.cli.evaluate").main()
    assert "error: mask cannot be built as my_mask.MyMask: there is no module my_mask" in capsys.readouterr().err
    description = {"_target_": "my_network.MyNetwork", "channels": 4}
    with pytest.raises(InputError, match=r"No module named 'my_network'; put the folder.*on PYTHONPATH"):
        build_network(description, ["my_network"])
    with pytest.raises(InputError, match=r"name its package in recon\.trusted"):
        build_network(description, ["spinwarp.models"])


def test_a_data_set_of_ones_own_is_trained_on_and_evaluated(run: Callable[[str], list[list[Row]]], home: Path) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        folder = home / "data" / "my_data" / split
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(seed)
        scan = torch.randn(2, 4, 48, 64, dtype=torch.complex64, generator=generator)
        np.save(folder / "scan.npy", scan.numpy())
    ((row,),) = run("A data set")
    assert (row.dataset, row.volume, row.n_slices, row.provenance) == ("my_data", "scan.npy", 2, "scanner")


def test_a_sampler_with_a_schedule_of_its_own_samples_and_keeps_the_contract(
    run: Callable[[str], list[list[Row]]], home: Path, make_acquisition: Callable[..., Acquisition]
) -> None:
    contract.write_checkpoint(home / "prior.ckpt", "score")
    ((row,),) = run("A sampler")
    assert row.method == "my_sampler"
    config = contract.options("recon", home / "my_project" / "conf")["my_sampler"]
    sampler = contract.build("my_sampler", config, [home / "prior.ckpt"])
    hold_to_the_contract(sampler, make_acquisition(**contract.ACQUISITIONS["line mask, four coils"]))
