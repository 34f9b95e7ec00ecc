"""The one sentence of an error names the keys of the command that runs."""

from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from spinwarp.cli.messages import instantiation
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
