"""Where the joints of a person are whose hands the pictures show: a skeleton with arms that reach for something.

A body's frame has its origin between the hips, x to the left of the person, y down, z backwards: of one who faces the
camera upright these are the camera's axes. Lengths are about those of an adult of 1.7 m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import constant
from ..geometry import axis_angle_to_matrix
from .random import SampleRandom

_LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "toe")
JOINTS = ("pelvis", "neck", "head") + tuple(f"{side} {name}" for side in ("right", "left") for name in _LIMBS)
UPPER_ARM, FOREARM, THIGH, SHIN = 0.29, 0.26, 0.42, 0.42  # m
_TRUNK, _SHOULDER, _HIP = 0.50, 0.18, 0.10  # m, the last two from the middle
_HEAD = (0.0, -0.19, -0.03)  # m, its middle from the root of the neck
NEAREST, FARTHEST = 1.0, 5.0  # m, camera to the root of the neck
CLEAR = 0.4  # m, no joint is nearer to the camera
# What arms do: gesture before the trunk, hang, rest in the lap or on a table, touch the head, reach anywhere.
_DEEDS = (0.34, 0.14, 0.2, 0.12, 0.2)
_TOGETHER = 0.35  # share of persons whose hands meet
_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_MIRROR = ((-1.0, -1.0, 1.0), (1.0, 1.0, -1.0), (1.0, 1.0, -1.0))  # of a rotation's elements, which stays one
_REACH = (0.14, 0.535)  # m, shoulder to wrist: neither folded flat nor quite straight


@dataclass(frozen=True)
class Persons:
    """B persons before their cameras.

    Attributes:
        joints: (B, 17, 3) m, camera frame, in the order of `JOINTS`.
        axes: (B, 3, 3) whose columns are the trunk's axes: left, down, back.
        head_axes: (B, 3, 3), the same of the head.
        forearms: (B, 2, 3, 3) of the right and the left arm: the first column points from the wrist to the elbow, the
            others say how the hand is turned about it.
    """

    joints: Tensor
    axes: Tensor
    head_axes: Tensor
    forearms: Tensor

    def joint(self, name: str) -> Tensor:
        """(B, 3)."""
        return self.joints[:, JOINTS.index(name)]


class PersonRows:
    """The persons in some pictures of a batch, and whose arm each row is, one row a hand.

    Args:
        random: Draws of all B samples.
        chosen: (N,) int64, those that show a person.
        parent: (R,) int64, the sample of each row; the first B rows are right hands, the others left ones, which are
            right hands of a mirrored world.

    Attributes:
        chosen: As given.
        owns: (R,) bool, rows that are a person's.
        persons: N of them.
    """

    def __init__(self, random: SampleRandom, chosen: Tensor, parent: Tensor) -> None:
        self.chosen = chosen
        number = torch.full((random.batch_size,), -1, device=chosen.device)
        number[chosen] = torch.arange(len(chosen), device=chosen.device)
        self.owns = number[parent] >= 0
        self._rows = torch.nonzero(self.owns).squeeze(1)
        self._number, self._left = number[parent[self._rows]], (self._rows >= random.batch_size).long()
        self.persons = sample_persons(random.fork("persons").select(chosen))

    def hold(self, orient: Tensor, bend: Tensor) -> Tensor:
        """Orientations of hands (R or more, 3, 3), those of persons as their arms say; bend (R or more, 3, 3) of the
        forearm relative to the hand."""
        frames = self.persons.forearms[self._number, self._left]
        mirror = constant(_MIRROR, frames.device)
        frames = torch.where(self._left[:, None, None] > 0, frames * mirror, frames)
        return orient.index_copy(0, self._rows, frames @ bend[self._rows].mT)

    def place(self, translation: Tensor, wrist: Tensor) -> Tensor:
        """Translations (B or R, 3) of rows with wrists (B or R, 3) before them, those of persons' hands to their arms'
        ends, m."""
        here = self._rows < len(translation)
        number, left, rows = self._number[here], self._left[here], self._rows[here]
        ends = torch.stack([self.persons.joint("right wrist"), self.persons.joint("left wrist")], 1)[number, left]
        ends = torch.where(left[:, None] > 0, ends * constant((-1.0, 1.0, 1.0), ends.device), ends)
        return translation.index_copy(0, rows, ends - wrist[rows])


def sample_persons(random: SampleRandom) -> Persons:
    """Draw a person for each sample."""
    axes = _trunk_axes(random.fork("trunk"))
    head_axes = _turned(axes, random.fork("head").normal((3,)).clamp(-2, 2) * constant((0.2, 0.35, 0.12), axes.device))
    size = random.fork("size").normal((1,), 1.0, 0.06).clamp(0.85, 1.15)
    places = _trunk(size)
    places |= _legs(random.fork("legs"), places, size)
    targets = _targets(random.fork("deeds"), places)
    arms = [_arm(random.fork(side), places[f"{side} shoulder"], targets[side], side) for side in ("right", "left")]
    for side, (elbow, wrist) in zip(("right", "left"), arms, strict=True):
        places |= {f"{side} elbow": elbow, f"{side} wrist": wrist}
    local = torch.stack([places[name] - places["neck"] for name in JOINTS], 1)
    joints = rotate(axes[:, None], local)
    head = JOINTS.index("head")
    joints[:, head] = rotate(head_axes, local[:, head])
    place = random.fork("place")
    distance = place.log_uniform((1,), NEAREST, FARTHEST)
    aside = place.normal((2,), 0.0, 0.12).clamp(-0.35, 0.35) * distance
    distance = torch.maximum(distance, CLEAR - joints[..., 2].amin(1, keepdim=True))
    joints = joints + torch.cat([aside, distance], 1)[:, None]
    ends = [(JOINTS.index(f"{side} wrist"), JOINTS.index(f"{side} elbow")) for side in ("right", "left")]
    twist = random.fork("twist").uniform((2,), -math.pi, math.pi)
    along = torch.stack([joints[:, elbow] - joints[:, wrist] for wrist, elbow in ends], 1)
    return Persons(joints, axes, head_axes, _frames(along, twist))


def rotate(axes: Tensor, vectors: Tensor) -> Tensor:
    """`axes` (..., 3, 3) applied to vectors (..., 3), by single operations: a matrix product may round differently for
    another number of rows."""
    x, y, z = vectors[..., None].unbind(-2)
    return axes[..., 0] * x + axes[..., 1] * y + axes[..., 2] * z


def _turned(axes: Tensor, vector: Tensor) -> Tensor:
    """Axes (B, 3, 3) after a turn by an axis-angle vector (B, 3) in their own frame."""
    turn = axis_angle_to_matrix(vector)
    return torch.stack([rotate(axes, turn[..., k]) for k in range(3)], 2)


def _trunk_axes(random: SampleRandom) -> Tensor:
    """(B, 3, 3): mostly towards the camera and upright; some turned away, a few lying."""
    yaw = torch.where(random.bernoulli(0.7), random.normal((), 0, 0.7), random.uniform((), -math.pi, math.pi))
    roll = torch.where(random.bernoulli(0.06), random.uniform((), -math.pi, math.pi), random.normal((), 0, 0.1))
    lean, height = random.normal((), -0.08, 0.18), random.normal((), 0.0, 0.22)
    axes = torch.eye(3, device=random.device).expand(len(yaw), 3, 3)
    # The camera looks down or up, the picture is tilted, the person turns, the trunk leans.
    for angle, axis in ((height, _X), (roll, _Z), (yaw, _Y), (lean, _X)):
        axes = _turned(axes, angle[:, None] * constant(axis, axes.device))
    return axes


def _trunk(size: Tensor) -> dict[str, Tensor]:
    """Places (B, 3) of trunk and head in the body's frame; size (B, 1) is 1 for an adult of 1.7 m."""
    fixed = {
        "pelvis": (0.0, 0.0, 0.0),
        "neck": (0.0, -_TRUNK, 0.0),
        "head": tuple(a + b for a, b in zip((0.0, -_TRUNK, 0.0), _HEAD, strict=True)),
        "right shoulder": (-_SHOULDER, 0.04 - _TRUNK, 0.0),
        "left shoulder": (_SHOULDER, 0.04 - _TRUNK, 0.0),
        "right hip": (-_HIP, 0.03, 0.0),
        "left hip": (_HIP, 0.03, 0.0),
    }
    return {name: size * constant(place, size.device) for name, place in fixed.items()}


