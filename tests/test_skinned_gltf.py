"""Skinned, animated .glb files: read back by our own reader, by trimesh and, where there, other programs.

`HANDMIM_GLTF_VALIDATOR` names a `node_modules` folder with the npm packages `gltf-validator` and `three`;
`HANDMIM_BLENDER_PYTHON` a Python that has the package `bpy`.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from fabricate_mano import fabricate, write_npz
from read_glb import GlbFile
from stub_network import picture, stub_model

from handmim import HandModel, InputError
from handmim.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from handmim.hand import CAMERA_TO_GLTF
from handmim.hand_model import JOINT_ORDER, PARENTS
from handmim.mano_files import ManoFileError, ManoFileNotFoundError
from handmim.skinned_gltf import (
    HALF_TURN,
    JOINT_NAMES,
    MAX_FRAMES,
    TOLERANCE,
    HandFrame,
    export_animation,
    is_inexact,
    write_animation,
)
from handmim.synthesis.poses import sample_poses
from handmim.synthesis.random import SampleRandom

TESTS = Path(__file__).parent
FRAMES, FPS = 40, 30.0
POSE = ("global_orient", "hand_pose", "betas", "translation")
CASES = [(side, changing) for side in ("right", "left") for changing in (False, True)]
# Of float32 files and arithmetic, metres.
ROUNDING = 2e-6


def motion(side: str = "right", changing: bool = False, frames: int = FRAMES) -> list[HandFrame]:
    """A hand that goes through four poses while it turns by more than a full turn; its betas may change."""
    poses = matrix_to_axis_angle(sample_poses(SampleRandom(3, torch.arange(4)))).double().numpy()
    mirror = [1, 1, 1] if side == "right" else [1, -1, -1]
    result = []
    for frame in range(frames):
        at = frame / max(frames - 1, 1) * (len(poses) - 1)
        left = min(int(at), len(poses) - 2)
        pose = (left + 1 - at) * poses[left] + (at - left) * poses[left + 1]
        betas = np.sin(np.arange(10)) * 1.5 + (0.8 * np.sin(frame / 6 + np.arange(10)) if changing else 0)
        orient = np.array([0.1, 0.2, 1.0]) * (7.0 * frame / frames - 3.5)
        place = np.array([0.1 * np.sin(frame / 9), 0.02, 0.5 + frame / 400])
        result.append(HandFrame(orient, pose * mirror, betas, place, side, "open"))
    return result


def posed(hands: Sequence[HandFrame], model: HandModel | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (F, V, 3) and joints (F, 21, 3) by the hand model, in glTF's frame."""
    model = model or HandModel(hands[0].hand_model, hands[0].handedness)
    stack = {name: torch.tensor(np.stack([getattr(hand, name) for hand in hands])) for name in POSE}
    turns = axis_angle_to_matrix(torch.cat([stack["global_orient"][:, None], stack["hand_pose"]], 1)).float()
    output = model(turns[:, 0], turns[:, 1:], stack["betas"].float(), stack["translation"].float())
    return output.vertices.numpy() * CAMERA_TO_GLTF, output.joints.numpy() * CAMERA_TO_GLTF


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """An animation for each case."""
    folder = tmp_path_factory.mktemp("glb")
    return {
        (side, changing): export_animation(motion(side, changing), folder / f"{side}-{changing}.glb", FPS)
        for side, changing in CASES
    }


# ---------------------------------------------------------------------------------------------------------------------
# Read back


@pytest.mark.parametrize("case", CASES)
def test_keyframes_have_the_models_vertices(files: dict, case: tuple[str, bool]) -> None:
    glb, (truth, _) = GlbFile(files[case]), posed(motion(*case))
    for frame in range(0, FRAMES, 3):
        error = np.linalg.norm(glb.vertices(frame / FPS) - truth[frame], axis=1)
        assert error.max() < TOLERANCE + ROUNDING
    plain = glb.state(1.0)[1]
    assert 0 <= plain[10:].min() and plain[10:].max() <= 1
    plain[10:] = 0  # without the pose targets it would not do
    assert np.linalg.norm(glb.vertices(1.0, plain) - truth[30], axis=1).max() > 10 * TOLERANCE


