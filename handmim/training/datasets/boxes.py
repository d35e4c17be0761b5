"""Where the hand of a sample is: its box, or what its labels make of it."""

from __future__ import annotations

import math

import numpy as np
import torch

from ...errors import DataError
from ...geometry import project
from ...hand_boxes import JOINT_MARGIN, box_around
from .sample import HandSample


def box_side(box: np.ndarray) -> float:
    """The longer side of a box (4,) xyxy, pixels.

    Raises:
        DataError: It is none.
    """
    x0, y0, x1, y1 = map(float, box)
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        raise DataError(f"a box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {(x0, y0, x1, y1)}")
    return max(x1 - x0, y1 - y0)


def keypoint_box(points: np.ndarray, margin: float = JOINT_MARGIN) -> np.ndarray:
    """The box of labelled points.

    Args:
        points: (N, 2) pixels; NaN where not labelled.
        margin: Added on each side, as a share of the longer side; joints lie inside the flesh.

    Returns:
        (4,) float32 xyxy pixels; NaN unless two labelled points lie apart: one point has no extent.
    """
    labelled = points[~np.isnan(points).any(-1)]
    if not len(labelled) or not np.ptp(labelled, axis=0).any():
        return np.full(4, np.nan, np.float32)
    return box_around(labelled, margin).astype(np.float32)


def sample_box(sample: HandSample) -> np.ndarray | None:
    """(4,) xyxy: the sample's box, or that of its keypoints, or of what can be projected, or of its mask, or None.

    Raises:
        DataError: The sample's box is none.
    """
    if sample.box is not None:
        box_side(sample.box)
        return sample.box
    points = sample.labels.get("keypoints_2d")
    for name in ("vertices", "joints"):
        if points is None and name in sample.labels and sample.intrinsics is not None:
            shape = torch.from_numpy(sample.labels[name]).double()
            points = project(shape, torch.from_numpy(np.asarray(sample.intrinsics, np.float64))).numpy()
    if points is not None:
        box = keypoint_box(points)
        if np.isfinite(box).all():
            return box
    if sample.load_mask is not None:
        rows, columns = np.nonzero(sample.load_mask())
        if len(rows):
            return np.array([columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5])
    return None


def whole_picture(size: tuple[int, int], box_scale: float) -> np.ndarray:
    """(4,) the box whose crop is the whole picture of (width, height) `size`."""
    centre, reach = np.array(size) / 2 - 0.5, np.array(size) / (2 * box_scale)
    return np.concatenate([centre - reach, centre + reach])
