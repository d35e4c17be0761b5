"""CMU Panoptic hands in miniature: the three sets of the data set's page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .scenes import Scene

UNLABELLED = (4, 17)  # points without a label, in every hand
SYNTH = ("synth1", "synth2", "synth3", "synth4")


def write(root: Path, scenes: Sequence[Scene]) -> None:
    """Write every scene into each folder of every set."""
    for folder in ("hand_labels/manual_train", "hand_labels/manual_test", *(f"hand_labels_synth/{n}" for n in SYNTH)):
        (root / folder).mkdir(parents=True)
        for number, scene in enumerate(scenes):
            stem = root / folder / f"{number:05d}_01_{scene.side[0]}"
            Image.fromarray(scene.image).save(stem.with_suffix(".jpg"), quality=95)
            write_label(stem.with_suffix(".json"), scene)
    folder = root / "hand143_panopticdb"
    (folder / "imgs").mkdir(parents=True)
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / "imgs" / f"{number:08d}.jpg", quality=95)
    root_list = [multiview_record(number, scene) for number, scene in enumerate(scenes)]
    (folder / "hands_v143_14817.json").write_text(json.dumps({"root": root_list}))


def official(scene: Scene) -> list[list[float]]:
    """21 x [x, y, labelled]; the points without a label are zeros."""
    points = np.concatenate([scene.keypoints_2d.astype(float), np.ones((21, 1))], 1)
    points[list(UNLABELLED)] = 0
    return points.tolist()


def write_label(path: Path, scene: Scene, **changes: Any) -> None:
    """The label file of one hand."""
    centre = (scene.box[:2] + scene.box[2:]) / 2
    record = {"hand_pts": official(scene), "is_left": float(scene.side == "left"), "hand_box_center": centre.tolist()}
    record |= {"head_size": 72.5, "mpii_image": "000.jpg"}
    path.write_text(json.dumps(record | changes))


def multiview_record(number: int, scene: Scene) -> dict[str, Any]:
    """A record of the dome."""
    width, height = scene.size
    return {
        "dataset": "hands_v143",
        "img_paths": f"imgs/{number:08d}.jpg",
        "img_width": width,
        "img_height": height,
        "objpos": [width / 2, height / 2],
        "scale_provided": 0.5,
        "joint_self": official(scene),
        "annolist_index": number,
        "isValidation": 0,
    }
