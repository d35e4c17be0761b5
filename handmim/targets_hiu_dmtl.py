"""What the multi-task blocks of HIU-DMTL learn to draw, made on the device in batch (section 3.1 of the paper).

Maps have cells; cell (0, 0) of a map of h x w cells over a crop of S pixels covers the crop's top-left S / h pixels.
"""

import torch
from torch import Tensor

# (parent, child) of the 20 bones, in the order of the 21 joints: each joint but the wrist ends one bone.
BONES: tuple[tuple[int, int], ...] = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21))


def to_cells(pixels: Tensor, size: int, cells: int) -> Tensor:
    """Crop pixels (..., 2) -> coordinates of a map: 0 is the centre of its first cell."""
    return (pixels + 0.5) * (cells / size) - 0.5


def gaussian_heatmaps(keypoints: Tensor, sigma: float, height: int, width: int) -> Tensor:
    """Gaussian heat maps with height 1 (section 3.1).

    Args:
        keypoints: (B, K, 2) in cells; NaN where missing.
        sigma: In cells.

    Returns:
        (B, K, height, width); NaN where the keypoint is.
    """
    x = torch.arange(width, device=keypoints.device, dtype=keypoints.dtype)
    y = torch.arange(height, device=keypoints.device, dtype=keypoints.dtype)
    across = torch.exp(-(x - keypoints[..., 0, None]).square() / (2 * sigma**2))
    down = torch.exp(-(y - keypoints[..., 1, None]).square() / (2 * sigma**2))
    return down[..., :, None] * across[..., None, :]


def bone_masks(keypoints: Tensor, radius: float, height: int, width: int) -> Tensor:
    """The cells of each bone: those within `radius` of the segment between its joints.

    Args:
        keypoints: (B, 21, 2) in cells; a bone with a missing joint (NaN) has no cells.
        radius: In cells.

    Returns:
        (B, 20, height, width) bool.
    """
    start, end = _bone_ends(keypoints)
    along = (end - start)[..., None, None]  # (B, 20, 2, 1, 1)
    x = torch.arange(width, device=keypoints.device, dtype=keypoints.dtype)
    y = torch.arange(height, device=keypoints.device, dtype=keypoints.dtype)[:, None]
    offset_x, offset_y = x - start[..., 0, None, None], y - start[..., 1, None, None]
    along_x, along_y = along[..., 0, :, :], along[..., 1, :, :]
    length = (along_x.square() + along_y.square()).clamp(min=1e-9)
    share = ((offset_x * along_x + offset_y * along_y) / length).clamp(0, 1)
    distance = (offset_x - share * along_x).square() + (offset_y - share * along_y).square()
    return distance <= radius**2  # False for NaN


def bone_orientations(keypoints: Tensor, joints: Tensor | None) -> Tensor:
    """What the field holds on each bone, equation 2: the unit direction in the picture, and z of the unit one in space.

    Args:
        keypoints: (B, 21, 2), any unit, y down; NaN where missing.
        joints: (B, 21, 3), any unit, camera frame; NaN where missing; None: z is missing everywhere.

    Returns:
        (B, 20, 3): NaN where a joint is missing, so that samples with 2D labels only still teach two channels.
    """
    start, end = _bone_ends(keypoints)
    flat = unit(end - start)
    if joints is None:
        return torch.cat([flat, torch.full_like(flat[..., :1], torch.nan)], -1)
    start, end = _bone_ends(joints)
    return torch.cat([flat, unit(end - start)[..., 2:].to(flat.dtype)], -1)


def part_orientation_fields(keypoints: Tensor, joints: Tensor | None, radius: float, height: int, width: int) -> Tensor:
    """Part orientation fields, equation 2.

    Args:
        keypoints: (B, 21, 2) in cells; NaN where missing.
        joints: (B, 21, 3) camera frame; NaN where missing, or None.
        radius: Half the width of a bone, in cells.

    Returns:
        (B, 20, 3, height, width): 0 off the bone; NaN where a value is not known, everywhere for a bone whose place is
        not known, on the bone for a channel that is not known.
    """
    value = bone_orientations(keypoints, joints)[..., None, None]
    mask = bone_masks(keypoints, radius, height, width)[:, :, None]
    field = torch.where(mask, value, torch.zeros_like(value))
    unknown = value[:, :, :1].isnan()  # without both ends nothing is known of the bone
    return torch.where(unknown, torch.nan, field)


def mean_fields(fields: Tensor) -> Tensor:
    """What fields say of each bone: their mean, where they are strong.

    Args:
        fields: (B, 20, 3, h, w), as a network draws them.

    Returns:
        (B, 20, 3) float32, about as `bone_orientations`.
    """
    fields = fields.float()
    strength = fields.square().sum(2, keepdim=True)
    return (strength * fields).sum((3, 4)) / strength.sum((3, 4)).clamp(min=1e-6)


def unit(vector: Tensor) -> Tensor:
    """Vectors (..., D) of length 1; a vector of no length stays 0."""
    return vector / vector.norm(dim=-1, keepdim=True).clamp(min=1e-9)


def _bone_ends(points: Tensor) -> tuple[Tensor, Tensor]:
    parents, children = zip(*BONES, strict=True)
    return points[:, list(parents)], points[:, list(children)]
