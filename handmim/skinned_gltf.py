"""A hand that moves, as one `.glb`: mesh, skeleton, skin weights, morph targets and keyframes, for Blender or three.js.

A viewer computes a vertex as glTF 2.0 says: `sum_j w_j G_j B_j (template + sum_i m_i target_i)`, with joint transforms
G, inverse bind matrices B and morph weights m. The hand model computes more than that; what becomes of the rest:

* **Shape.** Targets `shape_0` to `shape_9` are the shape directions, their weights the betas, or their mean if they
  change from frame to frame. Shape also moves the joints: nodes and B are those of the (mean) betas, and if these
  change, keyframes of the nodes' translations put the joints where each frame has them.
* **Skinning weights.** Programs need not read more than four a vertex (three.js does not), so the four largest are
  kept and scaled to sum 1.
* **Pose correctives** have no counterpart in glTF; without them the open hand is off by up to 4 mm.

Whatever this leaves over is found as an offset of each vertex in the bind pose, frame by frame, and few targets
`pose_0`, `pose_1`, ... are chosen whose sums give these offsets to `TOLERANCE`, or as well as `MAX_POSE_TARGETS` can;
how well is told. They belong to this motion: at weight 0 they do nothing, and another motion needs others. Their
weights lie in [0, 1] because Blender (5.0) clamps animated weights to that range, widened by the first keyframe only;
for the same reason changing betas are left to them.

Frames: node rotations are `hand_pose` itself, and the bind pose lies in the hand model's own frame. The wrist's node
carries the way into glTF's world: y up, metres, the camera of the picture at the origin, looking along -z.
"""

import itertools
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .atomic_files import atomic_file
from .errors import InputError
from .geometry import axis_angle_to_matrix, matrix_to_quaternion, mirror_matrix
from .glb import NEGLIGIBLE, SKIN, GlbBuffer, glb_bytes, surface
from .hand_model import NUM_BETAS, NUM_JOINTS, PARENTS, HandModel
from .rendering import vertex_normals

JOINT_NAMES = ("wrist",) + tuple(f"{f}_{i}" for f in ("index", "middle", "little", "ring", "thumb") for i in (1, 2, 3))
# Camera frame -> glTF's: half a turn about x, as `hand.CAMERA_TO_GLTF`.
HALF_TURN = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
# Largest distance that a vertex may have from the hand model's at a keyframe, metres, and the most targets spent on it
# (drivers guarantee 256 layers to the texture in which three.js keeps targets).
TOLERANCE = 1e-4
MAX_POSE_TARGETS = 128
# Five minutes at 30 frames a second; the offsets of all frames are held at once, 20 kB each.
MAX_FRAMES = 9000
# Beyond these a number is an accident (radians, standard deviations, metres), and float32 arithmetic may overflow.
LIMITS = {"global_orient": 1e3, "hand_pose": 1e3, "betas": 1e2, "translation": 1e4}
SHAPES = {"global_orient": (3,), "hand_pose": (15, 3), "betas": (NUM_BETAS,), "translation": (3,)}
# Frames skinned at once: their blended transforms take 80 kB each.
CHUNK = 64
MANO_LICENCE = "https://mano.is.tue.mpg.de/license.html"


class PosedHand(Protocol):
    """What is read of a hand: parameters as `Hand` has them. An attribute `source` names it in error messages."""

    global_orient: np.ndarray
    hand_pose: np.ndarray
    betas: np.ndarray
    translation: np.ndarray
    handedness: str
    hand_model: str


@dataclass(frozen=True, eq=False)
class HandFrame:
    """A hand's parameters, as `Hand` has them, and where they come from."""

    global_orient: np.ndarray
    hand_pose: np.ndarray
    betas: np.ndarray
    translation: np.ndarray
    handedness: str
    hand_model: str
    source: str = ""


