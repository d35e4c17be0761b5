"""A folder of one's own data in miniature: pictures, masks and `labels.jsonl`, written from scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .scenes import Scene, make_scenes

SIDES = ("right", "left", "right", "left")


def scenes_of_folder() -> list[Scene]:
    """What `write_folder` writes."""
    return make_scenes(len(SIDES), seed=3, size=(200, 160), side=SIDES)


def write_folder(root: Path, name: str = "labels") -> list[dict[str, Any]]:
    """Write four hands with different labels: all; some keypoints and a foreground; joints and camera; a mask.

    Returns:
        The lines, as written.
    """
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = []
    for i, scene in enumerate(scenes_of_folder()):
        Image.fromarray(scene.image).save(root / "images" / f"{i}.png")
        Image.fromarray(scene.mask.astype(np.uint8) * 255).save(root / "masks" / f"{i}.png")
        lines.append({"image": f"images/{i}.png", "handedness": scene.side} | line_labels(scene, i))
    write_lines(root / f"{name}.jsonl", lines)
    return lines


def line_labels(scene: Scene, kind: int) -> dict[str, Any]:
    """The labels of the four lines."""
    low, high = scene.box[:2] - 4, scene.box[2:] + 4
    if kind == 0:
        turns = scene.axis_angle()
        return {
            "id": "first",
            "box": [*low.tolist(), *high.tolist()],
            "keypoints_2d": scene.keypoints_2d.tolist(),
            "visibility": scene.visibility.astype(int).tolist(),
            "joints": scene.joints.tolist(),
            "intrinsics": scene.intrinsics.tolist(),
            "vertices": scene.vertices.tolist(),
            "global_orient": turns[:3].tolist(),
            "hand_pose": turns[3:].reshape(15, 3).tolist(),
            "betas": scene.betas.tolist(),
            "hand_model": "mano",
            "mask": "masks/0.png",
            "info": {"photographer": "nobody"},
        }
    if kind == 1:
        points = [None if j % 4 == 3 else scene.keypoints_2d[j].tolist() for j in range(21)]
        return {"keypoints_2d": points, "foreground": "masks/1.png"}
    if kind == 2:
        joints: list[list[float] | None] = scene.joints.tolist()
        joints[8] = None
        return {"joints": joints, "intrinsics": scene.intrinsics.tolist()}
    return {"mask": "masks/3.png", "box": [*low.tolist(), *high.tolist()]}


def write_lines(path: Path, lines: list[Any]) -> None:
    """Objects as JSON, anything that is text as it is."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
