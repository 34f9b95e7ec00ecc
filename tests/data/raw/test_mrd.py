"""MRD files, written by the reference library; what is expected is written out in numpy."""

import logging
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_files import acquisition, lines_of, random_kspace, write_mrd, xml

from spinwarp.acquisition import Acquisition
from spinwarp.data.measurement import Measured
from spinwarp.data.raw import open_measurement
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc


def read(measurement: Measured, index: int = 0) -> Acquisition:
    (example,) = measurement.slices([index])
    return example.acquisition


def centred(transform: str, array: np.ndarray, axis: int) -> np.ndarray:
    shifted = np.fft.ifftshift(array, axes=axis)
    return np.fft.fftshift(getattr(np.fft, transform)(shifted, axis=axis, norm="ortho"), axes=axis)


def test_a_whole_slice_comes_back_bit_for_bit(tmp_path: Path) -> None:
    kspace = random_kspace(3, 16, 12)
    measurement = open_measurement(write_mrd(tmp_path / "a.h5", xml(), lines_of(kspace)))
    found = read(measurement)
    assert measurement.n_slices == 1
    np.testing.assert_array_equal(found.kspace[0].numpy(), kspace)
    assert found.mask.shape == (1, 1, 1, 12)
    assert found.mask.all()
    header = found.headers[0]
    assert (header.contrast, header.provenance, header.source) == ("T2 TSE", "scanner", "a.h5")
    assert (header.reconstruction_size, header.acquired_columns, header.orientation) == (None, None, "axial")


@given(
    order=st.permutations(range(24)),
    skipped=st.sets(st.integers(0, 11), max_size=8),
    twice=st.sets(st.integers(0, 11)),
    reverse=st.booleans(),
    calibration=st.sets(st.integers(0, 11)),
    junk=st.sampled_from([(), (23,), (24,), (26,), (27,), (28,), (29,), (30,), (31,)]),
    pre=st.integers(0, 3),
    post=st.integers(0, 3),
    even=st.booleans(),
)
def test_any_order_flags_and_repetitions_give_the_same_kspace(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    skipped: set[int],
    twice: set[int],
    reverse: bool,
    calibration: set[int],
    junk: tuple[int, ...],
    pre: int,
    post: int,
    even: bool,
) -> None:
    n = 16 if even else 15
    kspace = random_kspace(2, 2, n, 12)  # slice, coil, row, column
    skipped -= {5}  # one line at least
    expected = kspace.copy()
    expected[..., sorted(skipped)] = 0
    expected[:, :, :pre] = 0
    expected[:, :, n - post :] = 0
    readouts = []
    for number in order:
        index, column = divmod(number, 12)
        if column in skipped:
            continue
        # what is discarded holds anything; 20 and 21 are calibration, embedded in the image
        data = kspace[index, :, :, column].copy()
        data[:, :pre] = data[:, n - post :] = 1e9
        flags = [20 + column % 2] if column in calibration else []
        fields = {"discard_pre": pre, "discard_post": post}
        if reverse:
            data, fields = data[:, ::-1], {"discard_pre": post, "discard_post": pre, "center_sample": n - n // 2}
            flags.append(22)
        for average in range(2 if column in twice else 1):
            part = data * (2 - 2 * average if column in twice else 1)  # 2 and 0, of which the mean is 1
            readouts.append(
                acquisition(part, flags, kspace_encode_step_1=column, slice=index, average=average, **fields)
            )
    readouts += [acquisition(1e9 * kspace[0, :, :, 3], junk, kspace_encode_step_1=3)] if junk else []
    path = tmp_path_factory.mktemp("mrd") / "a.mrd"
    measurement = open_measurement(write_mrd(path, xml(nx=n), readouts))
    assert measurement.n_slices == 2
    rows = np.zeros(n, bool)
    rows[pre : n - post] = True
    columns = ~np.isin(np.arange(12), sorted(skipped))
    for index in range(2):
        found = read(measurement, index)
        np.testing.assert_array_equal(found.kspace[0].numpy(), expected[index])
        mask = found.mask.expand(1, 1, n, 12)[0, 0].numpy()
        np.testing.assert_array_equal(mask, rows[:, None] & columns)


@pytest.mark.parametrize("storage", [{"chunks": (5,)}, {"chunks": (5,), "compression": "gzip"}, {}])
def test_readouts_are_read_however_hdf5_stores_them(tmp_path: Path, storage: dict[str, object]) -> None:
    kspace = random_kspace(3, 16, 12)
    path = write_mrd(tmp_path / "a.h5", xml(), lines_of(kspace))
    with h5py.File(path, "r+") as file:
        stored = file["dataset/data"][()]
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=stored, **storage)
    np.testing.assert_array_equal(read(open_measurement(path)).kspace[0].numpy(), kspace)


