"""Scans of Bruker: written here, and one of a scanner with the vendor's own image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from raw_files import write_bruker

from spinwarp.acquisition import Acquisition
from spinwarp.data.measurement import Measured
from spinwarp.data.raw import open_measurement
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc

STEPS = list(range(-6, 6))


def read(measurement: Measured, index: int = 0) -> Acquisition:
    (example,) = measurement.slices([index])
    return example.acquisition


def whole_numbers(*shape: int) -> np.ndarray:
    rng = np.random.RandomState(0)
    return (rng.randint(-999, 999, shape) + 1j * rng.randint(-999, 999, shape)).astype(np.complex64)


def test_echo_trains_slices_echoes_and_repetitions_are_put_in_order(tmp_path: Path) -> None:
    kspace = whole_numbers(2, 2, 3, 2, 16, 12)  # repetition, echo, slice, coil, row, column
    steps = [s for part in range(3) for s in STEPS[part::3]]  # trains of four echoes that jump across k-space
    order = [2, 3, 0, 1, 4, 5]  # number of the slice, times two, plus that of the echo
    blocks = [
        kspace[r, place % 2, place // 2, :, :, steps[4 * part + echo] + 6]
        for r in range(2)
        for part in range(3)
        for place in order
        for echo in range(4)
    ]
    acqp = {"ACQ_phase_factor": 4, "NI": 6, "NR": 2, "ACQ_n_echo_images": 2, "ACQ_obj_order": order}
    folder = write_bruker(tmp_path / "5", np.array(blocks), acqp, {"PVM_EncSteps1": steps})
    measurement = open_measurement(folder)
    assert measurement.n_slices == 12
    for index, (r, e, s) in enumerate(np.ndindex(2, 2, 3)):
        found = read(measurement, index)
        np.testing.assert_array_equal(found.kspace[0].numpy(), kspace[r, e, s])
        assert found.mask.all()
    # one may also name the file inside
    assert open_measurement(folder / "fid").n_slices == 12


def test_partial_fourier_and_an_asymmetric_echo_lie_where_they_belong(tmp_path: Path) -> None:
    kspace = whole_numbers(1, 16, 12)
    steps = [-2, -1, 0, 1, 2, 4]
    blocks = np.array([kspace[:, 6:, step + 5] for step in steps])
    method = {"PVM_EncSteps1": steps, "PVM_EncPft": [1.6, 1.25]}
    found = read(open_measurement(write_bruker(tmp_path / "1", blocks, {}, method)))
    measured = np.zeros((16, 10), bool)
    measured[6:, [step + 5 for step in steps]] = True
    np.testing.assert_array_equal(found.mask[0, 0].numpy(), measured)
    np.testing.assert_array_equal(found.kspace[0].numpy(), np.where(measured, kspace[..., :10], 0))


def test_a_slab_becomes_slices(tmp_path: Path) -> None:
    kspace = whole_numbers(1, 8, 12, 4)
    blocks = np.array([kspace[:, :, c, p] for p, c in np.ndindex(4, 12)])
    method = {"PVM_EncSteps1": STEPS, "PVM_EncSteps2": [-2, -1, 0, 1], "PVM_Fov": [16, 24, 12]}
    measurement = open_measurement(write_bruker(tmp_path / "1", blocks, {}, method))
    assert measurement.n_slices == 4
    expected = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=3), norm="ortho"), axes=3)
    for index in range(4):
        np.testing.assert_allclose(read(measurement, index).kspace[0].numpy(), expected[..., index], atol=1e-3)
    assert read(measurement).headers[0].voxel_size == (2, 2, 3)


@pytest.mark.parametrize(
    ("acqp", "method", "message"),
    [
        ({}, {"Method": "<Bruker:EPI>"}, "its method is Bruker:EPI, which is not supported"),
        ({}, {"Method": "<Bruker:UTE3D>"}, "its method is Bruker:UTE3D, which is not supported"),
        ({}, {"EchoAcqMode": "allEchoes"}, "echoes were read in both directions, which is not supported"),
        ({"NI": 2}, {}, "12288 bytes; its parameters say 24 readouts of 1024 bytes"),
        ({"NI": "many"}, {}, "its parameter NI is 'many', and numbers are expected"),
        ({"GO_raw_data_format": "GO_64"}, {}, "its numbers are of type GO_64"),
    ],
)
def test_what_is_wrong_or_not_supported_is_said(
    tmp_path: Path, acqp: dict[str, object], method: dict[str, object], message: str
) -> None:
    blocks = whole_numbers(12, 1, 16)
    folder = write_bruker(tmp_path / "1", blocks, acqp, {"PVM_EncSteps1": STEPS} | method)
    with pytest.raises(InputError, match=message):
        open_measurement(folder)


def test_repeated_numbers_may_be_abbreviated(tmp_path: Path) -> None:
    blocks = whole_numbers(12, 1, 16)
    folder = write_bruker(tmp_path / "1", blocks, {}, {"PVM_EncSteps1": STEPS})
    (folder / "acqp").write_text((folder / "acqp").read_text().replace("32 12", "@2*(32)"))
    np.testing.assert_array_equal(read(open_measurement(folder)).kspace[0, 0].numpy(), blocks[:, 0].T)


def test_a_folder_that_is_no_scan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no scan of Bruker, which has the files fid, acqp and method"):
        open_measurement(tmp_path)


def test_the_image_is_that_of_the_vendor_and_lies_where_the_vendor_says(shared: Path) -> None:
    folder = shared / "data" / "raw_vendor" / "bruker" / "brukerfileCart"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    theirs = np.fromfile(folder / "pdata" / "1" / "2dseq", "<i2").reshape(15, 128, 128)
    measurement = open_measurement(folder)
    assert measurement.n_slices == 15
    for index in range(15):
        found = read(measurement, index)
        padded = np.zeros((128, 128), np.complex64)
        padded[16:112, 16:112] = found.kspace[0, 0].numpy()
        image = ifftc(torch.from_numpy(padded)).abs().numpy()
        # the vendor's image is rounded to whole numbers of up to 33 thousand
        assert np.corrcoef(image.ravel(), theirs[index].ravel())[0, 1] > 0.999_999
        geometry = found.headers[0].geometry
        assert geometry is not None
        # VisuCorePosition and VisuCoreOrientation of the vendor's image: the first pixel and the two directions
        first = geometry.affine((96, 96))[:3, 3]
        offset = -2.78317 + 1.25 * (index - 7)
        np.testing.assert_allclose(first, (-1.4791 - 13.5, -offset, 7.52411 + 13.5), atol=1e-5)
        assert (geometry.readout, geometry.phase) == ((0, 0, -1), (1, 0, 0))
        assert geometry.voxel_size == (27 / 96, 27 / 96, 1.25)
