"""What jobs on a cluster need of the commands: one folder for all processes, one process for each device."""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from spinwarp.cli import app
from spinwarp.cli import multirun as multirun_module
from spinwarp.errors import InputError
from spinwarp.parallel import processes

Multirun = Callable[..., DictConfig]


@pytest.fixture
def multirun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Multirun]:
    """The configuration of a job of a multirun, as Hydra sets it before the job."""

    def job(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(app.conf_folder()), version_base="1.3"):
            config = compose("train", [*overrides, "hydra.mode=MULTIRUN"], return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
        return config

    OmegaConf.register_new_resolver("stamp", lambda: "stand-in", replace=True)
    yield job
    GlobalHydra.instance().clear()
    OmegaConf.clear_resolver("stamp")


@pytest.mark.parametrize("launcher", ["basic", "submitit_local"])
@pytest.mark.parametrize("sweeper", ["basic", "optuna"])
def test_jobs_of_several_devices_are_refused_where_nobody_starts_their_processes(
    multirun: Multirun, launcher: str, sweeper: str
) -> None:
    config = multirun(f"hydra/launcher={launcher}", f"hydra/sweeper={sweeper}", "trainer=ddp", "trainer.devices=2")
    with pytest.raises(
        InputError, match=r"trainer.devices=2 would start the whole sweep again .* hydra/launcher=slurm"
    ):
        app.refuse_parallel_sweep(config, HydraConfig.get())


def test_slurm_starts_a_process_for_each_device(multirun: Multirun) -> None:
    config = multirun("hydra/launcher=slurm", "trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2")
    app.refuse_parallel_sweep(config, HydraConfig.get())
    launcher = HydraConfig.get().launcher
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (2, 4, 4)
    config = multirun("hydra/launcher=slurm", "trainer=ddp", "trainer.devices=4", "hydra.launcher.tasks_per_node=1")
    with pytest.raises(InputError, match=r"do not fit hydra.launcher.tasks_per_node=1 hydra.launcher.nodes=1: SLURM"):
        app.refuse_parallel_sweep(config, HydraConfig.get())


def test_one_device_a_job_needs_no_launcher_of_its_own(multirun: Multirun) -> None:
    app.refuse_parallel_sweep(multirun("hydra/sweeper=optuna"), HydraConfig.get())


def test_processes_of_one_step_of_slurm_have_one_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "71", "STEP_ID": "2", "STEP_NUM_TASKS": "2", "PROCID": "1", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv(processes.STAMP, raising=False)
    assert app.stamp() == "slurm_71_2"
    monkeypatch.setenv(processes.STAMP, "of_the_sweep")  # a job of the launcher inherits the sweep's
    assert app.stamp() == "of_the_sweep"
    monkeypatch.delenv(processes.STAMP)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert app.stamp()[:3] == "202"


@pytest.mark.parametrize(
    ("plugins", "tasks", "handed_over"),
    [
        ([], "1", False),
        (["hydra/launcher=slurm"], "1", False),
        (["hydra/sweeper=optuna"], "1", True),  # which counts failed trials
        (["hydra/launcher=slurm"], "2", True),  # SLURM ends the other processes of the job
    ],
)
def test_an_error_is_handed_over_where_somebody_else_has_to_hear_of_it(
    multirun: Multirun,
    plugins: list[str],
    tasks: str,
    handed_over: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    config = multirun(
        *plugins, f"hydra.sweep.dir={tmp_path}", "hydra.job.num=3", f"hydra.runtime.output_dir={tmp_path}"
    )
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    for name in ("PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv(processes.STAMP, "now")
    with pytest.raises(InputError, match="no way") if handed_over else nullcontext():
        multirun_module.fail(config, "no way")
    (note,) = tmp_path.rglob("*.json")
    assert note.name == "3.json" and json.loads(note.read_text())["error"] == "no way"
