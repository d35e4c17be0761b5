"""COCO-WholeBody in miniature: pictures with one person each, of whom one hand is in the picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fabricate_datasets.scenes import Scene


def write(root: Path, scenes: Sequence[Scene], split: str = "val") -> dict[str, Any]:
    """Write one split in COCO's usual folders.

    Returns:
        The annotation file's contents. The first hand's third keypoint is not labelled; the last person has no hands.
    """
    (root / f"{split}2017").mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number, scene in enumerate(scenes):
        picture = 100 + 7 * number
        name = f"{picture:012d}.jpg"
        Image.fromarray(scene.image).save(root / f"{split}2017" / name, quality=92)
        width, height = scene.size
        images.append({"license": 4, "file_name": name, "height": height, "width": width, "id": picture})
        annotations.append(person(5000 + number, picture, scene))
    annotations.append(person(9000, images[0]["id"], None))
    annotations[0][f"{scenes[0].side}hand_kpts"][6:9] = [0.0, 0.0, 0.0]
    data = {"info": {"version": "1.0"}, "licenses": [], "categories": [{"id": 1, "name": "person"}]}
    data |= {"images": images, "annotations": annotations}
    write_annotations(root, data, split)
    return data


def write_annotations(root: Path, data: dict[str, Any], split: str = "val") -> None:
    """The official file of a split."""
    (root / "annotations" / f"coco_wholebody_{split}_v1.0.json").write_text(json.dumps(data))


def person(number: int, picture: int, scene: Scene | None) -> dict[str, Any]:
    """One annotation with every field of version 1.0."""
    record: dict[str, Any] = {
        "segmentation": [[1.0, 2.0, 3.5, 4.0, 5.0, 6.0]],
        "num_keypoints": 0,
        "iscrowd": 0,
        "keypoints": [0] * 51,
        "image_id": picture,
        "bbox": [10.0, 10.0, 50.0, 60.0],
        "category_id": 1,
        "id": number,
    }
    for part, count in (("face", 68), ("lefthand", 21), ("righthand", 21)):
        record |= {f"{part}_box": [0.0] * 4, f"{part}_kpts": [0.0] * 3 * count, f"{part}_valid": False}
    record |= {"foot_kpts": [0.0] * 18, "foot_valid": False}
    if scene is not None:
        confidence = np.where(np.arange(21) % 5 == 4, 0.14, 1.0)[:, None]  # tips are a network's
        low, high = scene.box[:2], scene.box[2:]
        hand = f"{scene.side}hand"
        record[f"{hand}_kpts"] = np.concatenate([scene.keypoints_2d, confidence], 1).ravel().tolist()
        record[f"{hand}_box"] = np.concatenate([low, high - low]).tolist()
        record[f"{hand}_valid"] = True
    return record
