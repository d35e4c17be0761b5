"""Results of HaMeR, WiLoR and WiLoR-mini as hands; `hamer_format` tells what their dictionaries hold."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .errors import InputError
from .geometry import matrix_to_axis_angle, mirror_axis_angle
from .hamer_camera import CROP_SIZE, FOCAL_LENGTH, MIRROR, crop_translation, full_translation, guessed_focal, pinhole
from .hamer_checks import (
    SIDES,
    array_of,
    as_mapping,
    check_camera,
    check_positive,
    float32_of,
    image_sizes,
    needed,
    numbers,
    right_flags,
    source_word,
    source_words,
)
from .hand import Hand
from .mano_files import load_mano

TIPS = [4, 8, 12, 16, 20]


def from_hamer(
    out: Mapping[str, Any],
    batch: Mapping[str, Any] | None = None,
    *,
    image_size: Any = None,
    focal_length: float | None = None,
    faces: Any = None,
) -> list[Hand]:
    """HaMeR's or WiLoR's results as hands; torch tensors on any device, or arrays.

    The lines of their demo scripts that follow `model(batch)` mirror left hands **in place**: `out["pred_cam"]`, on a
    CPU the vertices and joints too. What was mirrored is found out with `pred_keypoints_2d`, which they leave alone.

    Args:
        out: What the network returned, see `to_hamer`; `pred_cam_t`, which the renderer changes in place, is not read.
        batch: What it was given, where `out` does not hold these already: `right`, `box_center`, `box_size`,
            `img_size`.
        image_size: (2,) or (B, 2) width and height, in place of `img_size`.
        focal_length: Of the picture, pixels, where it is known. None: `scaled_focal_length`, and without it the demo's
            guess of 5000 / 256 of the longer side, which puts hands metres away. Moves hands along the optical axis,
            as the authors advise; where they are in the picture then changes slightly.
        faces: (F, 3) of the right hand (`model.mano.faces`); None: those of `out`, or of the user's MANO file.

    Returns:
        B hands. `intrinsics` looks at (W / 2, H / 2); `box` is `boxes`, or the crop itself.

    Raises:
        InputError: Something is missing, of another shape, not finite, no rotation, or does not fit the rest; the
            message names the key.
        ManoFileNotFoundError: No faces were given, and there is no MANO file to take them from.
    """
    data = as_mapping(out, "out") | ({} if batch is None else as_mapping(batch, "batch"))
    vertices = array_of(data, "pred_vertices", (None, None, 3))
    count = len(vertices)
    joints = array_of(data, "pred_keypoints_3d", (count, 21, 3))
    right = right_flags(data, "right", count)
    sizes = image_sizes(image_size, count) if image_size is not None else array_of(data, "img_size", (count, 2))
    check_positive(sizes, "img_size")
    if not vertices.shape[1]:
        raise InputError(f"pred_vertices must hold vertices, got shape {vertices.shape}")
    model, parameters = _parameters(data, count)
    camera = array_of(data, "pred_cam", (count, 3)) if "pred_cam" in data else None
    vertices, joints, camera = _as_predicted(data, right, vertices, joints, camera)
    mirror = np.where(right[:, None] == 1, 1.0, MIRROR)
    translation, focal, source = _full_translation(data, camera, mirror, sizes)
    boxes = _boxes(data, count)
    scores = array_of(data, "score", (count,), finite=False) if "score" in data else np.full(count, np.nan)
    sources = source_words(data, "intrinsics_source", count) if "intrinsics_source" in data else [source] * count
    triangles = check_faces(faces if faces is not None else data.get("faces"), vertices.shape[1]) if count else None
    return [
        _hand(
            vertices=vertices[row] * mirror[row],
            joints=joints[row] * mirror[row],
            translation=translation[row],
            focal=focal[row],
            new_focal=focal_length,
            size=sizes[row],
            box=boxes[row],
            score=scores[row],
            side=SIDES[int(right[row])],
            model=model,
            source=sources[row],
            faces=triangles,
            name=f"row {row}",
            **_own_side(parameters, row, right[row] == 1),
        )
        for row in range(count)
    ]


def from_wilor(
    predictions: Sequence[Mapping[str, Any]],
    image_size: Any = None,
    *,
    focal_length: float | None = None,
    faces: Any = None,
) -> list[Hand]:
    """WiLoR-mini's results as hands; for WiLoR's own `out`, which is HaMeR's, see `from_hamer`.

    Args:
        predictions: What `pipeline.predict(image)` returned, see `to_wilor`.
        image_size: (2,) width and height of the picture, which WiLoR-mini does not return; None: own `img_size`.
        focal_length, faces: As for `from_hamer`.

    Raises:
        InputError, ManoFileNotFoundError: As for `from_hamer`; the message gives the number of the prediction.
    """
    if isinstance(predictions, (str, bytes, Mapping)) or not isinstance(predictions, Sequence):
        raise InputError(f"predictions must be WiLoR-mini's list of dicts, got {type(predictions).__name__}")
    return [
        _from_wilor(as_mapping(entry, f"prediction {number}"), f"prediction {number}", image_size, focal_length, faces)
        for number, entry in enumerate(predictions)
    ]


def _from_wilor(entry: dict[str, Any], name: str, image_size: Any, focal_length: float | None, faces: Any) -> Hand:
    preds = as_mapping(needed(entry, "wilor_preds", name), f"{name}'s wilor_preds")
    right = int(right_flags({"is_right": [needed(entry, "is_right", name)]}, "is_right", 1, name)[0])
    size = image_size if image_size is not None else needed(entry, "img_size", name, "; pass image_size=(W, H)")
    size = image_sizes(size, 1)[0]
    vertices = array_of(preds, "pred_vertices", (1, None, 3), name)[0]
    model = "open" if "open_params" in entry else "mano"
    params = as_mapping(entry["open_params"], f"{name}'s open_params") if model == "open" else preds
    focal = array_of(preds, "scaled_focal_length", None, name)
    if focal.size != 1:
        raise InputError(f"{name}: scaled_focal_length must be one number, got shape {focal.shape}")
    guess = math.isclose(float(focal.item()), FOCAL_LENGTH / CROP_SIZE * size.max(), rel_tol=1e-4)
    score = entry.get("score")
    return _hand(
        vertices=vertices,
        joints=array_of(preds, "pred_keypoints_3d", (1, 21, 3), name)[0],
        translation=array_of(preds, "pred_cam_t_full", (1, 3), name)[0],
        global_orient=array_of(params, "global_orient", (1, 1, 3), name)[0, 0],
        hand_pose=array_of(params, "hand_pose", (1, 15, 3), name)[0],
        betas=array_of(params, "betas", (1, 10), name)[0],
        focal=float(focal.item()),
        new_focal=focal_length,
        size=size,
        box=array_of(entry, "hand_bbox", (4,), name),
        score=np.nan if score is None else array_of(entry, "score", (), name),
        side=SIDES[right],
        model=model,
        source=source_word(entry.get("intrinsics_source", "default" if guess else "given"), name),
        faces=check_faces(faces if faces is not None else entry.get("faces"), len(vertices)),
        name=name,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def _as_predicted(
    data: dict[str, Any], right: np.ndarray, vertices: np.ndarray, joints: np.ndarray, camera: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Vertices, joints and camera of left hands in the network's mirrored frame, whatever a demo script did to them.

    `pred_keypoints_2d` is the projection of joints and camera as they were; a fingertip is a vertex of the mesh.
    """
    if camera is None or "pred_keypoints_2d" not in data:
        return vertices, joints, camera
    count = len(right)
    seen = array_of(data, "pred_keypoints_2d", (count, 21, 2))
    focal = array_of(data, "focal_length", (count, 2))[:, 0] if "focal_length" in data else np.full(count, FOCAL_LENGTH)
    check_positive(camera[:, :1], "s of pred_cam")
    vertices, joints, camera = vertices.copy(), joints.copy(), camera.copy()
    for row in range(count):
        tries = [(1.0, 1.0)] if right[row] else [(a, b) for a in (1.0, -1.0) for b in (1.0, -1.0)]
        depth = crop_translation(camera[row : row + 1], focal[row])[0, 2]
        safe = joints[row, :, 2] + depth > 0.1 * depth  # nearer, and the projection is noise
        errors = []
        for flip, turn in tries:
            moved = joints[row] * [flip, 1, 1] + [turn * camera[row, 1], camera[row, 2], depth]
            off = pinhole(moved[safe], focal[row] / CROP_SIZE, 0.0) - seen[row, safe]
            errors.append(np.abs(off).max(initial=0.0) / max(1.0, np.abs(seen[row, safe]).max(initial=0.0)))
        best = int(np.argmin(errors))
        if errors[best] > 0.02:
            raise InputError(
                f"pred_keypoints_2d of row {row} is not the projection of its pred_keypoints_3d by its pred_cam "
                f"({errors[best]:.2f} of a crop apart); pass what the network returned"
            )
        joints[row, :, 0] *= tries[best][0]
        camera[row, 1] *= tries[best][1]
        if not right[row] and _tip_distance(vertices[row] * MIRROR, joints[row]) < _tip_distance(
            vertices[row], joints[row]
        ):
            vertices[row] *= MIRROR
    return vertices, joints, camera


