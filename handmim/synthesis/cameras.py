"""How the hand is turned, where the camera stands and which crop of its picture is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..constants import constant
from ..geometry import axis_angle_to_matrix
from .hand_mesh import FOREARM_LENGTH
from .persons import JOINTS
from .random import SampleRandom
from .variety import Variety

NEAREST, FARTHEST = 0.25, 1.4  # m, camera to the middle of the hand
TIGHT, LOOSE, LOOSEST = 1.3, 1.9, 4.0  # side of the crop over the side of the hand's box
PERSON = (1.15, 1.9)  # the same for what is to be seen of a person, between joints
NEAR_PLANE = 0.08  # m; no part of the unstretched arm comes nearer
# An arm that points at the camera would show its cut end: the largest cosine between the two, before the wrist bends.
TOWARDS_CAMERA = 0.7
# Distances from the wrist, m, at which an arm may end, and the radius that the border must hide there.
_ARM_ENDS = tuple(FOREARM_LENGTH + 0.1 * k for k in range(12))
_ARM_RADIUS = 0.055
_TRUNK = ("head", "neck", "right wrist", "left wrist", "right hip", "left hip")  # seen of a person from the hips up

# Columns: images of the hand's x, y, z axes when the fingers point up and the back of the hand faces the camera.
_UPRIGHT = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


def _axis_rotation(angle: Tensor, axis: int) -> Tensor:
    """(B, 3, 3) rotations by `angle` (B,) radians about a coordinate axis."""
    vector = torch.zeros(len(angle), 3, device=angle.device)
    vector[:, axis] = angle
    return axis_angle_to_matrix(vector)


def sample_orientation(random: SampleRandom, views: Sequence[float] = Variety.views) -> Tensor:
    """(B, 3, 3) global_orient, a mixture of the families of views (`Variety.views`).

    Of two draws the first is taken whose arm does not point at the camera; if both do, the second is turned round.
    """
    first, second = _draw_orientation(random, views), _draw_orientation(random.fork("again"), views)
    turned = second * constant((-1.0, 1.0, -1.0), random.device)[:, None]
    poor, poorer = (orient[:, 2:, :1] < -TOWARDS_CAMERA for orient in (first, second))
    return torch.where(poor, torch.where(poorer, turned, second), first)


def _draw_orientation(random: SampleRandom, views: Sequence[float]) -> Tensor:
    """(B, 3, 3), one draw."""
    family = random.choice(views)
    any_angle = random.uniform((), -math.pi, math.pi)
    palm = random.bernoulli(0.55).float() * math.pi
    roll, tilt, plane = (random.normal() for _ in range(3))
    far_tilt = random.uniform()
    degree = math.pi / 180
    rolls = torch.stack([palm + roll * 25 * degree, any_angle, roll * 55 * degree, any_angle])
    tilts = torch.stack(
        [tilt * 25 * degree, tilt * 18 * degree, (-20 - 60 * far_tilt) * degree, (50 + 50 * far_tilt) * degree]
    )
    spin = random.uniform((), -math.pi, math.pi)
    planes = torch.stack([plane * 35 * degree, spin, plane * 40 * degree, spin])
    pick = (family - 1).clamp(min=0)[None]
    roll, tilt, plane = (value.gather(0, pick)[0] for value in (rolls, tilts, planes))
    upright = constant(_UPRIGHT, random.device)
    posed = _axis_rotation(plane, 2) @ _axis_rotation(tilt, 0) @ _axis_rotation(roll, 1) @ upright
    return torch.where((family == 0)[:, None, None], random.rotation(), posed)


def sample_wrist_bend(random: SampleRandom, global_orient: Tensor) -> Tensor:
    """(B, 3, 3) rotation of the forearm relative to the hand.

    Of three draws the one whose forearm comes least towards the camera is taken: an arm before the lens would hide
    the hand, and people avoid that.
    """
    draw = random.normal((3, 3)) * constant((0.15, 0.2, 0.45), random.device)
    limit = constant((0.4, 0.4, 1.0), random.device)
    bend = axis_angle_to_matrix(draw.clamp(-limit, limit))  # (B, 3, 3, 3)
    towards = (global_orient[:, None] @ bend)[:, :, 2, 0]  # z of the forearm's direction, +x in rest space
    best = towards.argmax(1)
    return bend[torch.arange(len(best), device=best.device), best]


def place(random: SampleRandom, rendered: Tensor, hand: Tensor) -> Tensor:
    """Translations that put hands before the camera.

    Args:
        random: Its draws.
        rendered: (B, 3, Vr) hand with forearm, m.
        hand: (B, N, 3) points of the hand alone, m.

    Returns:
        (B, 3) m: distance log-uniform, anywhere in a wide picture, no part of the arm behind the near plane.
    """
    middle = mean(hand)
    distance = random.log_uniform((), NEAREST, FARTHEST)
    nearest = rendered[:, 2].amin(1) - middle[:, 2]
    distance = torch.maximum(distance, NEAR_PLANE - nearest)
    offset = random.normal((2,), std=0.16).clamp(-0.45, 0.45) * distance[:, None]
    return torch.cat([offset, distance[:, None]], 1) - middle


def crop_camera(random: SampleRandom, points: Tensor, size: int, variety: Variety) -> Tensor:
    """(B, 3, 3) intrinsics, crop pixels, of a jittered square crop around the projection of points (B, N, 3), m.

    In a share `variety.loose` of the crops the hand is small; `variety.jitter` is how far it may lie off the middle.
    """
    small = random.bernoulli(variety.loose)
    factor = torch.where(small, random.log_uniform((), LOOSE, LOOSEST), random.uniform((), TIGHT, LOOSE))
    shift = random.uniform((2,), -variety.jitter, variety.jitter)
    return _crop_around(points, size, factor, shift)


def person_camera(random: SampleRandom, joints: Tensor, size: int, variety: Variety) -> Tensor:
    """(B, 3, 3) intrinsics, crop pixels, of a crop of a whole person, of one from the hips up, or of head and a hand.

    Args:
        random: Its draws.
        joints: (B, 17, 3) in the order of `persons.JOINTS`, m.
        size: Side of the crop, px.
        variety: Says how far the person may lie off the middle.
    """
    framing = random.choice((0.3, 0.4, 0.3))
    right = random.bernoulli(0.5)
    trunk = tuple(name in _TRUNK for name in JOINTS)
    one = tuple(tuple(name in ("head", f"{side} wrist") for name in JOINTS) for side in ("left", "right"))
    trunk, one = (constant(names, joints.device, torch.bool) for names in (trunk, one))
    chosen = one[right.long()] | (trunk & (framing == 1)[:, None]) | (framing == 0)[:, None]
    points = torch.where(chosen[..., None], joints, joints[:, JOINTS.index("head"), None])
    shift = random.uniform((2,), -variety.jitter, variety.jitter)
    return _crop_around(points, size, random.uniform((), *PERSON), shift)


def _crop_around(points: Tensor, size: int, factor: Tensor, shift: Tensor) -> Tensor:
    """(B, 3, 3) intrinsics of crops `factor` (B,) times as large as the picture of points (B, N, 3), whose centres lie
    `shift` (B, 2) sides off its centre."""
    flat = points[..., :2] / points[..., 2:]
    low, high = flat.amin(1), flat.amax(1)
    side = (high - low).amax(1) * factor
    centre = (low + high) / 2 + shift * side[:, None]
    focal = size / side
    intrinsics = torch.zeros(len(side), 3, 3, device=points.device)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, :2, 2] = (size - 1) / 2 - centre * focal[:, None]
    intrinsics[:, 2, 2].fill_(1)
    return intrinsics


def mean(points: Tensor) -> Tensor:
    """(B, N, C) -> (B, C), added one after the other: `Tensor.mean` rounds differently in batches of other sizes."""
    return sum(points.unbind(1)) / points.shape[1]


def arm_stretch(wrist: Tensor, direction: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """How much longer arms must be to end outside of the picture; where none would, they become as long as they can.

    Args:
        wrist: (B, 3) camera frame, m. direction: (B, 3) unit, to the elbow. intrinsics: (B, 3, 3) px. size: px.

    Returns:
        (B,) m, 0 or more.
    """
    ends = constant(_ARM_ENDS, wrist.device)
    x, y, z = ((wrist[:, k, None] + direction[:, k, None] * ends) for k in range(3))  # (B, E) each
    focal, z = intrinsics[:, 0, 0, None], z.clamp(min=NEAR_PLANE / 2)
    away = torch.maximum(
        (x * focal / z + intrinsics[:, 0, 2, None] - size / 2).abs(),
        (y * focal / z + intrinsics[:, 1, 2, None] - size / 2).abs(),
    )
    out = away > size / 2 + _ARM_RADIUS * focal / z
    return ends[torch.where(out.any(1), out.byte().argmax(1), len(ends) - 1)] - FOREARM_LENGTH