def test_readout_oversampling_is_removed_by_cropping_the_image(tmp_path: Path) -> None:
    kspace = random_kspace(2, 32, 12)
    header = xml(nx=32, fx=64, rx=16, gx=32)
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", header, lines_of(kspace))))
    expected = centred("fft", centred("ifft", kspace, 1)[:, 8:24], 1)
    np.testing.assert_allclose(found.kspace[0].numpy(), expected, atol=1e-5)  # rounding of two transforms
    geometry = found.headers[0].geometry
    assert geometry is not None
    assert geometry.voxel_size == (2, 2, 5)


def test_readouts_that_a_converter_freed_of_oversampling_are_not_cropped_again(tmp_path: Path) -> None:
    kspace = random_kspace(2, 16, 12)
    header = xml(nx=32, fx=64, rx=16, gx=32)
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", header, lines_of(kspace))))
    np.testing.assert_array_equal(found.kspace[0].numpy(), kspace)
    assert found.mask.all()
    geometry = found.headers[0].geometry
    assert geometry is not None
    assert geometry.voxel_size == (2, 2, 5)


def test_phase_oversampling_stays_and_the_image_is_cropped_for_viewing(tmp_path: Path) -> None:
    header = xml(ny=12, ry=16, gy=16)  # 8 of 12 columns hold the field of view, interpolated to 16 pixels
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", header, lines_of(random_kspace(1, 16, 12)))))
    assert found.headers[0].reconstruction_size == (16, 8)


def test_an_asymmetric_echo_and_partial_fourier_lie_where_they_belong(tmp_path: Path) -> None:
    kspace = random_kspace(2, 16, 12)
    # ten samples of which the third is the centre; lines 4 to 11, which the scanner counts from zero
    readouts = [
        acquisition(kspace[:, 6:, column], center_sample=2, kspace_encode_step_1=column - 4) for column in range(4, 12)
    ]
    header = xml(first=0, last=7, centre=2)
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", header, readouts)))
    expected = kspace.copy()
    expected[:, :6] = expected[..., :4] = 0
    np.testing.assert_array_equal(found.kspace[0].numpy(), expected)
    np.testing.assert_array_equal(found.mask[0, 0].numpy(), expected[0] != 0)
    assert found.headers[0].acquired_columns is None  # the missing third is partial Fourier, not padding
    assert found.acceleration()[0] == pytest.approx(16 * 12 / (10 * 8))


def test_zero_padding_is_no_acceleration(tmp_path: Path) -> None:
    kspace = random_kspace(1, 16, 8)
    header = xml(ny=12, first=0, last=7, centre=4)
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", header, lines_of(kspace))))
    assert found.headers[0].acquired_columns == (2, 10)
    assert found.acceleration()[0] == 1
    np.testing.assert_array_equal(found.kspace[0, :, :, 2:10].numpy(), kspace)


def test_echoes_and_repetitions_are_further_slices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kspace = random_kspace(2, 3, 2, 1, 16, 12)  # repetition, contrast, slice
    readouts = [
        line
        for r, c, s in np.ndindex(2, 3, 2)
        for line in lines_of(kspace[r, c, s], repetition=r, contrast=c, slice=s, position=(0, 0, 7 * s))
    ]
    np.random.RandomState(1).shuffle(readouts)
    with caplog.at_level(logging.INFO):
        measurement = open_measurement(write_mrd(tmp_path / "a.h5", xml(), readouts))
    assert measurement.n_slices == 12
    assert "besides its 2 slices it counts 3 of contrast, 2 of repetition" in caplog.text
    for index, (r, c, s) in enumerate(np.ndindex(2, 3, 2)):
        np.testing.assert_array_equal(read(measurement, index).kspace[0].numpy(), kspace[r, c, s])