@pytest.mark.parametrize("most", [128, 2])
def test_the_error_that_is_left_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("handmim.skinned_gltf.MAX_POSE_TARGETS", most)
    hands = motion(changing=True)
    path, told = write_animation(hands, tmp_path / "h.glb", FPS)
    glb, (truth, _) = GlbFile(path), posed(hands)
    errors = [np.linalg.norm(glb.vertices(f / FPS) - truth[f], axis=1).max() for f in range(FRAMES)]
    assert 0.5 * told < max(errors) < told + ROUNDING
    assert is_inexact(told) == (most == 2)


def test_an_inexact_animation_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handmim.skinned_gltf.MAX_POSE_TARGETS", 2)
    with pytest.warns(UserWarning, match=r"h.glb: vertices are up to [0-9.]+ mm off at keyframes, more than 0.1 mm"):
        assert export_animation(motion(), tmp_path / "h.glb").is_file()


@pytest.mark.parametrize("case", CASES)
def test_between_keyframes(tmp_path: Path, case: tuple[str, bool]) -> None:
    """Every second frame is left out of the file and must come out of it: measured 0.1 mm on average."""
    hands = motion(*case, frames=81)
    glb, (truth, _) = GlbFile(export_animation(hands[::2], tmp_path / "h.glb", FPS / 2)), posed(hands)
    errors = np.stack([np.linalg.norm(glb.vertices(f / FPS) - truth[f], axis=1) for f in range(1, 80, 6)])
    assert errors.mean() < 5e-4 and errors.max() < 3e-3


