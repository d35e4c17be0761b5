"""RHD in miniature: `training` and `evaluation` with pickles, pictures and masks of both hands."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fabricate_datasets.scenes import Scene

# Official row of one hand's block for each of wrist, then thumb to little finger from palm to tip.
OFFICIAL_ROW = [0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17]
PALM_CLASS = {"left": 17, "right": 33}


def write(root: Path, scenes: Sequence[Scene], split: str = "training") -> dict[int, dict[str, Any]]:
    """Write one split; every picture shows one hand, the other of its person is far away.

    Args:
        root: Becomes `RHD_published_v2`.
        scenes: 320 x 320 pictures.
        split: "training" or "evaluation".

    Returns:
        The annotations, as pickled.
    """
    annotations = {number: annotation(scene) for number, scene in enumerate(scenes)}
    for folder in ("color", "mask"):
        (root / split / folder).mkdir(parents=True)
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / split / "color" / f"{number:05d}.png")
        Image.fromarray(class_mask(scene)).save(root / split / "mask" / f"{number:05d}.png")
    write_annotations(root, annotations, split)
    return annotations


def write_annotations(root: Path, annotations: dict[int, dict[str, Any]], split: str = "training") -> None:
    (root / split / f"anno_{split}.pickle").write_bytes(pickle.dumps(annotations, protocol=2))


def annotation(scene: Scene) -> dict[str, Any]:
    """Keypoints of both hands from tip to palm, left first, in pixels counted from the picture's corner."""
    corner = scene.intrinsics.astype(np.float64)
    corner[:2, 2] += 0.5
    xyz, uv_vis = np.zeros((2, 21, 3)), np.zeros((2, 21, 3))
    xyz[:] = [0.9, 0.4, 1.2]  # the hand that is not shown, right of the picture
    xyz[..., 0] += 0.01 * np.arange(21)
    place = int(scene.side == "right")
    xyz[place, OFFICIAL_ROW] = scene.joints
    projected = xyz @ corner.T
    uv_vis[..., :2] = projected[..., :2] / projected[..., 2:]
    uv_vis[place, OFFICIAL_ROW, 2] = scene.visibility
    return {"uv_vis": uv_vis.reshape(42, 3), "xyz": xyz.reshape(42, 3), "K": corner}


def class_mask(scene: Scene) -> np.ndarray:
    """(H, W) uint8: background, a person's edge, the palm's class of the hand, and a few pixels of its thumb's."""
    mask = np.zeros(scene.mask.shape, np.uint8)
    mask[:4] = 1
    mask[scene.mask] = PALM_CLASS[scene.side]
    rows, columns = np.nonzero(scene.mask)
    mask[rows[:9], columns[:9]] = PALM_CLASS[scene.side] - 15
    return mask
