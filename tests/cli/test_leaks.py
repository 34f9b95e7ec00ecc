"""What an evaluation says of a checkpoint that has seen its patients."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from spinwarp.cli.job import EvaluationJob
from spinwarp.data.patients import digest
from spinwarp.data.source import Volume


def job(trained_on: dict[str, Any]) -> Any:
    volumes = {"train": {"a.h5": "one"}, "val": {}, "test": {"b.h5": "two", "c.h5": "three", "d.h5": None}}
    listed = {
        split: [Volume(name, name, 1, (1, 8, 8, 8, 8), patient) for name, patient in files.items()]  # type: ignore[arg-type]
        for split, files in volumes.items()
    }
    result = SimpleNamespace(
        volumes=listed["test"],
        slices={v.name: [0] for v in listed["test"]},
        method=SimpleNamespace(record={"trained_on": trained_on}),
        data=SimpleNamespace(source=SimpleNamespace(name="set", volumes=listed.__getitem__)),
    )
    trained = EvaluationJob.trained_on(result)  # type: ignore[arg-type]
    result.protocol = SimpleNamespace(n_slices={v.name: 1 for v in listed["test"]}, trained_on=trained)
    return result


@pytest.mark.parametrize(
    ("trained_on", "words"),
    [
        ({"dataset": "set", "volumes": ["z.h5"], "patients": [digest("set", "two"), "0"]}, "other scans of 1 patients"),
        ({"dataset": "set", "volumes": ["b.h5"], "patients": [digest("set", "two")]}, "trained on 1 of the 3 volumes"),
        ({"dataset": "other", "volumes": ["z.h5"], "patients": [digest("other", "two")]}, ""),
        ({"dataset": "set", "volumes": ["z.h5"]}, ""),  # of an earlier version
    ],
)
def test_patients_that_a_checkpoint_has_seen_are_named(
    caplog: pytest.LogCaptureFixture, trained_on: dict[str, Any], words: str
) -> None:
    with caplog.at_level(logging.WARNING):
        EvaluationJob.warn_of_leaks(job(trained_on))
    assert len(caplog.records) == bool(words)
    assert words in caplog.text


def test_the_rows_of_the_results_say_what_a_checkpoint_was_trained_on() -> None:
    patients = [digest("set", "two"), digest("set", "three")]
    trained = job({"dataset": "set", "volumes": ["b.h5"], "patients": patients}).protocol.trained_on
    assert trained == {"b.h5": "volume", "c.h5": "patient"}
