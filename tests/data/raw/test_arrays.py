"""K-space of BART and MATLAB, written by numpy, scipy and h5py."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from raw_files import random_kspace
from scipy.io import savemat

from spinwarp.acquisition import Acquisition
from spinwarp.data.measurement import Measured, coils_misplaced
from spinwarp.data.raw import open_measurement
from spinwarp.errors import InputError
from spinwarp.fourier import ifftc


def read(measurement: Measured, index: int = 0) -> Acquisition:
    (example,) = measurement.slices([index])
    return example.acquisition


def write_cfl(path: Path, array: np.ndarray) -> Path:
    """A pair of files as BART writes it: the first dimension runs fastest."""
    sizes = [*array.shape, *[1] * (16 - array.ndim)]
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + " \n# Command\nfft 7 a b\n")
    array.astype(np.complex64).T.tofile(path)
    return path


def write_73(path: Path, **arrays: np.ndarray) -> Path:
    """A file as MATLAB 7.3 writes it: HDF5 behind 512 bytes of text, with reversed axes and complex pairs."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            if np.iscomplexobj(array):
                pairs = np.empty(array.T.shape, [("real", "<f8"), ("imag", "<f8")])
                pairs["real"], pairs["imag"] = array.T.real, array.T.imag
                file[name] = pairs
            else:
                file[name] = array.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512, b" "))
    return path


@pytest.mark.parametrize("suffix", [".cfl", ".hdr"])
def test_a_slice_of_bart_is_read_by_the_name_of_either_file(tmp_path: Path, suffix: str) -> None:
    kspace = random_kspace(16, 12, 1, 3)
    kspace[:, 1::2] = 0
    found = read(open_measurement(write_cfl(tmp_path / "k.cfl", kspace).with_suffix(suffix)))
    np.testing.assert_array_equal(found.kspace[0].numpy(), kspace[:, :, 0].transpose(2, 0, 1))
    assert found.mask[0, 0, 0].tolist() == [c % 2 == 0 for c in range(12)]
    assert found.headers[0].geometry is None


def test_further_dimensions_of_bart_are_further_slices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kspace = random_kspace(8, 6, 1, 2, 1, 3, 1, 1, 1, 1, 1, 1, 1, 4)  # 3 echoes of 4 slices
    with caplog.at_level(logging.INFO):
        measurement = open_measurement(write_cfl(tmp_path / "k.cfl", kspace))
    assert "3 echoes, 4 slices follow each other as slices" in caplog.text
    assert measurement.n_slices == 12
    for index in range(12):
        slice_, echo = divmod(index, 3)
        expected = kspace[:, :, 0, :, 0, echo, 0, 0, 0, 0, 0, 0, 0, slice_].transpose(2, 0, 1)
        np.testing.assert_array_equal(read(measurement, index).kspace[0].numpy(), expected)


def test_a_plane_of_two_phase_encodings_is_read_as_it_is(tmp_path: Path) -> None:
    kspace = random_kspace(1, 16, 12, 2) * (np.random.RandomState(1).rand(16, 12) < 0.4)[None, :, :, None]
    found = read(open_measurement(write_cfl(tmp_path / "k.cfl", kspace)))
    np.testing.assert_array_equal(found.kspace[0].numpy(), kspace[0].transpose(2, 0, 1))
    np.testing.assert_array_equal(found.mask[0, 0].numpy(), kspace[0, :, :, 0] != 0)


