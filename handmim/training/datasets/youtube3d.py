"""YouTube 3D Hands: Kulon et al., "Weakly-Supervised Mesh-Convolutional Hand Reconstruction in the Wild", CVPR 2020.

Official files (github.com/snap-research/arielai_youtube_3d_hands): `youtube_train.json`, `youtube_val.json`,
`youtube_test.json`, each with `images` (name, width, height, id) and `annotations` (vertices, is_left, image_id, id);
frames that the user extracts, below the same root, at the names in `images`: `youtube/<video>/video/frames/<n>.png`.

Conventions, from the authors' README and their answers to issues 3 and 19:

* 778 vertices in MANO's order, fitted to OpenPose's keypoints. x and y are a perspective projection, in pixels of the
  frame; z is the depth in the fit's camera, times the same pixels per unit by which x was stretched (the ratio of the
  standard deviations). The camera is not given, nor is a unit: **the mesh is known up to scale**.
* `is_left` is 1 for a left hand, whose vertices lie on the left hand in the frame (nothing is mirrored).
* Downloaded videos can have another resolution than `width` x `height`: labels are scaled to the frame that is there.

What this reader makes of it:

* 2D keypoints: MANO's joint regressor and fingertips on the vertices. Both are in the licensed file; without it there
  are boxes and sides only.
* `joints` and `vertices` in metres *on assumptions*: the sum of the 20 bone lengths is that of MANO's mean hand (the
  package's convention for unknown scale), and the camera is the stated default of `geometry.default_intrinsics`, given
  with the sample. They project onto the labelled pixels exactly. The shape relative to the wrist is usable, the
  distance from the camera is not. `metric=False` leaves them out.
* The sign of z is not documented; it is found by comparing palms with MANO's: a wrong sign makes a mirror image.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from ...errors import DataError
from .files import file_part, image_size, inside, names_in, require
from .json_records import json_records
from .mano_labels import find_hand_model
from .record_fields import RowBuffer, add_once, numbers, text, whole_number
from .sample import HandReader, HandSample, Part

VERTICES = 778
BONES = [(0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21)]
# Frames whose proportions differ more from those of the labels are other pictures.
MAX_STRETCH = 0.02
# A hand nearer than this to the assumed camera is none; its 3D labels are left out.
MIN_DEPTH_METRES = 0.03
MAX_OUTSIDE_SHARE = 0.01


class YouTube3DHands(HandReader):
    """Each annotated hand whose frame has been extracted.

    Args:
        root: Folder of the JSON files and of `youtube/`.
        split: "train", "val" or "test".
        hand_model_path: MANO_RIGHT file or its folder; None looks where `handmim mano install` puts it.
        metric: Whether to give joints and vertices in metres, on the assumptions above.

    Attributes:
        notes: What was left out and assumed.
    """

    name: ClassVar[str] = "youtube3d"
    title: ClassVar[str] = "YouTube 3D Hands"
    homepage: ClassVar[str] = "https://github.com/snap-research/arielai_youtube_3d_hands"
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    hand_model: ClassVar[str | None] = "mano"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        hand_model_path: str | Path | None = None,
        metric: bool = True,
    ) -> None:
        super().__init__(root, split)
        self.notes: list[str] = []
        self.file = require(self.root / f"youtube_{self.split}.json", "request it on the homepage")
        self.metric = metric
        frames = self._read()
        self._find_frames(frames)
        self._leave_out_outside()
        self.joints: np.ndarray | None = None
        self._regress(hand_model_path)

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        parts = [file_part(root, f"youtube_{split}.json", f"labels of {split}") for split in cls.splits]
        videos = sorted(names_in(root / "youtube"))
        found = sum(len(names_in(root / "youtube" / video / "video" / "frames", ".png")) for video in videos)
        return [*parts, Part("youtube/*/video/frames/*.png", f"frames, of {len(videos)} videos", found)]

    def _read(self) -> dict[int, tuple[str, int, int]]:
        """The columns; returns name, width and height of all frames by their number."""
        frames: dict[int, tuple[str, int, int]] = {}
        vertices = RowBuffer((VERTICES, 3))
        origin: list[tuple[int, int, bool]] = []  # annotation, frame, left
        for key, number, record in json_records(self.file, ("images", "annotations")):
            where = f"{self.file}: {key}[{number}]"
            if key == "images":
                size = (whole_number(record, "width", where), whole_number(record, "height", where))
                if min(size) < 1:
                    raise DataError(f"{where}: width and height must be positive, got {size[0]} x {size[1]}")
                add_once(frames, whole_number(record, "id", where), (text(record, "name", where), *size), where)
                continue
            where = f"{self.file}: annotation {record.get('id', f'number {number}')}"
            vertices.append(numbers(record, "vertices", (VERTICES, 3), where))
            if record.get("is_left") not in (0, 1):
                raise DataError(f"{where}: is_left must be 0 or 1, got {record.get('is_left')!r:.60}")
            left = bool(record["is_left"])
            origin.append((whole_number(record, "id", where), whole_number(record, "image_id", where), left))
        if not origin:
            raise DataError(f"{self.file} holds no annotations")
        self.vertices = vertices.array()
        self.origin = np.array(origin, np.int64)
        return frames

    def _find_frames(self, frames: dict[int, tuple[str, int, int]]) -> None:
        """Keeps the hands whose frames are there; names and sizes of those frames."""
        used = sorted(set(self.origin[:, 1].tolist()))
        present: dict[str, set[str]] = {}
        there = []
        for number in used:
            if number not in frames:
                row = int((self.origin[:, 1] == number).argmax())
                raise DataError(f"{self.file}: annotation {self._id(row)}: there is no image_id {number} in images")
            folder, _, name = frames[number][0].replace("\\", "/").rpartition("/")
            if folder not in present:
                present[folder] = names_in(inside(self.root, frames[number][0], str(self.file)).parent)
            there.append(name in present[folder])
        if not any(there):
            path = self.root / frames[used[0]][0]
            raise DataError(f"none of {len(used)} frames is there, {path} for one: extract them from the videos")
        if not all(there):
            self.notes.append(
                f"{there.count(False)} of {len(used)} frames have not been extracted; their hands are left out"
            )
        used = [number for number, found in zip(used, there, strict=True) if found]
        self._keep(np.isin(self.origin[:, 1], used))
        self.names = [frames[number][0] for number in used]
        self.frame = np.searchsorted(used, self.origin[:, 1])
        self.sizes = np.array([frames[number][1:] for number in used], np.float32)
        self._check_resolutions()

    def _check_resolutions(self) -> None:
        """One frame of each video has the labels' proportions; all of a video are alike."""
        first: dict[PurePosixPath, int] = {}
        for frame, name in enumerate(self.names):
            first.setdefault(PurePosixPath(name).parent, frame)
        scaled = defaultdict(int)
        for frame in first.values():
            path = inside(self.root, self.names[frame], str(self.file))
            scaled[_scale(path, self.sizes[frame]) != 1] += 1
        if scaled[True]:
            self.notes.append(f"{scaled[True]} videos have another resolution than labelled: labels are scaled to it")

    def _leave_out_outside(self) -> None:
        """Hands without a vertex in their frame go; too many of them are a wrong file."""
        size = self.sizes[self.frame]
        inside_frame = np.empty(len(self.vertices), bool)
        for row, points in enumerate(self.vertices):
            inside_frame[row] = ((points[:, :2] > -0.5) & (points[:, :2] < size[row] - 0.5)).all(1).any()
        lost = np.flatnonzero(~inside_frame)
        if len(lost) > MAX_OUTSIDE_SHARE * len(self.vertices):
            width, height = size[lost[0]]
            raise DataError(
                f"{self.file}: annotation {self._id(int(lost[0]))}: all vertices lie outside the frame of "
                f"{width:.0f} x {height:.0f} pixels, as those of {len(lost)} of {len(self.vertices)} hands do"
            )
        if len(lost):
            self.notes.append(f"{len(lost)} hands outside their frame are left out")
            self._keep(inside_frame)
            self.frame = self.frame[inside_frame]

    def _keep(self, kept: np.ndarray) -> None:
        """Drops rows; vertices move up in place, for a copy would double the memory."""
        rows = np.flatnonzero(kept)
        for new, old in enumerate(rows):
            if new != old:
                self.vertices[new] = self.vertices[old]
        self.vertices = self.vertices[: len(rows)]
        self.origin = self.origin[rows]

    def _regress(self, hand_model_path: str | Path | None) -> None:
        """Joints (N, 21, 3) in pixels, pixels per metre (N,), and the sign of z."""
        model = find_hand_model("right", hand_model_path)
        if model is None:
            self.notes.append(
                "keypoints, joints and vertices need MANO's joint regressor: without a MANO file there are only boxes "
                "and sides; see `handmim mano install`"
            )
            return
        if model.num_vertices != VERTICES:
            raise DataError(f"the MANO file must have {VERTICES} vertices, got {model.num_vertices}")
        regressor = np.zeros((21, VERTICES), np.float32)
        regressor[:16] = model.joint_regressor.numpy()
        regressor[np.arange(16, 21), model.tip_vertices.numpy()] = 1
        regressor = regressor[model.joint_order.numpy()]
        self.joints = np.stack([regressor @ points for points in self.vertices])
        lengths = _bone_lengths(self.joints).sum(-1)
        self.pixels_per_metre = lengths / _bone_lengths(model.mean_shape_joints().numpy()).sum()
        palm = np.flatnonzero(model.skinning_weights[:, 0].numpy() > 0.5)
        self._find_depth_sign(model.template.numpy()[palm], palm)
        if self.metric:
            self.notes.append("metric joints and vertices assume MANO's mean size and a camera that is not known")

    def _find_depth_sign(self, template: np.ndarray, palm: np.ndarray) -> None:
        """Turns z so that it points away from the camera."""
        handed = np.array([_chirality(points[palm], template) for points in self.vertices])
        handed[self.origin[:, 2] == 1] *= -1
        self.depth_sign = np.float32(1 if (handed > 0).sum() >= len(handed) / 2 else -1)
        if self.depth_sign < 0:
            self.notes.append("z of the file points towards the camera; it has been turned")
        odd = int((handed * self.depth_sign < 0).sum())
        if odd:
            self.notes.append(f"{odd} palms are mirror images of what is_left says")

    def _id(self, row: int) -> str:
        return str(self.origin[row, 0])

    def __len__(self) -> int:
        return len(self.vertices)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        frame = self.frame[row]
        path = inside(self.root, self.names[frame], str(self.file))
        scale = np.float32(_scale(path, self.sizes[frame]))
        vertices = _scaled(self.vertices[row], scale)
        size = self.sizes[frame] * scale
        labels: dict[str, np.ndarray] = {}
        intrinsics = None
        if self.joints is not None:
            joints = _scaled(self.joints[row], scale)
            labels["keypoints_2d"] = joints[:, :2]
            if self.metric:
                intrinsics = _default_camera(size)
                pixels_per_metre = self.pixels_per_metre[row] * scale * self.depth_sign
                labels |= _lift(joints, vertices, pixels_per_metre, intrinsics)
        return HandSample(
            id=self._id(row),
            image=path,
            handedness="left" if self.origin[row, 2] else "right",
            box=np.concatenate([vertices[:, :2].min(0), vertices[:, :2].max(0)]),
            intrinsics=intrinsics,
            labels=labels,
        )


