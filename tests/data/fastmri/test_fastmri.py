"""Files of the official fastMRI layout, made by hand as the set's own documentation describes them."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from spinwarp.acquisition import Example
from spinwarp.data.fastmri.source import FastMRIFiles, Folders
from spinwarp.errors import InputError

HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <studyInformation><studyTime>12:00:00</studyTime></studyInformation>
  <acquisitionSystemInformation><receiverChannels>3</receiverChannels></acquisitionSystemInformation>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{h}</x><y>{w}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>440.0</x><y>220.0</y><z>7.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{rh}</x><y>{rw}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>220.0</x><y>220.0</y><z>5.0</z></fieldOfView_mm>
    </reconSpace>
    <trajectory>cartesian</trajectory>
    <encodingLimits>
      <kspace_encoding_step_1>
        <minimum>0</minimum><maximum>{maximum}</maximum><center>{center}</center>
      </kspace_encoding_step_1>
    </encodingLimits>
  </encoding>
</ismrmrdHeader>"""


def header(h: int = 40, w: int = 32, rh: int = 20, rw: int = 20, maximum: int = 27, center: int = 13) -> str:
    return HEADER.format(h=h, w=w, rh=rh, rw=rw, maximum=maximum, center=center)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINWARP_CACHE", str(tmp_path / "cache"))


