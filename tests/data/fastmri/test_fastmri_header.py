"""The ISMRMRD header of a fastMRI file: what each field gives, and what is not used when it cannot be meant."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from official_files import first, header, official, source

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_a_header_larger_than_the_matrix_is_cut_to_it(tmp_path: Path) -> None:
    official(tmp_path / "multicoil_train" / "a.h5", target=False, xml=header(rh=320, rw=18))
    assert first(tmp_path).acquisition.headers[0].reconstruction_size == (40, 18)


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
