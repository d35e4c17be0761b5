"""Errors of a batch of held-out hands, as they are reported while a mesh model learns."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from handmim.evaluation.metrics import mask_iou
from handmim.geometry import similarity_align

METRICS = ("pa_mpjpe", "pa_mpvpe", "mpjpe")
MAP_METRICS = ("heatmap_2d", "mask_iou")
ALL_METRICS = (*METRICS, "mesh_2d", *MAP_METRICS)
MILLIMETRES = 1000.0


def all_errors(outputs: Any, labels: dict[str, Tensor], size: int) -> Tensor:
    """Errors of each hand, NaN of what a network does not give or a sample does not label.

    Args:
        outputs: `HandMIMMeshOutput` or `HIUDMTLOutput` of B hands.
        labels: Of the batch.
        size: Side S of the crops, pixels.

    Returns:
        (B, 6) in the order of `ALL_METRICS`: those of `hand_errors`, of `keypoint_errors` and of `map_errors`.
    """
    on_maps = map_errors(outputs, labels, size)
    in_space = on_maps.new_full((len(on_maps), len(METRICS)), torch.nan)
    if outputs.get("joints") is not None:
        in_space = hand_errors(outputs, labels)
    in_picture = keypoint_errors(outputs.get("keypoints_2d"), labels, size)
    return torch.cat([in_space, in_picture[:, None], on_maps], 1)


def hand_errors(outputs: Any, labels: dict[str, Tensor]) -> Tensor:
    """Errors of each hand in millimetres, NaN where a point is not labelled.

    Args:
        outputs: `HandMIMMeshOutput` of B hands.
        labels: Of the batch, with `joints` (B, 21, 3) and perhaps `vertices` (B, V, 3), metres.

    Returns:
        (B, 3): PA-MPJPE, PA-MPVPE, MPJPE relative to the wrist.
    """
    columns = torch.full((len(outputs.joints), len(METRICS)), torch.nan, device=outputs.joints.device)
    for column, name in enumerate(("joints", "vertices")):
        truth = labels.get(name)
        if truth is None or truth.shape != outputs[name].shape:
            continue
        known = ~truth.isnan().flatten(1).any(1)
        aligned, _ = similarity_align(outputs[name].float()[known], truth.float()[known])
        columns[known, column] = (aligned - truth[known]).norm(dim=-1).mean(-1)
        if name == "joints":
            error = (outputs[name] - outputs[name][:, :1]) - (truth - truth[:, :1])
            columns[:, 2] = error.norm(dim=-1).mean(-1)
    return columns * MILLIMETRES


def keypoint_errors(points: Tensor | None, labels: dict[str, Tensor], size: int) -> Tensor:
    """Mean 2D error of each hand's labelled keypoints.

    Args:
        points: (B, 21, 2) crop pixels; None of a network that has none.
        labels: Of the batch, perhaps with `keypoints_2d` (B, 21, 2), crop pixels.
        size: Side S of the crops, pixels.

    Returns:
        (B,) sides of the crop, NaN without points or labels.
    """
    if points is None or "keypoints_2d" not in labels:
        values = next(iter(labels.values()))
        return torch.full((len(values),), torch.nan, device=values.device)
    return (points - labels["keypoints_2d"]).norm(dim=-1).nanmean(-1) / size


def map_errors(outputs: Any, labels: dict[str, Tensor], size: int) -> Tensor:
    """What the maps of HIU-DMTL say of each hand, NaN without such maps or labels.

    Args:
        outputs: `HIUDMTLOutput` of B hands; any other has no maps.
        labels: Of the batch, with `keypoints_2d` (B, 21, 2), crop pixels, and perhaps `mask` (B, S, S).
        size: Side S of the crops, pixels.

    Returns:
        (B, 2): mean error of the heat maps' keypoints, sides of the crop; intersection over union of the masks, at the
        resolution of the maps.
    """
    values = next(iter(labels.values()))
    columns = torch.full((len(values), len(MAP_METRICS)), torch.nan, device=values.device)
    columns[:, 0] = keypoint_errors(outputs.get("heatmap_keypoints"), labels, size)
    mask = outputs.get("mask")
    if mask is not None and "mask" in labels:
        wanted = torch.nn.functional.adaptive_avg_pool2d(labels["mask"].float(), mask.shape[-1])
        known = ~wanted.isnan().flatten(1).any(1)
        columns[known, 1] = mask_iou(mask[known] > 0.5, wanted[known] > 0.5).to(columns.dtype)
    return columns


def mean_errors(prediction: EvalPrediction) -> dict[str, float]:
    """Mean over the hands that have the label; what no hand has is left out."""
    errors = np.asarray(prediction.predictions, np.float64).reshape(-1, len(ALL_METRICS))
    return {
        name: float(np.nanmean(column))
        for name, column in zip(ALL_METRICS, errors.T, strict=True)
        if np.isfinite(column).any()
    }
