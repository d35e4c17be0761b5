"""The parametric hand layer: an openly licensed hand or MANO, posed by linear blend skinning.

The file travels to Hub repositories: it imports torch, numpy, safetensors and flat siblings only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .geometry import axis_angle_to_matrix, matrix_to_axis_angle
from .mano_files import ManoFileNotFoundError, load_mano
from .open_hand_file import find_open_hand

# MANO's order: wrist, then index, middle, little, ring, thumb with three joints each, from palm to tip.
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
NUM_JOINTS = 16
NUM_BETAS = 10
# 16 skeleton joints and 5 tips (thumb, index, middle, ring, little) -> 21 joints in FreiHAND's order.
JOINT_ORDER = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
MANO_NUM_VERTICES, MANO_NUM_FACES = 778, 1538
# Hands skinned at once on a CPU: their blended transforms (12 V floats a hand) then stay in the cache.
CPU_CHUNK = 32


@dataclass
class HandModelOutput:
    """A posed hand, float32, metres, in the frame of the given rotations and translation.

    Attributes:
        vertices: (B, V, 3) mesh.
        joints: (B, 21, 3) wrist, then thumb, index, middle, ring, little from palm to tip (FreiHAND's order).
        skeleton_joints: (B, 16, 3) the joints that rotate, in MANO's order.
    """

    vertices: Tensor
    joints: Tensor
    skeleton_joints: Tensor


class HandModel(nn.Module):
    """Hand mesh and joints from rotations and shape; differentiable, in float32 whatever the network's dtype.

    Args:
        kind: "open" (in the package, CC0) or "mano" (licensed, the user's own file).
        side: "right" or "left".
        path: The open hand's file, or MANO's or the folder that holds it; looked up when None (see `open_hand_file`
            and `mano_files`).

    Buffers are not persistent: no hand-model array enters a checkpoint. `reset_buffers()` fills them, also
    after a model was built on the meta device. Without a MANO file they hold NaN, and `forward` raises.
    """

    def __init__(self, kind: str = "open", side: str = "right", path: str | Path | None = None) -> None:
        super().__init__()
        if kind not in ("open", "mano"):
            raise ValueError(f"kind must be 'open' or 'mano', got {kind!r}")
        if side not in ("right", "left"):
            raise ValueError(f"side must be 'right' or 'left', got {side!r}")
        self.kind = kind
        self.side = side
        self.path = path
        self.parents = list(PARENTS)
        self.num_betas = NUM_BETAS
        self._ready = False
        self._missing: str | None = None
        self.reset_buffers()

    @property
    def num_vertices(self) -> int:
        return self.template.shape[0]

    @property
    def shape_dirs(self) -> Tensor:
        """(V, 3, 10) metres per unit of each shape parameter; a view of `blend_dirs`."""
        return self.blend_dirs[:NUM_BETAS].view(NUM_BETAS, 3, -1).permute(2, 1, 0)

    @property
    def pose_dirs(self) -> Tensor:
        """(V, 3, 135) metres per unit of each element of R - I, joints 1 to 15, row-major; a view of `blend_dirs`."""
        return self.blend_dirs[NUM_BETAS:].view(135, 3, -1).permute(2, 1, 0)

    def reset_buffers(self) -> None:
        """Fills every buffer from the model's file, on the device where the buffers are."""
        try:
            arrays = _open_hand(self.side, self.path) if self.kind == "open" else load_mano(self.side, self.path)
            self._missing = None
        except ManoFileNotFoundError as error:
            arrays = _empty_mano()
            self._missing = str(error)
        with torch.no_grad():
            for name, value in _layer_tensors(arrays).items():
                current = self._buffers.get(name)
                if current is None or current.shape != value.shape:
                    device = None if current is None else current.device
                    current = torch.zeros(value.shape, dtype=value.dtype, device=device)
                    self.register_buffer(name, current, persistent=False)
                current.copy_(value)
        self._ready = self._missing is None and not self.template.is_meta

    def forward(
        self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor, translation: Tensor | None = None
    ) -> HandModelOutput:
        """Poses the hand.

        Args:
            global_orient: (B, 3, 3) rotation about the wrist joint.
            hand_pose: (B, 15, 3, 3) rotation of each joint relative to its parent; identity is the flat hand.
            betas: (B, 10) shape, in standard deviations.
            translation: (B, 3) added to everything, metres; None adds nothing.
        """
        self._check_inputs(global_orient, hand_pose, betas, translation)
        if torch.is_autocast_enabled(hand_pose.device.type):
            with torch.autocast(hand_pose.device.type, enabled=False):
                return self._pose(global_orient, hand_pose, betas, translation)
        return self._pose(global_orient, hand_pose, betas, translation)

    def _check_inputs(
        self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor, translation: Tensor | None
    ) -> None:
        if not self._ready:
            self.reset_buffers()
        if self._missing is not None:
            raise ManoFileNotFoundError(self._missing)
        batch = hand_pose.shape[0]
        expected = {"global_orient": (batch, 3, 3), "hand_pose": (batch, 15, 3, 3), "betas": (batch, NUM_BETAS)}
        for (name, shape), value in zip(expected.items(), (global_orient, hand_pose, betas), strict=True):
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
        if translation is not None and translation.shape != (batch, 3):
            raise ValueError(f"translation must have shape {(batch, 3)}, got {tuple(translation.shape)}")

    def _pose(
        self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor, translation: Tensor | None
    ) -> HandModelOutput:
        dtype = self.template.dtype
        batch = hand_pose.shape[0]
        global_orient, hand_pose, betas = global_orient.to(dtype), hand_pose.to(dtype), betas.to(dtype)
        translation = None if translation is None else translation.to(dtype)

        rest = torch.addmm(self.rest_base, betas, self.rest_dirs).view(batch, 31, 3)
        skeleton, transforms = _pose_skeleton(global_orient, hand_pose, rest[:, :16], rest[:, 16:], translation)

        features = torch.cat([betas, hand_pose.reshape(batch, 135)], 1)
        shaped = torch.addmm(self.blend_base, features, self.blend_dirs).view(batch, 3, self.num_vertices)
        if torch.compiler.is_compiling():  # the compiler fuses the plain formula and derives its own backward
            vertices = _skin(transforms, shaped, self.skinning_by_joint)
        else:
            vertices = _Skinning.apply(transforms, shaped, self.skinning_by_joint)

        tips = vertices.index_select(1, self.tip_vertices)
        joints = torch.cat([skeleton, tips], 1).index_select(1, self.joint_order)
        return HandModelOutput(vertices=vertices, joints=joints, skeleton_joints=skeleton)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HandModel":
        """Moves the buffers, but never to a floating type below float32: `.to(bfloat16)` is for the network."""

        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and torch.finfo(moved.dtype).bits < 32:
                return tensor.to(moved.device)
            return moved

        self._ready = self._ready and not self.template.is_meta
        return super()._apply(keep_precision, recurse)

    def from_smplx(
        self,
        global_orient: Tensor,
        hand_pose: Tensor,
        betas: Tensor,
        transl: Tensor | None = None,
        flat_hand_mean: bool = False,
    ) -> dict[str, Tensor | None]:
        """Parameters as smplx.MANO takes them -> arguments of `forward`.

        Args:
            global_orient: (B, 3) axis-angle.
            hand_pose: (B, 45) axis-angle, or (B, n < 45) coefficients of the first n principal components.
            betas: (B, 10).
            transl: (B, 3) metres, or None.
            flat_hand_mean: smplx's argument: when False (smplx's default), the file's mean pose is added.
        """
        pose = hand_pose.to(self.hands_mean.dtype)
        if pose.shape[-1] < 45:
            if len(self.hands_components) == 0:
                raise ValueError(
                    f"the open hand has no principal components: hand_pose must be (B, 45), got {pose.shape}"
                )
            pose = pose @ self.hands_components[: pose.shape[-1]]
        if not flat_hand_mean:
            pose = pose + self.hands_mean
        return {
            "global_orient": axis_angle_to_matrix(global_orient.to(pose.dtype)),
            "hand_pose": axis_angle_to_matrix(pose.view(-1, 15, 3)),
            "betas": betas,
            "translation": transl,
        }

    def to_smplx(
        self,
        global_orient: Tensor,
        hand_pose: Tensor,
        betas: Tensor,
        translation: Tensor | None = None,
        flat_hand_mean: bool = False,
        num_pca_comps: int = 45,
    ) -> dict[str, Tensor | None]:
        """Arguments of `forward` -> parameters as smplx.MANO takes them; the inverse of `from_smplx`.

        With `num_pca_comps` below 45 the pose becomes the nearest one (least squares) that so many components express.
        """
        pose = matrix_to_axis_angle(hand_pose.to(self.hands_mean.dtype)).reshape(-1, 45)
        if not flat_hand_mean:
            pose = pose - self.hands_mean
        if num_pca_comps < 45:
            if len(self.hands_components) == 0:
                raise ValueError(
                    f"the open hand has no principal components: num_pca_comps must be 45, got {num_pca_comps}"
                )
            pose = pose @ torch.linalg.pinv(self.hands_components[:num_pca_comps])
        orient = matrix_to_axis_angle(global_orient.to(pose.dtype))
        return {"global_orient": orient, "hand_pose": pose, "betas": betas, "transl": translation}

    @torch.no_grad()
    def mean_shape_joints(self) -> Tensor:
        """(21, 3) joints of the flat hand of mean shape, metres."""
        template = self.template
        eye = torch.eye(3, dtype=template.dtype, device=template.device)
        return self(eye[None], eye.expand(1, 15, 3, 3), template.new_zeros(1, self.num_betas)).joints[0]


def _pose_skeleton(
    global_orient: Tensor, hand_pose: Tensor, joints: Tensor, bones: Tensor, translation: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Forward kinematics, one level of all five fingers at a time.

    Args:
        global_orient: (B, 3, 3).
        hand_pose: (B, 15, 3, 3).
        joints: (B, 16, 3) at rest, metres.
        bones: (B, 15, 3) from each joint's parent to the joint, at rest.
        translation: (B, 3) or None.

    Returns:
        Posed joints (B, 16, 3), and the transforms from rest to pose as (B, 12, 16): rows of [R | t], joints last.
    """
    batch = hand_pose.shape[0]  # not len(): an export keeps the batch open
    local = torch.cat([hand_pose, bones.unsqueeze(-1)], -1).view(batch, 5, 3, 3, 4)
    first, second, third = local.unbind(2)
    # each level: the joint's rotation, and its bone, in the frame of the hand
    level1 = (global_orient @ first.permute(0, 2, 1, 3).reshape(batch, 3, 20)).view(batch, 3, 5, 4).transpose(1, 2)
    level2 = level1[..., :3] @ second
    level3 = level2[..., :3] @ third
    levels = torch.stack([level1, level2, level3], 2)  # (B, 5, 3, 3, 4)
    rotations = torch.cat([global_orient.unsqueeze(1), levels[..., :3].reshape(batch, 15, 3, 3)], 1)
    wrist = joints[:, :1] if translation is None else joints[:, :1] + translation.unsqueeze(1)
    fingers = wrist + levels[..., 3].cumsum(2).view(batch, 15, 3)
    posed = torch.cat([wrist, fingers], 1)
    offsets = posed - (rotations @ joints.unsqueeze(-1)).squeeze(-1)
    transforms = torch.cat([rotations, offsets.unsqueeze(-1)], -1)
    return posed, transforms.view(batch, 16, 12).transpose(1, 2)


def _blend_transforms(transforms: Tensor, weights: Tensor) -> Tensor:
    """(B, 12, 16) transforms of joints, (16, V) weights -> (B, 3, 4, V) transforms of vertices: one matmul."""
    batch = transforms.shape[0]
    return (transforms.reshape(batch * 12, 16) @ weights).view(batch, 3, 4, weights.shape[1])


def _skin(transforms: Tensor, shaped: Tensor, weights: Tensor) -> Tensor:
    """Linear blend skinning: (B, 12, 16), vertices (B, 3, V) at rest, (16, V) -> (B, V, 3).

    Coordinates are planes of V numbers, not triples, so that every operation runs along contiguous memory.
    """
    x, y, z = shaped.unsqueeze(1).unbind(2)
    rx, ry, rz, t = _blend_transforms(transforms, weights).unbind(2)
    planes = torch.addcmul(torch.addcmul(torch.addcmul(t, rx, x), ry, y), rz, z)
    return planes.transpose(1, 2).contiguous()


def _skin_backward(gradient: Tensor, transforms: Tensor, shaped: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `_skin` for transforms and shaped; blended transforms are computed again, which is cheaper than
    keeping 12 V numbers a hand.
    """
    batch = len(gradient)
    gradient = gradient.transpose(1, 2).contiguous().unsqueeze(2)  # (B, 3, 1, V)
    blended = _blend_transforms(transforms, weights)
    for_shaped = (blended[:, :, :3] * gradient).sum(1)
    homogeneous = torch.cat([shaped, torch.ones_like(shaped[:, :1])], 1)
    outer = (gradient * homogeneous.unsqueeze(1)).view(batch * 12, weights.shape[1])
    return (outer @ weights.t()).view(batch, 12, 16), for_shaped


class _Skinning(torch.autograd.Function):
    """`_skin`, in pieces that fit a CPU's cache, with half the memory traffic of the derived backward.

    First derivatives only (also under `torch.func.vmap`); a second derivative raises.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(transforms: Tensor, shaped: Tensor, weights: Tensor) -> Tensor:
        size = CPU_CHUNK if shaped.device.type == "cpu" else max(len(shaped), 1)
        if len(shaped) <= size:
            return _skin(transforms, shaped, weights)
        pieces = zip(transforms.split(size), shaped.split(size), strict=True)
        return torch.cat([_skin(a, s, weights) for a, s in pieces])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        transforms, shaped, weights = ctx.saved_tensors
        size = CPU_CHUNK if shaped.device.type == "cpu" else max(len(shaped), 1)
        if len(shaped) <= size:
            return *_skin_backward(gradient, transforms, shaped, weights), None
        pieces = zip(gradient.split(size), transforms.split(size), shaped.split(size), strict=True)
        results = [_skin_backward(g, a, s, weights) for g, a, s in pieces]
        return torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results]), None


def _layer_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays of a hand model -> the buffers of the layer; sums over vertices in float64."""
    template, shape_dirs = arrays["template"], arrays["shape_dirs"]
    regressor = arrays["joint_regressor"].astype(np.float64)
    joints = regressor @ template
    joint_dirs = np.einsum("jv,vkb->bjk", regressor, shape_dirs)
    parents = PARENTS[1:]
    rest = np.concatenate([joints, joints[1:] - joints[parents]])
    rest_dirs = np.concatenate([joint_dirs, joint_dirs[:, 1:] - joint_dirs[:, parents]], 1)
    # planes of x, y, z; the pose blend shapes multiply R, not R - I, so their share of the identity is taken out here
    planes = np.concatenate([shape_dirs.transpose(2, 1, 0), arrays["pose_dirs"].transpose(2, 1, 0)])
    identity = np.tile(np.eye(3).reshape(-1), 15)
    base = template.T - np.einsum("p,pcv->cv", identity, planes[NUM_BETAS:].astype(np.float64))
    floats = {
        "template": template,
        "joint_regressor": regressor,
        "skinning_weights": arrays["skinning_weights"],
        "skinning_by_joint": arrays["skinning_weights"].T,
        "blend_base": base.reshape(-1),
        "blend_dirs": planes.reshape(len(planes), -1),
        "rest_base": rest.reshape(-1),
        "rest_dirs": rest_dirs.reshape(NUM_BETAS, -1),
        "hands_mean": arrays.get("hands_mean", np.zeros(45)),
        "hands_components": arrays.get("hands_components", np.zeros((0, 45))),
    }
    integers = {"faces": arrays["faces"], "tip_vertices": arrays["tip_vertices"], "joint_order": np.array(JOINT_ORDER)}
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)) for k, v in floats.items()}
    tensors |= {k: torch.from_numpy(np.ascontiguousarray(v, dtype=np.int64)) for k, v in integers.items()}
    return tensors


