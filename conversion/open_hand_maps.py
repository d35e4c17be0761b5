"""Skin maps of the open hand for synthetic images: creases, knuckles, redness, nails, back of the hand.

All maps are procedural: functions of the rest surface and the skeleton. Only the nails come from a MakeHuman texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from open_hand_anatomy import PARENTS, bone_end, smoothstep, unit
from PIL import Image

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

TEXTURE_SIZE = 256
# Lines of the palm as (x, z) in mm on a hand 184 mm long: around the thumb, across the palm, below the fingers.
PALM_LINES = (
    ((-64, 39), (-52, 25), (-40, 17), (-24, 12), (-10, 10)),
    ((-65, 39), (-59, 20), (-52, 0), (-43, -20)),
    ((-84, 15), (-77, 4), (-71, -12), (-67, -26), (-65, -38)),
)
WRIST_LINES = (((-1, 26), (1, 0), (-1, -26)), ((7, 26), (9, 0), (7, -26)))


@dataclass
class Surface:
    """Points of the rest surface: positions (n, 3) m, normals (n, 3), skinning weights (n, 16)."""

    points: Array
    normals: Array
    weights: Array


def dorsal_weight(surface: Surface, thumb_normal: Array) -> Array:
    """1 on the back of the hand, 0 on the palm (n,); on the thumb by the direction its nail faces."""
    thumb = np.clip(1.5 * surface.weights[:, 13:].sum(1), 0, 1)
    facing = surface.normals[:, 1] * (1 - thumb) + (surface.normals @ thumb_normal) * thumb
    return np.clip(0.9 * facing + 0.5, 0, 1)


def _bump(distance_mm: Array, width_mm: float) -> Array:
    return np.exp(-((distance_mm / width_mm) ** 2))


def _line_distance(points_mm: Array, line: tuple[tuple[float, float], ...]) -> Array:
    """Distance in the (x, z) plane to a polyline."""
    flat, distance = points_mm[:, [0, 2]], np.full(len(points_mm), np.inf)
    for start, end in zip(np.array(line[:-1], float), np.array(line[1:], float), strict=True):
        t = np.clip((flat - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        distance = np.minimum(distance, np.linalg.norm(flat - start - t[:, None] * (end - start), axis=1))
    return distance


def skin_maps(surface: Surface, joints: Array, thumb_normal: Array) -> dict[str, Array]:
    """`crease`, `knuckle` (dark folds over the knuckles) and `redness`, each (n,) in [0, 1].

    Args:
        joints: (21, 3) rest joints and tips.
    """
    dorsal = dorsal_weight(surface, thumb_normal)
    palm, count = 1 - dorsal, len(surface.points)
    crease, knuckle, redness = np.zeros(count), np.zeros(count), np.zeros(count)
    for joint in range(1, 16):
        along = unit(joints[bone_end(joint)] - joints[joint])
        relative = (surface.points - joints[joint]) * 1e3
        t = relative @ along
        radius = np.linalg.norm(relative - t[:, None] * along, axis=1)
        owned = surface.weights[:, joint] + surface.weights[:, PARENTS[joint]]
        on = (radius < 19) * np.clip(1.5 * owned - 0.3, 0, 1)
        if joint in (1, 4, 7, 10):
            sideways = _bump(relative @ unit(np.cross(along, [0.0, 1.0, 0.0])), 8)
            redness += 0.6 * sideways * dorsal * _bump(t, 9)
            knuckle += 0.45 * sideways * dorsal * _bump(t, 7)
            crease += 0.8 * on * palm**2 * _bump(t - (17 if joint != 7 else 14), 1.6)
        elif joint != 13:
            crease += on * palm**2 * np.maximum(_bump(t - 0.8, 1.0), 0.8 * _bump(t + 1.6, 1.0))
            redness += (0.4 if joint == 14 else 0.8) * on * dorsal * _bump(t, 6)
            wrinkles = 0.55 + 0.45 * np.cos(t * 2 * np.pi / 2.6)
            knuckle += (0.3 if joint == 14 else 0.8) * on * dorsal * _bump(t, 5.0) * wrinkles
    for tip in range(16, 21):
        redness += 0.7 * _bump(1e3 * np.linalg.norm(surface.points - joints[tip], axis=1), 11)
    points_mm = surface.points * 1e3
    facing = smoothstep((-surface.normals[:, 1] - 0.2) / 0.2)
    for line in PALM_LINES:
        crease += 0.9 * facing * (points_mm[:, 1] < 2) * _bump(_line_distance(points_mm, line), 1.1)
    for line in WRIST_LINES:
        crease += 0.5 * facing * _bump(_line_distance(points_mm, line), 0.9)
    # the heel of the hand and the ball of the thumb are redder than the hollow of the palm
    hollow = _bump(np.linalg.norm(points_mm[:, [0, 2]] - np.array([-52.0, 2.0]), axis=1), 22)
    on_palm = palm * smoothstep((-points_mm[:, 0] - 2) / 8)
    redness += 0.35 * on_palm * (1 - hollow)
    return {"crease": np.clip(crease, 0, 1), "knuckle": np.clip(knuckle, 0, 1), "redness": np.clip(redness, 0, 1)}


def vertex_maps(surface: Surface, faces: Indices, joints: Array, thumb_normal: Array) -> dict[str, Array]:
    """`skin_maps` averaged over the triangles around each vertex: creases are narrower than an edge is long.

    Args:
        faces: (f, 3). Returns (n,) maps in [0, 1].
    """
    steps = 6
    grid = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    totals: dict[str, Array] = {}
    norm = np.zeros(len(surface.points))
    for bary in np.array(grid, float) / steps:
        blend = Surface(*(np.tensordot(bary, values[faces], (0, 1)) for values in _arrays(surface)))
        blend.normals = unit(blend.normals)
        for name, values in skin_maps(blend, joints, thumb_normal).items():
            total = totals.setdefault(name, np.zeros(len(surface.points)))
            for corner in range(3):
                np.add.at(total, faces[:, corner], bary[corner] * values)
        for corner in range(3):
            np.add.at(norm, faces[:, corner], bary[corner])
    return {name: total / norm for name, total in totals.items()}


def _arrays(surface: Surface) -> tuple[Array, Array, Array]:
    return surface.points, surface.normals, surface.weights


def hand_chart(uv: Array) -> Array:
    """Moves MakeHuman's UV (n, 2) so that the hand fills the unit square and the forearm a free corner of it.

    Returns u right, v down, in [0, 1]; the centre of texel (row, column) is ((column, row) + 0.5) / size.
    """
    chart = np.zeros_like(uv)
    in_hand = uv[:, 1] < 0.5  # MakeHuman draws hands below and arms above the middle of its sheet
    low, high = uv[in_hand].min(0), uv[in_hand].max(0)
    chart[in_hand] = 0.01 + 0.98 * (uv[in_hand] - low) / (high - low).max()
    if (~in_hand).any():
        low, high = uv[~in_hand].min(0), uv[~in_hand].max(0)
        chart[~in_hand] = 0.01 + 0.11 * (uv[~in_hand] - low) / (high - low).max()
    chart[:, 1] = 1 - chart[:, 1]
    return chart


def rasterise_chart(chart: Array, faces: Indices, size: int) -> tuple[Indices, Array]:
    """Which face covers each texel (size, size), -1 for none, and its barycentric coordinates (size, size, 3)."""
    face_at, bary_at = np.full((size, size), -1), np.zeros((size, size, 3))
    pixels = chart * size - 0.5
    for index, face in enumerate(faces):
        a, b, c = pixels[face]
        low = np.maximum(np.floor(np.minimum(np.minimum(a, b), c)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(np.maximum(np.maximum(a, b), c)).astype(int) + 2, size)
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if abs(area) < 1e-12 or not x.size:
            continue
        wb = ((x - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (y - a[1])) / area
        wc = ((b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1])) / area
        bary = np.stack([1 - wb - wc, wb, wc], -1)
        inside = bary.min(-1) > -1e-6
        face_at[y[inside], x[inside]] = index
        bary_at[y[inside], x[inside]] = bary[inside]
    return face_at, bary_at


def fill_outside(image: Array, covered: NDArray[np.bool_], steps: int = 6) -> Array:
    """Grows the covered texels outwards so that filtering at a seam never meets an empty one."""
    image, covered = image.copy(), covered.copy()
    for _ in range(steps):
        total, count = np.zeros_like(image), np.zeros(covered.shape)
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            rolled = np.roll(covered, shift, axis)
            total += np.roll(image, shift, axis) * rolled[..., None]
            count += rolled
        grow = ~covered & (count > 0)
        image[grow] = total[grow] / count[grow][:, None]
        covered |= grow
    return image


def nail_values(root: Path, uv: Array) -> Array:
    """MakeHuman's nail mask in [0, 1] at MakeHuman's UV (..., 2)."""
    mask = np.asarray(Image.open(root / "textures" / "mpfb_fingernails.jpg").convert("L"), float) / 255
    height, width = mask.shape
    row = np.clip(((1 - uv[..., 1]) * height).astype(int), 0, height - 1)
    column = np.clip((uv[..., 0] * width).astype(int), 0, width - 1)
    return mask[row, column]


def build_texture(
    surface: Surface,
    faces: Indices,
    uv: Array,
    chart: Array,
    face_uv: Indices,
    joints: Array,
    thumb_normal: Array,
    root: Path,
) -> NDArray[np.uint8]:
    """Texture (256, 256, 4) uint8: crease, knuckle, redness, nail.

    Args:
        surface: the rest surface at the vertices; faces: (f, 3); uv: (u, 2) MakeHuman's; chart: (u, 2) ours;
        face_uv: (f, 3) indices into both.
    """
    scale = 2  # supersampled: creases are about one texel wide
    face_at, bary = rasterise_chart(chart, face_uv, scale * TEXTURE_SIZE)
    covered = face_at >= 0
    corners, weights = faces[face_at[covered]], bary[covered][..., None]
    blend = Surface(*((values[corners] * weights).sum(1) for values in _arrays(surface)))
    blend.normals = unit(blend.normals)
    maps = skin_maps(blend, joints, thumb_normal)
    nail = nail_values(root, (uv[face_uv[face_at[covered]]] * weights).sum(1))
    image = np.zeros((*face_at.shape, 4))
    image[covered] = np.stack([maps["crease"], maps["knuckle"], maps["redness"], nail], 1)
    image = fill_outside(image, covered, 12)
    image = image.reshape(TEXTURE_SIZE, scale, TEXTURE_SIZE, scale, 4).mean((1, 3))
    return np.round(255 * image).astype(np.uint8)
