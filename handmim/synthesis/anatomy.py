"""How a hand can move: joint axes, ranges, forward kinematics and a capsule test of self-intersection.

Joints run in the pose's order (15: index 1-3, middle 1-3, little 1-3, ring 1-3, thumb 1-3) where a pose is meant, and
as chains (5 fingers thumb, index, middle, ring, little x 3 joints) where fingers are meant; `CHAIN_JOINTS` maps one to
the other. Angles are anatomical, in radians, three a joint: flexion (towards the palm), abduction (towards the thumb's
side; of the thumb: away from the palm), twist (axial).

Kinematics and the collision test keep the batch in the last dimension: their inner loops are then long and contiguous,
three times faster on a CPU than with 3-vectors last. Products of 3 x 3 matrices are written out, because a batched
product may round differently for another batch size, and a sample must not depend on its batch.
"""

from __future__ import annotations

import functools
import itertools
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
# Where a metacarpal capsule begins, as a share of the way from wrist to knuckle.
PALM_START = 0.3
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


def rotation_from_angles(angles: Tensor, anatomy: Anatomy) -> Tensor:
    """Abduction after flexion after twist, each about its axis in the rest frame.

    Args:
        angles: (3, 5, 3, N) radians: flexion, abduction, twist of each chain's joints.
        anatomy: whose axes.

    Returns:
        (3, 3, 5, 3, N) rotation matrices (row, column, chain, joint, sample), each joint against its parent.
    """
    # In the frame of the axes (x flexion, y abduction, z twist) the product of the three has a closed form.
    (sx, sy, sz), (cx, cy, cz) = angles.sin(), angles.cos()
    sxsz, sxcz = sx * sz, sx * cz
    rows = [cy * cz + sy * sxsz, sy * sxcz - cy * sz, sy * cx, cx * sz, cx * cz, -sx]
    rows += [cy * sxsz - sy * cz, sy * sz + cy * sxcz, cy * cx]
    local = torch.stack(rows).reshape(3, 3, *sx.shape)
    axes = anatomy.axes.permute(2, 3, 0, 1)[..., None]
    return matmul3(matmul3(axes.transpose(0, 1), local), axes)


def matmul3(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products of (3, 3, ...) and (3, 3, ...), broadcasting."""
    return a[:, 0, None] * b[None, 0] + a[:, 1, None] * b[None, 1] + a[:, 2, None] * b[None, 2]


def forward_kinematics(rotations: Tensor, anatomy: Anatomy) -> Tensor:
    """Where the joints go.

    Args:
        rotations: (3, 3, 5, 3, N) from `rotation_from_angles`.
        anatomy: the rest skeleton.

    Returns:
        (3, 5, 4, N) metres, rest frame of the wrist: coordinates of the chains' joints and tips.
    """
    bones = (anatomy.joints[:, 1:] - anatomy.joints[:, :-1]).permute(2, 0, 1)[..., None]  # (3, 5, 3, 1)
    total = rotations[:, :, :, 0]
    points = [anatomy.joints[:, 0].T[..., None].expand(total.shape[1:])]
    for level in range(3):
        if level:
            total = matmul3(total, rotations[:, :, :, level])
        points.append(points[-1] + (total * bones[:, :, level]).sum(1))
    return torch.stack(points, 2)


@functools.lru_cache(maxsize=4)
def _collision_pairs(device: str) -> tuple[Tensor, Tensor]:
    """Which capsules may meet: two times (P,) indices into 15 bones (three a chain) and 4 metacarpals."""
    pairs = []
    for a, b in itertools.combinations(range(15), 2):
        finger, other = a // 3, b // 3
        # Bases of two fingers lie side by side in one web of skin. Fingers that are not neighbours cannot meet without
        # passing the one between them; the thumb reaches all.
        neighbours = finger == 0 or other == finger + 1
        bases = a % 3 == 0 and (b % 3 == 0 or finger == 0)
        if finger != other and neighbours and not bases:
            pairs.append((a, b))
    for metacarpal in range(1, 5):
        pairs += [(a, 14 + metacarpal) for a in range(15) if a % 3 and (a < 3 or abs(a // 3 - metacarpal) < 2)]
    first, second = torch.tensor(pairs, device=device).unbind(1)
    return first, second


def penetration(points: Tensor, anatomy: Anatomy) -> Tensor:
    """How deep the fingers stand in each other or in the palm.

    Args:
        points: (3, 5, 4, N) metres, from `forward_kinematics`.
        anatomy: the same.

    Returns:
        (N,) metres, the deepest overlap of two capsules; negative: the smallest clearance.
    """
    starts, ends = points[:, :, :3].flatten(1, 2), points[:, :, 1:].flatten(1, 2)  # (3, 15, N)
    directions = ends - starts
    length = (directions[:, 2::3] * directions[:, 2::3]).sum(0).sqrt()
    directions[:, 2::3] *= 1 - TIP_SHORTENING / length
    metacarpals = points[:, 1:, 0] - anatomy.wrist[:, None, None]
    starts = torch.cat([starts, anatomy.wrist[:, None, None] + PALM_START * metacarpals], 1)
    directions = torch.cat([directions, (1 - PALM_START) * metacarpals], 1)
    radius = torch.cat([anatomy.bone_radius.flatten(), anatomy.bone_radius.new_full((4,), PALM_RADIUS)])
    first, second = _collision_pairs(str(points.device))
    u, v = directions.index_select(1, first), directions.index_select(1, second)
    distance = segment_distance(starts.index_select(1, first) - starts.index_select(1, second), u, v)
    return ((radius[first] + radius[second])[:, None] - distance).amax(0)


def segment_distance(offset: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Shortest distance of the segments a + s u and c + t v, s and t in [0, 1].

    Ericson, Real-Time Collision Detection (2005), section 5.1.9. For nearly parallel segments any of the nearest points
    will do.

    Args:
        offset: (3, ...) a - c.
        u, v: (3, ...), not zero.

    Returns:
        (...), unit of the input.
    """
    uu, vv, uv = _dot(u, u), _dot(v, v), _dot(u, v)
    uw, vw, ww = _dot(u, offset), _dot(v, offset), _dot(offset, offset)
    s = ((uv * vw - vv * uw) / (uu * vv - uv * uv).clamp_min_(1e-12)).clamp_(0, 1)
    t = ((uv * s + vw) / vv).clamp_(0, 1)
    s = ((uv * t - uw) / uu).clamp_(0, 1)
    # |offset + s u - t v|^2, from the products that are there already.
    squared = ww + s * (s * uu + 2 * uw) + t * (t * vv - 2 * vw - 2 * s * uv)
    return squared.clamp_min_(0).sqrt_()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
