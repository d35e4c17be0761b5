"""Skeleton, joint placement, skinning weights and re-proportioning of the open hand.

Hand frame (metres): right hand, fingers along -x, back of the hand +y, thumb side +z, wrist joint at the origin.
Joint order: MANO's (wrist, index 1-3, middle 1-3, little 1-3, ring 1-3, thumb 1-3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

FINGERS = ("index", "middle", "little", "ring", "thumb")  # finger k owns joints 3k+1 .. 3k+3
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
MAKEHUMAN_FINGER = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "little": 5}
METACARPAL_BONE = {"index": 1, "middle": 2, "ring": 3, "little": 4}
JOINT_CUBES = ("r-hand", *(f"r-finger-{MAKEHUMAN_FINGER[f]}-{i}" for f in FINGERS for i in (1, 2, 3)))
TIP_CUBES = tuple(f"r-finger-{MAKEHUMAN_FINGER[f]}-4" for f in FINGERS)  # rows 16..20: tip of finger k is 16 + k

# Distances between neighbouring centres of rotation, mm, for a hand 184 mm long: the bone lengths of Buryanov and
# Kotiuk (2010, "Proportions of hand segments", Int. J. Morphol. 28(3)), moved 3, 3 and 2 mm towards the wrist at the
# three joints of a finger, because a joint turns about the head of its proximal bone and not about the gap between
# two bones; the last number includes the soft tip.
SEGMENT_MM = {
    "index": (39.8, 23.4, 21.7),
    "middle": (44.6, 27.3, 23.4),
    "little": (32.7, 19.1, 21.7),
    "ring": (41.4, 26.7, 23.3),
    "thumb": (46.2, 31.6, 26.4),
}
REFERENCE_LENGTH = 0.184
# MakeHuman's first finger joints lie near the finger webs; shift towards the metacarpal's base, mm.
KNUCKLE_SHIFT_MM = {"index": 12.0, "middle": 10.5, "ring": 9.5, "little": 7.0}
KNUCKLE_DEPTH_MM = {"index": 10.5, "middle": 10.5, "ring": 10.0, "little": 9.0}  # under the skin of the back
DORSAL_FRACTION = 0.46  # depth of a finger's inner joints, as a share of the finger's thickness from the back


def unit(x: Array) -> Array:
    """x / |x| along the last axis."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def bone_end(joint: int) -> int:
    """Row (in the 21 rows of joints and tips) where the bone that starts at `joint` (1..15) ends."""
    return 16 + (joint - 1) // 3 if joint % 3 == 0 else joint + 1


def minimal_rotation(source: Array, target: Array) -> Array:
    """Smallest rotations (N, 3, 3) that bring unit vectors (N, 3) onto unit vectors (N, 3)."""
    axis, cosine = np.cross(source, target), (source * target).sum(-1)
    cross = np.cross(axis[:, None, :], np.eye(3)[None]).transpose(0, 2, 1)
    return np.eye(3) + cross + cross @ cross / (1 + cosine)[:, None, None]


def rig_weights(bone_weights: dict[str, Array], ids: Indices) -> tuple[Array, Array]:
    """MakeHuman's skinning weights for our 16 joints.

    Returns:
        weights (n, 16), rows sum to one, metacarpals, wrist and arm folded into the wrist; lower_arm (n,) the share
        of the wrist's weight that belongs to the forearm.
    """
    pick = {name: values[ids] for name, values in bone_weights.items()}
    arm = pick["lowerarm01.R"] + pick["lowerarm02.R"] + pick["upperarm01.R"] + pick["upperarm02.R"]
    weights = np.zeros((len(ids), 16))
    weights[:, 0] = arm + pick["wrist.R"] + sum(pick[f"metacarpal{i}.R"] for i in (1, 2, 3, 4))
    for k, finger in enumerate(FINGERS):
        for i in (1, 2, 3):
            weights[:, 3 * k + i] = pick[f"finger{MAKEHUMAN_FINGER[finger]}-{i}.R"]
    total = weights.sum(1, keepdims=True)
    return weights / total, arm / total[:, 0]


def flat_directions(joints: Array) -> Array:
    """Bone directions (16, 3) of the flat rest hand, from the relaxed mean skeleton (21, 3).

    Fingers lie in the plane y = 0 with half of their splay and half of their sideways kinks; the thumb stays.
    """
    directions = np.zeros((16, 3))
    for joint in range(1, 16):
        bone = joints[bone_end(joint)] - joints[joint]
        directions[joint] = unit(bone if joint > 12 else bone * [1, 0, 1])
    for first in (1, 4, 7, 10):
        rows = slice(first, first + 3)
        straight = unit(0.5 * directions[rows] + 0.5 * unit(directions[rows].mean(0)))
        directions[rows] = unit(straight + np.array([-0.55, 0, 0]))
    return directions


