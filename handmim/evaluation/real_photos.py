"""Scores on a small collection of annotated photographs from many sources, described by one manifest.

The manifest (JSON, "realdata manifest v1") lists for each hand: image, box, handedness, 21 keypoints in pixels or none,
3D joints in the camera frame or none, source, and whether it belongs to the development or the held-out split. Errors
are relative to the box's longer side, so that sources of any resolution can be averaged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .metrics import auc, mean_error, normalized_errors_2d, pa_mpjpe, pck

# Boxes that sources cut tightly around the keypoints get the 12 % a side that the other boxes have.
TIGHT_BOX_SOURCE, TIGHT_BOX_SCALE = "mmpose", 1.24
JOINT_MARGIN = 0.12
DEVELOPMENT = "dev"
AUC_RANGE = 0.3


@dataclass(frozen=True, eq=False)
class RealPhoto:
    """One annotated hand.

    Attributes:
        id, source, split: from the manifest.
        image: path of the picture.
        box: (4,) float64 xyxy pixels, with a margin around the keypoints.
        handedness: "left" or "right".
        keypoints_2d: (21, 2) float64 pixels, NaN where not labelled.
        joints: (21, 3) float64 metres, camera frame, NaN where not labelled.
        intrinsics: (3, 3) pixels, or None.
    """

    id: str
    source: str
    split: str
    image: Path
    box: np.ndarray
    handedness: str
    keypoints_2d: np.ndarray
    joints: np.ndarray
    intrinsics: np.ndarray | None = None

    @property
    def box_side(self) -> float:
        """Longer side of the box, pixels."""
        return float((self.box[2:] - self.box[:2]).max())

    @property
    def box_centre(self) -> np.ndarray:
        """(2,) pixels."""
        return (self.box[2:] + self.box[:2]) / 2


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method says about N hands, in the frame of their pictures; NaN where it found nothing.

    Attributes:
        keypoints_2d: (N, 21, 2) float64 pixels.
        joints: (N, 21, 3) float64 in any unit, camera frame; None if the method gives none.
    """

    keypoints_2d: np.ndarray
    joints: np.ndarray | None = None


def load_manifest(path: Path) -> list[RealPhoto]:
    """Hands with labelled keypoints and a known side.

    Raises:
        ValueError: another format.
        FileNotFoundError: a picture is missing.
    """
    manifest = json.loads(path.read_text())
    if "samples" not in manifest or not str(manifest.get("format", "")).startswith("realdata manifest"):
        raise ValueError(f"{path} must be a 'realdata manifest' with samples, got format {manifest.get('format')!r}")
    photos = []
    for entry in manifest["samples"]:
        if entry["handedness"] is None or entry["keypoints_2d"] is None:
            continue
        image = path.parent / entry["image"]
        if not image.is_file():
            raise FileNotFoundError(f"{image}, picture of {entry['id']} in {path}, does not exist")
        photos.append(
            RealPhoto(
                id=entry["id"],
                source=entry["source"],
                split=entry.get("split") or DEVELOPMENT,
                image=image,
                box=_widened(np.array(entry["bbox"], np.float64), entry["bbox_source"]),
                handedness=entry["handedness"],
                keypoints_2d=_labelled(entry["keypoints_2d"], 2),
                joints=_labelled(entry["keypoints_3d"], 3),
                intrinsics=None if entry.get("K") is None else np.array(entry["K"], np.float64),
            )
        )
    return photos


def _widened(box: np.ndarray, source: str) -> np.ndarray:
    scale = TIGHT_BOX_SCALE if TIGHT_BOX_SOURCE in source else 1.0
    centre, half = (box[2:] + box[:2]) / 2, scale * (box[2:] - box[:2]) / 2
    return np.concatenate([centre - half, centre + half])


def _labelled(points: list | None, dimensions: int) -> np.ndarray:
    """(21, D) float64 of a list with None for points that are not labelled."""
    missing = [np.nan] * dimensions
    return np.array([missing] * 21 if points is None else [missing if p is None else p for p in points], np.float64)


