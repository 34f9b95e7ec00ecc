"""The evaluation protocol: reconstruct a split volume by volume, measure, write the result folder."""

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from memory import MemorySource
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Generator, Tensor
from with_std import WithStd

from spinwarp.acquisition import Acquisition, Example, Reconstruction, center_crop, collate
from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.evaluation import UNFINISHED, Protocol, evaluate
from spinwarp.masks import RandomMask
from spinwarp.metrics import VolumeMetrics
from spinwarp.models.conv_decoder import ConvDecoder
from spinwarp.recon import Reconstructor, ZeroFilled
from spinwarp.recon.conformal import Conformal
from spinwarp.recon.untrained import UntrainedNetwork
from spinwarp.results import (
    CALIBRATION,
    EXAMPLES,
    RECONSTRUCTIONS,
    RESULTS,
    TARGETS,
    Row,
    read_calibration,
    read_examples,
    read_rows,
    read_target,
)
from spinwarp.uncertainty import conformal_factor

CROP = (24, 20)
N_SLICES = {"f.h5": 3, "g.h5": 2}
PROTOCOL = Protocol("zero_filled", "memory", "test", "random_4x", 4.0, N_SLICES, crop="none")


def batches(batch_size: int = 1, crop: tuple[int, int] | None = CROP, has_targets: bool = True) -> list[Example]:
    source = MemorySource(crop=crop, has_targets=has_targets)
    return list(FastMRIDataModule(source, RandomMask([0.16], [4]), batch_size=batch_size).loader("test"))


def zero_filled(example: Example) -> Tensor:
    image = ZeroFilled()(example.acquisition).image.abs()
    return center_crop(image, CROP)


class Fixed(Reconstructor):
    """Returns what it is given, and remembers what it was given."""

    def __init__(self, image: Tensor | None = None, std: Tensor | None = None) -> None:
        self.image = image
        self.std = std
        self.given: list[Acquisition] = []
        self.draws: list[Tensor] = []

    def __call__(self, acquisition: Acquisition, *, generator: Generator | None = None) -> Reconstruction:
        self.given.append(acquisition)
        self.draws.append(torch.rand(3, generator=generator))
        b, _, h, w = acquisition.kspace.shape
        image = torch.zeros(b, h, w, dtype=torch.complex64) if self.image is None else self.image
        return Reconstruction(image, self.std)


def predicted(example: Example) -> Tensor:
    std = WithStd()(example.acquisition).std
    assert std is not None
    return center_crop(std, CROP)


def by_volume(rows: Sequence[Row]) -> dict[str, Row]:
    assert len({row.volume for row in rows}) == len(rows)
    return {row.volume: row for row in rows}


def test_maps_that_the_loader_leaves_out_are_added_before_the_method_computes(tmp_path: Path) -> None:
    data, method = FastMRIDataModule(MemorySource(crop=CROP), RandomMask([0.16], [4])), Fixed()
    evaluate(method, data.loader("test", maps=False), PROTOCOL, tmp_path, with_maps=data.with_maps)
    expected = [example.acquisition.maps for example in data.loader("test")]
    assert None not in expected and None not in [given.maps for given in method.given]
    assert all(torch.equal(one.maps, other) for one, other in zip(method.given, expected, strict=True))  # type: ignore[arg-type]


def test_the_numbers_are_those_of_scikit_image_over_whole_volumes(tmp_path: Path) -> None:
    rows = by_volume(evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path))
    assert rows.keys() == N_SLICES.keys()
    for name, row in rows.items():
        slices = [e for e in batches() if e.volume == (name,)]
        image = np.concatenate([zero_filled(e).double().numpy() for e in slices])
        target = np.concatenate([e.target.double().numpy() for e in slices if e.target is not None])
        data_range = float(slices[0].data_range)
        # double precision on either side; what remains is the order of summation
        assert row.nmse == pytest.approx(np.square(image - target).sum() / np.square(target).sum(), rel=1e-6)
        assert row.psnr == pytest.approx(peak_signal_noise_ratio(target, image, data_range=data_range), rel=1e-6)
        similarity = [structural_similarity(t, i, data_range=data_range) for t, i in zip(target, image, strict=True)]
        assert row.ssim == pytest.approx(np.mean(similarity), rel=1e-6)


