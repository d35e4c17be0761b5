"""What knowing nothing but the box and the side gives: the same hand in every box. A row to read other rows by."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from ..hand_boxes import JOINT_MARGIN
from .predictions import Predictions
from .scoring import Truth

NAME = "mean hand (looks at nothing)"
HANDS = 512


def mean_hand(keypoints_2d: Tensor, joints: Tensor, global_orient: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The mean of many (synthetic) right hands.

    Args:
        keypoints_2d: (B, 21, 2) pixels of any camera.
        joints: (B, 21, 3) metres, camera frame.
        global_orient: (B, 3, 3) rotations of the wrists.

    Returns:
        (21, 2) mean keypoints relative to the centre and longer side of each hand's box (around the keypoints, with
        `JOINT_MARGIN`), and (21, 3) metres, mean joints in the wrist's frame.
    """
    low, high = keypoints_2d.amin(1), keypoints_2d.amax(1)
    side = (1 + 2 * JOINT_MARGIN) * (high - low).amax(-1)
    relative = (keypoints_2d - ((low + high) / 2)[:, None]) / side[:, None, None]
    local = (joints - joints[:, :1]) @ global_orient  # rows times R is R^T applied to each
    return relative.double().mean(0).numpy(), local.double().mean(0).numpy()


@lru_cache
def synthetic_mean_hand(count: int = HANDS) -> tuple[np.ndarray, np.ndarray]:
    """`mean_hand` of the generator's right hands."""
    from ..synthesis.generator import generate

    # The pictures are not looked at: the smallest will do.
    labels = generate(seed=0, index=range(count), size=32, negatives=0.0).labels
    keep = labels["keypoints_2d"].isfinite().flatten(1).all(1)
    return mean_hand(*(labels[name][keep] for name in ("keypoints_2d", "joints", "global_orient")))


def predict_mean(truth: Truth, relative: np.ndarray, local: np.ndarray) -> Predictions:
    """`mean_hand` put into every box, mirrored for left hands."""
    mirror = np.array([[-1.0 if side == "left" else 1.0] for side in truth.sides])
    centres = (truth.boxes[:, :2] + truth.boxes[:, 2:])[:, None] / 2
    flip_2d = np.stack([mirror, np.ones_like(mirror)], -1)
    flip_3d = np.stack([mirror, np.ones_like(mirror), np.ones_like(mirror)], -1)
    return Predictions(centres + truth.box_sides[:, None, None] * flip_2d * relative, flip_3d * local)
