"""HIU-Data: Zhang et al., "Hand Image Understanding via Deep Multi-Task Learning" (HIU-DMTL), ICCV 2021.

33,000 pictures with manual 2D keypoints and masks. The authors give the (encrypted) archive `hiu_dmtl_data.zip` on
request (github.com/MandyMo/HIU-DMTL); its format is described nowhere as a whole. What follows is put together from the
authors' answers (issues 3 and 4 there) and from public readers that draw or train on it; nothing else is read.

Layout: a folder (`to_cv_community` in the archive) with, for each picture, `<name>.jpg` or `.png`, `<name>.json` and
`<name>_mask.png` or `_mask.jpg`. A JSON file holds

* `pts2d_2hand`: 42 x [x, y] pixels, two hands of 21 points. In each the wrist, then thumb, index, middle, ring and
  little finger from palm to tip, the package's own order. Points that are not labelled are filled with [2, -0.67] or
  other values with x = 2; so a point with x = 2 exactly is taken as missing.
* `hand_type`: [a, b], whether the first and the second hand are in the picture; `hand_type_valid`: [a, b], whether that
  is annotated.
* `pts3d_2hand`, `pts3d_w_2hand`: joints of some pictures in a unit and frame that the authors have not told (issue 4).
  They are not read.

**Which half is the right hand is not certain**: the authors write "right hand and left hand", in this order, while
issue 4 shows right hands in both halves. `first` chooses; where sides matter, look at a contact sheet, or take
`first="unknown"`: then no side is given. The mask is of all hands of a picture: where two are labelled, samples have no
mask.

There is no official split. "train" and "test" here are nine tenths and one tenth of the pictures, by the CRC-32 of
their names: fixed, but this package's own.
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError
from .files import load_json, names_in, read_mask
from .label_checks import check_finite
from .record_fields import RowBuffer, numbers
from .sample import HandReader, HandSample, Part

COUNT = 33000
MAX_LABEL_BYTES = 2**20
FOLDERS = (".", "to_cv_community", "hiu_dmtl_data/to_cv_community", "hiu_dmtl_data")
PICTURES = (".jpg", ".png")
MISSING_X = 2.0
FIRST = {"right": ("right", "left"), "left": ("left", "right"), "unknown": (None, None)}


class HIUData(HandReader):
    """One hand a sample: pictures with two labelled hands give two.

    Args:
        root: Folder of the files, or the unpacked archive.
        split: "all", or this package's "train" and "test".
        first: Which hand the first half of the points is: "right", "left" or "unknown".

    Attributes:
        notes: What was left out or assumed.
    """

    name: ClassVar[str] = "hiu-data"
    title: ClassVar[str] = "HIU-Data (HIU-DMTL)"
    homepage: ClassVar[str] = "https://github.com/MandyMo/HIU-DMTL"
    splits: ClassVar[tuple[str, ...]] = ("all", "train", "test")

    def __init__(self, root: str | Path, split: str | None = None, first: str = "right") -> None:
        super().__init__(root, split)
        if first not in FIRST:
            raise DataError(f"first must be one of {', '.join(FIRST)}, got {first!r}")
        self.notes = [f"the first half of the points is taken for the {first} hand, which is not certain"]
        if first == "unknown":
            self.notes = ["which hand is shown is not said"]
        self.first = first
        self.folder = self.root / _folder(self.root)
        names = names_in(self.folder)
        self.files = [name for name in sorted(names) if name.endswith(".json") and _in_split(name, self.split)]
        if not self.files:
            raise DataError(f"{self.folder} has no label file (<name>.json) of split {self.split}")
        self.images, self.masks = ([_partner(name, kind, names) for name in self.files] for kind in ("", "_mask"))
        for name, image in zip(self.files, self.images, strict=True):
            if not image:
                raise DataError(f"{self.folder / name} has labels, but its picture {name[:-5]}.jpg (.png) is missing")
        self._read()

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        folder = _folder(root)
        names = names_in(root / folder)
        labels = [name for name in names if name.endswith(".json")]
        found = [sum(bool(_partner(name, kind, names)) for name in labels) for kind in ("", "_mask")]
        where = "" if folder == "." else f"{folder}/"
        return [
            Part(f"{where}*.json", "labels", len(labels), None),
            Part(f"{where}*.jpg, *.png", "pictures of labels", found[0], max(1, len(labels))),
            Part(f"{where}*_mask.png, *_mask.jpg", "masks of labels", found[1], max(1, len(labels)), False),
        ]

    def _read(self) -> None:
        """All label files into columns: file, half and points of each hand."""
        points = RowBuffer((21, 2))
        rows: list[tuple[int, int, bool]] = []
        empty = 0
        for number, name in enumerate(self.files):
            where = str(self.folder / name)
            hands = parse_record(load_json(self.folder / name, MAX_LABEL_BYTES), where)
            empty += not hands
            for half, keypoints, known in hands:
                rows.append((number, half, known))
                points.append(keypoints)
        if not rows:
            raise DataError(f"{self.folder} has no labelled hand")
        if empty:
            self.notes.append(f"{empty} pictures without a labelled hand were left out")
        self.rows = np.array(rows, np.int32)
        self.keypoints = points.array()
        self.hands_in = np.bincount(self.rows[:, 0], minlength=len(self.files))
        check_finite(np.nan_to_num(self.keypoints), self.folder, "pts2d_2hand", self._id, 1e5)

    def _id(self, row: int) -> str:
        number, half, _ = self.rows[row]
        return f"{self.files[number][:-5]}-{half + 1}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        number, half, known = self.rows[row]
        mask = self.masks[number] if self.hands_in[number] == 1 else ""
        return HandSample(
            id=self._id(row),
            image=self.folder / self.images[number],
            handedness=FIRST[self.first][half] if known else None,
            labels={"keypoints_2d": self.keypoints[row]},
            load_mask=partial(read_mask, self.folder / mask) if mask else None,
        )


def parse_record(record: Any, where: str) -> list[tuple[int, np.ndarray, bool]]:
    """The hands of a label file.

    Args:
        record: Its contents.
        where: Its name, for messages.

    Returns:
        Of each hand that is there: half (0 or 1), (21, 2) float32 pixels with NaN where not labelled, and whether it is
        annotated which hand it is.

    Raises:
        DataError: A field is missing or has another form.
    """
    points = numbers(record, "pts2d_2hand", (42, 2), where).reshape(2, 21, 2)
    present, known = numbers(record, "hand_type", (2,), where) != 0, np.ones(2, bool)
    if "hand_type_valid" in record:
        # Where it is not annotated which hand it is, the points themselves say which half is used.
        known = numbers(record, "hand_type_valid", (2,), where) != 0
    points[points[..., 0] == MISSING_X] = np.nan
    labelled = ~np.isnan(points).any(-1)
    found = (present | ~known) & labelled.any(1)
    return [(half, points[half], bool(known[half])) for half in range(2) if found[half]]


def _folder(root: Path) -> str:
    """Where below the root the label files lie; "." if nowhere."""
    return next((name for name in FOLDERS if names_in(root / name, ".json")), ".")


def _partner(name: str, kind: str, names: set[str]) -> str:
    """The picture or mask of a label file; "" if there is none."""
    stem = name[:-5] + kind
    return next((stem + suffix for suffix in PICTURES if stem + suffix in names), "")


def _in_split(name: str, split: str) -> bool:
    """Whether a label file belongs to a split."""
    return split == "all" or (zlib.crc32(name[:-5].encode()) % 10 == 0) == (split == "test")