@pytest.mark.parametrize(("vendor", "sign"), [("Other", 1), ("SIEMENS", -1)])
def test_geometry_is_that_of_the_readouts_and_slices_follow_their_normal(
    tmp_path: Path, vendor: str, sign: int
) -> None:
    angle = np.deg2rad(30)
    readout, phase = (0.0, float(np.cos(angle)), float(-np.sin(angle))), (-1.0, 0.0, 0.0)
    normal = (0.0, float(np.sin(angle)), float(np.cos(angle)))
    positions = [np.array([3, -4, 5]) + 6.5 * n * np.array(normal) for n in (2, 0, 1)]  # as interleaved scans count
    readouts = [
        line
        for s in range(3)
        for line in lines_of(
            random_kspace(1, 16, 12, seed=s), slice=s, position=tuple(positions[s].tolist()), read_dir=readout,
            phase_dir=phase, slice_dir=normal,
        )
    ]  # fmt: skip
    measurement = open_measurement(write_mrd(tmp_path / "a.h5", xml(vendor=vendor), readouts))
    for index, s in enumerate((1, 2, 0)):
        found = read(measurement, index)
        np.testing.assert_array_equal(found.kspace[0].numpy(), random_kspace(1, 16, 12, seed=s))
        geometry = found.headers[0].geometry
        assert geometry is not None
        # single precision of the file
        np.testing.assert_allclose(geometry.position, positions[s], atol=1e-5)
        np.testing.assert_allclose(geometry.readout, sign * np.array(readout), atol=1e-6)
        np.testing.assert_allclose(geometry.phase, sign * np.array(phase), atol=1e-6)
        np.testing.assert_allclose(geometry.slice, normal, atol=1e-6)
        np.testing.assert_allclose(geometry.voxel_size, (2, 2, 6.5), atol=1e-5)


