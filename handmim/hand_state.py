"""The state that both families estimate, and the hand it stands for.

A state is a row of numbers: 16 rotations in 6D (wrist first), 10 betas, and the camera as (log s, tx, ty); a network
may append more. It lives in the crop; `decode_hand` brings it into the camera frame.
"""

import math

import torch
from torch import Tensor, nn

from .configuration_handmim import MEAN_GLOBAL_ORIENT
from .geometry import camera_translation, matrix_to_rot6d, project, rot6d_to_matrix
from .losses import MIN_DEPTH

NUM_KEYPOINTS = 21
NUM_ROTATIONS = 16
NUM_BETAS = 10
STATE_SIZE = 6 * NUM_ROTATIONS + NUM_BETAS + 3
# exp keeps s positive; beyond these bounds the hand would be 1/20 or 20 times as large as the crop.
MAX_LOG_SCALE = 3.0


class Correction(nn.Linear):
    """A linear layer that starts near zero, so that training starts from the mean hand (HMR, SPIN, PyMAF).

    A class of its own because transformers asks `_init_weights` only about modules that hold parameters themselves.
    """


def mean_state(mean_camera: list[float] | tuple[float, ...], device: torch.device) -> Tensor:
    """(109,) flat hand, mean orientation, mean shape and `mean_camera` (s, tx, ty): where the first estimate starts."""
    rotations = torch.eye(3, device=device).repeat(NUM_ROTATIONS, 1, 1)
    rotations[0] = torch.tensor(MEAN_GLOBAL_ORIENT, device=device)
    scale, x, y = mean_camera
    camera = torch.tensor([math.log(scale), x, y], device=device)
    return torch.cat([matrix_to_rot6d(rotations).flatten(), camera.new_zeros(NUM_BETAS), camera])


def decode_hand(
    hand_model: nn.Module, state: Tensor, intrinsics: Tensor, size: int, along_ray: bool
) -> dict[str, Tensor]:
    """The hand of a state, by the hand model and the perspective camera, float32.

    Args:
        hand_model: A `HandModel`.
        state: (B, 109).
        intrinsics: (B, 3, 3) of the crop, pixels.
        size: Side of the crop, pixels.
        along_ray: Whether the orientation is relative to the ray through the crop's centre; else to the camera.

    Returns:
        vertices (B, V, 3) and joints (B, 21, 3) in the camera frame, metres; keypoints_2d (B, 21, 2) crop pixels;
        global_orient (B, 3, 3); hand_pose (B, 15, 3, 3); betas (B, 10); camera (B, 3); translation (B, 3).
    """
    with torch.autocast(state.device.type, enabled=False):
        rot6d, betas, camera = state.float().split([6 * NUM_ROTATIONS, NUM_BETAS, 3], dim=1)
        rotmat = rot6d_to_matrix(rot6d.unflatten(1, (NUM_ROTATIONS, 6)))
        global_orient, hand_pose = rotmat[:, 0], rotmat[:, 1:]
        if along_ray:
            global_orient = ray_rotation(intrinsics, size) @ global_orient
        scale = camera[:, :1].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()
        camera = torch.cat([scale, camera[:, 1:]], dim=1)
        wrist = camera_translation(camera, intrinsics, size)
        return place_hand(hand_model, global_orient, hand_pose, betas, wrist, camera, intrinsics)


def place_hand(
    hand_model: nn.Module,
    global_orient: Tensor,
    hand_pose: Tensor,
    betas: Tensor,
    wrist: Tensor,
    camera: Tensor,
    intrinsics: Tensor,
) -> dict[str, Tensor]:
    """The hand of given parameters with its wrist (B, 3) in a given place; the rest, and what it gives, as above."""
    hand = hand_model(global_orient, hand_pose, betas)
    translation = wrist - hand.joints[:, 0]
    joints = hand.joints + translation[:, None]
    return {
        "vertices": hand.vertices + translation[:, None],
        "joints": joints,
        "keypoints_2d": project(joints, intrinsics, MIN_DEPTH),
        "global_orient": global_orient,
        "hand_pose": hand_pose,
        "betas": betas,
        "camera": camera,
        "translation": translation,
    }


def ray_rotation(intrinsics: Tensor, size: int) -> Tensor:
    """The smallest rotation (B, 3, 3) that takes the optical axis to the ray through the centre of the crop."""
    centre = (size - 1) / 2
    slope = (centre - intrinsics[:, :2, 2]) / intrinsics[:, (0, 1), (0, 1)]
    x, y, z = torch.nn.functional.normalize(torch.nn.functional.pad(slope, (0, 1), value=1.0), dim=-1).unbind(-1)
    shared = -x * y / (1 + z)
    rows = [1 - x * x / (1 + z), shared, x, shared, 1 - y * y / (1 + z), y, -x, -y, z]
    return torch.stack(rows, -1).view(-1, 3, 3)