def _legs(random: SampleRandom, places: dict[str, Tensor], size: Tensor) -> dict[str, Tensor]:
    """Places of knees, ankles and toes below the hips: standing, or sitting."""
    sits = random.bernoulli(0.45, (1,))
    found = {}
    for side, out in (("right", -1.0), ("left", 1.0)):
        spread = random.normal((3,), 0.0, 0.25)
        thigh = _either(sits, (0.2 * out, 0.25, -1.0), (0.05 * out, 1.0, -0.08))
        shin = _either(sits, (0.0, 1.0, 0.1), (0.0, 1.0, 0.08))
        knee = places[f"{side} hip"] + size * THIGH * F.normalize(thigh + spread, dim=1)
        ankle = knee + size * SHIN * F.normalize(shin + random.normal((3,), 0.0, 0.15), dim=1)
        toe = ankle + size * constant((0.04 * out, 0.05, -0.17), size.device)
        found |= {f"{side} knee": knee, f"{side} ankle": ankle, f"{side} toe": toe}
    return found


def _either(flag: Tensor, first: tuple[float, ...], second: tuple[float, ...]) -> Tensor:
    """(B, 3): `first` where the flag (B, 1) is set, otherwise `second`."""
    return torch.where(flag, constant(first, flag.device), constant(second, flag.device))


