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

from ..constants import constant
from .hand_mesh import unit
from .random import SampleRandom
from .skin import Skin

# Ambient occlusion looks along each axis in both senses.
_AXES = ((1.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, -1.0))
# Cells a side, m: grids that cover hand and wrist. What lies beyond, the forearm, is in full light.
_GRID, _CELL = 40, 0.0075
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
    up = random.normal((3,)) * constant((0.5, 0.0, 0.4), device)
    up = F.normalize(up + constant((0.0, -1.0, -0.3), device), dim=1)
    tint = random.normal((3,), 1.0, 0.08)
    level = random.uniform((), 0.15, 0.9)
    sky = level[:, None] * random.uniform((1,), 0.7, 1.1) * tint
    ground = level[:, None] * random.uniform((1,), 0.15, 0.8) * random.normal((3,), 1.0, 0.12)
    spread = random.normal((2, 3)) * constant((0.9, 0.6, 0.6), device)
    side, height, front = spread.unbind(2)
    direction = F.normalize(torch.stack([side, -height.abs(), 0.25 - front.abs()], 2), dim=2)
    warm = random.normal((2,), 0.0, 0.10)
    colour = torch.stack([1 + warm, torch.ones_like(warm), 1 - warm], 2)
    power = random.uniform((2,), 0.1, 1.4) * constant((1.0, 0.5), device)
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


def _splat(points: Tensor, frames: Tensor, grid: int, cell: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points (B, 3, V) in frames (B, D, 3, 3): cell index (B, D, V) int64, height towards the light (B, D, V), and
    whether they lie beyond the grid (B, D, V), where their cell says nothing."""
    local = (frames.flatten(1, 2) @ points).unflatten(1, (-1, 3))  # (B, D, 3, V)
    free = local[:, :, :2].mul(1 / cell).add_(grid / 2)
    plane = free.clamp(0, grid - 1)
    beyond = (free != plane).any(2)
    plane = plane.to(torch.int32)
    return (plane[:, :, 1] * grid).add_(plane[:, :, 0]).long(), local[:, :, 2].contiguous(), beyond


def _top(cell: Tensor, height: Tensor, beyond: Tensor, grid: int) -> Tensor:
    """(B, D, grid^2) the largest height in each cell."""
    empty = height.new_full((*height.shape[:2], grid * grid), -1.0)
    return empty.scatter_reduce_(2, cell, height.masked_fill(beyond, -1.0), "amax")


def ambient(light: Light, points: Tensor, normals: Tensor, turn: Tensor) -> Tensor:
    """Irradiance of sky and ground with occlusion.

    Args:
        light: The scene's.
        points: (B, 3, V) about the middle of the hand, m. normals: (B, 3, V).
        turn: (B, 3, 3) random rotation of the sampling directions.

    Returns:
        (B, 3, V) linear; 1 for an unoccluded surface under a white sky of level 1.
    """
    axes = constant(_AXES, turn.device) / math.sqrt(3)
    axes = axes @ turn.transpose(1, 2)  # (B, A, 3)
    cell, height, beyond = _splat(points, _frames(axes), _GRID, _CELL)
    cosine = axes @ normals  # (B, A, V)
    weights, colours = [], []
    for sense in (1.0, -1.0):
        toward = height if sense > 0 else height.neg()
        # Metres of flesh, or of another finger, towards the light.
        above = _top(cell, toward, beyond, _GRID).gather(2, cell).sub_(toward)
        seen = above.sub_(0.007).mul_(-1 / 0.014).add_(1.0).clamp_(0, 1).masked_fill_(beyond, 1.0)
        weights.append((cosine * sense).add_(0.2).clamp_(min=0).mul_(seen))
        share = 0.5 + 0.5 * sense * (axes * light.up[:, None]).sum(2, keepdim=True)
        colours.append(light.sky[:, None] * share + light.ground[:, None] * (1 - share))  # (B, A, 3)
    scale = 1.0 / (0.36 * 2 * len(_AXES))
    return (torch.cat(colours, 1).transpose(1, 2) * scale) @ torch.cat(weights, 1)


def _grow(top: Tensor, step: int) -> Tensor:
    """(B, D, cells): the maximum of each cell and those `step` before and after it; four times max_pool2d's speed."""
    result = top.clone()
    result[..., step:] = torch.maximum(result[..., step:], top[..., :-step])
    result[..., :-step] = torch.maximum(result[..., :-step], top[..., step:])
    return result


def shadow(light: Light, points: Tensor) -> Tensor:
    """(B, L, V) share of each lamp that reaches points (B, 3, V) about the middle of the hand, m; soft edges."""
    cell, height, beyond = _splat(points, _frames(light.direction), _SHADOW_GRID, _SHADOW_CELL)
    top = _top(cell, height, beyond, _SHADOW_GRID)
    # Neighbouring cells close the holes between vertices and stand in for a lamp of some width.
    wide = _grow(_grow(top, 1), _SHADOW_GRID)
    blurred = top.add_(wide).gather(2, cell).mul_(0.5)
    return blurred.sub_(height).sub_(0.008).mul_(-1 / 0.010).add_(1.0).clamp_(0, 1).masked_fill_(beyond, 1.0)


def shade(
    light: Light, skin: Skin, vertices: Tensor, normals: Tensor, middle: Tensor, turn: Tensor
) -> tuple[Tensor, Tensor]:
    """Light at the vertices.

    Args:
        light, skin: The scene's.
        vertices: (B, 3, V) camera frame, m. normals: (B, 3, V). middle: (B, 3) of the hand, m.
        turn: (B, 3, 3) random rotation for `ambient`.

    Returns:
        Irradiance (B, 3, V) and highlight (B, 3, V), linear; the picture shows albedo * irradiance + highlight.
    """
    points = vertices - middle[..., None]
    surround = ambient(light, points, normals, turn)
    seen = shadow(light, points)  # (B, L, V)
    cosine = light.direction @ normals  # (B, L, V)
    wrap = constant(_WRAP, normals.device)
    lamp = light.lamp / (1 + wrap).square()  # (B, L, 3)
    irradiance = surround.clone()
    for k in range(lamp.shape[1]):
        soft = (cosine[:, k, None] + wrap[:, None]).clamp_(min=0).mul_(seen[:, k, None])
        irradiance.addcmul_(soft, lamp[:, k, :, None])
    view = unit(vertices.neg())
    half = unit(view + light.direction[:, 0, :, None])
    facing = (half * normals).sum(1).clamp_(min=1e-3)
    bright = facing.log_().mul_(skin.roughness[:, None]).exp_().mul_(seen[:, 0]).mul_(cosine[:, 0].clamp(min=0))
    grazing = (view * normals).sum(1).neg_().add_(1).clamp_(0, 1)
    fresnel = grazing.square_().square_().mul_(0.25 * skin.gloss[:, None])
    highlight = bright.mul_(skin.gloss[:, None])[:, None] * light.lamp[:, 0, :, None]
    return irradiance, highlight.addcmul_(fresnel[:, None], surround)
