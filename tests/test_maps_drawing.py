"""Pictures of maps: what is drawn where, in which colour."""

import numpy as np
import pytest

from handmim.drawing import FINGER_COLORS
from handmim.maps_drawing import OUTLINE_COLOR, direction_colors, draw_mask_outline, heatmap_picture, pof_picture

BOX = np.array([19.5, 9.5, 83.5, 73.5])  # of a picture of 100 x 80
CELLS = 32


def photo(height: int = 80, width: int = 100) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def disc(radius: float = 10) -> np.ndarray:
    """A disc about the middle of a map, as its smoothed probability."""
    y, x = np.mgrid[:CELLS, :CELLS] - (CELLS - 1) / 2
    return (radius - np.hypot(x, y) + 0.5).clip(0, 1)


@pytest.mark.parametrize("factor", [1, 12])
def test_the_outline_runs_along_the_masks_edge(factor: int) -> None:
    image = photo(80 * factor, 100 * factor)
    box = (BOX + 0.5) * factor - 0.5
    drawn = draw_mask_outline(image, disc(), box)
    assert (image == 90).all()
    y, x = (drawn != 90).any(-1).nonzero()
    distance = np.hypot(x - box[[0, 2]].mean(), y - box[[1, 3]].mean()) / factor  # two pixels a cell: radius 20
    assert distance.min() > 18 and distance.max() < 22.5 and distance.mean() == pytest.approx(20, abs=0.7)
    angles = np.degrees(np.arctan2(y - box[[1, 3]].mean(), x - box[[0, 2]].mean()))
    assert len(np.unique(angles.astype(int) // 10)) >= 35  # all around
    assert np.abs(drawn.reshape(-1, 3).astype(int) - OUTLINE_COLOR).sum(1).min() < 60


def test_there_is_no_edge_at_the_pictures_border_nor_without_a_mask() -> None:
    full, whole = np.ones((4, 4)), np.array([-30.0, -30, 130, 130])
    assert (draw_mask_outline(photo(), full, whole) == 90).all()
    assert (draw_mask_outline(photo(), np.zeros((4, 4)), BOX) == 90).all()
    assert (draw_mask_outline(photo(), disc(), BOX + 500) == 90).all()


def test_heat_maps_are_blobs_in_the_fingers_colours() -> None:
    heatmaps = np.zeros((21, CELLS, CELLS))
    places = {0: (16, 28), 4: (4, 10), 8: (10, 4), 12: (16, 3), 16: (22, 4), 20: (28, 8)}
    for joint, (x, y) in places.items():
        heatmaps[joint, y, x] = 1
    heatmaps[7, 20, 3] = 0.2
    drawn = heatmap_picture(photo(), heatmaps, BOX, size=CELLS * 3).astype(int)
    grey = drawn[1, 1]
    assert (grey == grey[0]).all() and 40 < grey[0] < 60
    for finger, (x, y) in enumerate(list(places.values())[1:]):
        np.testing.assert_allclose(drawn[3 * y + 1, 3 * x + 1], FINGER_COLORS[finger], atol=2)
    assert drawn[3 * 28 + 1, 3 * 16 + 1].min() > 240  # the wrist
    faint = drawn[61, 10]
    np.testing.assert_allclose(faint, 0.2 * np.array(FINGER_COLORS[1]) + 0.8 * grey, atol=2)


def test_the_hue_of_a_field_is_its_direction() -> None:
    pof = np.zeros((20, 3, CELLS, CELLS))
    pof[3, 0, 10, 5:15] = 1  # to the right
    pof[7, 1, 20:25, 20] = -1  # upwards
    pof[8, 0, 20:25, 20] = 0.3  # a weaker bone on the same cells
    drawn = pof_picture(photo(), pof, BOX, size=CELLS * 4).astype(int)
    assert drawn[42, 40].tolist() == [255, 0, 0]
    np.testing.assert_allclose(drawn[88, 82], [128, 0, 255], atol=3)
    assert np.ptp(drawn[2, 2]) == 0
    ring = drawn[-25:, :25]
    assert np.ptp(ring, axis=-1).max() > 200  # the key to the colours


def test_depth_tints_the_hue() -> None:
    flat, near, far = direction_colors(np.array([[1.0, 1, 1], [0, 0, 0], [0, -0.9, 0.9]])).sum(-1)
    assert far < flat < near


def test_maps_that_are_not_finite_are_drawn_as_nothing() -> None:
    with np.errstate(all="raise"):
        heat = heatmap_picture(photo(), np.full((21, 8, 8), np.nan), BOX, size=64)
        field = pof_picture(photo(), np.full((20, 3, 8, 8), np.nan), BOX, size=64)
    assert np.ptp(heat.astype(int), axis=-1).max() == 0 and np.ptp(field[:40].astype(int), axis=-1).max() == 0
