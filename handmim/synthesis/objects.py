"""Things in and before the hand: balls, bottles, pens, boxes and books, found by ray casting, one a sample.

A thing is the intersection of a quadric and a box in its own frame, so that one formula draws all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .backgrounds import colours
from .hand_mesh import unit
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
    size = random.log_uniform((3,), 0.010, 0.042)
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
    across = F.normalize(joints[:, 5] - joints[:, 17] + random.normal((3,), 0, 0.012), dim=1)
    other = free[:, :, 0] - (free[:, :, 0] * across).sum(1, keepdim=True) * across
    other = F.normalize(other, dim=1)
    grasp = torch.stack([other, torch.linalg.cross(across, other, dim=1), across], 2)
    return torch.where((held & random.bernoulli(0.7))[:, None, None], grasp, free)


def _centre(random: SampleRandom, joints: Tensor, held: Tensor, radius: Tensor) -> Tensor:
    """(B, 3) m: held ones between palm and fingertips or at the thumb's tip; others in front of or beside the hand."""
    palm = joints[:, 5::4].mean(1)  # knuckles
    tips = joints[:, 8::4].mean(1)
    pinch = (joints[:, 4] + joints[:, 8]) / 2
    inward = palm + (tips - palm) * random.uniform((1,), 0.3, 0.7)
    # Curled tips lie on the palm's side: the direction to them from the knuckles points out of the palm.
    grasp = torch.where(random.bernoulli(0.65, (1,)), inward, pinch) + random.normal((3,), 0.0, 0.008)
    part = random.integers((), 0, 21)
    target = joints[torch.arange(len(part), device=part.device), part]
    nearer = target * (1 - (random.uniform((1,), 0.02, 0.12) + radius[:, None]) / target.norm(dim=1, keepdim=True))
    front = nearer + random.normal((3,), 0.0, 0.025)
    return torch.where(held[:, None], grasp, front)


def cast(things: Things, intrinsics: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where the rays of all pixels meet the objects.

    Args:
        things: B objects. intrinsics: (B, 3, 3) px. size: of the square picture, px.

    Returns:
        depth (B, S, S) m, infinite where missed; which face of the box was hit first (B, S, S) int8, -1: the quadric.
    """
    axis = torch.arange(size, device=intrinsics.device, dtype=torch.float32)
    focal = intrinsics[:, 0, 0, None]
    x = ((axis - intrinsics[:, 0, 2, None]) / focal)[:, None, :]  # (B, 1, S)
    y = ((axis - intrinsics[:, 1, 2, None]) / focal)[:, :, None]
    turn = things.rotation  # row k of its transpose gives coordinate k in the object's frame
    origin = -(turn * things.centre[:, :, None]).sum(1)  # (B, 3)
    ray = [
        torch.addcmul(turn[:, 1, k, None, None] * y + turn[:, 2, k, None, None], x, turn[:, 0, k, None, None])
        for k in range(3)
    ]
    start, curve, half = (value[..., None, None] for value in (origin, things.curve, things.half))
    a = sum(curve[:, k] * ray[k] * ray[k] for k in range(3)) + 1e-9
    b = sum((curve[:, k] * start[:, k]) * ray[k] for k in range(3))
    c = sum(curve[:, k] * start[:, k] * start[:, k] for k in range(3)) - 1
    disc = b * b - a * c
    root = disc.clamp(min=0).sqrt_()
    flat = things.curve.sum(1)[:, None, None] == 0
    enter = ((-b - root) / a).masked_fill_(flat, 0.0)
    leave = ((root - b) / a).masked_fill_(flat, 1e6)
    face = torch.full_like(a, -1, dtype=torch.int8)
    for k in range(3):
        inverse = 1 / (ray[k] + 1e-9)
        near = (half[:, k] * inverse.abs()).neg_().sub_(start[:, k] * inverse)
        face.masked_fill_(near > enter, k)
        enter = torch.maximum(enter, near)
        leave = torch.minimum(leave, (half[:, k] * inverse.abs()).sub_(start[:, k] * inverse))
    hit = (enter < leave) & (enter > 0.05) & (flat | (disc > 0))
    return enter.masked_fill_(~hit, float("inf")), face


def shade_things(
    things: Things, light: Light, intrinsics: Tensor, where: tuple[Tensor, Tensor, Tensor], depth: Tensor, face: Tensor
) -> Tensor:
    """Colours of hit pixels, in the same light as the hand's, without shadows.

    Args:
        things, light, intrinsics: B each.
        where: sample, row and column of P pixels. depth, face: (P,) from `cast`.

    Returns:
        (P, 3) linear.
    """
    sample, v, u = where
    fields = [
        *(intrinsics[:, 0, :1], intrinsics[:, :2, 2], things.rotation, things.centre, things.curve, things.band),
        *(things.gloss[:, None], light.up, light.direction, light.sky, light.ground, light.lamp, things.colour),
    ]
    # One gather, then vectors of P numbers: the fastest layout on any device.
    table = torch.cat([field.flatten(1) for field in fields], 1).T.contiguous().index_select(1, sample)
    focal, middle, turn, centre, curve, band, gloss, up, direction, sky, ground, lamp, colour = table.split(
        [field[0].numel() for field in fields]
    )
    turn = turn.unflatten(0, (3, 3))  # camera axis, object axis, P
    ray = torch.stack([(u - middle[0]) / focal[0], (v - middle[1]) / focal[0], torch.ones_like(depth)])
    point = ((ray * depth - centre)[:, None] * turn).sum(0)  # the object's frame
    toward = (ray[:, None] * turn).sum(0).sign_().neg_()
    axis = torch.arange(3, device=depth.device)[:, None]
    normal = torch.where(face < 0, point * curve, toward * (face == axis))
    normal = (turn * unit(normal[None])[0]).sum(1)  # camera frame
    height = (normal * up).sum(0)
    first, second = (direction.unflatten(0, (2, 3)) * normal).sum(1).clamp_(min=0)
    banded = torch.frac(point[2] * band[0] + 50) < band[1]
    irradiance = (
        torch.lerp(ground, sky, 0.5 + 0.5 * height).mul_(0.8).addcmul_(first, lamp[:3]).addcmul_(second, lamp[3:])
    )
    shine = first.square().square_().square_() * gloss[0]
    return torch.addcmul(shine * lamp[:3], torch.where(banded, colour[3:], colour[:3]), irradiance).T
