"""Test-time augmentation: the same hand seen turned, and the one hand that agrees best with all that was seen.

A turn about the optical axis and a zoom of a perspective picture give a perspective picture again, so every view has
an exact camera. Rotations, shapes and places are averaged; then, as of a single view (`fitting`), the hand is fitted to
the heat maps, here to their mean in the frame of the first view. Mirrored views are of no use: the network knows right
hands only. Not every network gains by it (tests/benchmarks/README.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .fitting import Evidence, evidence_of, fit_hands
from .geometry import (
    affine_points,
    camera_from_translation,
    compose_affine,
    invert_affine,
    nearest_rotation,
)
from .hand_state import place_hand

# The crop that views are taken from reaches this much further on each side, as a share of the network's input: enough
# for a turn by 45 degrees at zoom 0.9.
MARGIN = 0.3


@dataclass(frozen=True)
class View:
    """One view: turned clockwise (in the picture) by `rotation` degrees, `zoom` times as large."""

    rotation: float = 0.0
    zoom: float = 1.0


# The first is the plain crop, in whose frame the others are brought together.
DEFAULT_VIEWS = (View(), View(rotation=-30), View(rotation=30))


def describe(views: tuple[View, ...]) -> dict[str, Any] | None:
    """For a report: None without views."""
    if not views:
        return None
    return {"views": [{"rotation_degrees": view.rotation, "zoom": view.zoom} for view in views], "mean": "hands"}


def widen(size: int, box_scale: float) -> dict[str, Any]:
    """Options of the image processor for a crop of the same resolution that reaches further on all sides."""
    wide = size + 2 * math.ceil(MARGIN * size)
    return {"size": {"height": wide, "width": wide}, "box_scale": box_scale * wide / size}


def estimate_from_views(
    model: Any, pixel_values: Tensor, intrinsics: Tensor, views: Sequence[View] = DEFAULT_VIEWS
) -> dict[str, Tensor]:
    """The hand in each crop, from several views of it.

    Args:
        model: A network of either family that estimates meshes, or its graph.
        pixel_values: (B, 3, W, W) in [-1, 1], crops made with `widen`, on the model's device.
        intrinsics: (B, 3, 3) of these crops, pixels.
        views: The first is the plain one, in whose crop the hand is fitted.

    Returns:
        vertices, joints, global_orient, hand_pose, betas, translation as the model gives them, keypoints_2d
        (B, 21, 2) in pixels of the wide crops, and the mean of score_logits, where there are any. No maps.
    """
    config, size = model.config, model.config.image_size
    seen = [view_of(pixel_values.float(), intrinsics.float(), view, size) for view in views]
    outputs = [model(pixel_values=s.pixel_values.to(model.dtype), intrinsics=s.intrinsics, fit=False) for s in seen]
    with torch.autocast(pixel_values.device.type, enabled=False):
        hand = mean_hand(model.hand_model, seen, outputs, size)
        if getattr(config, "fit_steps", 0):
            evidence = mean_evidence(seen, [evidence_of(config, output) for output in outputs], size)
            camera = seen[0].intrinsics
            hand = fit_hands(model.hand_model, hand, evidence, camera, size, config.fit_steps, config.fit_turn)
    hand["keypoints_2d"] = affine_points(invert_affine(seen[0].affine), hand["keypoints_2d"])
    del hand["camera"]  # of the plain crop, which the caller does not know
    if outputs[0].get("score_logits") is not None:
        hand["score_logits"] = torch.stack([output["score_logits"].float() for output in outputs]).mean(0)
    return hand


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


def mean_hand(hand_model: Any, seen: Sequence[Seen], outputs: Sequence[Any], size: int) -> dict[str, Tensor]:
    """The mean of what was estimated, as `hand_state.place_hand` gives it, in the frame of the first view.

    Rotations are averaged in the chordal metric (Hartley et al. 2013, "Rotation averaging").
    """
    orients = [view.rotation.mT @ output["global_orient"].float() for view, output in zip(seen, outputs, strict=True)]
    wrists = [output["joints"][:, 0].float() @ view.rotation for view, output in zip(seen, outputs, strict=True)]
    poses, betas = ([output[name].float() for output in outputs] for name in ("hand_pose", "betas"))
    orient, pose = (nearest_rotation(torch.stack(rotations).mean(0)) for rotations in (orients, poses))
    wrist, camera = torch.stack(wrists).mean(0), seen[0].intrinsics
    place = camera_from_translation(wrist, camera, size)
    return place_hand(hand_model, orient, pose, torch.stack(betas).mean(0), wrist, place, camera)


def mean_evidence(seen: Sequence[Seen], evidence: Sequence[Evidence], size: int) -> Evidence:
    """What the maps of all views say, in the frame of the first; each counts where it reaches.

    A turn about the optical axis does not change how steeply a bone points away from the camera.
    """
    height, width = evidence[0].heatmaps.shape[-2:]
    device = evidence[0].heatmaps.device
    across, down = ((torch.arange(n, device=device) + 0.5) * (size / n) - 0.5 for n in (width, height))
    y, x = torch.meshgrid(down, across, indexing="ij")
    total = 0
    for view, known in zip(seen, evidence, strict=True):
        to_view = compose_affine(view.affine, invert_affine(seen[0].affine))
        places = affine_points(to_view, torch.stack([x, y], -1).flatten(0, 1))
        grid = ((2 * places + 1) / size - 1).unflatten(1, (height, width))
        there = torch.ones_like(known.heatmaps[:, :1])
        maps = torch.cat([known.heatmaps, there], 1)
        total = total + F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)
    heights = total[:, :-1] / total[:, -1:]  # the first view reaches everywhere
    depths = None if evidence[0].depths is None else torch.stack([known.depths for known in evidence]).mean(0)
    return Evidence(heights, heights.amax((2, 3)).clamp(max=1), depths)


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
    device = pixel_values.device
    cosine, sine = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]], device=device)
    focal = intrinsics[:, (0, 1), (0, 1)]  # (B, 2)
    linear = view.zoom * rotation[:2, :2] * focal[:, :, None] / focal[:, None, :]
    wide = pixel_values.shape[-1]
    centre = torch.full((len(intrinsics), 2, 1), (wide - 1) / 2, device=device)
    affine = torch.cat([linear, (size - 1) / 2 - linear @ centre], -1)
    camera = intrinsics.clone()
    camera[:, (0, 1), (0, 1)] = view.zoom * focal
    camera[:, :2, 2] = affine_points(affine, intrinsics[:, None, :2, 2]).squeeze(1)
    side = torch.arange(float(size), device=device)
    y, x = torch.meshgrid(side, side, indexing="ij")
    source = affine_points(invert_affine(affine), torch.stack([x, y], -1).flatten(0, 1))  # (B, S S, 2)
    grid = ((2 * source + 1) / wide - 1).unflatten(1, (size, size))
    # Beyond the wide crop: 0, the mean colour, as beyond the picture.
    pixels = F.grid_sample(pixel_values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return Seen(pixels, camera, affine, rotation)
