"""Results to and from the dictionaries that HaMeR, WiLoR and WiLoR-mini hand out.

Frames, as their public code has them (hamer/models/hamer.py, hamer/datasets/vitdet_dataset.py, hamer/utils/renderer.py
and demo.py of geopavlakos/hamer; the same files of rolpotamias/WiLoR; wilor_mini/pipelines of warmshao/WiLoR-mini):

* The network sees right hands only. **HaMeR and WiLoR** return what the network says: of a left hand that is the right
  hand in the mirror x -> -x, parameters included, and the caller multiplies x of `pred_vertices`, `pred_keypoints_3d`
  and of `pred_cam` by 2 * right - 1. **WiLoR-mini** returns all of this, and the axis-angles, mirrored back already.
* Vertices and joints stand where MANO puts them, metres, camera axes (x right, y down, z forward); `pred_cam_t_full`
  brings them into the camera frame of the picture.
* That camera has square pixels, focal length `scaled_focal_length`, and looks at (W / 2, H / 2). Pixels count as ours:
  (0, 0) is the centre of the first. Ours may look elsewhere and often does: `default_intrinsics` at (W - 1) / 2.
* Rotations are relative to MANO's flat hand, as ours (smplx's MANOLayer adds no mean pose); the 21 joints and the
  five tip vertices are ours, in our order.

What other software's dictionary does not have, and ours has, is marked "own" below.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .errors import InputError
from .geometry import axis_angle_to_matrix, mirror_matrix
from .hamer_camera import (
    CROP_SIZE,
    FOCAL_LENGTH,
    MAX_ERROR,
    MIRROR,
    crop_camera,
    crop_translation,
    hamer_camera,
    pinhole,
)
from .hamer_checks import SIDES, float32_of, image_sizes
from .hamer_reading import from_hamer, from_wilor
from .hand import Hand
from .images import load_image

# Side of the crop over the longer side of the box: demo.py of HaMeR and WiLoR, and WiLoR-mini's pipeline.
HAMER_RESCALE, WILOR_MINI_RESCALE = 2.0, 2.5


def to_hamer(
    hands: Sequence[Hand],
    image_size: Any = None,
    *,
    rescale_factor: float = HAMER_RESCALE,
    max_error: float = MAX_ERROR,
) -> dict[str, Any]:
    """Hands as HaMeR's and WiLoR's `out = model(batch)`, and with what their demo scripts compute after it.

    Args:
        hands: B hands of one hand model.
        image_size: (2,) or (B, 2), width and height, pixels; None: read from `hand.image`.
        rescale_factor: Side of the crop over the longer side of the box.
        max_error: Pixels that HaMeR's camera may differ from ours, see `hamer_camera`.

    Returns:
        numpy float32, in the mirrored frame for left hands unless said otherwise:

        * `pred_cam` (B, 3): s, tx, ty; s = 2 f / (box_size * depth), tx and ty metres in the crop.
        * `pred_cam_t` (B, 3): metres, camera of the crop: tx, ty, 2 * 5000 / (256 s).
        * `focal_length` (B, 2): 5000, pixels of the crop's camera.
        * `pred_mano_params`: `global_orient` (B, 1, 3, 3), `hand_pose` (B, 15, 3, 3) rotation matrices of MANO's right
          hand, `betas` (B, 10). Not there for the open hand, whose numbers mean nothing to MANO: it has
          `pred_open_params` (own), of the same form.
        * `pred_vertices` (B, V, 3), `pred_keypoints_3d` (B, 21, 3): metres, as the hand model puts them.
        * `pred_keypoints_2d` (B, 21, 2): in sides of the crop, 0 in its middle, by `pred_cam_t`: as approximate as
          HaMeR's, which sees each crop from far away; `Hand.keypoints_2d` is exact.
        * `right` (B,): 1 right, 0 left. `personid` (B,) int32: number of the row.
        * `box_center` (B, 2), `box_size` (B,): the crop; `img_size` (B, 2): width, height; image pixels.
        * `scaled_focal_length` (B,): pixels. The true one: HaMeR's demo has one guess for the whole batch.
        * `pred_cam_t_full` (B, 3): metres, picture's camera, not mirrored: `cam_crop_to_full` of the above.
        * own: `boxes` (B, 4) xyxy; `score` (B,), NaN if unknown; `faces` (F, 3) int64 of the right hand;
          `intrinsics_source` (B,) strings; `projection_error` (B,) pixels, the largest of a vertex or joint.

    Raises:
        InputError: No hands, hands of different models, an unknown image size, numbers that are not finite, an empty
            box, or a camera that HaMeR's cannot stand for.
        ImageError: `hand.image` cannot be read.
    """
    hands = _checked(hands)
    sizes = _sizes(hands, image_size)
    translation, focal, error = _cameras(hands, sizes, max_error)
    right = np.array([hand.handedness == "right" for hand in hands])
    mirror = np.where(right[:, None], 1.0, MIRROR)
    boxes = np.stack([hand.box for hand in hands]).astype(np.float64)
    centre, side = _squares(boxes, rescale_factor)
    camera = crop_camera(translation, focal, centre, side, sizes) * mirror[:, [1, 0, 2]]
    joints = np.stack([_model_frame(hand, hand.joints) for hand in hands]) * mirror[:, None]
    vertices = np.stack([_model_frame(hand, hand.vertices) for hand in hands]) * mirror[:, None]
    crop_t = crop_translation(camera, FOCAL_LENGTH)
    model = hands[0].hand_model
    floats = {
        "pred_cam": camera,
        "pred_cam_t": crop_t,
        "focal_length": np.full((len(hands), 2), FOCAL_LENGTH),
        "pred_vertices": vertices,
        "pred_keypoints_3d": joints,
        "pred_keypoints_2d": pinhole(joints + crop_t[:, None], FOCAL_LENGTH / CROP_SIZE, 0.0),
        "box_center": centre,
        "box_size": side,
        "img_size": sizes,
        "right": right,
        "scaled_focal_length": focal,
        "pred_cam_t_full": translation,
        "boxes": boxes,
        "projection_error": error,
    }
    scores = np.array([np.nan if hand.score is None else hand.score for hand in hands], np.float32)
    return {name: float32_of(value, name) for name, value in floats.items()} | {
        "score": scores,
        f"pred_{model}_params": _matrices(hands),
        "personid": np.arange(len(hands), dtype=np.int32),
        "faces": _right_faces(hands),
        "intrinsics_source": np.array([hand.intrinsics_source for hand in hands]),
    }


def to_wilor(hands: Sequence[Hand], image_size: Any = None, *, max_error: float = MAX_ERROR) -> list[dict[str, Any]]:
    """Hands as WiLoR-mini's `pipeline.predict(image)`: everything in the frame of the picture, left hands too.

    WiLoR itself speaks HaMeR's dictionary: `to_hamer`.

    Args:
        hands: Any number.
        image_size, max_error: As for `to_hamer`.

    Returns:
        For every hand a dict:

        * `hand_bbox`: [x0, y0, x1, y1], image pixels. `is_right`: 1.0 or 0.0.
        * `wilor_preds`, numpy float32 with one row: `global_orient` (1, 1, 3) and `hand_pose` (1, 15, 3) axis-angle
          of MANO's hand of this side, radians; `betas` (1, 10); `pred_cam` (1, 3), x as in the picture;
          `pred_vertices` (1, V, 3) and `pred_keypoints_3d` (1, 21, 3), metres, as the hand model of this side puts
          them; `pred_cam_t_full` (1, 3) metres; `pred_keypoints_2d` (1, 21, 2) image pixels; `scaled_focal_length`, a
          float, pixels. An open hand has no parameters there, but own `open_params` beside it.
        * own: `img_size` [width, height], `score` (None if unknown), `faces` (F, 3) int64 of the right hand,
          `intrinsics_source`.

    Raises:
        InputError, ImageError: As for `to_hamer`.
    """
    if not len(hands):
        return []
    out = to_hamer(hands, image_size, rescale_factor=WILOR_MINI_RESCALE, max_error=max_error)
    entries = []
    for row, hand in enumerate(hands):
        mirror = np.float32([1, 1, 1]) if hand.handedness == "right" else np.float32(MIRROR)
        one = slice(row, row + 1)
        focal, translation = float(out["scaled_focal_length"][row]), out["pred_cam_t_full"][one]
        joints = out["pred_keypoints_3d"][one] * mirror
        parameters = {
            "global_orient": np.asarray(hand.global_orient, np.float32)[None, None],
            "hand_pose": np.asarray(hand.hand_pose, np.float32)[None],
            "betas": np.asarray(hand.betas, np.float32)[None],
        }
        mano = hand.hand_model == "mano"
        preds: dict[str, Any] = dict(parameters) if mano else {}
        preds |= {
            "pred_cam": out["pred_cam"][one] * mirror[[1, 0, 2]],
            "pred_keypoints_3d": joints,
            "pred_vertices": out["pred_vertices"][one] * mirror,
            "pred_cam_t_full": translation,
            "scaled_focal_length": focal,
            "pred_keypoints_2d": float32_of(
                pinhole(joints + translation, focal, out["img_size"][row] / 2), f"pred_keypoints_2d of hand {row}"
            ),
        }
        entry = {"hand_bbox": out["boxes"][row].tolist(), "is_right": float(out["right"][row]), "wilor_preds": preds}
        entry |= {"img_size": out["img_size"][row].tolist(), "score": hand.score, "faces": out["faces"]}
        entry |= {"intrinsics_source": hand.intrinsics_source} | ({} if mano else {"open_params": parameters})
        entries.append(entry)
    return entries


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def _checked(hands: Sequence[Hand]) -> list[Hand]:
    """Hands of one model, finite throughout."""
    hands = list(hands)
    if not hands:
        raise InputError("there are no hands to convert")
    models = sorted({hand.hand_model for hand in hands})
    if len(models) > 1:
        raise InputError(f"hands must share a hand model, got {' and '.join(models)}; convert them apart")
    names = ("vertices", "joints", "global_orient", "hand_pose", "betas", "translation", "intrinsics", "box")
    for number, hand in enumerate(hands):
        for name in names:
            if not np.isfinite(getattr(hand, name)).all():
                raise InputError(f"{name} of hand {number} must be finite")
        if hand.handedness not in SIDES:
            raise InputError(f"handedness of hand {number} must be 'left' or 'right', got {hand.handedness!r}")
    return hands


def _sizes(hands: list[Hand], image_size: Any) -> np.ndarray:
    """(B, 2) width and height of the pictures."""
    if image_size is not None:
        return image_sizes(image_size, len(hands))
    if any(hand.image is None for hand in hands):
        raise InputError("a hand does not know its picture; pass image_size=(width, height)")
    known = {id(hand.image): hand.image for hand in hands}  # hands of one picture share it
    sizes = {key: load_image(image).size for key, image in known.items()}
    return np.array([sizes[id(hand.image)] for hand in hands], np.float64)


def _cameras(hands: list[Hand], sizes: np.ndarray, max_error: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B, 3) translations, (B,) focal lengths and (B,) errors in HaMeR's camera."""
    rows = []
    for number, (hand, size) in enumerate(zip(hands, sizes, strict=True)):
        points = np.concatenate([hand.vertices, hand.joints]).astype(np.float64)
        try:
            shift, focal, error = hamer_camera(points, hand.intrinsics.astype(np.float64), size, max_error)
        except InputError as problem:
            raise InputError(f"hand {number}: {problem}") from problem
        rows.append((hand.translation + shift, focal, error))
        if not rows[-1][0][2] > 0:
            raise InputError(f"hand {number}: HaMeR's camera needs a translation in front of it, got {rows[-1][0]}")
    translation, focal, error = zip(*rows, strict=True)
    return np.array(translation), np.array(focal), np.array(error)