def _bone_lengths(joints: np.ndarray) -> np.ndarray:
    """(..., 20) distances of joints (..., 21, 3) from those before them."""
    start, end = zip(*BONES, strict=True)
    return np.linalg.norm(joints[..., list(end), :] - joints[..., list(start), :], axis=-1)


def _chirality(points: np.ndarray, template: np.ndarray) -> float:
    """Positive if (P, 3) points are nearer to a turned template (P, 3) than to a mirrored one.

    The best orthogonal fit is a rotation exactly where the covariance's determinant is positive (Umeyama 1991).
    """
    return float(np.linalg.det((points - points.mean(0)).T @ (template - template.mean(0))))


def _scale(path: Path, size: np.ndarray) -> float:
    """By how much a frame is larger than (2,) width and height in the labels.

    Raises:
        DataError: Its proportions are others.
    """
    width, height = image_size(path)
    across, down = width / size[0], height / size[1]
    if abs(across / down - 1) > MAX_STRETCH:
        raise DataError(
            f"{path} has {width} x {height} pixels, its labels are for {size[0]:.0f} x {size[1]:.0f}: it is another "
            "picture"
        )
    return float(across)


def _scaled(points: np.ndarray, scale: np.float32) -> np.ndarray:
    """Points (N, 3) in pixels of a frame `scale` times as large; pixels scale about the picture's corner."""
    scaled = points * scale
    scaled[:, :2] += (scale - 1) / 2
    return scaled


def _default_camera(size: np.ndarray) -> np.ndarray:
    from ...geometry import default_intrinsics

    return default_intrinsics(*size.tolist()).numpy()


def _lift(
    joints: np.ndarray, vertices: np.ndarray, pixels_per_metre: float, intrinsics: np.ndarray
) -> dict[str, np.ndarray]:
    """Points (N, 3), x and y in pixels and z in as large units, into the camera's frame, metres.

    The wrist is where a length of one metre has `pixels_per_metre` pixels, negative if z points backwards.

    Returns:
        joints and vertices; nothing if part of the hand would lie in the camera or behind it.
    """
    focal = intrinsics[0, 0]
    lifted = {}
    for name, points in (("joints", joints), ("vertices", vertices)):
        depth = focal / abs(pixels_per_metre) + (points[:, 2:] - joints[0, 2]) / pixels_per_metre
        if depth.min() < MIN_DEPTH_METRES:
            return {}
        across = (points[:, :2] - intrinsics[:2, 2]) / focal * depth
        lifted[name] = np.concatenate([across, depth], 1).astype(np.float32)
    return lifted