def test_the_rows_agree_with_the_metrics_of_training(tmp_path: Path) -> None:
    rows = evaluate(ZeroFilled(), batches(), PROTOCOL, tmp_path)
    metrics = VolumeMetrics()
    for example in batches():
        assert example.target is not None
        metrics.update(zero_filled(example), example.target, example.data_range, example.volume, example.slice)
    for name, value in metrics.compute().items():  # of training, which judges whole targets
        assert np.mean([getattr(row, name) for row in rows]) == pytest.approx(float(value), rel=1e-12)


def test_rectangles_are_judged_as_by_the_evaluation_of_fastmri(tmp_path: Path) -> None:
    """Cropped to squares as wide as the target, whose largest value is the data range; numpy, written out."""
    examples = batches()
    for e in examples:
        assert e.target is not None
        e.target[:, 0, 0] = 3 * e.data_range  # the largest value lies where nothing is judged
    rows = by_volume(evaluate(WithStd(), examples, replace(PROTOCOL, crop="fastmri"), tmp_path))
    for name, row in rows.items():
        slices = [e for e in examples if e.volume == (name,)]
        image = np.concatenate([zero_filled(e).double().numpy() for e in slices])[:, 2:22]
        target = np.concatenate([e.target.double().numpy() for e in slices if e.target is not None])[:, 2:22]
        std = np.concatenate([predicted(e).double().numpy() for e in slices])[:, 2:22]
        top = target.max()
        assert row.crop == "20x20" and row.psnr == pytest.approx(
            10 * np.log10(top**2 / np.square(image - target).mean()), rel=1e-6
        )
        assert row.nmse == pytest.approx(np.square(image - target).sum() / np.square(target).sum(), rel=1e-6)
        maps = [structural_similarity(t, i, data_range=top, full=True) for t, i in zip(target, image, strict=True)]
        assert row.ssim == pytest.approx(np.mean([mean for mean, _ in maps]), rel=1e-6)
        tissue = target > 0.05 * top
        inner = np.stack([full for _, full in maps])[:, 3:-3, 3:-3][tissue[:, 3:-3, 3:-3]]
        assert row.ssim_foreground == pytest.approx(inner.mean(), rel=1e-6)
        assert row.coverage == pytest.approx((np.abs(image - target) <= 2 * std)[tissue].mean(), rel=1e-6)
    for example in read_examples(tmp_path / EXAMPLES):  # what was judged, so that the numbers belong to the picture
        assert example.target.shape == example.reconstruction.shape == (20, 20)
        assert example.std is not None and example.std.shape == (20, 20)
        _, similarity = structural_similarity(
            example.target, example.reconstruction, data_range=example.data_range, full=True
        )
        tissue = (example.target > 0.05 * example.data_range)[3:-3, 3:-3]
        assert example.ssim_foreground == pytest.approx(similarity[3:-3, 3:-3][tissue].mean(), rel=1e-5)  # of float32
    with h5py.File(tmp_path / "reconstructions" / "f.h5") as file:  # a submission holds whole images
        assert file["reconstruction"].shape == file["std"].shape == (3, *CROP)


def test_a_target_that_is_wider_than_tall_is_judged_whole(tmp_path: Path) -> None:
    wide = list(FastMRIDataModule(MemorySource(crop=(20, 24)), RandomMask([0.16], [4])).loader("test"))
    judged = [evaluate(ZeroFilled(), wide, replace(PROTOCOL, crop=c), tmp_path / c) for c in ("fastmri", "none")]
    assert [row.crop for rows in judged for row in rows] == ["20x24"] * 4
    assert [row.psnr for row in judged[0]] == [row.psnr for row in judged[1]]


def test_an_empty_target_has_no_metrics_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    examples = [replace(e, target=0 * e.target) if e.volume == ("g.h5",) else e for e in batches()]
    rows = by_volume(evaluate(WithStd(), examples, PROTOCOL, tmp_path))
    assert all(math.isnan(v) for v in (rows["g.h5"].psnr, rows["g.h5"].nmse, rows["g.h5"].ssim_foreground))
    assert "the target of g.h5 is zero after the crop" in caplog.text
    assert math.isfinite(rows["f.h5"].psnr)


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


