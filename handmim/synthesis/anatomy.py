"""How a hand can move: joint axes, ranges, forward kinematics and a capsule test of self-intersection.

Joints run in the pose's order (15: index 1-3, middle 1-3, little 1-3, ring 1-3, thumb 1-3) where a pose is meant, and as
chains (5 fingers thumb, index, middle, ring, little x 3 joints) where fingers are meant; `CHAIN_JOINTS` maps one to the
other. Angles are anatomical, in radians, three a joint: flexion (towards the palm), abduction (towards the thumb's
side; of the thumb: away from the palm), twist (axial).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

CHAINS = ("thumb", "index", "middle", "ring", "little")
# Rows of the 15-joint pose that make up each chain.
CHAIN_JOINTS = ((12, 13, 14), (0, 1, 2), (3, 4, 5), (9, 10, 11), (6, 7, 8))

# Radii of the bones' capsules, metres (thumb to little x base, middle, tip), and of a metacarpal with the palm's flesh.
# Measured on the open hand's mean shape, less the 1-2 mm that soft tissue gives way where it touches.
BONE_RADIUS = (
    (0.0110, 0.0092, 0.0078),
    (0.0088, 0.0078, 0.0066),
    (0.0092, 0.0082, 0.0068),
    (0.0085, 0.0076, 0.0064),
    (0.0072, 0.0064, 0.0054),
)
PALM_RADIUS = 0.0135
# The tip joint lies on the skin: a capsule that ended there would reach beyond the finger.
TIP_SHORTENING = 0.006


@dataclass(frozen=True)
class Anatomy:
    """A rest skeleton with its axes, chains first.

    Attributes:
        wrist: (3,) metres, rest frame (fingers along -x, back of the hand +y, thumb side +z).
        joints: (5, 4, 3) metres: the three joints of each chain and its tip.
        axes: (5, 3, 3, 3): for each joint the unit axes of flexion, abduction and twist.
        bone_radius: (5, 3) metres.
    """

    wrist: Tensor
    joints: Tensor
    axes: Tensor
    bone_radius: Tensor

    def to(self, device: torch.device | str) -> Anatomy:
        """The same on another device."""
        return Anatomy(*(getattr(self, name).to(device) for name in ("wrist", "joints", "axes", "bone_radius")))


@functools.lru_cache(maxsize=4)
def open_hand_anatomy(device: str = "cpu") -> Anatomy:
    """The anatomy of the open hand's mean shape, read from the asset in the package."""
    asset = load_safetensors(resources.files("handmim").joinpath("assets/open_hand.safetensors").read_bytes())
    template = asset["template"].float()
    skeleton = asset["joint_regressor"].float() @ template
    tips = template[asset["tip_vertices"].long()]
    chains = torch.tensor(CHAIN_JOINTS)
    joints = torch.cat([skeleton[1:][chains], tips[:, None]], 1)
    if "flexion_axes" in asset:
        names = ("flexion_axes", "abduction_axes", "twist_axes")
        axes = torch.stack([asset[name].float()[chains] for name in names], 2)
    else:
        axes = axes_from_skeleton(joints)
    return Anatomy(skeleton[0], joints, axes, torch.tensor(BONE_RADIUS)).to(device)


def axes_from_skeleton(joints: Tensor) -> Tensor:
    """Joint axes from bones alone: twist along the bone, abduction along the back's normal, flexion across both.

    The fingers' backs face +y; the thumb's nail faces its own side, +z.

    Args:
        joints: (5, 4, 3) rest positions of the chains' joints and tips.

    Returns:
        (5, 3, 3, 3) unit axes: flexion, abduction, twist.
    """
    twist = torch.nn.functional.normalize(joints[:, 1:] - joints[:, :-1], dim=-1)
    back = torch.tensor([0.0, 1.0, 0.0]).repeat(5, 3, 1)
    back[0] = torch.tensor([0.0, 0.0, 1.0])
    back = torch.nn.functional.normalize(back - (back * twist).sum(-1, keepdim=True) * twist, dim=-1)
    return torch.stack([torch.linalg.cross(back, twist), back, twist], 2)


