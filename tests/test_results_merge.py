"""One result folder of the parts that several processes left."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from spinwarp.results import (
    CALIBRATION,
    EXAMPLES,
    RESULTS,
    CalibrationCurves,
    ExampleSlice,
    Row,
    VolumeCurves,
    read_calibration,
    read_examples,
    read_rows,
    write_calibration,
    write_examples,
    write_reconstruction,
    write_rows,
    write_target,
)
from spinwarp.results.merge import merge

IMAGE = np.ones((2, 2), np.float32)


def row(volume: str) -> Row:
    # what may be nan is set, since nan would make a row differ from itself
    claims = {f.name: 0.5 for f in dataclasses.fields(Row) if f.type is float and f.default is not dataclasses.MISSING}
    measured = {"nmse": 0.1, "psnr": 30.0, "ssim": 0.9, **claims}
    names = {"method": "m", "dataset": "d", "split": "test", "provenance": "phantom", "mask": "none", "crop": "2x2"}
    return Row(
        **names,
        **measured,
        acceleration_nominal=4.0,
        acceleration=1 / 3,
        volume=volume,
        n_slices=2,
        target_type="rss",
        seconds_per_slice=0.5,
        input_sha256="abc",
    )


def write_part(folder: Path, volumes: list[str], unfinished: str | None = None) -> Path:
    for volume in volumes:
        write_reconstruction(folder / "reconstructions", volume, IMAGE[None])
        write_target(folder / "targets", volume, IMAGE[None], IMAGE[None] > 0)
    if unfinished is not None:
        write_reconstruction(folder / "reconstructions", unfinished, IMAGE[None])
    examples = [ExampleSlice(v, 0, "m", IMAGE, IMAGE, 1.0, 0.1, 30.0, 0.9, "phantom", 4.0) for v in volumes]
    write_examples(folder / EXAMPLES, examples)
    write_rows(folder / RESULTS, [row(volume) for volume in volumes])
    curves = [VolumeCurves(v, 3, [0.5], [0.5], [1.0], [1.0], [1.0], None, [1, 1, 1]) for v in volumes]
    write_calibration(
        folder / CALIBRATION, CalibrationCurves("m", "d", "test", "none", 4.0, [0.9], [0.0], [1.0, 2.0], curves)
    )
    return folder


def test_parts_become_one_folder_in_the_order_of_one_process(tmp_path: Path) -> None:
    order = ["c.h5", "a.h5", "b"]
    parts = [
        write_part(tmp_path / "0", ["b"]),
        tmp_path / "of one that had nothing to do",
        write_part(tmp_path / "2", ["c.h5", "a.h5"]),
    ]
    merged = merge(parts, tmp_path / "all", order)
    assert merged == read_rows(tmp_path / "all" / RESULTS)
    write_part(tmp_path / "expected", order)
    assert (tmp_path / "all" / RESULTS).read_bytes() == (tmp_path / "expected" / RESULTS).read_bytes()
    curves = read_calibration(tmp_path / "all" / CALIBRATION)
    assert curves == read_calibration(tmp_path / "expected" / CALIBRATION)
    found = [e.volume for e in read_examples(tmp_path / "all" / EXAMPLES)]
    assert found == [e.volume for e in read_examples(tmp_path / "expected" / EXAMPLES)] == ["a.h5", "b", "c.h5"]
    for kind in ("reconstructions", "targets"):
        assert sorted(path.name for path in (tmp_path / "all" / kind).iterdir()) == ["a.h5", "b.h5", "c.h5"]
        assert not (tmp_path / "0" / kind).exists()


def test_images_of_a_volume_without_a_row_were_not_finished_and_stay_out(tmp_path: Path) -> None:
    merge([write_part(tmp_path / "0", ["a.h5"], unfinished="b.h5")], tmp_path / "all", ["a.h5", "b.h5"])
    assert [path.name for path in (tmp_path / "all" / "reconstructions").iterdir()] == ["a.h5"]


def test_where_nothing_was_finished_nothing_is_written(tmp_path: Path) -> None:
    assert merge([tmp_path / "0"], tmp_path / "all", ["a.h5"]) == []
    assert not (tmp_path / "all").exists()


def test_a_file_that_nobody_knows_how_to_merge_is_not_lost_in_silence(tmp_path: Path) -> None:
    part = write_part(tmp_path / "0", ["a.h5"])
    (part / "further.json").write_text("{}")
    with pytest.raises(NotImplementedError, match=r"further\.json"):
        merge([part], tmp_path / "all", ["a.h5"])
