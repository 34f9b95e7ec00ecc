"""Raw data of Siemens: written byte by byte here, and files of scanners."""

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_files import random_kspace, twix_readout, write_twix

from spinwarp.acquisition import Acquisition
from spinwarp.coils import espirit_maps
from spinwarp.data.measurement import Measured
from spinwarp.data.raw import open_measurement
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc


def read(measurement: Measured, index: int = 0) -> Acquisition:
    (example,) = measurement.slices([index])
    return example.acquisition


def without_oversampling(kspace: np.ndarray) -> np.ndarray:
    """``(coil, 2 n, w)`` to ``(coil, n, w)``: the middle half of the image."""
    n = kspace.shape[1] // 2
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=1), axis=1, norm="ortho"), axes=1)
    cut = image[:, n - n // 2 : n - n // 2 + n]
    return np.fft.fftshift(np.fft.fft(np.fft.ifftshift(cut, axes=1), axis=1, norm="ortho"), axes=1)


@pytest.mark.parametrize("old", [True, False])
def test_lines_of_either_version_come_back(tmp_path: Path, old: bool) -> None:
    kspace = random_kspace(3, 32, 12)
    readouts = [twix_readout(kspace[:, :, c], old=old, line=c) for c in range(12)]
    # of other readouts: synchronous data, feedback, phase correction, dummy scans
    readouts[4:4] = [twix_readout(1e9 * kspace[:, :, 0], [bit], old) for bit in (5, 1, 2, 14, 15, 21, 51)]
    measurement = open_measurement(write_twix(tmp_path / "meas.dat", readouts, old))
    found = read(measurement)
    assert measurement.n_slices == 1
    np.testing.assert_allclose(found.kspace[0].numpy(), without_oversampling(kspace), atol=1e-5)
    assert found.mask.shape == (1, 1, 1, 12)
    assert found.mask.all()
    header = found.headers[0]
    assert (header.contrast, header.voxel_size, header.orientation) == ("tse", (2, 2, 5), "axial")


def test_everything_at_once(tmp_path: Path) -> None:
    """Interleaved slices and echoes, averages, an asymmetric echo read backwards, partial Fourier, PAT lines."""
    kspace = random_kspace(2, 2, 2, 16, 12)  # contrast, slice, coil; no oversampling, so that numbers stay
    kspace[:, :, :, :6] = 0
    measured = [4, 5, 6, 7, 8, 10]
    readouts = []
    for average, column, contrast, index in np.ndindex(2, 12, 2, 2):
        if column not in measured:
            continue
        data = kspace[contrast, index, :, 6:, column] * (2 - 2 * average)
        bits = {5: [22], 6: [23], 7: [22, 23]}.get(column, [])
        if contrast:
            data, bits = data[:, ::-1], [*bits, 24]
        readouts.append(
            twix_readout(
                data, bits, line=column - 4, centre_line=2, slice=index, contrast=contrast, average=average,
                centre=8 if contrast else 2, position=(0, 0, -6.0 * index),
            )
        )  # fmt: skip
    measurement = open_measurement(
        write_twix(tmp_path / "meas.dat", readouts, **{"sKSpace.lBaseResolution": 16, "sPat.ucRefScanMode": "0x02"})
    )
    # the readout of ten samples belongs to 32 with oversampling, so rows are every second of them
    assert measurement.n_slices == 4
    for number, (contrast, index) in enumerate([(0, 1), (0, 0), (1, 1), (1, 0)]):  # from feet to head
        found = read(measurement, number)
        whole = np.zeros((2, 32, 12), np.complex64)
        whole[:, 14:24, measured] = kspace[contrast, index][:, 6:][..., measured]
        rows = np.zeros(16, bool)
        rows[7:12] = True
        columns = np.isin(np.arange(12), measured)
        np.testing.assert_array_equal(found.mask[0, 0].numpy(), rows[:, None] & columns)
        expected = without_oversampling(whole) * (rows[:, None] & columns)
        np.testing.assert_allclose(found.kspace[0].numpy(), expected, atol=1e-5)
        geometry = found.headers[0].geometry
        assert geometry is not None
        assert geometry.position == (0, 0, -6.0 * index)
        assert geometry.voxel_size == (2, 2, 6)


def test_the_noise_scan_of_the_adjustments_whitens_the_last_measurement(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.RandomState(0)
    mixing = np.array([[1, 0], [0.7, 1.0]])

    def noise(n: int) -> np.ndarray:
        return mixing @ ((rng.randn(2, n) + 1j * rng.randn(2, n)) / np.sqrt(2))

    lines = [twix_readout(noise(64), line=c, centre_line=32) for c in range(64)]
    adjustment = [twix_readout(noise(2000), [25]) for _ in range(5)]
    settings = {"sKSpace.lBaseResolution": 64, "sKSpace.lPhaseEncodingLines": 64}
    with caplog.at_level(logging.INFO):
        found = read(open_measurement(write_twix(tmp_path / "meas.dat", [adjustment, lines], **settings)))
    assert "holds 2 measurements" in caplog.text
    samples = found.kspace[0].flatten(1).numpy()
    covariance = samples @ samples.conj().T / samples.shape[1]
    level = np.sqrt(np.trace(mixing @ mixing.T) / 2)
    np.testing.assert_allclose(covariance, level**2 * np.eye(2), atol=0.06 * level**2)  # of 4096 samples
    assert found.noise_std is not None
    assert float(found.noise_std[0]) == pytest.approx(level, rel=0.02)


def test_separate_calibration_lines_are_no_part_of_the_image(tmp_path: Path) -> None:
    kspace = random_kspace(2, 16, 12)
    image = [twix_readout(kspace[:, :, c], line=c) for c in range(0, 12, 2)]
    calibration = [twix_readout(kspace[:, :, c], [22], line=c) for c in range(12)]
    found = read(
        open_measurement(write_twix(tmp_path / "meas.dat", calibration + image, **{"sPat.ucRefScanMode": "0x04"}))
    )
    assert found.mask[0, 0, 0].tolist() == [c % 2 == 0 for c in range(12)]
    assert found.maps is not None


def test_phase_oversampling_is_in_the_voxel_size_and_cropped_for_viewing(tmp_path: Path) -> None:
    kspace = random_kspace(1, 16, 18)
    readouts = [twix_readout(kspace[:, :, c], line=c, centre_line=9) for c in range(18)]
    settings = {"sKSpace.lPhaseEncodingLines": 18, "sKSpace.dPhaseOversamplingForDialog": 0.5}
    header = read(open_measurement(write_twix(tmp_path / "meas.dat", readouts, **settings))).headers[0]
    assert header.voxel_size == (2, 2, 5)  # 24 mm, 36 with oversampling
    assert header.reconstruction_size == (16, 12)


def test_a_slab_is_transformed_along_its_partitions(tmp_path: Path) -> None:
    kspace = random_kspace(1, 16, 12, 4)
    readouts = [twix_readout(kspace[:, :, c, p], line=c, partition=p, centre_partition=2) for c, p in np.ndindex(12, 4)]
    settings = {"sKSpace.ucDimension": 4, "sKSpace.lPartitions": 4, "sSliceArray.asSlice[0].dThickness": 8.0}
    measurement = open_measurement(write_twix(tmp_path / "meas.dat", readouts, **settings))
    assert measurement.n_slices == 4
    expected = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=3), norm="ortho"), axes=3)
    for index in range(4):
        found = read(measurement, index)
        np.testing.assert_allclose(found.kspace[0].numpy(), expected[..., index], atol=1e-5)
        geometry = found.headers[0].geometry
        assert geometry is not None
        assert geometry.position == (0, 0, 2.0 * (index - 2))


