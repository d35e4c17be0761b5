"""Posing and pose correctives of the open hand (NumPy, build time only), and its anatomical axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from open_hand_anatomy import FINGERS, PARENTS, bone_end, unit
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Flexion, abduction, twist in degrees of the three joints of each finger.
Angles = dict[str, tuple[tuple[float, float, float], ...]]
# A fist whose fingertips just touch the palm of the mean hand, the thumb across the fingers.
FIST: Angles = {
    "index": ((85, -2, 0), (100, 0, 0), (60, 0, 0)),
    "middle": ((90, 0, 0), (108, 0, 0), (65, 0, 0)),
    "ring": ((88, 2, 0), (108, 0, 0), (65, 0, 0)),
    "little": ((86, 5, 0), (97, 0, 0), (58, 0, 0)),
    "thumb": ((19, 15, -10), (37, 0, 0), (48, 0, 0)),
}


def anatomical_axes(joints: Array, thumb_normal: Array) -> tuple[Array, Array, Array]:
    """Unit axes (15, 3) of flexion, abduction and twist in the rest pose.

    Positive flexion curls towards the palm, positive abduction turns a finger towards the thumb's side (the thumb
    about the normal of its nail), twist is about the bone. A joint's rotation is R(abduction) R(flexion) R(twist).

    Args:
        joints: (21, 3); thumb_normal: (3,) direction the thumb's nail faces.
    """
    twist = np.stack([unit(joints[bone_end(j)] - joints[j]) for j in range(1, 16)])
    normal = np.tile(np.array([0.0, 1.0, 0.0]), (15, 1))
    normal[12:] = thumb_normal
    abduction = unit(normal - twist * (normal * twist).sum(1, keepdims=True))
    return np.cross(abduction, twist), abduction, twist


def pose_matrices(angles: Array, axes: tuple[Array, Array, Array]) -> Array:
    """Rotations (15, 3, 3) from angles (15, 3): flexion, abduction, twist in degrees."""
    flexion, abduction, twist = (
        Rotation.from_rotvec(np.radians(angles[:, i : i + 1]) * axis) for i, axis in enumerate(axes)
    )
    return (abduction * flexion * twist).as_matrix()


def angles_array(angles: Angles) -> Array:
    """(15, 3) degrees in joint order; fingers that are missing stay straight."""
    return np.array([angles.get(f, ((0, 0, 0),) * 3)[i] for f in FINGERS for i in range(3)], float)


def global_transforms(rotations: Array, joints: Array) -> tuple[Array, Array]:
    """World rotations (16, 3, 3) and offsets (16, 3) of all bones, x -> R x + t, for local rotations (15, 3, 3)."""
    world, origin = [np.eye(3)], [joints[0]]
    for joint in range(1, 16):
        parent = PARENTS[joint]
        world.append(world[parent] @ rotations[joint - 1])
        origin.append(origin[parent] + world[parent] @ (joints[joint] - joints[parent]))
    stacked = np.stack(world)
    return stacked, np.stack(origin) - np.einsum("jab,jb->ja", stacked, joints[:16])


def skin(points: Array, weights: Array, rotations: Array, joints: Array, pose_dirs: Array | None = None) -> Array:
    """Linear blend skinning of points (n, 3) with optional pose correctives (n, 3, 135)."""
    if pose_dirs is not None:
        points = points + pose_dirs @ (rotations - np.eye(3)).reshape(-1)
    world, offset = global_transforms(rotations, joints)
    blended = np.tensordot(weights, world, 1)
    return np.einsum("vab,vb->va", blended, points) + weights @ offset


def rotation_centres(
    points: Array, faces: Indices, weights: Array, sigma: float = 0.1
) -> tuple[Array, NDArray[np.bool_]]:
    """Optimised centres of rotation (Le and Hodgins 2016, eq. 1) and which vertices have one."""
    corners, face_weights = points[faces], weights[faces].mean(1)
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    middle = corners.mean(1)
    total, norm = np.zeros_like(points), np.zeros(len(points))
    for a in range(16):
        for b in range(16):
            rows = np.flatnonzero((weights[:, a] > 1e-3) & (weights[:, b] > 1e-3))
            near = np.flatnonzero((face_weights[:, a] > 1e-3) & (face_weights[:, b] > 1e-3))
            if a == b or not len(rows) or not len(near):
                continue
            wa, wb = weights[rows, a][:, None], weights[rows, b][:, None]
            fa, fb = face_weights[near, a][None], face_weights[near, b][None]
            similarity = wa * wb * fa * fb * np.exp(-((wa * fb - wb * fa) ** 2) / sigma**2) * area[near]
            total[rows] += similarity @ middle[near]
            norm[rows] += similarity.sum(1)
    found = norm > 1e-14
    centres = points.copy()
    centres[found] = total[found] / norm[found][:, None]
    return centres, found


def blended_rotations(weights: Array, world: Array) -> Array:
    """Quaternion blend (n, 3, 3) of the bones' rotations (16, 3, 3)."""
    quaternion = Rotation.from_matrix(world).as_quat()
    pivot = quaternion[weights.argmax(1)]
    sign = np.where(pivot @ quaternion.T < 0, -1.0, 1.0)
    return Rotation.from_quat((weights * sign) @ quaternion).as_matrix()


