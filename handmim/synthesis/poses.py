"""Random hand poses: a library of gestures and grasps, mixed, disturbed, kept anatomical and free of collisions.

A network trained on poses around a mean predicts that mean: fists, pointing hands and grasps must be as frequent as
open hands. So a pose is drawn in five ways (`Variety.poses`): a library entry, a blend of two, each finger from its own
entry, every finger up or down at random, or all joint angles at random; then noise with a real hand's couplings.
Several candidates are made at once and the first without self-intersection is taken, so a sample's pose depends on
nothing but its own random numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..constants import constant
from .anatomy import CHAIN_JOINTS, Anatomy, forward_kinematics, open_hand_anatomy, penetration, rotation_from_angles
from .random import SampleRandom
from .variety import VARIETIES, Variety

# Angles in degrees. A finger: flexion of knuckle, middle and end joint.
_FINGERS = {
    "straight": (0, 3, 2),
    "back": (-20, -3, -4),
    "relaxed": (20, 22, 12),
    "soft": (8, 12, 7),
    "cup": (28, 32, 18),
    "half": (45, 50, 30),
    "table": (82, 4, 2),
    "ramp": (45, 5, 3),
    "hook": (2, 92, 56),
    "claw": (-10, 72, 44),
    "bend": (10, 60, 36),
    "fist": (83, 100, 60),
    "loose": (62, 78, 45),
    "down": (84, 78, 40),
    "pinch": (48, 46, 26),
    "reach": (57, 44, 24),
    "pen": (44, 52, 20),
    "over": (34, 24, 10),
    "trigger": (30, 62, 30),
}
# The thumb: flexion (across the palm), abduction (away from the palm) and twist of its base, flexion of the other two.
_THUMBS = {
    "rest": (4, -4, -2, 6, 8),
    "side": (1, -31, 4, 6, 4),
    "wide": (-26, -22, 6, -6, -10),
    "palmar": (-6, 16, -8, 2, 4),
    "up": (-20, -28, 6, -4, -14),
    "out": (-8, 6, -4, 4, 6),
    "hitch": (-26, -8, 2, -6, -22),
    "across": (16, 0, -16, 49, 49),
    "folded": (30, -12, -19, 47, 44),
    "fist": (22, 25, -21, 31, 54),
    "tuck": (42, -17, -7, 58, 80),
    "key": (10, -12, -4, 11, 18),
    "beside": (9, 2, -1, 27, 35),
    "opposed": (8, 14, -30, 12, 18),
    "round": (2, 14, -24, 20, 40),
    "bent": (0, -6, -6, 20, 70),
    "grip": (12, 0, -24, 39, 57),
    "pinch_index": (18, 15, -26, 13, 24),
    "pinch_middle": (34, 25, -26, 9, 23),
    "pinch_ring": (42, 26, -20, 14, 20),
    "pinch_little": (42, 26, -9, 29, 25),
    "pen": (20, 10, -21, 13, 21),
}
# Abduction of index, middle, ring and little at the knuckle, towards the thumb's side.
_SPREADS = {
    "together": (-3, -1, 1, 5),
    "neutral": (1, 0, -2, -3),
    "fan": (10, 2, -8, -18),
    "fork": (9, -7, -6, -6),
    "vulcan": (6, 9, -9, -14),
    "cross": (-10, 9, 0, 2),
    "horns": (8, -1, 1, -14),
}
# thumb, index, middle, ring, little, spread, weight
_LIBRARY = {
    "flat": "side straight straight straight straight together 3",
    "open": "rest straight straight straight straight neutral 4",
    "spread": "wide straight straight straight straight fan 3",
    "stretched": "wide back back back back fan 1",
    "stop": "rest back back back back together 1",
    "relaxed": "rest relaxed relaxed relaxed relaxed neutral 3",
    "wave": "palmar soft soft soft soft neutral 1",
    "tabletop": "side table table table table together 1",
    "ramp": "palmar ramp ramp ramp ramp together 1",
    "duck": "pinch_middle reach reach reach reach together 1",
    "cup": "palmar cup cup cup cup together 3",
    "half closed": "opposed half half half half neutral 1",
    "claw": "bent claw claw claw claw fan 2",
    "hook": "side hook hook hook hook together 2",
    "loose fist": "key loose loose loose loose together 3",
    "fist": "fist fist fist fist fist together 4",
    "fist thumb beside": "beside fist fist fist fist together 2",
    "fist thumb inside": "tuck down down down down together 1",
    "thumb up": "up fist fist fist fist together 3",
    "hitch-hike": "hitch loose loose loose loose together 1",
    "point": "fist straight fist fist fist together 4",
    "point thumb beside": "key straight loose fist fist neutral 3",
    "gun": "up straight fist fist fist horns 2",
    "gun two": "up straight straight fist fist together 1",
    "L": "wide straight fist fist fist horns 2",
    "trigger": "up trigger fist fist fist horns 2",
    "beckon": "fist hook fist fist fist horns 1",
    "middle up": "fist fist straight fist fist neutral 1",
    "victory": "across straight straight fist fist fork 3",
    "two": "across straight straight fist fist together 1",
    "crossed": "across straight over fist fist cross 1",
    "bunny": "across bend bend fist fist fork 1",
    "three": "folded straight straight straight fist fan 2",
    "three thumb": "wide straight straight fist fist fork 2",
    "four": "folded straight straight straight straight fan 2",
    "vulcan": "wide straight straight straight straight vulcan 1",
    "little up": "fist fist fist fist straight horns 1",
    "rock": "fist straight fist fist straight horns 2",
    "love": "wide straight fist fist straight horns 1",
    "call me": "wide fist fist fist straight horns 2",
    "six": "pinch_little straight straight straight reach fan 1",
    "seven": "pinch_ring straight straight reach straight fan 1",
    "eight": "pinch_middle straight reach straight straight fan 1",
    "OK": "pinch_index pinch straight straight soft fan 3",
    "OK relaxed": "pinch_index pinch relaxed relaxed cup neutral 2",
    "pinch": "pinch_index pinch half half half neutral 2",
    "pinch closed": "pinch_index pinch loose fist fist together 2",
    "pinch middle": "pinch_middle soft reach soft soft neutral 1",
    "pinch ring": "pinch_ring soft soft reach soft neutral 1",
    "pinch little": "pinch_little soft soft soft reach neutral 1",
    "chuck": "pinch_middle pinch pinch loose fist together 2",
    "five pinch": "pinch_middle pinch pinch pinch reach together 1",
    "pen": "pen pen pen loose loose together 3",
    "pen long": "pen over pen half loose together 1",
    "key pinch": "key bend loose loose loose together 3",
    "scissors": "rest ramp ramp loose loose neutral 1",
    "C": "round bend bend bend bend together 2",
    "C narrow": "opposed cup cup cup cup together 1",
    "E": "folded hook hook hook hook together 1",
    "T": "tuck down down down down together 1",
    "K": "palmar straight ramp fist fist fork 1",
    "G": "rest table fist fist fist together 1",
    "X": "fist hook fist fist fist together 1",
    "phone": "opposed cup relaxed relaxed half together 2",
    "tray": "wide soft soft soft soft fan 1",
    "mouse": "palmar relaxed relaxed cup cup neutral 1",
}

_OUT = "out straight straight straight straight neutral 0"

# Radii of grasped cylinders and spheres, metres: pen, handle, bottle, glass, jar; ball and apple.
_CYLINDERS, _SPHERES = (0.014, 0.018, 0.022, 0.032, 0.042), (0.02, 0.03, 0.04, 0.05)

# Ranges in degrees of flexion, abduction, twist: base, middle and end joint. The widest values found in healthy adults
# are not reached by most hands; these are typical active ranges, a little wider where objects push (knuckles).
_FINGER_LIMITS = (((-28, 20, -4), (94, 20, 4)), ((-6, 0, 0), (110, 0, 0)), ((-10, 0, 0), (76, 0, 0)))
_THUMB_LIMITS = (((-32, -40, -36), (42, 26, 16)), ((-14, -8, 0), (58, 8, 0)), ((-26, 0, 0), (82, 0, 0)))
# Standard deviations of a finger's own noise and of the part all four share; the thumb's own.
_FINGER_NOISE = ((8, 4, 1.5), (10, 0, 0), (5, 0, 0))
_THUMB_NOISE = ((7, 7, 5), (8, 2.5, 0), (11, 0, 0))
_SHARED_NOISE = 6.0
# A healthy end joint follows the middle joint (Rijpkema and Girard 1991 take 2/3).
_END_OVER_MIDDLE = 0.65

CANDIDATES = 6
# Deepest overlap of the capsules that still passes, metres: skin gives way by about as much.
MAX_PENETRATION = 0.003


@functools.lru_cache(maxsize=4)
def limits(device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Lowest and highest angles, each (5, 3, 3) radians: chain (thumb first), joint, (flexion, abduction, twist)."""
    table = torch.tensor([_THUMB_LIMITS] + [_FINGER_LIMITS] * 4, dtype=torch.float32, device=device).deg2rad()
    low, high = table[:, :, 0].contiguous(), table[:, :, 1].contiguous()
    low[1:, 0, 1] = -high[1:, 0, 1]
    return low, high


