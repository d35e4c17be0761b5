"""YouTube 3D Hands in miniature: meshes in pixels, as its authors describe them, and frames of two videos."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fabricate_datasets.scenes import Scene

VIDEOS = ("aB3_first-0", "second00001")


def write(root: Path, scenes: Sequence[Scene], split: str = "train") -> dict[str, Any]:
    """Write one split; scenes belong to the two videos in turn.

    Returns:
        The annotation file's contents.
    """
    images, annotations = [], []
    for number, scene in enumerate(scenes):
        name = f"youtube/{VIDEOS[number % 2]}/video/frames/{31 * number}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(root / name)
        width, height = scene.size
        images.append({"name": name, "width": width, "height": height, "id": 400 + number})
        left = int(scene.side == "left")
        vertices = pixel_mesh(scene).tolist()
        annotations.append({"vertices": vertices, "is_left": left, "image_id": 400 + number, "id": 70 + number})
    data = {"images": images, "annotations": annotations}
    write_annotations(root, data, split)
    return data


def write_annotations(root: Path, data: dict[str, Any], split: str = "train") -> None:
    """The official file of a split."""
    (root / f"youtube_{split}.json").write_text(json.dumps(data))


def pixel_mesh(scene: Scene) -> np.ndarray:
    """(778, 3): the projection in pixels, and the depth times the ratio of x's deviations in pixels and in space."""
    vertices = scene.vertices.astype(np.float64)
    projected = vertices @ scene.intrinsics.T.astype(np.float64)
    pixels = projected[:, :2] / projected[:, 2:]
    stretch = pixels[:, 0].std() / vertices[:, 0].std()
    return np.concatenate([pixels, stretch * vertices[:, 2:]], 1)
