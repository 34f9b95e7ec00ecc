"""The one sentence of an error names the keys of the command that runs."""

from typing import Any

import pytest
from omegaconf import DictConfig

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