def _tip_distance(vertices: np.ndarray, joints: np.ndarray) -> float:
    """Mean distance, metres, of the five fingertips from their nearest vertices: 0 where both are of one hand."""
    return float(np.linalg.norm(vertices[:, None] - joints[TIPS], axis=-1).min(0).mean())


def _full_translation(
    data: dict[str, Any], camera: np.ndarray | None, mirror: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str]:
    """(B, 3) translations and (B,) focal lengths of the picture's camera, and whether the focal length is a guess."""
    count = len(sizes)
    guess = guessed_focal(sizes) if count else FOCAL_LENGTH
    focal, source = np.full(count, guess), "default"
    if "scaled_focal_length" in data:
        stored = array_of(data, "scaled_focal_length", None)
        if stored.size not in (1, count):
            raise InputError(f"scaled_focal_length must be one number or ({count},), got shape {stored.shape}")
        check_positive(stored, "scaled_focal_length")
        focal = np.broadcast_to(stored.ravel() if stored.size else focal, (count,))
        source = "default" if np.allclose(focal, guess, rtol=1e-4) else "given"
    elif "pred_cam_t_full" in data:
        raise InputError("pred_cam_t_full says nothing without its focal length; scaled_focal_length is missing")
    if "pred_cam_t_full" in data:
        return array_of(data, "pred_cam_t_full", (count, 3)), focal, source
    if camera is None:
        raise InputError("pred_cam (B, 3) is missing, and pred_cam_t_full (B, 3) too")
    centre, side = array_of(data, "box_center", (count, 2)), array_of(data, "box_size", (count,))
    check_positive(side, "box_size")
    check_positive(camera[:, :1], "s of pred_cam")
    return full_translation(camera * mirror[:, [1, 0, 2]], focal, centre, side, sizes), focal, source


