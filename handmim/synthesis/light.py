"""Light on skin: sky and ground with ambient occlusion, one or two lamps with shadows, all at the vertices.

Occlusion and shadows come from depth maps of the vertices themselves, splatted as points on coarse grids: a hand is
small and its mesh dense, so a cell of 5-8 mm holds a vertex wherever there is surface.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .random import SampleRandom
from .skin import Skin

_NUM_AXES = 4  # ambient occlusion looks along each axis in both senses
_GRID, _CELL = 40, 0.0075  # cells a side, m: covers the hand; the far forearm falls into the border cells
_SHADOW_GRID, _SHADOW_CELL = 64, 0.005
# How far diffuse light wraps past the terminator, red deepest: light scattered in skin (after d'Eon and Luebke,
# GPU Gems 3, chapter 14, as a wrap instead of a blur).
_WRAP = (0.35, 0.16, 0.10)


@dataclass
class Light:
    """The light on B scenes; directions point to the light, camera frame.

    Attributes:
        up: (B, 3) unit, towards the sky. sky, ground: (B, 3) linear RGB from above and below.
        direction: (B, L, 3) unit. lamp: (B, L, 3) linear RGB of each lamp.
        target: (B,) mean brightness of the lit hand, linear.
    """

    up: Tensor
    sky: Tensor
    ground: Tensor
    direction: Tensor
    lamp: Tensor
    target: Tensor


def sample_light(random: SampleRandom) -> Light:
    """Draw the light of a batch of scenes."""
    device = random.device
    up = random.normal((3,)) * torch.tensor([0.5, 0.0, 0.4], device=device)
    up = F.normalize(up + torch.tensor([0.0, -1.0, -0.3], device=device), dim=1)
    tint = random.normal((3,), 1.0, 0.08)
    level = random.uniform((), 0.15, 0.9)
    sky = level[:, None] * random.uniform((1,), 0.7, 1.1) * tint
    ground = level[:, None] * random.uniform((1,), 0.15, 0.8) * random.normal((3,), 1.0, 0.12)
    spread = random.normal((2, 3)) * torch.tensor([0.9, 0.6, 0.6], device=device)
    side, height, front = spread.unbind(2)
    direction = F.normalize(torch.stack([side, -height.abs(), 0.25 - front.abs()], 2), dim=2)
    warm = random.normal((2,), 0.0, 0.10)
    colour = torch.stack([1 + warm, torch.ones_like(warm), 1 - warm], 2)
    power = random.uniform((2,), 0.1, 1.4) * torch.tensor([1.0, 0.5], device=device)
    power[:, 1] *= random.bernoulli(0.4)
    target = random.uniform((), 0.28, 0.75).square()
    return Light(up, sky, ground, direction, colour * power[..., None], target)


def _frames(direction: Tensor) -> Tensor:
    """(..., 3) unit vectors -> (..., 3, 3) whose rows are two perpendicular unit vectors and the vector itself."""
    x, y, z = direction.unbind(-1)
    # Duff et al., "Building an orthonormal basis, revisited", JCGT 2017.
    sign = torch.where(z >= 0, 1.0, -1.0)
    a = -1 / (sign + z)
    b = x * y * a
    first = torch.stack([1 + sign * x * x * a, sign * b, -sign * x], -1)
    second = torch.stack([b, sign + y * y * a, -y], -1)
    return torch.stack([first, second, direction], -2)


def _splat(points: Tensor, frames: Tensor, grid: int, cell: float) -> tuple[Tensor, Tensor]:
    """Cell index (B, D, V) int64 and height towards the light (B, D, V) of points (B, V, 3) in frames (B, D, 3, 3)."""
    local = torch.matmul(frames.flatten(1, 2), points.transpose(1, 2)).unflatten(1, (-1, 3))  # (B, D, 3, V)
    plane = (local[:, :, :2] * (1 / cell) + grid / 2).clamp_(0, grid - 1).to(torch.int32)
    return (plane[:, :, 1] * grid + plane[:, :, 0]).long(), local[:, :, 2]


def ambient(light: Light, points: Tensor, normals: Tensor, turn: Tensor) -> Tensor:
    """Irradiance of sky and ground with occlusion.

    Args:
        light: The scene's.
        points: (B, V, 3) about the middle of the hand, m. normals: (B, V, 3).
        turn: (B, 3, 3) random rotation of the sampling directions.

    Returns:
        (B, V, 3) linear; 1 for an unoccluded surface under a white sky of level 1.
    """
    axes = turn.new_tensor([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / math.sqrt(3)
    axes = axes @ turn.transpose(1, 2)  # (B, A, 3)
    cell, height = _splat(points, _frames(axes), _GRID, _CELL)
    cosine = axes @ normals.transpose(1, 2)  # (B, A, V)
    total = 0
    for sense in (1.0, -1.0):
        toward = height * sense
        top = toward.new_full((*toward.shape[:2], _GRID * _GRID), -1.0).scatter_reduce_(2, cell, toward, "amax")
        above = top.gather(2, cell).sub_(toward)  # m of flesh, or of another finger, towards the light
        seen = above.sub_(0.007).mul_(-1 / 0.014).add_(1.0).clamp_(0, 1)
        weight = (cosine * sense).add_(0.2).clamp_(min=0).mul_(seen)  # (B, A, V)
        share = 0.5 + 0.5 * sense * (axes * light.up[:, None]).sum(2, keepdim=True)
        colour = light.sky[:, None] * share + light.ground[:, None] * (1 - share)  # (B, A, 3)
        total = total + weight.transpose(1, 2) @ colour
    return total * (1.0 / (0.36 * 2 * _NUM_AXES))


def shadow(light: Light, points: Tensor) -> Tensor:
    """(B, L, V) share of each lamp that reaches points (B, V, 3) about the middle of the hand, m; soft edges."""
    cell, height = _splat(points, _frames(light.direction), _SHADOW_GRID, _SHADOW_CELL)
    batch, lamps, _ = cell.shape
    top = height.new_full((batch, lamps, _SHADOW_GRID**2), -1.0).scatter_reduce_(2, cell, height, "amax")
    # Neighbouring cells close the holes between vertices and stand in for a lamp of some width.
    square = top.view(batch, lamps, _SHADOW_GRID, _SHADOW_GRID)
    wide = F.max_pool2d(square, 3, 1, 1)
    blurred = wide.flatten(2).gather(2, cell).add_(top.gather(2, cell)).mul_(0.5)
    return blurred.sub_(height).sub_(0.008).mul_(-1 / 0.010).add_(1.0).clamp_(0, 1)


def shade(
    light: Light, skin: Skin, vertices: Tensor, normals: Tensor, middle: Tensor, turn: Tensor
) -> tuple[Tensor, Tensor]:
    """Light at the vertices.

    Args:
        light, skin: The scene's.
        vertices: (B, V, 3) camera frame, m. normals: (B, V, 3). middle: (B, 3) of the hand, m.
        turn: (B, 3, 3) random rotation for `ambient`.

    Returns:
        Irradiance (B, V, 3) and highlight (B, V, 3), linear; the picture shows albedo * irradiance + highlight.
    """
    points = vertices - middle[:, None]
    surround = ambient(light, points, normals, turn)
    seen = shadow(light, points)  # (B, L, V)
    cosine = light.direction @ normals.transpose(1, 2)  # (B, L, V)
    wrap = normals.new_tensor(_WRAP)
    irradiance = surround
    for k in range(light.lamp.shape[1]):
        soft = ((cosine[:, k, :, None] + wrap) / (1 + wrap).square()).clamp_(min=0)
        irradiance = irradiance + soft * (seen[:, k, :, None] * light.lamp[:, None, k])
    view = F.normalize(vertices, dim=2).neg_()
    half = F.normalize(light.direction[:, 0, None] + view, dim=2)
    facing = (half * normals).sum(2).clamp_(min=1e-3)
    bright = torch.exp(facing.log_() * skin.roughness[:, None]) * seen[:, 0] * cosine[:, 0].clamp(min=0)
    grazing = (1 - (normals * view).sum(2)).clamp_(0, 1)
    fresnel = grazing.square().square() * (0.25 * skin.gloss[:, None])
    highlight = (bright * skin.gloss[:, None])[..., None] * light.lamp[:, None, 0] + fresnel[..., None] * surround
    return irradiance, highlight
