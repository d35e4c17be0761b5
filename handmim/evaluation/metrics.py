"""Pure metric functions on batches. A point without a label is NaN in the target and counts nowhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..geometry import similarity_align


def point_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """Euclidean distances.

    Args:
        predicted: (..., N, D) points.
        target: (..., N, D), same unit and frame; NaN where not labelled.

    Returns:
        (..., N), NaN where not labelled.
    """
    return (predicted - target).norm(dim=-1)


def normalized_errors_2d(predicted: Tensor, target: Tensor, box_side: Tensor, miss: float = 1.0) -> Tensor:
    """2D errors as a share of the hand's size in the picture.

    Args:
        predicted: (B, N, 2) pixels; a hand that was not found is NaN.
        target: (B, N, 2) pixels; NaN where not labelled.
        box_side: (B,) longer side of the hand's box, pixels.
        miss: the error of every labelled point of a hand that was not found.

    Returns:
        (B, N), NaN where not labelled.
    """
    errors = point_errors(predicted, target) / box_side[:, None]
    missed = predicted.isnan().any(-1) & ~target.isnan().any(-1)
    return torch.where(missed, torch.full_like(errors, miss), errors)


def mean_error(errors: Tensor) -> float:
    """Mean over all labelled points; NaN if there is none."""
    return errors.nanmean().item()


def pck(errors: Tensor, threshold: float) -> float:
    """Percentage of correct keypoints, as a share: labelled points whose error is below the threshold."""
    labelled = errors[~errors.isnan()]
    return (labelled < threshold).double().mean().item()


def pck_curve(errors: Tensor, thresholds: Sequence[float] | Tensor) -> Tensor:
    """(T,) shares of labelled points with an error of at most each threshold."""
    labelled = errors[~errors.isnan()].sort().values
    thresholds = torch.as_tensor(thresholds, dtype=labelled.dtype)
    return torch.searchsorted(labelled, thresholds, right=True).double() / len(labelled)


def auc(errors: Tensor, highest: float, steps: int = 61) -> float:
    """Area under the PCK curve from 0 to `highest`, as a share: the mean at `steps` equally spaced thresholds."""
    return pck_curve(errors, torch.linspace(0, highest, steps, dtype=errors.dtype)).mean().item()


def pa_mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean joint error of each sample after Procrustes alignment (rotation, scale, translation; no reflection).

    Args:
        predicted: (B, N, 3), any unit; a sample that was not found is NaN.
        target: (B, N, 3); unlabelled joints are NaN and take no part in the alignment.

    Returns:
        (B,) in the target's unit; NaN where not found or with fewer than three labelled joints.
    """
    result = torch.full(predicted.shape[:1], torch.nan, dtype=target.dtype, device=target.device)
    labelled = ~target.isnan().any(-1)
    found = ~predicted.isnan().any(-1).any(-1) & (labelled.sum(1) >= 3)
    # Samples with the same labelled joints are aligned together; mostly all joints are.
    for mask in labelled[found].unique(dim=0):
        rows = found & (labelled == mask).all(1)
        aligned, _ = similarity_align(predicted[rows][:, mask].to(target.dtype), target[rows][:, mask])
        result[rows] = point_errors(aligned, target[rows][:, mask]).mean(1)
    return result