def clamp_to_limits(angles: Tensor) -> Tensor:
    """Nearest angles (..., 5, 3, 3) within `limits`; a bent knuckle spreads less (collateral ligaments tighten)."""
    low, high = limits(str(angles.device))
    clamped = torch.minimum(torch.maximum(angles, low), high)
    room = 1 - 0.75 * (clamped[..., 1:, 0, 0] / math.radians(90)).clamp_(0, 1)
    widest = high[1:, 0, 1] * room
    clamped[..., 1:, 0, 1] = torch.minimum(torch.maximum(clamped[..., 1:, 0, 1], -widest), widest)
    return clamped


@functools.lru_cache(maxsize=4)
def library(device: str = "cpu") -> tuple[tuple[str, ...], Tensor, Tensor]:
    """The named poses.

    Returns:
        Names (L), angles (L, 5, 3, 3) radians, chains first, and weights (L,).
    """
    names, poses, weights = [], [], []
    for name, entry in _LIBRARY.items():
        *states, spread, weight = entry.split()
        names.append(name)
        poses.append(_entry_angles(states, spread))
        weights.append(float(weight))
    anatomy = open_hand_anatomy(device)
    for kind, radii in (("cylinder", _CYLINDERS), ("sphere", _SPHERES)):
        for radius in radii:
            names.append(f"{kind} {radius * 1000:.0f} mm")
            poses.append(_grasp_angles(radius, kind == "sphere", anatomy))
            weights.append(2.0)
    return tuple(names), clamp_to_limits(torch.stack(poses).to(device)), torch.tensor(weights, device=device)


