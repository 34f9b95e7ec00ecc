import builtins
import logging
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spinwarp.data.images.source import SimulatedImages
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc

SHARED = Path(os.environ.get("SPINWARP_SHARED", Path(__file__).parents[4] / "shared"))
REAL, COILS = SHARED / "data" / "cheng_t1ce", SHARED / "data" / "coils_32ch_head" / "xGT.mat"


def picture(h: int = 48, w: int = 40, seed: int = 0) -> np.ndarray:
    """Return an 8-bit ellipse with texture."""
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    texture = np.random.RandomState(seed).uniform(100, 200, (h, w))
    return ((x**2 / 0.5 + y**2 / 0.7 < 1) * texture).astype(np.uint8)


def write_pictures(folder: Path, numbers: Sequence[int], pattern: str = "{:04d}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(picture(seed=number)).save(folder / pattern.format(number))
    return folder


def names(source: SimulatedImages, split: str) -> list[str]:
    return [volume.name for volume in source.volumes(split)]


def test_a_slice_is_a_fully_sampled_example_that_says_it_is_simulated(tmp_path: Path) -> None:
    source = SimulatedImages(write_pictures(tmp_path, range(3)), n_coils=4, block=1)
    volume = source.volumes("test")[0]
    example = source.read(volume, 0)
    acquisition = example.acquisition
    assert volume.shape == (4, 48, 40, 48, 40)
    assert (volume.name, volume.n_slices, volume.path) == ("0002", 1, tmp_path / "0002.png")
    assert acquisition.kspace.shape == (1, 4, 48, 40)
    assert acquisition.kspace.dtype == torch.complex64
    assert acquisition.mask.shape == (1, 1, 1, 40)
    assert acquisition.mask.dtype == torch.bool
    assert acquisition.mask.all()
    assert acquisition.noise_std is None
    assert acquisition.headers[0].provenance == "simulated"
    assert acquisition.headers[0].source == "0002.png"
    assert example.target is not None
    assert example.target.dtype == torch.float32
    np.testing.assert_array_equal(example.target[0], picture(seed=2))
    assert example.data_range.tolist() == [float(picture(seed=2).max())]
    assert (example.volume, example.slice) == (("0002",), (0,))


@pytest.mark.parametrize("shape", [(48, 40), (33, 47), (32, 45)])
def test_without_noise_the_root_sum_of_squares_is_the_target_and_the_phase_is_not_flat(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", picture(*shape).astype(np.float32))
    source = SimulatedImages(tmp_path, noise_std=0, block=1)
    example = source.read(source.volumes("train")[0], 0)
    coil_images = ifftc(example.acquisition.kspace)
    rss = coil_images.abs().square().sum(1).sqrt()
    torch.testing.assert_close(rss, example.target, atol=1e-3, rtol=1e-4)
    assert coil_images[0].angle().std() > 0.1


def test_noise_has_the_asked_fraction_of_the_largest_magnitude(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, range(3))
    clean, noisy = (SimulatedImages(folder, noise_std=std, block=1) for std in (0, 0.05))
    volume = clean.volumes("train")[0]
    example = noisy.read(volume, 0)
    noise = example.acquisition.kspace - clean.read(volume, 0).acquisition.kspace
    std = float(noise.abs().square().mean().sqrt())
    assert std == pytest.approx(0.05 * float(example.data_range), rel=0.05)


def test_reading_again_and_in_another_process_gives_the_same_slice_and_another_seed_does_not(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, range(4))
    source = SimulatedImages(folder, block=1)
    first, second = source.volumes("train")
    kspace = source.read(first, 0).acquisition.kspace
    source.read(second, 0)
    torch.testing.assert_close(source.read(first, 0).acquisition.kspace, kspace, rtol=0, atol=0)
    copy = pickle.loads(pickle.dumps(source))
    torch.testing.assert_close(copy.read(first, 0).acquisition.kspace, kspace, rtol=0, atol=0)
    other = SimulatedImages(folder, block=1, seed=1)
    assert not torch.equal(other.read(first, 0).acquisition.kspace, kspace)


def test_a_folder_splits_by_numbers_or_by_sub_folders_as_prepare_finds(tmp_path: Path) -> None:
    source = SimulatedImages(write_pictures(tmp_path / "flat", range(1, 8)), block=2, n_test=2)
    assert names(source, "train") == ["0001", "0002"]
    assert names(source, "val") == ["0003", "0004"]
    assert names(source, "test") == ["0005", "0006", "0007"]
    for subject in "cab":
        write_pictures(tmp_path / "deep" / subject, range(2))
    assert names(SimulatedImages(tmp_path / "deep"), "test") == ["c_0000", "c_0001"]
    with pytest.raises(InputError, match="make 1 blocks"):
        SimulatedImages(tmp_path / "flat").prepare()
    with pytest.raises(InputError, match="split='tests' is not one of"):
        source.volumes("tests")


@pytest.mark.parametrize("option", [{"n_coils": 0}, {"block": 0}, {"noise_std": -0.1}, {"n_val": -1}])
def test_options_out_of_range_are_refused(tmp_path: Path, option: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        SimulatedImages(tmp_path, **option)  # type: ignore[arg-type]


def test_the_orientation_table_fills_the_header_and_filters(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(1, 10))
    (tmp_path / "orientation.tsv").write_text("first\tlast\torientation\n1\t6\taxial\n7\t9\tcoronal\n")
    source = SimulatedImages(tmp_path, block=2, orientations=["axial"])
    assert [n for split in ("train", "val", "test") for n in names(source, split)] == [f"{n:04d}" for n in range(1, 7)]
    assert source.read(source.volumes("test")[0], 0).acquisition.headers[0].orientation == "axial"
    with pytest.raises(InputError, match="no image of orientation sagittal; it has axial, coronal"):
        SimulatedImages(tmp_path, orientations=["sagittal"]).prepare()
    (tmp_path / "orientation.tsv").write_text("from\tto\n1\t2\n")
    with pytest.raises(InputError, match="columns first, last and orientation"):
        SimulatedImages(tmp_path).prepare()


def test_a_common_size_keeps_proportions_and_pads(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, range(3))
    source = SimulatedImages(folder, block=1, size=24)
    volume = source.volumes("train")[0]
    target = source.read(volume, 0).target
    assert volume.shape == (8, 24, 24, 24, 24)
    assert target is not None
    assert target.shape == (1, 24, 24)
    assert (target >= 0).all()
    assert not target[..., :2].any()
    assert not target[..., 22:].any()
    assert float(target.mean()) * 24 * 24 == pytest.approx(picture().mean() * 24 * 20, rel=0.03)
    assert SimulatedImages(folder, block=1, size=[60, 50]).volumes("val")[0].shape == (8, 60, 50, 60, 50)


def test_prepare_says_once_what_flatters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        Image.fromarray(picture(64, 64, number)).resize((128, 128), Image.Resampling.BICUBIC).save(
            tmp_path / f"{number}.png"
        )
    SimulatedImages(tmp_path, block=1).prepare()
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    for words in ("no measured phase", "3 of 3 volumes are JPEG or 8-bit", "empty in 3 of 3", "labelled simulated"):
        assert words in record.getMessage()


def test_floats_without_any_finding_still_miss_their_phase(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", picture(seed=number).astype(np.float32))
    SimulatedImages(tmp_path, block=1).prepare()
    assert "8-bit" not in caplog.text
    assert "border" not in caplog.text
    assert "no measured phase" in caplog.text


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((8, 8), np.nan), "not finite"),
        (-np.eye(8), "expected magnitudes of at least zero"),
        (np.zeros((8, 8)), "zero everywhere"),
        (np.eye(8) * 1j, "expected real numbers"),
        (np.zeros((2, 2, 8, 8)), r"expected numbers \(h, w\) or \(slice, h, w\)"),
    ],
)
def test_images_that_are_no_magnitudes_are_refused(tmp_path: Path, image: np.ndarray, message: str) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", image)
    with pytest.raises(InputError, match=message):
        source = SimulatedImages(tmp_path, block=1)
        source.read(source.volumes("train")[0], 0)


def test_an_unusable_image_is_found_before_the_run(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.full((8, 8), np.inf))
    with pytest.raises(InputError, match="not finite"):
        SimulatedImages(tmp_path, block=1).prepare()


def test_a_volume_shares_its_data_range_and_its_noise_level(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.stack([picture(), picture() // 4, picture() * 0]))
    source = SimulatedImages(tmp_path, block=1)
    volume = source.volumes("train")[0]
    assert volume.n_slices == 3
    examples = [source.read(volume, i) for i in range(3)]
    assert len({float(e.data_range) for e in examples}) == 1
    empty = examples[2].acquisition.kspace
    assert float(empty.abs().square().mean().sqrt()) == pytest.approx(0.01 * picture().max(), rel=0.1)


def test_missing_coil_maps_are_found_before_the_run(tmp_path: Path) -> None:
    source = SimulatedImages(write_pictures(tmp_path, range(3)), block=1, coil_maps=tmp_path / "coils.mat")
    with pytest.raises(InputError, match=r"coils.mat"):
        source.prepare()


def test_no_file_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SimulatedImages(write_pictures(tmp_path, range(3)), block=1)
    opened, original = [], builtins.open

    def watched(*arguments: Any, **options: Any) -> Any:
        opened.append(original(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(builtins, "open", watched)
    source.prepare()
    source.read(source.volumes("train")[0], 0)
    assert opened
    assert all(file.closed for file in opened)


@pytest.mark.skipif(
    not (REAL.is_dir() and COILS.is_file()),
    reason=f"no {REAL} or {COILS}: the real images and coil maps are not here; set SPINWARP_SHARED",
)
def test_real_images_and_measured_coil_maps_give_an_example(caplog: pytest.LogCaptureFixture) -> None:
    source = SimulatedImages(REAL, coil_maps=COILS)
    source.prepare()
    assert "1550 of 1550 volumes are JPEG or 8-bit" in caplog.text
    assert "border" not in caplog.text  # the set was brought down to the resolution it has
    assert [len(source.volumes(split)) for split in ("train", "val", "test")] == [1450, 50, 50]
    example = source.read(source.volumes("test")[3], 0)
    rss = ifftc(example.acquisition.kspace).abs().square().sum(1).sqrt()
    assert example.target is not None
    error = (rss - example.target).square().mean().sqrt() / example.data_range
    assert 0.002 < float(error) < 0.03
    assert example.acquisition.headers[0].orientation == "sagittal"
