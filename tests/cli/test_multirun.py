"""A multirun goes on after a job that fails, and says at the end what became of each."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from spinwarp.cli import evaluate
from spinwarp.errors import InputError
from spinwarp.results import read_rows, write_reconstruction

TINY = [f"data.source.files.{key}={value}" for key, value in {
    "n_train": 2, "n_val": 1, "n_test": 1, "n_slices": 1, "height": 64, "width": 64, "n_coils": 2,
}.items()]  # fmt: skip

Task = Callable[[DictConfig], Any]


def raising(error: BaseException, seed: int = 1) -> Task:
    """A task that raises an error in the job of one seed, and returns a metric in the others."""

    def task(config: DictConfig) -> float:
        if config.seed == seed:
            raise error
        return 0.5 + config.seed / 100

    return task


def memory_of_a_gpu() -> BaseException:
    import torch

    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")


@pytest.mark.parametrize(
    ("error", "message", "traceback"),
    [
        (InputError("there is no such thing; give another"), "there is no such thing; give another", False),
        (KeyError("a fault of ours"), "KeyError: 'a fault of ours'", True),
        (SystemExit(3), "it ended with exit code 3", False),
        (SystemExit("no way"), "it ended with exit code no way", False),
        (MemoryError(), "memory ran out (MemoryError); lower data.batch_size", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory ran out", False),
        (memory_of_a_gpu(), "memory ran out (CUDA out of memory. Tried to allocate 20.00 GiB.);", False),
    ],
    ids=["input", "crash", "exit", "exit with words", "memory", "torch's memory", "memory of a GPU"],
)
def test_a_job_that_fails_does_not_end_the_others_and_the_summary_names_it(
    run: Any, error: BaseException, message: str, traceback: bool
) -> None:
    done = run("train", "-m", "model=unet_small", "seed=0,1", task=raising(error))
    assert done.code == 1
    assert done.err.count("Traceback") == traceback
    summary = done.err[done.err.index("error: ") :].splitlines()
    assert summary[0] == "error: 1 of 2 jobs failed"
    assert summary[1].startswith("  job 1 (seed=1): ") and message in summary[1]
    assert len(summary) == 2
    # the table of the jobs: the metric of those that ended well, the reason of those that failed
    table = done.out[done.out.index("jobs in ") :]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    rows = {cell[0]: cell[1:] for cell in cells if cell[0]}
    assert rows["0"] == ["seed=0", "val/ssim 0.5000", "0_unet_small_equispaced_4x"]
    assert rows["1"][1].startswith(message[:20])
    assert not list(Path.cwd().rglob("*.json"))  # the notes are for the sweep alone


def test_a_job_is_named_by_what_differs_between_the_jobs(run: Any) -> None:
    done = run("train", "-m", "model=unet_small,varnet_small", "seed=0,1", "mask=none", task=raising(InputError("no")))
    summary = done.err[done.err.index("error: ") :].splitlines()
    assert summary == [
        "error: 2 of 4 jobs failed",
        "  job 1 (model=unet_small seed=1): no",
        "  job 3 (model=varnet_small seed=1): no",
    ]


def test_a_job_does_not_overwrite_the_results_of_an_earlier_one_of_its_multirun(run: Any) -> None:
    done = run("evaluate", "-m", "seed=0,1,2", "out=here", task=raising(InputError("no way"), seed=0))
    # job 0 failed and has left nothing
    assert "error: 2 of 3 jobs failed" in done.err and "job 0 (seed=0): no way" in done.err
    assert "job 2 (seed=2): out=here holds the results of job 1 of this multirun; leave out= unset" in done.err
    for fine in (["seed=0,1", "out=a${seed}"], ["out=a,b"]):
        assert run("evaluate", "-m", *fine, task=raising(InputError("never"), seed=9)).code == 0
    files = ["input=a.npy,b.npy", "out=here"]
    assert run("reconstruct", "-m", *files, task=raising(InputError("never"), seed=9)).code == 0


def test_images_of_several_methods_are_drawn_side_by_side_after_the_last_job(run: Any) -> None:
    def writes(config: DictConfig) -> None:
        job = HydraConfig.get().runtime
        origin = {"method": job.choices.recon, "mask": "none", "acceleration": "1.00"}
        image = np.linspace(0, 1, 24 * 16, dtype=np.float32).reshape(1, 24, 16)
        write_reconstruction(Path(job.output_dir), "scan", image, origin=origin)

    done = run("reconstruct", "-m", "input=scan.npy", "recon=zero_filled,tv", "report=true", task=writes)
    assert (done.code, done.err) == (0, "")
    (picture,), (page,) = Path.cwd().rglob("comparison/scan.png"), Path.cwd().rglob("comparison/report.html")
    assert f"figure {picture.relative_to(Path.cwd())}" in done.out.replace(f"{Path.cwd()}/", "")
    assert '"methods":["zero_filled","tv"]' in page.read_text()
    # one method alone has nothing beside it
    assert "figure" not in run("reconstruct", "-m", "input=scan.npy", "recon=tv", task=writes).out


def test_a_multirun_that_goes_well_ends_with_its_table_and_exit_code_0(run: Any) -> None:
    done = run("train", "-m", "seed=3,4", task=raising(InputError("never"), seed=9))
    assert (done.code, done.err) == (0, "")
    assert re.search(r"│ 1 +│ seed=4 +│ val/ssim 0.5400 │", done.out)


def test_a_multirun_in_which_all_fail_says_why_once(run: Any) -> None:
    done = run("evaluate", "-m", "mask=none,random_4x", task=raising(InputError("no way"), seed=0))
    assert (done.code, done.err) == (1, "error: all 2 jobs failed: no way\n")


def test_batches_of_jobs_go_on_too(run: Any) -> None:
    done = run("train", "-m", "seed=1,2,3", "hydra.sweeper.max_batch_size=1", task=raising(InputError("no way")))
    assert "error: 1 of 3 jobs failed" in done.err and "val/ssim 0.5300" in done.out


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(130), SystemExit(143)])
def test_a_signal_ends_the_whole_multirun_and_what_had_ended_is_reported(run: Any, stop: BaseException) -> None:
    done = run("train", "-m", "seed=0,1,2", task=raising(stop))
    assert done.code == (stop.code if isinstance(stop, SystemExit) else 130)
    assert "val/ssim 0.5000" in done.out and "seed=2" not in done.out[done.out.index("jobs in ") :]
    assert "job 1 (seed=1): it had not ended: it was interrupted or killed" in done.err
    assert not list(Path.cwd().rglob("2_*"))
    assert "Traceback" not in done.err


def test_jobs_that_would_overwrite_each_others_results_are_refused(run: Any) -> None:
    done = run("evaluate", "-m", "out=here", "seed=2,3", task=raising(InputError("never"), seed=9))
    assert done.code == 1
    assert "job 1 (seed=3): out=here holds the results of job 0 of this multirun; leave out= unset" in done.err
    done = run("evaluate", "-m", "out=a,b", "seed=2", task=raising(InputError("never"), seed=9))
    assert (done.code, done.err) == (0, "")


def test_a_misspelt_value_is_found_before_anything_runs(run: Any) -> None:
    done = run("train", "-m", "model=unet_small,untt", task=lambda _: pytest.fail("a job has begun"))
    assert done.code == 1
    assert done.err.startswith("error: model=untt is no option of model; did you mean ") and "jobs" not in done.err


def test_a_multirun_without_jobs_is_an_error(run: Any) -> None:
    done = run("train", "-m", "seed=range(1,1)", task=lambda _: pytest.fail("a job has begun"))
    assert (done.code, done.err) == (
        1, "error: this multirun has no jobs; one of the ranges or choices is empty\n"
    )  # fmt: skip


@pytest.mark.parametrize("wanted", [None, "0", "1"])
def test_a_single_run_ends_in_one_sentence_or_with_its_traceback_where_that_is_wanted(
    run: Any, monkeypatch: pytest.MonkeyPatch, wanted: str | None
) -> None:
    if wanted is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", wanted)
    seen: list[str | None] = []

    def task(config: DictConfig) -> None:
        seen.append(os.environ.get("HYDRA_FULL_ERROR"))
        raise InputError("no way")

    done = run("train", task=task)
    assert done.code == 1 and done.err.endswith("error: no way\n")
    assert done.err.count("Traceback") == (wanted == "1")
    # the processes that a job starts inherit what the user has set
    assert seen == [wanted] and os.environ.get("HYDRA_FULL_ERROR") == wanted


def test_a_fault_of_ours_shows_its_traceback(run: Any) -> None:
    done = run("train", task=raising(ValueError("a fault of ours"), seed=42))
    assert done.code == 1
    assert done.err.count("Traceback") == 1 and done.err.endswith("ValueError: a fault of ours\n")


def test_the_results_of_the_jobs_that_succeed_are_compared(run: Any, tmp_path: Path) -> None:
    sweep = ["-m", *TINY, "recon=zero_filled,checkpoint,cg_sense", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = run(evaluate.main, *sweep, "n_examples=1")
    assert done.code == 1
    assert done.err.endswith(
        "error: 1 of 3 jobs failed\n  job 1 (recon=checkpoint): there is no file ''; give the weights as "
        "recon.path=FILE\n"
    )
    rows = read_rows(tmp_path / "sweep" / "comparison" / "results.csv")
    assert [row.method for row in rows] == ["zero_filled", "cg_sense"]
    for i, row in ((0, rows[0]), (2, rows[1])):  # each as its own job wrote it
        (own,) = read_rows(tmp_path / "sweep" / f"{i}_{row.method}_equispaced_4x" / "results.csv")
        np.testing.assert_equal((row.volume, row.ssim, row.psnr), (own.volume, own.ssim, own.psnr))


def test_what_an_earlier_sweep_left_is_not_compared_for_a_job_that_fails_now(run: Any, tmp_path: Path) -> None:
    sweep = ["-m", *TINY, "recon=zero_filled,cg_sense,l1_image", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    fast = ["n_examples=0", "save_reconstructions=false"]
    original = evaluate.evaluate
    assert run("evaluate", *sweep, *fast, task=original).code == 0

    def task(config: DictConfig) -> float:
        if "CGSense" in config.recon._target_:
            raise InputError("no way")
        return original(config)

    assert run("evaluate", *sweep, *fast, task=task).code == 1
    rows = read_rows(tmp_path / "sweep" / "comparison" / "results.csv")
    assert [row.method for row in rows] == ["zero_filled", "l1_image"]


def test_the_only_job_of_a_multirun_is_named_by_all_that_was_given(run: Any) -> None:
    done = run("train", "-m", "seed=1", "mask=none", task=raising(InputError("no way")))
    assert (done.code, done.err) == (1, "error: job 0 failed: no way\n")
    assert "seed=1 mask=none" in done.out


def test_a_multirun_whose_jobs_run_in_other_processes_goes_on_and_joins(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no process is started here: what the launcher of submitit does is to run the jobs, and to raise if one was killed
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    class UncompletedJobError(RuntimeError):
        __module__ = "submitit.core.utils"

    original = BasicLauncher.launch

    def launch(self: BasicLauncher, job_overrides: Any, initial_job_idx: int) -> Any:
        original(self, job_overrides, initial_job_idx)
        raise UncompletedJobError("Job 7 has not produced any output")

    monkeypatch.setattr(BasicLauncher, "launch", launch)
    from spinwarp.cli import multirun

    written = multirun.note

    def note(config: DictConfig, value: Any = None, error: str | None = None) -> None:
        if config.seed != 1 or error is not None:  # the job of seed 1 was killed
            written(config, value, error)

    monkeypatch.setattr(multirun, "note", note)
    done = run("train", "-m", "seed=0,1,2", task=raising(InputError("never"), seed=9))
    assert done.code == 1
    assert "error: 1 of 3 jobs failed\n  job 1 (seed=1): it had not ended" in done.err
    assert "Traceback" not in done.err and "val/ssim 0.5200" in done.out
