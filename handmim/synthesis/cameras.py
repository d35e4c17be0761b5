"""How the hand is turned, where the camera stands and which crop of its picture is taken."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..geometry import axis_angle_to_matrix
from .random import SampleRandom

# Share of each family of views: uniform over SO(3); upright before the camera (selfie, gesture); lying in the picture
# plane at any angle (tables, close-ups); the wearer's own view; pointing at the camera.
VIEW_WEIGHTS = (0.25, 0.4, 0.15, 0.12, 0.08)
NEAREST, FARTHEST = 0.25, 1.4  # m, camera to the middle of the hand
TIGHT, LOOSE, LOOSEST = 1.3, 1.9, 4.0  # side of the crop over the side of the hand's box
LOOSE_SHARE = 0.08
CENTRE_JITTER = 0.15  # of the crop's side
NEAR_PLANE = 0.08  # m; no part of the arm comes nearer

# Columns: images of the hand's x, y, z axes when the fingers point up and the back of the hand faces the camera.
_UPRIGHT = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


def _axis_rotation(angle: Tensor, axis: int) -> Tensor:
    """(B, 3, 3) rotations by `angle` (B,) radians about a coordinate axis."""
    vector = torch.zeros(len(angle), 3, device=angle.device)
    vector[:, axis] = angle
    return axis_angle_to_matrix(vector)


def sample_orientation(random: SampleRandom) -> Tensor:
    """(B, 3, 3) global_orient, a mixture of the families in `VIEW_WEIGHTS`."""
    family = random.choice(VIEW_WEIGHTS)
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
    upright = torch.tensor(_UPRIGHT, device=random.device)
    posed = _axis_rotation(plane, 2) @ _axis_rotation(tilt, 0) @ _axis_rotation(roll, 1) @ upright
    return torch.where((family == 0)[:, None, None], random.rotation(), posed)


def sample_wrist_bend(random: SampleRandom, global_orient: Tensor) -> Tensor:
    """(B, 3, 3) rotation of the forearm relative to the hand.

    Of three draws the one whose forearm comes least towards the camera is taken: an arm before the lens would hide
    the hand, and people avoid that.
    """
    draw = random.normal((3, 3)) * torch.tensor([0.15, 0.2, 0.45], device=random.device)
    limit = torch.tensor([0.4, 0.4, 1.0], device=random.device)
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
    middle = hand.mean(1)
    distance = random.log_uniform((), NEAREST, FARTHEST)
    nearest = rendered[:, 2].amin(1) - middle[:, 2]
    distance = torch.maximum(distance, NEAR_PLANE - nearest)
    offset = random.normal((2,), std=0.16).clamp(-0.45, 0.45) * distance[:, None]
    return torch.cat([offset, distance[:, None]], 1) - middle


def crop_camera(random: SampleRandom, points: Tensor, size: int) -> Tensor:
    """(B, 3, 3) intrinsics, crop pixels, of a jittered square crop around the projection of points (B, N, 3), m."""
    flat = points[..., :2] / points[..., 2:]
    low, high = flat.amin(1), flat.amax(1)
    extent = (high - low).amax(1)
    loose = random.bernoulli(LOOSE_SHARE)
    factor = torch.where(loose, random.log_uniform((), LOOSE, LOOSEST), random.uniform((), TIGHT, LOOSE))
    side = extent * factor
    centre = (low + high) / 2 + random.uniform((2,), -CENTRE_JITTER, CENTRE_JITTER) * side[:, None]
    focal = size / side
    intrinsics = torch.zeros(len(side), 3, 3, device=points.device)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, :2, 2] = (size - 1) / 2 - centre * focal[:, None]
    intrinsics[:, 2, 2] = 1
    return intrinsics
