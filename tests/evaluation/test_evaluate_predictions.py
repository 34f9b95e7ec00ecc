"""The evaluation of predicted deviations: coverage, curves, ranks, intervals and conformal scaling."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from small_split import N_SLICES, PROTOCOL, Fixed, batches, by_volume, predicted, zero_filled
from torch import Generator
from with_std import WithStd

from spinwarp.acquisition import Acquisition, Example, Reconstruction
from spinwarp.errors import InputError
from spinwarp.evaluation import UNFINISHED, evaluate
from spinwarp.recon import ZeroFilled
from spinwarp.recon.conformal import Conformal
from spinwarp.results import CALIBRATION, EXAMPLES, RECONSTRUCTIONS, RESULTS, read_calibration, read_examples, read_rows
from spinwarp.uncertainty import conformal_factor


@pytest.mark.parametrize("batch_size", [1, 2])
def test_predicted_deviations_are_compared_with_the_errors_of_the_whole_volume(tmp_path: Path, batch_size: int) -> None:
    def bright(size: int) -> list[Example]:  # one pixel so bright that the darker half becomes background
        examples = batches(size)
        for e in examples:
            assert e.target is not None
            e.target[:, 0, 0] = 8 * e.data_range
        return [replace(e, data_range=8 * e.data_range) for e in examples]

    rows = by_volume(evaluate(WithStd(), bright(batch_size), PROTOCOL, tmp_path))
    for name, row in rows.items():
        slices = [e for e in bright(1) if e.volume == (name,)]
        target = torch.cat([e.target for e in slices if e.target is not None])
        error = (torch.cat([zero_filled(e) for e in slices]) - target).abs()
        std = torch.cat([predicted(e) for e in slices])
        tissue = target > 0.05 * slices[0].data_range
        assert 0.1 < tissue.double().mean() < 0.9
        # batched FFTs may round otherwise: one pixel of some thousand may change sides, its value by one part in 1e6
        assert row.coverage == pytest.approx(float((error <= 2 * std)[tissue].double().mean()), abs=1e-3)
        assert row.error_correlation == pytest.approx(np.corrcoef(error[tissue], std[tissue])[0, 1], abs=1e-5)
        assert 0.1 < row.coverage < 0.9
        width = 1.959964 * std  # two-sided 95 % of a Gaussian
        assert row.coverage_95 == pytest.approx(float((error <= width)[tissue].double().mean()), abs=1e-3)
        assert row.coverage_50 < row.coverage_80 < row.coverage_90 < row.coverage_95 < row.coverage
        assert row.sparsification_oracle < min(row.sparsification, row.intensity_sparsification)
        # the prediction is the intensity of single pixels, the baseline that of 25: much alike
        assert row.intensity_correlation == pytest.approx(row.error_correlation, abs=0.3)


@pytest.mark.parametrize("n_read", [4, 5])
def test_the_curves_of_predictions_are_written_volume_by_volume_beside_the_rows(tmp_path: Path, n_read: int) -> None:
    def cut_off() -> Iterator[Example]:
        yield from batches()[:n_read]  # all of f.h5 and half of g.h5, or all
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(WithStd(), cut_off(), PROTOCOL, tmp_path)
    curves = read_calibration(tmp_path / CALIBRATION)
    assert (curves.method, curves.dataset, curves.split, curves.mask) == ("zero_filled", "memory", "test", "random_4x")
    rows = read_rows(tmp_path / RESULTS)
    assert (
        [volume.volume for volume in curves.volumes] == [row.volume for row in rows] == ["f.h5", "g.h5"][: n_read - 3]
    )
    for volume, row in zip(curves.volumes, rows, strict=True):
        tissue = sum(
            int((e.target > 0.05 * e.data_range.view(-1, 1, 1)).sum())
            for e in batches()
            if e.volume == (row.volume,) and e.target is not None
        )
        assert volume.n_pixels == sum(volume.ratios) == tissue
        at = dict(zip(curves.levels, volume.coverage, strict=True))
        assert at[0.9] == pytest.approx(row.coverage_90, rel=1e-6)  # seven digits in the file
        # two deviations lie between two factors of the grid
        above = np.searchsorted(curves.factors, 2.0)
        assert volume.exceedance[above] <= 1 - row.coverage <= volume.exceedance[above - 1]
        assert volume.ranks is None
    if n_read == 4:
        (part,) = read_calibration(tmp_path / UNFINISHED / CALIBRATION).volumes
        assert part.volume == "g.h5"


def test_samples_give_a_rank_histogram_at_the_size_of_the_target(tmp_path: Path) -> None:
    class Drawing(WithStd):
        def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
            plain = super().__call__(acquisition)
            return replace(plain, samples=torch.stack([0 * plain.image, 1e9 * plain.image, 2e9 * plain.image]))

    evaluate(Drawing(), batches(), PROTOCOL, tmp_path)
    for volume in read_calibration(tmp_path / CALIBRATION).volumes:
        assert volume.ranks == [0, volume.n_pixels, 0, 0]  # every target lies above the first draw alone


def test_an_example_knows_its_foreground_and_the_level_of_its_interval(tmp_path: Path) -> None:
    evaluate(WithStd(), batches(), replace(PROTOCOL, level=0.9), tmp_path)
    for example in read_examples(tmp_path / EXAMPLES):
        assert example.level == 0.9 and example.foreground is not None
        np.testing.assert_array_equal(example.foreground, example.target > 0.05 * np.float32(example.data_range))


def test_the_images_of_a_conformal_method_hold_the_half_width_of_its_interval(tmp_path: Path) -> None:
    evaluate(WithStd(), batches(), replace(PROTOCOL, level=0.9), tmp_path)
    with h5py.File(tmp_path / RECONSTRUCTIONS / "f.h5") as file:
        assert file["half_width"].attrs["level"] == 0.9
        # 90 % of a Gaussian lie within 1.6449 standard deviations
        np.testing.assert_allclose(file["half_width"][()], 1.6448536 * file["std"][()], rtol=1e-5)


def test_conformal_deviations_cover_the_volumes_that_they_were_calibrated_on(tmp_path: Path) -> None:
    evaluate(WithStd(), batches(), PROTOCOL, tmp_path / "plain")
    curves = read_calibration(tmp_path / "plain" / CALIBRATION)
    factor = conformal_factor(np.array(curves.factors), [v.exceedance for v in curves.volumes], 0.5)
    rows = evaluate(Conformal(WithStd(), factor, 0.5), batches(), PROTOCOL, tmp_path / "scaled")
    # 2/3 of the mean share outside and 1/3 for the next volume are at most a half: a quarter lies outside here, or as
    # much less as lies between two factors of the grid, 1 % apart, which hold less than 1 % of the pixels
    assert 0.75 <= np.mean([row.coverage_50 for row in rows]) <= 0.76
    assert rows[0].error_correlation == pytest.approx(
        read_rows(tmp_path / "plain" / RESULTS)[0].error_correlation, rel=1e-5
    )  # one more rounding to float32


def test_conformal_scaling_leaves_the_image_and_needs_a_deviation() -> None:
    (example, *_) = batches()
    plain = WithStd()(example.acquisition)
    scaled = Conformal(WithStd(), 3.0, 0.9).to("cpu")(example.acquisition)
    assert torch.equal(scaled.image, plain.image)
    assert plain.std is not None and scaled.std is not None
    torch.testing.assert_close(1.6448536 * scaled.std, 3.0 * plain.std)  # the Gaussian interval of 90 %
    with pytest.raises(InputError, match="predicts no standard deviation here"):
        Conformal(ZeroFilled(), 3.0, 0.9)(example.acquisition)


def test_predicted_deviations_are_written_beside_the_images(tmp_path: Path) -> None:
    evaluate(WithStd(), batches()[::-1], PROTOCOL, tmp_path)
    for name in N_SLICES:
        expected = torch.cat([predicted(e) for e in batches() if e.volume == (name,)])
        with h5py.File(tmp_path / "reconstructions" / name) as file:
            assert sorted(file) == ["reconstruction", "std"]
            assert file["std"].dtype == np.float32
            np.testing.assert_array_equal(file["std"][()], expected)
    (found, _) = read_examples(tmp_path / EXAMPLES)
    (source,) = [e for e in batches() if (e.volume[0], e.slice[0]) == ("f.h5", 1)]
    np.testing.assert_array_equal(found.std, predicted(source)[0])


def test_a_method_that_predicts_nothing_is_not_judged_by_it(tmp_path: Path) -> None:
    for row in evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path):
        assert math.isnan(row.coverage) and math.isnan(row.error_correlation) and math.isnan(row.sparsification)
    assert not (tmp_path / CALIBRATION).exists()
    with h5py.File(tmp_path / "reconstructions" / "f.h5") as file:
        assert list(file) == ["reconstruction"]
    assert all(example.std is None for example in read_examples(tmp_path / EXAMPLES))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_deviation_that_is_not_finite_is_refused_with_its_slice(tmp_path: Path, bad: float) -> None:
    std = torch.ones(1, 32, 40)
    std[0, 16, 20] = bad
    with pytest.raises(InputError, match=r"NaN or infinite standard deviations for f\.h5, slice 0"):
        evaluate(Fixed(std=std), batches(), PROTOCOL, tmp_path)
    assert list(tmp_path.iterdir()) == []
