"""FreiHAND version 2 in miniature."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fabricate_datasets.scenes import Scene

SIZE = (224, 224)
# What stands behind the hand in each version of a training picture.
BACKGROUNDS = ((40, 180, 60), (90, 90, 90), (150, 110, 80), (60, 80, 150))


def write_freihand(root: Path, split: str, scenes: Sequence[Scene]) -> Path:
    """Write one split, "training" or "evaluation", in the official layout; returns the root.

    Pictures of the training split come four times, with other surroundings of the hand each time.
    """
    labels = {
        "xyz": [scene.joints.tolist() for scene in scenes],
        "verts": [scene.vertices.tolist() for scene in scenes],
        "K": [scene.intrinsics.tolist() for scene in scenes],
        "mano": [[mano_row(scene).tolist()] for scene in scenes],
        "scale": [float(np.linalg.norm(scene.joints[10] - scene.joints[9])) for scene in scenes],
    }
    for key, values in labels.items():
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}_{key}.json").write_text(json.dumps(values))
    masks = root / split / ("mask" if split == "training" else "segmap")
    pictures = root / split / "rgb"
    for folder in (masks, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        if split == "training":
            Image.fromarray(scene.mask.astype(np.uint8) * 255).save(masks / f"{number:08d}.jpg", quality=95)
            for version, colour in enumerate(BACKGROUNDS):
                image = np.where(scene.mask[..., None], scene.image, np.array(colour, np.uint8))
                Image.fromarray(image).save(pictures / f"{version * len(scenes) + number:08d}.jpg", quality=95)
        else:
            Image.fromarray(scene.mask.astype(np.uint8) * 7).save(masks / f"{number:08d}.png")  # parts have numbers
            Image.fromarray(scene.image).save(pictures / f"{number:08d}.jpg", quality=95)
    return root


def mano_row(scene: Scene) -> np.ndarray:
    """(61,): 48 angles relative to the mean pose, 10 shape parameters, the middle knuckle's pixel, and a scale."""
    focal = 0.5 * (scene.intrinsics[0, 0] + scene.intrinsics[1, 1])
    camera = [*scene.keypoints_2d[9], focal / scene.joints[9, 2]]
    return np.concatenate([scene.axis_angle(relative_to_mean=True), scene.betas, camera])
