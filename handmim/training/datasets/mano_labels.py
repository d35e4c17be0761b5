"""MANO parameters of data sets: axis-angle in, rotation matrices out, and the licensed file where it is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...geometry import axis_angle_to_matrix
from ...hand_model import HandModel
from ...mano_files import ManoFileNotFoundError, find_mano

# Rotations turned into matrices at once.
CHUNK = 4096


def find_hand_model(side: str, path: str | Path | None) -> HandModel | None:
    """The user's MANO model of one side, on the CPU; None if none was named and none is installed.

    Raises:
        ManoFileNotFoundError, ManoFileError, UnsafeFileError: A path was given, and the file is missing or wrong; or an
            installed file is wrong.
    """
    try:
        find_mano(side, path)
    except ManoFileNotFoundError:
        if path is not None:
            raise
        return None
    return HandModel("mano", side, path)


def pose_matrices(axis_angle: np.ndarray, mean_pose: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Global rotation and pose of MANO as matrices.

    Args:
        axis_angle: (N, 48) radians: global rotation, then 15 joints in MANO's order.
        mean_pose: (45,) radians, added where a data set's pose is relative to it; then zero is the flat hand.

    Returns:
        (N, 3, 3) and (N, 15, 3, 3), float32.
    """
    matrices = np.empty((len(axis_angle), 16, 3, 3), np.float32)
    for start in range(0, len(axis_angle), CHUNK):
        part = np.array(axis_angle[start : start + CHUNK], np.float64)
        if mean_pose is not None:
            part[:, 3:] += mean_pose
        matrices[start : start + CHUNK] = axis_angle_to_matrix(torch.from_numpy(part).view(-1, 16, 3)).numpy()
    return matrices[:, 0], matrices[:, 1:]


@torch.no_grad()
def pose_vertices(
    model: HandModel, global_orient: np.ndarray, hand_pose: np.ndarray, betas: np.ndarray, wrist: np.ndarray
) -> np.ndarray:
    """(778, 3) float32 vertices of one hand whose wrist joint is at a place (3,), metres, in the rotation's frame."""
    tensors = (torch.from_numpy(np.ascontiguousarray(array))[None] for array in (global_orient, hand_pose, betas))
    hand = model(*tensors)
    return (hand.vertices[0] - hand.joints[0, 0]).numpy() + wrist.astype(np.float32)