def _apply(weights: Array, linear: Array, offset: Array, points: Array) -> Array:
    """Blends the bones' affine maps (N, 16, 3, 3), (N, 16, 3) by weights (n, 16) and applies them to (N, n, 3)."""
    result = np.empty_like(points)
    for start in range(0, len(points), 64):
        part = slice(start, start + 64)
        blended = np.tensordot(linear[part], weights, ((1,), (1,)))  # (b, 3, 3, n)
        result[part] = np.einsum("bijn,bnj->bni", blended, points[part], optimize=True)
        result[part] += np.tensordot(offset[part], weights, ((1,), (1,))).transpose(0, 2, 1)
    return result


def flatten(points: Array, joints: Array, weights: Array, directions: Array) -> tuple[Array, Array]:
    """Turns every bone of N hands onto `directions` by linear blend skinning.

    Args:
        points: (N, n, 3); joints: (N, 21, 3); weights: (n, 16); directions: (16, 3).
    """
    count = len(points)
    rotation = np.tile(np.eye(3), (count, 16, 1, 1))
    offset, moved = np.zeros((count, 16, 3)), joints.copy()
    for joint in range(1, 16):
        parent, end = PARENTS[joint], bone_end(joint)
        moved[:, joint] = np.einsum("nij,nj->ni", rotation[:, parent], joints[:, joint]) + offset[:, parent]
        bone = np.einsum("nij,nj->ni", rotation[:, parent], unit(joints[:, end] - joints[:, joint]))
        turn = minimal_rotation(bone, np.tile(directions[joint], (count, 1)))
        rotation[:, joint] = turn @ rotation[:, parent]
        offset[:, joint] = moved[:, joint] - np.einsum("nij,nj->ni", rotation[:, joint], joints[:, joint])
        if end > 15:
            moved[:, end] = np.einsum("nij,nj->ni", rotation[:, joint], joints[:, end]) + offset[:, joint]
    return _apply(weights, rotation, offset, points), moved


def place_joints(points: Array, joints: Array, weights: Array, directions: Array, normals: Array) -> Array:
    """Anatomical joint centres (21, 3) on the flat mean hand (n, 3), 184 mm long.

    Args:
        joints: (21, 3) MakeHuman's joints; weights: (n, 16) MakeHuman's weights; normals: (16, 3) dorsal direction of
            each bone. A finger's inner joints go to the middle of the finger's cross section, slightly towards its
            back; knuckles go into the metacarpal heads; the wrist to the middle of its cross section.
    """
    placed = joints.copy()
    for k, finger in enumerate(FINGERS):
        own = weights[:, 3 * k + 1 : 3 * k + 4].sum(1) > 0.6
        for joint in (3 * k + 2, 3 * k + 3):
            along, up = directions[joint], normals[joint]
            side = np.cross(along, up)
            relative = points[own] - joints[joint]
            ring = relative[np.abs(relative @ along) < 4.5e-3]
            height, breadth = ring @ up, ring @ side
            up_shift = height.max() - DORSAL_FRACTION * np.ptp(height)
            placed[joint] = joints[joint] + up_shift * up + 0.5 * (breadth.max() + breadth.min()) * side
        ahead = relative @ along  # of the last joint: where the soft tip ends
        end = relative[ahead > ahead.max() - 6e-3]
        middle = [0.5 * (values.max() + values.min()) for values in (end @ up, end @ side)]
        placed[16 + k] = joints[3 * k + 3] + ahead.max() * along + middle[0] * up + middle[1] * side
        if finger == "thumb":
            continue
        knuckle = 3 * k + 1
        base = unit(joints[knuckle] * [1, 0, 1] + np.array([0.02, 0, 0]))
        position = joints[knuckle] - base * KNUCKLE_SHIFT_MM[finger] * 1e-3
        near = np.hypot(points[:, 0] - position[0], points[:, 2] - position[2]) < 5e-3
        position[1] = points[near, 1].max() - KNUCKLE_DEPTH_MM[finger] * 1e-3
        placed[knuckle] = position
    placed[13] += 0.24 * (joints[0] - joints[13]) + np.array([0, -5e-3, 2e-3])  # on the palm's side of the carpus
    placed[14] += 0.12 * (joints[15] - joints[14])
    wrist_ring = points[np.abs(points[:, 0] - joints[0, 0]) < 6e-3]
    placed[0, 1:] = 0.5 * (wrist_ring.max(0) + wrist_ring.min(0))[1:]
    return placed


def smoothstep(x: Array) -> Array:
    """0 below -1, 1 above 1, smooth between."""
    t = np.clip(0.5 * (x + 1), 0, 1)
    return t * t * (3 - 2 * t)


