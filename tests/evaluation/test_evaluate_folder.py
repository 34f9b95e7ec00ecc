"""What an evaluation writes: rows, images, examples and targets."""

import csv
import sys
from dataclasses import astuple, replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from memory import MemorySource
from skimage.metrics import structural_similarity
from small_split import CROP, N_SLICES, PROTOCOL, Fixed, batches, by_volume, zero_filled

from spinwarp.data.module import FastMRIDataModule
from spinwarp.evaluation import evaluate
from spinwarp.masks import RandomMask
from spinwarp.recon import ZeroFilled
from spinwarp.results import EXAMPLES, RESULTS, TARGETS, read_examples, read_rows, read_target


def test_a_row_says_what_was_done(tmp_path: Path) -> None:
    rows = by_volume(evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path))
    row = rows["f.h5"]
    assert (row.method, row.dataset, row.split, row.mask) == ("zero_filled", "memory", "test", "random_4x")
    assert (row.acceleration_nominal, row.n_slices, row.target_type, row.crop) == (4.0, 3, "rss", "24x20")
    assert row.provenance == "phantom"
    assert (row.contrast, row.selection) == ("", "")
    written = [astuple(row) for row in read_rows(tmp_path / RESULTS)]
    np.testing.assert_equal(written, [astuple(row) for row in rows.values()])  # here nan equals nan


def test_the_table_has_the_promised_columns(tmp_path: Path) -> None:
    evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path)
    with (tmp_path / RESULTS).open() as stream:
        columns = next(csv.reader(stream))
    assert columns[:16] == [
        "method", "dataset", "split", "provenance", "mask", "acceleration_nominal", "acceleration", "volume",
        "n_slices", "target_type", "crop", "nmse", "psnr", "ssim", "seconds_per_slice", "input_sha256",
    ]  # fmt: skip


def test_the_realised_acceleration_is_that_of_the_masks(tmp_path: Path) -> None:
    rows = by_volume(evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path))
    for name, row in rows.items():
        (mask, *_) = [e.acquisition.mask for e in batches() if e.volume == (name,)]
        assert row.acceleration == pytest.approx(mask.shape[-1] / int(mask.sum()))
    assert rows["f.h5"].acceleration != rows["g.h5"].acceleration


def test_a_row_says_if_the_method_was_trained_on_its_volume(tmp_path: Path) -> None:
    protocol = replace(PROTOCOL, trained_on={"g.h5": "patient"})
    rows = by_volume(evaluate(ZeroFilled(), batches(), protocol, tmp_path))
    assert {name: row.trained_on for name, row in rows.items()} == {"f.h5": "", "g.h5": "patient"}


def test_the_hash_changes_with_the_input_alone(tmp_path: Path) -> None:
    examples = batches()
    first = by_volume(evaluate(ZeroFilled(), examples, PROTOCOL, tmp_path / "1"))
    again = by_volume(evaluate(Fixed(), batches(), PROTOCOL, tmp_path / "2"))
    assert all(first[name].input_sha256 == again[name].input_sha256 for name in first)
    assert len({row.input_sha256 for row in first.values()}) == 2
    kspace = examples[0].acquisition.kspace.clone()
    kspace[0, 0, 0, kspace.shape[-1] // 2] += 1
    examples[0] = replace(examples[0], acquisition=replace(examples[0].acquisition, kspace=kspace))
    changed = by_volume(evaluate(ZeroFilled(), examples, PROTOCOL, tmp_path / "3"))
    assert changed["f.h5"].input_sha256 != first["f.h5"].input_sha256
    assert changed["g.h5"].input_sha256 == first["g.h5"].input_sha256


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_seconds_are_those_of_the_method_for_each_slice(
    tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = {"f.h5": (3, (2, 32, 40))}
    data = FastMRIDataModule(MemorySource({"test": volumes}), RandomMask([0.16], [4]), batch_size=batch_size)
    method = Fixed()
    # a clock that runs while the method works: six seconds a call
    clock = SimpleNamespace(perf_counter=lambda: 6.0 * len(method.given))
    monkeypatch.setattr(sys.modules["spinwarp.evaluation.evaluate"], "time", clock)
    (row,) = evaluate(method, data.loader("test"), replace(PROTOCOL, n_slices={"f.h5": 3}), tmp_path)
    assert row.seconds_per_slice == 6.0 / batch_size


def test_real_methods_take_time(tmp_path: Path) -> None:
    assert all(0 < row.seconds_per_slice < 10 for row in evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path))


def test_reconstructions_have_the_submission_layout(tmp_path: Path) -> None:
    evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path)
    assert sorted(path.name for path in (tmp_path / "reconstructions").iterdir()) == ["f.h5", "g.h5"]
    for name, n_slices in N_SLICES.items():
        with h5py.File(tmp_path / "reconstructions" / name) as file:
            assert file["reconstruction"].shape == (n_slices, *CROP)
            assert file["reconstruction"].dtype == np.float32


def test_reconstructions_can_be_left_out(tmp_path: Path) -> None:
    evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path, save_reconstructions=False, n_examples=0)
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS]


def test_examples_are_the_middle_slices_with_their_own_numbers(tmp_path: Path) -> None:
    evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path)
    examples = read_examples(tmp_path / EXAMPLES)
    assert [(e.volume, e.slice) for e in examples] == [("f.h5", 1), ("g.h5", 1)]
    (source,) = [e for e in batches() if (e.volume[0], e.slice[0]) == ("f.h5", 1)]
    (found, _) = examples
    assert source.target is not None
    np.testing.assert_array_equal(found.target, source.target[0].numpy())
    np.testing.assert_array_equal(found.reconstruction, zero_filled(source)[0].numpy())
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask, source.acquisition.mask[0, 0].numpy())
    assert found.target.shape == CROP
    assert found.data_range == float(source.data_range)
    assert (found.method, found.provenance) == ("zero_filled", "phantom")
    expected = structural_similarity(found.target, found.reconstruction, data_range=found.data_range)
    assert found.ssim == pytest.approx(expected, rel=1e-5)  # scikit-image keeps single precision here


@pytest.mark.parametrize(("n_examples", "n_kept"), [(0, None), (1, 1), (2, 2), (5, 2)])
def test_no_more_examples_are_kept_than_asked_for(tmp_path: Path, n_examples: int, n_kept: int | None) -> None:
    evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path, n_examples=n_examples)
    if n_kept is None:
        assert not (tmp_path / EXAMPLES).exists()
    else:
        assert len(read_examples(tmp_path / EXAMPLES)) == n_kept


def test_the_targets_are_kept_for_a_report_as_they_were_judged(tmp_path: Path) -> None:
    rows = evaluate(ZeroFilled(), batches(), replace(PROTOCOL, crop="fastmri"), tmp_path, save_targets=True)
    for row in rows:
        target, foreground = read_target(tmp_path / TARGETS / row.volume)
        assert f"{target.shape[1]}x{target.shape[2]}" == row.crop == "20x20"
        whole = np.concatenate(
            [e.target.numpy() for e in batches() if e.volume == (row.volume,) and e.target is not None]
        )
        np.testing.assert_array_equal(target, whole[:, 2:22])
        np.testing.assert_array_equal(foreground, target > 0.05 * target.max())
    evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path / "plain")
    assert not (tmp_path / "plain" / TARGETS).exists()
