"""Two samples a pixel: meshes are scanned at twice the height, and a pixel is lit once, at the nearer of its samples.

The samples lie on a diagonal, (x, y) -+ 1/4, so that both upright and level edges have a middle tone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..scan_conversion import Scan

STAGGER = 0.5  # px between the two samples of a pixel, to the right and down
NEAR = 0.04  # m


@dataclass(frozen=True)
class Look:
    """What P pixels show.

    Attributes:
        face: (P,) int32. weights: (P, 3) barycentric coordinates on it. depth: (P,) m.
        cover: (P,) 1 or 0.5, the share of the pixel's samples that see a mesh.
    """

    face: Tensor
    weights: Tensor
    depth: Tensor
    cover: Tensor


def scan(
    vertices: Tensor,
    faces: Tensor,
    intrinsics: Tensor,
    size: int,
    gone: Tensor | None = None,
    mirrored: Tensor | None = None,
) -> Scan:
    """Scan meshes in the frame of their cameras.

    Args:
        vertices: (R, 3, V) m.
        faces: (F, 3).
        intrinsics: (R, 3, 3) px.
        size: side of the square pictures, px.
        gone: (R,) bool, meshes that are not to be seen.
        mirrored: (R,) bool, meshes that lie in the mirror image of their picture.

    Returns:
        Keys (R, 2 size, size).
    """
    centre = intrinsics[:, 0, 2]
    if mirrored is not None:
        centre = torch.where(mirrored, size - 1 - centre, centre)
    x, y, depth = vertices.unbind(1)
    points = torch.empty_like(vertices)
    focal, inverse = intrinsics[:, 0, 0, None], depth.reciprocal()
    torch.addcmul((centre + 0.25)[:, None], x * inverse, focal, out=points[:, 0])
    torch.addcmul((2 * intrinsics[:, 1, 2] + 0.5)[:, None], y * inverse, 2 * focal, out=points[:, 1])
    points[:, 2] = depth if gone is None else depth.masked_fill(gone[:, None], -1.0)
    return Scan(points.transpose(1, 2), faces, 2 * size, size, near=NEAR, stagger=STAGGER)


def nearer_keys(keys: Tensor) -> Tensor:
    """(B, 2 S, S) -> (B, S, S), the nearer sample of each pixel."""
    upper, lower = keys.unflatten(1, (keys.shape[1] // 2, 2)).unbind(2)
    return torch.maximum(upper, lower)


def look_at(seen: Scan, where: Tensor, key: Tensor, sample: Tensor, mirrored: Tensor | None = None) -> Look:
    """Look at pixels where something is seen.

    Args:
        seen: As `scan` gives it; of its keys the first are the pictures'.
        where: (P,) int64, flat over (B, S, S).
        key: (P,) of `nearer_keys`.
        sample: (P,) int32, the picture of each.
        mirrored: (P,) bool, whether the mesh lies in the picture's mirror image.
    """
    size = seen.keys.shape[2]
    record = seen.record(key)
    line = where.int().div(size, rounding_mode="floor")
    x = where.int().sub_(line, alpha=size)
    y = line.sub_(sample, alpha=size)
    # Each pixel's light is found once, at the nearer of its two samples.
    at = x.long().add_(where.sub(x), alpha=2)
    first, second = (seen.keys.view(-1).index_select(0, value) for value in (at, at + size))
    lower = (first != key).float()
    cover = (torch.minimum(first, second) > 0).float().mul_(0.5).add_(0.5)
    column = (x if mirrored is None else torch.where(mirrored, size - 1 - x, x)).float()
    weights, depth = seen.shade(record, column.add_(lower, alpha=STAGGER), lower.add_(y, alpha=2))
    return Look(seen.face.index_select(0, record), weights, depth, cover)


def blend(picture: Tensor, where: Tensor, sample: Tensor, coverage: Tensor, colour: Tensor) -> None:
    """Paint pixels in place.

    Args:
        picture: (B, 3, S, S).
        where: (P,) int64, flat over (B, S, S). sample: (P,) the picture of each.
        coverage: (P,) in [0, 1]. colour: (P, 3).
    """
    plane, flat = picture[0, 0].numel(), picture.view(-1)
    index = where.add(sample, alpha=2 * plane)
    for k in range(3):
        value = torch.lerp(flat.index_select(0, index), colour[:, k], coverage)
        flat.scatter_(0, index, value)
        index += plane
