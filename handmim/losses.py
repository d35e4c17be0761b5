"""Losses of 3D hand mesh estimation: HandMIM section 2.5, equations 11 and 12, and the terms we add.

Conventions. A prediction may have leading dimensions its label lacks (the iterations of the head): labels broadcast. A
missing label is NaN, element by element; missing elements take no part in the mean and give a gradient of exactly zero
(not NaN). Everything is computed in float32. With nothing present a loss is 0, still connected to the graph.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import project

# 3D distances are taken in decimetres: a centimetre of error is then 0.1, the scale of the other terms.
DECIMETRES_PER_METRE = 10.0
# Points are projected from at least this depth (metres), so that none behind the camera gives infinite pixels.
MIN_DEPTH = 0.02
# Cells a side of the grid on which a mask is compared (4 px at 224 px), and how many of its cells look for a vertex.
MASK_GRID = 56
MASK_CELLS = 256


def fill_missing(target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Replaces missing labels by the prediction, so that errors and gradients there are zero.

    Masking the error instead would not do: the derivative of |x| at NaN is NaN, and NaN times zero is NaN.

    Args:
        target: Label, NaN where missing; broadcasts to `prediction`.
        prediction: Any shape.

    Returns:
        The filled label and a bool mask of what was present, both float32 / bool with `prediction`'s shape.
    """
    target = target.to(device=prediction.device, dtype=torch.float32).expand_as(prediction)
    present = ~torch.isnan(target)
    return torch.where(present, target, prediction.detach().float()), present


def mean_where(error: Tensor, present: Tensor) -> Tensor:
    """Mean of `error` over the elements that are `present`; 0 if there are none."""
    return torch.where(present, error, 0.0).sum() / present.sum().clamp(min=1)


