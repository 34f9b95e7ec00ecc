"""The order of an evaluation: batches, slices in any order, and what is kept when it fails or is interrupted."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from memory import MemorySource
from small_split import CROP, PROTOCOL, Fixed, batches, by_volume, zero_filled
from torch import Generator

from spinwarp.acquisition import Acquisition, Example, Reconstruction, collate
from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.evaluation import UNFINISHED, evaluate
from spinwarp.masks import RandomMask
from spinwarp.models.conv_decoder import ConvDecoder
from spinwarp.recon import ZeroFilled
from spinwarp.recon.untrained import UntrainedNetwork
from spinwarp.results import EXAMPLES, RESULTS, read_examples, read_rows


@pytest.mark.parametrize("batch_size", [2, 3])
def test_batches_of_several_slices_give_the_same_results(tmp_path: Path, batch_size: int) -> None:
    one = by_volume(evaluate(ZeroFilled(), batches(1), PROTOCOL, tmp_path / "one"))
    many = by_volume(evaluate(ZeroFilled(), batches(batch_size), PROTOCOL, tmp_path / "many"))
    for name, row in one.items():
        other = many[name]
        # batched FFTs may round otherwise
        assert (other.nmse, other.psnr, other.ssim) == pytest.approx((row.nmse, row.psnr, row.ssim), rel=1e-5)
        assert other.input_sha256 == row.input_sha256
        assert (other.acceleration, other.n_slices) == (row.acceleration, row.n_slices)


def test_volumes_may_be_interleaved(tmp_path: Path) -> None:
    mixed = sorted(batches(), key=lambda e: e.slice)
    assert [e.volume[0] for e in mixed[:3]] == ["f.h5", "g.h5", "f.h5"]
    rows = by_volume(evaluate(ZeroFilled(), mixed, PROTOCOL, tmp_path / "mixed"))
    plain = by_volume(evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path / "plain"))
    assert all(rows[name].ssim == plain[name].ssim for name in plain)


def test_a_batch_may_hold_slices_of_two_volumes(tmp_path: Path) -> None:
    volumes = {"f.h5": (3, (2, 32, 40)), "g.h5": (2, (2, 32, 40))}
    source = MemorySource({"test": volumes}, crop=CROP)
    loader = FastMRIDataModule(source, RandomMask([0.16], [4]), batch_size=2).loader("test")
    assert any(len(set(example.volume)) == 2 for example in loader)
    rows = evaluate(ZeroFilled(), loader, PROTOCOL, tmp_path)
    assert [(row.volume, row.n_slices) for row in rows] == [("f.h5", 3), ("g.h5", 2)]


def test_slices_may_come_backwards_and_are_written_in_order(tmp_path: Path) -> None:
    evaluate(ZeroFilled(), batches()[::-1], PROTOCOL, tmp_path)
    expected = np.concatenate([zero_filled(e).numpy() for e in batches() if e.volume == ("f.h5",)])
    with h5py.File(tmp_path / "reconstructions" / "f.h5") as file:
        np.testing.assert_array_equal(file["reconstruction"][()], expected)


def test_a_method_that_fails_in_the_middle_of_a_volume_keeps_the_slices_before(tmp_path: Path) -> None:
    class Diverging(Fixed):
        def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
            plain = super().__call__(acquisition)
            return replace(plain, image=plain.image * math.nan) if len(self.given) == 3 else plain

    with pytest.raises(InputError, match=r"NaN or infinite pixels for f\.h5, slice 2"):
        evaluate(Diverging(), batches(), PROTOCOL, tmp_path)
    (row,) = read_rows(tmp_path / UNFINISHED / RESULTS)
    assert (row.volume, row.n_slices) == ("f.h5", 2)


def test_an_interrupted_run_keeps_the_volumes_that_were_finished(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Example]:
        yield from batches()[:4]  # all of f.h5, half of g.h5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(ZeroFilled(), interrupted(), PROTOCOL, tmp_path)
    assert [row.volume for row in read_rows(tmp_path / RESULTS)] == ["f.h5"]
    assert [path.name for path in (tmp_path / "reconstructions").iterdir()] == ["f.h5"]
    assert [e.volume for e in read_examples(tmp_path / EXAMPLES)] == ["f.h5"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [EXAMPLES, "reconstructions", RESULTS, UNFINISHED]
    # the finished slices of g.h5, with the metrics of as many
    part = tmp_path / UNFINISHED
    (row,) = read_rows(part / RESULTS)
    assert (row.volume, row.n_slices) == ("g.h5", 1)
    with h5py.File(part / "reconstructions" / "g.h5") as file:
        expected = zero_filled(batches()[3])
        np.testing.assert_array_equal(file["reconstruction"][()], expected.numpy())


def test_a_fit_that_is_interrupted_leaves_the_slices_that_were_finished(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the second slice of the second volume, and the bar shows it there."""
    method = UntrainedNetwork(partial(ConvDecoder, channels=4, layers=3), iterations=4)
    done: list[float] = []

    def advance(slices: float) -> None:
        done.append(slices)
        if sum(done) >= 4.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(method, batches(), PROTOCOL, tmp_path, advance=advance)
    assert sum(done) == pytest.approx(4.5)
    (finished,) = read_rows(tmp_path / RESULTS)
    (part,) = read_rows(tmp_path / UNFINISHED / RESULTS)
    assert (finished.volume, finished.n_slices, part.volume, part.n_slices) == ("f.h5", 3, "g.h5", 1)
    assert part.seconds_per_slice > 0


def test_the_randomness_of_a_method_depends_on_seed_volume_and_slice(tmp_path: Path) -> None:
    methods = [Fixed() for _ in range(3)]
    for method, order, seed in zip(methods, (1, -1, 1), (0, 0, 1), strict=True):
        evaluate(method, batches()[::order], PROTOCOL, tmp_path / str(id(method)), seed=seed)
    first, backwards, other = (torch.stack(method.draws) for method in methods)
    assert torch.equal(first, backwards.flip(0))
    assert len(torch.unique(torch.cat([first, other]), dim=0)) == 10


def test_progress_is_told_in_slices(tmp_path: Path) -> None:
    reported: list[int] = []
    evaluate(ZeroFilled(), [collate(batches()[:3]), *batches()[3:]], PROTOCOL, tmp_path, advance=reported.append)
    assert reported == [3, 1, 1]
