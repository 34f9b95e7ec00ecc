"""The trainer's configuration: Lightning's arguments, and a trainer that is stronger than the experiment."""

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from spinwarp.cli import train
from spinwarp.cli.app import conf_folder
from spinwarp.cli.messages import sentence
from spinwarp.cli.resume import _compare
from spinwarp.cli.typecheck import check_types
from spinwarp.data.batches import InOrder, ShapeBatchOrder

CONF = conf_folder()
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
#: what ours does otherwise than Lightning, on purpose; and what the command gives by itself
OURS = {
    "accelerator", "devices", "precision", "max_epochs", "gradient_clip_val", "log_every_n_steps",
    "num_sanity_val_steps", "enable_model_summary", "use_distributed_sampler", "plugins",
}  # fmt: skip
DEBUG = {
    "accelerator": "cpu", "devices": 1, "max_epochs": 1, "max_steps": -1, "limit_train_batches": 2,
    "limit_val_batches": 2, "val_check_interval": None, "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_job() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def trainer(*overrides: str, folder: Path = CONF) -> dict[str, Any]:
    return dict(configuration(*overrides, folder=folder)["trainer"])


def configuration(*overrides: str, folder: Path = CONF) -> dict[str, Any]:
    search = [] if folder == CONF else [f"hydra.searchpath=[file://{folder}]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", [*overrides, *search]), resolve=False)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def test_the_common_arguments_of_lightning_are_there_with_lightnings_own_defaults() -> None:
    arguments = inspect.signature(lightning.Trainer).parameters
    config = {key: value for key, value in trainer().items() if not key.startswith("_")}
    assert set(config) >= {
        "limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches", "accumulate_grad_batches",
        "num_nodes", "deterministic", "strategy", "fast_dev_run", "profiler", "benchmark", "max_time", "min_epochs",
        "min_steps", "val_check_interval", "check_val_every_n_epoch", "gradient_clip_algorithm", "detect_anomaly",
    }  # fmt: skip
    assert {key: value for key, value in config.items() if key not in OURS} == {
        key: arguments[key].default for key in config if key not in OURS
    }


@pytest.mark.parametrize(
    "override",
    [
        "limit_train_batches=2", "limit_val_batches=0.5", "limit_test_batches=1", "accumulate_grad_batches=2",
        "num_nodes=2", "deterministic=true", "deterministic=warn", "strategy=ddp", "fast_dev_run=true",
        "fast_dev_run=2", "profiler=simple", "benchmark=true", "max_time=00:01:00:00", "min_epochs=2",
        "overfit_batches=2", "val_check_interval=0.25", "val_check_interval=100",
    ],
)  # fmt: skip
def test_an_argument_of_lightning_needs_no_plus_and_takes_what_lightning_takes(override: str) -> None:
    config = trainer(f"trainer.{override}")
    key, value = override.split("=")
    assert str(config[key]).lower() == value
    check_types(config, "trainer")


def test_the_message_for_any_other_argument_says_how_to_add_it() -> None:
    with pytest.raises(Exception, match="Could not override") as caught:
        trainer("trainer.sync_batchnorm=true")
    message = sentence(caught.value, CONF, "train", ["trainer.sync_batchnorm=true"])
    assert message.endswith(": +trainer.sync_batchnorm=VALUE")
    assert trainer("+trainer.sync_batchnorm=true")["sync_batchnorm"] is True
    with pytest.raises(Exception, match="Could not override") as caught:
        trainer("trainer.sync_batchnrom=true")
    message = sentence(caught.value, CONF, "train", ["trainer.sync_batchnrom=true"])
    assert message.startswith("there is no key trainer.sync_batchnrom; ") and "+trainer" not in message
    # the command gives the loggers
    with pytest.raises(Exception, match="Could not override") as caught:
        trainer("trainer.logger=false")
    message = sentence(caught.value, CONF, "train", ["trainer.logger=false"])
    assert message.startswith("there is no key trainer.logger; did you mean logger")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_debug_debugs_whatever_the_experiment_sets(experiment: str) -> None:
    config = trainer(f"experiment={experiment}", "trainer=debug")
    assert {key: config[key] for key in DEBUG} == DEBUG
    # what is given on the command line counts all the same
    assert trainer(f"experiment={experiment}", "trainer=debug", "trainer.max_epochs=3")["max_epochs"] == 3


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if "varnet" in name and "fastmri" in name])
def test_8gb_saves_memory_whatever_the_experiment_sets(experiment: str) -> None:
    config = configuration(f"experiment={experiment}", "trainer=8gb")
    assert (config["trainer"]["accelerator"], config["trainer"]["precision"]) == ("gpu", "bf16-mixed")
    assert config["model"]["net"]["checkpoint"] is True
    assert config["trainer"]["max_epochs"] == 50  # everything else is the experiment's