def _boxes(data: dict[str, Any], count: int) -> np.ndarray:
    if "boxes" in data:
        return array_of(data, "boxes", (count, 4))
    centre, reach = array_of(data, "box_center", (count, 2)), array_of(data, "box_size", (count,))[:, None] / 2
    return np.concatenate([centre - reach, centre + reach], 1)


def _parameters(data: dict[str, Any], count: int) -> tuple[str, dict[str, np.ndarray]]:
    """The hand model, and the parameters of its right hand as float64 arrays."""
    model = "open" if "pred_open_params" in data and "pred_mano_params" not in data else "mano"
    name = f"pred_{model}_params"
    raw = as_mapping(needed(data, name), name)
    turns = [
        array_of(raw, "global_orient", (count, 1, 3, 3), name),
        array_of(raw, "hand_pose", (count, 15, 3, 3), name),
    ]
    matrices = np.concatenate(turns, 1)
    square = matrices @ matrices.swapaxes(-1, -2)
    sound = (np.abs(square - np.eye(3)).max((-2, -1)) < 0.02) & (np.linalg.det(matrices) > 0)
    if not sound.all():
        row, joint = np.argwhere(~sound)[0]
        raise InputError(f"joint {joint} of row {row} in {name} is no rotation matrix: {matrices[row, joint].tolist()}")
    return model, {"matrices": matrices, "betas": array_of(raw, "betas", (count, 10), name)}


