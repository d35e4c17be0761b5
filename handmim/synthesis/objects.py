"""Things in and before the hand: balls, bottles, pens, boxes and books, found by ray casting, one a sample.

A thing is the intersection of a quadric and a box in its own frame, so that one formula draws all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .backgrounds import colours
from .light import Light
from .random import SampleRandom
from .skin import sample_tone

_FAR = 9.0  # a half-size or a squared axis that cuts nothing
# half-axes of the quadric (0: none) and of the box, m, lower and upper bounds; kinds: ball, can or pen, box or book
_KINDS = 4


@dataclass
class Things:
    """One object a sample.

    Attributes:
        rotation: (B, 3, 3) columns are the object's axes, camera frame. centre: (B, 3) m.
        curve: (B, 3) inverse squared half-axes of the quadric, 1/m^2; zeros: no quadric. half: (B, 3) m of the box.
        colour: (B, 2, 3) linear: body and bands. band: (B, 2) number of bands a metre and their share.
        gloss: (B,).
    """

    rotation: Tensor
    centre: Tensor
    curve: Tensor
    half: Tensor
    colour: Tensor
    band: Tensor
    gloss: Tensor


def sample_things(random: SampleRandom, joints: Tensor, held: Tensor) -> Things:
    """Draw an object each.

    Args:
        random: Its draws.
        joints: (B, 21, 3) of the hand, camera frame, m.
        held: (B,) bool: in the grasp; the others stand between the camera and a part of the hand, or beside it.
    """
    device = random.device
    kind = random.choice((0.2, 0.3, 0.2, 0.3))  # ball, can or bottle, pen or stick, box or book
    size = random.log_uniform((3,), 0.012, 0.05)
    length = random.uniform((), 0.04, 0.11)
    pen = random.uniform((), 0.003, 0.008)
    far = torch.full_like(pen, _FAR)
    zero = torch.zeros_like(pen)
    ball, can = size[:, 0].clamp(min=0.018).pow(-2), size[:, 0].pow(-2)
    curve = torch.stack(
        [
            torch.stack([ball, ball, ball], 1),
            torch.stack([can, can, zero], 1),
            torch.stack([pen.pow(-2), pen.pow(-2), zero], 1),
            torch.stack([zero, zero, zero], 1),
        ]
    )
    half = torch.stack(
        [
            torch.stack([far, far, far], 1),
            torch.stack([far, far, length], 1),
            torch.stack([far, far, length], 1),
            torch.stack([size[:, 0] * 0.7, size[:, 1] * 1.2, length], 1),
        ]
    )
    pick = kind[None, :, None].expand(1, -1, 3)
    skin = random.bernoulli(0.12, (1, 1))
    colour = torch.where(skin, sample_tone(random.fork("tone"))[0][:, None], colours(random, (2,)))
    bands = random.bernoulli(0.4).float()
    return Things(
        rotation=_pose_axes(random, joints, held),
        centre=_centre(random, joints, held, size[:, 0]),
        curve=curve.gather(0, pick)[0].to(device),
        half=half.gather(0, pick)[0],
        colour=colour.clamp(0.03, 0.97).square(),
        band=torch.stack([random.uniform((), 8.0, 60.0), bands * random.uniform((), 0.2, 0.8)], 1),
        gloss=random.uniform().square() * 0.6,
    )


def _pose_axes(random: SampleRandom, joints: Tensor, held: Tensor) -> Tensor:
    """(B, 3, 3): a held object's long axis (z) lies across the palm, as fingers close around it; others are free."""
    free = random.rotation()
    across = torch.nn.functional.normalize(joints[:, 5] - joints[:, 17] + random.normal((3,), 0, 0.012), dim=1)
    other = free[:, :, 0] - (free[:, :, 0] * across).sum(1, keepdim=True) * across
    other = torch.nn.functional.normalize(other, dim=1)
    grasp = torch.stack([other, torch.linalg.cross(across, other, dim=1), across], 2)
    return torch.where((held & random.bernoulli(0.7))[:, None, None], grasp, free)


def _centre(random: SampleRandom, joints: Tensor, held: Tensor, radius: Tensor) -> Tensor:
    """(B, 3) m: held ones between palm and fingertips or at the thumb's tip; others in front of or beside the hand."""
    palm = joints[:, [5, 9, 13, 17]].mean(1)
    tips = joints[:, [8, 12, 16, 20]].mean(1)
    pinch = (joints[:, 4] + joints[:, 8]) / 2
    inward = palm + (tips - palm) * random.uniform((1,), 0.3, 0.7)
    # Curled tips lie on the palm's side: the direction to them from the knuckles points out of the palm.
    grasp = torch.where(random.bernoulli(0.65, (1,)), inward, pinch) + random.normal((3,), 0.0, 0.008)
    part = random.integers((), 0, 21)
    target = joints[torch.arange(len(part), device=part.device), part]
    nearer = target * (1 - (random.uniform((1,), 0.02, 0.12) + radius[:, None]) / target.norm(dim=1, keepdim=True))
    front = nearer + random.normal((3,), 0.0, 0.025)
    return torch.where(held[:, None], grasp, front)


