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
_FOLDED = 0.015  # m along a finger from its joint, beyond which there is nothing of its skin
_CONTRAST = 4.0  # of light from the side: a slope of a quarter takes or doubles it
_FADE = 0.03  # m before the forearm
_SAMPLES = 9  # points along a face's side that find its texels


def face_texels(corners: Tensor, values: Tensor, side: int) -> Tensor:
    """Values of a surface for each texel of its texture.

    Args:
        corners: (F, 3, 2) texels, u right and v down, of each face's corners.
        values: (F, 3, C) at the corners.
        side: Of the texture.

    Returns:
        (side^2, C); NaN where no face lies.
    """
    steps = torch.arange(_SAMPLES + 1) / _SAMPLES
    u, v = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    weights = torch.stack([u, v, 1 - u - v], 1)[u + v < 1 + 1e-6]
    place = torch.einsum("sk,fkc->fsc", weights, corners).flatten(0, 1).int().clamp_(0, side - 1)
    found = torch.einsum("sk,fkc->fsc", weights, values).flatten(0, 1)
    # Of many points in a texel the first: which one an assignment by index would keep depends on the threads.
    first = torch.full((side * side,), len(found))
    first.scatter_reduce_(0, (place[:, 1] * side + place[:, 0]).long(), torch.arange(len(found)), "amin")
    return torch.cat([found, found.new_full((1, found.shape[1]), float("nan"))])[first]


def widen_margin(texels: Tensor, side: int) -> Tensor:
    """Texels (side^2, C) whose neighbours of no value (NaN) take the mean of theirs: a seam may be read beside it."""
    there = ~texels[:, :1].isnan()
    known = torch.cat([texels.where(there, 0), there.to(texels.dtype)], 1).T.view(1, -1, side, side)
    near = F.avg_pool2d(known, 3, 1, 1).flatten(2)[0].T
    return torch.where(there | (near[:, -1:] == 0), texels, near[:, :-1] / near[:, -1:])


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
    """One hand's skin: everything that is random is drawn at once, so that slopes are differences of heights."""

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
        light = torch.stack([self.angle.cos(), torch.zeros(()), self.angle.sin()])
        height, veins, joints = self._draw(points, dorsal)
        slope = (self._draw(points + _STEP * light, dorsal)[0] - height) / _STEP
        maps = torch.stack([(_CONTRAST * slope).clamp(-1, 1), self.vein * veins, self.dark * joints], 1)
        return maps * ((points[:, :1].max() - points[:, :1]) / _FADE).clamp(0, 1)  # no edge where the forearm begins

    def _draw(self, points: Tensor, dorsal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three (T,): height, m; veins and loose skin over the fingers' joints, in [0, 1]."""
        back = (2 * dorsal - 1).clamp(0, 1)
        palm = (1 - 2 * dorsal).clamp(0, 1)
        uneven, veins = self.uneven(points), self._veins(points, back)
        joints, folds = self._joints(points, dorsal, uneven)
        height = 6e-4 * self._tendons(points) * back + 5e-4 * self.vein * veins - 4e-4 * folds
        height += 1.0e-4 * self.wrinkle * (0.5 + 0.5 * uneven).clamp(0, 1.5) * back * self.across(points)
        height -= 2.5e-4 * self.line * palm * self.lines.valleys(points, 0.0008)
        return height + 2e-5 * self.grain * self.pores(points), veins, joints

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

    def _joints(self, points: Tensor, dorsal: Tensor, uneven: Tensor) -> tuple[Tensor, Tensor]:
        """Two (T,) in [0, 1]: the loose skin over the fingers' joints, and the folds in it."""
        skin, folds = torch.zeros(len(points)), torch.zeros(len(points))
        back = (2 * dorsal - 0.6).clamp(0, 1)
        for strength, joint in zip(self.folds, _FINGER_JOINTS, strict=True):
            bone = self.joints[joint] - self.joints[joint - 1]
            bone = bone / bone.norm()
            offset = points - self.joints[joint]
            along = offset @ bone
            aside = (offset.square().sum(1) - along.square()).clamp(min=0).sqrt()
            near = torch.nonzero((along.abs() < _FOLDED) & (aside < 0.014)).squeeze(1)  # not the next finger
            along = along[near]
            patch = back[near] * (-(along / 0.0055).square()).exp()
            skin[near] = torch.maximum(skin[near], patch)
            wave = ((along + 0.0006 * uneven[near]) * (2 * torch.pi / 0.0032)).cos()
            folds[near] += strength * patch * (0.5 + 0.5 * wave)
        return skin, folds

    def _veins(self, points: Tensor, back: Tensor) -> Tensor:
        """(T,) in [0, 1]: a network of lines on the back, here and there, not on the fingers' ends."""
        reach = (1.45 + (points[:, 0] - self.joints[0, 0]) / 0.10).clamp(0, 1)  # fingers lie along -x
        shown = (0.6 + 0.8 * self.present(points)).clamp(0, 1) * back * reach
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