def _entry_angles(states: list[str], spread: str) -> Tensor:
    """(5, 3, 3) radians from the names of a thumb's state, four fingers' states and a spread."""
    angles = torch.zeros(5, 3, 3)
    flexion, abduction, twist, middle, end = _THUMBS[states[0]]
    angles[0, 0] = torch.tensor([flexion, abduction, twist])
    angles[0, 1:, 0] = torch.tensor([middle, end])
    angles[1:, :, 0] = torch.tensor([_FINGERS[state] for state in states[1:]])
    angles[1:, 0, 1] = torch.tensor(_SPREADS[spread], dtype=torch.float32)
    return angles.deg2rad()


def _grasp_angles(radius: float, sphere: bool, anatomy: Anatomy) -> Tensor:
    """(5, 3, 3) radians of a hand around a cylinder or a sphere: each bone is a tangent of the object's outline.

    Two bones of lengths a and b that touch a circle of radius r meet at an angle atan(a/2r) + atan(b/2r); r is here the
    object's radius plus half a finger's thickness.
    """
    angles = torch.zeros(5, 3, 3)
    around = radius + anatomy.bone_radius.mean().item()
    half = ((anatomy.joints[1:, 1:] - anatomy.joints[1:, :-1]).norm(dim=-1).cpu() / (2 * around)).atan()
    angles[1:, 0, 0] = half[:, 0] + math.radians(22 if not sphere else 12)
    angles[1:, 1, 0] = half[:, 0] + half[:, 1]
    angles[1:, 2, 0] = 0.8 * (half[:, 1] + half[:, 2])
    # Around a thin bar the thumb closes over the fingers, around a wide one it stands against them.
    closed = max(0.0, min(1.0, (0.035 - radius) / 0.017))
    grip, opposed = (torch.tensor(_THUMBS[name], dtype=torch.float32).deg2rad() for name in ("grip", "opposed"))
    thumb = opposed + closed * (grip - opposed)
    angles[0, 0], angles[0, 1:, 0] = thumb[:3], thumb[3:]
    spread = _SPREADS["fan" if sphere else "together"]
    angles[1:, 0, 1] = torch.tensor(spread, dtype=torch.float32).deg2rad()
    return angles


