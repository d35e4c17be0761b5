"""The parametric hand layer: an openly licensed hand or MANO, posed by linear blend skinning.

The file travels to Hub repositories: it imports torch, numpy, safetensors and flat siblings only.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from .mano_files import ManoFileNotFoundError, load_mano


# MANO's order: wrist, then index, middle, little, ring, thumb with three joints each, from palm to tip.
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
NUM_JOINTS = 16
NUM_BETAS = 10
# 16 skeleton joints and 5 tips (thumb, index, middle, ring, little) -> 21 joints in FreiHAND's order.
JOINT_ORDER = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
MANO_NUM_VERTICES, MANO_NUM_FACES = 778, 1538
OPEN_HAND_FILE = "open_hand.safetensors"


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
        path: MANO file or the folder that holds it; looked up when None (see `mano_files`).

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
        self._missing: ManoFileNotFoundError | None = None
        self.reset_buffers()

    @property
    def num_vertices(self) -> int:
        return self.template.shape[0]

    @property
    def shape_dirs(self) -> Tensor:
        """(V, 3, 10) metres per unit of each shape parameter; a view of `blend_dirs`."""
        return self.blend_dirs[:NUM_BETAS].view(NUM_BETAS, -1, 3).permute(1, 2, 0)

    @property
    def pose_dirs(self) -> Tensor:
        """(V, 3, 135) metres per unit of each element of R - I, joints 1 to 15, row-major; a view of `blend_dirs`."""
        return self.blend_dirs[NUM_BETAS:].view(135, -1, 3).permute(1, 2, 0)

    def reset_buffers(self) -> None:
        """Fills every buffer from the model's file, on the device where the buffers are."""
        try:
            arrays = _open_hand(self.side) if self.kind == "open" else load_mano(self.side, self.path)
            self._missing = None
        except ManoFileNotFoundError as error:
            arrays = _empty_mano()
            self._missing = error
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
        if not self._ready:
            self.reset_buffers()
        if self._missing is not None:
            raise self._missing
        if torch.is_autocast_enabled(global_orient.device.type):
            with torch.autocast(global_orient.device.type, enabled=False):
                return self._pose(global_orient, hand_pose, betas, translation)
        return self._pose(global_orient, hand_pose, betas, translation)

    def _pose(
        self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor, translation: Tensor | None
    ) -> HandModelOutput:
        dtype = self.template.dtype
        batch = hand_pose.shape[0]
        global_orient, hand_pose, betas = global_orient.to(dtype), hand_pose.to(dtype), betas.to(dtype)

        rest = torch.addmm(self.rest_template, betas, self.rest_dirs).view(batch, 31, 3)
        joints, bones = rest[:, :16], rest[:, 16:]

        # kinematics, one level of all five fingers at a time: [R | t] of a joint from its parent's
        local = torch.cat([hand_pose, bones.unsqueeze(-1)], -1).view(batch, 5, 3, 3, 4)
        level1 = global_orient[:, None] @ local[:, :, 0]
        level2 = level1[..., :3] @ local[:, :, 1]
        level3 = level2[..., :3] @ local[:, :, 2]
        levels = torch.stack([level1, level2, level3], 2)  # (B, 5, 3, 3, 4)
        rotation = torch.cat([global_orient[:, None], levels[..., :3].reshape(batch, 15, 3, 3)], 1)
        wrist = joints[:, :1]
        posed = wrist + levels[..., 3].cumsum(2).reshape(batch, 15, 3)
        skeleton = torch.cat([wrist, posed], 1)
        if translation is not None:
            skeleton = skeleton + translation.to(dtype)[:, None]
        offset = skeleton - (rotation @ joints.unsqueeze(-1)).squeeze(-1)
        transforms = torch.cat([rotation, offset.unsqueeze(-1)], -1).view(batch, 16, 12)

        identity = self.identity
        features = torch.cat([betas, (hand_pose - identity).reshape(batch, 135)], 1)
        shaped = torch.addmm(self.template.view(-1), features, self.blend_dirs).view(batch, -1, 3)
        blended = (self.skinning_weights @ transforms).view(batch, -1, 3, 4)
        vertices = (blended[..., :3] @ shaped.unsqueeze(-1)).squeeze(-1) + blended[..., 3]

        tips = vertices.index_select(1, self.tip_vertices)
        all_joints = torch.cat([skeleton, tips], 1).index_select(1, self.joint_order)
        return HandModelOutput(vertices=vertices, joints=all_joints, skeleton_joints=skeleton)

    @torch.no_grad()
    def mean_shape_joints(self) -> Tensor:
        """(21, 3) joints of the flat hand of mean shape, metres."""
        template = self.template
        eye = torch.eye(3, dtype=template.dtype, device=template.device)
        return self(eye[None], eye.expand(1, 15, 3, 3), template.new_zeros(1, self.num_betas)).joints[0]


def _layer_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays of a hand model -> the buffers of the layer; sums over vertices in float64."""
    template, shape_dirs = arrays["template"], arrays["shape_dirs"]
    regressor = arrays["joint_regressor"].astype(np.float64)
    joints = regressor @ template
    joint_dirs = np.einsum("jv,vkb->bjk", regressor, shape_dirs)
    parents = PARENTS[1:]
    rest = np.concatenate([joints, joints[1:] - joints[parents]])
    rest_dirs = np.concatenate([joint_dirs, joint_dirs[:, 1:] - joint_dirs[:, parents]], 1)
    blend = np.concatenate([shape_dirs.reshape(-1, NUM_BETAS).T, arrays["pose_dirs"].reshape(-1, 135).T])
    floats = {
        "template": template,
        "blend_dirs": blend,
        "joint_regressor": regressor,
        "skinning_weights": arrays["skinning_weights"],
        "rest_template": rest.reshape(-1),
        "rest_dirs": rest_dirs.reshape(NUM_BETAS, -1),
        "identity": np.eye(3),
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
    }
    arrays = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    arrays["faces"] = np.zeros((MANO_NUM_FACES, 3), np.int64)
    arrays["tip_vertices"] = np.zeros(5, np.int64)
    return arrays


def _open_hand_path() -> Path:
    """The open hand's file: beside this file, or in the installed package when this file came from the Hub."""
    folders = [Path(__file__).parent]
    spec = importlib.util.find_spec("handmim")
    if spec is not None and spec.submodule_search_locations:
        folders += [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        file = folder / "assets" / OPEN_HAND_FILE
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"the open hand ({OPEN_HAND_FILE}) is not beside {__file__}: model code loaded from the Hub does not carry "
        "it. Install the package that does: pip install handmim"
    )


@lru_cache(maxsize=2)
def _open_hand(side: str) -> dict[str, np.ndarray]:
    """Arrays of the open hand; the left one is the right one mirrored in the plane x = 0."""
    with safe_open(_open_hand_path(), "numpy") as file:
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