def l1_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over present elements."""
    target, present = fill_missing(target, prediction)
    return mean_where((prediction.float() - target).abs(), present)


def binary_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over present elements; logits and labels in [0, 1] of one shape."""
    present = ~torch.isnan(target)
    target = torch.where(present, target.float(), 0.0)
    return mean_where(F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none"), present)


def parameter_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L_MANO of equation 11: squared L2 distance of hand-model parameters, mean over present elements.

    The paper counts the translation among the parameters. It has no term here: depth and scale cannot both be seen in
    one image, and the 2D term of equation 12 places the hand.

    Args:
        prediction: (..., B, 3, 3) or (..., B, 15, 3, 3) rotation matrices, or (..., B, 10) betas. Rotations are
            compared as matrices, where distance has no jumps (as SPIN and PyMAF).
        target: Same without the leading dimensions; NaN where missing.
    """
    target, present = fill_missing(target, prediction)
    return mean_where((prediction.float() - target).square(), present)


def keypoint_3d_loss(joints: Tensor, target: Tensor) -> Tensor:
    """First term of equation 12: |J_3D - J*_3D|_1 relative to the wrist, in decimetres, mean over coordinates.

    Args:
        joints: (..., B, 21, 3) camera frame, metres, wrist first.
        target: (B, 21, 3); NaN where missing. Without the wrist no joint of the sample counts.
    """
    return DECIMETRES_PER_METRE * l1_loss(joints - joints[..., :1, :], target - target[..., :1, :])


def vertex_loss(vertices: Tensor, wrist: Tensor, target: Tensor, target_wrist: Tensor) -> Tensor:
    """L_vert of equation 11: L1 distance of vertices relative to the wrist, in decimetres, mean over coordinates.

    Args:
        vertices: (..., B, V, 3) camera frame, metres.
        wrist: (..., B, 1, 3) the wrist joint that belongs to them.
        target: (B, V, 3); NaN where missing.
        target_wrist: (B, 1, 3); where NaN, the sample's vertices do not count.
    """
    return DECIMETRES_PER_METRE * l1_loss(vertices - wrist, target - target_wrist)


def keypoint_2d_loss(keypoints: Tensor, target: Tensor, size: int) -> Tensor:
    """Second term of equation 12: |K(J_3D + t) - J*_2D|_1 by the true intrinsics, in half-sides of the crop.

    Args:
        keypoints: (..., B, 21, 2) crop pixels.
        target: (B, 21, 2) crop pixels; NaN where missing.
        size: Side of the crop in pixels.
    """
    return l1_loss(keypoints, target) / (size / 2)


def heatmap_loss(log_probability: Tensor, target: Tensor, sigma: float) -> Tensor:
    """Kullback-Leibler divergence of heat maps from Gaussian targets, mean over the keypoints inside the crop. Ours.

    Args:
        log_probability: (B, K, H, W) log-softmax over H x W.
        target: (B, K, 2) keypoints in [-1, 1] crop coordinates (x, y); NaN where missing, ignored outside.
        sigma: Standard deviation of the target in cells.
    """
    height, width = log_probability.shape[-2:]
    target, present = inside_crop(target)
    extent = target.new_tensor([width, height])
    centre = (target + 1) * extent / 2 - 0.5  # in cells
    density = []
    for axis, cells in enumerate((width, height)):
        offset = torch.arange(cells, device=target.device) - centre[..., axis, None]
        density.append(torch.softmax(-offset.square() / (2 * sigma**2), dim=-1))  # (B, K, cells), sums to 1
    x, y = density
    entropy = -torch.special.xlogy(x, x).sum(-1) - torch.special.xlogy(y, y).sum(-1)
    # the two-dimensional target is an outer product: it never needs to be formed
    cross = -(y[..., None, :] @ log_probability.float() @ x[..., None]).flatten(2).squeeze(-1)
    return mean_where(cross - entropy, present)


def heatmap_keypoint_loss(keypoints: Tensor, target: Tensor) -> Tensor:
    """L1 distance of soft-argmax keypoints, in half-sides of the crop, over the keypoints inside the crop. Ours.

    Args:
        keypoints: (B, K, 2) in [-1, 1] crop coordinates.
        target: (B, K, 2) in the same coordinates; NaN where missing, ignored outside.
    """
    _, present = inside_crop(target)
    return l1_loss(keypoints, torch.where(present[..., None], target, torch.nan))


def inside_crop(target: Tensor) -> tuple[Tensor, Tensor]:
    """Splits keypoints (B, K, 2) in [-1, 1] coordinates into values (0 if not usable) and (B, K) usable."""
    present = (target.abs() <= 1).all(-1)  # False for NaN
    return torch.where(present[..., None], target.float(), 0.0), present


def score_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of "the crop shows a right hand". Ours.

    Args:
        logits: (B,).
        target: (B,) 1 or 0; NaN where unknown.
    """
    return binary_loss(logits, target)


def shape_prior_loss(betas: Tensor) -> Tensor:
    """Mean squared betas (..., B, 10), in standard deviations: keeps samples without 3D labels plausible."""
    return betas.float().square().mean()


def pose_prior_loss(hand_pose: Tensor) -> Tensor:
    """Mean squared distance of (..., B, 15, 3, 3) rotation matrices from the flat hand, for the same samples."""
    identity = torch.eye(3, device=hand_pose.device)
    return (hand_pose.float() - identity).square().mean()


def mask_loss(points: Tensor, mask: Tensor) -> Tensor:
    """Two-sided distance between a projected mesh and a mask, in half-sides of the crop. Ours.

    Mean distance of the vertices from the mask plus mean distance of the mask's cells from their nearest vertex: a
    chamfer distance, which pulls also where mesh and mask do not overlap, and needs no rasteriser. A mask of the
    visible part of a hand behind an object lacks what the object covers: give it a small weight then.

    Args:
        points: (..., B, V, 2) vertices, crop pixels.
        mask: (B, S, S) bool, or float with 1 on the hand and 0 beside it; NaN where a sample has none. Empty masks do
            not count.
    """
    size = mask.shape[-1]
    usable = ~mask.isnan().flatten(1).any(1) & (mask == 1).flatten(1).any(1)
    if not usable.any():
        return 0.0 * points.float().sum()
    half = size / 2
    points = (points[..., usable, :, :].float() + 0.5) / half - 1  # [-1, 1] in the crop
    points = points.reshape(-1, *points.shape[-3:])  # (I, b, V, 2)
    cover = F.adaptive_avg_pool2d(mask[usable][:, None].float(), min(size, MASK_GRID))[:, 0]
    # half covered, or if the hand is that small: the cells it covers most
    cells = cover >= 0.5 * cover.flatten(1).amax(1)[:, None, None]
    outside = distance_to_mask(cells)
    centres = pick_cells(cells, MASK_CELLS)
    total = points.new_zeros(())
    for vertices in points:
        # For positions that are no numbers PyTorch's backward pass at a border reads wild addresses (2.14 on CPUs).
        inside = vertices.nan_to_num(0.0).clamp(-1, 1)
        sampled = F.grid_sample(
            outside[:, None], inside[:, :, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        total = total + sampled.mean() + (vertices - inside).norm(dim=-1).mean()
        with torch.no_grad():
            nearest = torch.cdist(centres, vertices).argmin(-1)  # (b, K)
        found = vertices.gather(1, nearest[..., None].expand(-1, -1, 2))
        total = total + (found - centres).norm(dim=-1).mean()
    return total / len(points)


def distance_to_mask(cells: Tensor) -> Tensor:
    """Distance of every cell's centre from the nearest cell of a mask (B, G, G), half-sides of the crop; 0 inside.

    Exact, one axis after the other (Felzenszwalb & Huttenlocher 2012, without their envelope: grids are small). Every
    mask has a cell.
    """
    side = cells.shape[-1]
    place = torch.arange(side, device=cells.device, dtype=torch.float32)
    squared = (place[:, None] - place).square()  # (G, G)
    far = float(4 * side * side)
    rows = torch.where(cells[:, None], squared[:, None], far).amin(-1)  # (B, x, y): nearest in row y
    return (rows.transpose(1, 2)[:, None] + squared[..., None]).amin(2).sqrt() * (2 / side)


def pick_cells(cells: Tensor, count: int) -> Tensor:
    """Centres of `count` cells of each mask (B, G, G), evenly spread over their rows: (B, count, 2) in [-1, 1]."""
    side = cells.shape[-1]
    order = cells.flatten(1).to(torch.uint8).argsort(dim=1, descending=True, stable=True)  # the mask's cells come first
    number = cells.flatten(1).sum(1, keepdim=True)
    rank = (torch.arange(count, device=cells.device) + 0.5) * number / count
    chosen = order.gather(1, rank.long().minimum(number - 1))
    place = torch.stack([chosen % side, chosen // side], -1)
    return (place + 0.5) * (2 / side) - 1


# What both families' `forward` takes as labels, and the shape of each behind the batch; None: of any length. Nothing is
# learned from `visibility`, which the synthetic data set gives besides.
LABEL_SHAPES: dict[str, tuple[int | None, ...]] = {
    "global_orient": (3, 3),
    "hand_pose": (15, 3, 3),
    "betas": (10,),
    "vertices": (None, 3),
    "joints": (21, 3),
    "keypoints_2d": (21, 2),
    "mask": (None, None),
    "hand": (),
    "visibility": (21,),
}


def check_labels(labels: dict[str, Tensor], batch: int, weights: dict[str, float]) -> None:
    """Raises ValueError unless labels have known names and shapes, and vertices the wrist that they are compared by.

    Args:
        labels: Of `forward`.
        batch: Number of crops.
        weights: Of the losses.
    """
    if not isinstance(labels, dict):
        raise ValueError(f"labels must be a dict of tensors by name, got {type(labels).__name__}")
    unknown = sorted(labels.keys() - LABEL_SHAPES.keys())
    if unknown:
        raise ValueError(f"labels must be some of {', '.join(LABEL_SHAPES)}, got {', '.join(unknown)}")
    for name, label in labels.items():
        expected = (batch, *LABEL_SHAPES[name])
        if label.dim() != len(expected) or any(
            size not in (None, given) for size, given in zip(expected, label.shape, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in expected)
            raise ValueError(f"the label {name} must be ({wanted}), got {tuple(label.shape)}")
    if "vertices" in labels and "joints" not in labels and weights["vertices"]:
        raise ValueError("the label vertices needs joints beside it: meshes are compared from wrist to wrist")


def check_vertices(target: Tensor, vertices: Tensor) -> None:
    """Raises ValueError unless label (B, V, 3) and estimate (..., B, V, 3) are of one hand model."""
    if target.shape[-2] != vertices.shape[-2]:
        raise ValueError(
            f"the label's vertices must be those of the model's hand model ({vertices.shape[-2]} vertices), "
            f"got {target.shape[-2]}; set config.hand_model to the one the labels were made with"
        )


def check_mask(mask: Tensor, size: int) -> None:
    """Raises ValueError unless a mask is (B, S, S) of the crops' side S, and bool or floating point.

    Whole numbers are refused, since they would be 0 and 255, as a file has them; values are not looked at, which would
    make a GPU wait.
    """
    if mask.shape[1:] != (size, size) or not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise ValueError(
            f"the label's mask must be (B, {size}, {size}) like the crops, bool or floats in [0, 1], "
            f"got {tuple(mask.shape)} of {mask.dtype}"
        )


def mesh_losses(
    iterations: list[dict[str, Tensor]],
    labels: dict[str, Tensor],
    size: int,
    weights: dict[str, float],
    intrinsics: Tensor | None = None,
) -> dict[str, Tensor]:
    """The terms of equations 11 and 12, and of a mask, each the mean over all iterations, before weighting.

    Args:
        iterations: The fields of `HandMIMMeshOutput` from `vertices` to `translation`, for each iteration.
        labels: See `HandMIMForMeshEstimation.forward`; terms without their label are left out.
        size: Side of the crop in pixels.
        weights: Terms with weight 0 are left out.
        intrinsics: (B, 3, 3) of the crops, pixels; for a mask.

    Raises:
        ValueError: See `check_vertices` and `check_mask`.
    """

    def stack(name: str) -> Tensor:
        return torch.stack([iteration[name] for iteration in iterations])

    values = {}
    for name in ("global_orient", "hand_pose", "betas"):
        if name in labels and weights[name]:
            values[name] = parameter_loss(stack(name), labels[name])
    joints = stack("joints")
    if "joints" in labels and weights["joints"]:
        values["joints"] = keypoint_3d_loss(joints, labels["joints"])
    if "vertices" in labels and "joints" in labels and weights["vertices"]:
        target, vertices = labels["vertices"], stack("vertices")
        check_vertices(target, vertices)
        values["vertices"] = vertex_loss(vertices, joints[..., :1, :], target, labels["joints"][..., :1, :])
    if "keypoints_2d" in labels and weights["keypoints_2d"]:
        values["keypoints_2d"] = keypoint_2d_loss(stack("keypoints_2d"), labels["keypoints_2d"], size)
    if "mask" in labels and weights.get("mask") and intrinsics is not None:
        check_mask(labels["mask"], size)
        values["mask"] = mask_loss(project(stack("vertices"), intrinsics, MIN_DEPTH), labels["mask"])
    if weights["shape_prior"]:
        values["shape_prior"] = shape_prior_loss(stack("betas"))
    if weights["pose_prior"]:
        values["pose_prior"] = pose_prior_loss(stack("hand_pose"))
    return values