def export_animation(
    hands: PosedHand | Iterable[PosedHand | None],
    path: str | os.PathLike,
    fps: float = 30.0,
    *,
    times: Sequence[float] | None = None,
    allow_licensed: bool = False,
    hand_model_path: str | os.PathLike | None = None,
) -> Path:
    """Write one hand through time as a skinned, animated `.glb`; a single hand gives a still, posed rig.

    Args:
        hands: One `Hand` a frame, all of one side and one hand model, up to `MAX_FRAMES`; or a single `Hand`. None is
            a frame without a hand: it gets no keyframe, viewers interpolate over its time, and those before the first
            and after the last hand hold still.
        path: Ends in .glb. The file appears complete or not at all.
        fps: Frames a second.
        times: Seconds of each frame, from 0 up, instead of `fps`.
        allow_licensed: Write a MANO hand, though the file then holds MANO's template, shape directions and weights.
        hand_model_path: MANO_RIGHT.pkl or its folder; None: looked up.

    Raises:
        InputError: Hands of different sides or models, numbers that make no sense, times that do not increase, a MANO
            hand without leave.
        ManoFileNotFoundError: A MANO hand without the file.
        OSError: The file cannot be written.

    Warns:
        UserWarning: The motion is so long and varied that a vertex is further off than `TOLERANCE` at a keyframe.
    """
    path, error = write_animation(
        hands, path, fps, times=times, allow_licensed=allow_licensed, hand_model_path=hand_model_path
    )
    if is_inexact(error):
        warnings.warn(f"{path}: {inexact_message(error)}", stacklevel=2)
    return path


def is_inexact(error: float) -> bool:
    """Whether an animation is further off than it should be; a micrometre is rounding."""
    return error > TOLERANCE + 1e-6


def inexact_message(error: float) -> str:
    return (
        f"vertices are up to {error * 1000:.2g} mm off at keyframes, more than {TOLERANCE * 1000:g} mm, because "
        f"{MAX_POSE_TARGETS} shape keys cannot follow this motion more closely; write it in parts"
    )


def write_animation(
    hands: PosedHand | Iterable[PosedHand | None],
    path: str | os.PathLike,
    fps: float = 30.0,
    *,
    times: Sequence[float] | None = None,
    allow_licensed: bool = False,
    hand_model_path: str | os.PathLike | None = None,
) -> tuple[Path, float]:
    """As `export_animation`, without the warning: the path, and how far vertices are off at keyframes, metres."""
    path = Path(path)
    if path.suffix.lower() != ".glb":
        raise InputError(f"an animated hand is written as .glb, got {path.name!r}")
    frames = list(itertools.islice(hands, MAX_FRAMES + 1)) if isinstance(hands, Iterable) else [hands]
    found, seconds = _keyframes(frames, fps, times)
    side, kind = _common(found)
    if kind == "mano" and not allow_licensed:
        raise InputError(
            "a skinned .glb of a MANO hand contains MANO's template, shape directions and skinning weights, which the "
            f"MANO licence ({MANO_LICENCE}) does not let you pass on; for a file of your own set allow_licensed=True "
            "(--allow-licensed), to share the mesh alone use Hand.export"
        )
    rig = _Rig.load(kind, side, hand_model_path)
    motion = _Motion.of(rig, *(_stack(found, name) for name in SHAPES))
    data = glb_bytes(*_document(rig, motion, seconds))
    with atomic_file(path) as file:
        file.write(data)
    return path, motion.error


# ---------------------------------------------------------------------------------------------------------------------
# What was given


def _keyframes(
    frames: list[PosedHand | None], fps: float, times: Sequence[float] | None
) -> tuple[list[tuple[str, PosedHand]], np.ndarray]:
    """The hands that are there, each with its name for messages, and their seconds (F,) float32."""
    if len(frames) > MAX_FRAMES:
        raise InputError(f"an animation may have {MAX_FRAMES} frames, got more; write it in parts")
    if times is None:
        if not (isinstance(fps, (int, float)) and math.isfinite(fps) and 0.001 <= fps <= 10_000):
            raise InputError(f"fps must be a number from 0.001 to 10000, got {fps!r}")
        seconds = np.arange(len(frames)) / fps
    else:
        seconds = _numbers(times, (len(frames),), "times")
    seconds = seconds.clip(-1, 1e9).astype(np.float32)  # as the file has them
    if (np.diff(seconds) <= 0).any() or (seconds < 0).any():
        raise InputError("times must be seconds from 0 to 1e9 that increase also when rounded to float32")
    names = [getattr(hand, "source", "") or f"frame {index}" for index, hand in enumerate(frames)]
    there = [index for index, hand in enumerate(frames) if hand is not None]
    if not there:
        raise InputError(f"no hand to animate in {len(frames)} frame(s)")
    return [(names[index], frames[index]) for index in there], seconds[there]