def test_a_single_coil_is_compared_with_its_own_target_type(tmp_path: Path) -> None:
    source = MemorySource({"test": {"f.h5": (2, (1, 32, 40))}})
    loader = FastMRIDataModule(source, RandomMask([0.16], [4])).loader("test")
    protocol = replace(PROTOCOL, n_slices={"f.h5": 2})
    (row,) = evaluate(ZeroFilled(), loader, protocol, tmp_path)
    assert row.target_type == "esc"
    # what the source says that it read goes first
    (row,) = evaluate(ZeroFilled(), [replace(e, target_type=("rss",)) for e in loader], protocol, tmp_path)
    assert row.target_type == "rss"
    assert row.crop == "32x40"


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


def test_nothing_measured_gives_an_image_of_zeros_whatever_the_method(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A prior would invent one; the method is not asked, and the other slices are not touched."""
    examples = batches(3)
    kspace = examples[0].acquisition.kspace.clone()
    kspace[1] = 0
    examples[0] = replace(examples[0], acquisition=replace(examples[0].acquisition, kspace=kspace))
    method = WithStd()
    evaluate(method, examples, PROTOCOL, tmp_path)
    with h5py.File(tmp_path / "reconstructions" / "f.h5") as file:
        found, std = file["reconstruction"][()], file["std"][()]
    expected = torch.cat([zero_filled(e) for e in batches() if e.volume == ("f.h5",)]).numpy()
    assert not found[1].any() and not std[1].any()
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-5)  # batched FFTs may round otherwise
    assert "f.h5, slice 1, has only zeros in k-space, so its image is zero" in caplog.text


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


def test_data_without_targets_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"f\.h5 has no reference image.*use reconstruct\.py"):
        evaluate(ZeroFilled(), batches(has_targets=False), PROTOCOL, tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def test_a_row_says_if_the_method_was_trained_on_its_volume(tmp_path: Path) -> None:
    protocol = replace(PROTOCOL, trained_on={"g.h5": "patient"})
    rows = by_volume(evaluate(ZeroFilled(), batches(), protocol, tmp_path))
    assert {name: row.trained_on for name, row in rows.items()} == {"f.h5": "", "g.h5": "patient"}


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


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_refused_with_its_slice(tmp_path: Path, bad: float) -> None:
    image = torch.zeros(1, 32, 40, dtype=torch.complex64)
    image[0, 16, 20] = bad
    with pytest.raises(InputError, match=r"the method returned NaN or infinite pixels for f\.h5, slice 0"):
        evaluate(Fixed(image), batches(), PROTOCOL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_evaluate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no volume of the test split of memory was evaluated"):
        evaluate(ZeroFilled(), [], PROTOCOL, tmp_path)


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


def test_the_method_sees_acquisitions_and_nothing_else(tmp_path: Path) -> None:
    method = Fixed()
    examples = batches()
    evaluate(method, examples, PROTOCOL, tmp_path)
    assert len(method.given) == 5
    for given, example in zip(method.given, examples, strict=True):
        assert isinstance(given, Acquisition)
        assert torch.equal(given.kspace, example.acquisition.kspace)


def test_the_randomness_of_a_method_depends_on_seed_volume_and_slice(tmp_path: Path) -> None:
    methods = [Fixed() for _ in range(3)]
    for method, order, seed in zip(methods, (1, -1, 1), (0, 0, 1), strict=True):
        evaluate(method, batches()[::order], PROTOCOL, tmp_path / str(id(method)), seed=seed)
    first, backwards, other = (torch.stack(method.draws) for method in methods)
    assert torch.equal(first, backwards.flip(0))
    assert len(torch.unique(torch.cat([first, other]), dim=0)) == 10


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


def test_progress_is_told_in_slices(tmp_path: Path) -> None:
    reported: list[int] = []
    evaluate(ZeroFilled(), [collate(batches()[:3]), *batches()[3:]], PROTOCOL, tmp_path, advance=reported.append)
    assert reported == [3, 1, 1]
