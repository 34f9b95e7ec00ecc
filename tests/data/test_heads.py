import logging
import pickle
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from spinwarp.data.heads import SimulatedHeads
from spinwarp.data.heads.anatomy import Slice, View, draw_view, random_phantom, recoloured, seen, without_air
from spinwarp.data.heads.reception import draw_array, draw_noise, draw_window, refined
from spinwarp.data.heads.scan import Scan, draw_scan
from spinwarp.data.heads.subjects import find_heads, pixels
from spinwarp.data.module import FastMRIDataModule
from spinwarp.errors import InputError
from spinwarp.fourier import fftc, ifftc
from spinwarp.masks import RandomMask

HEAD = (np.zeros(2), np.array([0.7, 0.6]))


def head(h: int = 48, w: int = 40, seed: int = 0) -> np.ndarray:
    """An ellipse of tissue in faint air."""
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    rng = np.random.RandomState(seed)
    return np.where(x**2 / 0.5 + y**2 / 0.7 < 1, rng.uniform(300, 900, (h, w)), rng.uniform(0, 20, (h, w)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four subjects: three of NIfTI volumes of six slices, one of a MATLAB array is elsewhere."""
    for number, subject in enumerate(("ann", "ben", "cat", "dan")):
        (tmp_path / "heads" / subject).mkdir(parents=True)
        volume = np.stack([head(seed=10 * number + i).T[:, ::-1] for i in range(6)], -1).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 1, 4, 1.0])), tmp_path / "heads" / subject / "t1.nii")
    return tmp_path / "heads"


def source(folder: Path, **options: Any) -> SimulatedHeads:
    return SimulatedHeads(
        **{
            "path": folder, "val": ["cat"], "test": ["dan"], "matrices": [(32, 40), (33, 47), (40, 36)],
            "coils": [1, 2, 5], "phantoms": 0, **options,
        }
    )  # fmt: skip


def an_ellipse(h: int = 64, w: int = 64) -> Slice:
    there = without_air((head(h, w) / 600).astype(np.float32), (1.0, 1.0), (1.0, 1.0))
    assert there is not None
    return there


def scan(shape: tuple[int, int, int], seed: int = 0, snr: float = 20.0) -> Scan:
    return draw_scan(an_ellipse(), shape, (snr, snr), np.random.RandomState(seed))


@pytest.mark.parametrize("shape", [(1, 32, 40), (4, 33, 47), (3, 47, 32)])
def test_k_space_is_the_transform_of_maps_times_image_and_noise_within_the_window(shape: tuple[int, int, int]) -> None:
    windows = set()
    for seed in range(12):
        made = scan(shape, seed)
        inside = np.zeros(shape[1:], bool)
        inside[made.window] = True
        windows.add(bool(inside.all()))
        # written out in numpy, in double precision
        coil_images = (made.maps * made.image).numpy().astype(complex)
        shifted = np.fft.ifftshift(coil_images, axes=(1, 2))
        clean = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(1, 2))
        expected = inside * (clean + made.noise.numpy())
        np.testing.assert_allclose(made.kspace.numpy(), expected, atol=2e-5 * np.abs(expected).max())
        np.testing.assert_allclose((made.maps.abs() ** 2).sum(0), 1, atol=1e-5)
        acquired = np.fft.ifft2(np.fft.ifftshift(inside * clean, axes=(1, 2)), norm="ortho")
        rss = np.sqrt((np.abs(acquired) ** 2).sum(0))
        np.testing.assert_allclose(np.fft.fftshift(rss), made.target, atol=2e-5 * rss.max())
    assert windows == {True, False}


def test_the_noise_has_the_ratio_to_the_head_that_was_asked_for() -> None:
    for seed, snr in enumerate((8.0, 40.0, 200.0)):
        made = scan((4, 64, 64), seed, snr)
        magnitude = made.image.abs()
        signal = magnitude[magnitude > 0.1 * magnitude.max()].mean()
        std = made.noise.abs().square().mean().sqrt()
        # 4 coils of 4096 samples: a standard deviation of half a percent, more for what coils share
        assert float(signal / std) == pytest.approx(snr, rel=0.03)


def test_noise_is_white_in_k_space_and_correlated_between_coils() -> None:
    noise = draw_noise((4, 90, 101), 0.3, np.random.RandomState(3)).reshape(4, -1).to(torch.complex128)
    n = noise.shape[1]
    covariance = (noise @ noise.mH / n).numpy()
    np.testing.assert_allclose(covariance.diagonal().real, 0.09, rtol=6 / n**0.5)
    correlation = np.abs(covariance[~np.eye(4, dtype=bool)]) / 0.09
    assert 0.02 < correlation.mean() < 0.4
    assert abs((noise[:, 1:] * noise[:, :-1].conj()).mean()) < 0.09 * 6 / (4 * n) ** 0.5
    assert abs((noise**2).mean()) < 0.09 * 6 / (4 * n) ** 0.5  # real and imaginary part alike and independent


def test_a_quarter_turn_of_the_view_turns_the_image() -> None:
    there = an_ellipse()
    straight, turned = (seen(there, View(a, 1, (80.0, 80.0), (0.0, 0.0)), (40, 40)) for a in (0, np.pi / 2))
    # pixel N // 2 is the centre, so row 0 has no partner
    expected = torch.rot90(straight[1:, 1:], 1)
    assert not torch.allclose(straight[1:, 1:], expected, atol=0.05)
    best = min(float((turned[1:, 1:] - torch.rot90(straight[1:, 1:], k)).abs().max()) for k in (1, 3))
    assert best < 1e-3


def test_the_head_lies_where_the_view_says_and_fills_what_was_drawn() -> None:
    there = an_ellipse()
    fills, turned = [], 0
    for seed in range(40):
        view = draw_view(there, (60, 60), np.random.RandomState(seed))
        image = seen(there, view, (60, 60))
        weights = image > 0.2
        rows, columns = torch.nonzero(weights, as_tuple=True)
        center, half = view.head(there)
        fills.append(half)
        turned += abs(np.sin(view.angle)) > 0.7
        if half[1] > 0.95:  # it wraps around
            continue
        found = np.array([float(rows.float().mean()), float(columns.float().mean())]) / 60 - 1
        np.testing.assert_allclose(found, center, atol=0.06)
        spans = [np.ptp(rows.numpy()) / 120, np.ptp(columns.numpy()) / 120]
        np.testing.assert_allclose(spans, half, atol=0.08)
    assert 10 < turned < 30  # either direction encodes phase
    assert np.min(fills) > 0.33
    assert np.mean(np.array(fills) > 0.95) > 0.02


def test_what_lies_beyond_the_field_of_view_wraps_around_along_the_phase_direction() -> None:
    there = an_ellipse()
    narrow, wide = (seen(there, View(0, 1, (80.0, fov), (0.0, 0.0)), (40, n)) for fov, n in ((40.0, 40), (80.0, 80)))
    folded = wide[:, 40:120].clone()
    folded[:, 40:] += wide[:, :40]
    folded[:, :40] += wide[:, 120:]
    torch.testing.assert_close(narrow, folded, atol=1e-4, rtol=1e-4)


def test_air_becomes_zero_and_dark_parts_of_the_head_stay() -> None:
    image = (head(64, 64) / 600).astype(np.float32)
    image[28:36, 28:36] = 0.02
    there = without_air(image, (1.0, 1.0), (1.0, 1.0))
    assert there is not None
    assert float(there.image[:3].max()) == 0
    np.testing.assert_allclose(there.image[28:36, 28:36], 0.02, rtol=1e-5)
    assert without_air(np.full((64, 64), 0.01, np.float32), (1.0, 1.0), (1.0, 1.0)) is None


def test_other_contrasts_keep_air_black_and_change_the_order_of_tissues() -> None:
    ramp = torch.linspace(0, 1.2, 50)[None]
    drawn = [recoloured(ramp, np.random.RandomState(seed)) for seed in range(60)]
    assert all(abs(float(d[0, 0])) < 1e-6 for d in drawn)
    falling = [bool((d.abs().diff() < -1e-3).any()) for d in drawn]
    assert 5 < sum(falling) < 40
    assert any(bool((d < -0.05).any()) for d in drawn)


@pytest.mark.parametrize("n_coils", [1, 2, 7, 32])
def test_arrays_of_coils_have_unit_sum_of_squares_and_differ_from_coil_to_coil(n_coils: int) -> None:
    maps, profile = draw_array(n_coils, (40, 32), HEAD, np.random.RandomState(1))
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-5)
    assert profile.min() > 0
    flat = maps.reshape(n_coils, -1)
    alike = np.abs(flat @ flat.conj().T) / np.outer(*2 * [np.linalg.norm(flat, axis=1)])
    assert n_coils == 1 or (alike[~np.eye(n_coils, dtype=bool)] < 0.999).all()


def test_measured_sensitivities_are_used_for_some_arrays(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    y, x = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16))
    coils = [np.exp(1j * rng.randn() + x * rng.randn() + y) for _ in range(6)]
    savemat(tmp_path / "maps.mat", {"S": np.stack(coils, -1)})
    arrays = [draw_array(4, (32, 40), HEAD, np.random.RandomState(s), tmp_path / "maps.mat") for s in range(30)]
    # they were measured without what all coils together receive
    assert 3 < sum(bool((profile == 1).all()) for _, profile in arrays) < 18
    more = [draw_array(7, (32, 40), HEAD, np.random.RandomState(s), tmp_path / "maps.mat")[1] for s in range(12)]
    assert all((profile != 1).any() for profile in more)  # six were measured
    for maps, _ in arrays:
        np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-5)


def test_splines_reproduce_cubics_and_put_zero_at_the_centre_pixel() -> None:
    y, x = np.linspace(-1, 1, 9)[:, None], np.linspace(-1, 1, 9)
    fine = refined((y**3 - x**2 * y + 2).astype(np.float32), (33, 20))
    v, u = (np.arange(33) - 16)[:, None] / 16.5, (np.arange(20) - 10) / 10
    np.testing.assert_allclose(fine, v**3 - u**2 * v + 2, atol=1e-5)


def test_the_window_keeps_the_centre_and_is_cut_on_either_side() -> None:
    windows = [draw_window((64, 81), np.random.RandomState(seed)) for seed in range(200)]
    for rows, columns in windows:
        assert rows.start < 26 <= 38 < rows.stop
        assert columns.start < 33 <= 48 < columns.stop
    whole = np.mean([columns == slice(0, 81) for _, columns in windows])
    assert 0.5 < whole < 0.8
    assert any(c.start == 0 and c.stop < 81 for _, c in windows)
    assert any(c.start > 0 and c.stop == 81 for _, c in windows)
    assert any(c.start > 0 and c.start == 81 - c.stop for _, c in windows)


def test_an_example_says_what_it_is(folder: Path) -> None:
    made = source(folder)
    for volume in made.volumes("train"):
        example = made.read(volume, 0)
        acquisition = example.acquisition
        assert tuple(acquisition.kspace.shape[1:]) == volume.shape[:3]
        assert example.target is not None
        assert tuple(example.target.shape[1:]) == volume.shape[3:]
        assert example.data_range.tolist() == [float(example.target.max())]
        assert acquisition.headers[0].provenance == "simulated"
        assert acquisition.headers[0].orientation == "axial"
        columns = acquisition.headers[0].acquired_columns or (0, volume.shape[2])
        expected = torch.zeros(volume.shape[2], dtype=torch.bool)
        expected[slice(*columns)] = True
        torch.testing.assert_close(acquisition.mask[0, 0, 0], expected)
        assert not acquisition.kspace[..., ~expected].any()


def test_the_split_is_by_subject_and_nobody_is_in_two(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = source(folder)
    with caplog.at_level(logging.INFO):
        made.prepare()
    assert "train: 12 slices of ann, ben" in caplog.text
    subjects = {split: {v.path.parent.name for v in made.volumes(split)} for split in ("train", "val", "test")}
    assert subjects == {"train": {"ann", "ben"}, "val": {"cat"}, "test": {"dan"}}
    assert [v.name for v in source(folder, n_val=2).volumes("val")] == ["cat_t1_000", "cat_t1_005"]
    without = source(folder, exclude=["ann"])
    assert {v.path.parent.name for v in without.volumes("train")} == {"ben"}
    with pytest.raises(InputError, match="split='tests' is not one of"):
        made.volumes("tests")


def test_numbered_pictures_and_matlab_arrays_are_kept_out_by_ranges_and_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for number in range(95, 105):
        Image.fromarray((head(seed=number) / 4).astype(np.uint8)).save(tmp_path / "flat" / f"{number:04d}.png")
    (tmp_path / "matlab" / "Figure 1A").mkdir(parents=True)
    savemat(tmp_path / "matlab" / "Figure 1A" / "T1.mat", {"image": np.stack([head(), head(), head()], -1)})
    (tmp_path / "matlab" / "eve").mkdir()
    np.save(tmp_path / "matlab" / "eve" / "t2.npy", head())
    made = source(folder, path=[folder, tmp_path / "flat", tmp_path / "matlab"], val=["cat", "97-99"], test=["103-120"])
    names = {split: [v.name for v in made.volumes(split)] for split in ("train", "val", "test")}
    assert [n for n in names["val"] if n.startswith("0")] == ["0097", "0098", "0099"]
    assert names["test"] == ["0103", "0104"]
    assert {"0095", "0096", "0100", "0102", "Figure 1A_T1_001", "dan_t1_003", "eve_t2"} <= set(names["train"])
    volume = next(v for v in made.volumes("train") if v.name == "Figure 1A_T1_001")
    assert made.read(volume, 0).target is not None


def test_reading_is_the_same_each_time_and_in_another_process_and_drawing_is_not(folder: Path) -> None:
    made = source(folder)
    copy = pickle.loads(pickle.dumps(made))
    pixels.cache_clear()
    for volume in made.volumes("val")[:3]:
        one, other = (s.read(volume, 0).acquisition.kspace for s in (made, copy))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        drawn = [made.draw(volume, 0, np.random.RandomState(s)).acquisition.kspace for s in (1, 1, 2)]
        torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)
        assert not torch.allclose(drawn[0], drawn[2])
    other_seed = source(folder, seed=1)
    assert [v.shape for v in other_seed.volumes("train")] != [v.shape for v in made.volumes("train")]


def test_training_draws_anew_each_epoch_and_validation_does_not(folder: Path) -> None:
    module = FastMRIDataModule(source(folder), RandomMask([0.2], [2]), batch_size=2)
    train, val = module.dataset("train"), module.dataset("val")
    again = FastMRIDataModule(source(folder), RandomMask([0.2], [2]), batch_size=2).dataset("train")
    for index in range(3):
        first, second = (train.example(epoch, index).target for epoch in (0, 1))
        assert first is not None
        assert second is not None
        assert not torch.allclose(first, second)
        torch.testing.assert_close(train.example(1, index).target, again.example(1, index).target, rtol=0, atol=0)
        torch.testing.assert_close(val.example(0, index).target, val.example(1, index).target, rtol=0, atol=0)
    fixed = module.dataset("train", evaluate=True)  # training slices, evaluated
    torch.testing.assert_close(fixed.example(0, 0).target, fixed.example(1, 0).target, rtol=0, atol=0)
    shapes = [len(batch) for batch in module.train_dataloader()]
    assert sum(shapes) == 12


def test_workers_draw_what_one_process_draws(folder: Path) -> None:
    loaders = [
        FastMRIDataModule(source(folder), RandomMask([0.2], [2]), num_workers=n).train_dataloader() for n in (0, 2)
    ]
    for one, other in zip(*loaders, strict=True):
        assert one.volume == other.volume
        torch.testing.assert_close(one.acquisition.kspace, other.acquisition.kspace, rtol=0, atol=0)


def test_phantoms_take_their_share_of_training_alone(folder: Path) -> None:
    made = source(folder, phantoms=1)
    volume = made.volumes("train")[0]
    assert made.draw(volume, 0, np.random.RandomState(0)).acquisition.headers[0].provenance == "phantom"
    assert made.read(volume, 0).acquisition.headers[0].provenance == "simulated"
    phantom = random_phantom(np.random.RandomState(0), 96)
    top, bottom, left, right = (round(96 * edge) for edge in phantom.box)
    assert float(phantom.image[:top].max()) == float(phantom.image[bottom + 1 :].max()) == 0
    assert float(phantom.image[:, :left].max()) == float(phantom.image[:, right + 1 :].max()) == 0


def test_volumes_with_many_slices_are_also_cut_along_other_axes(tmp_path: Path) -> None:
    for subject in "abc":
        (tmp_path / subject).mkdir()
        volume = np.stack([head(40, 36).T] * 30, -1).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 1, 1.2, 1.0])), tmp_path / subject / "t1.nii")
    made = source(tmp_path, val=["b"], test=["c"])
    volume = made.volumes("train")[10]
    planes = [
        made.draw(volume, 0, np.random.RandomState(seed)).acquisition.headers[0].orientation for seed in range(40)
    ]
    assert set(planes) == {"axial", "coronal", "sagittal"}
    assert planes.count("axial") > 20


def test_an_interpolated_image_says_how_much_of_k_space_it_fills(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    small = rng.uniform(100, 200, (1, 48, 48))
    kspace = fftc(torch.from_numpy(small).to(torch.complex64))
    padded = torch.nn.functional.pad(kspace, (24, 24))
    for subject, image in (("full", small), ("half", ifftc(padded).abs().numpy())):
        (tmp_path / subject).mkdir()
        np.save(tmp_path / subject / "t1.npy", image)
    made = source(tmp_path, val=["full"], test=["half"], exclude=[])
    with pytest.raises(InputError, match="no subject is left for train"):
        made.volumes("train")
    full, half = find_heads([tmp_path])
    assert pixels(full)[2] == (1.0, 1.0)
    assert pixels(half)[2][0] == 1.0
    assert pixels(half)[2][1] == pytest.approx(0.5, abs=0.11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matrices": [(8, 64)]}, "list of sizes"),
        ({"coils": [0]}, "numbers of coils"),
        ({"coils": [2000], "matrices": [(64, 64)]}, "at most 1048576"),
        ({"snr": (20, 8)}, "low and high"),
        ({"phantoms": 2}, "fraction from 0 to 1"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        source(tmp_path, **options)


def test_folders_that_cannot_be_used_end_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; data.source.path names"):
        source(tmp_path / "nowhere").prepare()
    with pytest.raises(InputError, match=r"no file of coil sensitivities at .*none.mat"):
        source(folder, coil_maps=tmp_path / "none.mat").prepare()
    with pytest.raises(InputError, match=r"no subject is left for val .* which has ann, ben, cat, dan; name the"):
        source(folder, val=["eva"]).prepare()
    with pytest.raises(InputError, match="cat is in both"):
        source(folder, test=["cat"]).prepare()
    Image.fromarray(head().astype(np.uint8)).save(folder / "stray.png")
    with pytest.raises(InputError, match="has no subject"):
        source(folder).prepare()
