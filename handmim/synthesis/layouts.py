"""How a series of synthetic pictures lies on disk: the package's own folder, or the layout of a public data set.

The layouts of others are for other people's training code. They hold what can be true of a hand that is not MANO's:
pictures, masks, joints, keypoints, cameras; no vertices and no parameters.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from ..atomic_files import atomic_file
from ..geometry import matrix_to_axis_angle
from ..hand_boxes import JOINT_MARGIN, box_around

JPEG_QUALITY = 95
DECIMALS = 6  # of labels in JSON: micrometres, and less than a thousandth of a pixel
# The bone whose length scales FreiHAND's hands: from the middle finger's knuckle to its next joint.
SCALE_BONE = (9, 10)


class Layout(ABC):
    """Where the files of one split go. Numbers count the split's pictures from 0, indices those of the generator.

    Args:
        root: Folder of the data set.
        split: One of `splits`.

    Attributes:
        name: As users choose it.
        splits: Those it has, and what it calls them.
        negatives: Share of pictures without a right hand; None: as the variety has it.
    """

    name: ClassVar[str]
    splits: ClassVar[dict[str, str]]
    negatives: ClassVar[float | None] = 0.0

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, self.splits[split]

    @abstractmethod
    def folders(self) -> list[Path]:
        """Those that files are written to, below the root."""

    @abstractmethod
    def label_files(self) -> list[Path]:
        """Those that `write_labels` writes."""

    @abstractmethod
    def write_picture(self, number: int, index: int, pixels: np.ndarray, mask: np.ndarray) -> None:
        """One picture (S, S, 3) uint8 and its hand's pixels (S, S) bool."""

    @abstractmethod
    def write_labels(self, columns: Mapping[str, np.ndarray]) -> None:
        """All labels of the split: `index` (N,), `size`, and by name what `SyntheticBatch` has, N rows each."""


class FolderLayout(Layout):
    """`handmim/training/datasets/folder.py`'s: PNGs, one line a right hand; and all numbers in one .npz."""

    name = "folder"
    splits = {split: split for split in ("labels", "train", "val", "test")}
    negatives = None

    def folders(self) -> list[Path]:
        return [self.root / "images", self.root / "masks"]

    def label_files(self) -> list[Path]:
        return [self.root / f"{self.split}.jsonl", self.root / f"{self.split}.npz"]

    def write_picture(self, number: int, index: int, pixels: np.ndarray, mask: np.ndarray) -> None:
        for folder, picture in zip(self.folders(), (pixels, mask), strict=True):
            save(folder / f"{index:08d}.png", picture)

    def write_labels(self, columns: Mapping[str, np.ndarray]) -> None:
        lines, arrays = self.label_files()
        with atomic_file(lines) as file:
            file.writelines((json.dumps(line) + "\n").encode() for line in folder_lines(columns))
        with atomic_file(arrays) as file:
            np.savez(file, **{name: values for name, values in columns.items() if name != "size"})


class FreiHANDLayout(Layout):
    """FreiHAND's (Zimmermann et al., ICCV 2019), with one background a hand in place of four.

    Our reader takes it with `versions: [gs]` and `meshes: false`.
    """

    name = "freihand"
    splits = {"train": "training", "test": "evaluation"}

    def folders(self) -> list[Path]:
        masks = "mask" if self.split == "training" else "segmap"
        return [self.root / self.split / "rgb", self.root / self.split / masks]

    def label_files(self) -> list[Path]:
        return [self.root / f"{self.split}_{key}.json" for key in ("xyz", "K", "scale")]

    def write_picture(self, number: int, index: int, pixels: np.ndarray, mask: np.ndarray) -> None:
        pictures, masks = self.folders()
        save(pictures / f"{number:08d}.jpg", pixels)
        save(masks / f"{number:08d}.{'jpg' if masks.name == 'mask' else 'png'}", mask)

    def write_labels(self, columns: Mapping[str, np.ndarray]) -> None:
        joints = columns["joints"]
        scale = np.linalg.norm(joints[:, SCALE_BONE[1]] - joints[:, SCALE_BONE[0]], axis=-1)
        for path, values in zip(self.label_files(), (joints, columns["intrinsics"], scale), strict=True):
            save_json(path, rounded(values))