def test_a_slab_of_bart_is_cut_along_its_readout(tmp_path: Path) -> None:
    there = np.random.RandomState(1).rand(16, 12) < 0.4
    kspace = random_kspace(6, 16, 12, 2) * there[None, :, :, None]
    measurement = open_measurement(write_cfl(tmp_path / "k.cfl", kspace))
    expected = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=0), axis=0, norm="ortho"), axes=0)
    assert measurement.n_slices == 6
    for index in range(6):
        found = read(measurement, index)
        np.testing.assert_allclose(found.kspace[0].numpy(), expected[index].transpose(2, 0, 1), atol=1e-6)
        np.testing.assert_array_equal(found.mask[0, 0].numpy(), there)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "there is no file .*k.hdr"),
        ("# Dimensions\n", "is not a whole header of BART"),
        ("# Dimensions\n8 x\n", "is not a whole header of BART"),
        ("# Dimensions\n8 7 1 2\n", "8x7x1x2x1... numbers, but k.cfl has 768 bytes"),
        ("# Dimensions\n-8 -6 1 2\n", "they do not belong together"),
        ("# Dimensions\n8 6 1 1 2\n", "has 2 sets of maps"),
    ],
)
def test_a_wrong_header_of_bart_is_refused(tmp_path: Path, header: str | None, message: str) -> None:
    path = write_cfl(tmp_path / "k.cfl", random_kspace(8, 6, 1, 2))
    path.with_suffix(".hdr").unlink() if header is None else path.with_suffix(".hdr").write_text(header)
    with pytest.raises(InputError, match=message):
        open_measurement(path)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("axes", ["hwcs", "swch", "cshw"])
def test_an_array_of_matlab_is_read_in_the_order_that_is_given(tmp_path: Path, new: bool, axes: str) -> None:
    kspace = random_kspace(2, 3, 8, 6)  # slice, coil, h, w
    array = kspace.transpose(["schw".index(letter) for letter in axes])
    path = tmp_path / "k.mat"
    write_73(path, kspace=array, te=np.arange(4.0)) if new else savemat(path, {"kspace": array, "te": np.arange(4.0)})
    measurement = open_measurement(path, axes=axes)
    assert measurement.n_slices == 2
    for index in range(2):
        np.testing.assert_array_equal(read(measurement, index).kspace[0].numpy(), kspace[index])


@pytest.mark.parametrize("new", [True, False])
def test_a_matrix_needs_no_axes_and_its_name_only_among_several(tmp_path: Path, new: bool) -> None:
    arrays = {"one": random_kspace(8, 6), "two": random_kspace(8, 6, seed=1), "image": np.ones((8, 6))}
    path = tmp_path / "k.mat"
    write_73(path, **arrays) if new else savemat(path, arrays)
    with pytest.raises(InputError, match=r"holds several complex arrays \(one 8x6, two 8x6\); name one with variable"):
        open_measurement(path)
    np.testing.assert_array_equal(read(open_measurement(path, variable="two")).kspace[0, 0].numpy(), arrays["two"])
    for name in ("image", "three"):
        with pytest.raises(InputError, match=f"holds no complex array named {name}"):
            open_measurement(path, variable=name)


@pytest.mark.parametrize("axes", [None, "hw", "hwcs", "hww", "hwx", "hcs"])
def test_three_axes_are_never_guessed(tmp_path: Path, axes: str | None) -> None:
    savemat(tmp_path / "k.mat", {"kspace": random_kspace(8, 6, 3)})
    with pytest.raises(InputError, match="kspace is 8x6x3; say what its axes are with axes=hwc or another order"):
        open_measurement(tmp_path / "k.mat", axes=axes)