def random_angles(rng: np.random.Generator) -> Array:
    """Angles (15, 3), degrees, spread over the range of motion; for fitting correctives, not a pose prior."""
    angles = np.zeros((15, 3))
    for first in (0, 3, 6, 9):
        knuckle, middle = rng.uniform(-20, 95), rng.uniform(-5, 112)
        angles[first] = knuckle, rng.uniform(-18, 18) * (1 - max(knuckle, 0) / 120), 0
        angles[first + 1, 0] = middle
        angles[first + 2, 0] = rng.uniform(-5, 1) + 0.62 * max(middle, 0) * rng.uniform(0.6, 1.1)
    angles[12] = rng.uniform(-20, 35), rng.uniform(-20, 25), rng.uniform(-25, 10)
    angles[13] = rng.uniform(-10, 55), rng.uniform(-8, 8), 0
    angles[14, 0] = rng.uniform(-15, 75)
    return angles


def fit_pose_dirs(
    points: Array, faces: Indices, weights: Array, joints: Array, axes: tuple[Array, Array, Array], samples: int = 600
) -> tuple[Array, float]:
    """Linear correctives (n, 3, 135) that carry skinning about optimised centres of rotation into MANO's form.

    The difference between centre-of-rotation skinning and linear blend skinning, pulled back to the rest pose, is
    regressed on (R - I) of the joints that move each vertex.

    Returns:
        pose_dirs, and the share of the difference's variance that they explain.
    """
    rng = np.random.default_rng(1)
    centres, found = rotation_centres(points, faces, weights)
    features, wanted = np.zeros((samples, 135)), np.zeros((samples, len(points), 3))
    for row in range(samples):
        rotations = pose_matrices(random_angles(rng), axes)
        world, _ = global_transforms(rotations, joints)
        blended = np.tensordot(weights, world, 1)
        rotated = blended_rotations(weights, world)
        around = np.einsum("vab,vb->va", rotated, points - centres)
        linear = np.einsum("vab,vb->va", blended, points - centres)
        difference = np.where(found[:, None], around - linear, 0)
        wanted[row] = 0.85 * np.linalg.solve(blended + 1e-3 * np.eye(3), difference[..., None])[..., 0]
        features[row] = (rotations - np.eye(3)).reshape(-1)
    pose_dirs = _regress(features, wanted, weights)
    residual = wanted - np.tensordot(features, pose_dirs, ((1,), (2,)))
    return pose_dirs, float(1 - (residual**2).sum() / (wanted**2).sum())


def _regress(features: Array, wanted: Array, weights: Array) -> Array:
    """Ridge regression of wanted (s, n, 3) on features (s, 135), each vertex only on the joints that move it."""
    samples, count = wanted.shape[:2]
    pose_dirs = np.zeros((count, 3, 135))
    groups: dict[tuple[int, ...], list[int]] = {}
    for vertex in range(count):
        groups.setdefault(tuple(np.flatnonzero(weights[vertex, 1:] > 0.01)), []).append(vertex)
    for movers, rows in groups.items():
        if not movers:
            continue
        columns = np.concatenate([np.arange(9 * j, 9 * j + 9) for j in movers])
        x, y = features[:, columns], wanted[:, rows].reshape(samples, -1)
        solution = np.linalg.solve(x.T @ x + 1e-4 * samples * np.eye(len(columns)), x.T @ y)
        pose_dirs[np.ix_(rows, range(3), columns)] = solution.T.reshape(len(rows), 3, -1)
    return pose_dirs


def vertex_normals(points: Array, faces: Indices) -> Array:
    """Area-weighted unit normals (n, 3)."""
    corners = points[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros_like(points)
    for corner in range(3):
        np.add.at(total, faces[:, corner], normal)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def palm_penetration(posed: Array, faces: Indices, weights: Array) -> Array:
    """How deep (5,) metres each finger's last bone enters the palm; negative: the gap. Order of `FINGERS`.

    The palm is the part of the surface that moves mainly with the wrist; depth is measured along its normals.
    """
    normals = vertex_normals(posed, faces)
    palm = np.flatnonzero(weights[:, 0] > 0.5)
    depth = np.zeros(5)
    for finger in range(5):
        tip = posed[weights[:, 3 * finger + 3] > 0.5]
        distance = np.linalg.norm(tip[:, None] - posed[palm][None], axis=-1)
        nearest = palm[distance.argmin(1)]
        signed = ((posed[nearest] - tip) * normals[nearest]).sum(1)
        inside = (signed > 0) & (distance.min(1) < 0.02)  # farther away the normal says nothing
        gap = distance.min()
        depth[finger] = signed[inside].max() if inside.any() else -gap
    return depth
