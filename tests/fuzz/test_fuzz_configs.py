"""Hostile configurations: every key misspelt, every value of a wrong type, each reported in one sentence."""

import copy
import importlib
import os
import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hostile import Cases, complaint, counts, refused, swapped
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf

from spinwarp.cli import evaluate, messages, reconstruct, serve
from spinwarp.cli.app import conf_folder
from spinwarp.cli.typecheck import check_types

TYPES: dict[str, dict[str, Any]] = {
    "train": {"seed": int, "ckpt_path": str | None},
    "evaluate": evaluate.TYPES,
    "reconstruct": reconstruct.TYPES,
    "serve": serve.TYPES,
}
GROUPS = {
    "train": ("data", "mask", "model", "trainer"), "evaluate": ("data", "mask", "recon"), "reconstruct": (), "serve": ()
}  # fmt: skip
# arguments whose constructors, other people's or ours, take anything or whose kind no annotation tells
WRONG: list[Any] = ["word", "", [], ["a", "b"], [1, [2]], {"a": 1}, float("nan"), True, -3, 1.5, None]


@cache
def composed(command: str, number: int = 0) -> dict[str, Any]:
    """The configuration of a command with the ``number``-th option of each group, resolved but for Hydra's own."""
    overrides = []
    for group in GROUPS[command]:
        options = sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
        overrides.append(f"{group}={options[number % len(options)]}")
    GlobalHydra.instance().clear()
    if {"data=images", "data=simulated_heads"} & set(overrides):
        overrides.append("data.source.path=there")
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose(command, overrides)
    for group in {"callbacks", "logger"} & set(config):  # they name the run folder, and here is none
        OmegaConf.update(config, group, None, merge=False)
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def leaves(config: Any, key: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(config, dict):
        for name, value in config.items():
            yield (*key, name)
            yield from leaves(value, (*key, name))


def test_every_option_of_every_group_has_the_type_that_its_class_asks_for() -> None:
    for command, longest in (("train", "model"), ("evaluate", "mask")):
        for number in range(len(list((conf_folder() / longest).glob("*.yaml")))):
            check_types(composed(command, number), types=TYPES[command])
    for command in ("reconstruct", "serve"):
        check_types(composed(command), types=TYPES[command])


def test_every_key_misspelt_is_named_with_its_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in GROUPS:
        config = composed(command)
        keys = [".".join(key) for key in leaves(config)]
        monkeypatch.setattr(messages, "_composed", lambda *_, c=config: c)
        for key in keys:
            parent, _, last = key.rpartition(".")
            for wrong in {swapped(last), last[: len(last) // 2] + last[len(last) // 2 + 1 :]} - {last, ""}:
                full = f"{parent}.{wrong}" if parent else wrong
                if full in keys:
                    continue
                # as Hydra words it; the commands themselves are tried below
                error = ConfigCompositionException(f"Could not override '{full}'.\nTo append use +{full}=1\nKey ...")
                message = messages.sentence(error, conf_folder(), command, [])
                counts["keys misspelt"] += 1
                refused["keys misspelt"] += 1
                assert complaint(message, full) is None
                assert key in message.partition("; ")[2], (full, message)


def test_every_option_misspelt_is_named_with_its_nearest() -> None:
    for group in ("data", "mask", "model", "trainer", "callbacks", "logger", "recon", "experiment"):
        options = sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
        for option in options:
            for wrong in {swapped(option), option[:-1], f"{option}s"} - set(options):
                error = MissingConfigException(f"Could not find '{group}/{wrong}'", f"{group}/{wrong}", options)
                message = messages.sentence(error, conf_folder(), "train", [])
                counts["options misspelt"] += 1
                refused["options misspelt"] += 1
                assert complaint(message, f"{group}={wrong}") is None
                assert "did you mean" in message or len(option) < 4


@pytest.mark.parametrize("command", GROUPS)
def test_a_value_of_a_wrong_kind_is_told_with_its_key(tmp_path: Path, command: str) -> None:
    cases = Cases("values of wrong types", tmp_path)
    config = composed(command)
    for key in leaves(config):
        if key[-1] in ("_target_", "_partial_", "_convert_"):
            continue
        for value in WRONG:
            changed = copy.deepcopy(config)
            parent = changed
            for name in key[:-1]:
                parent = parent[name]
            right = parent[key[-1]]
            parent[key[-1]] = value
            # a word for a number, a list for one value
            number = isinstance(right, int | float) and not isinstance(right, bool)
            scalar = number and (isinstance(value, str | list) or value is None)
            # these two take nothing in place of a number, or their number in words
            free = key in (("trainer", "devices"),) or (value is None and key[0] in ("trainer", "recon"))
            cases.run(
                f"{'.'.join(key)}={value!r}",
                lambda c=changed: check_types(c, types=TYPES[command]),
                ".".join(key),
                must_refuse=bool(scalar) and not free,
            )
    cases.check()


# what Hydra says itself, and what only building tells
CALLS = [
    "modle=unet_small", "model=untt", "mask=equispaced_5x", "trainer.max_epoch=1", "model.net.n_cascade=2",
    "data.source.snr=2", "hydra.run.dri=x", "model unet", "trainer.devices=[", "seed=abc", "model.net=3",
    "model.optimizer.lr=abc", "model.loss=null", "+model.net.foo=3", "seed=${nothing}",
    "model._target_=spinwarp.nowhere.Net", "model._target_=nowhere", "data.source.files.root=null", "~model.nett",
    "+mask.x=3", "model.net._target_=", "--config-dir=nowhere", "--experimental-rerun=job.pickle", "--exp=job.pickle",
    "a=b=c", "=", "model@x=unet", "seed=nan", "mask=3", "+model.net.channels=3",
]  # fmt: skip


def test_the_command_itself_says_one_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATA", "CACHE", "RUNS"):
        monkeypatch.setenv(f"SPINWARP_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    main = importlib.import_module("spinwarp.cli.train").main
    # building phantoms takes long, and no case should come to that
    monkeypatch.setattr("spinwarp.data.phantom.Phantoms.prepare", lambda _: pytest.fail("data were made"))
    keys = [".".join(key) for key in leaves(composed("train")) if len(key) > 1]
    calls = CALLS + [f"{key}x=1" for key in random.Random(0).sample(keys, 6)]
    wrong = []
    for call in calls:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["train.py", call])
        monkeypatch.setenv("SPINWARP_STAMP", "call")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        counts["commands"] += 1
        refused["commands"] += 1
        if stopped.value.code != 1 or len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 700:
            wrong.append((call, stopped.value.code, lines[-3:]))
        assert "HYDRA_FULL_ERROR" not in os.environ
    GlobalHydra.instance().clear()
    assert wrong == []
    left = [path for path in tmp_path.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    assert [path for path in left if path.suffix != ".log"] == []
