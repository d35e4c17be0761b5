"""HO-3D versions 2 and 3 in miniature."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fabricate_datasets.scenes import Scene, mano_order

SIZE = (640, 480)
OPENGL = np.array([1.0, -1.0, -1.0])
SEQUENCES = {"train": ("ABF10", "SM2"), "evaluation": ("AP10", "SM1")}


def write_ho3d(root: Path, version: int, split: str, scenes: Sequence[Scene], missing: int = 0) -> Path:
    """Write one split, "train" or "evaluation", with its public labels; returns the root.

    Args:
        root: Folder, made if it is not there.
        version: 2 (PNG pictures) or 3 (JPEG, and masks).
        split: Which.
        scenes: Frames, dealt out to two sequences.
        missing: Frames of the training split without annotation, added to the list in front.
    """
    lines = []
    for number in range(missing):
        frame = _write_frame(root, version, split, scenes[0], f"{9000 + number:04d}", SEQUENCES[split][0])
        (root / split / SEQUENCES[split][0] / "meta" / f"{9000 + number:04d}.pkl").write_bytes(
            pickle.dumps(dict.fromkeys(meta(scenes[0], split)), 2)
        )
        lines.append(frame)
    for number, scene in enumerate(scenes):
        lines.append(_write_frame(root, version, split, scene, f"{number:04d}", SEQUENCES[split][number % 2]))
    (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    if split == "evaluation":
        for key, arrays in {
            "xyz": [mano_order(scene.joints) * OPENGL for scene in scenes],
            "verts": [scene.vertices * OPENGL for scene in scenes],
        }.items():
            (root / f"evaluation_{key}.json").write_text(json.dumps(np.array(arrays).tolist()))
    return root


def _write_frame(root: Path, version: int, split: str, scene: Scene, number: str, sequence: str) -> str:
    folder = root / split / sequence
    for kind in ("rgb", "meta", "seg")[:version]:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / "meta" / f"{number}.pkl").write_bytes(pickle.dumps(meta(scene, split), 2))
    picture = Image.fromarray(scene.image)
    if version == 2:
        picture.save(folder / "rgb" / f"{number}.png", compress_level=1)
    else:
        picture.save(folder / "rgb" / f"{number}.jpg", quality=95)
        seg = np.zeros((*scene.mask.shape, 3), np.uint8)
        seg[20:60, 30:90, 1] = 255  # the object
        seg[scene.mask] = (0, 0, 255)
        Image.fromarray(seg[::2, ::2]).save(folder / "seg" / f"{number}.png")
    return f"{sequence}/{number}"


def meta(scene: Scene, split: str) -> dict[str, Any]:
    """A frame's annotation: OpenGL's frame, MANO's joint order, absolute pose."""
    wrist = scene.joints[0].astype(np.float64)
    fields = {
        "camMat": scene.intrinsics.astype(np.float64),
        "objName": "003_cracker_box",
        "objLabel": 2,
        "objRot": np.array([[0.1], [0.2], [0.3]]),
        "objTrans": wrist * OPENGL,
        "objCorners3D": np.zeros((8, 3)),
        "objCorners3DRest": np.zeros((8, 3)),
    }
    if split == "evaluation":
        return {**fields, "handJoints3D": wrist * OPENGL, "handBoundingBox": np.round(scene.box).astype(int).tolist()}
    orient = scene.axis_angle()
    orient[:3] = _axis_angle(np.diag(OPENGL) @ scene.global_orient.astype(np.float64))
    rest_wrist = scene.joints[0] - scene.translation
    return {
        **fields,
        "handJoints3D": mano_order(scene.joints).astype(np.float64) * OPENGL,
        "handPose": orient,
        "handBeta": scene.betas.astype(np.float64),
        "handTrans": wrist * OPENGL - rest_wrist,
        "handVertContact": np.zeros(778, bool),
    }


def _axis_angle(rotmat: np.ndarray) -> np.ndarray:
    """(3,) radians of a rotation (3, 3), by scipy: not by the code under test."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotmat).as_rotvec()