def skinning_weights(
    points: Array, joints: Array, rig: Array, bone_weights: dict[str, Array], ids: Indices, edges: Indices
) -> Array:
    """Weights (n, 16) for the placed joints of the flat mean hand.

    Which finger owns a vertex is MakeHuman's choice; where a finger's share passes from one bone to the next is a
    smooth step across the plane of the placed joint.

    Args:
        points: (n, 3); joints: (21, 3); rig: (n, 16) from `rig_weights`; edges: (e, 2) mesh edges.
    """
    weights = rig.copy()
    for k, finger in enumerate(FINGERS):
        first = 3 * k + 1
        share = rig[:, first : first + 3].sum(1)
        steps = []
        for joint, half_width in ((first, 11e-3), (first + 1, 6.5e-3), (first + 2, 5.0e-3)):
            normal = unit(joints[bone_end(joint)] - joints[joint])
            if joint != first:
                normal = unit(normal + unit(joints[joint] - joints[joint - 1]))
            steps.append(smoothstep((points - joints[joint]) @ normal / half_width))
        whole = share
        if finger != "thumb":  # the thumb's metacarpal moves, so MakeHuman's border to the palm stays
            whole = (share + bone_weights[f"metacarpal{METACARPAL_BONE[finger]}.R"][ids]) * steps[0]
        weights[:, 0] += share - whole
        weights[:, first] = whole * (1 - steps[1])
        weights[:, first + 1] = whole * steps[1] * (1 - steps[2])
        weights[:, first + 2] = whole * steps[1] * steps[2]
    weights = np.maximum(weights, 0)
    return _smooth(weights / weights.sum(1, keepdims=True), points, joints, edges)


def _smooth(weights: Array, points: Array, joints: Array, edges: Indices) -> Array:
    """A few steps of graph diffusion near the knuckles and the thumb's base, where several bones meet."""
    count = len(points)
    adjacency = np.zeros((count, count), np.float32)
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = 1
    adjacency /= adjacency.sum(1, keepdims=True)
    near = np.zeros(count)
    for joint, radius in ((1, 0.02), (4, 0.02), (7, 0.02), (10, 0.02), (13, 0.03)):
        near = np.maximum(near, np.exp(-((np.linalg.norm(points - joints[joint], axis=1) / radius) ** 2)))
    for _ in range(3):
        weights = weights + 0.6 * near[:, None] * (adjacency @ weights - weights)
    weights[weights < 2e-3] = 0
    return weights / weights.sum(1, keepdims=True)


def segment_stretches(points: Array, joints: Array, weights: Array, directions: Array) -> Array:
    """Stretch (16,) along each bone of the flat mean hand that gives it the length in `SEGMENT_MM`."""
    stretch = np.ones(16)
    for k, finger in enumerate(FINGERS):
        for i, wanted in enumerate(SEGMENT_MM[finger]):
            joint = 3 * k + 1 + i
            if i < 2:
                length = np.linalg.norm(joints[joint + 1] - joints[joint])
            else:
                own = weights[:, joint] > 0.5
                length = ((points[own] - joints[joint]) @ directions[joint]).max()
            stretch[joint] = wanted * 1e-3 / length
    return stretch


def vary_proportions(
    points: Array, joints: Array, weights: Array, directions: Array, stretch: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Sets each bone's mean length and adds independent variation of segment lengths, thickness and breadth.

    MakeHuman's phenotypes hardly change the shape of a hand, so the variation between people is added here: standard
    deviations 3.5 % for finger lengths, 2 % for single bones, 4.5 % for thickness, 4 % for the breadth of the palm.

    Args:
        points: (N, n, 3); joints: (N, 21, 3); stretch: (16,).
    """
    count = len(points)

    def draw(deviation: float, *shape: int) -> Array:
        return np.clip(rng.normal(0, deviation, (count, *shape)), -2.5 * deviation, 2.5 * deviation)

    finger, bone = draw(0.035, 5), draw(0.02, 5, 3)
    thickness, taper = 1 + draw(0.045, 1) + draw(0.015, 5), draw(0.03)
    linear, moved = np.zeros((count, 16, 3, 3)), joints.copy()
    linear[:, 0] = np.eye(3)
    linear[:, 0, 1, 1], linear[:, 0, 2, 2] = 1 + draw(0.045), 1 + draw(0.04)
    moved[:, 0] = np.einsum("nij,nj->ni", linear[:, 0], joints[:, 0])
    for joint in range(1, 16):
        k, i = divmod(joint - 1, 3)
        along = np.outer(directions[joint], directions[joint])
        length = stretch[joint] * (1 + finger[:, k] + bone[:, k, i])
        breadth = thickness[:, k] + taper * (i - 1)
        linear[:, joint] = breadth[:, None, None] * (np.eye(3) - along) + length[:, None, None] * along
        if joint == 13:  # the thumb's metacarpal belongs half to the palm
            palm = linear[:, 0].copy()
            linear[:, joint] = linear[:, joint] + 0.5 * (palm - breadth[:, None, None] * np.eye(3))
        bone_vector = joints[:, joint] - joints[:, PARENTS[joint]]
        moved[:, joint] = moved[:, PARENTS[joint]] + np.einsum("nij,nj->ni", linear[:, PARENTS[joint]], bone_vector)
        if i == 2:
            tip = joints[:, 16 + k] - joints[:, joint]
            moved[:, 16 + k] = moved[:, joint] + np.einsum("nij,nj->ni", linear[:, joint], tip)
    offset = moved[:, :16] - np.einsum("njik,njk->nji", linear, joints[:, :16])
    return _apply(weights, linear, offset, points), moved
