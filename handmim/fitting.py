"""Brings an estimated hand into line with the maps it was estimated beside. Ours: neither paper has such a step.

Heat maps say where each keypoint is in the picture, part orientation fields how steeply each bone points away from the
camera. A small network draws both better than it regresses angles from them; the angles, the place and the proportions
that agree with them best, and stay near the regressed ones, are found by Levenberg and Marquardt's method. A heat map
often has several peaks, one for each finger that looks alike: first all of it counts, then what lies near the hand that
has been found, in ever smaller windows (mean shift).

Of the hand model only the skeleton and the five finger tips take part, with closed derivatives: tips are as rigid as
nails, whatever the skinning does around them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .geometry import axis_angle_to_matrix, camera_from_translation, project
from .hand_model import JOINT_ORDER, NUM_BETAS, HandModel
from .hand_state import place_hand
from .losses import MIN_DEPTH
from .targets_hiu_dmtl import mean_fields

# Keypoints come as the wrist and five fingers of four points each; all but the tips are joints that rotate.
_FINGERS, _POINTS, _ROTATING = 5, 4, 3
# Where the joints of each finger, thumb first, are among the 15 of `hand_pose`.
_ORDER = [joint - 1 for joint in JOINT_ORDER[1:] if joint <= 15]
_ROTATIONS = 1 + _FINGERS * _ROTATING
_KINDS = [3 * _ROTATIONS, 3, NUM_BETAS]  # unknowns: turns of the joints, the wrist's place, the shape
_UNKNOWNS = sum(_KINDS)
# One standard deviation of each kind of evidence: a keypoint, share of the crop's side; a bone's z; betas.
KEYPOINT_SIGMA, BONE_SIGMA, SHAPE_SIGMA = 0.03, 0.5, 3.0
# Standard deviation of the window of each round, share of the crop's side; None: all of the map.
WINDOWS = (None, 0.17, 0.1)
# Maps are squared before their mean is taken: low values far from the peak draw it away.
_SHARPNESS = 2
_NOTHING = 1e-30  # what a map holds around a place where it says nothing
_CHANGING = ("root", "fingers", "wrist", "betas", "turns", "bones")
_FIRST_DAMPING, _LESS, _MORE = 1e-2, 0.2, 8.0


@dataclass(frozen=True)
class Evidence:
    """What the maps of B crops say.

    Attributes:
        heatmaps: (B, 21, h, w) not negative, of any scale.
        trust: (B, 21) in [0, 1], how much each of them counts.
        depths: (B, 20) z of each bone's unit direction in space, camera frame; None without fields.
    """

    heatmaps: Tensor
    trust: Tensor
    depths: Tensor | None = None

    def keypoints(self, size: int, around: Tensor | None = None, window: float = 0.0) -> Tensor:
        """(B, 21, 2) crop pixels: mean positions under the maps, or under what lies around given ones; NaN where the
        maps say nothing there.

        Args:
            size: Side of the crops, pixels.
            around: (B, 21, 2) crop pixels.
            window: Standard deviation, share of the crop's side.
        """
        weight = self.heatmaps.float() ** _SHARPNESS
        height, width = weight.shape[-2:]
        axes = [(torch.arange(n, device=weight.device) + 0.5) / n for n in (width, height)]
        if around is not None:
            x, y = (
                torch.softmax(-(axis - (place[..., None] + 0.5) / size).square() / (2 * window**2), -1)
                for axis, place in zip(axes, around.unbind(-1), strict=True)
            )
            weight = weight * x[..., None, :] * y[..., :, None]
        total = weight.sum((2, 3))
        total = torch.where(total > _NOTHING, total, torch.nan)
        place = torch.stack([weight.sum(2) @ axes[0], weight.sum(3) @ axes[1]], -1) / total[..., None]
        return place * size - 0.5


@dataclass(frozen=True)
class _Skeleton:
    """B hands as chains of bones.

    Attributes:
        root: (B, 3, 3) rotation of the wrist, camera frame.
        fingers: (B, 5, 3, 3, 3) rotation of each finger's joints against the one before; thumb first, from the palm.
        wrist: (B, 3) camera frame, metres.
        betas: (B, 10).
        turns: (B, 48) sum of the turns of all joints so far, radians about their own axes.
        bones: (B, 5, 4, 3) from each point's parent to the point, in the parent's frame, metres, at `betas`.
        bone_dirs: (5, 4, 3, 10) how they change with shape.
    """

    root: Tensor
    fingers: Tensor
    wrist: Tensor
    betas: Tensor
    turns: Tensor
    bones: Tensor
    bone_dirs: Tensor

    def frames(self) -> Tensor:
        """(B, 5, 4, 3, 3) camera-frame rotations: of the wrist, then of the three joints, for each finger."""
        levels = [self.root[:, None].expand(-1, _FINGERS, 3, 3)]
        for level in range(_ROTATING):
            levels.append(levels[-1] @ self.fingers[:, :, level])
        return torch.stack(levels, 2)

    def points(self, frames: Tensor) -> Tensor:
        """(B, 21, 3) keypoints, camera frame, metres."""
        fingers = self.wrist[:, None, None] + (frames @ self.bones[..., None]).squeeze(-1).cumsum(2)
        return torch.cat([self.wrist[:, None], fingers.flatten(1, 2)], 1)

    def derivatives(self, frames: Tensor, points: Tensor) -> Tensor:
        """(B, 21, 3, U) of the points: by turns about each joint's own axes, the wrist's place, the shape."""
        batch = len(points)
        fingers = points[:, 1:].unflatten(1, (_FINGERS, _POINTS))
        joints = torch.cat([self.wrist[:, None, None].expand(-1, _FINGERS, 1, 3), fingers[:, :, :-1]], 2)
        lever = fingers[:, :, :, None] - joints[:, :, None]  # (B, 5, point, joint, 3)
        # a turn by w about a joint moves a point by (frame w) x lever
        turned = torch.linalg.cross(frames[:, :, None], lever[..., None].expand(*lever.shape, 3), dim=-2)
        reach = torch.ones(_POINTS, _POINTS, device=points.device).tril()  # a joint moves the points after it
        turned = turned * reach[:, :, None, None]
        grown = (frames @ self.bone_dirs).cumsum(2)
        result = points.new_zeros(batch, 21, 3, _UNKNOWNS)
        result[:, :, :, 3 * _ROTATIONS : 3 * _ROTATIONS + 3] = torch.eye(3, device=points.device)
        of_points = result[:, 1:].unflatten(1, (_FINGERS, _POINTS))  # a view
        of_points[..., :3] = turned[:, :, :, 0]
        for finger in range(_FINGERS):
            own = slice(3 + 9 * finger, 12 + 9 * finger)
            of_points[:, finger, :, :, own] = turned[:, finger, :, 1:].transpose(2, 3).flatten(3)
        of_points[..., -NUM_BETAS:] = grown
        return result

    def moved(self, step: Tensor) -> "_Skeleton":
        """The skeletons after a step (B, U) in the unknowns."""
        turn, place, shape = step.split(_KINDS, 1)
        turned = axis_angle_to_matrix(turn.unflatten(1, (_ROTATIONS, 3)))
        return replace(
            self,
            root=self.root @ turned[:, 0],
            fingers=self.fingers @ turned[:, 1:].unflatten(1, (_FINGERS, _ROTATING)),
            turns=self.turns + turn,
            wrist=self.wrist + place,
            betas=self.betas + shape,
            bones=self.bones + (self.bone_dirs @ shape[:, None, None, :, None]).squeeze(-1),
        )

    def chosen(self, rows: Tensor, other: "_Skeleton") -> "_Skeleton":
        """These skeletons where `rows` (B,) is true, those of `other` elsewhere."""

        def pick(name: str) -> Tensor:
            mine, theirs = getattr(self, name), getattr(other, name)
            return torch.where(rows.view(-1, *[1] * (mine.ndim - 1)), mine, theirs)

        return replace(self, **{name: pick(name) for name in _CHANGING})


def fit_output(
    config: Any, hand_model: HandModel, output: Mapping[str, Tensor], intrinsics: Tensor, size: int
) -> dict[str, Tensor]:
    """What a network of either family estimates, fitted as its configuration says (`fit_steps`, `fit_turn`).

    Args:
        config: Of the network.
        hand_model: Right hands.
        output: joints (B, 21, 3), global_orient (B, 3, 3), hand_pose (B, 15, 3, 3), betas (B, 10), heatmaps
            (B, 21, h, w) and perhaps pof (B, 20, 3, h, w), as the network returns them.
        intrinsics: (B, 3, 3) of the crops, pixels.
        size: Side of the crops, pixels.

    Returns:
        As `fit_hands`.
    """
    evidence = evidence_of(config, output)
    return fit_hands(hand_model, output, evidence, intrinsics, size, config.fit_steps, config.fit_turn)


def evidence_of(config: Any, output: Mapping[str, Tensor]) -> Evidence:
    """What the maps of a network's output say; arguments as those of `fit_output`."""
    heights = output["heatmaps"].float()
    if config.model_type == "handmim":  # log-probabilities: to the height that a Gaussian of the targets' width has
        heights = heights.exp() * (2 * math.pi * config.heatmap_sigma**2)
    heights = heights.clamp(min=0)
    depths = mean_fields(output["pof"])[..., 2] if output.get("pof") is not None else None
    return Evidence(heights, heights.amax((2, 3)).clamp(max=1), depths)


