"""Rendered Hand pose Dataset: Zimmermann & Brox 2017, "Learning to Estimate 3D Hand Pose from Single RGB Images".

Official layout, version 1.1 (`RHD_published_v2`): `training/` and `evaluation/`, each with `anno_<split>.pickle`,
`color/`, `mask/` and `depth/` of 320 x 320 PNGs named `00000.png`. The pickle maps a picture's number to
`uv_vis` (42, 3), `xyz` (42, 3) and `K` (3, 3).

Conventions, from the README of the data set and the authors' readers (github.com/lmb-freiburg/hand3d):

* 42 keypoints: left hand, then right; of each the wrist, then thumb, index, middle, ring, little **from tip to palm**.
* `xyz` in metres; it projects to `uv` by `K` alone, so it is in the camera's frame: x right, y down, z forward.
* Pictures are rendered with the principal point at half the width, so pixels are counted from the picture's corner;
  here the centre of the first pixel is (0, 0), half a pixel less.
* Mask values: 0 background, 1 person, 2 to 16 the left fingers, 17 the left palm, 18 to 32 and 33 the right ones.
* Wrists are labelled. (The authors' code can replace them by palm centres to compare with STB.)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError
from .boxes import keypoint_box
from .files import file_part, folder_part, load_pickle, names_in, read_image, require, require_numbered
from .label_checks import check_depth, check_in_frame, check_intrinsics, project_points
from .record_fields import numbers
from .sample import HandReader, HandSample, Part

PICTURE = 320
# Row i: the official place of the package's joint i. Fingers run from tip to palm there.
ORDER = (0, *(4 * finger + place for finger in range(5) for place in (4, 3, 2, 1)))
SIDES = ("left", "right")
MASK_VALUES = {"left": (2, 17), "right": (18, 33)}
EXPECTED = {"training": 41258, "evaluation": 2728}
# `uv_vis` and `xyz` are made of each other: farther apart, one is not what it is taken for.
MAX_PROJECTION_PIXELS = 5.0


class RHD(HandReader):
    """Both hands of every picture, each a sample of its own.

    Args:
        root: Folder that holds `training` and `evaluation`.
        split: "training" or "evaluation".
        hands: "all", or "dominant": of each picture the hand with more pixels in the mask, the protocol of the
            data set's authors, for which all masks are read once.
        min_visible: Hands with fewer visible keypoints are left out: most of them is outside the picture or hidden.
            (No published number; with 8 of 21 at least two fingers are seen.)

    Attributes:
        notes: How many hands were left out.
    """

    name: ClassVar[str] = "rhd"
    title: ClassVar[str] = "Rendered Hand pose Dataset"
    homepage: ClassVar[str] = (
        "https://lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html"
    )
    splits: ClassVar[tuple[str, ...]] = ("training", "evaluation")

    def __init__(self, root: str | Path, split: str | None = None, hands: str = "all", min_visible: int = 8) -> None:
        super().__init__(root, split)
        if hands not in ("all", "dominant"):
            raise DataError(f"hands must be 'all' or 'dominant', got {hands!r}")
        self.notes: list[str] = []
        self.folder = self.root / self.split
        self.file = self.folder / f"anno_{self.split}.pickle"
        annotations = _load(self.file)
        self._read(annotations)
        require_numbered(self.folder / "color", sorted(annotations), 5, ".png", f"a picture of {self.file.name}")
        self.masks = names_in(self.folder / "mask", ".png")
        self._select(hands, min_visible)
        self._check_labels()

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        parts = []
        for split, expected in EXPECTED.items():
            parts += [
                file_part(root, f"{split}/anno_{split}.pickle", f"labels of {split}"),
                folder_part(root, f"{split}/color", "pictures", expected, ".png"),
                folder_part(root, f"{split}/mask", "masks of both hands", expected, ".png", required=False),
            ]
        return parts

    def _read(self, annotations: dict[int, Any]) -> None:
        """The columns, two rows a picture: left, right."""
        count = len(annotations)
        self.numbers = np.array(sorted(annotations), np.int64).repeat(2)
        keypoints, joints = np.empty((count, 42, 3), np.float32), np.empty((count, 42, 3), np.float32)
        intrinsics = np.empty((count, 3, 3), np.float32)
        columns = {"uv_vis": keypoints, "xyz": joints, "K": intrinsics}
        for row, number in enumerate(sorted(annotations)):
            for field, column in columns.items():
                where = f"{self.file}: sample {number:05d}"
                column[row] = numbers(annotations[number], field, column.shape[1:], where)
        order = list(ORDER)
        per_hand = keypoints.reshape(2 * count, 21, 3)[:, order]
        self.keypoints = per_hand[..., :2] - np.float32(0.5)
        self.visibility = per_hand[..., 2] == 1
        self.joints = joints.reshape(2 * count, 21, 3)[:, order]
        intrinsics[:, :2, 2] -= np.float32(0.5)
        self.intrinsics = intrinsics.repeat(2, 0)
        self.right = np.tile([False, True], count)

    def _select(self, hands: str, min_visible: int) -> None:
        seen = self.visibility.sum(1) >= min_visible
        if not seen.all():
            few = int((~seen).sum())
            self.notes.append(f"{few} hands with fewer than {min_visible} visible keypoints were left out")
        if hands == "dominant":
            seen &= self._dominant()
        for column in ("numbers", "keypoints", "visibility", "joints", "intrinsics", "right"):
            setattr(self, column, getattr(self, column)[seen])
        if not len(self.numbers):
            raise DataError(f"{self.file} has no hand with {min_visible} visible keypoints")

    def _dominant(self) -> np.ndarray:
        """(N,) bool: hands with more pixels than the other one of their picture; the right one of two equal."""
        area = np.empty(len(self.numbers), np.int64)
        for row in range(0, len(area), 2):
            area[row : row + 2] = [self._mask(row + side)().sum() for side in range(2)]
        left = area[0::2] > area[1::2]
        return np.stack([left, ~left], 1).reshape(-1)

    def _check_labels(self) -> None:
        check_intrinsics(self.intrinsics, self.file, self._id)
        check_depth(self.joints, self.file, "xyz", self._id)
        seen = np.where(self.visibility[..., None], self.keypoints, np.nan)
        check_in_frame(seen, (PICTURE, PICTURE), self.file, "uv_vis", self._id)
        gap = np.linalg.norm(project_points(self.joints, self.intrinsics) - seen, axis=-1)
        row, joint = np.unravel_index(np.nanargmax(gap), gap.shape)
        if gap[row, joint] > MAX_PROJECTION_PIXELS:
            place = 21 * self.right[row] + ORDER[joint]
            raise DataError(
                f"{self.file}: xyz of sample {self._id(row)}: by K, keypoint {place} lies {gap[row, joint]:.1f} pixels "
                "from where uv_vis has it; xyz must be metres in the frame of the camera"
            )

    def _id(self, row: int) -> str:
        return f"{self.numbers[row]:05d}-{SIDES[int(self.right[row])]}"

    def _mask(self, row: int) -> partial[np.ndarray]:
        name = f"{self.numbers[row]:05d}.png"
        if name not in self.masks:
            raise DataError(f"{self.folder / 'mask' / name} is missing")
        return partial(read_hand_mask, self.folder / "mask" / name, SIDES[int(self.right[row])])

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        name = f"{self.numbers[row]:05d}.png"
        keypoints = self.keypoints[row]
        inside = ((keypoints > -0.5) & (keypoints < PICTURE - 0.5)).all(1, keepdims=True)
        return HandSample(
            id=self._id(row),
            image=self.folder / "color" / name,
            handedness="right" if self.right[row] else "left",
            # Of a hand that is half outside, the part in the picture.
            box=keypoint_box(np.where(inside, keypoints, np.nan)),
            intrinsics=self.intrinsics[row],
            labels={"joints": self.joints[row], "keypoints_2d": keypoints},
            load_mask=self._mask(row) if name in self.masks else None,
            visibility=self.visibility[row],
        )


def _load(file: Path) -> dict[int, Any]:
    require(file, "unpack RHD_v1-1.zip and give the folder RHD_published_v2")
    annotations = load_pickle(file)
    if not isinstance(annotations, dict) or not all(isinstance(key, int | np.integer) for key in annotations):
        raise DataError(f"{file} must hold a dict from picture numbers to labels, got {type(annotations).__name__}")
    if not annotations:
        raise DataError(f"{file} holds no samples")
    wrong = next((key for key in annotations if not 0 <= key < 10**9), None)
    if wrong is not None:
        raise DataError(f"{file} must hold numbers of pictures, got {wrong}, of which there is none")
    return annotations


def read_hand_mask(path: Path, side: str) -> np.ndarray:
    """(H, W) bool, the pixels of one hand.

    Args:
        path: Official mask of a picture.
        side: "left" or "right".

    Raises:
        DataError: The file cannot be read, or is a picture in colour.
    """
    pixels = read_image(path)
    if (pixels[..., 0] != pixels[..., 1]).any():
        raise DataError(f"{path} must hold class numbers as grey values, got a picture in colour")
    low, high = MASK_VALUES[side]
    return (pixels[..., 0] >= low) & (pixels[..., 0] <= high)
