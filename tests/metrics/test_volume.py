import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from spinwarp.metrics import BatchMean, VolumeMetrics, nmse, psnr

# volumes of uneven length, as (name, number of slices)
VOLUMES = (("a.h5", 4), ("b.h5", 1), ("c.h5", 2))
Slice = tuple[Tensor, Tensor, Tensor, str, int]


def slices() -> list[Slice]:
    """Image, target, data range, volume and index of every slice; double precision, so that equal means equal."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for v, (name, n) in enumerate(VOLUMES):
        target = torch.rand(n, 12, 10, dtype=torch.float64, generator=generator) * (v + 1)
        target[..., :4] *= 0.04  # air with noise in it
        image = target + 0.1 * (v + 1) ** 2 * torch.randn(n, 12, 10, dtype=torch.float64, generator=generator)
        drawn += [(image[i], target[i], target.max(), name, i) for i in range(n)]
    return drawn


def update(metrics: VolumeMetrics, batch: list[Slice]) -> VolumeMetrics:
    image, target, data_range, volume, index = zip(*batch, strict=True)
    metrics.update(torch.stack(image), torch.stack(target), torch.stack(data_range), volume, index)
    return metrics


def expected() -> dict[str, float]:
    """Each metric of each volume from its whole volume at once, then the mean over volumes."""
    from skimage.metrics import structural_similarity  # here, for the processes below need not wait for it

    found: dict[str, list[float]] = {"nmse": [], "psnr": [], "ssim": [], "ssim_foreground": []}
    for name, _ in VOLUMES:
        chosen = [s for s in slices() if s[3] == name]
        image, target = torch.stack([s[0] for s in chosen]), torch.stack([s[1] for s in chosen])
        found["nmse"].append(float(nmse(image, target)))
        found["psnr"].append(float(psnr(image, target, target.max())))
        similar = [
            structural_similarity(t.numpy(), x.numpy(), data_range=float(target.max()), full=True)
            for x, t in zip(image, target, strict=True)
        ]
        found["ssim"].append(float(np.mean([mean for mean, _ in similar])))
        # scikit-image's mean leaves out three pixels at the border, where its windows are not full
        where = (target > 0.05 * target.max()).numpy()[:, 3:-3, 3:-3]
        found["ssim_foreground"].append(float(np.stack([full for _, full in similar])[:, 3:-3, 3:-3][where].mean()))
    return {name: sum(values) / len(values) for name, values in found.items()}


def assert_is(metrics: VolumeMetrics, values: dict[str, float], tolerance: float = 1e-9) -> None:
    computed = metrics.compute()
    assert set(computed) == {"nmse", "psnr", "ssim", "ssim_foreground"}
    for name, value in values.items():
        assert float(computed[name]) == pytest.approx(value, rel=tolerance), name


def test_volumes_of_uneven_length_weigh_the_same() -> None:
    assert_is(update(VolumeMetrics(), slices()), expected())


def test_ssim_in_the_foreground_differs_from_that_of_the_picture() -> None:
    assert abs(expected()["ssim_foreground"] - expected()["ssim"]) > 1e-3  # the tests can tell the two apart


def test_a_volume_without_foreground_is_in_no_mean_of_it_and_one_without_target_has_no_metric() -> None:
    target = torch.zeros(1, 12, 10, dtype=torch.float64)
    target[0, 0, 0] = 1.0  # bright at the border alone, where no window is full
    metrics = update(VolumeMetrics(), slices())
    metrics.update(target + 0.1, target, torch.ones(1), ["rim.h5"], [0])
    assert float(metrics.compute()["ssim_foreground"]) == pytest.approx(expected()["ssim_foreground"], rel=1e-9)
    (rim,) = (volume for volume in metrics.per_volume() if volume["ssim_foreground"].isnan())
    assert float(rim["nmse"]) == pytest.approx(1.2, rel=1e-9)  # 120 pixels that err by .1
    empty = VolumeMetrics()
    empty.update(target + 0.1, 0 * target, torch.zeros(1), ["empty.h5"], [0])
    assert all(value.isnan() for value in empty.per_volume()[0].values())


def test_volume_metrics_are_not_slice_metrics() -> None:
    every = slices()
    by_slice = sum(float(nmse(image, target)) for image, target, *_ in every) / len(every)
    assert abs(expected()["nmse"] / by_slice - 1) > 0.05  # so that the test above can tell the two apart


def test_the_order_and_size_of_batches_do_not_matter() -> None:
    whole = update(VolumeMetrics(), slices()).compute()
    shuffled = VolumeMetrics()
    for i in torch.randperm(7, generator=torch.Generator().manual_seed(1)).tolist():
        update(shuffled, [slices()[i]])
    for name, value in shuffled.compute().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-12, atol=0)


def test_a_slice_that_comes_twice_counts_once_and_the_last_one_wins() -> None:
    metrics = update(VolumeMetrics(), slices())
    assert_is(update(metrics, slices()[2:5]), expected())
    wrong = [(torch.zeros_like(s[0]), *s[1:]) for s in slices()[:3]]
    assert_is(update(update(VolumeMetrics(), wrong), slices()), expected())


def test_the_same_index_in_two_volumes_is_two_slices() -> None:
    assert len(update(VolumeMetrics(), slices()).per_volume()) == 3


def test_per_volume_gives_the_metrics_of_each_volume() -> None:
    one = [s for s in slices() if s[3] == "c.h5"]
    (values,) = update(VolumeMetrics(), one).per_volume()
    image, target = torch.stack([s[0] for s in one]), torch.stack([s[1] for s in one])
    assert float(values["nmse"]) == pytest.approx(float(nmse(image, target)), rel=1e-9)
    assert float(values["psnr"]) == pytest.approx(float(psnr(image, target, target.max())), rel=1e-9)


def test_without_any_slice_every_metric_is_nan() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")  # torchmetrics says so too
        values = VolumeMetrics().compute()
    assert set(values) == {"nmse", "psnr", "ssim", "ssim_foreground"}
    assert all(math.isnan(value) for value in values.values())


def test_reset_forgets_everything() -> None:
    metrics = update(VolumeMetrics(), [(torch.zeros_like(s[0]), *s[1:]) for s in slices()])
    metrics.reset()
    assert_is(update(metrics, slices()), expected())


def test_images_in_single_precision_on_any_scale_are_measured_in_double() -> None:
    tiny = [((s[0] * 1e-6).float(), (s[1] * 1e-6).float(), (s[2] * 1e-6).float(), *s[3:]) for s in slices()]
    # 1e-5: what the rounding of images and range to float32 leaves
    assert_is(update(VolumeMetrics(), tiny), expected(), tolerance=1e-5)


def test_gradients_stop_at_the_metrics() -> None:
    image, target, data_range, name, i = slices()[0]
    metrics = update(VolumeMetrics(), [(image.requires_grad_(), target, data_range, name, i)])
    assert not any(value.requires_grad for value in metrics.compute().values())


@pytest.mark.parametrize("parts", [([0, 1, 2, 3], [4, 5, 6]), ([], list(range(7))), ([0, 2, 4, 6], [1, 3, 5, 0])])
def test_the_rows_of_two_processes_together_give_the_metrics_of_one(parts: tuple[list[int], list[int]]) -> None:
    every = slices()
    ranks = [update(VolumeMetrics(), [every[i] for i in part]) if part else VolumeMetrics() for part in parts]
    merged = update(VolumeMetrics(), every[:1])  # an update, for torchmetrics' bookkeeping
    merged.rows = [table for rank in ranks for table in rank.rows]
    assert_is(merged, expected())


def batch_mean(batches: list[int]) -> BatchMean:
    """The losses 1, 2 and 4 of batches of two slices, one and three."""
    metrics = BatchMean()
    for i in batches:
        start, size, value = ((0, 2, 1.0), (2, 1, 2.0), (3, 3, 4.0))[i]
        metrics.update(torch.tensor(value), ["a.h5"] * size, range(start, start + size))
    return metrics


def test_the_mean_of_batches_weighs_slices_the_same_and_counts_repeated_batches_once() -> None:
    mean = (2 * 1 + 1 * 2 + 3 * 4) / 6
    assert float(batch_mean([0, 1, 2]).compute()) == pytest.approx(mean, rel=1e-12)
    assert float(batch_mean([2, 0, 1, 0, 0]).compute()) == pytest.approx(mean, rel=1e-12)


# what each of two processes sees: one without a slice; a volume on both and a slice twice
SHARES = {"empty rank": (list(range(7)), []), "uneven ranks": ([0, 1, 2, 3, 4], [5, 6, 0])}


def _one_of_two_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    values = {}
    for case, shares in SHARES.items():
        metrics = VolumeMetrics()
        if shares[rank]:
            update(metrics, [slices()[i] for i in shares[rank]])
        values[case] = {name: float(value) for name, value in metrics.compute().items()}
        batches = {"empty rank": ([0, 1, 2], []), "uneven ranks": ([0, 1], [2, 0])}[case][rank]
        values[case]["loss"] = float(batch_mean(batches).compute())
    torch.save(values, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ddp
def test_two_real_processes_agree_with_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two_processes, args=(str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        values = torch.load(tmp_path / f"rank{rank}.pt")
        for case in SHARES:
            for name, value in expected().items():
                assert values[case][name] == pytest.approx(value, rel=1e-9), (rank, case, name)
            assert values[case]["loss"] == pytest.approx(16 / 6, rel=1e-12)
