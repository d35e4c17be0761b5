"""One line of a JSON lines label file: its fields, and everything that can be wrong with their form.

The format is described in `folder.py`. Nothing here opens a picture; values are looked at in `value_checks.py`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import DataError
from .sample import MESH_VERTICES

try:
    import simdjson

    _PARSER = simdjson.Parser()
except ImportError:
    _PARSER = None

MAX_LINE_BYTES = 2**23  # twenty times a mesh of 1649 vertices
SPLITS = ("labels", "train", "val", "test")  # label files, without .jsonl
SIDES = ("left", "right")
# Numbers, by their shape; a 0 is any length. Points may be null where they are not labelled.
ARRAYS: dict[str, tuple[int, ...]] = {
    "box": (4,),
    "keypoints_2d": (21, 2),
    "joints": (21, 3),
    "vertices": (0, 3),
    "global_orient": (3,),
    "hand_pose": (15, 3),
    "betas": (10,),
    "intrinsics": (3, 3),
    "visibility": (21,),
}
WITH_POINTS = ("keypoints_2d", "joints")
TEXTS = ("image", "id", "handedness", "hand_model", "mask", "foreground")
FILE_FIELDS = ("image", "mask", "foreground", "vertices")  # may name a file
FIELDS = (*TEXTS, *ARRAYS, "info")
NO_LABEL = "no label"  # kind of fault of a line that only self-supervision can use
LABELS = ("keypoints_2d", "joints", "vertices", "global_orient", "hand_pose", "betas")
HAND_MODEL_FIELDS = ("vertices", "global_orient", "hand_pose", "betas")
# Names that other formats have for our fields, where spelling alone would not tell.
_OTHER_NAMES = {
    **dict.fromkeys(("file_name", "filename", "img", "path", "image_path"), "image"),
    **dict.fromkeys(("bbox", "xyxy", "rect"), "box (x0, y0, x1, y1)"),
    **dict.fromkeys(("keypoints", "kp2d", "uv", "landmarks", "points", "keypoints2d"), "keypoints_2d"),
    **dict.fromkeys(("keypoints_3d", "joints_3d", "xyz", "kp3d", "points_3d"), "joints"),
    **dict.fromkeys(("K", "k", "camera", "cam", "calibration"), "intrinsics"),
    **dict.fromkeys(("side", "hand", "hand_side", "is_left", "is_right"), "handedness"),
    **dict.fromkeys(("verts", "mesh"), "vertices"),
    **dict.fromkeys(("pose", "theta", "mano_pose"), "hand_pose"),
    **dict.fromkeys(("shape", "beta"), "betas"),
    **dict.fromkeys(("orient", "rotation", "rot"), "global_orient"),
    **dict.fromkeys(("segmentation", "mask_path"), "mask"),
    **dict.fromkeys(("comment", "note", "notes", "meta", "metadata"), "info"),
}


class Fault(NamedTuple):
    """Something wrong with one field of a line; `kind` is a short name by which faults are counted."""

    kind: str
    field: str
    message: str
    serious: bool = True


@dataclass(eq=False)
class Line:
    """One hand as written: texts, and arrays of float32 (rotations as axis-angle), only fields that the line has.

    Attributes:
        number: Of the line, from 1.
        texts: `TEXTS` that are there; `vertices` as well, if it names a file.
        arrays: `ARRAYS` that are there. Points that are null are NaN.
        faults: What is wrong; fields named there are missing above.
    """

    number: int
    texts: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, kind: str, name: str, message: str, serious: bool = True) -> None:
        self.faults.append(Fault(kind, name, message, serious))


def label_files(folder: Path) -> list[str]:
    """Which of `SPLITS` a folder holds."""
    return [name for name in SPLITS if (folder / f"{name}.jsonl").is_file()]


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file, one at a time; blank ones are passed over.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while data := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(data) > MAX_LINE_BYTES:
                    raise DataError(f"{path} line {number} is longer than {MAX_LINE_BYTES} bytes; one hand a line")
                if data.strip(b" \t\r\n\xef\xbb\xbf"):
                    yield parse_line(data, number)
    except FileNotFoundError as error:
        others = " and ".join(label_files(path.parent))
        hint = f"there is the split {others}" if others else "it holds one JSON object a line, one for each hand"
        raise DataError(f"{path} is missing; {hint}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def parse_line(data: bytes, number: int) -> Line:
    """Take a line apart; never raises, whatever the line holds."""
    line = Line(number)
    try:
        record = _decode(data)
    except RecursionError:
        line.fault("not JSON", "", "is nested too deeply")
        return line
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        line.fault("not JSON", "", f"is not JSON ({error}); each line is one object, as {{'image': ...}}")
        return line
    return parse_record(record, number)


def parse_record(record: Any, number: int) -> Line:
    """As `parse_line`, of what JSON was read to."""
    line = Line(number)
    if not isinstance(record, dict):
        line.fault("not JSON", "", f"must hold an object, as {{'image': ...}}, got {_kind(record)}")
        return line
    for name, value in record.items():
        if value is not None:
            _take(line, name, value)
    _check_whole(line)
    return line


def _decode(data: bytes) -> Any:
    """Any JSON value; seven times faster with pysimdjson, which refuses NaN: the standard library says more of it."""
    if _PARSER is not None:
        try:
            return _PARSER.parse(data, recursive=True)
        except (ValueError, RuntimeError, UnicodeDecodeError):
            pass
    return json.loads(data.decode("utf-8-sig"))


def _take(line: Line, name: str, value: Any) -> None:
    """Check the form of one field and keep it."""
    if name == "vertices" and isinstance(value, str):
        line.texts[name] = value
    elif name in ARRAYS:
        array, message = _array(name, value)
        if array is not None and not np.isfinite(array).all() and _has_constant(value):
            array, message = None, "holds NaN or Infinity; write null for a point that is not labelled"
        if array is None:
            line.fault("form", name, message)
        else:
            line.arrays[name] = array
    elif name in TEXTS:
        if not isinstance(value, str) or not value:
            line.fault("form", name, f"must be text, got {_kind(value)}")
        elif name == "handedness" and value not in SIDES:
            line.fault("form", name, f"must be 'left' or 'right', got {value[:40]!r}")
        elif name == "hand_model" and value not in MESH_VERTICES:
            line.fault("form", name, f"must be one of {', '.join(sorted(MESH_VERTICES))}, got {value[:40]!r}")
        else:
            line.texts[name] = value
    elif name != "info":
        line.fault("unknown field", name[:40], _suggestion(name))


def _array(name: str, value: Any) -> tuple[np.ndarray | None, str]:
    """The array of a field, or None and why not."""
    shape = ARRAYS[name]
    wanted = " x ".join(str(length or "N") for length in shape)
    if not isinstance(value, list):
        return None, f"must be {wanted} numbers, got {_kind(value)}"
    if name in WITH_POINTS and None in value:
        value = [[None] * shape[1] if point is None else point for point in value]
    try:
        array = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None, f"must be {wanted} numbers{_odd_one(value)}"
    if name == "hand_pose" and array.shape == (45,):
        array = array.reshape(15, 3)
    if len(array.shape) != len(shape) or any(n and n != m for n, m in zip(shape, array.shape, strict=True)):
        got = " x ".join(map(str, array.shape)) or "a number"
        hint = ""
        if name == "keypoints_2d" and array.shape == (21, 3):
            hint = "; a third number as in COCO goes into visibility"
        elif array.shape[:1] != shape[:1] and name in (*WITH_POINTS, "visibility"):
            hint = "; wrist, then thumb, index, middle, ring, little from palm to tip; null where not labelled"
        return None, f"must be {wanted} numbers, got {got}{hint}"
    if name not in WITH_POINTS and np.isnan(array).any():
        return None, "has a gap (null or NaN); leave the field out instead"
    return array.astype(np.float32), ""


def _odd_one(value: list[Any]) -> str:
    """Which item breaks the shape, for a message."""
    lengths = [len(item) if isinstance(item, list) else -1 for item in value]
    usual = max(set(lengths), key=lengths.count) if lengths else -1
    for i, (item, length) in enumerate(zip(value, lengths, strict=True)):
        if length != usual or (length < 0 and not isinstance(item, int | float)):
            return f"; item {i} is {_kind(item)}"
    return "; a number is text, or too large"


def _has_constant(value: Any) -> bool:
    """Whether NaN or Infinity was written, rather than null."""
    if isinstance(value, list):
        return any(map(_has_constant, value))
    return isinstance(value, float) and not np.isfinite(value)


def _check_whole(line: Line) -> None:
    """What fields say about each other."""
    texts, arrays = line.texts, line.arrays
    faulty = {fault.field for fault in line.faults}
    if "image" not in texts and "image" not in faulty:
        line.fault("no image", "image", "is missing: the picture's path, relative to the folder")
    labels = [name for name in LABELS if name in arrays or name in texts]
    if not labels and "mask" not in texts and not faulty & {*LABELS, "mask"}:
        line.fault(NO_LABEL, "", f"has no label: give at least one of {', '.join(LABELS)} or mask")
    model = texts.get("hand_model")
    needs = [name for name in HAND_MODEL_FIELDS if name in arrays or name in texts]
    if needs and model is None and "hand_model" not in faulty:
        names = " or ".join(sorted(MESH_VERTICES))
        line.fault("no hand model", "hand_model", f"is missing: {', '.join(needs)} belong to a hand model; {names}")
    vertices = arrays.get("vertices")
    if vertices is not None and model is not None and len(vertices) != MESH_VERTICES[model]:
        line.fault("form", "vertices", f"must be {MESH_VERTICES[model]} for hand_model {model}, got {len(vertices)}")
        del arrays["vertices"]
    if labels and "handedness" not in texts and "handedness" not in faulty:
        if needs:
            line.fault("no handedness", "handedness", "is missing: parameters and meshes are those of one side")
        else:
            line.fault("no handedness", "handedness", "is missing; the hand is taken for a right one", False)


def _suggestion(name: str) -> str:
    other = _OTHER_NAMES.get(name) or _OTHER_NAMES.get(name.lower())
    close = difflib.get_close_matches(name.lower()[:40], FIELDS, 1, 0.6)
    guess = other or (close[0] if close else None)
    hint = f"did you mean {guess}?" if guess else f"fields are {', '.join(FIELDS)}"
    return f"is not a field; {hint}"


def _kind(value: Any) -> str:
    """What a JSON value is, for a message."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {dict: "an object", str: "text", bool: "true or false", type(None): "null", int: "a number"}
    return names.get(type(value), "a number")
