"""``calibration.json``: what is written comes back, and what is damaged is named."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinwarp.errors import InputError
from spinwarp.results import CALIBRATION, CalibrationCurves, VolumeCurves, read_calibration, write_calibration

VOLUME = VolumeCurves("a.h5", 10, [0.5, 1 / 3], [0.25, 1.0], [1.0, 0.5], [1.0, 0.1], [1.0, 0.75], [3, 7], [4, 3, 3])
CURVES = CalibrationCurves("dps", "knee", "val", "equispaced_4x", 4.0, [0.5, 0.9], [0.0, 0.5], [1.0, 2.0], [VOLUME])


def test_curves_come_back_to_seven_digits(tmp_path: Path) -> None:
    silent = dataclasses.replace(VOLUME, volume='"b"', ranks=None)
    curves = dataclasses.replace(CURVES, volumes=[VOLUME, silent])
    write_calibration(tmp_path / CALIBRATION, curves)
    back = read_calibration(tmp_path / CALIBRATION)
    assert back.volumes[0].coverage[1] == 0.3333333
    rounded = [dataclasses.replace(v, coverage=[0.5, 0.3333333]) for v in curves.volumes]
    assert back == dataclasses.replace(curves, volumes=rounded)
    assert [path.name for path in tmp_path.iterdir()] == [CALIBRATION]


def test_what_could_not_be_measured_stays_nan_in_plain_json(tmp_path: Path) -> None:
    empty = VolumeCurves("air", 0, [math.nan] * 2, [math.nan] * 2, *[[math.nan] * 2] * 3, None, [0, 0, 0])
    curves = dataclasses.replace(CURVES, acceleration_nominal=math.nan, volumes=[empty])
    write_calibration(tmp_path / CALIBRATION, curves)
    json.loads((tmp_path / CALIBRATION).read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    back = read_calibration(tmp_path / CALIBRATION)
    assert math.isnan(back.acceleration_nominal) and np.isnan(back.volumes[0].coverage).all()
    assert np.isnan(back.volumes[0].exceedance).all()


def test_the_exceedance_is_the_fraction_above_each_factor() -> None:
    np.testing.assert_allclose(VOLUME.exceedance, [0.6, 0.3], rtol=1e-12)  # tenths are no binary numbers


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "does not exist; evaluate.py writes it for a method that predicts a standard"),
        (lambda path: path.write_text(path.read_text()[:80]), "cannot be read as JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read as JSON"),
        (lambda path: path.write_text("[1, 2]"), "expected a method with a list of volumes"),
        (broken(lambda c: c.pop("method")), "method is missing"),
        (broken(lambda c: c.update(method=3)), "method is 3, expected text"),
        (broken(lambda c: c.update(factors=[2.0, 1.0])), "factors must increase"),
        (broken(lambda c: c.update(volumes=[])), "there is no volume"),
        (broken(lambda c: c.update(volumes=["a"])), "was not written by evaluate.py"),
        (broken(lambda c: c["volumes"][0].pop("ranks")), "ranks is missing"),
        (broken(lambda c: c["volumes"][0].update(coverage=[0.5])), "coverage of a.h5 has 1 numbers for 2 levels"),
        (broken(lambda c: c["volumes"][0].update(coverage=["x", 1])), "coverage of a.h5 must be numbers"),
        (broken(lambda c: c["volumes"][0].update(ratios=[4, 3, -3])), "ratios of a.h5 must be counts"),
        (broken(lambda c: c["volumes"][0].update(ratios=[4, 3, 2])), "do not add up to its 10 pixels in 3 bins"),
        (broken(lambda c: c["volumes"][0].update(n_pixels=2.5)), "n_pixels of a.h5 must be counts"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_calibration(tmp_path / CALIBRATION, CURVES)
    damage(tmp_path / CALIBRATION)
    with pytest.raises(InputError, match=rf"calibration\.json .*{message}"):
        read_calibration(tmp_path / CALIBRATION)
