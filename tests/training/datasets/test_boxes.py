"""Boxes hold what they are made of, and what is no box is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handmim.geometry import affine_points, crop_affine
from handmim.training.datasets.boxes import box_side, keypoint_box, sample_box, whole_picture
from handmim.training.datasets.sample import DataError, HandSample

POINTS = arrays(np.float32, (21, 2), elements=st.integers(-500, 500).map(float))


@given(POINTS, st.lists(st.booleans(), min_size=21, max_size=21), st.floats(0.01, 0.5))
def test_the_box_of_keypoints_holds_them_with_its_margin(points: np.ndarray, known: list[bool], margin: float) -> None:
    points = np.where(np.array(known)[:, None], points, np.nan)
    box = keypoint_box(points, margin)
    labelled = points[known]
    extent = np.ptp(labelled, axis=0).max() if len(labelled) else 0.0
    if extent == 0:  # one point, or none, has no extent
        assert np.isnan(box).all()
        return
    np.testing.assert_allclose(box[:2], labelled.min(0) - margin * extent, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(box[2:], labelled.max(0) + margin * extent, rtol=1e-5, atol=1e-3)
    assert box_side(box) == pytest.approx((1 + 2 * margin) * extent, rel=1e-4, abs=1e-3)


@given(st.integers(1, 4000), st.integers(1, 4000), st.floats(1, 2))
def test_the_crop_of_the_whole_picture_shows_all_of_it(width: int, height: int, box_scale: float) -> None:
    affine = crop_affine(torch.from_numpy(whole_picture((width, height), box_scale)), 100, scale=box_scale)
    first, last = affine_points(affine, torch.tensor([[-0.5, -0.5], [width - 0.5, height - 0.5]]).double())
    assert (last - first).max().item() == pytest.approx(100)
    np.testing.assert_allclose((first + last) / 2, 49.5, atol=1e-6)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (3, 0, 1, 9), (0, 0, np.nan, 4), (0, 0, np.inf, 4)])
def test_what_is_no_box(box: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="a box must be x0, y0, x1, y1 with x0 < x1"):
        sample_box(HandSample("x", None, box=np.array(box, np.float64)))
