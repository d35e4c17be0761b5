"""Targets and losses of the hand detector: centres, boxes and sides on a grid of cells.

Cell (row i, column j) of stride s is centred at pixel ((j + 0.5) s - 0.5, (i + 0.5) s - 0.5) of the input. Hands are
given as N rows a picture, padded with NaN: `boxes` (B, N, 4) xyxy pixels; `right` (B, N), 1 for a right hand, 0 for a
left one, NaN if unknown; `counted` (B, N) bool, False for hands that need neither be found nor be missed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# TTFNet (Liu et al., AAAI 2020), section 3: the Gaussian of a box has standard deviations of alpha / 6 of its sides.
ALPHA = 0.54
# Part of a hand's Gaussian whose cells learn its box and side.
LEARNING_LEVEL = 0.35
MIN_SIGMA = 0.4  # cells: a small hand still has a neighbourhood
# CornerNet (Law and Deng, ECCV 2018), equation 1.
FOCAL_POWER, FOCAL_REDUCTION = 2.0, 4.0


@dataclass
class DetectionTargets:
    """What each cell should say.

    Attributes:
        centre: (B, h, w) in [0, 1], 1 at the cell nearest to a counted hand's centre.
        care: (B, h, w) bool, False inside hands that are not counted.
        weight: (B, h, w) of the cell in the losses of box and side; the cells of a hand sum to 1.
        boxes: (B, h, w, 4) xyxy pixels of the hand that a cell belongs to.
        right: (B, h, w) of that hand.
    """

    centre: Tensor
    care: Tensor
    weight: Tensor
    boxes: Tensor
    right: Tensor


def cell_centres(side: int, stride: int, device: torch.device | None = None) -> Tensor:
    """(side, side, 2) pixel positions (x, y) of the cells."""
    axis = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) * stride - 0.5
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


def detection_targets(boxes: Tensor, right: Tensor, counted: Tensor, side: int, stride: int) -> DetectionTargets:
    """Targets of a grid of `side` x `side` cells; of two hands in a cell the smaller one owns it.

    Args:
        boxes, right, counted: See the module.
        side: Cells a side.
        stride: Pixels a cell.
    """
    if not boxes.shape[1]:  # no hand in any picture
        boxes = F.pad(boxes, (0, 0, 0, 1), value=torch.nan)
        right, counted = F.pad(right, (0, 1)), F.pad(counted, (0, 1))
    grid = cell_centres(side, stride, boxes.device)
    given = ~boxes.isnan().any(-1)  # (B, N)
    safe = torch.where(given[..., None], boxes.float(), 0.0)
    low, high = safe[:, :, None, None, :2], safe[:, :, None, None, 2:]
    extent, middle = (high - low).clamp(min=1e-3), (low + high) / 2
    sigma = (ALPHA / 6 * extent).clamp(min=MIN_SIGMA * stride)
    height = torch.exp(-0.5 * ((grid - middle) / sigma).square().sum(-1))  # (B, N, h, w)
    found = (given & counted)[..., None, None]
    height = torch.where(found, height, 0.0)
    nearest = height.flatten(2).argmax(2)  # (B, N)
    peak = F.one_hot(nearest, side * side).unflatten(2, (side, side)).bool() & found
    inside = ((grid >= low) & (grid <= high)).all(-1)
    passed = (given & ~counted)[..., None, None] & inside
    learning = torch.where((height >= LEARNING_LEVEL) | peak, height.clamp(min=LEARNING_LEVEL), 0.0) * found
    size = torch.where(learning > 0, extent.prod(-1), torch.inf)
    owner = size.argmin(1, keepdim=True)  # (B, 1, h, w)
    weight = learning * torch.zeros_like(learning).scatter(1, owner, 1.0)
    weight = weight / weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
    index = owner.squeeze(1).flatten(1)  # (B, h * w)
    return DetectionTargets(
        centre=torch.where(peak, 1.0, height).amax(1),
        care=~passed.any(1) | peak.any(1),
        weight=weight.sum(1),
        boxes=safe.gather(1, index[..., None].expand(-1, -1, 4)).unflatten(1, (side, side)),
        right=right.float().gather(1, index).unflatten(1, (side, side)),
    )


def centre_loss(logits: Tensor, centre: Tensor, care: Tensor) -> Tensor:
    """Penalty-reduced focal loss (CornerNet, equation 1; CenterNet, equation 1), over the number of centres.

    Args:
        logits: (B, h, w).
        centre, care: See `DetectionTargets`.
    """
    logits = logits.float()
    positive = centre == 1
    chance = logits.sigmoid()
    at_centre = F.logsigmoid(logits) * (1 - chance).pow(FOCAL_POWER)
    elsewhere = F.logsigmoid(-logits) * chance.pow(FOCAL_POWER) * (1 - centre).pow(FOCAL_REDUCTION)
    total = torch.where(positive, at_centre, torch.where(care, elsewhere, 0.0)).sum()
    return -total / positive.sum().clamp(min=1)


def box_loss(boxes: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al., CVPR 2019), averaged over hands.

    Args:
        boxes, target: (B, h, w, 4) xyxy pixels.
        weight: See `DetectionTargets`.
    """
    chosen = weight > 0
    return _per_hand(1 - generalised_iou(boxes.float()[chosen], target[chosen]), weight[chosen])


def generalised_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(P,) in [-1, 1] of pairs of boxes (P, 4), xyxy: intersection over union, less the share of the common hull that
    neither covers."""
    area, other_area = ((value[:, 2:] - value[:, :2]).clamp(min=0).prod(1) for value in (boxes, others))
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (area + other_area - shared).clamp(min=1e-6)
    hull_low, hull_high = torch.minimum(boxes[:, :2], others[:, :2]), torch.maximum(boxes[:, 2:], others[:, 2:])
    hull = (hull_high - hull_low).prod(1).clamp(min=1e-6)
    return shared / union - (hull - union) / hull


def side_loss(logits: Tensor, right: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of left and right, averaged over the hands whose side is known.

    Args:
        logits: (B, h, w), above 0 for right.
        right, weight: See `DetectionTargets`.
    """
    chosen = (weight > 0) & ~right.isnan()
    error = F.binary_cross_entropy_with_logits(logits.float()[chosen], right[chosen], reduction="none")
    return _per_hand(error, weight[chosen])


def _per_hand(error: Tensor, weight: Tensor) -> Tensor:
    """Mean over hands of the weighted errors of their cells; 0 without any, still connected to the graph."""
    return (error * weight).sum() / weight.sum().clamp(min=1e-6)


__all__ = ["DetectionTargets", "box_loss", "centre_loss", "detection_targets", "generalised_iou", "side_loss"]