def score(photos: Sequence[RealPhoto], prediction: Prediction) -> dict[str, Any]:
    """All figures of one method on some hands.

    Returns:
        `hands`, `found`; of the 2D errors over the box's side `mean_error`, `pck_05`, `pck_10`, `pck_20` and `auc` (0
        to 0.3), where every point of a hand that was not found has error 1; `mean_error_found` of the others;
        `pa_mpjpe_mm` over the `hands_3d` found hands with 3D labels; and `sources`: the same for each source.
    """
    figures = _figures(photos, prediction)
    sources = sorted({photo.source for photo in photos})
    if len(sources) > 1:
        figures["sources"] = {}
        for source in sources:
            rows = [row for row, photo in enumerate(photos) if photo.source == source]
            figures["sources"][source] = _figures([photos[row] for row in rows], select(prediction, rows))
    return figures


def select(prediction: Prediction, rows: Sequence[int]) -> Prediction:
    """The prediction for some of the hands."""
    joints = None if prediction.joints is None else prediction.joints[list(rows)]
    return Prediction(prediction.keypoints_2d[list(rows)], joints)


def _figures(photos: Sequence[RealPhoto], prediction: Prediction) -> dict[str, Any]:
    target = _stack([photo.keypoints_2d for photo in photos])
    side = torch.tensor([photo.box_side for photo in photos], dtype=torch.float64)
    keypoints = torch.from_numpy(prediction.keypoints_2d).double()
    errors = normalized_errors_2d(keypoints, target, side)
    found = ~keypoints.isnan().flatten(1).any(1)
    figures: dict[str, Any] = {"hands": len(photos), "found": int(found.sum())}
    figures["mean_error"] = mean_error(errors)
    figures |= {f"pck_{round(100 * at):02d}": pck(errors, at) for at in (0.05, 0.1, 0.2)}
    figures["auc"] = auc(errors, AUC_RANGE)
    figures["mean_error_found"] = mean_error(errors[found])
    if prediction.joints is not None:
        aligned = pa_mpjpe(torch.from_numpy(prediction.joints).double(), _stack([photo.joints for photo in photos]))
        figures["hands_3d"] = int((~aligned.isnan()).sum())
        figures["pa_mpjpe_mm"] = 1000 * aligned.nanmean().item()
    return figures


def _stack(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


# ---------------------------------------------------------------------------------------------------------------------
# What knowing nothing but the box gives


def mean_hand(keypoints_2d: Tensor, joints: Tensor, global_orient: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The mean of many (synthetic) right hands.

    Args:
        keypoints_2d: (B, 21, 2) pixels of any camera.
        joints: (B, 21, 3) metres, camera frame.
        global_orient: (B, 3, 3) rotations of the wrists.

    Returns:
        (21, 2) mean keypoints relative to the centre and longer side of each hand's box (keypoints and 12 % a side),
        and (21, 3) metres, mean joints in the wrist's frame.
    """
    low, high = keypoints_2d.amin(1), keypoints_2d.amax(1)
    side = (1 + 2 * JOINT_MARGIN) * (high - low).amax(-1)
    relative = (keypoints_2d - ((low + high) / 2)[:, None]) / side[:, None, None]
    local = (joints - joints[:, :1]) @ global_orient  # rows times R is R^T applied to each
    return relative.double().mean(0).numpy(), local.double().mean(0).numpy()


def predict_mean(photos: Sequence[RealPhoto], relative: np.ndarray, local: np.ndarray) -> Prediction:
    """`mean_hand` put into every box, mirrored for left hands."""
    mirror = np.array([[-1.0 if photo.handedness == "left" else 1.0] for photo in photos])
    sides = np.array([photo.box_side for photo in photos])[:, None, None]
    centres = np.stack([photo.box_centre for photo in photos])[:, None]
    flip_2d = np.stack([mirror, np.ones_like(mirror)], -1)
    flip_3d = np.stack([mirror, np.ones_like(mirror), np.ones_like(mirror)], -1)
    return Prediction(centres + sides * flip_2d * relative, flip_3d * local)
