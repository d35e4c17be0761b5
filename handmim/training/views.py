"""Two augmented views of an image, each by one affine warp whose parameters go along with its pixels.

Points and parameters (HandMIM, section 2.2). A point p of the original image is measured from the image's centre in
units of half its longer side, so a square image spans [-1, 1] from outer edge to outer edge; x right, y down. The same
point in a view, measured the same way, is

    p' = R (gamma p - (a, b))                                                                             (eq. 3)
    p  = (R^T p' + (a, b)) / gamma                                                                        (eq. 4)

`transforms` (..., 4) holds (angle, gamma, a, b) with R = [[cos, -sin], [sin, cos]] of the angle in radians: a positive
angle turns the picture clockwise. With the origins at the centres, gamma = (longer side of the image) / (side of the
crop) and (a, b) = gamma * (centre of the crop); the paper counts both from upper left corners, which is the same family
of transforms.

What a view looks like is `appearance` (..., 6) = (brightness, contrast, saturation, hue, sigma, solarise): factors,
hue in turns, sigma of the blur in pixels of the view (0: none), solarise 0 or 1. Grayscale is saturation 0.

Numbers. The paper gives the area (0.08, 1), the rotation (0, 150 degrees) and names colour jitter, grayscale, blur and
solarisation without strengths; those are iBOT's (Zhou et al. 2022, arXiv 2111.07832, its published code), with its
asymmetry: the first view is always blurred and never solarised, the second blurred in one of ten and solarised in one
of five. What differs from iBOT, and why:

* crops are square and there is no flip, because eq. 3 knows neither stretching nor mirroring;
* the paper does not say which way it turns: angles are drawn from `rotation` as they stand, here clockwise. Between two
  views the difference is symmetric either way;
* pixels beyond the image take the middle of the range, as `HandMIMImageProcessor` fills them;
* brightness, contrast, saturation and hue are one affine map of colour, clipped once: hue turns the chroma plane of YIQ
  rather than HSV's hexagon. As linear maps they commute, so iBOT's random order of the four has no meaning here.

Points are carried there and back by `losses_pretraining.warp_points` and `align_points`; the pixels are made by
`handmim/training/view_rendering.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses_pretraining import rotation_matrix
from ..synthesis.random import SampleRandom
from .augmentation import YIQ

VIEWS = 2
_DRAWS = 13  # uniform numbers a view


@dataclass(frozen=True)
class ViewAugmentation:
    """Strengths and probabilities; see the module for their sources.

    Args:
        size: Side of a view, pixels.
        area: Share of the image's area that a square crop takes; at most the largest square that fits.
        rotation: Range of the angle, degrees, clockwise; (-150, 150) turns both ways.
        jitter: Probability of changing the colours at all.
        brightness, contrast, saturation: Factors are uniform in 1 +- this.
        hue: Turns are uniform in +- this.
        grayscale: Probability.
        blur: Probability in each of the two views.
        blur_sigma: Range of the Gaussian's standard deviation, pixels of the view.
        solarise: Probability in each of the two views of inverting the brighter half of the range.

    Raises:
        ValueError: A value out of range.
    """

    size: int = 224
    area: tuple[float, float] = (0.08, 1.0)
    rotation: tuple[float, float] = (0.0, 150.0)
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur: tuple[float, float] = (1.0, 0.1)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise: tuple[float, float] = (0.0, 0.2)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 px, got {self.size}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be a range of shares in (0, 1], got {self.area}")
        if not -360 <= self.rotation[0] <= self.rotation[1] <= 360:
            raise ValueError(f"rotation must be a range of degrees in [-360, 360], got {self.rotation}")
        if not 0 <= self.blur_sigma[0] <= self.blur_sigma[1] <= self.size / 8:
            raise ValueError(f"blur_sigma must be a range in [0, size / 8] px, got {self.blur_sigma}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be in [0, 0.5] turns, got {self.hue}")
        for name in ("jitter", "brightness", "contrast", "saturation", "grayscale", "blur", "solarise"):
            value = getattr(self, name)
            if not all(0 <= share <= 1 for share in (value if isinstance(value, Sequence) else [value])):
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        for name in ("blur", "solarise"):
            if len(getattr(self, name)) != VIEWS:
                raise ValueError(f"{name} must give a probability for each of {VIEWS} views, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class ViewDraws:
    """What makes the views of a batch, on the CPU (their values decide which work is done).

    Attributes:
        transforms: (B, 2, 4) float32, (angle, gamma, a, b).
        appearance: (B, 2, 6) float32, (brightness, contrast, saturation, hue, sigma, solarise).
        sizes: (B, 2) float32, (width, height) of the images, pixels.
    """

    transforms: Tensor
    appearance: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.transforms)


# ---------------------------------------------------------------------------------------------------------------------
# Geometry


def normalised(pixels: Tensor, sizes: Tensor) -> Tensor:
    """Pixels (..., N, 2), (0, 0) the top-left pixel's centre -> p, for images of sizes (..., 2) = (width, height)."""
    return (pixels + 0.5 - sizes[..., None, :] / 2) / (sizes.amax(-1)[..., None, None] / 2)