def _common(found: list[tuple[str, PosedHand]]) -> tuple[str, str]:
    """Side and hand model, the same in all frames."""
    first = found[0][0]
    allowed = {"handedness": ("left", "right"), "hand_model": ("open", "mano")}
    for attribute, values in allowed.items():
        expected = getattr(found[0][1], attribute, None)
        if expected not in values:
            raise InputError(f"{first}: {attribute} must be {' or '.join(map(repr, values))}, got {expected!r}")
        for name, hand in found:
            value = getattr(hand, attribute, None)
            if value != expected:
                raise InputError(
                    f"{name} has {attribute} {value!r}, but {first} has {expected!r}; an animation is of one hand: "
                    "choose those of one side (handmim animate: --hand left or right)"
                )
    return found[0][1].handedness, found[0][1].hand_model


def _stack(found: list[tuple[str, PosedHand]], name: str) -> Tensor:
    """One parameter of all frames, (F, ...) float64, checked."""
    rows = []
    for source, hand in found:
        row = _numbers(getattr(hand, name), SHAPES[name], f"{source}: {name}")
        if np.abs(row).max() > LIMITS[name]:
            raise InputError(f"{source}: {name} has {np.abs(row).max():.3g}, more than {LIMITS[name]:g}")
        rows.append(row)
    return torch.from_numpy(np.stack(rows))