@pytest.mark.parametrize("side", ["right", "left"])
def test_joints(files: dict, side: str) -> None:
    glb, (_, joints) = GlbFile(files[side, False]), posed(motion(side))
    skeleton = {JOINT_NAMES[j]: joints[20, k] for k, j in enumerate(JOINT_ORDER) if j < 16}
    found = glb.joints(20 / FPS)
    assert list(found) == list(JOINT_NAMES)
    for name, place in skeleton.items():
        np.testing.assert_allclose(found[name], place, atol=ROUNDING)
    nodes = glb.document["nodes"]
    for joint, parent in enumerate(PARENTS[1:], 1):
        assert joint + 1 in nodes[parent + 1]["children"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_prediction_stands_still(tmp_path: Path, side: str) -> None:
    """A `Hand` as the front door gives it; its own vertices are the truth."""
    (hand,) = stub_model()(picture(), boxes=[10, 10, 80, 70], handedness=side)
    glb = GlbFile(export_animation(hand, tmp_path / "hand.glb"))
    assert "animations" not in glb.document
    assert np.linalg.norm(glb.vertices() - hand.vertices * CAMERA_TO_GLTF, axis=1).max() < 3 * ROUNDING
    np.testing.assert_array_equal(glb.faces, hand.faces)


def test_same_frame_as_hand_export() -> None:
    np.testing.assert_array_equal(HALF_TURN.numpy(), CAMERA_TO_GLTF)


@pytest.mark.parametrize("side", ["right", "left"])
def test_trimesh_reads_the_bind_pose(files: dict, side: str) -> None:
    scene = trimesh.load(files[side, True])
    (mesh,) = scene.geometry.values()
    model = HandModel("open", side)
    np.testing.assert_allclose(mesh.vertices, model.template.numpy(), atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, model.faces.numpy())
    assert mesh.volume > 1e-4  # positive: wound outwards
    assert (mesh.vertex_normals * GlbFile(files[side, True]).attribute("NORMAL")).sum(1).min() > 0


@pytest.mark.parametrize("case", CASES)
def test_rules_of_the_format(files: dict, case: tuple[str, bool]) -> None:
    glb = GlbFile(files[case])
    document = glb.document
    assert document["buffers"] == [{"byteLength": len(glb.binary)}]
    covered = 0
    for view in document["bufferViews"]:  # one after the other, each at a multiple of four
        assert view["byteOffset"] == covered and covered % 4 == 0
        covered += -(-view["byteLength"] // 4) * 4
    assert covered == len(glb.binary)
    for index, accessor in enumerate(document["accessors"]):
        array = glb.accessor(index)
        assert np.isfinite(array).all()
        for name, limit in (("min", np.min), ("max", np.max)):
            if name in accessor:
                np.testing.assert_array_equal(np.float32(accessor[name]), limit(array, axis=0))
    assert used_accessors(document) == list(range(len(document["accessors"])))
    weights, owners = glb.attribute("WEIGHTS_0"), glb.attribute("JOINTS_0")
    np.testing.assert_allclose(weights.sum(1), 1, atol=2e-7)
    assert (weights >= 0).all() and (owners < 16).all() and (owners[weights == 0] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(glb.attribute("NORMAL"), axis=1), 1, atol=1e-6)
    mesh = document["meshes"][0]
    names = mesh["extras"]["targetNames"]
    assert names[:11] == [*(f"shape_{k}" for k in range(10)), "pose_0"]
    assert len(names) == len(mesh["weights"]) == len(glb.primitive["targets"])
    assert any("sparse" in accessor for accessor in document["accessors"])


def used_accessors(document: dict) -> list[int]:
    """Every accessor that something refers to, in order."""
    primitive = document["meshes"][0]["primitives"][0]
    used = {primitive["indices"], document["skins"][0]["inverseBindMatrices"], *primitive["attributes"].values()}
    used |= {target["POSITION"] for target in primitive["targets"]}
    used |= {sampler[end] for a in document["animations"] for sampler in a["samplers"] for end in ("input", "output")}
    return sorted(used)


@pytest.mark.parametrize("case", CASES)
def test_keyframes(files: dict, case: tuple[str, bool]) -> None:
    glb = GlbFile(files[case])
    (animation,) = glb.document["animations"]
    paths = {}
    for channel in animation["channels"]:
        sampler = animation["samplers"][channel["sampler"]]
        times, values = glb.accessor(sampler["input"])[:, 0], glb.accessor(sampler["output"])
        np.testing.assert_allclose(times, np.arange(FRAMES) / FPS, rtol=1e-6)
        assert "min" in glb.document["accessors"][sampler["input"]]
        target = channel["target"]
        paths.setdefault(target["path"], []).append(target["node"])
        if target["path"] == "rotation":
            np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)
            assert ((values[1:] * values[:-1]).sum(1) > 0).all()
    assert paths == {
        "rotation": list(range(1, 17)),
        "translation": list(range(1, 17)) if case[1] else [1],
        "weights": [0],
    }


def test_frames_without_a_hand_keep_their_time(tmp_path: Path) -> None:
    hands: list = motion()
    hands[0] = hands[1] = hands[10] = hands[-1] = None
    glb = GlbFile(export_animation(hands, tmp_path / "h.glb", 10))
    times = glb.accessor(glb.document["animations"][0]["samplers"][0]["input"])[:, 0]
    np.testing.assert_allclose(times, [f / 10 for f in range(2, 39) if f != 10], rtol=1e-6)
    np.testing.assert_array_equal(glb.vertices(0.0), glb.vertices(0.2))


def test_given_times(tmp_path: Path) -> None:
    glb = GlbFile(export_animation(motion(frames=3), tmp_path / "h.glb", times=[0.5, 0.75, 3]))
    times = glb.accessor(glb.document["animations"][0]["samplers"][0]["input"])[:, 0]
    assert times.tolist() == [0.5, 0.75, 3.0]


def test_the_flat_mean_hand_needs_no_targets(tmp_path: Path) -> None:
    hand = HandFrame(np.zeros(3), np.zeros((15, 3)), np.zeros(10), np.zeros(3), "right", "open")
    glb = GlbFile(export_animation(hand, tmp_path / "h.glb"))
    assert len(glb.targets()) == 10
    np.testing.assert_allclose(glb.vertices(), HandModel("open").template.numpy() * CAMERA_TO_GLTF, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------------------
# MANO


@pytest.mark.parametrize("side", ["right", "left"])
def test_mano_only_with_leave(tmp_path: Path, side: str) -> None:
    """Fabricated arrays: dense weights and pose blend shapes of centimetres. A left hand needs only the right file."""
    path = write_npz(tmp_path / "MANO_RIGHT.npz", fabricate())
    hands = [replace(hand, hand_model="mano") for hand in motion(side, frames=12)]
    with pytest.raises(InputError, match=r"MANO licence .*license.html.*allow_licensed"):
        export_animation(hands, tmp_path / "h.glb", hand_model_path=path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    glb = GlbFile(export_animation(hands, tmp_path / "h.glb", allow_licensed=True, hand_model_path=path))
    model = HandModel("mano", "right", path)
    if side == "right":
        truth = posed(hands, model)[0]
    else:
        sign = np.array([1, -1, -1])
        twins = [replace(h, global_orient=h.global_orient * sign, hand_pose=h.hand_pose * sign) for h in hands]
        twins = [replace(h, translation=h.translation * [-1, 1, 1]) for h in twins]
        truth = posed(twins, model)[0] * [-1, 1, 1]
    for frame in (0, 5, 11):
        assert np.linalg.norm(glb.vertices(frame / FPS) - truth[frame], axis=1).max() < TOLERANCE + ROUNDING
    assert "MANO licence" in glb.document["asset"]["copyright"]


def test_the_left_file_never_poses_hands(tmp_path: Path) -> None:
    """The right hand's file is wanted for either side; that of the left one gives way to it, or is refused."""
    left = write_npz(tmp_path / "MANO_LEFT.npz", fabricate(side="left"))
    options = {"allow_licensed": True, "hand_model_path": left}
    for side in ("right", "left"):
        hand = replace(motion(side, frames=1)[0], hand_model="mano")
        with pytest.raises(ManoFileError, match="MANO_LEFT.npz holds a left hand, and the right one is needed"):
            export_animation(hand, tmp_path / "h.glb", **options)
        right = write_npz(tmp_path / "MANO_RIGHT.npz", fabricate())
        beside = export_animation(hand, tmp_path / "beside.glb", **options).read_bytes()
        named = export_animation(hand, tmp_path / "named.glb", **options | {"hand_model_path": right}).read_bytes()
        assert beside == named
        right.unlink()


def test_mano_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDMIM_MANO_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ManoFileNotFoundError):
        export_animation(
            [replace(motion()[0], hand_model="mano")],
            tmp_path / "h.glb",
            allow_licensed=True,
            hand_model_path=tmp_path / "no.pkl",
        )


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(handedness="left"), "frame 2 has handedness 'left', but frame 0 has 'right'"),
        (dict(hand_model="mano"), "frame 2 has hand_model 'mano', but frame 0 has 'open'"),
        (dict(hand_pose=np.zeros((14, 3))), "frame 2: hand_pose must be 15 x 3 finite numbers"),
        (dict(betas=np.full(10, np.nan)), "frame 2: betas must be 10 finite numbers"),
        (dict(betas=["1"] * 10), "frame 2: betas must be"),
        (dict(betas=None), "frame 2: betas must be"),
        (dict(betas=[[1]] + [1] * 9), "frame 2: betas must be"),
        (dict(betas=[10**400] * 10), "frame 2: betas must be"),
        (dict(betas=np.full(10, 1e9)), "frame 2: betas has 1e[+]09, more than 100"),
        (dict(global_orient=np.full(3, 1e30)), "frame 2: global_orient has 1e[+]30"),
        (dict(translation=np.full(3, -1e30), source="f.json"), "f.json: translation has 1e[+]30"),
    ],
)
def test_bad_frames(tmp_path: Path, change: dict, message: str) -> None:
    hands = motion(frames=4)
    hands[2] = replace(hands[2], **change)
    with pytest.raises(InputError, match=message):
        export_animation(hands, tmp_path / "h.glb")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(fps=0), "fps must be a number from 0.001"),
        (dict(fps=float("nan")), "fps must be"),
        (dict(fps="30"), "fps must be"),
        (dict(times=[0, 1]), "times must be 3 finite numbers"),
        (dict(times=[0, 2, 1]), "increase"),
        (dict(times=[-1, 0, 1]), "increase"),
        (dict(times=[1.7e9, 1.7e9 + 0.03, 1.7e9 + 0.06]), "increase"),
        (dict(times=[0, 1e10, 1e300]), "increase"),
        (dict(path="hand.gltf"), "written as .glb, got 'hand.gltf'"),
        (dict(hands=[]), "no hand to animate in 0 frame"),
        (dict(hands=[None, None]), "no hand to animate in 2 frame"),
        (dict(hands=[None] * (MAX_FRAMES + 1)), "may have 9000 frames"),
        (dict(hands=["hand"]), "frame 0: handedness must be 'left' or 'right', got None"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict, message: str) -> None:
    path, hands = tmp_path / arguments.pop("path", "h.glb"), arguments.pop("hands", motion(frames=3))
    with pytest.raises(InputError, match=message):
        export_animation(hands, path, **arguments)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# Other programs