@torch.no_grad()
def fit_hands(
    hand_model: HandModel,
    hand: Mapping[str, Tensor],
    evidence: Evidence,
    intrinsics: Tensor,
    size: int,
    steps: int,
    turn_sigma: float,
) -> dict[str, Tensor]:
    """Fit hands to what the maps of their crops say. No gradient flows through it.

    Args:
        hand_model: Right hands.
        hand: joints (B, 21, 3), global_orient (B, 3, 3), hand_pose (B, 15, 3, 3), betas (B, 10), as estimated, camera
            frame, metres.
        evidence: Of the same crops.
        intrinsics: (B, 3, 3) of the crops, pixels.
        size: Side of the crops, pixels.
        steps: Of the method, in each of the rounds (`WINDOWS`).
        turn_sigma: How far a joint may turn from the estimate, one standard deviation, radians.

    Returns:
        vertices, joints, keypoints_2d, global_orient, hand_pose, betas, camera and translation, as
        `hand_state.decode_hand` gives them.
    """
    with torch.autocast(intrinsics.device.type, enabled=False):
        intrinsics = intrinsics.float()
        fitted = start = _skeleton(hand_model, hand)
        held = zip(_KINDS, (1 / turn_sigma, 0.0, 1 / SHAPE_SIGMA), strict=True)
        prior = torch.cat([fitted.wrist.new_full((count,), weight) for count, weight in held])
        for window in WINDOWS:
            around = None if window is None else project(fitted.points(fitted.frames()), intrinsics, MIN_DEPTH)
            keypoints = evidence.keypoints(size, around, window or 0.0)
            goal = _Goal(start, prior, evidence, keypoints, KEYPOINT_SIGMA * size, intrinsics)
            fitted = _descend(fitted, goal, steps)
        return _decoded(hand_model, fitted, intrinsics, size)


