"""The one sentence of an error names the keys of the command that runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from spinwarp.cli.app import conf_folder
from spinwarp.cli.messages import instantiation
from spinwarp.cli.method import named_choices
from spinwarp.cli.reconstruct import _centre
from spinwarp.errors import InputError

TEXT = "no maps can be made; give data.maps=none, data.batch_size=1 or data.source.path=FOLDER"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        # which has no data sets
        ("reconstruct", "no maps can be made; give maps=none, batch_size=1 or data.source.path=FOLDER"),
        ("evaluate", TEXT),
        ("train", TEXT),
    ],
)
def test_a_message_names_the_keys_of_the_command_that_runs(run: Any, command: str, expected: str) -> None:
    def task(config: DictConfig) -> None:
        raise InputError(TEXT)

    assert run(command, task=task).err == f"error: {expected}\n"


@pytest.mark.parametrize(("command", "key"), [("reconstruct", " batch_size"), ("train", " data.batch_size")])
def test_running_out_of_memory_is_a_sentence_that_names_a_key(run: Any, command: str, key: str) -> None:
    def task(config: DictConfig) -> None:
        try:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        except RuntimeError as error:
            raise ValueError("while the network was built") from error

    done = run(command, task=task)
    assert (
        done.code == 1 and done.err.startswith("error: memory ran out ([enforce fail]") and f"lower{key} " in done.err
    )


@pytest.mark.parametrize("overrides", [["hydra.run.dir=file"], ["-m", "seed=1", "hydra.sweep.dir=file"]])
def test_a_run_folder_that_cannot_be_made_is_said_in_a_sentence(run: Any, tmp_path: Path, overrides: list[str]) -> None:
    (tmp_path / "file").touch()
    done = run("evaluate", *overrides, task=lambda _: pytest.fail("the job has begun"))
    assert done.code == 1
    assert done.err.startswith("error: the run folder cannot be written (") and "hydra.run.dir=FOLDER" in done.err
    assert "Traceback" not in done.err


def test_a_value_that_has_to_be_given_is_asked_for(run: Any) -> None:
    done = run("evaluate", "data=images", task=lambda config: config.data.source.path)
    assert (done.code, done.err) == (1, "error: data.source.path has no value yet; give data.source.path=VALUE\n")


class OfNothing:
    def __init__(self) -> None:
        raise KeyError("x")


def test_an_error_whose_text_is_a_key_alone_is_named() -> None:
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": f"{__name__}.OfNothing"})
    assert "OfNothing: KeyError: 'x'" in instantiation(caught.value)


def test_a_key_that_one_of_several_options_lacks_is_said_to_be_that_of_the_other(run: Any) -> None:
    done = run("evaluate", "-m", "recon=tv,posterior", "recon.n_samples=8", task=lambda _: 0.0)
    assert (done.code, done.err) == (
        1,
        "error: recon=tv has no n_samples, recon=posterior has; run them apart, and compare their folders with python "
        "-m spinwarp.figures\n",
    )
    done = run("evaluate", "-m", "recon=tv,zero_filled", "recon.n_samples=8", task=lambda _: 0.0)
    assert done.err.startswith("error: there is no key recon.n_samples; ")


def test_one_value_where_a_list_belongs_is_shown_as_a_list(run: Any) -> None:
    done = run("evaluate", "mask=equispaced_4x", "mask.accelerations=6", task=lambda _: 0.0)
    expected = "error: mask.accelerations=6 is not a list, each a whole number; write mask.accelerations=[6]\n"
    assert (done.code, done.err) == (1, expected)


@pytest.mark.parametrize(
    ("option", "overrides", "name"),
    [
        ("equispaced_4x", [], "equispaced_4x"),
        ("magic_fraction_4x8x", [], "magic_fraction_4x8x"),
        ("gaussian_2d_4x", [], "gaussian_2d_4x"),
        ("none", [], "none"),
        ("learned", [], "learned"),
        ("mixed", [], "mixed"),
        ("equispaced_4x", ["mask.accelerations=[6]"], "equispaced_6x"),
        ("random_4x8x", ["mask.accelerations=[3,6]"], "random_3x6x"),
        ("file", ["mask.path=folder/mine.npy"], "file mine.npy"),
    ],
)
def test_a_mask_is_named_by_its_acceleration(option: str, overrides: list[str], name: str) -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("evaluate", [f"mask={option}", *overrides])
    assert named_choices(config, {"mask": option, "recon": "tv"}) == {"mask": name, "recon": "tv"}


@pytest.mark.parametrize("command", ["train", "evaluate", "reconstruct"])
def test_a_script_says_how_to_activate_the_environment_that_it_lacks(command: str) -> None:
    script = Path(__file__).parents[2] / f"{command}.py"
    # without site-packages there is no spinwarp
    done = subprocess.run([sys.executable, "-I", "-S", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: spinwarp is not installed in this Python; run make setup once, then source .venv/bin/activate\n"
    )


def test_the_centre_is_counted_in_rows_where_rows_are_missing() -> None:
    lines = torch.zeros(1, 60, dtype=torch.bool)
    lines[:, ::4] = lines[:, 25:35] = True
    assert _centre(lines) == "10 central columns"
    assert _centre(lines.expand(40, 60)) == "10 central columns"
    assert _centre(lines.expand(40, 60).T) == "10 central rows"
    assert _centre(torch.ones(1, 60, dtype=torch.bool)) == "60 central columns"