def test_an_experiment_of_the_user_cannot_undo_debug(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /trainer: ddp\n"
        "trainer: {devices: 4, max_epochs: -1, max_steps: 5000, val_check_interval: 250, overfit_batches: 3,"
        " check_val_every_n_epoch: null, limit_train_batches: 0.5, precision: 16-mixed, min_epochs: 7}\n"
    )
    config = trainer("experiment=mine", "trainer=debug", folder=tmp_path)
    assert {key: config[key] for key in DEBUG} == DEBUG
    assert (config["strategy"], config["precision"], config["min_epochs"]) == ("auto", "32-true", None)
    assert trainer("experiment=mine", folder=tmp_path)["max_steps"] == 5000


def test_every_experiment_keeps_its_own_trainer_without_another_one_being_asked_for() -> None:
    for experiment in EXPERIMENTS:
        written: Any = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml"))
        config = trainer(f"experiment={experiment}")
        assert {key: config[key] for key in written.get("trainer", {})} == written.get("trainer", {})


def test_a_run_of_an_earlier_version_that_did_not_name_an_argument_had_lightnings_default() -> None:
    now: Mapping[str, Any] = {"trainer": {"num_nodes": 1, "strategy": "auto", "deterministic": None, "max_epochs": 5}}
    assert list(_compare("last.ckpt", {"trainer": {"max_epochs": 5}}, dict(now))) == []
    later = {"trainer": {**now["trainer"], "accumulate_grad_batches": 4}}
    (message,) = _compare("last.ckpt", {"trainer": {"max_epochs": 5}}, later)
    assert message.endswith(": trainer.accumulate_grad_batches=4 (was 1)")


def test_a_run_under_the_old_name_of_its_strategy_continues_without_a_word() -> None:
    old = {"_target_": "spinwarp.training.ddp.EndTogether", "timeout": 600}
    new = {"_target_": "spinwarp.training.ddp.WatchedDDP", "timeout": 600}
    assert list(_compare("last.ckpt", {"trainer": {"strategy": old}}, {"trainer": {"strategy": new}})) == []
    (message,) = _compare("last.ckpt", {"trainer": {"strategy": old}}, {"trainer": {"strategy": {**new, "timeout": 9}}})
    assert "trainer.strategy.timeout=9 (was 600)" in message


# ------------------------------------------------------------------------------------------------- overfit_batches