def _descend(skeleton: _Skeleton, goal: "_Goal", steps: int) -> _Skeleton:
    """Levenberg and Marquardt's method; hands that no step brings nearer stay as they are."""
    damping = torch.full_like(skeleton.betas[:, :1], _FIRST_DAMPING)
    cost, gradient, curvature = goal(skeleton)
    for _ in range(steps):
        damped = curvature + torch.diag_embed(damping * curvature.diagonal(dim1=1, dim2=2))
        step = torch.cholesky_solve(-gradient[..., None], torch.linalg.cholesky_ex(damped).L).squeeze(-1)
        moved = skeleton.moved(step)
        new_cost, new_gradient, new_curvature = goal(moved)
        better = new_cost < cost  # False for what is no number
        skeleton = moved.chosen(better, skeleton)
        cost = torch.where(better, new_cost, cost)
        gradient = torch.where(better[:, None], new_gradient, gradient)
        curvature = torch.where(better[:, None, None], new_curvature, curvature)
        damping = damping * torch.where(better[:, None], _LESS, _MORE)
    return skeleton


def _skeleton(hand_model: HandModel, hand: Mapping[str, Tensor]) -> _Skeleton:
    """The bones of estimated hands; a tip's is the one that the skinned mesh shows."""
    fingers = hand["hand_pose"].float()[:, _ORDER].unflatten(1, (_FINGERS, _ROTATING))
    joint_dirs = hand_model.rest_dirs.view(NUM_BETAS, 31, 3)[:, :_ROTATIONS]
    tip_dirs = hand_model.shape_dirs[hand_model.tip_vertices].permute(2, 0, 1)
    dirs = torch.cat([joint_dirs, tip_dirs], 1)[:, hand_model.joint_order]  # (10, 21, 3)
    bone_dirs = _bones(dirs.float()).permute(1, 2, 3, 0).contiguous()
    joints, betas = hand["joints"].float(), hand["betas"].float()
    turns = betas.new_zeros(len(betas), 3 * _ROTATIONS)
    skeleton = _Skeleton(hand["global_orient"].float(), fingers, joints[:, 0], betas, turns, joints, bone_dirs)
    bones = (skeleton.frames().mT @ _bones(joints)[..., None]).squeeze(-1)
    return replace(skeleton, bones=bones)