def npm_program(*arguments: object) -> object:
    """What tests/gltf_programs.mjs prints; skips where the packages are not there."""
    modules = os.environ.get("HANDMIM_GLTF_VALIDATOR")
    if not modules or not shutil.which("node"):
        pytest.skip("needs node, and HANDMIM_GLTF_VALIDATOR naming a node_modules with gltf-validator and three")
    command = ["node", TESTS / "gltf_programs.mjs", modules, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_validator(files: dict, tmp_path: Path) -> None:
    """The Khronos validator has nothing to say, not even hints."""
    still = export_animation(motion()[0], tmp_path / "still.glb")
    for file in (still, *files.values()):
        report = npm_program("validate", file)
        assert report["issues"]["messages"] == []
        assert report["info"]["hasSkins"] and report["info"]["hasMorphTargets"]


@pytest.mark.parametrize("case", CASES)
def test_three_poses_it_alike(files: dict, case: tuple[str, bool]) -> None:
    frames = [0, 7, 20, FRAMES - 2]
    found = np.array(npm_program("three", files[case], *(frame / FPS for frame in frames)))
    truth = posed(motion(*case))[0][frames]
    assert np.linalg.norm(found - truth, axis=-1).max() < TOLERANCE + 5 * ROUNDING
    between = np.array(npm_program("three", files[case], 20.5 / FPS))[0]
    np.testing.assert_allclose(between, GlbFile(files[case]).vertices(20.5 / FPS), atol=5 * ROUNDING)


@pytest.mark.parametrize("case", CASES)
def test_blender_poses_it_alike(files: dict, tmp_path: Path, case: tuple[str, bool]) -> None:
    python = os.environ.get("HANDMIM_BLENDER_PYTHON")
    if not python:
        pytest.skip("needs HANDMIM_BLENDER_PYTHON naming a Python with bpy")
    frames = [0, 7, 20, FRAMES - 2]
    command = [python, TESTS / "blender_gltf.py", files[case], tmp_path / "v.npy", *(f / FPS for f in frames)]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=300)
    error = np.linalg.norm(np.load(tmp_path / "v.npy") - posed(motion(*case))[0][frames], axis=-1)
    assert error.max() < TOLERANCE + 5 * ROUNDING