def _targets(random: SampleRandom, places: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where the two wrists want to be, (B, 3) each, in the body's frame."""
    middle = torch.stack(
        [random.normal((), 0, 0.12), random.uniform((), -0.62, 0.05), random.uniform((), -0.45, -0.2)], 1
    )
    apart = torch.cat([random.uniform((1,), 0.02, 0.09), random.normal((2,), 0.0, 0.03)], 1)
    together = random.bernoulli(_TOGETHER, (1,))
    targets = {}
    for side, out in (("right", -1.0), ("left", 1.0)):
        sign = constant((out, 1.0, 1.0), middle.device)
        deed = random.choice(_DEEDS)
        reach = F.normalize(random.normal((3,)), dim=1)
        reach = torch.cat([reach[:, :2], -reach[:, 2:].abs()], 1) * random.uniform((1,), 0.2, 0.54)
        gesture = _anywhere(random, (-0.3, 0.25), (-0.4, 0.25), (-0.48, -0.16))
        hanging = _anywhere(random, (0.02, 0.16), (0.4, 0.56), (-0.15, 0.1))
        resting = _anywhere(random, (-0.34, 0.05), (0.12, 0.5), (-0.42, -0.2))
        shoulder = places[f"{side} shoulder"]
        # Fingers are longer than the wrist is thick: it stays below and before what they touch.
        beside = constant((out * 0.07, 0.12, -0.13), middle.device)
        face = places["head"] + random.normal((3,), 0.0, 0.06) + beside - shoulder
        ways = torch.stack([gesture * sign, hanging * sign, resting * sign, face, reach], 1)
        way = ways.gather(1, deed[:, None, None].expand(-1, 1, 3))[:, 0]
        targets[side] = torch.where(together, middle + apart * sign, shoulder + way)
    return targets


def _anywhere(random: SampleRandom, *ranges: tuple[float, float]) -> Tensor:
    """(B, 3) uniform in a box: outwards, down and back from the shoulder."""
    return torch.stack([random.uniform((), *ends) for ends in ranges], 1)


def _arm(random: SampleRandom, shoulder: Tensor, target: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """Elbow and wrist, (B, 3) each, of an arm that reaches for a target as far as it can, its elbow mostly down."""
    way = target - shoulder
    length = way.norm(dim=1, keepdim=True).clamp(min=1e-3)
    along = way / length
    length = length.clamp(*_REACH)
    out = -1.0 if side == "right" else 1.0
    pole = constant((0.45 * out, 1.0, 0.35), way.device) + random.normal((3,), 0.0, 0.35)
    pole = F.normalize(pole - (pole * along).sum(1, keepdim=True) * along, dim=1)
    # The triangle of upper arm, forearm and the way between shoulder and wrist.
    foot = (UPPER_ARM**2 - FOREARM**2 + length.square()) / (2 * length)
    height = (UPPER_ARM**2 - foot.square()).clamp(min=0).sqrt()
    return shoulder + foot * along + height * pole, shoulder + length * along


def _frames(along: Tensor, twist: Tensor) -> Tensor:
    """(B, 2, 3, 3): rotations whose first column lies along vectors (B, 2, 3), turned about it by `twist` (B, 2)."""
    first = F.normalize(along, dim=2)
    down, left = constant(_Y, first.device), constant(_X, first.device)
    other = torch.where(first[..., 1:2].abs() < 0.7, down, left)
    second = F.normalize(other - (other * first).sum(2, keepdim=True) * first, dim=2)
    third = torch.linalg.cross(first, second, dim=2)
    cosine, sine = twist.cos()[..., None], twist.sin()[..., None]
    return torch.stack([first, cosine * second + sine * third, cosine * third - sine * second], 3)
