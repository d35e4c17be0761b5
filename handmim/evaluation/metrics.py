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
    """Mean joint error of each sample after Procrustes alignment: mean over the joints of `pa_errors`.

    Returns:
        (B,) in the target's unit; NaN where not found or with fewer than three labelled joints.
    """
    return pa_errors(predicted, target).nanmean(1)


def pa_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """Error of each joint after Procrustes alignment of its sample (rotation, scale, translation; no reflection).

    Args:
        predicted: (B, N, 3), any unit; a sample that was not found is NaN.
        target: (B, N, 3); unlabelled joints are NaN and take no part in the alignment.

    Returns:
        (B, N) in the target's unit; NaN where not labelled, not found or with fewer than three labelled joints.
    """
    result = torch.full(predicted.shape[:2], torch.nan, dtype=target.dtype, device=target.device)
    labelled = ~target.isnan().any(-1)
    found = ~predicted.isnan().any(-1).any(-1) & (labelled.sum(1) >= 3)
    # Samples with the same labelled joints are aligned together; mostly all joints are.
    for mask in labelled[found].unique(dim=0):
        rows = found & (labelled == mask).all(1)
        aligned, _ = similarity_align(predicted[rows][:, mask].to(target.dtype), target[rows][:, mask])
        result[rows[:, None] & mask] = point_errors(aligned, target[rows][:, mask]).flatten()
    return result


def root_relative_errors(predicted: Tensor, target: Tensor, root: int = 0) -> Tensor:
    """Distances of points relative to one of them.

    Args:
        predicted: (..., N, 3).
        target: (..., N, 3), same unit; NaN where not labelled.
        root: The point that is brought to the truth; 0 is the wrist.

    Returns:
        (..., N), NaN where the point or the root is not labelled.
    """
    return point_errors(predicted - predicted[..., root, None, :], target - target[..., root, None, :])


def mask_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of masks: (..., H, W) bool twice -> (...) in [0, 1]; NaN where both are empty.

    Example:
        >>> import torch
        >>> mask_iou(torch.tensor([[True, True]]), torch.tensor([[True, False]])).item()
        0.5
    """
    intersection = (predicted & target).flatten(-2).sum(-1).double()
    return intersection / (predicted | target).flatten(-2).sum(-1)


def class_overlaps(predicted: Tensor, target: Tensor) -> Tensor:
    """Pixels of the two classes of a segmentation, to be summed over pictures for `mean_iou`.

    Args:
        predicted, target: (..., H, W) bool, what is hand.

    Returns:
        (2, 2) float64: rows background and hand; columns pixels in both masks, and in either.
    """
    pairs = ((~predicted, ~target), (predicted, target))
    return torch.stack([torch.stack([(a & b).sum(), (a | b).sum()]) for a, b in pairs]).double()


def mean_iou(overlaps: Tensor) -> float:
    """mIoU of segmentation: of each class intersection over union of all pictures together, mean over the classes.

    Args:
        overlaps: (2, 2), sum of `class_overlaps`.

    Returns:
        In [0, 1]; NaN without any pixel of a class.
    """
    return (overlaps[:, 0] / overlaps[:, 1]).mean().item()


def iou_pck(ious: Tensor, thresholds: Sequence[float] | Tensor) -> Tensor:
    """Share of hands whose mask IoU is at least each threshold (HIU-DMTL's IoU-PCK).

    Args:
        ious: (B,) of `mask_iou`; a hand that was not found has 0, NaN is left out.
        thresholds: (T,) in [0, 1].

    Returns:
        (T,) shares.
    """
    known = ious[~ious.isnan()]
    return (known[:, None] >= torch.as_tensor(thresholds, dtype=known.dtype)).double().mean(0)


def acceleration_error(predicted: Tensor, target: Tensor, frame_rate: float | None = None) -> Tensor:
    """How much smoother or rougher a predicted motion is: distance between accelerations, by second differences.

    Kanazawa et al. 2019 (arXiv 1812.01601), section 5.1.

    Args:
        predicted: (T, N, 3) points of one video, in the order of time.
        target: (T, N, 3), same unit; NaN where not labelled.
        frame_rate: Frames a second, for metres per second squared; None gives metres per frame squared.

    Returns:
        (T - 2, N), NaN where one of three frames is not labelled.
    """
    if len(predicted) < 3:
        raise ValueError(f"an acceleration takes at least three frames, got {len(predicted)}")
    errors = point_errors(predicted.diff(n=2, dim=0), target.diff(n=2, dim=0))
    return errors if frame_rate is None else errors * frame_rate**2


class MeanError:
    """Mean and PCK curve of errors that come in batches: `update` with each batch, then `compute` and `curve`.

    Example:
        >>> import torch
        >>> metric = MeanError()
        >>> metric.update(torch.tensor([[0.0, 2.0]]))
        >>> metric.update(torch.tensor([[4.0, float("nan")]]))
        >>> metric.compute(), metric.curve([3.0]).tolist()
        (2.0, [0.6666666666666666])
    """

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def update(self, errors: Tensor) -> None:
        """Take errors of any shape; NaN where not labelled."""
        self.batches.append(errors.detach().flatten().double().cpu())

    def errors(self) -> Tensor:
        """(M,) all errors so far, unlabelled ones included."""
        return torch.cat(self.batches) if self.batches else torch.empty(0, dtype=torch.float64)

    def compute(self) -> float:
        """Mean over all labelled points; NaN if there is none."""
        return mean_error(self.errors())

    def curve(self, thresholds: Sequence[float] | Tensor) -> Tensor:
        """`pck_curve` of all labelled points."""
        return pck_curve(self.errors(), thresholds)

    def reset(self) -> None:
        """Forget all batches."""
        self.batches.clear()
