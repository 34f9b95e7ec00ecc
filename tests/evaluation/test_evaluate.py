"""The evaluation protocol: what the method is given, how its images are judged, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from memory import MemorySource
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small_split import CROP, N_SLICES, PROTOCOL, Fixed, batches, by_volume, predicted, zero_filled
from with_std import WithStd

from spinwarp.acquisition import Acquisition
from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.evaluation import evaluate
from spinwarp.masks import RandomMask
from spinwarp.metrics import VolumeMetrics
from spinwarp.recon import ZeroFilled
from spinwarp.results import EXAMPLES, read_examples


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


def test_data_without_targets_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"f\.h5 has no reference image.*use reconstruct\.py"):
        evaluate(ZeroFilled(), batches(has_targets=False), PROTOCOL, tmp_path)
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


def test_the_method_sees_acquisitions_and_nothing_else(tmp_path: Path) -> None:
    method = Fixed()
    examples = batches()
    evaluate(method, examples, PROTOCOL, tmp_path)
    assert len(method.given) == 5
    for given, example in zip(method.given, examples, strict=True):
        assert isinstance(given, Acquisition)
        assert torch.equal(given.kspace, example.acquisition.kspace)