def _bones(points: Tensor) -> Tensor:
    """From each point's parent to the point: (B, 21, ...) -> (B, 5, 4, ...)."""
    wrist = points[:, None, :1].expand(-1, _FINGERS, *[-1] * (points.ndim - 1))
    return torch.cat([wrist, points[:, 1:].unflatten(1, (_FINGERS, _POINTS))], 2).diff(dim=2)


_Rows = tuple[Tensor, Tensor, Tensor]  # cost (B,), residuals (B, R), their derivatives (B, R, U)


@dataclass(frozen=True)
class _Goal:
    """What is to be made small.

    Attributes:
        start: The estimate.
        prior: (U,) how much each unknown is held to it, one over standard deviations.
        evidence: What the maps say.
        keypoints: (B, 21, 2) crop pixels, as far as they count in this round.
        scale: One standard deviation of them, pixels.
        intrinsics: (B, 3, 3) pixels.
    """

    start: _Skeleton
    prior: Tensor
    evidence: Evidence
    keypoints: Tensor
    scale: float
    intrinsics: Tensor

    def __call__(self, skeleton: _Skeleton) -> tuple[Tensor, Tensor, Tensor]:
        """Cost (B,), its gradient (B, U) and its curvature (B, U, U), Gauss and Newton's."""
        frames = skeleton.frames()
        points = skeleton.points(frames)
        moves = skeleton.derivatives(frames, points)
        parts = [self._keypoint_rows(points, moves), self._prior_rows(skeleton)]
        if self.evidence.depths is not None:
            parts.append(_bone_rows(points, moves, self.evidence.depths))
        costs, errors, slopes = zip(*parts, strict=True)
        error, slope = torch.cat(errors, 1), torch.cat(slopes, 1)
        return sum(costs), (slope.mT @ error[..., None]).squeeze(-1), slope.mT @ slope

    def _keypoint_rows(self, points: Tensor, moves: Tensor) -> _Rows:
        """Distances in the picture; far ones count less (pseudo-Huber), since a map may have chosen another finger."""
        error = (project(points, self.intrinsics, MIN_DEPTH) - self.keypoints) / self.scale
        trust = self.evidence.trust.clamp(0, 1) * error.isfinite().all(-1)
        error = error.nan_to_num(0.0, 0.0, 0.0)
        length = (1 + error.square().sum(-1)).sqrt()
        weight = (trust / length).sqrt()[..., None]
        depth = points[..., 2:].clamp(min=MIN_DEPTH)
        focal = self.intrinsics[:, None, :2, :2].diagonal(dim1=2, dim2=3)
        across = moves[:, :, :2] - (points[..., :2] / depth)[..., None] * moves[:, :, 2:]
        slope = (weight * focal / (depth * self.scale))[..., None] * across
        return (trust * (length - 1)).sum(1), (weight * error).flatten(1), slope.flatten(1, 2)

    def _prior_rows(self, skeleton: _Skeleton) -> _Rows:
        """How far joints have turned and the shape has changed; the wrist may be anywhere."""
        place = torch.zeros_like(skeleton.wrist)
        error = torch.cat([skeleton.turns, place, skeleton.betas - self.start.betas], 1) * self.prior
        return error.square().sum(1) / 2, error, torch.diag(self.prior).expand(len(error), -1, -1)


def _bone_rows(points: Tensor, moves: Tensor, depths: Tensor) -> _Rows:
    """How steeply bones point away from the camera, against the fields; fields that are no numbers count nothing."""
    bone, change = _bones(points).flatten(1, 2), _bones(moves).flatten(1, 2)
    length = bone.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    direction = bone / length
    steepness = direction[..., 2]
    along = (direction[..., None] * change).sum(2)
    turned = (change[:, :, 2] - steepness[..., None] * along) / (BONE_SIGMA * length)
    known = depths.isfinite()
    error = torch.where(known, (steepness - depths) / BONE_SIGMA, 0.0)
    return error.square().sum(1) / 2, error, torch.where(known[..., None], turned, 0.0)


def _decoded(hand_model: HandModel, skeleton: _Skeleton, intrinsics: Tensor, size: int) -> dict[str, Tensor]:
    """Parameters, mesh and projection of skeletons, by the hand model."""
    pose = torch.empty_like(skeleton.fingers.flatten(1, 2))
    pose[:, _ORDER] = skeleton.fingers.flatten(1, 2)
    camera = camera_from_translation(skeleton.wrist, intrinsics, size)
    return place_hand(hand_model, skeleton.root, pose, skeleton.betas, skeleton.wrist, camera, intrinsics)
