"""The real-world test set of Ge et al. in miniature."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from .cameras import seen_by
from .scenes import Scene

FRAME = np.array([[1150.0, 0, 640.0], [0, 1152.0, 360.0], [0, 0, 1]])  # of the whole frames
CROP = 256


def write(root: Path, scenes: Sequence[Scene]) -> list[Scene]:
    """Write crops around the hands.

    Returns:
        What each whole frame shows.
    """
    (root / "images").mkdir(parents=True)
    frames, boxes = [], []
    for number, scene in enumerate(scenes):
        frame = seen_by(scene, FRAME, (1280, 720))
        corner, side = np.floor(frame.box[:2] - 20), np.ceil(max(frame.box[2:] - frame.box[:2]) + 40)
        x, y = corner
        crop = Image.fromarray(frame.image).crop((int(x), int(y), int(x + side), int(y + side)))
        crop.resize((CROP, CROP), Image.Resampling.BILINEAR).save(root / "images" / f"{number:05d}.jpg", quality=95)
        frames.append(frame)
        boxes.append([x, y, side, side])
    cameras = np.tile([FRAME[0, 0], FRAME[1, 1], FRAME[0, 2], FRAME[1, 2]], (len(scenes), 1))
    joints = np.stack([frame.joints * 100 for frame in frames]).astype(np.float64)
    paths = np.array([f"images/{number:05d}.jpg" for number in range(len(scenes))])
    write_params(root, image_path=paths, cam_param=cameras, bbox=np.array(boxes), pose_root=joints[:, 9])
    savemat(root / "pose_gt.mat", {"pose_gt": joints})
    return frames


def write_params(root: Path, **variables: np.ndarray) -> None:
    """`params.mat` with these variables."""
    savemat(root / "params.mat", variables)
