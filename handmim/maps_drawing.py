"""Pictures of what a HIU-DMTL network sees: mask outlines, heat maps and part orientation fields, for people.

Images are uint8 RGB arrays (H, W, 3); pixel coordinates as in `rendering`, maps and their boxes as in `hand_maps`.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .drawing import FINGER_COLORS, Color
from .hand_maps import pixels_inside, sample_map
from .image_processing_handmim import square_crop

PANEL_SIZE = 384
OUTLINE_COLOR: Color = (255, 232, 64)
WRIST_COLOR: Color = (250, 250, 250)
# How bright the crop stays behind maps; it also loses its colours, which are theirs then.
_DIMMED = 0.55
_GREY = (0.30, 0.59, 0.11)
# Samples a side that an outline is found with: more do not show.
_OUTLINE_SAMPLES = 1024
# Share of white (towards the viewer) or black (away) at most, so that the hue stays.
_DEPTH_TINT = 0.6


def draw_mask_outline(
    image: np.ndarray, mask: np.ndarray, box: np.ndarray, threshold: float = 0.5, color: Color = OUTLINE_COLOR
) -> np.ndarray:
    """Draw the edge of a mask, antialiased; the picture's own border is no edge.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (h, w) probability that a cell is hand.
        box: (4,) xyxy, image pixels, that the mask covers.
        threshold: Probability from which a cell is hand.
        color: RGB in [0, 255].

    Returns:
        (H, W, 3) uint8. The input is not changed.
    """
    image = np.array(image)
    height, width = image.shape[:2]
    left, top, right, bottom = pixels_inside(box, width, height)
    wide, tall = right - left, bottom - top
    if not wide or not tall:
        return image
    scale = min(4.0, _OUTLINE_SAMPLES / max(wide, tall))
    columns, rows = max(1, round(wide * scale)), max(1, round(tall * scale))
    x = left - 0.5 + (np.arange(columns) + 0.5) * (wide / columns)
    y = top - 0.5 + (np.arange(rows) + 0.5) * (tall / rows)
    inside = torch.from_numpy(sample_map(mask, box, x, y) >= threshold).float()[None, None]
    reach = max(1, round(max(1.5, min(height, width) / 130) * scale / 2))
    edge = _grown(inside, reach) + _grown(-inside, reach)  # 1 where both sides are near
    line = Image.fromarray((edge[0, 0] * 255).byte().numpy())
    cover = np.asarray(line.resize((wide, tall), Image.Resampling.BOX))
    region, touched = image[top:bottom, left:right], cover > 0
    region[touched] = _over(region[touched], np.float32(color), cover[touched] / np.float32(255))
    return image


def _grown(picture: torch.Tensor, reach: int) -> torch.Tensor:
    """The largest value within `reach` pixels of each in a picture (1, 1, H, W); columns, then rows, for speed."""
    columns = F.max_pool2d(picture, (2 * reach + 1, 1), 1, (reach, 0))
    return F.max_pool2d(columns, (1, 2 * reach + 1), 1, (0, reach))


def heatmap_picture(
    image: np.ndarray,
    heatmaps: np.ndarray,
    box: np.ndarray,
    size: int = PANEL_SIZE,
    colors: Sequence[Color] = FINGER_COLORS,
) -> np.ndarray:
    """Heat maps as coloured blobs over the crop: a colour a finger, white the wrist, as strong as they are high.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmaps: (21, h, w), height about 1 at a keypoint.
        box: (4,) xyxy, image pixels, that the maps cover.
        size: Side of the result, pixels.
        colors: RGB in [0, 255] of thumb, index, middle, ring and little finger.

    Returns:
        (size, size, 3) uint8.
    """
    height = _enlarged(np.nan_to_num(heatmaps), size).clip(0, 1)
    fingers = np.stack([height[0], *(height[4 * i + 1 : 4 * i + 5].max(0) for i in range(5))])  # (6, size, size)
    shares = fingers / np.maximum(fingers.sum(0), 1e-6)
    paint = np.einsum("fyx,fc->yxc", shares, np.float32([WRIST_COLOR, *colors]))
    return _over(_backdrop(image, box, size), paint, fingers.max(0))


def pof_picture(image: np.ndarray, pof: np.ndarray, box: np.ndarray, size: int = PANEL_SIZE) -> np.ndarray:
    """Part orientation fields over the crop: the hue is the direction, of the strongest bone where several lie.

    Paler is towards the viewer, darker away from the viewer; the ring in the corner says which hue points where.

    Args:
        image: (H, W, 3) uint8 RGB.
        pof: (20, 3, h, w), direction in the picture (x right, y down), and z of the unit direction in space.
        box: (4,) xyxy, image pixels, that the maps cover.
        size: Side of the result, pixels.

    Returns:
        (size, size, 3) uint8.
    """
    pof = np.nan_to_num(pof)
    cells_high, cells_wide = pof.shape[-2:]
    strongest = np.square(pof[:, :2]).sum(1).argmax(0)
    field = pof[strongest, :, np.arange(cells_high)[:, None], np.arange(cells_wide)].transpose(2, 0, 1)
    # Cells stay cells: between two bones that point in opposite directions there is no direction.
    index = (np.arange(size) * cells_high // size)[:, None], np.arange(size) * cells_wide // size
    field = field[:, *index]
    strength = np.hypot(field[0], field[1]).clip(0, 1)
    drawn = _over(_backdrop(image, box, size), direction_colors(field), strength)
    return _with_ring(drawn)


def direction_colors(field: np.ndarray) -> np.ndarray:
    """Vectors (3, ...) -> RGB (..., 3) float32 in [0, 255]: red to the right, then, clockwise as seen, the rainbow."""
    hues = np.float32([colorsys.hsv_to_rgb(i / 360, 1, 1) for i in range(360)]) * 255
    degrees = np.rint(np.degrees(np.arctan2(field[1], field[0]))).astype(int) % 360
    tint = _DEPTH_TINT * np.clip(field[2], -1, 1)[..., None]
    rgb = hues[degrees]
    return np.where(tint < 0, rgb - tint * (255 - rgb), rgb * (1 - tint))


def _with_ring(picture: np.ndarray) -> np.ndarray:
    """The key to the hues in the bottom-left corner."""
    size = len(picture)
    radius = size // 12
    centre = radius + size // 40
    y, x = np.mgrid[:size, :size].astype(np.float32)
    vector = np.stack([x - centre, y - (size - 1 - centre), np.zeros_like(x)])
    distance = np.hypot(vector[0], vector[1])
    edge = np.minimum(radius - distance, distance - 0.55 * radius)
    return _over(picture.astype(np.float32), direction_colors(vector), (edge + 0.5).clip(0, 1))


def _backdrop(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The crop (size, size, 3), grey and dimmed, float32 in [0, 255]."""
    zoom = size / (box[2:] - box[:2]).astype(np.float64)
    affine = np.column_stack([np.diag(zoom), -0.5 - (box[:2]) * zoom])
    grey = np.tensordot(_GREY, square_crop(image, affine, size, (64.0, 64.0, 64.0)), 1)
    return np.repeat(_DIMMED * grey[..., None], 3, -1).astype(np.float32)


def _enlarged(maps: np.ndarray, size: int) -> np.ndarray:
    """Maps (N, h, w) -> (N, size, size), bilinear."""
    pixels = np.arange(size)
    return sample_map(maps, np.array([-0.5, -0.5, size - 0.5, size - 0.5]), pixels, pixels)


def _over(picture: np.ndarray, paint: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Paint (..., 3) laid over a picture (..., 3), as thick as `cover` (...) in [0, 1]; uint8."""
    mixed = picture + cover[..., None] * (paint - picture)
    return np.rint(mixed).clip(0, 255).astype(np.uint8)
