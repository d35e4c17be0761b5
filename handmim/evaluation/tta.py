"""Test-time augmentation: the same hand seen turned and zoomed, and the mean of what the network says.

A turn about the optical axis and a zoom of a perspective picture give a perspective picture again, so every view has
an exact camera, and points come back by the inverse turn. Mirrored views are of no use: the network knows right hands
only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import affine_points, invert_affine

# The crop that views are taken from reaches this much further on each side, as a share of the network's input: enough
# for a turn by 45 degrees at zoom 0.9.
MARGIN = 0.3


@dataclass(frozen=True)
class View:
    """One view: turned clockwise (in the picture) by `rotation` degrees, `zoom` times as large."""

    rotation: float = 0.0
    zoom: float = 1.0


# Small changes, as in training; the first is the plain crop.
DEFAULT_VIEWS = (View(), View(rotation=-15), View(rotation=15), View(zoom=0.9), View(zoom=1.1))


def describe(views: tuple[View, ...]) -> dict[str, Any] | None:
    """For a report: None without views."""
    if not views:
        return None
    return {"views": [{"rotation_degrees": view.rotation, "zoom": view.zoom} for view in views], "mean": "points"}


def widen(size: int, box_scale: float) -> dict[str, Any]:
    """Options of the image processor for a crop of the same resolution that reaches further on all sides."""
    wide = size + 2 * math.ceil(MARGIN * size)
    return {"size": {"height": wide, "width": wide}, "box_scale": box_scale * wide / size}


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network gets for one view.

    Attributes:
        pixel_values: (B, 3, S, S).
        intrinsics: (B, 3, 3) of the view, pixels.
        affine: (B, 2, 3) from pixels of the wide crop to those of the view.
        rotation: (3, 3): camera frame of the wide crop -> camera frame of the view.
    """

    pixel_values: Tensor
    intrinsics: Tensor
    affine: Tensor
    rotation: Tensor

    def undo(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Points of the network's answer in the pixels and the camera frame of the wide crop."""
        points = {name: outputs[name] @ self.rotation for name in ("vertices", "joints")}
        return outputs | points | {"keypoints_2d": affine_points(invert_affine(self.affine), outputs["keypoints_2d"])}


def view_of(pixel_values: Tensor, intrinsics: Tensor, view: View, size: int) -> Seen:
    """One view of wide crops.

    With D = diag(fx, fy) and a turn R, x' = zoom D R D^-1 x + t maps the picture of X to that of R X, whose camera has
    zoom D as focal lengths; t keeps the centre of the crop in the centre.

    Args:
        pixel_values: (B, 3, W, W) in [-1, 1], made with `widen`.
        intrinsics: (B, 3, 3) of the wide crops, pixels.
        view: Which.
        size: Side S of the network's input.
    """
    angle = math.radians(view.rotation)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    focal = intrinsics[:, (0, 1), (0, 1)]  # (B, 2)
    linear = view.zoom * rotation[:2, :2] * focal[:, :, None] / focal[:, None, :]
    wide = pixel_values.shape[-1]
    centre = torch.full((len(intrinsics), 2, 1), (wide - 1) / 2)
    affine = torch.cat([linear, (size - 1) / 2 - linear @ centre], -1)
    camera = intrinsics.clone()
    camera[:, (0, 1), (0, 1)] = view.zoom * focal
    camera[:, :2, 2] = affine_points(affine, intrinsics[:, None, :2, 2]).squeeze(1)
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    source = affine_points(invert_affine(affine), torch.stack([x, y], -1).flatten(0, 1))  # (B, S S, 2)
    grid = ((2 * source + 1) / wide - 1).unflatten(1, (size, size))
    # Beyond the wide crop: 0, the mean colour, as beyond the picture.
    pixels = F.grid_sample(pixel_values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return Seen(pixels, camera, affine, rotation)