def _empty_mano() -> dict[str, np.ndarray]:
    """Arrays of MANO's shapes, NaN where a file is missing."""
    v = MANO_NUM_VERTICES
    shapes = {
        "template": (v, 3),
        "shape_dirs": (v, 3, 10),
        "pose_dirs": (v, 3, 135),
        "joint_regressor": (16, v),
        "skinning_weights": (v, 16),
        "hands_mean": (45,),
        "hands_components": (45, 45),
    }
    arrays = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    arrays["faces"] = np.zeros((MANO_NUM_FACES, 3), np.int64)
    arrays["tip_vertices"] = np.zeros(5, np.int64)
    return arrays


@lru_cache(maxsize=2)
def _open_hand(side: str, path: str | Path | None = None) -> dict[str, np.ndarray]:
    """Arrays of the open hand; the left one is the right one mirrored in the plane x = 0."""
    with safe_open(path or find_open_hand(), "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("render_")}
    pose_dirs = np.zeros((len(arrays["template"]), 3, 15, 9), np.float32)
    vertex, joint = arrays["pose_dirs_index"].astype(np.int64).T
    pose_dirs[vertex, :, joint] = arrays["pose_dirs_value"]
    arrays["pose_dirs"] = pose_dirs.reshape(len(pose_dirs), 3, 135)
    return _mirrored(arrays) if side == "left" else arrays


def _mirrored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same hand seen in the mirror x -> -x; rotations become M R M, so elements of R - I change sign too."""
    sign = np.array([-1, 1, 1], np.float32)
    element = np.tile(np.outer(sign, sign).reshape(-1), 15)
    return {
        **arrays,
        "template": arrays["template"] * sign,
        "shape_dirs": arrays["shape_dirs"] * sign[:, None],
        "pose_dirs": arrays["pose_dirs"] * sign[:, None] * element,
        "faces": arrays["faces"][:, ::-1],
    }
