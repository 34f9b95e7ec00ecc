"""Jobs through a SLURM of one node that is started for these tests: ``make test-slurm``.

Debian's packages ``slurm-wlm`` and ``munge``, and root, are all it needs.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
DAEMONS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "sinfo")
TINY = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 2, "n_val": 1, "n_test": 2, "n_slices": 2, "height": 64, "width": 64, "n_coils": 2,
}.items()]  # fmt: skip
TRAIN = [*TINY, "model=unet_small", "model.net.channels=4", "model.net.pools=2", "trainer.max_epochs=1"]
JOB = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=1"]
CONF = """
ClusterName=spinwarp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of a running cluster; everything it writes is in a folder of its own."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"SLURM needs root and: apt-get install slurm-wlm munge (missing: {', '.join(missing) or 'root'})")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # the path of a socket must be short
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o600)
    conf = CONF.format(folder=folder, host=socket.gethostname().partition(".")[0], ports=_free_ports(2))
    (folder / "slurm.conf").write_text(conf)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SPINWARP_", "SUBMITIT_"))}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment |= {f"SPINWARP_{name.upper()}": str(folder / name) for name in ("data", "cache")}
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={folder}/key", *munge],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D"],
        ):
            with (folder / f"{command[0]}.log").open("w") as log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        deadline = time.monotonic() + 60
        state = ""
        while "idle" not in state:
            if time.monotonic() > deadline:
                pytest.fail("\n".join([state, *(path.read_text()[-2000:] for path in folder.glob("*.log"))]))
            time.sleep(0.5)
            state = subprocess.run(["sinfo"], env=environment, capture_output=True, text=True).stdout
        yield environment
    finally:
        # a job ends a little after its result is there, and outlives a daemon that does not wait for it
        deadline = time.monotonic() + 30
        while _jobs(environment) and time.monotonic() < deadline:
            time.sleep(0.5)
        for job in _jobs(environment):
            subprocess.run(["scancel", "--signal=KILL", "--full", job], env=environment, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=30)
        shutil.rmtree(folder)


def _jobs(environment: dict[str, str]) -> list[str]:
    command = ["squeue", "--noheader", "--format=%A"]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def call(environment: dict[str, str], *command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, env={**environment, "SPINWARP_RUNS": str(cwd)}, cwd=cwd, capture_output=True, text=True, timeout=540
    )
    logs = [path.read_text()[-3000:] for path in cwd.rglob("*_log.*")]
    assert done.returncode == 0, (done.stdout, done.stderr, *logs)
    return done.stdout + done.stderr


def train(environment: dict[str, str], *overrides: str, cwd: Path) -> str:
    return call(environment, sys.executable, str(ROOT / "train.py"), *overrides, cwd=cwd)


def test_a_sweep_of_two_jobs_is_one_folder_with_two_runs(cluster: dict[str, str], tmp_path: Path) -> None:
    train(cluster, "-m", *TRAIN, *JOB, "mask=equispaced_4x,random_8x", cwd=tmp_path)
    (sweep,) = (tmp_path / "sweep").iterdir()
    runs = sorted(path.name for path in sweep.iterdir() if path.is_dir() and path.name != ".submitit")
    assert runs == ["0_unet_small_equispaced_4x", "1_unet_small_random_8x"]
    for run in runs:
        assert torch.load(sweep / run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] > 0
        job = yaml.safe_load((sweep / run / ".hydra" / "hydra.yaml").read_text())["hydra"]["job"]
        assert job["id"].split("_")[1] == run[0]  # SLURM's number of the job in its array


def test_both_processes_of_a_ddp_job_train_one_model_in_one_folder(cluster: dict[str, str], tmp_path: Path) -> None:
    train(cluster, "-m", *TRAIN, *JOB, *TWO, "mask=equispaced_4x,random_8x", cwd=tmp_path)
    (sweep,) = (tmp_path / "sweep").iterdir()
    for run in sweep.glob("[01]_*"):
        # four slices over two processes: two steps an epoch, where one process alone takes four
        assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
        assert not list(run.rglob("*-v1.ckpt"))
    assert len(list(sweep.glob("[01]_*"))) == 2


def test_processes_that_srun_starts_agree_on_the_folder(cluster: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *TRAIN, *TWO]
    call(cluster, "srun", "--ntasks-per-node=2", "--nodes=1", *command, cwd=tmp_path)
    (run,) = (tmp_path / "train").iterdir()
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_trials_of_a_search_are_jobs_and_one_that_fails_does_not_end_it(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    sweep = tmp_path / "search"
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", f"hydra.sweep.dir={sweep}"]
    # this seed draws -1, 0, -1
    sampler = ["hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler", "hydra.sweeper.sampler.seed=1"]
    output = train(cluster, "-m", *TRAIN, *JOB, *search, *sampler, "data.edge_slices=range(-1,1)", cwd=tmp_path)
    assert "3 trials have ended, 2 of them failed" in output
    assert "failed: data.edge_slices is at least 0; got -1" in output
    best = yaml.safe_load((sweep / "best.yaml").read_text())
    assert best["overrides"][-1] == "data.edge_slices=0"
