"""Photographs as backgrounds: square tiles out of a folder of pictures without hands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ImageError
from ..images import IMAGE_SUFFIXES, load_image
from .backgrounds import BANK_SIDE

TILES = 8  # of each photo; a few photos then give many backgrounds
SMALLEST = 0.4  # side of a tile over the photo's shorter side


def photo_tiles(folder: str | Path, tiles: int = TILES, seed: int = 0) -> Tensor:
    """Random square parts of every photo below a folder; the same for the same photos and seed.

    Args:
        folder: Holds photos that show no hands: a hand behind the labelled one would be unlabelled.
        tiles: Parts of each photo.
        seed: Of the parts.

    Returns:
        (N, BANK_SIDE, BANK_SIDE, 3) uint8, for `generate(background_photos=...)`.

    Raises:
        ImageError: The folder holds no picture, or one that cannot be read.
    """
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ImageError(f"{folder} holds no image below it; give a folder of photos for the backgrounds")
    parts = []
    for number, path in enumerate(paths):
        pixels = load_image(path).pixels
        random = np.random.default_rng([seed, number])
        shorter = min(pixels.shape[:2])
        for side in (shorter * random.uniform(SMALLEST, 1.0, tiles)).astype(int).clip(1):
            row, column = (random.integers(0, length - side + 1) for length in pixels.shape[:2])
            part = Image.fromarray(pixels[row : row + side, column : column + side])
            parts.append(np.asarray(part.resize((BANK_SIDE, BANK_SIDE), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(parts))
