"""Two hands whose palms lie against each other, as in prayer, in clapping and around small things.

The second hand is the first one's image in a mirror that lies before the palm, as near as fingers and thumb let it,
turned and moved a little in the mirror's plane: so they touch and do not run into each other, whatever their pose. Of
two hands that hide one another most of what can be known of the hidden one is what its twin shows.

Second hands are drawn as right ones in a world whose x axis is turned round (`generator`): with the mirror that makes
two reflections, a rotation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..constants import constant
from ..geometry import axis_angle_to_matrix
from .random import SampleRandom

TURN, SLIDE = 10.0, 0.008  # standard deviations in the mirror's plane: degrees, m
_PALM = (0.0, -1.0, 0.0)  # where the palm looks, in the hand model's frame


def arms_apart(bend: Tensor) -> Tensor:
    """Rotations (N, 3, 3) of forearms relative to their hands, mirrored where the forearm would come through the palm's
    plane into the other one."""
    across = constant((1.0, -1.0, 1.0), bend.device)
    through = bend[:, 1, 0] < 0  # the elbow lies along the first column; the palm looks along -y
    return torch.where(through[:, None, None], bend * across * across[:, None], bend)


def twin_orientation(random: SampleRandom, orient: Tensor) -> tuple[Tensor, Tensor]:
    """How the second hand is turned.

    Args:
        random: Its draws, one sample a pair.
        orient: (N, 3, 3) global_orient of the first hand.

    Returns:
        (N, 3, 3) global_orient of the second one, in its own world; (N, 3, 3) what turns it in the mirror's plane.
    """
    palm = _palm(orient)
    angle = random.normal((), 0.0, TURN * math.pi / 180).clamp(-0.5, 0.5)
    turn = axis_angle_to_matrix(palm * angle[:, None])
    return _turned_round(_product(turn, _reflected(orient, palm))), turn


def twin_translation(
    random: SampleRandom, orient: Tensor, turn: Tensor, surface: Tensor, wrist: Tensor, twin_wrist: Tensor
) -> Tensor:
    """Where the second hand is.

    Args:
        random: Its draws, one sample a pair.
        orient: (N, 3, 3) of the first hand. turn: (N, 3, 3) from `twin_orientation`.
        surface: (N, 3, V) vertices of the first hand where it is, m.
        wrist: (N, 3) its wrist, where it is. twin_wrist: (N, 3) that of the second hand before it is moved.

    Returns:
        (N, 3) m, to be added to the second hand in its own world.
    """
    palm = _palm(orient)
    height = (palm[..., None] * surface).sum(1)  # along the way that the palm looks
    mirror = height.amax(1)[:, None]
    middle = surface.mean(2)
    middle = middle + (mirror - (middle * palm).sum(1, keepdim=True)) * palm
    slide = random.normal((3,), 0.0, SLIDE)
    slide = slide - (slide * palm).sum(1, keepdim=True) * palm
    image = wrist + 2 * (mirror - (wrist * palm).sum(1, keepdim=True)) * palm
    image = middle + slide + (turn * (image - middle)[:, None]).sum(2)
    return _turned_round(image[..., None])[..., 0] - twin_wrist


def _palm(orient: Tensor) -> Tensor:
    """(N, 3) unit vectors from the palm outwards."""
    return (orient * constant(_PALM, orient.device)).sum(2)


def _reflected(vectors: Tensor, normal: Tensor) -> Tensor:
    """Columns of (N, 3, K), reflected in planes through the origin with unit normals (N, 3)."""
    return vectors - 2 * (vectors * normal[..., None]).sum(1, keepdim=True) * normal[..., None]


def _turned_round(vectors: Tensor) -> Tensor:
    """Columns of (N, 3, K) in the world whose x axis is turned round."""
    return vectors * constant((-1.0, 1.0, 1.0), vectors.device)[:, None]


def _product(first: Tensor, second: Tensor) -> Tensor:
    """(N, 3, 3) products; a library's round differently for another N."""
    return (first[..., None] * second[:, None]).sum(2)
