"""HO-3D, versions 2 and 3: a right hand that holds an object, in videos.

Hampali et al., "HOnnotate: A method for 3D Annotation of Hand and Object Poses", CVPR 2020; version 3: arXiv
2107.00887.
Its camera frame is OpenGL's (y up, z towards the viewer), its joints are in MANO's order, its poses are absolute: zero
is the flat hand.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from ...errors import DataError
from ...hand_model import JOINT_ORDER
from ...json_arrays import read_array
from .files import file_part, folder_part, image_size, inside, load_lines, load_pickle, read_mask, require
from .label_checks import (
    MAX_PARAMETER,
    check_counts,
    check_depth,
    check_finite,
    check_in_frame,
    check_intrinsics,
    project_points,
)
from .mano_labels import find_hand_model, pose_matrices, pose_vertices
from .sample import HandReader, HandSample, Part

OPENGL_TO_OPENCV = np.array([1, -1, -1], np.float32)
MAX_META_BYTES = 16 * 2**20
# Frames from which reading shows its progress.
MANY_FRAMES = 2_000
# A wrist of evaluation_xyz.json may differ this much from the one in its frame's own file, metres.
SAME_WRIST = 0.05
FRAME_LINE = re.compile(r"[^/\\]+/[\w-]+")
META_SHAPES = {
    "train": {"camMat": (3, 3), "handJoints3D": (21, 3), "handPose": (48,), "handBeta": (10,)},
    "evaluation": {"camMat": (3, 3), "handJoints3D": (3,), "handBoundingBox": (4,)},
}


class _HO3D(HandReader):
    """HO-3D in its official layout.

    Args:
        root: Folder with train/, evaluation/, train.txt and evaluation.txt; for "evaluation" also with the public
            labels evaluation_xyz.json and evaluation_verts.json.
        split: "train" or "evaluation".
        hand_model_path: MANO file or folder, looked up when None. Vertices of the training split are computed with it.

    Attributes:
        notes: What the user should know.
    """

    splits = ("train", "evaluation")
    hand_model = "mano"
    homepage = "https://www.tugraz.at/index.php?id=40231"
    suffix: ClassVar[str]
    samples: ClassVar[dict[str, int]]

    def __init__(
        self, root: str | Path, split: str | None = None, *, hand_model_path: str | Path | None = None
    ) -> None:
        super().__init__(root, split)
        self.notes: list[str] = []
        self.list_file = require(self.root / f"{self.split}.txt", f"the frames of {self.name}, split {self.split}")
        frames = load_lines(self.list_file)
        if len(frames) != self.samples[self.split]:
            expected = self.samples[self.split]
            self.notes.append(f"{self.list_file.name} lists {len(frames)} frames; the official split has {expected}")
        self._files = lru_cache(maxsize=None)(self._list_folder)
        columns = self._read_frames(frames)
        del self._files
        if not self.frames:
            raise DataError(f"{self.list_file} lists no frame with annotations")
        self.intrinsics = columns["camMat"]
        check_intrinsics(self.intrinsics, self._folder("meta"), self._name)
        self.model = None
        if self.split == "train":
            self._set_training_labels(columns, hand_model_path)
        else:
            self._set_evaluation_labels(columns)
        keypoints = project_points(self.joints, self.intrinsics)
        check_in_frame(keypoints, image_size(self._image(0)), self._source, "joints", self._name)

    # -----------------------------------------------------------------------------------------------------------------
    # Reading

    @property
    def _source(self) -> Path:
        """Where joints are from, for messages."""
        return self._folder("meta") if self.split == "train" else self.root / "evaluation_xyz.json"

    def _name(self, index: int) -> str:
        return f"{self.split}/{self.frames[index]}"

    def _folder(self, kind: str) -> Path:
        return self.root / self.split / "*" / kind

    def _path(self, index: int, kind: str, suffix: str) -> Path:
        sequence, frame = self.frames[index].split("/")
        return self.root / self.split / sequence / kind / (frame + suffix)

    def _image(self, index: int) -> Path:
        return self._path(index, "rgb", self.suffix)

    def _list_folder(self, sequence: str, kind: str) -> set[str]:
        """Names in a sequence's folder; what links lead out of the split's folder is refused."""
        base = self.root / self.split
        folder = inside(base, f"{sequence}/{kind}", str(self.list_file))
        if not folder.is_dir():
            raise DataError(f"{folder} is missing: {self.list_file} names frames of it")
        for entry in folder.iterdir():
            if entry.is_symlink():
                inside(base, f"{sequence}/{kind}/{entry.name}", str(folder))
        return {entry.name for entry in folder.iterdir()}

    def _read_frames(self, frames: list[str]) -> dict[str, np.ndarray]:
        """Sets `frames` to those with annotations; returns their fields as arrays (N, ...)."""
        shapes = META_SHAPES[self.split]
        columns = {field: np.empty((len(frames), *shape), np.float32) for field, shape in shapes.items()}
        self.frames: list[str] = []
        for frame in tqdm(frames, f"{self.name} {self.split}", disable=len(frames) < MANY_FRAMES, leave=False):
            values = self._read_frame(frame)
            if values is None:
                continue
            for field, value in values.items():
                columns[field][len(self.frames)] = value
            self.frames.append(frame)
        skipped = len(frames) - len(self.frames)
        if skipped:
            self.notes.append(f"{skipped} of {len(frames)} frames have no annotation and are left out")
        return {field: values[: len(self.frames)] for field, values in columns.items()}

    def _read_frame(self, frame: str) -> dict[str, np.ndarray] | None:
        """The fields of one frame's file; None if the hand is not annotated."""
        if not FRAME_LINE.fullmatch(frame):
            raise DataError(f"{self.list_file} must list frames as SEQUENCE/NUMBER, got {frame!r:.200}")
        sequence, number = frame.split("/")
        for kind, name in (("rgb", number + self.suffix), ("meta", number + ".pkl")):
            if name not in self._files(sequence, kind):
                path = self.root / self.split / sequence / kind / name
                raise DataError(f"{path} is missing: {self.list_file} names its frame")
        path = self.root / self.split / sequence / "meta" / f"{number}.pkl"
        meta = load_pickle(path, MAX_META_BYTES)
        if not isinstance(meta, dict):
            raise DataError(f"{path} must hold a dict, got {type(meta).__name__}")
        shapes = META_SHAPES[self.split]
        if self.split == "train" and any(meta.get(field) is None for field in shapes):
            return None
        return {field: _array(meta, field, shape, path) for field, shape in shapes.items()}

    def _set_training_labels(self, columns: dict[str, np.ndarray], hand_model_path: str | Path | None) -> None:
        source = self._source
        self.joints = (columns["handJoints3D"] * OPENGL_TO_OPENCV)[:, JOINT_ORDER]
        check_depth(self.joints, source, "handJoints3D (negated z)", self._name)
        for field in ("handPose", "handBeta"):
            check_finite(columns[field], source, field, self._name, MAX_PARAMETER)
        orient, self.hand_pose = pose_matrices(columns["handPose"])
        self.global_orient = OPENGL_TO_OPENCV[:, None] * orient
        self.betas = columns["handBeta"]
        self.vertices = self.boxes = None
        self.model = find_hand_model("right", hand_model_path)
        if self.model is None:
            self.notes.append(
                "samples have no vertices: they follow from the parameters by MANO, and no MANO file was found "
                "(handmim mano install MANO_RIGHT.pkl, or hand_model_path)"
            )

    def _set_evaluation_labels(self, columns: dict[str, np.ndarray]) -> None:
        what = f"the public evaluation labels of {self.name}, from its repository; put them beside evaluation.txt"
        files = [require(self.root / f"evaluation_{key}.json", what) for key in ("xyz", "verts")]
        joints, vertices = read_array(files[0], (21, 3)), read_array(files[1], (778, 3))
        check_counts({self.list_file: len(self.frames), files[0]: len(joints), files[1]: len(vertices)})
        apart = np.linalg.norm(joints[:, 0] - columns["handJoints3D"], axis=1) > SAME_WRIST
        if apart.mean() > 0.5:
            raise DataError(
                f"{files[0]} does not belong to {self.list_file}: the wrists of {apart.sum()} of {len(apart)} frames "
                f"are elsewhere in the frames' own files, first in sample {self._name(int(apart.argmax()))}"
            )
        vertices *= OPENGL_TO_OPENCV
        self.joints, self.vertices = (joints * OPENGL_TO_OPENCV)[:, JOINT_ORDER], vertices
        check_depth(self.joints, files[0], "joints (negated z)", self._name)
        check_depth(vertices, files[1], "vertices (negated z)", self._name)
        self.boxes = columns["handBoundingBox"]
        check_finite(self.boxes, self._folder("meta"), "handBoundingBox", self._name)
        narrow = (self.boxes[:, 2:] <= self.boxes[:, :2]).any(1)
        if narrow.any():
            index = int(narrow.argmax())
            raise DataError(
                f"{self._path(index, 'meta', '.pkl')}: handBoundingBox of sample {self._name(index)} must be (left, "
                f"top, right, bottom), got {self.boxes[index].tolist()}"
            )

    # -----------------------------------------------------------------------------------------------------------------
    # Samples

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        """What is there of the archive and of the public evaluation labels."""
        root, parts = Path(root), []
        for split, count in cls.samples.items():
            parts.append(file_part(root, f"{split}.txt", f"list of the frames of {split}"))
            parts.append(folder_part(root, f"{split}/*/rgb", f"pictures of {split}", None, cls.suffix))
            parts.append(
                folder_part(root, f"{split}/*/meta", f"annotations of {split}, for {count} frames", None, ".pkl")
            )
            parts.append(folder_part(root, f"{split}/*/seg", f"masks of {split} (version 3)", None, ".png", False))
        for key, purpose in (("xyz", "21 joints"), ("verts", "778 vertices")):
            parts.append(file_part(root, f"evaluation_{key}.json", f"{purpose} of evaluation, the public labels"))
        return parts

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> HandSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, got {index}")
        index %= len(self)
        joints = self.joints[index]
        labels = {"joints": joints, "keypoints_2d": project_points(joints, self.intrinsics[index])}
        if self.split == "train":
            parameters = (self.global_orient[index], self.hand_pose[index], self.betas[index])
            labels |= dict(zip(("global_orient", "hand_pose", "betas"), parameters, strict=True))
            if self.model is not None:
                labels["vertices"] = pose_vertices(self.model, *parameters, joints[0])
        else:
            labels["vertices"] = self.vertices[index]
        mask = self._path(index, "seg", ".png")
        return HandSample(
            id=self._name(index),
            image=self._image(index),
            handedness="right",
            box=None if self.boxes is None else self.boxes[index],
            intrinsics=self.intrinsics[index],
            labels=labels,
            load_mask=partial(_hand_mask, mask, self._image(index)) if mask.is_file() else None,
        )


class HO3Dv2(_HO3D):
    """HO-3D version 2; see `_HO3D` for arguments."""

    name = "ho3d-v2"
    title = "HO-3D version 2"
    suffix = ".png"
    samples = {"train": 66_034, "evaluation": 11_524}


class HO3Dv3(_HO3D):
    """HO-3D version 3: more accurate, pictures as JPEG, with masks; see `_HO3D` for arguments."""

    name = "ho3d-v3"
    title = "HO-3D version 3"
    suffix = ".jpg"
    samples = {"train": 83_325, "evaluation": 20_137}


def _array(meta: dict[str, Any], field: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """A field of a frame's annotation as an array of a shape; leading sizes of one are tolerated."""
    value = meta.get(field)
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if value is None or array.size != np.prod(shape) or array.shape[array.ndim - len(shape) :] != shape:
        got = type(value).__name__ if array.size == 0 else f"shape {array.shape}"
        raise DataError(f"{path}: {field} must have shape {shape}, got {got}")
    return array.reshape(shape)


def _hand_mask(path: Path, image: Path) -> np.ndarray:
    """(H, W) bool. Segmentations paint the hand blue and the object in another colour, at their own resolution."""
    return read_mask(path, channel=2, size=image_size(image))