class CocoWholeBodyLayout(Layout):
    """COCO-WholeBody's (Jin et al., ECCV 2020): of each picture's person one hand is labelled, of an odd one the left.

    Pictures of left hands are mirrored ones of right hands.
    """

    name = "coco-wholebody"
    splits = {"train": "train", "val": "val"}

    def folders(self) -> list[Path]:
        return [self.root / f"{self.split}2017", self.root / "annotations"]

    def label_files(self) -> list[Path]:
        return [self.root / "annotations" / f"coco_wholebody_{self.split}_v1.0.json"]

    def write_picture(self, number: int, index: int, pixels: np.ndarray, mask: np.ndarray) -> None:
        save(self.folders()[0] / f"{number:012d}.jpg", pixels[:, ::-1] if is_left(number) else pixels)

    def write_labels(self, columns: Mapping[str, np.ndarray]) -> None:
        size, points = int(columns["size"]), columns["keypoints_2d"]
        names = {"id": 1, "name": "person", "supercategory": "person"}
        picture = {"width": size, "height": size}
        content = {
            "info": {"description": "synthetic hands, handmim synthesize --layout coco-wholebody"},
            "categories": [names],
            "images": [{"id": row, "file_name": f"{row:012d}.jpg"} | picture for row in range(len(points))],
            "annotations": [coco_person(row, row, hand, size) for row, hand in enumerate(points)],
        }
        save_json(self.label_files()[0], content)


LAYOUTS: dict[str, type[Layout]] = {
    layout.name: layout for layout in (FolderLayout, FreiHANDLayout, CocoWholeBodyLayout)
}


def is_left(number: int) -> bool:
    """Whether a picture of a layout with both sides shows a left hand."""
    return number % 2 == 1


def folder_lines(columns: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """The fields of `folder.py` for each picture that shows a right hand."""
    labels = {name: columns[name] for name in ("intrinsics", "keypoints_2d", "joints", "betas")}
    for name in ("global_orient", "hand_pose"):
        labels[name] = matrix_to_axis_angle(torch.from_numpy(columns[name])).numpy()
    order = ("intrinsics", "keypoints_2d", "joints", "global_orient", "hand_pose", "betas")
    for row, index in enumerate(columns["index"].tolist()):
        if columns["hand"][row] != 1:
            continue
        line: dict[str, Any] = {"id": f"{index:08d}", "image": f"images/{index:08d}.png", "handedness": "right"}
        line |= {"mask": f"masks/{index:08d}.png", "hand_model": "open"}
        yield line | {name: rounded(labels[name][row]) for name in order}


def coco_person(number: int, picture: int, points: np.ndarray, size: int) -> dict[str, Any]:
    """An annotation of which one hand is valid.

    Args:
        number: Of the annotation.
        picture: Its number, which says the side.
        points: (21, 2) px of the right hand, before a picture is mirrored.
        size: Side of the picture, px.
    """
    left = is_left(picture)
    points = points.astype(np.float64)
    if left:
        points = np.stack([size - 1 - points[:, 0], points[:, 1]], 1)
    seen = ((points >= -0.5) & (points <= size - 0.5)).all(1)
    low, high = box_around(points, JOINT_MARGIN).clip(0, size - 1).reshape(2, 2)
    box = rounded(np.concatenate([low, high - low]))
    labelled = np.where(seen[:, None], np.concatenate([points, np.ones((21, 1))], 1), 0.0)
    hands: dict[str, Any] = {}
    for side, chosen in (("left", left), ("right", not left)):
        hands[f"{side}hand_valid"] = bool(chosen)
        hands[f"{side}hand_box"] = box if chosen else [0.0] * 4
        hands[f"{side}hand_kpts"] = rounded(labelled.ravel()) if chosen else [0.0] * 63
    nothing = {"keypoints": [0] * 51, "num_keypoints": 0, "face_box": [0.0] * 4, "face_valid": False}
    nothing |= {"face_kpts": [0.0] * 204, "foot_kpts": [0.0] * 18, "foot_valid": False, "iscrowd": 0}
    person = {"id": number, "image_id": picture, "category_id": 1, "bbox": box, "area": round(box[2] * box[3], 2)}
    return person | nothing | hands


def rounded(values: np.ndarray) -> Any:
    """Nested lists of numbers that JSON writes short."""
    return np.round(values.astype(np.float64), DECIMALS).tolist()


def save(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) or bool (H, W) by the file's ending; masks become black and white."""
    image = Image.fromarray(np.ascontiguousarray(picture if picture.dtype != bool else picture * np.uint8(255)))
    data = io.BytesIO()
    if path.suffix == ".jpg":
        image.save(data, "JPEG", quality=JPEG_QUALITY)
    else:
        image.convert("1" if picture.dtype == bool else "RGB").save(data, "PNG")
    with atomic_file(path) as file:
        file.write(data.getvalue())


def save_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic_file(path) as file:
        file.write(json.dumps(content, separators=(",", ":")).encode())
