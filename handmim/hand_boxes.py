"""Boxes around hands: what a detector finds, and what is done with boxes whoever found them.

Boxes are xyxy in pixels, where (0, 0) is the centre of the top-left pixel: a picture W wide covers x from -0.5 to
W - 0.5.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Side = Literal["left", "right"]
# What a hand box has around the 21 joints, as a share of the longer side of theirs: flesh, and a little air.
JOINT_MARGIN = 0.12


@dataclass(frozen=True, eq=False)
class Detection:
    """One hand found in a picture.

    Attributes:
        box: (4,) float64 xyxy, pixels.
        handedness: whose hand it is as the picture shows it, or None if the detector cannot tell.
        score: confidence in [0, 1].
    """

    box: np.ndarray
    handedness: Side | None = None
    score: float = 1.0


def box_around(points: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """(4,) xyxy that surrounds points (P, 2), widened on each side by `margin` times its longer side."""
    low, high = points.min(0), points.max(0)
    pad = margin * (high - low).max()
    return np.concatenate([low - pad, high + pad])


def clip_box(box: np.ndarray, image: np.ndarray) -> np.ndarray | None:
    """The part of a box (4,) inside a picture (H, W, 3); None if it is less than a pixel wide or high."""
    whole = whole_box(image)
    clipped = np.clip(box, np.tile(whole[:2], 2), np.tile(whole[2:], 2))
    return clipped if (clipped[2:] - clipped[:2]).min() >= 1 else None


def whole_box(image: np.ndarray) -> np.ndarray:
    """(4,) xyxy of a picture (H, W, 3)."""
    height, width = image.shape[:2]
    return np.array([-0.5, -0.5, width - 0.5, height - 0.5])


def overlap_of(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    shared = _shared_area(box, other)
    union = _area(box) + _area(other) - shared
    return shared / union if union > 0 else 0.0


def held_part(box: np.ndarray, other: np.ndarray) -> float:
    """How much of the smaller of two boxes (4,) the other one holds, of its area."""
    smaller = min(_area(box), _area(other))
    return _shared_area(box, other) / smaller if smaller > 0 else 0.0


def _area(box: np.ndarray) -> float:
    return float(np.prod(box[2:] - box[:2]))


def _shared_area(box: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(np.prod(sides.clip(min=0)))


def without_duplicates(detections: list[Detection], overlap: float) -> list[Detection]:
    """Of detections whose boxes share more than `overlap` of their union, the most certain."""
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda one: -one.score):
        if all(overlap_of(detection.box, other.box) <= overlap for other in kept):
            kept.append(detection)
    return kept