def _own_side(parameters: dict[str, np.ndarray], row: int, right: bool) -> dict[str, np.ndarray]:
    """Axis-angles of one hand for the hand model of its own side."""
    turns = matrix_to_axis_angle(torch.from_numpy(parameters["matrices"][row]))
    turns = (turns if right else mirror_axis_angle(turns)).numpy()
    return {"global_orient": turns[0], "hand_pose": turns[1:], "betas": parameters["betas"][row]}


def check_faces(given: Any, vertices: int) -> np.ndarray:
    """(F, 3) int64, naming that many vertices; None: the right hand's of the user's MANO file."""
    faces = load_mano("right")["faces"] if given is None else numbers(given, "faces")
    if faces.ndim != 2 or faces.shape[1] != 3 or (faces != np.floor(faces)).any():
        raise InputError(f"faces must be (F, 3) whole numbers, got shape {faces.shape}")
    if faces.size and not 0 <= faces.min() <= faces.max() < vertices:
        raise InputError(f"faces must name vertices 0 to {vertices - 1}, got {faces.min():g} to {faces.max():g}")
    return faces.astype(np.int64)


def _hand(
    *, vertices: np.ndarray, joints: np.ndarray, translation: np.ndarray, focal: float, new_focal: float | None,
    size: np.ndarray, box: np.ndarray, score: Any, side: str, model: str, source: str, faces: np.ndarray, name: str,
    **parameters: np.ndarray,
) -> Hand:  # fmt: skip
    """A hand from vertices (V, 3) and joints (21, 3) as the hand model of its side puts them."""
    if new_focal is not None:
        if not (np.isfinite(new_focal) and new_focal > 0):
            raise InputError(f"focal_length must be a number above 0, got {new_focal}")
        translation = translation * [1, 1, new_focal / focal]
        focal, source = float(new_focal), "given"
    vertices, joints = vertices + translation, joints + translation
    if not min(vertices[:, 2].min(), joints[:, 2].min()) > 0 or not focal > 0:
        raise InputError(f"{name}: the hand must lie in front of the camera, got translation {translation.tolist()}")
    if not (box[2:] > box[:2]).all():
        raise InputError(f"{name}: the box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {box.tolist()}")
    if not np.isnan(score) and not 0 <= score <= 1:
        raise InputError(f"{name}: score must be in [0, 1], got {score}")
    intrinsics = [[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]
    arrays = parameters | {"vertices": vertices, "joints": joints, "translation": translation, "box": box}
    arrays |= {"keypoints_2d": pinhole(joints, focal, size / 2), "intrinsics": np.array(intrinsics)}
    check_camera(float32_of(intrinsics, f"{name}: intrinsics"), f"{name}: intrinsics")
    return Hand(
        **{key: float32_of(value, f"{name}: {key}") for key, value in arrays.items()},
        faces=faces if side == "right" else faces[:, ::-1].copy(),
        handedness=side,
        score=None if np.isnan(score) else float(score),
        hand_model=model,
        intrinsics_source=source,
    )
