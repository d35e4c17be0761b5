"""STB in miniature: a few frames of each sequence, seen by the benchmark's three cameras."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat, savemat
from scipy.spatial.transform import Rotation

from fabricate_datasets.cameras import seen_by
from fabricate_datasets.scenes import Scene

# As in the README of the data set.
STEREO = np.array([[822.79041, 0, 318.47345], [0, 822.79041, 250.31296], [0, 0, 1]])
COLOUR = np.array([[607.92271, 0, 314.78337], [0, 607.88192, 236.42484], [0, 0, 1]])
BASE_LINE = 120.054
DEPTH_ROTATION = Rotation.from_rotvec([0.00531, -0.01196, 0.00301]).as_matrix()
DEPTH_SHIFT = np.array([-24.0381, -0.4563, -1.2326])
FINGERS = {"little": 17, "ring": 13, "middle": 9, "index": 5, "thumb": 1}  # official order; first joint of ours


def write(root: Path, scenes: Sequence[Scene], sequences: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Write each sequence with the same frames.

    The benchmark's cameras are given: a scene's picture is turned and scaled until it is what one of them sees with the
    hand before it. The right stereo camera's picture is the left one's, moved by the hand's disparity.

    Returns:
        The joints (21, 3) of each frame in each camera's frame, metres, by camera.
    """
    (root / "labels").mkdir(parents=True)
    truth: dict[str, list[np.ndarray]] = {"SK_color": [], "BB_left": [], "BB_right": []}
    pictures: dict[str, list[np.ndarray]] = {name: [] for name in truth}
    for scene in scenes:
        for name, camera in (("SK_color", COLOUR), ("BB_left", STEREO)):
            seen = seen_by(scene, camera, (640, 480))
            truth[name].append(seen.joints.astype(np.float64))
            pictures[name].append(seen.image)
        joints = truth["BB_left"][-1]
        truth["BB_right"].append(joints - [BASE_LINE / 1000, 0, 0])
        disparity = STEREO[0, 0] * BASE_LINE / 1000 / joints[:, 2].mean()
        pictures["BB_right"].append(np.roll(pictures["BB_left"][-1], -round(disparity), axis=1))
    labels = {
        "SK": [DEPTH_ROTATION @ official(joints) + DEPTH_SHIFT[:, None] for joints in truth["SK_color"]],
        "BB": [official(joints) for joints in truth["BB_left"]],
    }
    for sequence in sequences:
        for suffix, points in labels.items():
            write_labels(root / "labels" / f"{sequence}_{suffix}.mat", handPara=np.stack(points, 2))
        folder = root / "images" / sequence
        folder.mkdir(parents=True)
        for camera, frames in pictures.items():
            for number, picture in enumerate(frames):
                Image.fromarray(picture).save(folder / f"{camera}_{number}.png", compress_level=1)
    return truth


def official(joints: np.ndarray) -> np.ndarray:
    """(3, 21) millimetres: the palm's centre half-way from wrist to ring finger, then the fingers, little first."""
    palm = (joints[0] + joints[13]) / 2
    points = [palm] + [joints[first + place] for first in FINGERS.values() for place in range(4)]
    return np.stack(points, 1) * 1000


def hand_para(file: Path) -> np.ndarray:
    """(3, 21, N) what a label file holds."""
    return loadmat(file)["handPara"]


def write_labels(file: Path, **variables: np.ndarray) -> None:
    """A label file with these variables."""
    savemat(file, variables)
