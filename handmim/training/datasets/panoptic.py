"""CMU Panoptic hands: Simon et al., "Hand Keypoint Detection in Single Images using Multiview Bootstrapping", 2017.

The three sets of the data set's page, each unpacked beside the others (a missing one is no fault of the others):

* `hand_labels/manual_train/` and `manual_test/`: photos of MPII and NZSL, labelled by hand. For each hand `<name>.jpg`
  (a picture with two hands is there twice) and `<name>.json`: `hand_pts` 21 x [x, y, labelled], `is_left` 0 or 1,
  `hand_box_center`, and more that is not needed here.
* `hand_labels_synth/synth1/` to `synth4/`: rendered pictures, same files.
* `hand143_panopticdb/`: frames of the dome whose keypoints were triangulated; `hands_v143_14817.json` holds a list
  `root` of `img_paths`, `joint_self` 21 x [x, y, labelled], `img_width`, `img_height`. It does not say which hand.

Conventions, as public readers take them (open-mmlab/mmpose, MengHao666/Minimal-Hand-pytorch): wrist, then thumb, index,
middle, ring and little finger, each from palm to tip, the package's own order; pixels of the picture; points whose
third number is not 1 are not labelled. Occluded points of the manual sets are the annotators' guesses. Whether pixels
are counted from 0 or 1 is written nowhere: they are taken as they are. All labels are 2D.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError
from .files import file_part, folder_part, inside, load_json, names_in, require, require_folder
from .json_records import json_records
from .label_checks import check_finite
from .record_fields import RowBuffer, numbers, text
from .sample import HandReader, HandSample, Part

MAX_LABEL_BYTES = 2**20
MULTIVIEW_FILE = "hand143_panopticdb/hands_v143_14817.json"
FOLDERS = {
    "manual_train": {"hand_labels/manual_train": 1912},
    "manual_test": {"hand_labels/manual_test": 846},
    "synth": {f"hand_labels_synth/synth{k}": n for k, n in enumerate((6546, 3243, 2348, 2124), 1)},
}
MULTIVIEW_COUNT = 14817


class Panoptic(HandReader):
    """One hand a label.

    Args:
        root: Folder that holds `hand_labels`, `hand_labels_synth` or `hand143_panopticdb`.
        split: "manual_train" or "manual_test", the photos that papers report on; "synth"; "multiview", the dome.

    Attributes:
        notes: What was left out.
    """

    name: ClassVar[str] = "panoptic"
    title: ClassVar[str] = "CMU Panoptic hands"
    homepage: ClassVar[str] = "http://domedb.perception.cs.cmu.edu/handdb.html"
    splits: ClassVar[tuple[str, ...]] = ("manual_train", "manual_test", "synth", "multiview")

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        super().__init__(root, split)
        self.notes: list[str] = []
        self.images: list[str] = []
        sides: list[str | None] = []
        points = RowBuffer((21, 3))
        skipped = 0
        for image, record, side, where in self._multiview() if self.split == "multiview" else self._files():
            field = "joint_self" if self.split == "multiview" else "hand_pts"
            row = numbers(record, field, (21, 3), where)
            if not (row[:, 2] == 1).any():
                skipped += 1
                continue
            self.images.append(image)
            sides.append(side)
            points.append(row)
        if not self.images:
            raise DataError(f"split {self.split} of {self.root} holds no labelled hand")
        if skipped:
            self.notes.append(f"{skipped} hands without a labelled keypoint were left out")
        if self.split == "multiview":
            self.notes.append("the data set does not say which hands are left ones")
        rows = points.array()
        self.keypoints = np.where(rows[..., 2:] == 1, rows[..., :2], np.float32(np.nan))
        self.sides = sides
        check_finite(np.nan_to_num(self.keypoints), self.root, "keypoints", lambda i: self.images[i], 1e5)

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        parts = []
        for split, folders in FOLDERS.items():
            required = split != "synth"
            for folder, count in folders.items():
                parts.append(folder_part(root, folder, f"labels of {split} (.json)", count, ".json", required))
                parts.append(folder_part(root, folder, f"pictures of {split} (.jpg)", count, ".jpg", required))
        parts.append(file_part(root, MULTIVIEW_FILE, "labels of multiview", False))
        images = "hand143_panopticdb/imgs"
        return [*parts, folder_part(root, images, "pictures of multiview", MULTIVIEW_COUNT, ".jpg", False)]

    def _files(self) -> Iterator[tuple[str, Any, str | None, str]]:
        """Picture, record, side and name of each label of folders with a file a hand."""
        for folder in FOLDERS[self.split]:
            path = require_folder(self.root / folder, f"unpack {folder.split('/')[0]}.zip from {self.homepage}")
            pictures = names_in(path, ".jpg")
            for label in sorted(names_in(path, ".json")):
                where = str(path / label)
                image = f"{label.removesuffix('.json')}.jpg"
                if image not in pictures:
                    raise DataError(f"{path / image} is missing; its labels are in {label}")
                record = load_json(path / label, MAX_LABEL_BYTES)
                yield f"{folder}/{image}", record, _side(record, where), where

    def _multiview(self) -> Iterator[tuple[str, Any, str | None, str]]:
        file = require(self.root / MULTIVIEW_FILE, f"unpack hand143_panopticdb.tar from {self.homepage}")
        pictures = names_in(file.parent / "imgs", ".jpg")
        for _, number, record in json_records(file, ["root"]):
            where = f"{file}: root[{number}]"
            image = text(record, "img_paths", where)
            path = inside(file.parent, image, where)
            present = path.name in pictures if path.parent.name == "imgs" else path.is_file()
            if not present:
                raise DataError(f"{path} is missing; {where} names it")
            yield path.relative_to(self.root).as_posix(), record, None, where

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        image = self.images[row]
        return HandSample(
            id=image.removesuffix(".jpg"),
            image=self.root / image,
            handedness=self.sides[row],
            labels={"keypoints_2d": self.keypoints[row]},
        )


def _side(record: Any, where: str) -> str:
    """Which hand a record says it is."""
    value = record.get("is_left") if isinstance(record, dict) else None
    if value not in (0, 1):  # written as 0, 1, 0.0, 1.0, false or true
        raise DataError(f"{where}: is_left must be 0 or 1, got {value!r:.40}")
    return "left" if value else "right"