def _numbers(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Finite numbers of this shape as float64."""
    try:
        array = np.asarray(value)
        fits = array.shape == shape and array.dtype.kind in "fiu" and bool(np.isfinite(array).all())
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        form = " x ".join(map(str, shape))
        raise InputError(f"{name} must be {form} finite numbers, got {str(value)[:60]!r}")
    return array.astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# The hand in glTF's terms


@dataclass(frozen=True, eq=False)
class _Rig:
    """A hand at rest. Left hands are the right one mirrored, as everywhere in the package.

    Attributes:
        model: The right hand's.
        sign: (3,) -1 where x is mirrored.
        template: (V, 3) metres, mean shape. shape_dirs: (V, 3, 10). faces: (F, 3).
        joints: (16, 3), of the mean shape. joint_dirs: (16, 3, 10).
        owners, weights: (V, 4) joints of the four largest weights, and these, summing to 1; joint 0 where it is 0.
    """

    model: HandModel
    side: str
    sign: Tensor
    template: Tensor
    shape_dirs: Tensor
    faces: Tensor
    joints: Tensor
    joint_dirs: Tensor
    owners: Tensor
    weights: Tensor

    @classmethod
    def load(cls, kind: str, side: str, path: str | os.PathLike | None) -> "_Rig":
        model = HandModel(kind, "right", path)
        model.mean_shape_joints()  # tells of a missing MANO file
        sign = torch.tensor([-1.0 if side == "left" else 1.0, 1.0, 1.0])
        template, shape_dirs = model.template * sign, model.shape_dirs * sign[:, None]
        weights, owners = model.skinning_weights.topk(4, dim=1)
        weights = weights / weights.sum(1, keepdim=True)
        weights[:, 0] = 1 - weights[:, 1:].sum(1)  # to the last bit
        regressor = model.joint_regressor
        return cls(
            model,
            side,
            sign,
            template,
            shape_dirs,
            model.faces if side == "right" else model.faces.flip(1),
            (regressor @ template).double(),
            torch.einsum("jv,vck->jck", regressor, shape_dirs).double(),
            owners.where(weights > 0, torch.zeros_like(owners)),
            weights,
        )

    def posed(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """Vertices (B, V, 3) by the hand model, wrist at its place at rest."""
        rotations = rotations.float() if self.side == "right" else mirror_matrix(rotations.float())
        with torch.no_grad():
            return self.model(rotations[:, 0], rotations[:, 1:], betas.float()).vertices * self.sign


@dataclass(frozen=True, eq=False)
class _Motion:
    """What moves, frame by frame; in the camera frame.

    Attributes:
        bind_joints: (16, 3) where the inverse bind matrices put the joints.
        rotations: (F, 16, 3, 3) of each joint in its parent.
        translations: (F, 16, 3) of each joint in its parent, metres.
        betas: (10,), of the shape targets.
        steady: whether the frames have these betas.
        pose_targets: (K, V, 3) offsets in the bind pose, metres.
        pose_weights: (F, K) in [0, 1].
        error: metres, that no vertex is further from the hand model's in any frame.
    """

    bind_joints: Tensor
    rotations: Tensor
    translations: Tensor
    betas: Tensor
    steady: bool
    pose_targets: Tensor
    pose_weights: Tensor
    error: float

    @classmethod
    def of(cls, rig: _Rig, global_orient: Tensor, hand_pose: Tensor, betas: Tensor, translation: Tensor) -> "_Motion":
        rotations = axis_angle_to_matrix(torch.cat([global_orient[:, None], hand_pose], 1))
        bind_joints, translations = _joint_translations(rig, rotations, betas)
        offsets, unsolved = _offsets(rig, rotations, translations, bind_joints, betas)
        translations[:, 0] += translation
        steady = bool((betas == betas[:1]).all())
        targets, weights, left = choose_targets(offsets, TOLERANCE)
        error = float((left + unsolved).max())  # skinning blends rotations, which lengthens nothing
        return cls(bind_joints, rotations, translations, betas.mean(0), steady, targets, weights, error)

    @property
    def weights(self) -> Tensor:
        """(F, 10 + K) of all morph targets."""
        return torch.cat([self.betas.expand(len(self.rotations), -1), self.pose_weights], 1)


def _joint_translations(rig: _Rig, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Joints (16, 3) of the bind pose, and each joint's translation in its parent (F, 16, 3), metres.

    The skin of a joint must turn about where the frame's betas put it, J, but the one inverse bind matrix moves by
    J0, of the mean betas. A node at `p - R (J - J0)` instead of the joint's own place p makes up for that; in the
    parent's frame this is `J0 - J0_parent + (I - R_local)(J - J0)`. Constant betas leave the bone.
    """
    joints = rig.joints + torch.einsum("jck,fk->fjc", rig.joint_dirs, betas)
    bind = joints.mean(0)
    apart = joints - bind
    parents = PARENTS[1:]
    bones = torch.cat([bind[:1], bind[1:] - bind[parents]])
    return bind, bones + apart - (rotations @ apart[..., None]).squeeze(-1)


def _joint_transforms(rotations: Tensor, translations: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations and positions in the world, (B, 16, 3, 3) and (B, 16, 3), of joints given in their parents."""
    turns, places = [rotations[:, 0]], [translations[:, 0]]
    for joint in range(1, NUM_JOINTS):
        parent = PARENTS[joint]
        turns.append(turns[parent] @ rotations[:, joint])
        places.append(places[parent] + (turns[parent] @ translations[:, joint, :, None]).squeeze(-1))
    return torch.stack(turns, 1), torch.stack(places, 1)


def _offsets(
    rig: _Rig, rotations: Tensor, translations: Tensor, bind_joints: Tensor, betas: Tensor
) -> tuple[Tensor, Tensor]:
    """What the mean shape in the bind pose lacks for glTF's skinning to give the model's vertices.

    Returns:
        (F, V, 3) float32, metres; and (F,) the largest distance that these still leave.
    """
    four = torch.zeros(len(rig.template), NUM_JOINTS).scatter_add_(1, rig.owners, rig.weights)
    shaped = rig.template + rig.shape_dirs @ betas.mean(0).float()
    offsets, unsolved = torch.empty(len(betas), *rig.template.shape), torch.empty(len(betas))
    for start in range(0, len(betas), CHUNK):
        part = slice(start, start + CHUNK)
        turns, places = _joint_transforms(rotations[part], translations[part])
        places = places - (turns @ bind_joints[:, :, None]).squeeze(-1)
        transforms = torch.cat([turns, places[..., None]], -1).float()
        blended = torch.einsum("vj,bjrc->bvrc", four, transforms)
        blend, shift = blended[..., :3], blended[..., 3]
        missing = rig.posed(rotations[part], betas[part]) - shift - (blend @ shaped[..., None]).squeeze(-1)
        # Damped, because a blend of opposite rotations has no inverse; elsewhere it costs 1e-5 of the offset.
        transposed = blend.transpose(-1, -2)
        normal = transposed @ blend + 1e-5 * torch.eye(3)
        solved = torch.linalg.solve(normal, transposed @ missing[..., None])
        offsets[part] = solved.squeeze(-1)
        unsolved[part] = (missing - (blend @ solved).squeeze(-1)).norm(dim=-1).amax(1)
    return offsets, unsolved


def choose_targets(offsets: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Few targets whose weighted sums give the offsets of every frame.

    Greedy: as long as a vertex is further off than the tolerance, what is left of the worst frame becomes a target,
    and its share is taken out of all frames. Unlike principal components this bounds the largest error.

    Args:
        offsets: (F, V, 3) float32, metres; used up.
        tolerance: Metres.

    Returns:
        Targets (K, V, 3), K <= `MAX_POSE_TARGETS` + 1, and weights (F, K) in [0, 1], float32; (F,) the largest distance
        of a vertex that is left, above the tolerance where the targets were too few.
    """
    frames, vertices, _ = offsets.shape
    active = (offsets.abs() > NEGLIGIBLE).any(0).any(-1).nonzero().squeeze(1)
    left = offsets[:, active].reshape(frames, -1)
    targets, weights = left.new_zeros(0, left.shape[1]), left.new_zeros(frames, 0)
    error = _largest(left)
    while len(targets) < MAX_POSE_TARGETS and error.max() > tolerance:
        worst = int(error.argmax())
        target = left[worst].clone()
        weight = left @ (target / target.dot(target))
        left -= weight[:, None] * target
        targets, weights = torch.cat([targets, target[None]]), torch.cat([weights, weight[:, None]], 1)
        error = _largest(left)
    targets, weights = _from_zero_to_one(targets, weights)
    whole = offsets.new_zeros(len(targets), vertices, 3)
    whole[:, active] = targets.view(len(targets), len(active), 3)
    return whole, weights, error


def _largest(offsets: Tensor) -> Tensor:
    """(F,) longest of the offsets (F, 3 N) of each frame; 0 without any."""
    lengths = offsets.view(len(offsets), -1, 3).norm(dim=-1) if offsets.numel() else offsets.new_zeros(len(offsets), 1)
    return lengths.amax(1)


def _from_zero_to_one(targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The same sums with weights in [0, 1]; what shifting them takes is one more target, whose weight is always 1."""
    low, high = weights.amin(0).clamp(max=0), weights.amax(0)
    rest = low @ targets
    targets, weights = targets * (high - low)[:, None], ((weights - low) / (high - low)).clamp(0, 1)
    if (rest.abs() > NEGLIGIBLE).any():
        targets, weights = torch.cat([rest[None], targets]), torch.cat([torch.ones_like(weights[:, :1]), weights], 1)
    return targets, weights


def continuous_quaternions(rotations: Tensor) -> Tensor:
    """(F, ..., 3, 3) -> unit quaternions (F, ..., 4) as x, y, z, w; of q and -q the one nearer to the frame before."""
    quaternions = matrix_to_quaternion(rotations)[..., [1, 2, 3, 0]]
    turn = (quaternions[1:] * quaternions[:-1]).sum(-1, keepdim=True)
    sign = torch.where(turn < 0, -1.0, 1.0).to(quaternions.dtype).cumprod(0)
    return torch.cat([quaternions[:1], quaternions[1:] * sign])


# ---------------------------------------------------------------------------------------------------------------------
# The file


def _document(rig: _Rig, motion: _Motion, seconds: np.ndarray) -> tuple[dict[str, Any], bytes]:
    """The glTF document and its binary chunk. Node 0 has the mesh, nodes 1 to 16 are the joints."""
    buffer = GlbBuffer()
    name = f"{rig.side}_hand"
    rotations = motion.rotations.clone()
    rotations[:, 0] = HALF_TURN[:, None] * rotations[:, 0]
    translations = motion.translations.clone()
    translations[:, 0] *= HALF_TURN
    quaternions = continuous_quaternions(rotations)
    joints = [
        {"name": JOINT_NAMES[j], "rotation": quaternions[0, j].tolist(), "translation": translations[0, j].tolist()}
        | ({"children": children} if (children := [k + 1 for k in range(NUM_JOINTS) if PARENTS[k] == j]) else {})
        for j in range(NUM_JOINTS)
    ]
    inverse_bind = np.tile(np.eye(4), (NUM_JOINTS, 1, 1))
    inverse_bind[:, 3, :3] = -motion.bind_joints
    skin = {"name": name, "inverseBindMatrices": buffer.add(inverse_bind), "skeleton": 1}
    licence = "CC0-1.0" if rig.model.kind == "open" else f"MANO licence, not to be passed on: {MANO_LICENCE}"
    document = {
        "asset": {"version": "2.0", "generator": "handmim", "copyright": f"hand model ({rig.model.kind}): {licence}"},
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0, 1]}],
        "nodes": [{"name": name, "mesh": 0, "skin": 0}, *joints],
        "skins": [skin | {"joints": list(range(1, NUM_JOINTS + 1))}],
        "meshes": [_mesh(buffer, rig, motion)],
        "materials": [SKIN],
    }
    if len(seconds) > 1:
        document["animations"] = [_animation(buffer, motion, seconds, quaternions, translations)]
    document |= {"accessors": buffer.accessors, "bufferViews": buffer.views}
    return document | {"buffers": [{"byteLength": len(buffer.data)}]}, bytes(buffer.data)


def _mesh(buffer: GlbBuffer, rig: _Rig, motion: _Motion) -> dict[str, Any]:
    """The mesh in the bind pose, mean shape, with all morph targets at the weights of the first frame."""
    normals = vertex_normals(rig.template[None].double(), rig.faces)[0]
    offsets = [*rig.shape_dirs.unbind(-1), *motion.pose_targets]
    primitive = surface(buffer, rig.template, rig.faces, normals)
    primitive["attributes"] |= {
        "JOINTS_0": buffer.add(rig.owners, "uint8", buffer.VERTICES),
        "WEIGHTS_0": buffer.add(rig.weights, target=buffer.VERTICES),
    }
    primitive["targets"] = [{"POSITION": buffer.add_offsets(target)} for target in offsets]
    names = [f"shape_{k}" for k in range(NUM_BETAS)] + [f"pose_{k}" for k in range(len(motion.pose_targets))]
    extras = {"targetNames": names, "hand_model": rig.model.kind, "handedness": rig.side}
    weights = motion.weights[0].tolist()
    return {"name": f"{rig.side}_hand", "primitives": [primitive], "weights": weights, "extras": extras}


def _animation(
    buffer: GlbBuffer, motion: _Motion, seconds: np.ndarray, quaternions: Tensor, translations: Tensor
) -> dict[str, Any]:
    """Linear keyframes: all rotations, the wrist's translation, and what else changes."""
    times = buffer.add(seconds, bounds=True)
    outputs = [(j + 1, "rotation", quaternions[:, j]) for j in range(NUM_JOINTS)]
    outputs += [(j + 1, "translation", translations[:, j]) for j in range(1 if motion.steady else NUM_JOINTS)]
    if len(motion.pose_targets):
        outputs.append((0, "weights", motion.weights.reshape(-1)))
    samplers = [{"input": times, "output": buffer.add(o), "interpolation": "LINEAR"} for _, _, o in outputs]
    channels = [{"sampler": i, "target": {"node": n, "path": p}} for i, (n, p, _) in enumerate(outputs)]
    return {"name": "motion", "samplers": samplers, "channels": channels}


__all__ = ["HandFrame", "PosedHand", "export_animation"]