def sample_angles(random: SampleRandom, variety: Variety = VARIETIES["full"]) -> Tensor:
    """One plausible pose of the right hand for every sample, in anatomical angles.

    Args:
        random: the samples' random numbers; drawn from its fork "poses" only.
        variety: its families of poses, and whether fingers may run into each other.

    Returns:
        (B, 5, 3, 3) float32 radians: chain (thumb, index, middle, ring, little), joint, (flexion, abduction, twist).
    """
    random = random.fork("poses")
    anatomy = open_hand_anatomy(str(random.device))
    intent = _draw_intent(random, variety.poses)
    candidates = clamp_to_limits(_relax(intent[:, None] + _noise(random)))  # (B, K, 5, 3, 3)
    if variety.collisions:
        return candidates[:, 0]
    rotations = rotation_from_angles(_batch_last(candidates.flatten(0, 1)), anatomy)
    depth = penetration(forward_kinematics(rotations, anatomy), anatomy).view(-1, CANDIDATES)
    # The first that passes, otherwise the least deep.
    order = torch.arange(-CANDIDATES, 0, device=depth.device, dtype=depth.dtype)
    best = torch.where(depth < MAX_PENETRATION, order, depth).argmin(1)
    return candidates[torch.arange(len(best), device=best.device), best]


def sample_poses(random: SampleRandom, variety: Variety = VARIETIES["full"]) -> Tensor:
    """One plausible pose of the right hand for every sample, as the hand model takes it.

    Args:
        random: the samples' random numbers; drawn from its fork "poses" only.
        variety: its families of poses, and whether fingers may run into each other.

    Returns:
        (B, 15, 3, 3) float32 rotation matrices, each joint against its parent: index, middle, little, ring, thumb.
    """
    return angles_to_pose(sample_angles(random, variety))


def angles_to_pose(angles: Tensor) -> Tensor:
    """Anatomical angles (B, 5, 3, 3), radians, chains first -> hand_pose (B, 15, 3, 3) of the right open hand."""
    rotations = rotation_from_angles(_batch_last(angles), open_hand_anatomy(str(angles.device)))
    places = [joint for joints in CHAIN_JOINTS for joint in joints]
    order = constant(tuple(places.index(joint) for joint in range(15)), angles.device, torch.int64)
    return rotations.flatten(2, 3).index_select(2, order).permute(3, 2, 0, 1).contiguous()


def _batch_last(angles: Tensor) -> Tensor:
    """(B, 5, 3, 3) -> (3, 5, 3, B), the layout of the anatomy's functions."""
    return angles.permute(3, 1, 2, 0).contiguous()


def _draw_intent(random: SampleRandom, shares: Sequence[float]) -> Tensor:
    """(B, 5, 3, 3) radians: what the hand means to do, before noise. Every sample draws everything, then selects."""
    _, poses, weights = library(str(random.device))
    chains = torch.arange(5, device=random.device)
    picks = random.choice(weights, (7,))
    unit = random.uniform((81,))
    entry, other = poses[picks[:, 0]], poses[picks[:, 1]]
    share = _towards_ends(unit[:, 0, None, None, None])
    intents = torch.stack(
        [
            entry,
            entry + share * (other - entry),
            poses[picks[:, 2:], chains],
            _up_or_down(unit[:, 1:7]),
            _random_angles(unit[:, 7:]),
        ]
    )
    chosen = random.choice(shares)
    return intents[chosen, torch.arange(len(chosen), device=chosen.device)]