def _squares(boxes: np.ndarray, rescale_factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres (B, 2) and sides (B,) of the crops around boxes (B, 4)."""
    side = rescale_factor * (boxes[:, 2:] - boxes[:, :2]).max(1)
    if not (side > 0).all():
        raise InputError(f"the box of hand {int((side > 0).argmin())} is empty: {boxes[(side > 0).argmin()].tolist()}")
    return (boxes[:, :2] + boxes[:, 2:]) / 2, side


def _model_frame(hand: Hand, points: np.ndarray) -> np.ndarray:
    """Points of a hand as the hand model of its side puts them, before the translation."""
    return points.astype(np.float64) - hand.translation


def _matrices(hands: list[Hand]) -> dict[str, np.ndarray]:
    """Parameters of the right hand in the mirror: matrices (B, 1, 3, 3), (B, 15, 3, 3) and betas (B, 10), float32."""
    turns = np.stack([np.concatenate([hand.global_orient[None], hand.hand_pose]) for hand in hands])
    matrices = axis_angle_to_matrix(torch.from_numpy(turns.astype(np.float64)))
    left = torch.tensor([hand.handedness == "left" for hand in hands])[:, None, None, None]
    matrices = torch.where(left, mirror_matrix(matrices), matrices).float().numpy()
    betas = np.stack([hand.betas for hand in hands]).astype(np.float32)
    return {"global_orient": matrices[:, :1], "hand_pose": matrices[:, 1:], "betas": betas}


def _right_faces(hands: list[Hand]) -> np.ndarray:
    """The faces that all hands share, wound as the right hand's."""
    wound = [hand.faces[:, ::-1] if hand.handedness == "left" else hand.faces for hand in hands]
    if any(not np.array_equal(faces, wound[0]) for faces in wound):
        raise InputError("hands must share their faces; convert hands of different meshes apart")
    return np.ascontiguousarray(wound[0], np.int64)


__all__ = ["from_hamer", "from_wilor", "to_hamer", "to_wilor"]
