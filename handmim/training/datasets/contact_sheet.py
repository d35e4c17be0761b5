"""A picture of a data set: crops of some samples with their labels drawn, so that a wrong frame or order is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ...atomic_files import atomic_file
from ...drawing import draw_keypoints
from ...errors import DataError
from ...geometry import affine_points, crop_affine
from .boxes import keypoint_box
from .files import read_image
from .label_checks import project_points
from .sample import HandReader, HandSample

VERTEX_COLOUR = (90, 220, 255)
MASK_COLOUR = (255, 240, 60)
BOX_COLOUR = (255, 255, 255)
CAPTION_HEIGHT = 14


def contact_sheet(samples: Sequence[HandSample], columns: int = 6, tile: int = 224, context: float = 1.6) -> np.ndarray:
    """A grid of crops around the hands with mask outline, vertices, given box and keypoints drawn.

    Args:
        samples: What to draw, row by row.
        columns: Tiles a row.
        tile: Side of a tile, pixels.
        context: Side of a crop over the longer side of the hand's box.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: There is no sample, or a picture or mask cannot be read or does not fit the picture.
    """
    if not samples:
        raise DataError("a contact sheet needs at least one sample")
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    sheet = np.full((rows * (tile + CAPTION_HEIGHT), columns * tile, 3), 24, np.uint8)
    for number, sample in enumerate(samples):
        top, left = number // columns * (tile + CAPTION_HEIGHT), number % columns * tile
        sheet[top : top + tile, left : left + tile] = draw_sample(sample, tile, context)
        caption = Image.new("RGB", (tile, CAPTION_HEIGHT), (24, 24, 24))
        text = f"{sample.id} {sample.handedness or ''}"
        ImageDraw.Draw(caption).text((3, 1), text.encode("ascii", "replace").decode(), fill=(235, 235, 235))
        sheet[top + tile : top + tile + CAPTION_HEIGHT, left : left + tile] = np.asarray(caption)
    return sheet


def spread_samples(reader: HandReader, count: int) -> list[HandSample]:
    """Samples at equal distances from the first to the last."""
    indices = np.linspace(0, len(reader) - 1, min(count, len(reader))).round().astype(int)
    return [reader[int(index)] for index in indices]


def save_contact_sheet(reader: HandReader, path: str | Path, count: int = 24, **options: int) -> Path:
    """Write the contact sheet of samples spread over a data set as a PNG file; options as in `contact_sheet`."""
    sheet = Image.fromarray(contact_sheet(spread_samples(reader, count), **options))
    with atomic_file(Path(path)) as file:
        sheet.save(file, "PNG")
    return Path(path)


def draw_sample(sample: HandSample, size: int, context: float = 1.6) -> np.ndarray:
    """(size, size, 3) uint8: one hand with what is labelled."""
    image = read_image(sample.image)
    affine = crop_affine(torch.from_numpy(_box(sample, image)), size, scale=context)
    crop = np.array(_warp(Image.fromarray(image), affine, size, Image.Resampling.BILINEAR))
    if sample.load_mask is not None:
        mask = sample.load_mask()
        if mask.shape != image.shape[:2]:
            raise DataError(f"the mask of sample {sample.id} has shape {mask.shape}, its image {image.shape[:2]}")
        mask = _warp(Image.fromarray(mask.astype(np.uint8) * 255), affine, size, Image.Resampling.NEAREST)
        crop[_outline(np.asarray(mask) > 127)] = MASK_COLOUR
    if sample.intrinsics is not None and "vertices" in sample.labels:
        _draw_dots(crop, _carried(project_points(sample.labels["vertices"], sample.intrinsics), affine))
    if sample.box is not None:
        corners = _carried(sample.box.reshape(2, 2), affine).clip(-size, 2 * size).reshape(4).tolist()
        picture = Image.fromarray(crop)
        ImageDraw.Draw(picture).rectangle(corners, outline=BOX_COLOUR)
        crop = np.array(picture)
    if "keypoints_2d" in sample.labels:
        crop = draw_keypoints(crop, _carried(sample.labels["keypoints_2d"], affine))
    return crop


def _box(sample: HandSample, image: np.ndarray) -> np.ndarray:
    """(4,) float32: the sample's box, its keypoints', or the whole picture."""
    box = sample.box
    if box is None and "keypoints_2d" in sample.labels:
        box = keypoint_box(sample.labels["keypoints_2d"])
    if box is None or not np.isfinite(box).all():
        box = np.array([0, 0, image.shape[1] - 1, image.shape[0] - 1])
    return np.asarray(box, np.float32)


def _warp(picture: Image.Image, affine: torch.Tensor, size: int, resampling: Image.Resampling) -> Image.Image:
    """The crop of a picture. Pillow asks where an output pixel comes from, with corners, not centres, at integers."""
    zoom, shift = float(affine[0, 0]), affine[:, 2].tolist()
    x, y = (0.5 - (0.5 + offset) / zoom for offset in shift)
    return picture.transform((size, size), Image.Transform.AFFINE, (1 / zoom, 0, x, 0, 1 / zoom, y), resampling)


def _carried(points: np.ndarray, affine: torch.Tensor) -> np.ndarray:
    return affine_points(affine, torch.from_numpy(np.asarray(points, np.float32))).numpy()


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask (H, W) with a neighbour outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _draw_dots(crop: np.ndarray, points: np.ndarray) -> None:
    """A mixed pixel for each point (P, 2) inside the picture, in place."""
    points = points[np.isfinite(points).all(1)]
    x, y = np.round(points[(np.abs(points) < 1e6).all(1)]).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < crop.shape[1]) & (y < crop.shape[0])
    x, y = x[inside], y[inside]
    crop[y, x] = (crop[y, x] // 2 + np.array(VERTEX_COLOUR, np.uint8) // 2).astype(np.uint8)