def _towards_ends(unit: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) -> arcsine distributed ones: a finger is more often stretched or bent than between."""
    return (unit * (math.pi / 2)).sin().square()


def _up_or_down(unit: Tensor) -> Tensor:
    """Counting hands: each finger straight or curled by its own coin, so all 32 combinations are equally frequent.

    Args:
        unit: (B, 6) uniform numbers: five coins, and how far the raised fingers spread.

    Returns:
        (B, 5, 3, 3) radians.
    """
    up, down = _named_angles("spread", unit.device), _named_angles("fist", unit.device)
    raised = up.repeat(len(unit), 1, 1, 1)
    raised[:, 1:, 0, 1] *= unit[:, 5:]
    return torch.where((unit[:, :5] < 0.5)[..., None, None], raised, down)


def _random_angles(unit: Tensor) -> Tensor:
    """Each finger for itself, over its whole range: a third each curls evenly, bends its joints anyhow or to the ends.

    Args:
        unit: (B, 74) uniform numbers.

    Returns:
        (B, 5, 3, 3) radians.
    """
    low, high = limits(str(unit.device))
    size = len(unit)
    way = unit[:, 45:50, None, None]
    angles = unit[:, :45].view(size, 5, 3, 3)
    ends = _towards_ends(angles)
    angles = low + (high - low) * torch.where(way < 0.33, angles, ends)
    evenly = ends[:, 1:, :1, 0] * high[1:, :, 0]
    fingers = torch.where(way[:, 1:, :, 0] > 0.67, evenly, angles[:, 1:, :, 0])
    fingers[..., 2] = _END_OVER_MIDDLE * fingers[..., 1]
    angles[:, 1:, :, 0] = fingers
    fan = _named_angles("spread", unit.device)[1:, 0, 1]
    angles[:, 1:, 0, 1] = 0.35 * angles[:, 1:, 0, 1] + fan * (1.4 * unit[:, 50:51] - 0.3)
    return angles


def _noise(random: SampleRandom) -> Tensor:
    """(B, K, 5, 3, 3) radians: each joint's own, what the fingers share, and end joints that follow middle joints."""
    scale, moving = _noise_scale(str(random.device))
    own = random.normal((CANDIDATES, len(moving)))
    noise = own.new_zeros(*own.shape[:2], 45)
    noise[..., moving] = own
    noise = noise.view(-1, CANDIDATES, 5, 3, 3) * (scale * random.uniform((1, 1, 1, 1), 0.2, 1.3))
    noise[:, :, 1:, 0, 0] += random.normal((1, 1), std=math.radians(_SHARED_NOISE))
    noise[:, :, 1:, 2, 0] += _END_OVER_MIDDLE * noise[:, :, 1:, 1, 0]
    return noise


@functools.lru_cache(maxsize=4)
def _noise_scale(device: str) -> tuple[Tensor, Tensor]:
    """Standard deviations (5, 3, 3), radians, and which of the 45 are not zero."""
    scale = torch.tensor([_THUMB_NOISE] + [_FINGER_NOISE] * 4, dtype=torch.float32, device=device).deg2rad()
    return scale, scale.flatten().nonzero().squeeze(1)


def _relax(candidates: Tensor) -> Tensor:
    """Undo the later half of the candidates (B, K, 5, 3, 3) step by step: the thumb moves out, fingers side by side."""
    late = CANDIDATES - CANDIDATES // 2
    share = torch.linspace(0.3, 0.95, late, device=candidates.device)[:, None, None]
    out = _named_angles("out", candidates.device)
    undone = candidates[:, -late:]
    undone[:, :, 0] += share * (out[0] - undone[:, :, 0])
    undone[:, :, 1:, 0, 1] += share[..., 0] * (out[1:, 0, 1] - undone[:, :, 1:, 0, 1])
    undone[:, :, 1:, :, 0] *= 1 - 0.25 * share
    return candidates


@functools.lru_cache(maxsize=16)
def _named_angles(name: str, device: torch.device) -> Tensor:
    """(5, 3, 3) radians of a library entry, or of "out": the open hand whose thumb is in nobody's way."""
    entry = _OUT if name == "out" else _LIBRARY[name]
    *states, spread, _ = entry.split()
    return _entry_angles(states, spread).to(device)