def cast(things: Things, intrinsics: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the rays of all pixels meet the objects.

    Args:
        things: B objects. intrinsics: (B, 3, 3) px. size: of the square picture, px.

    Returns:
        depth (B, S, S) m, infinite where missed; the point in the object's frame (B, 3, S, S), m; the outward normal
        in the object's frame (B, 3, S, S).
    """
    axis = torch.arange(size, device=intrinsics.device, dtype=torch.float32)
    focal = intrinsics[:, 0, 0, None]
    x = ((axis - intrinsics[:, 0, 2, None]) / focal)[:, None, :]  # (B, 1, S)
    y = ((axis - intrinsics[:, 1, 2, None]) / focal)[:, :, None]
    turn = things.rotation  # row k of its transpose gives coordinate k in the object's frame
    origin = -(turn * things.centre[:, :, None]).sum(1)  # (B, 3)
    ray = [turn[:, 0, k, None, None] * x + (turn[:, 1, k, None, None] * y + turn[:, 2, k, None, None]) for k in range(3)]
    start, curve, half = (value[..., None, None] for value in (origin, things.curve, things.half))
    a = sum(curve[:, k] * ray[k] * ray[k] for k in range(3)) + 1e-9
    b = sum((curve[:, k] * start[:, k]) * ray[k] for k in range(3))
    c = sum(curve[:, k] * start[:, k] * start[:, k] for k in range(3)) - 1
    disc = b * b - a * c
    root = disc.clamp(min=0).sqrt()
    solid = things.curve.sum(1)[:, None, None] > 0
    missed = solid & (disc <= 0)
    enter = torch.where(solid, (-b - root) / a, torch.zeros_like(a))
    leave = torch.where(solid, (root - b) / a, torch.full_like(a, 1e6))
    face = torch.full_like(a, -1, dtype=torch.int8)
    for k in range(3):
        inverse = 1 / torch.where(ray[k].abs() < 1e-9, torch.full_like(ray[k], 1e-9), ray[k])
        middle, width = -start[:, k] * inverse, half[:, k] * inverse.abs()
        face = torch.where(middle - width > enter, k, face)
        enter = torch.maximum(enter, middle - width)
        leave = torch.minimum(leave, middle + width)
    hit = (enter < leave) & (enter > 0.05) & ~missed
    depth = torch.where(hit, enter, float("inf"))
    enter = torch.where(hit, enter, 0.0)
    point = torch.stack([start[:, k] + enter * ray[k] for k in range(3)], 1)
    flat = torch.stack([(face == k).float() * -torch.sign(ray[k]) for k in range(3)], 1)
    normal = torch.where((face < 0)[:, None], point * curve, flat)
    normal = normal * torch.rsqrt((normal * normal).sum(1, keepdim=True) + 1e-12)
    return depth, point, normal


def shade_things(things: Things, light: Light, point: Tensor, normal: Tensor) -> Tensor:
    """Colours (B, 3, S, S) linear of hit points, in the same light as the hand's, without shadows."""
    turn = things.rotation.transpose(1, 2)
    local = turn @ torch.stack([light.up, light.direction[:, 0], light.direction[:, 1]], 2)  # (B, 3, 3), columns
    cosine = torch.einsum("bck,bchw->bkhw", local, normal)
    number, share = things.band[:, 0, None, None], things.band[:, 1, None, None]
    banded = (torch.frac(point[:, 2] * number + 50) < share)[:, None]
    body, band = things.colour[:, 0, :, None, None], things.colour[:, 1, :, None, None]
    albedo = torch.where(banded, band, body)
    share = (0.5 + 0.5 * cosine[:, :1])
    sky, ground = light.sky[..., None, None], light.ground[..., None, None]
    irradiance = (ground + share * (sky - ground)) * 0.8
    lamps = light.lamp[..., None, None]
    irradiance = irradiance + cosine[:, 1:2].clamp(min=0) * lamps[:, 0] + cosine[:, 2:].clamp(min=0) * lamps[:, 1]
    shine = cosine[:, 1:2].clamp(min=0).square().square().square() * things.gloss[:, None, None, None]
    return albedo * irradiance + shine * lamps[:, 0]