def rotation_from_angles(angles: Tensor, axes: Tensor) -> Tensor:
    """Abduction after flexion after twist, each about its axis in the rest frame.

    Args:
        angles: (..., 3) radians: flexion, abduction, twist.
        axes: (..., 3, 3) unit axes, one a row; orthonormal within 1e-3.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    # In the frame of the axes (x flexion, y abduction, z twist) the product of the three has a closed form.
    sine, cosine = angles.sin(), angles.cos()
    (sx, sy, sz), (cx, cy, cz) = sine.unbind(-1), cosine.unbind(-1)
    sxsz, sxcz = sx * sz, sx * cz
    local = torch.stack(
        [
            torch.stack([cy * cz + sy * sxsz, sy * sxcz - cy * sz, sy * cx], -1),
            torch.stack([cx * sz, cx * cz, -sx], -1),
            torch.stack([cy * sxsz - sy * cz, sy * sz + cy * sxcz, cy * cx], -1),
        ],
        -2,
    )
    return matmul3(matmul3(axes.transpose(-1, -2).expand_as(local), local), axes.expand_as(local))


def matmul3(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for (..., 3, 3), term by term: a batched product of small matrices may round by the batch's size."""
    return a[..., 0, None] * b[..., 0, None, :] + a[..., 1, None] * b[..., 1, None, :] + a[..., 2, None] * b[..., 2, None, :]


def forward_kinematics(rotations: Tensor, anatomy: Anatomy) -> Tensor:
    """Where the joints go.

    Args:
        rotations: (..., 5, 3, 3, 3), each joint's rotation against its parent, chains first.
        anatomy: the rest skeleton.

    Returns:
        (..., 5, 4, 3) metres, rest frame of the wrist: joints and tips of the chains.
    """
    bones = anatomy.joints[:, 1:] - anatomy.joints[:, :-1]
    total = rotations[..., 0, :, :]
    points = [anatomy.joints[:, 0].expand(total.shape[:-1])]
    for level in range(3):
        if level:
            total = matmul3(total, rotations[..., level, :, :])
        points.append(points[-1] + (total * bones[:, level, None, :]).sum(-1))
    return torch.stack(points, -2)


@functools.lru_cache(maxsize=1)
def _collision_pairs() -> tuple[Tensor, Tensor]:
    """Which capsules may meet: indices (P,) into 15 bones and 4 metacarpals (bones first, three a chain)."""
    first, second = [], []
    for a in range(15):
        for b in range(a + 1, 15):
            same_finger = a // 3 == b // 3
            # Base bones lie side by side in one web of skin: they cannot cross without their neighbours' doing so.
            bases = a % 3 == 0 and b % 3 == 0
            if not same_finger and not bases and a != 0:
                first.append(a)
                second.append(b)
    for metacarpal in range(4):
        for a in range(15):
            if a % 3:
                first.append(a)
                second.append(15 + metacarpal)
    return torch.tensor(first), torch.tensor(second)


def penetration(points: Tensor, anatomy: Anatomy) -> Tensor:
    """How deep the fingers stand in each other or in the palm.

    Args:
        points: (..., 5, 4, 3) metres, from `forward_kinematics`.
        anatomy: the same.

    Returns:
        (...) metres, the deepest overlap of two capsules; negative: the smallest clearance.
    """
    batch = points.shape[:-3]
    points = points.reshape(-1, 5, 4, 3).permute(1, 2, 3, 0)  # (5, 4, 3, N): the batch last runs three times faster
    start, end = points[:, :3].reshape(15, 3, -1), points[:, 1:].reshape(15, 3, -1)
    shortening = torch.tensor([0.0, 0.0, TIP_SHORTENING] * 5, device=points.device)[:, None, None]
    end = end - torch.nn.functional.normalize(end - start, dim=1) * shortening
    knuckles, wrist = points[1:, 0], anatomy.wrist[:, None]
    start = torch.cat([start, wrist + 0.3 * (knuckles - wrist)])
    end = torch.cat([end, knuckles])
    radius = torch.cat([anatomy.bone_radius.flatten(), anatomy.bone_radius.new_full((4,), PALM_RADIUS)])
    first, second = (pair.to(points.device) for pair in _collision_pairs())
    distance = segment_distance(start[first], end[first], start[second], end[second])
    return ((radius[first] + radius[second])[:, None] - distance).amax(0).reshape(batch)


def segment_distance(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Shortest distance of the segments ab and cd (Ericson, Real-Time Collision Detection, 5.1.9).

    Exact but for nearly parallel segments, where any of the nearest points will do.

    Args:
        a, b, c, d: (P, 3, N) points, coordinates in the middle.

    Returns:
        (P, N).
    """
    u, v, w = b - a, d - c, a - c
    uu, vv, uv = (u * u).sum(1), (v * v).sum(1), (u * v).sum(1)
    uw, vw = (u * w).sum(1), (v * w).sum(1)
    s = ((uv * vw - vv * uw) / (uu * vv - uv * uv).clamp_min(1e-12)).clamp_(0, 1)
    t = ((uv * s + vw) / vv).clamp_(0, 1)
    s = ((uv * t - uw) / uu).clamp_(0, 1)
    # |w + s u - t v|^2, expanded: the products are there already.
    squared = (w * w).sum(1) + s * (s * uu + 2 * uw) + t * (t * vv - 2 * vw) - 2 * s * t * uv
    return squared.clamp_min_(0).sqrt()