@pytest.mark.parametrize(("vendor", "sign"), [("Other", -1), ("SIEMENS", 1)])
@pytest.mark.parametrize(("n", "rows", "columns"), [(32, 16, 12), (30, 15, 11), (31, 15, 12), (16, 16, 13)])
def test_a_point_of_the_object_is_found_where_it_lies_in_the_patient(
    tmp_path: Path, vendor: str, sign: int, n: int, rows: int, columns: int
) -> None:
    turn = np.linalg.qr(random_kspace(3, 3, seed=3).real)[0]  # any three perpendicular directions
    centre, voxel = np.array([10.0, -20.0, 30.0]), 2.0
    point = centre + 3 * voxel * turn[0] - 4 * voxel * turn[1]
    # the signal of a point at a distance x from the centre is exp(-2 pi i k x), for Siemens exp(2 pi i k x)
    x, y = (point - centre) @ turn[0], (point - centre) @ turn[1]
    k = [(np.arange(m) - m // 2) / (voxel * m) for m in (n, columns)]
    kspace = np.exp(sign * 2j * np.pi * np.add.outer(k[0] * x, k[1] * y))[None]
    directions = {name: tuple(turn[i].tolist()) for i, name in enumerate(("read_dir", "phase_dir", "slice_dir"))}
    lines = lines_of(kspace, position=tuple(centre.tolist()), **directions)
    header = xml(nx=n, ny=columns, rx=rows, gx=2 * rows, vendor=vendor)
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", header, lines)))
    assert found.kspace.shape == (1, 1, rows, columns)
    image = ifftc(found.kspace[0, 0]).abs()
    row, column = np.unravel_index(int(image.argmax()), image.shape)
    geometry = found.headers[0].geometry
    assert geometry is not None
    place = geometry.affine((rows, columns)) @ [row, column, 0, 1]
    np.testing.assert_allclose(place[:3], point, atol=1e-3)


def test_directions_that_cannot_be_cost_the_geometry_and_not_the_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kspace = random_kspace(1, 16, 12)
    readouts = lines_of(kspace, read_dir=(0.5, 0.5, 0.0))
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", xml(), readouts)))
    np.testing.assert_array_equal(found.kspace[0].numpy(), kspace)
    assert found.headers[0].geometry is None
    assert "a.h5: readout, phase and slice direction are perpendicular unit vectors" in caplog.text


def test_a_noise_scan_whitens_the_coils_and_keeps_the_units(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    mixing = np.array([[1, 0, 0], [0.6, 0.8, 0], [0.2, 0.3j, 1.5]])

    def noise(n: int) -> np.ndarray:
        return mixing @ ((rng.randn(3, n) + 1j * rng.randn(3, n)) / np.sqrt(2))

    # the image is nothing but noise; its readouts last four times as long, which halves the noise
    lines = [acquisition(noise(64) / 2, kspace_encode_step_1=c, sample_time_us=40.0) for c in range(48)]
    scans = [acquisition(noise(2000), [ismrmrd.ACQ_IS_NOISE_MEASUREMENT]) for _ in range(10)]
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", xml(nx=64, ny=48), scans + lines)))
    samples = found.kspace[0].flatten(1).numpy()
    covariance = samples @ samples.conj().T / samples.shape[1]
    level = np.sqrt(np.trace(mixing @ mixing.conj().T).real / 3) / 2
    # 3072 samples estimate it to 2 %
    np.testing.assert_allclose(covariance, level**2 * np.eye(3), atol=0.06 * level**2)
    assert found.noise_std is not None
    assert float(found.noise_std[0]) == pytest.approx(level, rel=0.02)


def test_a_noise_scan_of_a_silent_coil_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kspace = random_kspace(2, 16, 12)
    noise = random_kspace(2, 512)
    noise[1] = 0
    readouts = [acquisition(noise, [19]), *lines_of(kspace)]
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", xml(), readouts)))
    np.testing.assert_array_equal(found.kspace[0].numpy(), kspace)
    assert "its noise scan is not used" in caplog.text


def test_separate_calibration_becomes_coil_maps_and_no_image(tmp_path: Path) -> None:
    n = 32
    x = np.linspace(-1, 1, n)
    maps = np.stack([1.2 + x[:, None] + 0.5j * x, 1.2 - x[:, None] + 0.3j * x[None]])
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    object_ = (np.hypot(x[:, None], x) < 0.8).astype(complex)
    kspace = centred("fft", centred("fft", maps * object_, 1), 2).astype(np.complex64)
    image = [line for line in lines_of(kspace) if line.idx.kspace_encode_step_1 % 2 == 0]
    calibration = [a for a in lines_of(kspace, lambda _: [20]) if 4 <= a.idx.kspace_encode_step_1 < 28]
    header = xml(nx=n, ny=n, mode="separate")
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", header, calibration + image)))
    assert found.mask[0, 0, 0].tolist() == [column % 2 == 0 for column in range(n)]
    assert found.maps is not None
    inside = np.hypot(x[:, None], x) < 0.6
    agreement = np.abs((found.maps[0].numpy() * maps.conj()).sum(0))[inside]
    assert agreement.min() > 0.99  # up to a phase the same maps


def test_separate_calibration_may_have_an_encoding_of_its_own(tmp_path: Path) -> None:
    kspace = random_kspace(2, 16, 12)
    image = lines_of(kspace)[::2]
    # eight lines about the centre, which the scanner counts from zero, with half the samples
    calibration = [
        acquisition(kspace[:, 4:12, c], [20], kspace_encode_step_1=c - 2, center_sample=4, encoding_space_ref=1)
        for c in range(2, 10)
    ]
    header, other = xml(mode="separate"), xml(ny=8, fy=24, gy=24, nx=8, fx=32, gx=32)
    second = other[other.index("<encoding>") : other.index("</encoding>") + len("</encoding>")]
    both = header.replace("</ismrmrdHeader>", f"{second}</ismrmrdHeader>")
    found = read(open_measurement(write_mrd(tmp_path / "a.h5", both, calibration + image)))
    expected = xml(mode="separate")
    same = [acquisition(kspace[:, 4:12, c], [20], kspace_encode_step_1=c, center_sample=4) for c in range(2, 10)]
    reference = read(open_measurement(write_mrd(tmp_path / "b.h5", expected, same + image)))
    assert found.maps is not None
    assert reference.maps is not None
    np.testing.assert_array_equal(found.maps.numpy(), reference.maps.numpy())
    np.testing.assert_array_equal(found.kspace[0, :, :, ::2].numpy(), kspace[..., ::2])


@pytest.mark.parametrize("partial", [False, True])
def test_a_slab_becomes_slices_along_whichever_direction_is_whole(tmp_path: Path, partial: bool) -> None:
    kspace = random_kspace(2, 8, 12, 6)  # coil, row, column, partition
    # with holes in the partitions of some lines, only the readout is whole
    readouts = [
        acquisition(kspace[:, :, c, p], kspace_encode_step_1=c, kspace_encode_step_2=p, position=(1, 2, 3))
        for c, p in np.ndindex(12, 6)
        if not (partial and (c + p) % 5 == 4)
    ]
    header = xml(nx=8, ny=12, nz=6, gz=20, rz=4)
    measurement = open_measurement(write_mrd(tmp_path / "a.h5", header, readouts))
    if not partial:
        assert measurement.n_slices == 4
        expected = centred("ifft", kspace, 3)[..., 1:5]
        for index in range(4):
            found = read(measurement, index)
            np.testing.assert_allclose(found.kspace[0].numpy(), expected[..., index], atol=1e-5)
            assert found.mask.all()
            geometry = found.headers[0].geometry
            assert geometry is not None
            np.testing.assert_allclose(geometry.position, (1, 2, 3 + 5 * (index - 2)))
        return
    assert measurement.n_slices == 8
    there = np.add.outer(np.arange(12), np.arange(6)) % 5 != 4
    expected = centred("ifft", kspace * there, 1)
    for index in range(8):
        found = read(measurement, index)
        np.testing.assert_allclose(found.kspace[0].numpy(), expected[:, index], atol=1e-5)
        np.testing.assert_array_equal(found.mask[0, 0].numpy(), there)
        geometry = found.headers[0].geometry
        assert geometry is not None
        np.testing.assert_allclose(geometry.position, (1 + 2 * (index - 4), 2, 3))
        assert (geometry.readout, geometry.phase, geometry.slice) == ((0, 1, 0), (0, 0, 1), (1, 0, 0))
        assert geometry.voxel_size == (2, 5, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trajectory": "spiral"}, "trajectory is 'spiral', which is not supported"),
        ({"trajectory": "radial"}, "trajectory is 'radial', which is not supported"),
        ({"centre": 3}, "the matrix has 12 columns, but its readouts lie in 3 to 14"),
        ({"nx": 10}, "a readout of 16 samples with its centre at 8 does not fit a matrix of 10"),
        ({"nx": 0}, "encodedSpace/matrixSize/x is 0"),
        ({"ny": 65000, "centre": 0, "last": 64999}, "the matrix is 16x65000x1, but only 12 readouts are in it"),
        ({"nx": "</x>"}, "its XML header cannot be read"),
    ],
)
def test_what_is_wrong_or_not_supported_is_said(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    header = xml().replace("<x>16</x>", f"<x>{changes.pop('nx', 16)}</x>", 1) if "nx" in changes else xml(**changes)
    path = write_mrd(tmp_path / "a.h5", header, lines_of(random_kspace(1, 16, 12)))
    with pytest.raises(InputError, match=message):
        open_measurement(path)


def test_lines_read_in_both_directions_are_refused(tmp_path: Path) -> None:
    readouts = lines_of(random_kspace(1, 16, 12), lambda column: [22] if column % 2 else [])
    with pytest.raises(InputError, match="as in EPI, whose ghosts need a phase correction that is not supported"):
        open_measurement(write_mrd(tmp_path / "a.h5", xml(), readouts))


def test_samples_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    kspace = random_kspace(1, 16, 12)
    kspace[0, 3, 4] = np.nan
    measurement = open_measurement(write_mrd(tmp_path / "a.h5", xml(), lines_of(kspace)))
    with pytest.raises(InputError, match="NaN or infinite samples in slice 0"):
        read(measurement)