def test_options_of_matlab_are_refused_for_other_files(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", random_kspace(8, 6))
    with pytest.raises(InputError, match=r"k\.npy is no MATLAB file; leave out variable"):
        open_measurement(tmp_path / "k.npy", variable="k")
    (tmp_path / "scan.raw").write_bytes(b"hello" * 100)
    with pytest.raises(InputError, match=r"scan\.raw is neither a MATLAB nor a \.npy file; leave out axes"):
        open_measurement(tmp_path / "scan.raw", axes="hw")


@pytest.mark.parametrize("axes", ["hwc", "shwc", "hwcs"])
def test_an_array_of_numpy_with_its_coils_last_is_refused_until_its_axes_are_named(tmp_path: Path, axes: str) -> None:
    kspace = random_kspace(2, 8, 70, 66) if "s" in axes else random_kspace(1, 8, 70, 66)
    array = kspace.transpose(["schw".index(letter) for letter in ("s" * ("s" not in axes) + axes)])
    np.save(tmp_path / "k.npy", array if "s" in axes else array.reshape(70, 66, 8))
    with pytest.raises(InputError, match=r"k\.npy would be (70|66) coils of .*axes=hwc"):
        open_measurement(tmp_path / "k.npy")
    measurement = open_measurement(tmp_path / "k.npy", axes=axes)
    assert measurement.n_slices == len(kspace)
    found = np.concatenate([measurement.read(i).kspace.numpy() for i in range(len(kspace))])
    np.testing.assert_array_equal(found, kspace)


@pytest.mark.parametrize(("n_coils", "w", "odd"), [(128, 64, True), (256, 32, True), (64, 320, False), (32, 16, False)])
def test_many_coils_and_fewer_columns_are_odd(n_coils: int, w: int, odd: bool) -> None:
    assert coils_misplaced(n_coils, w) is odd


def test_many_coils_are_read_if_their_axis_is_named(tmp_path: Path) -> None:
    kspace = random_kspace(40, 30, 16)
    np.save(tmp_path / "k.npy", kspace)
    np.testing.assert_array_equal(open_measurement(tmp_path / "k.npy", axes="chw").read(0).kspace[0].numpy(), kspace)
    with pytest.raises(InputError, match="its array is 40x30x16; say what its axes are"):
        open_measurement(tmp_path / "k.npy", axes="hw")


def test_a_file_of_another_kind_is_refused_with_a_list_of_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "scan.raw").write_bytes(b"hello" * 100)
    with pytest.raises(InputError, match=r"scan\.raw is none of the formats that are read: the fastMRI layout or MRD"):
        open_measurement(tmp_path / "scan.raw")


def test_the_fastmri_layout_is_told_by_its_content(tmp_path: Path) -> None:
    kspace = random_kspace(2, 3, 16, 12)
    with h5py.File(tmp_path / "scan.mrd", "w") as file:
        file["kspace"] = kspace
    np.testing.assert_array_equal(read(open_measurement(tmp_path / "scan.mrd"), 1).kspace[0].numpy(), kspace[1])


def test_a_sagittal_head_is_read(shared: Path) -> None:
    path = shared / "data" / "raw_multicoil" / "head_sagittal_1ch.mat"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    found = read(open_measurement(path))
    assert found.kspace.shape == (1, 1, 256, 256)
    assert found.mask.all()  # some samples are zero by chance
    image = ifftc(found.kspace[0, 0]).abs()
    assert float(image[96:160, 96:160].mean() / image[:16, :16].mean()) > 5


def test_a_brain_of_several_coils_is_the_same_in_every_format(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "raw_multicoil" / "brain_7ch.npz"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    with np.load(path) as stored:
        images = next(stored[name] for name in stored if np.iscomplexobj(stored[name]))
    coils = int(np.argmin(images.shape))
    images = np.moveaxis(images.squeeze(), coils, 0) if images.ndim == 3 else images
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    kspace = kspace.astype(np.complex64)
    np.save(tmp_path / "k.npy", kspace)
    savemat(tmp_path / "k.mat", {"k": kspace})
    write_cfl(tmp_path / "k.cfl", kspace.transpose(1, 2, 0)[:, :, None])
    write_73(tmp_path / "k73.mat", k=kspace)
    for name, axes in (("k.npy", None), ("k.mat", "chw"), ("k.cfl", None), ("k73.mat", "chw")):
        found = read(open_measurement(tmp_path / name, axes=axes))
        np.testing.assert_array_equal(found.kspace[0].numpy(), kspace)
        assert found.mask.all()
