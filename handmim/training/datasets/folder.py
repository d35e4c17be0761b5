"""One's own pictures and labels: a folder with a JSON lines file.

    mydata/
      labels.jsonl          one JSON object a line, one line a hand
      images/0001.jpg ...   pictures, anywhere below the folder

A line names a picture and gives any subset of labels; everything but `image` is optional, but something must be
labelled. Fields:

==============  =====================================================================================================
image           path of the picture, relative to the folder, with /
id              name of the hand in messages; unique; without it the path, and #2, #3 for further hands in a picture
handedness      "left" or "right": which hand it is, in the picture as it is (never mirrored)
box             [x0, y0, x1, y1] pixels, around the hand without the forearm; without it the hand is where its keypoints
                are, or its mask, or else it fills the picture
keypoints_2d    21 x [x, y] pixels; the centre of the top-left pixel is (0, 0). Of a point that is not labelled: null
visibility      21 x 0 or 1: whether a keypoint can be seen
joints          21 x [x, y, z] metres in the camera's frame: x right, y down, z forward. Of missing points: null
intrinsics      [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] pixels of the picture; joints project to keypoints by it, which
                need not be given then
hand_model      "mano" or "open": whose the next four are; the same in all lines
global_orient   [x, y, z] axis-angle, radians: rotation about the wrist from the model's frame to the camera's
hand_pose       15 x [x, y, z] axis-angle, radians, in the model's order of joints; zero is the flat hand: of MANO files
                fitted with flat_hand_mean=False, add the model's hands_mean
betas           10 numbers, standard deviations
vertices        all vertices x [x, y, z] metres in the camera's frame, or the path of a .npy file with them; training
                takes them relative to the wrist, the first of joints, which must then be labelled
mask            path of a picture of the same size: the hand's pixels are white (above 127), the others black
foreground      path of such a picture with the arm and what the hand holds besides: what stays where training shows
                the hand before another background (`new_backgrounds` in a recipe)
info            anything; it is not read
==============  =====================================================================================================

The 21 points are the wrist, then thumb, index, middle, ring and little finger, each from the palm to the tip. Labels of
a left hand are written as they are in its picture; training mirrors them. Pictures are taken as they are shown: a phone
photo that lies on its side by its EXIF block is turned first.

Example: two hands of one photo, one with all keypoints and a box, one with some of them, and a hand in 3D::

    {"image": "images/0001.jpg", "handedness": "right", "box": [310, 80, 520, 300],
     "keypoints_2d": [[330.5, 290], [352, 268.5], ...]}
    {"image": "images/0001.jpg", "handedness": "left", "keypoints_2d": [[101, 244], null, null, ...]}
    {"image": "images/0002.jpg", "handedness": "right", "intrinsics": [[615, 0, 320], [0, 615, 240], [0, 0, 1]],
     "joints": [[0.012, 0.034, 0.512], ...], "mask": "masks/0002.png"}

(each on one line). Other label files beside it are splits: `train.jsonl`, `val.jsonl`, `test.jsonl`, and parts of any,
such as `train-night.jsonl`. A script of ten lines makes the file from whatever one has::

    import json

    with open("mydata/labels.jsonl", "w") as file:
        for photo, points in my_annotations:                  # 21 x (x, y, seen)
            line = {"image": photo, "handedness": "right"}
            line["keypoints_2d"] = [[x, y] if seen else None for x, y, seen in points]
            file.write(json.dumps(line) + "\\n")

Then `handmim check-data mydata --images` finds what is wrong with it, by line and field, before a run does.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...errors import DataError
from ...images import IMAGE_SUFFIXES
from .files import file_part, inside, read_mask, require
from .folder_lines import FILE_FIELDS, HAND_MODEL_FIELDS, NO_LABEL, SPLITS, Line, label_files, read_lines
from .label_checks import project_points
from .sample import LABEL_SHAPES, MESH_VERTICES, HandReader, HandSample, Part

MAX_VERTICES_BYTES = 2**20
_PART_OF_SPLIT = re.compile(r"(labels|train|val|test)-\w+")
_ROTATIONS = ("global_orient", "hand_pose")
_ARRAYS = (*LABEL_SHAPES, "box", "intrinsics", "visibility")
_TEXTS = ("image", "handedness", "mask", "vertices", "foreground")


class LabelledFolder(HandReader):
    """Pictures and labels in the form described above. Values are for `check.check_reader`; forms are refused here.

    Args:
        root: Folder that holds the label file.
        split: Its name without `.jsonl`.
        unlabelled: Whether lines without labels are taken, for self-supervision.

    Attributes:
        hand_model: Of this folder; None without parameters and meshes.
        notes: What was assumed.

    Raises:
        DataError: The first line with a fault; names file, line and field.
    """

    name: ClassVar[str] = "folder"
    title: ClassVar[str] = "A folder of pictures and labels of one's own"
    homepage: ClassVar[str] = "see handmim/training/datasets/folder.py"
    splits: ClassVar[tuple[str, ...]] = SPLITS

    def __init__(self, root: str | Path, split: str | None = None, unlabelled: bool = False) -> None:
        super().__init__(root, split)
        self.unlabelled = unlabelled
        self.file = self.root / f"{self.split}.jsonl"
        self.hand_model = None
        self.notes: list[str] = []
        self._texts: list[tuple[str, ...]] = []  # id, and _TEXTS; "" is none
        self._columns = {name: _Column() for name in _ARRAYS}
        self._names: set[str] = set()
        self._found: dict[str, bool] = {}
        for line in read_lines(self.file):
            self._take(line)
        self._finish()

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        parts = [file_part(root, f"{name}.jsonl", f"labels of the split {name}", False) for name in cls.splits]
        if not any(part.found for part in parts):
            parts[0] = file_part(root, "labels.jsonl", "labels, one hand a line")
        found = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in root.rglob("*"))
        parts.append(Part("**/*", "pictures and masks in all folders", found, required=False))
        return parts

    @classmethod
    def has_split(cls, split: str) -> bool:
        return split in cls.splits or bool(_PART_OF_SPLIT.fullmatch(split))

    @classmethod
    def splits_in(cls, root: Path) -> list[str]:
        return label_files(root) or [cls.splits[0]]

    def _take(self, line: Line) -> None:
        """Keep a line."""
        for fault in line.faults:
            if fault.serious and not (self.unlabelled and fault.kind == NO_LABEL):
                self._refuse(line, fault.field, fault.message)
        texts = line.texts
        for name in FILE_FIELDS:
            if name in texts and not self._exists(texts[name], line, name):
                self._refuse(line, name, f"{texts[name][:200]!r} is missing in {self.root}")
        model = texts.get("hand_model")
        if model is not None and any(name in line.arrays or name in texts for name in HAND_MODEL_FIELDS):
            self.hand_model = self.hand_model or model
            if model != self.hand_model:
                self._refuse(line, "hand_model", f"is {model}, but lines before have {self.hand_model}")
        name = texts.get("id") or texts["image"]
        if "id" not in texts:
            count = 1
            while name in self._names:
                count += 1
                name = f"{texts['image']}#{count}"
        elif name in self._names:
            self._refuse(line, "id", f"{name[:80]!r} is the id of another line as well")
        self._names.add(name)
        for key in _ARRAYS:
            self._columns[key].add(line.arrays.get(key))
        self._texts.append((name, *(texts.get(key, "") for key in _TEXTS)))

    def _exists(self, relative: str, line: Line, name: str) -> bool:
        if relative not in self._found:
            try:
                self._found[relative] = inside(self.root, relative, f"line {line.number}").is_file()
            except DataError as error:
                self._refuse(line, name, str(error))
        return self._found[relative]

    def _refuse(self, line: Line, field: str, message: str) -> None:
        where = f"{self.file} line {line.number}" + (f", {field}:" if field else "")
        split = "" if self.split == self.splits[0] else f" --split {self.split}"
        raise DataError(f"{where} {message} (`handmim check-data {self.root}{split}` lists all faults)")

    def _finish(self) -> None:
        if not self._texts:
            raise DataError(f"{self.file} is empty; it holds one JSON object a line, one for each hand")
        self._names, self._found = set(), {}
        for column in self._columns.values():
            column.finish()
        for name in _ROTATIONS:
            column = self._columns[name]
            if column.values is not None:
                column.values = _matrices(column.values)
        self.has_foregrounds = any(texts[-1] for texts in self._texts)
        unknown = sum(not texts[2] for texts in self._texts)
        if unknown:
            self.notes.append(f"{unknown} hands have no handedness and are taken for right ones")

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        name, image, handedness, mask, vertices, foreground = self._texts[row]
        arrays = {key: value for key in _ARRAYS if (value := self._columns[key].get(row)) is not None}
        visibility = arrays.pop("visibility", None)
        box, intrinsics = arrays.pop("box", None), arrays.pop("intrinsics", None)
        if vertices:
            arrays["vertices"] = load_vertices(self.root / vertices, self.hand_model)
        if "keypoints_2d" not in arrays and "joints" in arrays and intrinsics is not None:
            arrays["keypoints_2d"] = project_points(arrays["joints"], intrinsics)
        return HandSample(
            id=name,
            image=self.root / image,
            handedness=handedness or None,
            box=box,
            intrinsics=intrinsics,
            labels=arrays,
            load_mask=partial(read_mask, self.root / mask) if mask else None,
            visibility=None if visibility is None else visibility > 0,
            load_foreground=partial(read_mask, self.root / foreground) if foreground else None,
        )


def _matrices(vectors: np.ndarray) -> np.ndarray:
    """(..., 3, 3) float32 rotation matrices of axis-angle vectors (..., 3)."""
    import torch  # keypoints are read without it

    from ...geometry import axis_angle_to_matrix

    parts = torch.from_numpy(vectors).split(8192)  # all at once, double precision takes far more than the result
    return torch.cat([axis_angle_to_matrix(part.double()).float() for part in parts]).numpy()


class _Column:
    """One field of all lines: the values there are, and for each line where its value stands."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.places: list[int] = []
        self.place = np.zeros(0, np.int32)
        self.values: np.ndarray | None = None

    def add(self, value: np.ndarray | None) -> None:
        self.places.append(-1 if value is None else len(self.rows))
        if value is not None:
            self.rows.append(value)

    def finish(self) -> None:
        self.place = np.array(self.places, np.int32)
        self.values = np.stack(self.rows) if self.rows else None
        self.rows, self.places = [], []

    def get(self, row: int) -> np.ndarray | None:
        place = self.place[row]
        return None if place < 0 or self.values is None else self.values[place]


def load_vertices(path: Path, hand_model: str | None) -> np.ndarray:
    """(V, 3) float32 vertices of a .npy file.

    Args:
        path: The file.
        hand_model: Whose they are.

    Raises:
        DataError: The file is missing, is no array, or has another number of vertices.
    """
    require(path, "vertices of a hand")
    try:
        if path.stat().st_size > MAX_VERTICES_BYTES:
            raise DataError(f"{path} is larger than {MAX_VERTICES_BYTES} bytes; it holds the vertices of one hand")
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is not an .npy array of numbers: {error}") from error
    count = MESH_VERTICES.get(hand_model or "")
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.shape != (count, 3):
        shape = getattr(values, "shape", type(values).__name__)
        raise DataError(f"{path} must hold {count} x 3 floating-point numbers, got {shape}")
    return values.astype(np.float32)
