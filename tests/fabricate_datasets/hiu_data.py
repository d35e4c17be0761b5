"""HIU-Data in miniature, as far as its form is known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .scenes import Scene

FILL = (2.0, -0.67)  # points that are not labelled
FOLDER = "to_cv_community"


def write(root: Path, scenes: Sequence[Scene], halves: Sequence[int]) -> list[str]:
    """Write one hand a picture, into a half of the points; even pictures are JPEG, odd ones PNG.

    Returns:
        Names of the pictures, without endings.
    """
    (root / FOLDER).mkdir(parents=True)
    names = []
    for number, (scene, half) in enumerate(zip(scenes, halves, strict=True)):
        stem = root / FOLDER / f"hand{number}"
        ending = "jpg" if number % 2 == 0 else "png"
        Image.fromarray(scene.image).save(f"{stem}.{ending}")
        Image.fromarray(scene.mask.astype(np.uint8) * 255).save(f"{stem}_mask.png")
        write_label(stem.with_suffix(".json"), {half: scene})
        names.append(stem.name)
    return names


def write_label(path: Path, hands: dict[int, Scene], **changes: Any) -> None:
    """The label file of a picture; of every hand the tip of the little finger is not labelled."""
    points = np.tile(np.array(FILL), (42, 1))
    for half, scene in hands.items():
        points[21 * half : 21 * half + 20] = scene.keypoints_2d[:20]
    record = {
        "pts2d_2hand": points.tolist(),
        "pts3d_2hand": np.zeros((42, 3)).tolist(),
        "pts3d_w_2hand": [0.0] * 42,
        "hand_type": [int(half in hands) for half in range(2)],
        "hand_type_valid": [1, 1],
    }
    path.write_text(json.dumps(record | changes))
