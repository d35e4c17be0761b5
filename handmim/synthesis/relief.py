"""What is fine on skin and differs from hand to hand: tendons, veins, wrinkled joints, small lines of the palm.

A rendered back without it can be told from a palm by any line across it; a photographed back is full of lines, most of
all over the joints of the fingers. The maps are functions of the rest surface, drawn once; a hand takes one of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_RELIEFS = 16
# Skeleton joints, in MANO's order.
KNUCKLES = (1, 4, 10, 7)  # index, middle, ring, little
_FINGER_JOINTS = (2, 3, 5, 6, 11, 12, 8, 9, 15)  # middle and last ones; the thumb's last
_SEED = 22
_NUM_WAVES = 16
_STEP = 3e-4  # m, for slopes
_CONTRAST = 4.0  # of light from the side: a slope of a quarter takes or doubles it
_FADE = 0.03  # m before the forearm
_MARGIN = 2  # texels
_SAMPLES = 9  # points along a face's side that find its texels


def face_texels(corners: Tensor, values: Tensor, side: int) -> Tensor:
    """Values of a surface for each texel of its texture.

    Args:
        corners: (F, 3, 2) texels, u right and v down, of each face's corners.
        values: (F, 3, C) at the corners.
        side: Of the texture.

    Returns:
        (side^2, C); NaN where no face lies, nor within `_MARGIN` texels: what is read at a seam may lie beside it.
    """
    steps = torch.arange(_SAMPLES + 1) / _SAMPLES
    u, v = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    weights = torch.stack([u, v, 1 - u - v], 1)[u + v < 1 + 1e-6]
    place = torch.einsum("sk,fkc->fsc", weights, corners).flatten(0, 1).int().clamp_(0, side - 1)
    result = values.new_full((side * side, values.shape[2]), float("nan"))
    result[(place[:, 1] * side + place[:, 0]).long()] = torch.einsum("sk,fkc->fsc", weights, values).flatten(0, 1)
    for _ in range(_MARGIN):
        there = ~result[:, :1].isnan()
        known = torch.cat([result.where(there, 0), there.to(result.dtype)], 1).T.view(1, -1, side, side)
        near = F.avg_pool2d(known, 3, 1, 1).flatten(2)[0].T
        result = torch.where(there | (near[:, -1:] == 0), result, near[:, :-1] / near[:, -1:])
    return result


def draw_reliefs(points: Tensor, dorsal: Tensor, joints: Tensor) -> Tensor:
    """The maps.

    Args:
        points: (T, 3) rest positions of texels, m.
        dorsal: (T,) 1 on the back of the hand, 0 on the palm.
        joints: (16, 3) rest positions of the skeleton.

    Returns:
        (`NUM_RELIEFS`, T, 3): how much brighter light from the side makes it there, in [-1, 1]; how much of a vein is
        seen, in [0, 1]; how dark the skin over a finger's joint is, in [0, 1].
    """
    generator = torch.Generator().manual_seed(_SEED)
    return torch.stack([_Relief(joints, generator).maps(points, dorsal) for _ in range(NUM_RELIEFS)])


class _Relief:
    """The heights of one hand's skin: everything that is random is drawn at once, so that slopes are differences."""

    def __init__(self, joints: Tensor, generator: torch.Generator) -> None:
        self.joints = joints
        self.tendons = torch.rand(len(KNUCKLES), generator=generator) * torch.rand((), generator=generator)
        self.sideways = torch.randn(len(KNUCKLES), generator=generator) * 0.0015
        self.angle = torch.rand((), generator=generator) * 2 * torch.pi
        amount = torch.rand(5, generator=generator)
        self.vein, self.wrinkle, self.line, self.grain, self.dark = amount.tolist()
        self.folds = torch.rand(len(_FINGER_JOINTS), generator=generator) * torch.rand((), generator=generator)
        stretched = torch.tensor([0.6, 1.0, 1.2])  # veins run along the hand
        self.courses = _Waves(0.045, generator, stretched)
        self.present = _Waves(0.05, generator)
        self.lines = _Waves(0.030, generator)
        self.across = _Waves(0.0055, generator, torch.tensor([1.0, 0.3, 0.3]))  # lines across the fingers
        self.uneven = _Waves(0.02, generator)
        self.pores = _Waves(0.0045, generator)

    def maps(self, points: Tensor, dorsal: Tensor) -> Tensor:
        """(T, 3), see `draw_reliefs`."""
        here = self._height(points, dorsal)
        slopes = [(self._height(points + _STEP * axis, dorsal) - here) / _STEP for axis in torch.eye(3)[[0, 2]]]
        shade = slopes[0] * self.angle.cos() + slopes[1] * self.angle.sin()
        veins, patches = self.vein * self._veins(points, dorsal), self.dark * self._joints(points, dorsal)[0]
        maps = torch.stack([(_CONTRAST * shade).clamp(-1, 1), veins, patches], 1)
        return maps * ((points[:, :1].max() - points[:, :1]) / _FADE).clamp(0, 1)  # no edge where the forearm begins

    def _height(self, points: Tensor, dorsal: Tensor) -> Tensor:
        """(T,) m."""
        back = (2 * dorsal - 1).clamp(0, 1)
        palm = (1 - 2 * dorsal).clamp(0, 1)
        height = 6e-4 * self._tendons(points) * back + 5e-4 * self.vein * self._veins(points, dorsal)
        height -= 4e-4 * self._joints(points, dorsal)[1]
        rough = (0.5 + 0.5 * self.uneven(points)).clamp(0, 1.5)
        height += 1.0e-4 * self.wrinkle * rough * back * self.across(points)
        height -= 2.5e-4 * self.line * palm * self.lines.valleys(points, 0.0008)
        return height + 2e-5 * self.grain * self.pores(points)

    def _tendons(self, points: Tensor) -> Tensor:
        """(T,) in [0, 1]: ridges from the wrist's middle to the knuckles, highest before these."""
        height = torch.zeros(len(points))
        wrist = self.joints[0]
        for strength, shift, knuckle in zip(self.tendons, self.sideways, KNUCKLES, strict=True):
            bone = self.joints[knuckle] - wrist
            place = ((points - wrist) @ bone / bone.square().sum())[:, None]
            offset = (points - wrist - place * bone)[:, 2] - shift
            shown = (place[:, 0] / 0.5).clamp(0, 1) * ((1.08 - place[:, 0]) / 0.15).clamp(0, 1)
            height += strength * shown * (-(offset / 0.0020).square()).exp()
        return height

    def _joints(self, points: Tensor, dorsal: Tensor) -> tuple[Tensor, Tensor]:
        """Two (T,) in [0, 1]: the loose skin over the fingers' joints, and the lines across it."""
        skin, lines = torch.zeros(len(points)), torch.zeros(len(points))
        back = (2 * dorsal - 0.6).clamp(0, 1)
        wander = 0.0006 * self.uneven(points)
        for strength, joint in zip(self.folds, _FINGER_JOINTS, strict=True):
            bone = self.joints[joint] - self.joints[joint - 1]
            bone = bone / bone.norm()
            offset = points - self.joints[joint]
            along = offset @ bone
            near = (offset - along[:, None] * bone).norm(dim=1) < 0.014  # not the next finger
            patch = back * near * (-(along / 0.0055).square()).exp()
            skin = torch.maximum(skin, patch)
            lines += strength * patch * (0.5 + 0.5 * ((along + wander) * (2 * torch.pi / 0.0032)).cos())
        return skin, lines

    def _veins(self, points: Tensor, dorsal: Tensor) -> Tensor:
        """(T,) in [0, 1]: a network of lines on the back, here and there, not on the fingers' ends."""
        reach = (1.45 + (points[:, 0] - self.joints[0, 0]) / 0.10).clamp(0, 1)  # fingers lie along -x
        shown = (0.6 + 0.8 * self.present(points)).clamp(0, 1) * (2 * dorsal - 1).clamp(0, 1) * reach
        return shown * self.courses.valleys(points, 0.0020)


