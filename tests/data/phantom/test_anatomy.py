import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_opening, distance_transform_edt

from spinwarp.data.phantom.anatomy import head_volume, pixel_size, slice_spacing, tissue_fractions
from spinwarp.data.phantom.contrast import TISSUES, draw_signals, flair, gradient_echo, spin_echo

SHAPE = (128, 112)
ORDER = list(TISSUES)


@pytest.fixture(scope="module", params=[0, 1, 2])
def fractions(request: pytest.FixtureRequest) -> np.ndarray:
    return tissue_fractions(8, SHAPE, np.random.RandomState(request.param))


def tissue(fractions: np.ndarray, name: str) -> np.ndarray:
    return fractions[ORDER.index(name)]


def depth_mm(fractions: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the air around the head, in its slice."""
    return np.stack([distance_transform_edt(head) for head in fractions.sum(0) > 0.5]) * pixel_size(SHAPE)


def test_spin_echo_has_its_limits() -> None:
    assert spin_echo(0.8, 900, 80, 0, 1e9) == pytest.approx(0.8)
    assert spin_echo(0.8, 900, 80, 80, 1e9) == pytest.approx(0.8 / np.e)
    assert spin_echo(0.8, 900, 80, 0, 900 * np.log(2)) == pytest.approx(0.4)
    assert spin_echo(0.8, 900, 80, 0, 0) == 0


def test_gradient_echo_has_its_limits() -> None:
    assert gradient_echo(0.8, 900, 80, 0, 1e9, np.pi / 6) == pytest.approx(0.8 * 0.5)  # full recovery: sin(flip)
    saturated = gradient_echo(0.8, 900, 80, 10, 500, np.pi / 2)
    assert saturated == pytest.approx(spin_echo(0.8, 900, 80, 10, 500))  # 90 degrees is saturation recovery


def test_gradient_echo_is_strongest_at_the_ernst_angle() -> None:
    angles = np.linspace(0.01, 1.5, 1000)
    signals = [gradient_echo(1, 900, 80, 0, 100, a) for a in angles]
    assert angles[int(np.argmax(signals))] == pytest.approx(np.arccos(np.exp(-100 / 900)), abs=0.002)  # one step


def test_flair_nulls_csf_at_its_inversion_time() -> None:
    pd, t1, t2 = TISSUES["csf"]
    assert flair(pd, t1, t2, 100, 1e9, t1 * np.log(2)) == pytest.approx(0, abs=1e-12)
    finite = t1 * np.log(2 / (1 + np.exp(-9000 / t1)))
    assert flair(pd, t1, t2, 100, 9000, finite) == pytest.approx(0, abs=1e-12)


def test_flair_without_and_with_full_recovery_is_a_spin_echo() -> None:
    assert flair(0.8, 900, 80, 40, 1e9, 1e8) == pytest.approx(spin_echo(0.8, 900, 80, 40, 1e9))
    assert flair(0.8, 900, 80, 40, 1e9, 0) == pytest.approx(spin_echo(0.8, 900, 80, 40, 1e9))  # magnitude of -1


def test_each_contrast_ranks_the_tissues_as_radiologists_know_them() -> None:
    seen = set()
    for seed in range(60):
        signal, contrast = draw_signals(np.random.RandomState(seed))
        seen.add(contrast)
        assert list(signal) == ORDER
        assert signal["bone"] < 0.2 * signal["white"]
        if contrast in ("T1", "T1GRE"):
            assert signal["fat"] > signal["white"] > signal["grey"] > signal["csf"]
        elif contrast == "T2":
            assert signal["csf"] > signal["lesion"] > signal["grey"] > signal["white"]
        elif contrast == "FLAIR":
            assert signal["edema"] > signal["grey"] > signal["white"] > 3 * signal["csf"]
        else:
            assert signal["grey"] > signal["white"]
    assert seen == {"T1", "T1GRE", "T2", "PD", "FLAIR"}


def test_fractions_are_parts_of_a_whole(fractions: np.ndarray) -> None:
    assert fractions.dtype == np.float32
    assert fractions.shape == (len(TISSUES), 8, *SHAPE)
    assert fractions.min() > -1e-6  # rounding of differences of float32
    assert fractions.sum(0).max() < 1 + 1e-5


def test_borders_are_soft(fractions: np.ndarray) -> None:
    white = tissue(fractions, "white")
    mixed = (white > 0.05) & (white < 0.95)
    assert mixed.sum() > 0.2 * (white > 0.5).sum()


def test_main_tissues_are_there_in_plausible_amounts(fractions: np.ndarray) -> None:
    voxel_ml = pixel_size(SHAPE) ** 2 * slice_spacing(8) / 1000
    volume = dict(zip(ORDER, fractions.sum((1, 2, 3)) * voxel_ml, strict=True))
    # 4 cm of an adult head; half of the upper brain is grey matter, and there is about a tenth of CSF
    assert 150 < volume["white"] < 420
    assert 150 < volume["grey"] < 420
    assert 20 < volume["csf"] < 180
    assert 2 < volume["deep_grey"] < 60
    assert min(volume[t] for t in ("skin", "fat", "bone", "marrow")) > 15


def test_layers_of_the_head_lie_in_order(fractions: np.ndarray) -> None:
    depth = depth_mm(fractions)
    layers = ("skin", "fat", "bone", "grey", "white")
    mean = [float((tissue(fractions, t) * depth).sum() / tissue(fractions, t).sum()) for t in layers]
    assert mean == sorted(mean)
    assert (depth * (fractions.sum(0) > 0.5)).max() > 50


def test_grey_matter_lies_between_outer_csf_and_white_matter(fractions: np.ndarray) -> None:
    depth = depth_mm(fractions)
    # ventricles do border on white matter, and the fissure ends at the corpus callosum: look at the outer 25 mm
    outer = (tissue(fractions, "csf") > 0.5) & (depth < 25)
    beside = np.stack([binary_dilation(s) & ~s for s in outer])
    grey, white = tissue(fractions, "grey")[beside].sum(), tissue(fractions, "white")[beside].sum()
    assert white < 0.1 * grey


def test_ventricles_lie_deep_inside_the_brain(fractions: np.ndarray) -> None:
    deep = (tissue(fractions, "csf") > 0.8) & (depth_mm(fractions) > 40)
    wide = np.stack([binary_opening(s, np.ones((3, 3))) for s in deep])
    area_mm2 = wide.sum((1, 2)) * pixel_size(SHAPE) ** 2
    assert area_mm2.max() > 100  # some slice goes through their bodies
    # they end below the vertex, where only the fissure in the middle is as deep
    beside_the_fissure = np.abs(np.arange(SHAPE[1]) - SHAPE[1] / 2) * pixel_size(SHAPE) > 12
    assert not wide[-1][:, beside_the_fissure].any()


def test_the_two_sides_are_alike_but_not_equal(fractions: np.ndarray) -> None:
    head = fractions.sum(0) > 0.5
    overlap = 2 * (head & head[:, :, ::-1]).sum() / (2 * head.sum())
    assert 0.85 < overlap < 1
    white = tissue(fractions, "white") > 0.5
    assert (white != white[:, :, ::-1]).sum() > 0.1 * white.sum()


def test_some_heads_have_a_lesion_and_some_have_none() -> None:
    sick = [tissue_fractions(4, (64, 56), np.random.RandomState(s))[ORDER.index("lesion")].sum() > 0 for s in range(20)]
    assert 2 <= sum(sick) <= 14  # 0.4 of 20: binomial, three standard deviations


@pytest.mark.parametrize(("n_slices", "shape"), [(1, (96, 96)), (3, (81, 77)), (20, (48, 40))])
def test_volume_is_a_finite_magnitude_of_the_size_asked_for(n_slices: int, shape: tuple[int, int]) -> None:
    image, contrast = head_volume(n_slices, shape, np.random.RandomState(0))
    assert image.shape == (n_slices, *shape)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert image.min() > -1e-6
    assert contrast in ("T1", "T1GRE", "T2", "PD", "FLAIR")
    assert (image.reshape(n_slices, -1).max(1) > 0.05).all()  # tissue in every slice
    edges = np.concatenate([image[:, [0, -1]].ravel(), image[:, :, [0, -1]].ravel()])
    assert np.abs(edges).max() < 1e-6  # the head fits into the field of view


def test_heads_fit_into_the_field_of_view() -> None:
    for seed in range(15):
        head = tissue_fractions(4, (80, 72), np.random.RandomState(seed)).sum(0)
        assert max(head[:, [0, -1]].max(), head[:, :, [0, -1]].max()) == 0


def test_the_same_seed_gives_the_same_head_and_another_gives_another() -> None:
    first, again, other = (head_volume(3, (64, 56), np.random.RandomState(s))[0] for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_neighbouring_slices_are_more_alike_than_distant_ones() -> None:
    white = tissue_fractions(8, SHAPE, np.random.RandomState(3))[ORDER.index("white")].reshape(8, -1)
    correlation = np.corrcoef(white)
    assert np.diag(correlation, 1).mean() > np.diag(correlation, 4).mean() + 0.1
    assert np.diag(correlation, 1).max() < 0.98