def random_kspace(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.RandomState(seed)
    return (rng.randn(*shape) + 1j * rng.randn(*shape)).astype(np.complex64)


def official(path: Path, kspace: np.ndarray | None = None, xml: str | None = None, **attributes: Any) -> np.ndarray:
    """Write a file as the official set has them; ``target=False`` leaves the reference out, as in the test sets."""
    kspace = random_kspace(3, 4, 40, 32) if kspace is None else kspace
    kind = "reconstruction_rss" if kspace.ndim == 4 else "reconstruction_esc"
    target = attributes.pop("target", np.abs(random_kspace(len(kspace), 20, 20, seed=1)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = header() if xml is None else xml
        if target is not False:
            file[kind] = target
        for name, value in {"acquisition": "CORPD_FBK", "patient_id": "0", "norm": 1.0, **attributes}.items():
            if value is not None:
                file.attrs[name] = value
    return kspace


def source(root: Path, **settings: Any) -> FastMRIFiles:
    return FastMRIFiles("knee", Folders(str(root), train="multicoil_train", val="multicoil_val"), **settings)


def first(root: Path, slice_index: int = 0) -> Example:
    files = source(root)
    return files.read(files.volumes("train")[0], slice_index)


def test_a_multicoil_volume_is_read_slice_by_slice(tmp_path: Path) -> None:
    target = np.abs(random_kspace(3, 20, 20, seed=5))
    kspace = official(tmp_path / "multicoil_train" / "file1000001.h5", target=target, max=target.max())
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    assert (volume.name, volume.n_slices, volume.shape) == ("file1000001.h5", 3, (4, 40, 32, 20, 20))
    kspace[..., :3] = kspace[..., 31:] = 0  # what the header calls padding
    for index in range(3):
        example = files.read(volume, index)
        assert example.acquisition.kspace.dtype == torch.complex64
        np.testing.assert_array_equal(example.acquisition.kspace[0].numpy(), kspace[index])
        assert example.target is not None
        np.testing.assert_array_equal(example.target[0].numpy(), target[index])
        assert example.data_range.tolist() == [float(target.max())]
        assert example.target_type == ("rss",)
        assert (example.volume, example.slice) == (("file1000001.h5",), (index,))


def test_the_header_gives_size_columns_voxels_and_contrast(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", max=1.0)
    acquisition = first(tmp_path).acquisition
    (found,) = acquisition.headers
    assert found.reconstruction_size == (20, 20)
    assert found.acquired_columns == (3, 31)  # 32 // 2 - 13, and 28 lines from there
    assert found.voxel_size == (11.0, 11.0, 5.0)
    assert (found.contrast, found.provenance, found.source) == ("CORPD_FBK", "scanner", "a.h5")
    assert found.orientation is None
    assert acquisition.mask.shape == (1, 1, 1, 32)
    assert acquisition.mask.view(-1).nonzero().view(-1).tolist() == list(range(3, 31))


def test_the_padding_attributes_go_before_the_header(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", padding_left=np.int64(5), padding_right=np.int64(30))
    assert first(tmp_path).acquisition.headers[0].acquired_columns == (5, 30)


def test_a_header_of_another_matrix_says_nothing_about_columns(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", xml=header(w=64, center=32, maximum=63))
    acquisition = first(tmp_path).acquisition
    assert acquisition.headers[0].acquired_columns is None
    assert acquisition.mask.all()


def test_a_single_coil_volume_has_one_coil(tmp_path: Path) -> None:
    kspace = official(tmp_path / "multicoil_train" / "a.h5", random_kspace(2, 40, 32), max=1.0)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    assert volume.shape == (1, 40, 32, 20, 20)
    example = files.read(volume, 1)
    kspace[..., :3] = kspace[..., 31:] = 0  # what the header calls padding
    np.testing.assert_array_equal(example.acquisition.kspace[0, 0].numpy(), kspace[1])
    assert example.target is not None
    assert example.target.shape == (1, 20, 20)


def test_one_coil_is_held_against_esc_and_several_against_rss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    esc, rss = (np.abs(random_kspace(2, 20, 20, seed=s)).astype("f4") for s in (1, 2))
    for name, kspace, largest in (("a", random_kspace(2, 40, 32), rss), ("b", random_kspace(2, 3, 40, 32), esc)):
        path = tmp_path / "multicoil_train" / f"{name}.h5"
        official(path, kspace, target=False, max=float(largest.max()))  # of the target that is not taken
        with h5py.File(path, "a") as file:
            file["reconstruction_rss"], file["reconstruction_esc"] = rss, esc
    files = source(tmp_path)
    for volume, kind, target in zip(files.volumes("train"), ("esc", "rss"), (esc, rss), strict=True):
        example = files.read(volume, 1)
        assert example.target is not None
        np.testing.assert_array_equal(example.target[0].numpy(), target[1])
        assert (example.target_type, example.data_range.tolist()) == ((kind,), [float(target.max())])
    messages = [record.message for record in caplog.records if "attribute max" in record.message]
    assert [("reconstruction_esc" in s, "reconstruction_rss" in s) for s in messages] == [(True, False), (False, True)]


@pytest.mark.parametrize("factor", [0.01, 0.5, 1.0005, 1.5, 2, 100])
def test_the_data_range_is_the_largest_value_whatever_the_attribute_says(
    tmp_path: Path, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    target = np.ones((3, 20, 20), "f4")
    target[2, 4, 4] = 3  # not in the middle slice
    official(path, random_kspace(3, 3, 40, 32), target=False, max=3 * factor)
    with h5py.File(path, "a") as file:
        file["reconstruction_rss"] = target
    assert first(tmp_path).data_range.tolist() == [3]
    assert ("attribute max is not the largest value" in caplog.text) == (factor != 1.0005)  # rounding needs no word


@pytest.mark.parametrize("patient", ["7", b"7", np.int64(7), np.array([7]), np.array([b"7"])])
def test_the_patient_is_read_in_whatever_way_it_is_stored(tmp_path: Path, patient: object) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", patient_id=patient)
    assert source(tmp_path).volumes("train")[0].patient == "7"


@pytest.mark.parametrize("kind", ["external", "soft", "virtual"])
def test_data_in_another_file_that_is_not_there_is_named_and_never_read_as_zeros(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    kspace = official(path)
    with h5py.File(tmp_path / "first.h5", "w") as file:
        file["kspace"] = kspace[:1]
    layout = h5py.VirtualLayout(kspace.shape, kspace.dtype)
    layout[:1] = h5py.VirtualSource("../first.h5", "kspace", kspace[:1].shape)
    layout[1:] = h5py.VirtualSource("../rest.h5", "kspace", kspace[1:].shape)
    with h5py.File(path, "a") as file:
        del file["kspace"]
        if kind == "virtual":
            file.create_virtual_dataset("kspace", layout)
        else:
            file["kspace"] = h5py.SoftLink("/raw") if kind == "soft" else h5py.ExternalLink("../rest.h5", "/kspace")
    where = {"external": r"\.\./rest\.h5/kspace", "soft": "/raw", "virtual": r"\.\./rest\.h5"}[kind]
    with pytest.raises(InputError, match=rf"a\.h5: its kspace lies in {where}, which is not there"):
        source(tmp_path).volumes("train")
    if kind == "virtual":
        with h5py.File(tmp_path / "rest.h5", "w") as file:
            file["kspace"] = kspace[1:]
        found = first(tmp_path, 2).acquisition.kspace[0, ..., 3:31].numpy()  # the acquired columns
        np.testing.assert_array_equal(found, kspace[2, ..., 3:31])


def test_the_only_target_is_taken_with_its_own_name_and_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    official(path, random_kspace(1, 40, 32), target=False)
    with h5py.File(path, "a") as file:
        file["reconstruction_rss"] = np.full((1, 20, 20), 3, ">i2")  # integers of the other byte order
    example = first(tmp_path)
    assert example.target is not None and example.target.dtype == torch.float32
    assert (example.target_type, example.target.unique().tolist(), example.data_range.tolist()) == (("rss",), [3], [3])
    assert "there is no reconstruction_esc" in caplog.text and "reconstruction_rss is used instead" in caplog.text


def test_a_volume_without_a_reference_has_no_target_and_the_size_of_its_header(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", target=False)
    example = first(tmp_path)
    assert example.target is None
    assert example.data_range.tolist() == [1.0]
    assert example.acquisition.headers[0].reconstruction_size == (20, 20)


def test_a_header_larger_than_the_matrix_is_cut_to_it(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", target=False, xml=header(rh=320, rw=18))
    assert first(tmp_path).acquisition.headers[0].reconstruction_size == (40, 18)


def test_the_contrast_may_be_a_text_of_fixed_length(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", acquisition=np.bytes_(b"AXT2"))
    assert first(tmp_path).acquisition.headers[0].contrast == "AXT2"


def test_without_the_attribute_the_range_is_the_largest_value_of_the_volume(tmp_path: Path) -> None:
    target = np.full((3, 20, 20), 0.5, np.float32)
    target[2, 3, 3] = 2.5
    official(tmp_path / "multicoil_train" / "a.h5", target=target)
    assert first(tmp_path, slice_index=0).data_range.tolist() == [2.5]


def test_a_volume_without_a_header_takes_all_columns(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    official(path)
    with h5py.File(path, "a") as file:
        del file["ismrmrd_header"]
    acquisition = first(tmp_path).acquisition
    assert acquisition.mask.all()
    assert acquisition.headers[0].reconstruction_size == (20, 20)  # the target's
    assert acquisition.headers[0].voxel_size is None


def test_a_header_without_a_field_of_view_leaves_the_voxel_unknown(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", xml=header().replace(">220.0<", ">0<"))
    assert first(tmp_path).acquisition.headers[0].voxel_size is None


def test_volumes_of_different_shapes_lie_in_one_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "b.h5", random_kspace(2, 4, 40, 32))
    official(tmp_path / "multicoil_train" / "a.h5", random_kspace(1, 6, 44, 30), target=np.ones((1, 44, 24), "f4"))
    (tmp_path / "multicoil_train" / "notes.txt").write_text("no volume")
    volumes = source(tmp_path).volumes("train")
    assert [(v.name, v.n_slices, v.shape) for v in volumes] == [
        ("a.h5", 1, (6, 44, 30, 44, 24)),
        ("b.h5", 2, (4, 40, 32, 20, 20)),
    ]


def test_provenance_is_that_of_the_set_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5")
    official(tmp_path / "multicoil_train" / "b.h5", provenance="simulated", orientation="coronal")
    files = source(tmp_path, provenance="phantom")
    headers = [files.read(volume, 0).acquisition.headers[0] for volume in files.volumes("train")]
    assert [h.provenance for h in headers] == ["phantom", "simulated"]
    assert [h.orientation for h in headers] == [None, "coronal"]


def test_double_precision_is_read_as_single(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", random_kspace(1, 2, 40, 32).astype(np.complex128))
    assert first(tmp_path).acquisition.kspace.dtype == torch.complex64


def test_no_file_stays_open_and_the_source_goes_to_workers(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "a.h5"
    official(path)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    expected = files.read(volume, 2)
    with h5py.File(path, "a"):  # refused while another handle is open for reading
        pass
    copy = pickle.loads(pickle.dumps(files))
    assert torch.equal(copy.read(volume, 2).acquisition.kspace, expected.acquisition.kspace)


def test_a_volume_can_be_read_by_a_source_that_never_listed_it(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5")
    (volume,) = source(tmp_path).volumes("train")
    assert source(tmp_path).read(volume, 0).acquisition.headers[0].acquired_columns == (3, 31)


@pytest.mark.parametrize("n_coils", [0, 4])
def test_a_truncated_file_is_named_wherever_it_ends(tmp_path: Path, n_coils: int) -> None:
    path = tmp_path / "multicoil_train" / "file1.h5"
    official(path, random_kspace(2, *([n_coils] * (n_coils > 0)), 40, 32))
    whole = path.read_bytes()
    ends = [1, 7, 8, 95, 96, 512, 800, 2048, len(whole) // 2, len(whole) - 1]
    for end in ends:
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"file1\.h5 is truncated or not HDF5") as caught:
            source(tmp_path).volumes("train")
        assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_after_it_was_indexed_is_named_when_read(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "file1.h5"
    official(path)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"file1\.h5 is truncated or not HDF5"):
        files.read(volume, 0)
    path.unlink()
    with pytest.raises(InputError, match=r"there is no file .*file1\.h5"):
        files.read(volume, 0)


def test_a_damaged_block_of_compressed_data_is_named_when_read(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "file1.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        data = file.create_dataset("kspace", data=random_kspace(1, 4, 40, 32), chunks=(1, 4, 40, 32), compression=4)
        offset = data.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file1\.h5 is truncated or not HDF5"):
        first(tmp_path)


def test_a_file_without_kspace_is_named_with_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "multicoil_train" / "file1.h5"
    official(path)
    with h5py.File(path, "a") as file:
        del file["kspace"]
    with pytest.raises(InputError, match=r"file1\.h5 has no dataset 'kspace' \(it has ismrmrd_header, reconstruction_"):
        source(tmp_path).volumes("train")
    with h5py.File(path, "w"):
        pass
    with pytest.raises(InputError, match="it has nothing"):
        source(tmp_path).volumes("train")


@pytest.mark.parametrize("bad", [np.nan, np.inf, complex(0, np.nan)])
def test_kspace_that_is_not_finite_is_named_with_its_slice(tmp_path: Path, bad: complex) -> None:
    kspace = random_kspace(3, 4, 40, 32)
    kspace[1, 2, 30, 7] = bad
    official(tmp_path / "multicoil_train" / "file1.h5", kspace)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    files.read(volume, 0)
    with pytest.raises(InputError, match=r"file1\.h5 has NaN or infinite k-space in slice 1"):
        files.read(volume, 1)


@pytest.mark.parametrize(
    "kspace",
    [
        np.ones((2, 4, 40, 32), np.float32),
        np.ones((40, 32), np.complex64),
        np.ones((1, 2, 4, 40, 32), np.complex64),
        np.ones((0, 4, 40, 32), np.complex64),
        np.ones((2, 4, 40, 32, 2), np.float32),
    ],
    ids=lambda kspace: f"{kspace.dtype}-{kspace.ndim}d-{kspace.size}",
)
def test_kspace_of_another_type_or_shape_is_refused(tmp_path: Path, kspace: np.ndarray) -> None:
    official(tmp_path / "multicoil_train" / "file1.h5", kspace, target=False)
    with pytest.raises(InputError, match=r"file1\.h5: kspace has shape .* complex is expected"):
        source(tmp_path).volumes("train")


@pytest.mark.parametrize("shape", [(2, 20, 20), (3, 41, 20), (3, 20, 33)])
def test_a_target_that_does_not_fit_its_kspace_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    official(tmp_path / "multicoil_train" / "file1.h5", target=np.ones(shape, np.float32))
    with pytest.raises(InputError, match=r"file1\.h5: reconstruction_rss .* does not fit k-space \(3, 4, 40, 32\)"):
        source(tmp_path).volumes("train")


@pytest.mark.parametrize(
    ("xml", "size", "columns", "note"),
    [
        ("<ismrmrdHeader", None, None, "XML cannot be read"),
        ("", None, None, "XML cannot be read"),
        (np.ones(3, np.float32), None, None, "there is no text"),
        ("<other/>", None, None, "there is no encoding"),
        (header().replace("<x>20</x>", "<x>0</x>"), None, (3, 31), "reconSpace/matrixSize/x is 0: ; the size"),
        (header().replace("<x>20</x>", "<x>twenty</x>"), None, (3, 31), "reconSpace/matrixSize/x is 'twenty'"),
        (header().replace("<x>20</x>", "<x>20.5</x>"), None, (3, 31), "reconSpace/matrixSize/x is 20.5, which"),
        (header().replace("<center>13</center>", ""), (20, 20), None, "kspace_encoding_step_1/center is missing"),
        (header(center=20), (20, 20), (0, 24), "makes columns -4..24 of 32: 0..24 count"),
        (header(maximum=40), (20, 20), (3, 32), "makes columns 3..44 of 32: 3..32 count"),
        (header(maximum=-1), (20, 20), None, "maximum is '-1'"),
        (header(maximum=900, center=900), (20, 20), (0, 17), "makes columns -884..17 of 32"),
        (header(maximum=9, center=90), (20, 20), None, "makes columns -74..-64 of 32: all columns"),
        (header(w=30), (20, 20), None, "encodedSpace has 30 columns and k-space 32: all columns"),
        (header(rw=320, rh=320), (32, 32), (3, 31), "reconSpace is (320, 320), larger than k-space (40, 32)"),
        (header(rw=33, rh=20), (32, 32), (3, 31), "the size is (32, 32)"),
        (header(rh=50), (40, 20), (3, 31), "the size is (40, 20)"),
    ],
)
def test_what_a_header_cannot_mean_is_not_used_and_said_in_one_line(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    xml: Any,
    size: tuple[int, int] | None,
    columns: tuple[int, int] | None,
    note: str,
) -> None:
    official(tmp_path / "multicoil_train" / "file1.h5", xml=xml, target=False)
    files = source(tmp_path)
    (volume,) = files.volumes("train")
    found = [files.read(volume, i).acquisition.headers[0] for i in range(3)][-1]
    assert (found.reconstruction_size, found.acquired_columns) == (size, columns)
    (record,) = (record for record in caplog.records if record.name == "spinwarp.data.fastmri.ismrmrd")
    assert "file1.h5: in its ISMRMRD header" in record.getMessage()
    assert all(part in record.getMessage() for part in note.split(" ; "))


def without(*tags: str) -> str:
    xml = header()
    for tag in tags:
        start, rest = xml.split(f"<{tag}>", 1)
        xml = start + rest.split(f"</{tag}>", 1)[1]
    return xml


@pytest.mark.parametrize(
    ("xml", "size", "columns", "voxel_size"),
    [
        (without("encodingLimits"), (20, 20), None, (11.0, 11.0, 5.0)),
        (without("kspace_encoding_step_1"), (20, 20), None, (11.0, 11.0, 5.0)),
        (without("encodedSpace"), (20, 20), None, (11.0, 11.0, 5.0)),
        (without("reconSpace"), None, (3, 31), None),
        (without("fieldOfView_mm"), (20, 20), (3, 31), (11.0, 11.0, 5.0)),  # that of encodedSpace
        (without("fieldOfView_mm", "fieldOfView_mm"), (20, 20), (3, 31), None),
        (without("trajectory", "studyInformation"), (20, 20), (3, 31), (11.0, 11.0, 5.0)),
        (header().replace(' xmlns="http://www.ismrm.org/ISMRMRD"', ""), (20, 20), (3, 31), (11.0, 11.0, 5.0)),
        (header().replace("www.ismrm.org/ISMRMRD", "example.org/other"), (20, 20), (3, 31), (11.0, 11.0, 5.0)),
        ("\ufeff" + header(), (20, 20), (3, 31), (11.0, 11.0, 5.0)),
        (b"\xef\xbb\xbf" + header().encode(), (20, 20), (3, 31), (11.0, 11.0, 5.0)),
        (np.void(("\ufeff" + header()).encode("utf-16")), (20, 20), (3, 31), (11.0, 11.0, 5.0)),
        ("\n  " + header() + "\n", (20, 20), (3, 31), (11.0, 11.0, 5.0)),
        (np.frombuffer(header().encode(), np.uint8), (20, 20), (3, 31), (11.0, 11.0, 5.0)),
        (
            header().replace("<y>20</y>", "<y> 20.0 </y>").replace(">13<", ">13.0<"),
            (20, 20),
            (3, 31),
            (11.0, 11.0, 5.0),
        ),
        # 11 mm and 220 / 32 mm: the voxels of k-space, since those of reconSpace were interpolated
        (header(rh=64, rw=64), (32, 32), (3, 31), (11.0, 6.875, 5.0)),
    ],
)
def test_each_field_of_a_header_is_read_by_itself(
    tmp_path: Path, xml: Any, size: Any, columns: Any, voxel_size: Any
) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", target=False, xml=xml)
    found = first(tmp_path).acquisition.headers[0]
    assert (found.reconstruction_size, found.acquired_columns, found.voxel_size) == (size, columns, voxel_size)


def test_of_several_encodings_the_one_that_fits_kspace_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other, own = header(h=128, w=16, rh=64, rw=16), header()
    xml = other.replace("</encoding>", "</encoding>" + own[own.index("<encoding>") : own.index("</ismrmrdHeader>")])
    official(tmp_path / "multicoil_train" / "a.h5", target=False, xml=xml)
    found = first(tmp_path).acquisition.headers[0]
    assert (found.reconstruction_size, found.acquired_columns) == ((20, 20), (3, 31))
    assert "there are 2 encodings; number 2 is used" in caplog.text


def test_one_odd_header_does_not_refuse_the_set(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5")
    official(tmp_path / "multicoil_train" / "b.h5", xml="<odd>")
    assert [volume.name for volume in source(tmp_path).volumes("train")] == ["a.h5", "b.h5"]


@pytest.mark.parametrize("columns", [(-1, 30), (10, 10), (20, 10), (0, 33)])
def test_padding_attributes_that_lie_are_refused(tmp_path: Path, columns: tuple[int, int]) -> None:
    official(tmp_path / "multicoil_train" / "file1.h5", padding_left=columns[0], padding_right=columns[1])
    with pytest.raises(InputError, match=rf"acquired columns {columns[0]}\.\.{columns[1]} lie outside"):
        source(tmp_path).volumes("train")


def test_a_missing_folder_is_named_with_the_hint(tmp_path: Path) -> None:
    folders = Folders(str(tmp_path), train="multicoil_train", hint="Ask for the data.")
    folders.prepare()  # nothing to make, nothing to complain of yet
    with pytest.raises(InputError, match=r"no folder .*multicoil_train for the train split\. Ask for the data\.$"):
        folders.files("train")


def test_an_empty_folder_is_named_with_the_hint(tmp_path: Path) -> None:
    (tmp_path / "multicoil_train").mkdir()
    (tmp_path / "multicoil_train" / "a.txt").write_text("")
    folders = Folders(str(tmp_path), train="multicoil_train", hint="Unpack it.")
    with pytest.raises(InputError, match=r"multicoil_train of the train split has no \.h5 files\. Unpack it\.$"):
        folders.files("train")


def test_a_split_without_a_folder_and_one_that_cannot_be_are_refused(tmp_path: Path) -> None:
    folders = Folders(str(tmp_path), train="multicoil_train")
    with pytest.raises(InputError, match=r"no test folder; give data\.source\.files\.test=FOLDER"):
        folders.files("test")
    with pytest.raises(InputError, match="split='training' is not one of train, val, test"):
        folders.files("training")
