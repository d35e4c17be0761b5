"""Random crops for training: one warp and one colour matrix a sample, drawn from (seed, epoch, index).

A draw is a function of these three numbers alone: not of a global generator, a worker or what was drawn before, so that
a run that is stopped and resumed sees the same pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from handmim.synthesis.degradation import FAR_SIDES

# Weights of R, G, B in luminance (ITU-R BT.601), as in the usual colour jitter.
LUMINANCE = np.array([0.299, 0.587, 0.114])
# The chroma plane of YIQ: hue turns colours about the grey axis in it.
YIQ = np.array([LUMINANCE, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
# Below this zoom a warp alone would skip source pixels: the picture is shrunk with a filter first.
ANTIALIAS_BELOW = 0.8
GREY = (128, 128, 128)  # outside the picture; about 0 once normalised, as the image processor fills


def random_generator(seed: int, epoch: int, index: int, stream: int = 0) -> np.random.Generator:
    """The random numbers of one visit to one sample (Philox, a counter-based generator: Salmon et al. 2011)."""
    mask = (1 << 64) - 1
    return np.random.Generator(np.random.Philox(key=[seed & mask, stream], counter=[0, epoch & mask, index & mask, 0]))


@dataclass(frozen=True)
class Augmentation:
    """How far crops and colours are varied. The paper (section 3.2) names the kinds and gives no strength.

    Args:
        scale: The side of the crop is multiplied by up to 1 + scale or divided by as much, log-uniform (I2L-MeshNet
            and PyMAF: 0.25).
        translation: The crop is moved by up to this share of its side, on each axis, uniform. Ours.
        rotation: The crop is turned by up to this many degrees either way, uniform (METRO: 90; a hand has no
            upright direction).
        brightness, contrast, saturation: Factors in [1 - x, 1 + x], uniform (iBOT: 0.4, 0.4, 0.2).
        hue: Colours are turned by up to this share of the circle (iBOT: 0.1).
        far: Share of crops that are of 24 to 64 pixels, and enlarged, as those of small hands are. Ours.
    """

    scale: float = 0.25
    translation: float = 0.1
    rotation: float = 90.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    far: float = 0.0

    def __post_init__(self) -> None:
        upper = {"rotation": 180.0, "hue": 0.5, "scale": math.inf}
        for field in fields(self):
            value = getattr(self, field.name)
            top = upper.get(field.name, 1.0)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= top:
                raise ValueError(f"augmentation.{field.name} must be in [0, {top:g}], got {value!r}")

    @classmethod
    def from_section(cls, section: dict[str, Any] | bool | None) -> Augmentation | None:
        """From a recipe: a mapping of strengths, True or None for the defaults, False for none.

        Raises:
            ValueError: An unknown name, or a strength out of range.
        """
        if section is False:
            return None
        section = {} if section in (None, True) else section
        known = {field.name for field in fields(cls)}
        if not isinstance(section, dict) or not section.keys() <= known:
            raise ValueError(f"augmentation must be false or give any of {', '.join(sorted(known))}, got {section!r}")
        return cls(**section)

    def draw_turn(self, generator: np.random.Generator, size: int) -> np.ndarray:
        """A random similarity of crop pixels about the crop's centre, without mirror.

        Args:
            generator: See `random_generator`.
            size: Side of the crop, pixels.

        Returns:
            (2, 3) float64, plain crop pixels -> varied crop pixels.
        """
        zoom, angle, *shift = generator.uniform(-1.0, 1.0, 4)
        factor = (1 + self.scale) ** zoom
        angle = math.radians(self.rotation) * angle
        sine, cosine = factor * math.sin(angle), factor * math.cos(angle)
        linear = np.array([[cosine, -sine], [sine, cosine]])
        centre = np.full(2, (size - 1) / 2)
        offset = centre + self.translation * size * np.array(shift) - linear @ centre
        return np.concatenate([linear, offset[:, None]], 1)

    def take_far(self, generator: np.random.Generator, crop: np.ndarray) -> np.ndarray:
        """A crop (S, S, 3) uint8 as it is, or as it looks from so far away that it has a few pixels.

        Draws nothing where no crop is far, so that recipes without see the pictures that they always saw.
        """
        if not self.far or generator.random() >= self.far:
            return crop
        side = int(generator.choice(FAR_SIDES))
        if side >= len(crop):
            return crop
        small = Image.fromarray(crop).resize((side, side), Image.Resampling.BILINEAR)
        return np.array(small.resize(crop.shape[1::-1], Image.Resampling.BILINEAR))

    def draw_colour(self, generator: np.random.Generator, mean_grey: float) -> np.ndarray:
        """A random affine map of RGB: brightness, then contrast, saturation and hue, in one matrix.

        Args:
            generator: See `random_generator`.
            mean_grey: Mean luminance of the picture, which contrast leaves as it is.

        Returns:
            (3, 4) float64: colours (3,) in [0, 255] -> matrix[:, :3] @ colour + matrix[:, 3].
        """
        draws = generator.uniform(-1.0, 1.0, 4)
        strengths = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = 1 + np.array(strengths) * draws[:3]
        grey = np.broadcast_to(LUMINANCE, (3, 3))
        angle = 2 * math.pi * self.hue * draws[3]
        turn = np.eye(3)
        turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        chroma = np.linalg.solve(YIQ, turn @ YIQ) @ (saturation * np.eye(3) + (1 - saturation) * grey)
        offset = (1 - contrast) * brightness * mean_grey * chroma.sum(1)
        return np.concatenate([contrast * brightness * chroma, offset[:, None]], 1)


def warp(pixels: np.ndarray, affine: np.ndarray, size: int, fill: Any = GREY) -> np.ndarray:
    """Resample a picture by any affine transform; antialiased where it shrinks.

    Shrinking is done first, by a triangle filter at the final scale; then one bilinear interpolation.

    Args:
        pixels: (H, W, 3) or (H, W) uint8.
        affine: (2, 3) from picture to crop pixels.
        size: Side S of the crop.
        fill: Value outside the picture.

    Returns:
        (S, S, 3) or (S, S) uint8.
    """
    inverse = np.linalg.inv(np.vstack([affine, [0.0, 0.0, 1.0]]))
    zoom = np.hypot(*affine[:, :2])  # of the x and y axis; they differ only for non-square pixels
    low, high = _seen_region(inverse, size, 2 / zoom.min(), pixels.shape)
    if (high - low).min() < 1:
        return np.broadcast_to(np.asarray(fill, np.uint8), (size, size, *pixels.shape[2:])).copy()
    picture = Image.fromarray(pixels[low[1] : high[1], low[0] : high[0]])
    factor = np.ones(2)
    if zoom.prod() < ANTIALIAS_BELOW**2:
        shape = np.maximum(1, np.round((high - low) * zoom)).astype(int)
        factor = shape / (high - low)
        # reducing_gap: box averages down to three times the final size do not show, and are fast
        picture = picture.resize(tuple(shape.tolist()), Image.Resampling.BILINEAR, reducing_gap=3.0)
    linear = factor[:, None] * inverse[:2, :2]
    # Pillow counts from the picture's corner, not from a pixel's centre
    offset = factor * (inverse[:2, 2] + 0.5 - low) - linear @ [0.5, 0.5]
    data = (*linear[0], offset[0], *linear[1], offset[1])
    method, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.array(picture.transform((size, size), method, data, bilinear, fillcolor=fill))


def _seen_region(
    inverse: np.ndarray, size: int, margin: float, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """First (x, y) and one past the last (x, y) pixel of the picture (H, W, ...) that a crop reads."""
    edges = np.array([-0.5, size - 0.5])
    corners = np.stack(np.meshgrid(edges, edges), -1).reshape(4, 2)
    seen = corners @ inverse[:2, :2].T + inverse[:2, 2]
    limit = (shape[1], shape[0])
    low = np.clip(np.floor(seen.min(0) - margin), 0, limit)
    high = np.clip(np.ceil(seen.max(0) + margin) + 1, 0, limit)
    return low.astype(int), high.astype(int)


def to_tensor(crop: np.ndarray, colour: np.ndarray | None = None) -> Tensor:
    """uint8 (S, S, 3) -> float32 (3, S, S) in [-1, 1], after a colour matrix (3, 4) if one is given."""
    planes = torch.from_numpy(crop).permute(2, 0, 1).reshape(3, -1).float()
    if colour is None:
        return planes.div_(127.5).sub_(1).view(3, *crop.shape[:2])
    matrix = torch.from_numpy(colour / 127.5).float()
    planes = torch.addmm(matrix[:, 3:] - 1, matrix[:, :3], planes).clamp_(-1, 1)
    return planes.view(3, *crop.shape[:2])
