"""COCO-WholeBody: Jin et al., "Whole-Body Human Pose Estimation in the Wild", ECCV 2020; its hands.

Official files: `coco_wholebody_train_v1.0.json` and `coco_wholebody_val_v1.0.json`, in the root or in `annotations/`,
and COCO 2017's pictures in `train2017/` and `val2017/`, in the root or in `images/`.

Conventions, from the authors' `data_format.md` and example file (github.com/jin-s13/COCO-WholeBody):

* of each person `lefthand_kpts` and `righthand_kpts`, 21 times x, y, v; `lefthand_box` x, y, width, height;
  `lefthand_valid`: whether the hand could be annotated. Of an invalid hand everything is zero.
* Order: wrist, then thumb, index, middle, ring, little finger from palm to tip: the package's. Left and right are the
  person's.
* Pixels are counted from 0; whether from the first one's centre or corner is not said: they are taken as they are.
* v is 0 where a point is not labelled. Otherwise it says nothing about visibility: in the example file it is 1 for
  points set by hand and a number between 0 and 1 for points from a network, so `min_confidence` can leave those out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError
from .boxes import keypoint_box
from .files import file_part, folder_part, inside, names_in, require, require_folder
from .json_records import json_records
from .record_fields import add_once, numbers, text, whole_number
from .sample import HandReader, HandSample, Part

IMAGES = {"train": 118287, "val": 5000}
SIDES = ("left", "right")
# Single hands outside their picture are left out; more than this share is a wrong file, not a slip.
MAX_OUTSIDE_SHARE = 0.01


class CocoWholeBody(HandReader):
    """Every hand that is valid and has labelled points, with 2D keypoints.

    Args:
        root: Folder of pictures and annotations.
        split: "train" or "val".
        min_confidence: Points whose v is not above it are left out.

    Attributes:
        notes: How many hands and points were left out, and why.
    """

    name: ClassVar[str] = "coco-wholebody"
    title: ClassVar[str] = "COCO-WholeBody hands"
    homepage: ClassVar[str] = "https://github.com/jin-s13/COCO-WholeBody"
    splits: ClassVar[tuple[str, ...]] = ("train", "val")

    def __init__(self, root: str | Path, split: str | None = None, min_confidence: float = 0.0) -> None:
        super().__init__(root, split)
        self.notes: list[str] = []
        file_name = f"coco_wholebody_{self.split}_v1.0.json"
        places = [self.root / "annotations" / file_name, self.root / file_name]
        self.file = require(next((p for p in places if p.is_file()), places[0]), "download it from the homepage")
        folders = [self.root / f"{self.split}2017", self.root / "images" / f"{self.split}2017"]
        found = next((folder for folder in folders if folder.is_dir()), folders[0])
        self.folder = require_folder(found, "unpack COCO 2017's pictures")
        pictures = self._read(min_confidence)
        self._find_pictures(pictures)
        self._leave_out_outside()

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        parts = []
        for split, expected in IMAGES.items():
            file = f"coco_wholebody_{split}_v1.0.json"
            folder = f"{split}2017"
            below = "" if (root / file).is_file() else "annotations/"
            parts.append(file_part(root, below + file, f"labels of {split}"))
            below = "images/" if (root / "images" / folder).is_dir() else ""
            parts.append(folder_part(root, below + folder, f"pictures of {split}", expected, ".jpg"))
        return parts

    def _read(self, min_confidence: float) -> dict[int, tuple[str, int, int]]:
        """The columns; returns name, width and height of all pictures by their number."""
        pictures: dict[int, tuple[str, int, int]] = {}
        points: list[np.ndarray] = []
        boxes: list[np.ndarray] = []
        origin: list[tuple[int, int, int]] = []  # annotation, picture, side
        for key, number, record in json_records(self.file, ("images", "annotations")):
            where = f"{self.file}: {key}[{number}]"
            if key == "images":
                size = (whole_number(record, "width", where), whole_number(record, "height", where))
                add_once(pictures, whole_number(record, "id", where), (text(record, "file_name", where), *size), where)
                continue
            where = f"{self.file}: annotation {record.get('id', f'number {number}')}"
            for side, name in enumerate(SIDES):
                if not _valid(record, name, where):
                    continue
                points.append(numbers(record, f"{name}hand_kpts", (63,), where).reshape(21, 3))
                boxes.append(numbers(record, f"{name}hand_box", (4,), where))
                origin.append((whole_number(record, "id", where), whole_number(record, "image_id", where), side))
        if not points:
            raise DataError(f"{self.file} holds no valid hand")
        labelled = np.stack(points)
        self.keypoints = np.where(labelled[..., 2:] > min_confidence, labelled[..., :2], np.float32(np.nan))
        self.boxes = np.stack(boxes)
        self.origin = np.array(origin, np.int64)
        return pictures

    def _find_pictures(self, pictures: dict[int, tuple[str, int, int]]) -> None:
        """Names and sizes of the hands' pictures; each is there."""
        used = sorted(set(self.origin[:, 1].tolist()))
        unknown = [number for number in used if number not in pictures]
        if unknown:
            row = int((self.origin[:, 1] == unknown[0]).argmax())
            raise DataError(f"{self.file}: annotation {self._id(row)}: there is no image_id {unknown[0]} in images")
        self.names = [pictures[number][0] for number in used]
        self.picture = np.searchsorted(used, self.origin[:, 1])
        self.sizes = np.array([pictures[number][1:] for number in used], np.float32)[self.picture]
        present = names_in(self.folder, ".jpg")
        missing = []
        for name in self.names:
            if name not in present and not inside(self.folder, name, str(self.file)).is_file():
                missing.append(name)
        if missing:
            raise DataError(
                f"{self.folder / missing[0]} is missing ({len(missing)} of {len(used)} pictures with hands are)"
            )

    def _leave_out_outside(self) -> None:
        """Points that are not in the picture become NaN, hands without points go."""
        labelled = ~np.isnan(self.keypoints[..., 0])
        outside = labelled & ((self.keypoints < -0.5) | (self.keypoints > self.sizes[:, None] - 0.5)).any(-1)
        lost = np.flatnonzero(labelled.any(1) & (outside == labelled).all(1))
        if len(lost) > MAX_OUTSIDE_SHARE * len(labelled):
            row, name = int(lost[0]), SIDES[self.origin[lost[0], 2]]
            width, height = self.sizes[row]
            raise DataError(
                f"{self.file}: annotation {self._id(row)}: {name}hand_kpts lie outside the picture of {width:.0f} x "
                f"{height:.0f} pixels, as those of {len(lost)} of {len(labelled)} hands do"
            )
        self.keypoints[outside] = np.nan
        # One point alone has no extent either: without an official box nobody could say how large the hand is.
        missing = np.isnan(self.keypoints)
        low, high = (np.where(missing, fill, self.keypoints) for fill in (np.inf, -np.inf))
        kept = ~missing.all((1, 2)) & ((high.max(1) > low.min(1)).any(1) | (self.boxes[:, 2:] > 0).all(1))
        if outside.any():
            self.notes.append(f"{int(outside.sum())} keypoints outside their picture were left out")
        if not kept.all():
            self.notes.append(f"{int((~kept).sum())} valid hands without labelled keypoints were left out")
        for column in ("keypoints", "boxes", "origin", "picture"):
            setattr(self, column, getattr(self, column)[kept])
        if not kept.any():
            raise DataError(f"{self.file} has no hand with labelled keypoints in its picture")

    def _id(self, row: int) -> str:
        return f"{self.origin[row, 0]}-{SIDES[self.origin[row, 2]]}"

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        return HandSample(
            id=self._id(row),
            image=inside(self.folder, self.names[self.picture[row]], str(self.file)),
            handedness="right" if self.origin[row, 2] else "left",
            box=hand_box(self.boxes[row], self.keypoints[row]),
            labels={"keypoints_2d": self.keypoints[row]},
        )


def _valid(record: dict[str, Any], side: str, where: str) -> bool:
    valid = record.get(f"{side}hand_valid")
    if not isinstance(valid, bool):
        raise DataError(f"{where}: {side}hand_valid must be true or false, got {valid!r:.60}")
    return valid


def hand_box(official: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """(4,) xyxy pixels: the smallest box around the official one and the keypoints' with their margin; NaN if both have
    no extent.

    Official boxes (x, y, width, height) hold the joints, some without any flesh around them.
    """
    box = keypoint_box(keypoints)
    if (official[2:] > 0).all():
        box[:2] = np.fmin(box[:2], official[:2])  # where all keypoints are one point, they have no box
        box[2:] = np.fmax(box[2:], official[:2] + official[2:])
    return box