class _Waves:
    """A smooth random function of space, mean 0, standard deviation 1: a sum of plane waves of about one length.

    Args:
        wavelength: m.
        stretch: (3,) factors on the waves' vectors; None: as many in every direction.
    """

    def __init__(self, wavelength: float, generator: torch.Generator, stretch: Tensor | None = None) -> None:
        direction = torch.randn(_NUM_WAVES, 3, generator=generator)
        if stretch is not None:
            direction = direction * stretch
        direction = direction / direction.norm(dim=1, keepdim=True)
        length = wavelength * (0.8 + 0.4 * torch.rand(_NUM_WAVES, 1, generator=generator))
        self.vectors = (direction * (2 * torch.pi / length)).T.contiguous()  # (3, waves)
        self.phases = torch.rand(_NUM_WAVES, generator=generator) * 2 * torch.pi

    def __call__(self, points: Tensor) -> Tensor:
        """(T, 3) -> (T,)."""
        return (points @ self.vectors + self.phases).sin().sum(1) * (2 / _NUM_WAVES) ** 0.5

    def valleys(self, points: Tensor, width: float) -> Tensor:
        """(T,) in [0, 1], 1 where the function crosses 0: lines of one width, m, whatever its slope there."""
        phase = points @ self.vectors + self.phases
        value, slope = phase.sin().sum(1), (phase.cos() @ self.vectors.T).norm(dim=1)
        return (-(value / (slope * width).clamp(min=1e-6)).square()).exp()
