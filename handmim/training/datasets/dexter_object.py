"""Dexter+Object: Sridhar et al., "Real-time Joint Tracking of a Hand Manipulating an Object from RGB-D Input", 2016.

Official layout: `data/<sequence>/color/` (640 x 480), `depth/`, `annotations/<sequence>3D.txt` and `<sequence>2D.txt`
for the six sequences Grasp1, Grasp2, Occlusion, Pinch, Rigid and Rotate, 3,014 frames; `calibration/`. For evaluation
only: **the five fingertips are all that is labelled**, the other joints are NaN.

Conventions. The data set's own description is short; these are what public readers that draw the labels on the colour
frames agree on (MengHao666/Minimal-Hand-pytorch, OlgaChernytska/3D-Hand-Pose-Estimation):

* A line of `<sequence>3D.txt` is a frame, in the order of the pictures' names: points "x, y, z" between semicolons;
  first the tips of thumb, index, middle, ring and little finger, then corners of the object. z = 32001 (the depth
  sensor's "nothing seen") is no label.
* Millimetres in the frame of the **depth** camera with x to the **left** and y **up**, z forward.
* Rotation and translation from the depth to the colour camera, and the colour camera's intrinsics, are those of the
  `calibration` folder; with them tips lie on the fingers in the colour frames. Distortion is not corrected.
* All hands are left ones.

Some official labels are plainly wrong. The first of those readers publishes corrected ones as `my_<sequence>3D.txt`:
`revised=True` takes these. The 2D files are not read: they are pixels of the depth frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from ...errors import DataError
from .files import folder_part, list_images, load_lines, names_in, require
from .label_checks import project_points
from .sample import HandReader, HandSample, Part

SEQUENCES = ("Grasp1", "Grasp2", "Occlusion", "Pinch", "Rigid", "Rotate")
FRAMES = 3014
TIPS = (4, 8, 12, 16, 20)  # places of the labelled points among the 21 joints
NO_DEPTH = 32001
FARTHEST = 2000  # millimetres
METRES_PER_MILLIMETRE = 1e-3
INTRINSICS = np.array([[587.45209, 0, 325], [0, 600.67456, 249], [0, 0, 1]])  # colour camera, pixels
DEPTH_TO_COLOUR = np.array([[0.9999, 0.0034, 0.0161], [-0.0033, 1.0, -0.0079], [-0.0162, 0.0079, 0.9998]])
DEPTH_TO_COLOUR_SHIFT = np.array([19.0473, -1.8514, -4.7501])  # millimetres
# Half the side of the box around the middle of the tips, metres: from there no wrist of a grown-up is farther.
REACH = 0.15


class DexterObject(HandReader):
    """Frames in which at least one fingertip is labelled.

    Args:
        root: Folder that holds `data`.
        split: "test", the only one.
        revised: Whether to take the corrected labels `my_<sequence>3D.txt`.

    Attributes:
        notes: What is not labelled, and how many frames were left out.
    """

    name: ClassVar[str] = "dexter-object"
    title: ClassVar[str] = "Dexter+Object"
    homepage: ClassVar[str] = "https://handtracker.mpi-inf.mpg.de/projects/RealtimeHO/dexter+object.htm"
    splits: ClassVar[tuple[str, ...]] = ("test",)

    def __init__(self, root: str | Path, split: str | None = None, revised: bool = False) -> None:
        super().__init__(root, split)
        self.images: list[Path] = []
        parts = [self._read(sequence, "my_" if revised else "") for sequence in SEQUENCES]
        tips = np.concatenate(parts)
        self.notes = ["only fingertips are labelled; boxes are squares of 0.3 m around them"]
        self._drop_impossible(tips)
        kept = np.flatnonzero(~np.isnan(tips).all((1, 2)))
        if len(kept) < len(tips):
            self.notes.append(f"{len(tips) - len(kept)} frames without a label were left out")
        if not len(kept):
            raise DataError(f"{self.root} holds no labelled fingertip")
        self.images = [self.images[row] for row in kept]
        self.joints = np.full((len(kept), 21, 3), np.nan, np.float32)
        self.joints[:, TIPS] = to_colour_camera(tips[kept])
        self.keypoints = project_points(self.joints, INTRINSICS)

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        endings = (".bmp", ".png", ".jpg")
        parts = [folder_part(root, "data/*/color", "colour frames", FRAMES, endings)]
        for revised in (False, True):
            names = [f"{'my_' * revised}{sequence}3D.txt" for sequence in SEQUENCES]
            folders = [names_in(root / "data" / sequence / "annotations") for sequence in SEQUENCES]
            found = sum(name in folder for name, folder in zip(names, folders, strict=True))
            what = "corrected fingertips, of third parties" if revised else "fingertips"
            path = f"data/*/annotations/{'my_' * revised}*3D.txt"
            parts.append(Part(path, what, found, len(SEQUENCES), not revised))
        return parts

    def _read(self, sequence: str, prefix: str) -> np.ndarray:
        """(N, 5, 3) float64 tips of a sequence as they are written, millimetres; NaN without a label."""
        folder = self.root / "data" / sequence
        file = require(folder / "annotations" / f"{prefix}{sequence}3D.txt", f"fingertips, from {self.homepage}")
        images = list_images(folder / "color", "colour frames")
        lines = load_lines(file)
        if len(images) != len(lines):
            raise DataError(f"{file} has {len(lines)} lines, but {folder / 'color'} has {len(images)} frames")
        tips = np.array([parse_line(line, f"{file} line {number}") for number, line in enumerate(lines, 1)])
        tips = tips.reshape(len(lines), 5, 3)
        tips[tips[..., 2] == NO_DEPTH] = np.nan
        self.images += images
        return tips

    def _drop_impossible(self, tips: np.ndarray) -> None:
        """Forget tips (N, 5, 3) that no camera before a desk can have seen; the data set is known to have some."""
        depth = tips[..., 2]
        bad = (depth <= 0) | (depth > FARTHEST)
        tips[bad] = np.nan
        if bad.any():
            self.notes.append(f"{int(bad.sum())} labels with a depth of 0 or less, or above 2 m, were left out")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        image = self.images[row]
        return HandSample(
            id=f"{image.parent.parent.name}/{image.stem}",
            image=image,
            handedness="left",
            box=_box(self.joints[row]),
            intrinsics=INTRINSICS.astype(np.float32),
            labels={"joints": self.joints[row], "keypoints_2d": self.keypoints[row]},
        )


def parse_line(line: str, where: str) -> list[list[float]]:
    """The five fingertips of a frame: 5 x [x, y, z].

    Raises:
        DataError: There are fewer points, or something is no number; `where` names the line.
    """
    points = [point.split(",") for point in line.split(";")[:5]]
    try:
        values = [[float(value) for value in point] for point in points]
    except ValueError as error:
        raise DataError(f"{where} must hold numbers 'x, y, z' between semicolons: {error}") from error
    if len(values) != 5 or any(len(point) != 3 or not np.isfinite(point).all() for point in values):
        raise DataError(f"{where} must hold five points 'x, y, z' between semicolons, got {line[:80]!r}")
    return values


def to_colour_camera(points: np.ndarray) -> np.ndarray:
    """Points (..., 3) as they are written -> float32 metres in the colour camera's frame."""
    upright = points * np.array([-1, -1, 1])
    return ((upright @ DEPTH_TO_COLOUR.T + DEPTH_TO_COLOUR_SHIFT) * METRES_PER_MILLIMETRE).astype(np.float32)


def _box(joints: np.ndarray) -> np.ndarray:
    """(4,) float32 xyxy: a square that holds the hand whose tips are among the joints (21, 3)."""
    middle = np.nanmean(joints, 0)
    corners = middle + np.array([[-REACH, -REACH, 0], [REACH, REACH, 0]])
    return project_points(corners, INTRINSICS).reshape(4)
