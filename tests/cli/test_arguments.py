"""``~`` is the home folder wherever it is written, and what Hydra cannot read is shown as it has to be written."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf

from spinwarp.cli import arguments
from spinwarp.cli.app import conf_folder
from spinwarp.cli.messages import sentence
from spinwarp.errors import InputError
from spinwarp.files import user_path

CONF = conf_folder()


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", "/home/me")
    yield
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("input=~/scan.h5", "input=/home/me/scan.h5"),
        ('input="~/a b.h5"', 'input="/home/me/a b.h5"'),
        ("input='~/a b.h5'", "input='/home/me/a b.h5'"),
        ("out=~", "out=/home/me"),
        ("hydra.run.dir=~/runs/a", "hydra.run.dir=/home/me/runs/a"),
        ("hydra.sweep.dir=~/runs", "hydra.sweep.dir=/home/me/runs"),
        ("recon.paths=[~/a.ckpt,~/b.ckpt]", "recon.paths=[/home/me/a.ckpt,/home/me/b.ckpt]"),
        ('recon.paths=["~/a.ckpt","~/b.ckpt"]', 'recon.paths=["/home/me/a.ckpt","/home/me/b.ckpt"]'),
        ("recon.path=~/a.ckpt,~/b.ckpt", "recon.path=/home/me/a.ckpt,/home/me/b.ckpt"),
        ("recon.path=choice(~/a.ckpt,~/b.ckpt)", "recon.path=choice(/home/me/a.ckpt,/home/me/b.ckpt)"),
        ("--config-dir=~/conf", "--config-dir=/home/me/conf"),
        ("~/conf", "/home/me/conf"),
        # these are no home folders
        ("~callbacks.early_stopping", "~callbacks.early_stopping"),
        ("~mask", "~mask"),
        ("input=a~/b.h5", "input=a~/b.h5"),
        ("input=/data/~/b.h5", "input=/data/~/b.h5"),
        ("method=~nobody", "method=~nobody"),
        ("+trainer.limit_val_batches=2", "++trainer.limit_val_batches=2"),
        ("++trainer.limit_val_batches=2", "++trainer.limit_val_batches=2"),
        ("+trainers=1", "+trainers=1"),
        # several formats are one value
        ("format=h5,nifti", "format=[h5,nifti]"),
        ("format=h5", "format=h5"),
        ("data.format=a,b", "data.format=a,b"),
    ],
)
def test_the_home_folder_in_an_argument(monkeypatch: pytest.MonkeyPatch, written: str, read: str) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", written])
    arguments.prepare()
    assert sys.argv == ["evaluate.py", read]
    arguments.prepare()  # a process that this one starts does it again
    assert sys.argv == ["evaluate.py", read]


def test_the_multirun_option_may_stand_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", "conf", "model=unet", "-m", "mask=a,b"])
    arguments.prepare()
    assert sys.argv == ["train.py", "-m", "--config-dir", "conf", "model=unet", "mask=a,b"]


def test_the_home_folder_in_every_variable_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for name in ("RUNS", "CACHE", "DATA", "OF_TOMORROW"):
        monkeypatch.setenv(f"SPINWARP_{name}", f"~/{name}")
    monkeypatch.setenv("OTHER", "~/x")
    arguments.prepare()
    assert os.environ["SPINWARP_OF_TOMORROW"] == "/home/me/OF_TOMORROW" and os.environ["OTHER"] == "~/x"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train")
    assert config.data.source.files.root.startswith("/home/me/DATA")


def text_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Every key that may hold a path: what is a text now, or null, in lists too."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from text_keys(value, f"{prefix}.{key}".lstrip("."))
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from text_keys(value, f"{prefix}[{i}]")
    elif (config is None or isinstance(config, str)) and not prefix.rpartition(".")[2].startswith("_"):
        yield prefix


@pytest.mark.parametrize(
    "command",
    [
        ["train"], ["train", "data=images"], ["train", "data=ulf_brain"], ["train", "data=fastmri_knee_multicoil"],
        ["evaluate", "recon=ensemble", "recon.paths=[a,b]"], ["evaluate", "recon=posterior"], ["evaluate", "recon=dip"],
        ["reconstruct", "recon=checkpoint"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_key_of_any_configuration_escapes(command: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command[0], command[1:])
    OmegaConf.set_struct(config, True)
    keys = list(text_keys(OmegaConf.to_container(config)))
    assert len(keys) > 5
    for key in keys:
        OmegaConf.update(config, key.replace("[", ".").replace("]", ""), "~/some where")
    arguments.expand_home(config)
    for key in keys:
        assert OmegaConf.select(config, key) == "/home/me/some where", key


def test_what_another_variable_brings_into_a_configuration_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETS", "~/sets")
    config = OmegaConf.create(
        {"path": "${oc.env:SETS}/knee", "missing": "???", "number": 3, "none": None, "tail": "a~"}
    )
    arguments.expand_home(config)
    assert config.path == "/home/me/sets/knee"
    assert OmegaConf.is_missing(config, "missing") and (config.number, config.none, config.tail) == (3, None, "a~")


def test_without_a_home_folder_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda text: text)  # what it does for an unknown user without HOME
    with pytest.raises(InputError, match=r"~/scan\.h5: this user has no home folder; write the path out, or set HOME"):
        user_path("~/scan.h5")
    assert user_path("a~/scan.h5") == Path("a~/scan.h5")


def parse(argument: str) -> Override:
    """Read an argument as Hydra does."""
    return OverridesParser.create().parse_overrides([argument])[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recon.path", "epoch=3-step=10.ckpt"),
        ("recon.path", "runs/lr=0.1/best model.ckpt"),
        ("input", "scan(1).h5"),
        ("input", "[1]scan.h5"),
        ("input", "täst.h5"),
        ("input", "Müller, Jörg #2.h5"),
        ("input", "it's.h5"),
        ("input", 'a"b.h5'),
        ("input", "{a}.h5"),
        ("input", "100%&co;x.h5"),
        ("input", "лучший.h5"),
        ("ckpt_path", "a!b=c.ckpt"),
    ],
)
def test_the_hint_shows_the_argument_as_it_can_be_typed_into_a_shell(key: str, value: str) -> None:
    argument = f"{key}={value}"
    with pytest.raises(OverrideParseException) as caught:
        parse(argument)
    message = sentence(caught.value, CONF, "evaluate", [argument])
    before, _, hint = message.partition("; write ")
    assert argument in before.replace("\\'", "'")
    (typed,) = shlex.split(hint)  # as a shell takes the words apart
    parsed = parse(typed)
    assert (parsed.key_or_group, parsed.value()) == (key, value)


def test_the_hint_quotes_each_of_several_values() -> None:
    for argument, options, expected in [
        ("recon.paths=[epoch=1.ckpt,epoch=2.ckpt]", [], ["epoch=1.ckpt", "epoch=2.ckpt"]),
        ("recon.path=a=1.ckpt,b=2.ckpt", ["-m"], ["a=1.ckpt", "b=2.ckpt"]),
        ("recon.path=a=1.ckpt,b=2.ckpt", [], "a=1.ckpt,b=2.ckpt"),
    ]:
        with pytest.raises(OverrideParseException) as caught:
            parse(argument)
        message = sentence(caught.value, CONF, "evaluate", [*options, argument])
        parsed = parse(shlex.split(message.partition("; write ")[2])[0])
        value = [text.strip('"') for text in parsed.sweep_string_iterator()] if options else parsed.value()
        assert value == expected


def test_an_argument_without_a_value_is_no_path() -> None:
    with pytest.raises(OverrideParseException) as caught:
        parse("model unet")
    assert sentence(caught.value, CONF, "train", []) == "'model unet' cannot be read: give KEY=VALUE"


def test_a_comma_in_one_value_is_quoted_and_several_values_need_a_multirun() -> None:
    with pytest.raises(HydraException) as caught, initialize_config_dir(str(CONF), version_base="1.3"):
        compose("reconstruct", ["input=a,b.h5"])
    message = sentence(caught.value, CONF, "reconstruct", ["input=a,b.h5"])
    assert message.startswith("input has several values, which need -m; if it is one, ',' needs quotes; ")
    assert parse(shlex.split(message.partition("; write ")[2])[0]).value() == "a,b.h5"


def test_a_folder_for_runs_in_a_yaml_file_may_lie_in_the_home_folder(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "at_home.yaml").write_text(
        "# @package _global_\nhydra:\n  run:\n    dir: ~/one_${hydra:runtime.choices.mask}\n  sweep:\n    dir: ~/all\n"
    )
    mine = ["--config-dir=mine", "experiment=at_home", "mask=none"]
    assert run("train", *mine, task=lambda _: 1.0).code == 0
    assert run("train", "-m", *mine, "seed=1,2", task=lambda _: 1.0).code == 0
    assert {"all", "one_none"} <= {path.name for path in (tmp_path / "home").iterdir()}
    jobs = [path.name for path in (tmp_path / "home" / "all").iterdir() if path.is_dir()]
    assert sorted(jobs) == ["0_varnet_small_none", "1_varnet_small_none"]
    assert not (tmp_path / "~").exists()
