"""Losses of HIU-DMTL, section 3.3 of the paper. Missing labels are NaN, as in `losses.py`."""

import torch
from torch import Tensor

from .losses import binary_loss, fill_missing, mean_where
from .targets_hiu_dmtl import BONES, unit

# A Gaussian covers few of a map's cells: errors there count more, by this much times the target, or all-zero maps would
# be a good answer.
FOREGROUND_WEIGHT = 20.0


def map_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L_hm and L_pof: squared distance of maps, weighted by the size of the target, mean over what is present.

    Args:
        prediction: (B, ..., h, w).
        target: Same shape; NaN where not known, 0 off the foreground.
    """
    target, present = fill_missing(target, prediction)
    weight = 1 + FOREGROUND_WEIGHT * target.abs()
    return mean_where(weight * (prediction.float() - target).square(), present)


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """L_seg: binary cross-entropy, mean over the cells that are labelled.

    Args:
        logits: (B, h, w).
        target: (B, h, w) in [0, 1]; NaN where not labelled.
    """
    return binary_loss(logits, target)


def bone_loss(joints: Tensor, target: Tensor) -> Tensor:
    """L_3d: one minus the cosine between estimated and true bones, mean over the bones that are labelled.

    Args:
        joints: (..., B, 21, 3) camera frame.
        target: (B, 21, 3); NaN where missing.
    """
    parents, children = zip(*BONES, strict=True)
    parents, children = list(parents), list(children)
    true = target[..., children, :] - target[..., parents, :]
    present = ~torch.isnan(true).any(-1)
    true = torch.where(present[..., None], true, torch.ones_like(true)).float()
    bones = unit(joints[..., children, :] - joints[..., parents, :])
    similarity = (bones.float() * unit(true)).sum(-1)
    return mean_where(1 - similarity, present.expand(similarity.shape))


def silhouette_loss(coverage: Tensor, mask: Tensor) -> Tensor:
    """L_mask: one minus the soft intersection over union of a rendered and a given mask, mean over labelled samples.

    Args:
        coverage: (B, h, w) in [0, 1], from `silhouette.soft_silhouette`.
        mask: (B, h, w) in [0, 1]; NaN where a sample has none.
    """
    present = ~torch.isnan(mask).flatten(1).any(1)
    mask = torch.where(present[:, None, None], mask.float(), 0.0)
    intersection = (coverage * mask).sum((1, 2))
    union = (coverage + mask - coverage * mask).sum((1, 2))
    return mean_where(1 - intersection / union.clamp(min=1e-6), present)


def focal_loss(log_focal: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """Squared distance of the logarithm of the focal length, in sides of the crop.

    Args:
        log_focal: (..., B).
        intrinsics: (B, 3, 3) of the crop, pixels.
    """
    true = (intrinsics[:, (0, 1), (0, 1)].mean(-1) / size).log()
    return (log_focal.float() - true).square().mean()