def test_in_order_every_epoch_is_the_first_one_again() -> None:
    sampler = InOrder([(2, 2)] * 3 + [(4, 4)], batch_size=2)
    for epoch in (0, 1, 7):
        sampler.set_epoch(epoch)
        assert list(sampler) == [[(0, 0), (0, 1)], [(0, 2)], [(0, 3)]]
    assert len(sampler) == 3
    shuffled = ShapeBatchOrder([(2, 2)] * 3, batch_size=1, shuffle=True)
    shuffled.set_epoch(7)
    assert {epoch for batch in shuffled for epoch, _ in batch} == {7}


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval")
def test_overfitting_sees_the_same_few_batches_with_the_same_masks_again_and_again(tmp_path: Path) -> None:
    files = {"n_train": 2, "n_val": 1, "n_test": 1, "n_slices": 3, "height": 32, "width": 32, "n_coils": 1}
    config = configuration(
        "model=naive_cnn", "model.net.channels=2", "model.net.n_layers=2", "mask=random_4x",
        *(f"data.source.files.{key}={value}" for key, value in files.items()), f"data.source.files.root={tmp_path}",
    )  # fmt: skip
    data = instantiate(config["data"], mask=instantiate(config["mask"]))
    module = instantiate(config["model"])
    seen: list[tuple[str, int, torch.Tensor]] = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append((batch.volume[0], int(batch.slice[0]), batch.acquisition.mask))

    options = {**config["trainer"], "overfit_batches": 2, "max_epochs": 3, "_convert_": "all"}
    instantiate(
        options, callbacks=[Watch()], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=str(tmp_path),
    ).fit(module, datamodule=data)  # fmt: skip
    first = next(volume.name for volume in data.source.volumes("train"))
    assert [(volume, number) for volume, number, _ in seen] == [(first, 0), (first, 1)] * 3
    for i, (_, _, mask) in enumerate(seen):
        np.testing.assert_array_equal(mask, seen[i % 2][2])
    assert not torch.equal(seen[0][2], seen[1][2])  # the slices have masks of their own, as in any training


# ------------------------------------------------------------------------------------------------- trainings


TINY = [
    *("model=naive_cnn", "model.net.channels=2", "model.net.n_layers=2", "callbacks.progress=null"),
    *("data.source.files.n_train=2", "data.source.files.n_val=1", "data.source.files.n_test=1"),
    *("data.source.files.n_slices=2", "data.source.files.height=32", "data.source.files.width=32"),
    "data.source.files.n_coils=1",
]
QUIET = [
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval",
    "ignore:.*you set `check_val_every_n_epoch",
]  # fmt: skip


@pytest.mark.filterwarnings(*QUIET)
def test_a_fast_run_writes_no_checkpoint_and_no_metrics_and_has_no_best_score(run: Any, tmp_path: Path) -> None:
    done = run(train.main, *TINY, "trainer.fast_dev_run=true", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 0, done.err
    assert "best" not in done.out
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name in ("checkpoints", "metrics")] == []


@pytest.mark.filterwarnings(*QUIET)
def test_a_profiler_reports_and_everything_may_be_deterministic(run: Any) -> None:
    try:
        done = run(train.main, *TINY, "trainer=debug", "trainer.profiler=simple", "trainer.deterministic=true")
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert done.code == 0, done.err
    assert "FIT Profiler Report" in done.out + done.err and "run_training_batch" in done.out + done.err
    assert "best checkpoint (val/ssim" in done.out


@pytest.mark.filterwarnings(*QUIET)
def test_an_experiment_of_thousands_of_steps_debugs_in_one_epoch_of_two_batches(run: Any, tmp_path: Path) -> None:
    done = run(
        train.main, "experiment=images_varnet", "data=phantom", "model=naive_cnn", "~model.net.n_cascades", *TINY,
        "trainer=debug", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.code == 0, done.err
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (content["global_step"], content["epoch"]) == (2, 1)


@pytest.mark.filterwarnings(*QUIET)
def test_training_on_few_batches_again_and_again_needs_no_plus_and_may_have_one(run: Any, tmp_path: Path) -> None:
    for sign in ("", "+"):
        where = tmp_path / f"run{sign}"
        done = run(
            train.main, *TINY, f"{sign}trainer.overfit_batches=1", "trainer.max_epochs=2", f"hydra.run.dir={where}"
        )
        assert done.code == 0, done.err
        content = torch.load(where / "checkpoints" / "last.ckpt", weights_only=True)
        assert content["global_step"] == 2