@pytest.mark.parametrize(
    ("settings", "bits", "message"),
    [
        ({"sKSpace.ucTrajectory": 2}, [], "trajectory is radial, which is not supported"),
        ({"sKSpace.ucTrajectory": "0x4"}, [], "trajectory is spiral, which is not supported"),
        ({"sSliceAcceleration.lMultiBandFactor": 2}, [], "several slices were measured at once"),
        ({}, [24], "EPI, whose lines were read in both directions, without reference lines in both; that is not"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: Path, settings: dict[str, object], bits: list[int], message: str
) -> None:
    readouts = [twix_readout(random_kspace(1, 16), bits if c == 3 else [], line=c) for c in range(12)]
    path = write_twix(tmp_path / "meas.dat", readouts, **settings)
    with pytest.raises(InputError, match=message):
        open_measurement(path)


RAMPS = (100.0, 300.0, 150.0, 40.0, 480.0)  # up, flat, down, delay, duration of sampling
NAMES = ("alRegridRampupTime", "alRegridFlattopTime", "alRegridRampdownTime", "alRegridDelaySamplesTime")


def under_ramps(image: np.ndarray, n: int) -> np.ndarray:
    """What a scanner samples of lines ``(coil, rows, ...)`` under :data:`RAMPS`; the area by numerical integration."""
    up, flat, down, delay, duration = RAMPS
    fine = np.linspace(0, up + flat + down, 200_001)
    gradient = np.clip(np.minimum(fine / up, (up + flat + down - fine) / down), 0, 1)
    area = np.concatenate([[0], np.cumsum((gradient[1:] + gradient[:-1]) / 2)])
    at = np.interp(delay + np.append(np.arange(n) + 0.5, [0, n]) * duration / n, fine, area)
    places = (at[:-2] - (at[-2] + at[-1]) / 2) / (at[-1] - at[-2]) * n
    rows = image.shape[1]
    wave = np.exp(-2j * np.pi * np.outer(places, np.arange(rows) - rows // 2) / n) / np.sqrt(n)
    return np.einsum("nr,cr...->cn...", wave, image)


@pytest.mark.parametrize("ramps", [True, False])
def test_epi_is_corrected_by_its_reference_lines(tmp_path: Path, ramps: bool) -> None:
    image = random_kspace(2, 16, 12)  # coil, row of the image, column of k-space
    position = np.arange(16) - 8
    ghost = np.exp(1j * (0.4 + 0.05 * position))[None, :, None]
    even = np.exp(-2j * np.pi * np.outer(np.arange(32) - 16, position) / 32) / np.sqrt(32)

    def measured(lines: np.ndarray) -> np.ndarray:
        return under_ramps(lines, 32) if ramps else np.einsum("nr,crw->cnw", even, lines)

    forth, back = measured(image), measured(image * ghost.conj())[:, ::-1]
    navigators = [twix_readout((back, forth, back)[i][:, :, 6], [21, 24] if i != 1 else [21]) for i in range(3)]
    lines = [twix_readout((back if c % 2 else forth)[:, :, c], [24] if c % 2 else [], line=c) for c in range(12)]
    header = "".join(
        f'<ParamLong."{name}"> {{ {value:g} 0 }}\n'
        for name, value in [*zip(NAMES, RAMPS, strict=False), ("alRegridMode", 2), ("aflRegridADCDuration", RAMPS[4])]
    )
    path = write_twix(tmp_path / "meas.dat", navigators + lines, prefix=header if ramps else "")
    found = read(open_measurement(path))
    centred = np.fft.ifftshift(image, axes=1)
    expected = np.fft.fftshift(np.fft.fft(centred, axis=1, norm="ortho"), axes=1)
    np.testing.assert_allclose(found.kspace[0].numpy(), expected, atol=1e-4)  # single precision, condition 2
    assert found.mask.all()


def test_the_epi_of_a_scanner_is_its_gradient_echo_without_ghosts(shared: Path) -> None:
    folder = shared / "data" / "siemens_twix"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    epi, gre = (read(open_measurement(folder / name)) for name in ("epi.dat", "gre.dat"))
    small = gre.kspace[0][:, 40:120, 40:120]  # the resolution of the EPI, of the same slice
    one, other = (ifftc(k).abs().square().sum(0).sqrt() for k in (epi.kspace[0], small))
    assert float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) > 0.9
    # outside the phantom there are ghosts: 7 % of its brightness, and 17 % without the correction of the phase
    distance = np.hypot(*(np.mgrid[:80, :80] - 40))
    air = torch.from_numpy(distance > 43)
    assert float(one[air].median() / one[~air].median()) < 0.1


@pytest.mark.parametrize("interleaved", [True, False])
def test_lines_without_labels_are_sorted_into_echoes_or_repetitions(
    tmp_path: Path, interleaved: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.hypot(np.arange(16)[:, None] - 8, np.arange(16) - 8)
    kspace = (random_kspace(2, 1, 16, 16) / (1 + rows**2) ** 2).astype(np.complex64)  # as of an object
    order = (
        [(c, e) for c in range(16) for e in range(2)] if interleaved else [(c, e) for e in range(2) for c in range(16)]
    )
    readouts = [twix_readout(kspace[e, :, :, c], line=i, centre_line=0) for i, (c, e) in enumerate(order)]
    path = write_twix(tmp_path / "meas.dat", readouts, tSequenceFileName='"%CustomerSeq%\\pulseq"')
    measurement = open_measurement(path)
    assert measurement.n_slices == 2
    assert ("2 echoes of 16 lines" if interleaved else "2 repetitions of 16 lines") in caplog.text
    for e in range(2):
        found = read(measurement, e)
        np.testing.assert_array_equal(found.kspace[0].numpy(), kspace[e])
        assert found.headers[0].geometry is None


def samples_of(path: Path) -> np.ndarray:
    """All readouts ``(line, coil, samples)`` of a file of VD or later without adjustments, by ``struct`` alone."""
    content = path.read_bytes()
    (at,) = struct.unpack_from("<Q", content, 16)
    at += struct.unpack_from("<I", content, at)[0]
    lines = []
    while True:
        length, flags = struct.unpack_from("<I", content, at)[0] % 2**25, struct.unpack_from("<Q", content, at + 40)[0]
        n, coils = struct.unpack_from("<HH", content, at + 48)
        if flags & 1:
            return np.array(lines)
        if not flags & 32:
            length = 192 + coils * (32 + 8 * n)
            starts = [at + 192 + c * (32 + 8 * n) + 32 for c in range(coils)]
            lines.append([np.frombuffer(content, "<c8", n, start) for start in starts])
        at += length


@pytest.fixture
def vendor(shared: Path) -> Path:
    folder = shared / "data" / "raw_vendor"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} of raw data of scanners")
    return folder


@pytest.mark.parametrize("name", ["2024-02-06-160052.dat", "2024-02-06-160115.dat"])
def test_the_samples_of_a_scanner_are_those_of_its_bytes(vendor: Path, name: str) -> None:
    path = vendor / "siemens_xa61" / name
    found = read(open_measurement(path)).kspace[0].numpy()
    np.testing.assert_array_equal(found, np.moveaxis(samples_of(path), 0, -1))


def test_the_phantom_of_a_standard_sequence_is_read_with_its_geometry(shared: Path) -> None:
    path = shared / "data" / "siemens_twix" / "gre.dat"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    found = read(open_measurement(path))
    expected = without_oversampling(np.moveaxis(samples_of(path), 0, -1))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.kspace[0].numpy(), expected, atol=1e-6 * scale)
    geometry = found.headers[0].geometry
    assert geometry is not None
    # sPosition and sNormal of the protocol; the rotation of the readouts says the same
    np.testing.assert_allclose(geometry.position, (-2.58969998377, 53.9224264395, -53.9994745263), atol=1e-5)
    np.testing.assert_allclose(geometry.slice, (6.58423005e-9, 0.0383878015, 0.9992629886), atol=1e-6)
    assert geometry.voxel_size == (1.25, 1.25, 4)
    # without in-plane rotation the readout of a transversal slice runs from right to left, the phase to the front
    np.testing.assert_allclose(geometry.readout, (1, 0, 0), atol=1e-6)
    assert geometry.phase[1] < -0.99


def test_maps_of_a_head_coil_are_its_images_over_those_of_the_body_coil(vendor: Path) -> None:
    folder = vendor / "siemens_xa61"
    head, body = (
        ifftc(read(open_measurement(folder / f"2024-02-06-{time}.dat")).kspace[0]) for time in ("160052", "160115")
    )
    acquisition = read(open_measurement(folder / "2024-02-06-160052.dat"))
    maps, _ = espirit_maps(acquisition.kspace, acquisition.mask)
    uniform = body[0] + 1j * body[1]  # the two ports of the body coil, a quarter turn apart
    uniform = max((body[0] + 1j * body[1], body[0] - 1j * body[1]), key=lambda image: float(image.abs().mean()))
    inside = uniform.abs() > 0.3 * uniform.abs().max()
    ratio = (head / uniform)[:, inside]
    ratio = ratio / ratio.abs().square().sum(0).sqrt()
    agreement = (maps[0][:, inside].conj() * ratio).sum(0).abs()
    assert inside.float().mean() > 0.3
    # the ratio is as noisy as the body coil, so single pixels may differ
    assert float(agreement.median()) > 0.99


@pytest.mark.parametrize(
    ("name", "n_slices"),
    [
        ("siemens_vb_ve/01_GRE.dat", 1),
        ("siemens_vb_ve/01_GRE_example.dat", 1),
        ("siemens_vb_ve/02_GRE_3echoes.dat", 3),
        ("siemens_vb_ve/05_EPI.dat", "does not label its 128 lines of 152 samples"),
        ("siemens_vb_ve/05_EPI_noPE.dat", "does not label its 128 lines of 152 samples"),
    ],
)
def test_files_of_scanners_are_read_or_refused_in_a_sentence(vendor: Path, name: str, n_slices: int | str) -> None:
    if isinstance(n_slices, str):
        with pytest.raises(InputError, match=n_slices):
            open_measurement(vendor / name)
        return
    measurement = open_measurement(vendor / name)
    assert measurement.n_slices == n_slices
    for index in range(n_slices):
        image = ifftc(read(measurement, index).kspace[0]).abs().square().sum(0).sqrt()
        h, w = image.shape
        middle, corner = image[h // 4 : -h // 4, w // 4 : -w // 4].mean(), image[: h // 16, : w // 16].mean()
        assert float(middle / corner) > 4  # the phantom lies in the middle
