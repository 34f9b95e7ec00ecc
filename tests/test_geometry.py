"""Geometry: from voxels to the patient, computed by hand."""

import numpy as np
import pytest

from spinwarp.errors import InputError
from spinwarp.geometry import Geometry, to_ras

AXIAL = Geometry((10.0, -20.0, 30.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (2.0, 0.5, 4.0))


def test_the_origin_of_the_transform_lies_at_the_position():
    assert np.allclose(AXIAL.affine((6, 5)) @ [3, 2, 0, 1], [10, -20, 30, 1])


def test_a_step_along_each_index_moves_by_the_voxel_size_along_its_direction():
    affine = AXIAL.affine((6, 5))
    assert np.allclose(affine @ [1, 0, 0, 0], [0, 2, 0, 0])
    assert np.allclose(affine @ [0, 1, 0, 0], [0.5, 0, 0, 0])
    assert np.allclose(affine @ [0, 0, 1, 0], [0, 0, 4, 0])


@pytest.mark.parametrize("size", [(6, 5), (7, 8), (9, 9)])
@pytest.mark.parametrize("crop", [(4, 3), (5, 4), (3, 5)])
def test_a_crop_stays_where_it_is_in_the_patient(size: tuple[int, int], crop: tuple[int, int]):
    top, left = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2  # the crop of the references
    there = AXIAL.affine(size) @ [top + 1, left + 2, 0, 1]
    assert np.allclose(AXIAL.cropped(size, crop).affine(crop) @ [1, 2, 0, 1], there)


@pytest.mark.parametrize("size", [(6, 5), (7, 8), (1, 1)])
def test_an_affine_has_the_geometry_that_it_came_from(size: tuple[int, int]):
    a, b = np.cos(0.3), np.sin(0.3)
    oblique = Geometry((10.0, -20.0, 30.0), (a, b, 0.0), (0.0, 0.0, 1.0), (b, -a, 0.0), (2.0, 0.5, 4.0))
    for geometry in (AXIAL, oblique):
        found = Geometry.from_affine(geometry.affine(size), size)
        for field in ("position", "readout", "phase", "slice", "voxel_size"):
            assert np.allclose(getattr(found, field), getattr(geometry, field))


def test_a_sheared_affine_and_one_without_a_slice_are_refused():
    sheared = AXIAL.affine((6, 5))
    sheared[1, 1] += 0.4
    for affine in (sheared, AXIAL.affine((6, 5)) * [1, 1, 0, 1]):
        with pytest.raises(InputError, match="perpendicular"):
            Geometry.from_affine(affine, (6, 5))


def test_ras_points_to_the_right_and_front():
    assert np.allclose(to_ras(AXIAL.affine((6, 5))) @ [3, 2, 0, 1], [-10, 20, 30, 1])
    assert np.allclose(to_ras(to_ras(AXIAL.affine((6, 5)))), AXIAL.affine((6, 5)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"readout": (0.0, 2.0, 0.0)}, "unit vectors"),
        ({"phase": (0.0, 1.0, 0.0)}, "perpendicular"),
        ({"position": (0.0, float("nan"), 0.0)}, "finite"),
        ({"voxel_size": (1.0, 0.0, 1.0)}, "positive"),
    ],
)
def test_an_impossible_geometry_is_refused(change: dict, words: str):
    with pytest.raises(InputError, match=words):
        Geometry(**{**AXIAL.__dict__, **change})
