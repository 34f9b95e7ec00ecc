"""The ablation of unrolled networks: its settings, a tiny run that resumes, its table and its figure."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ablation


def row(name: str, seed: int, psnr: float) -> dict:
    return {"name": name, "seed": seed, "weights": 1e6, "steps": 10, "test 4x": {"psnr": psnr, "ssim": 0.9}}


def test_the_ladder_adds_one_part_at_a_time_and_the_whole_lacks_one_and_what_needs_it() -> None:
    made = ablation.settings()
    ladder = list(made.values())[: len(ablation.PARTS) + 1]
    assert ladder[0] == frozenset()
    assert all(len(after - before) == 1 for before, after in pairwise(ladder))
    assert all(
        set(ablation.PARTS[part]) <= parts for parts in made.values() for part in parts if part in ablation.PARTS
    )
    assert made["all but residual blocks"] == ladder[-1] - {
        "residual blocks", "channel attention", "history of features", "prompts", "conditioning",
    }  # fmt: skip
    assert made["all with ADMM"] == ladder[-1] | {"ADMM"}


@pytest.mark.parametrize("name", ["varnet", "all with ADMM", "unrolled"])
def test_all_networks_have_about_the_same_number_of_weights(name: str) -> None:
    network = ablation.of_size(ablation.settings()[name], 1_000_000)
    # the width is a whole number
    assert ablation.n_weights(network) == pytest.approx(1_000_000, rel=0.12)


def test_gains_are_paired_by_seed() -> None:
    rows = [row("varnet", 0, 30.0), row("varnet", 1, 20.0), row("varnet", 2, 25.0)]
    rows += [row("+ ESPIRiT maps", 0, 31.0), row("+ ESPIRiT maps", 1, 21.4)]
    gain, error = ablation.difference(rows, "+ ESPIRiT maps", "varnet", "test 4x")
    assert gain == pytest.approx(1.2)
    assert error == pytest.approx(np.std([1.0, 1.4], ddof=1) / 2**0.5)
    text = ablation.table(rows)
    assert "| varnet | 1.00 | 3 | 10 | 25.00 ± 2.89 |" in text
    assert "| ESPIRiT maps | +1.20 ± 0.20 |  |" in text


def test_a_run_resumes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = {"n_train": 2, "n_val": 1, "n_test": 1, "n_slices": 2, "height": 32, "width": 40, "n_coils": 2}
    options = ["--out", str(tmp_path / "out"), "--seconds", "0.2", "--weights", "30000", "data=phantom"]
    options += [f"data.source.files.root={tmp_path / 'phantom'}"]
    options += [f"data.source.files.{key}={value}" for key, value in size.items()]
    ablation.main([*options, "--seeds", "0", "--only", "varnet"])
    first = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    (test,) = (tmp_path / "phantom").glob("*/test")  # the scans of the test split, as a folder of whole scans
    ablation.main([*options, "--seeds", "0", "1", "--only", "varnet", "all but residual blocks", "--real", str(test)])
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert rows[0] == first[0]
    assert [(r["name"], r["seed"]) for r in rows] == [
        ("varnet", 0), ("all but residual blocks", 0), ("varnet", 1), ("all but residual blocks", 1),
    ]  # fmt: skip
    assert all(r["steps"] >= 1 and 5 < r["test 8x"]["psnr"] < 60 for r in rows)
    assert all(r["real 4x"] == r["test 4x"] for r in rows[1:])
    assert (tmp_path / "out" / "gains.png").stat().st_size > 10_000
    assert "| varnet |" in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(SystemExit):
        ablation.main([*options, "--seconds", "5"])
    assert "holds results of other settings" in capsys.readouterr().err
