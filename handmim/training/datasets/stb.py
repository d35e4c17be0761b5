"""Stereo Tracking Benchmark (STB): Zhang et al., "A Hand Pose Tracking Benchmark from Stereo Matching", ICIP 2017.

Official layout: `images/B1Counting` to `images/B6Random` (two sequences before each of six backgrounds) with
`SK_color_<n>.png`, `SK_depth_<n>.png`, `BB_left_<n>.png`, `BB_right_<n>.png`, n from 0; `labels/<sequence>_SK.mat` and
`labels/<sequence>_BB.mat` with `handPara`, 3 x 21 x 1500. All pictures are 640 x 480 and show one left hand.

Conventions, from the authors' README (github.com/zhjwustc/icip17_stereo_hand_pose_dataset), where cameras are listed:

* millimetres, x right, y down, z forward; of `_BB` in the frame of the left stereo camera, of `_SK` in that of the
  **depth** camera, from which rotation and translation of the README lead to the colour camera, inverted: they map
  colour to depth. The right stereo camera is one base line to the right of the left one.
* Order: centre of the palm, then little, ring, middle, index finger and thumb, each from palm to tip.
* **The palm is no wrist.** Both published evaluations on STB with wrists (Zimmermann & Brox 2017,
  github.com/lmb-freiburg/hand3d; Ge et al. 2019) extrapolate: wrist = ring_mcp + 2 (palm - ring_mcp). It lies where a
  wrist is, but no one has measured it; `wrist="missing"` leaves it out.
* Split: B1 is for testing, B2 to B6 are for training, as in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...errors import DataError
from .files import load_mat, names_in, require_folder
from .label_checks import check_depth, check_finite, check_in_frame, project_points
from .sample import HandReader, HandSample, Part

SIZE = (640, 480)
FRAMES = 1500
# Row i: the official place of the package's joint i; place 0 is the palm.
ORDER = (0, *(start + place for start in (17, 13, 9, 5, 1) for place in range(4)))
RING_MCP = 13
SEQUENCES = {
    "train": tuple(f"B{number}{kind}" for number in range(2, 7) for kind in ("Counting", "Random")),
    "test": ("B1Counting", "B1Random"),
}
METRES_PER_MILLIMETRE = 1e-3
BASE_LINE = 120.054  # millimetres
_BB = ((822.79041, 0, 318.47345), (0, 822.79041, 250.31296), (0, 0, 1))
_SK = ((607.92271, 0, 314.78337), (0, 607.88192, 236.42484), (0, 0, 1))
INTRINSICS = {name: np.array(_SK if name == "SK_color" else _BB) for name in ("SK_color", "BB_left", "BB_right")}
COLOUR_TO_DEPTH_VECTOR = (0.00531, -0.01196, 0.00301)  # axis-angle, radians
COLOUR_TO_DEPTH_SHIFT = (-24.0381, -0.4563, -1.2326)  # millimetres


class STB(HandReader):
    """One left hand in each frame of each chosen camera.

    Args:
        root: Folder that holds `images` and `labels`.
        split: "train" or "test".
        cameras: Any of "SK_color", "BB_left" and "BB_right", one or several.
        wrist: "extrapolated" from palm and ring finger (see above), or "missing": NaN.
    """

    name: ClassVar[str] = "stb"
    title: ClassVar[str] = "Stereo Tracking Benchmark"
    homepage: ClassVar[str] = "https://github.com/zhjwustc/icip17_stereo_hand_pose_dataset"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        cameras: str | Sequence[str] = "SK_color",
        wrist: str = "extrapolated",
    ) -> None:
        super().__init__(root, split)
        self.cameras = (cameras,) if isinstance(cameras, str) else tuple(cameras)
        if not self.cameras or set(self.cameras) - set(INTRINSICS):
            raise DataError(f"cameras must be of {', '.join(INTRINSICS)}, got {cameras!r}")
        if wrist not in ("extrapolated", "missing"):
            raise DataError(f"wrist must be 'extrapolated' or 'missing', got {wrist!r}")
        lies = "is extrapolated from palm and ring finger" if wrist == "extrapolated" else "is left out"
        self.notes = [f"STB labels the centre of the palm, not the wrist: the wrist {lies}"]
        self.clips = [(sequence, camera) for sequence in SEQUENCES[self.split] for camera in self.cameras]
        parts = [self._read(sequence, camera, wrist) for sequence, camera in self.clips]
        self.starts = np.cumsum([0, *(len(joints) for joints, _ in parts)])
        self.joints, self.keypoints = (np.concatenate(column) for column in zip(*parts, strict=True))

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        sequences = [sequence for split in SEQUENCES.values() for sequence in split]
        parts = []
        for camera in INTRINSICS:
            optional = camera != "SK_color"
            labels = {f"{sequence}_{camera[:2]}.mat" for sequence in sequences} & names_in(root / "labels", ".mat")
            pictures = [names_in(root / "images" / sequence, ".png") for sequence in sequences]
            found = sum(name.startswith(f"{camera}_") for names in pictures for name in names)
            parts += [
                Part(f"labels/*_{camera[:2]}.mat", f"labels of {camera}", len(labels), len(sequences), not optional),
                Part(f"images/*/{camera}_*.png", f"frames of {camera}", found, FRAMES * len(sequences), not optional),
            ]
        return parts

    def _read(self, sequence: str, camera: str, wrist: str) -> tuple[np.ndarray, np.ndarray]:
        """Joints (N, 21, 3) in the frame of a camera, metres, and keypoints (N, 21, 2) of a sequence."""
        file = self.root / "labels" / f"{sequence}_{camera[:2]}.mat"
        points = load_mat(file, ["handPara"])["handPara"]
        if points.ndim != 3 or points.shape[:2] != (3, 21) or not points.shape[2]:
            raise DataError(f"{file}: handPara must have shape (3, 21, frames), got {points.shape}")
        self._check_pictures(sequence, camera, points.shape[2])

        def name(row: int) -> str:
            return f"{sequence}/{camera}_{row}"

        points = points.transpose(2, 1, 0)[:, list(ORDER)].astype(np.float64)
        check_finite(points, file, "handPara", name)
        joints = (to_camera(points, camera) * METRES_PER_MILLIMETRE).astype(np.float32)
        joints[:, 0] = extrapolated_wrist(joints)
        check_depth(joints, file, "handPara", name)
        keypoints = project_points(joints, INTRINSICS[camera])
        check_in_frame(keypoints, SIZE, file, "handPara", name)
        if wrist == "missing":
            joints[:, 0], keypoints[:, 0] = np.nan, np.nan
        return joints, keypoints

    def _check_pictures(self, sequence: str, camera: str, count: int) -> None:
        folder = require_folder(self.root / "images" / sequence, "unpack the sequence's pictures")
        present = names_in(folder, ".png")
        missing = [number for number in range(count) if f"{camera}_{number}.png" not in present]
        if missing:
            first = folder / f"{camera}_{missing[0]}.png"
            raise DataError(f"{first} is missing ({len(missing)} of {count} frames of this camera are)")

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        clip = int(np.searchsorted(self.starts, row, side="right")) - 1
        sequence, camera = self.clips[clip]
        frame = f"{camera}_{row - self.starts[clip]}"
        return HandSample(
            id=f"{sequence}/{frame}",
            image=self.root / "images" / sequence / f"{frame}.png",
            handedness="left",
            intrinsics=INTRINSICS[camera].astype(np.float32),
            labels={"joints": self.joints[row], "keypoints_2d": self.keypoints[row]},
        )


def to_camera(points: np.ndarray, camera: str) -> np.ndarray:
    """Labelled points (..., 3), millimetres, of `_SK` or `_BB`, in the frame of a camera."""
    if camera == "SK_color":
        return (points - COLOUR_TO_DEPTH_SHIFT) @ colour_to_depth_rotation()
    return points - np.array([BASE_LINE, 0, 0]) * (camera == "BB_right")


def colour_to_depth_rotation() -> np.ndarray:
    """(3, 3) float64: depth = rotation @ colour + shift."""
    import torch

    from ...geometry import axis_angle_to_matrix

    return axis_angle_to_matrix(torch.tensor(COLOUR_TO_DEPTH_VECTOR, dtype=torch.float64)).numpy()


def extrapolated_wrist(joints: np.ndarray) -> np.ndarray:
    """(..., 3) wrists of (..., 21, 3) in the package's order with the palm in the wrist's place."""
    ring = joints[..., RING_MCP, :]
    return ring + 2 * (joints[..., 0, :] - ring)
