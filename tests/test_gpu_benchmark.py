"""``make gpu`` where there is no GPU: its dry run, and its checks on a device that only pretends to be another one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch
from elsewhere import elsewhere
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from gpu import check_methods, check_training, same_numbers  # noqa: E402
from gpu.problems import names  # noqa: E402
from gpu.setting import FailedError, Setting  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")  # torch renamed a class that Lightning still asks for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


METHODS = [f"recon={name}" for name in names("recon")] + [
    *(f"sampler {name}" for name in check_methods._samplers()),
    *(f"solver {name}" for name in check_methods.SOLVERS),
    *(f"coils {name}" for name in check_methods.ESTIMATES),
    *(f"operator {name}" for name in check_methods.OPERATORS),
]
STEPS = [f"model={name}, step" for name in names("model")]


@pytest.mark.parametrize("row", [*METHODS, *STEPS])
def test_nothing_is_made_or_left_on_the_cpu_by_what_computes_on_another_device(row: str, folder: Path) -> None:
    setting = Setting("meta", True, folder)
    rows = {**check_methods.rows(setting), **check_training.rows(setting)}
    # the generators of the pretended device draw what those of the CPU draw; no data are perturbed
    with (
        mock.patch.object(same_numbers, "same_numbers", lambda _: nullcontext()),
        mock.patch.object(same_numbers, "PERTURBATION", 0.0),
        elsewhere(),
    ):
        # the same operations on the same numbers, but for group normalisation, which sums otherwise away from the CPU
        assert rows[row]()["difference"] <= 1e-5


def test_the_pretended_device_refuses_tensors_generators_and_arrays_of_the_cpu() -> None:
    with elsewhere() as device:
        there = torch.ones(3, device=device)
        for mixed in (
            lambda: there + torch.ones(3),
            lambda: there.normal_(generator=torch.Generator()),
            lambda: torch.randn(3, generator=torch.Generator(device)),
            lambda: torch.cat([there, torch.ones(2)]),
            lambda: torch.stack([there[0], torch.ones(())]),
            lambda: there.index_select(0, torch.tensor([1])),
            there.numpy,
        ):
            with pytest.raises(RuntimeError, match=r"both devices|other device|numpy"):
                mixed()
        assert there[torch.tensor([0, 2])].shape == (2,)  # which a GPU allows
        assert (there + 1).cpu().numpy().tolist() == [2, 2, 2]  # and computes otherwise


def test_random_numbers_drawn_on_the_cpu_are_those_of_the_cpu_for_tensors_and_dropout() -> None:
    def draw(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        x, dropout = torch.ones(4, 5, device=device), nn.Dropout(0.5)
        drawn = [
            torch.randn(3, device=device),
            torch.randn_like(x),
            x.clone().uniform_(),
            torch.rand((), device=device),
        ]
        fused = torch.ops.aten.native_dropout(x, 0.5, True)[0] if device != "cpu" else dropout(x)
        return [*drawn, torch.randint(9, (4,), device=device), dropout(x), fused]

    expected = draw("cpu")
    with elsewhere() as device, same_numbers.DrawnOnCPU():
        found = [x.cpu() for x in draw(device)]
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (1e-2, "differs from the CPU by"),
        (float("nan"), "not finite"),
    ],
)
def test_a_device_that_computes_something_else_is_found(error: float, message: str) -> None:
    calls = []

    def compute(device: str, change: float) -> list[torch.Tensor]:
        calls.append((device, change))
        return [torch.ones(3) * (1 + error if len(calls) == 2 else 1)]  # the second call is that of the device

    with pytest.raises(FailedError, match=message):
        same_numbers.agree(compute, "cpu", 1e-4)


def test_a_device_may_differ_by_ten_times_what_a_millionth_in_the_data_changes() -> None:
    def compute(factor: float) -> Callable[[str, float], list[torch.Tensor]]:
        def result(device: str, change: float) -> list[torch.Tensor]:
            value = 1 + 1e3 * change + (factor * 1e3 * same_numbers.PERTURBATION if device == "meta" else 0)
            return [torch.full((3,), value, device=device)]

        return result

    with mock.patch.object(same_numbers, "same_numbers", lambda _: nullcontext()), elsewhere() as device:
        assert same_numbers.agree(compute(9), device, 1e-4)["allowed"] == pytest.approx(1e-2, rel=0.05)
        with pytest.raises(FailedError):
            same_numbers.agree(compute(11), device, 1e-4)


def test_every_row_is_run_by_one_of_these_tests(folder: Path) -> None:
    setting = Setting("cpu", True, folder)
    assert set(METHODS) == set(check_methods.rows(setting))
    steps = [row for row in check_training.rows(setting) if ", step" in row]
    assert set(STEPS) == set(steps)


@pytest.mark.slow
def test_the_dry_run_does_every_other_row_on_the_cpu_and_none_fails(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    environment.pop("FASTMRI", None)
    # all but a few of the rows that the pretended device runs above
    skip = r"^(recon=(?!tv$)|sampler|solver|coils|operator)|, step$"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu"), "--dry", "--out", str(tmp_path), "--skip", skip]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    content = json.loads((tmp_path / "gpu.json").read_text())
    parts = {part: {row["row"]: row for row in rows} for part, rows in content["parts"].items()}
    assert list(parts) == ["methods", "training", "networks", "real training", "classical", "compiled"]
    assert set(parts["methods"]) == {"recon=tv"}
    models = names("model")
    mixable = [m for m in models if m not in check_training.FLOAT32_ONLY]
    assert set(parts["training"]) == {
        *(f"model={m}, {p}" for m in mixable for p in ("bf16-mixed", "16-mixed")),
        "trainer=8gb", "resume", "evaluate.py", "out of memory",
    }  # fmt: skip
    assert {len(parts[part]) for part in ("networks", "real training", "classical", "compiled")} == {16, 3, 10}
    rows = [row for part in parts.values() for row in part.values()]
    assert {row["status"] for row in rows} == {"ok", "skipped"}
    skipped = {row["row"]: row["note"] for row in rows if row["status"] == "skipped"}
    assert skipped.pop("VarNet step, TF32, beside fastMRI's").startswith("FASTMRI names no Python")
    assert set(skipped.values()) == {"needs CUDA"}
    assert set(skipped) == {"out of memory", *(f"model={m}, 16-mixed" for m in mixable)}
    table = (tmp_path / "gpu.md").read_text()
    assert "the times mean nothing" in table
    assert all(f"| {row['row']} | {row['status']} |" in table for row in rows)


@pytest.mark.slow
def test_a_part_that_dies_or_takes_too_long_leaves_its_other_rows_and_says_so(tmp_path: Path) -> None:
    """A process that ends in the middle, as after an illegal access of a GPU's memory."""
    package = tmp_path / "benchmarks" / "gpu"
    package.mkdir(parents=True)
    for path in (ROOT / "benchmarks" / "gpu").glob("*.py"):
        text = path.read_text()
        (package / path.name).write_text(text.replace("parents[2]", f"parents[2] and Path({str(ROOT)!r})"))
    rows = "import os, time\nrows = lambda _: {'good': lambda: {'ms': 1.0}, 'bad': %s, 'never': lambda: {}}\n"
    (package / "speed_classical.py").write_text(rows % "lambda: os._exit(7)")
    (package / "speed_compiled.py").write_text(rows % "lambda: time.sleep(600)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(package), "--dry", "--out", str(tmp_path), "--seconds", "0"]
    done = subprocess.run(
        [*command, "--only", "classical", "compiled"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stdout + done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    died, late = ({row["row"]: (row["status"], row["note"]) for row in rows} for rows in parts.values())
    assert died["good"][0] == late["good"][0] == "ok"
    assert died["bad"] == died["never"] == ("failed", "the process ended with 7; see speed_classical.log")
    assert late["bad"] == late["never"] == ("not reached", "the time of this part was over")