def sampling_matrix(transforms: Tensor, sizes: Tensor, size: int) -> Tensor:
    """From view to image, both in pixels counted from the outer edge (the first pixel's centre is 0.5).

    Args:
        transforms: (..., 4).
        sizes: (..., 2), (width, height) of the image.
        size: Side of the view.

    Returns:
        (..., 2, 3) float64.
    """
    transforms, sizes = transforms.double(), sizes.double()
    unit = sizes.amax(-1)[..., None] / 2
    back = rotation_matrix(transforms[..., 0]).mT / transforms[..., 1, None, None] * unit[..., None]
    origin = transforms[..., 2:] / transforms[..., 1:2] * unit + sizes / 2 - back.sum(-1)  # of p' = (-1, -1)
    return torch.cat([back * (2 / size), origin[..., None]], -1)


def reductions(matrix: Tensor) -> Tensor:
    """How often to halve an image before it is sampled by `matrix` (..., 2, 3): (...) int64, 0 for enlargements."""
    footprint = matrix[..., :2, 0].norm(dim=-1)  # a rotation times a scale
    return footprint.log2().round().clamp_min(0).long()


# ---------------------------------------------------------------------------------------------------------------------
# Draws


def draw_views(augmentation: ViewAugmentation, seed: int, epoch: int, index: Tensor, sizes: Tensor) -> ViewDraws:
    """The views of images in an epoch; a function of (seed, epoch, index, view) and the image's size alone.

    Args:
        augmentation: Ranges and probabilities.
        seed: Of the run.
        epoch: Counted from 0.
        index: (B,) int64, the images' numbers in their collection.
        sizes: (B, 2), (width, height) of the images, pixels.
    """
    random = SampleRandom(seed, index).fork(f"epoch {epoch}")
    unit = torch.stack([random.fork(f"view {view}").uniform((_DRAWS,)) for view in range(VIEWS)], 1)  # (B, 2, 13)
    sizes = torch.as_tensor(sizes, dtype=torch.float32)
    draws = unit.unbind(-1)
    return ViewDraws(_draw_transforms(augmentation, draws[:4], sizes), _draw_appearance(augmentation, draws[4:]), sizes)


def _between(unit: Tensor, limits: tuple[float, float]) -> Tensor:
    return unit * (limits[1] - limits[0]) + limits[0]


def _draw_transforms(augmentation: ViewAugmentation, unit: Sequence[Tensor], sizes: Tensor) -> Tensor:
    share, across, down, turn = unit  # (B, 2) each
    extent = sizes[:, None, :]  # (B, 1, 2)
    side = (_between(share, augmentation.area) * extent.prod(-1)).sqrt().minimum(extent.amin(-1))
    # The crop lies inside the image: its centre leaves half a side on every edge.
    centre = (torch.stack([across, down], -1) - 0.5) * (extent - side[..., None])
    gamma = extent.amax(-1) / side
    offset = centre * (2 / side)[..., None]
    return torch.cat([torch.deg2rad(_between(turn, augmentation.rotation))[..., None], gamma[..., None], offset], -1)


def _draw_appearance(augmentation: ViewAugmentation, unit: Sequence[Tensor]) -> Tensor:
    jitter, brightness, contrast, saturation, hue, grayscale, blur, sigma, solarise = unit  # (B, 2) each
    changed = jitter < augmentation.jitter

    def factor(draw: Tensor, strength: float) -> Tensor:
        return torch.where(changed, 1 + strength * (2 * draw - 1), 1.0)

    colour = [
        factor(brightness, augmentation.brightness),
        factor(contrast, augmentation.contrast),
        torch.where(grayscale < augmentation.grayscale, 0.0, factor(saturation, augmentation.saturation)),
        torch.where(changed, augmentation.hue * (2 * hue - 1), 0.0),
    ]
    blurred = blur < torch.tensor(augmentation.blur)
    sigma = torch.where(blurred, _between(sigma, augmentation.blur_sigma), 0.0)
    return torch.stack([*colour, sigma, (solarise < torch.tensor(augmentation.solarise)).float()], -1)


@functools.cache
def _chroma() -> tuple[Tensor, Tensor, Tensor]:
    """Three (3, 3) maps of RGB: onto its luma, onto its chroma, and chroma turned by a quarter in the plane of YIQ."""
    yiq = torch.tensor(YIQ)
    yiq[1:] -= yiq[1:].mean(-1, keepdim=True)  # greys have no chroma, to the last digit
    quarter = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    grey = yiq[:1].expand(3, 3)
    turned = torch.linalg.solve(yiq, quarter @ yiq)
    return grey.float(), (torch.eye(3) - grey).float(), turned.float()


def colour_matrix(appearance: Tensor) -> tuple[Tensor, Tensor]:
    """The colours of a view as an affine map: `matrix @ rgb + gain * (luma of the view's mean colour)`.

    Args:
        appearance: (..., 6).

    Returns:
        matrix (..., 3, 3) and gain (...), the latter from contrast, which leaves the mean luma where it is.
    """
    brightness, contrast, saturation, hue = (column[..., None, None] for column in appearance[..., :4].unbind(-1))
    grey, chroma, turned = _chroma()
    angle = hue * (2 * math.pi)
    matrix = contrast * brightness * (grey + saturation * (angle.cos() * chroma + angle.sin() * turned))
    return matrix, (brightness - contrast * brightness)[..., 0, 0]
