"""Photographed hands before other backgrounds: hand and arm, cut out, over what the generator draws or other photos.

A network that has seen each of a few thousand photographs a hundred times knows them by their backgrounds.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...synthesis.backgrounds import BackgroundBank, compose_background, photo_bank
from ...synthesis.photos import photo_tiles
from ...synthesis.random import SampleRandom
from ..augmentation import GREY

_DRAWN = 64  # pictures in the bank, each of which gives many backgrounds


class NewBackgrounds:
    """What may lie behind a cut-out, a function of (seed, epoch, index).

    Args:
        share: Of the cut-outs, shown before another background.
        size: Side S of the crops, pixels.
        seed: Of all draws.
        photos: Folder of photos without hands, shown behind half of these; None: drawn backgrounds only.

    Raises:
        ValueError: A share outside [0, 1].
        ImageError: The folder holds no picture, or one that cannot be read.
    """

    def __init__(self, share: float, size: int, seed: int, photos: str | Path | None = None) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"new_backgrounds must be a share in [0, 1], got {share}")
        self.share, self.size, self.seed = share, size, seed
        self.bank = BackgroundBank(seed, _DRAWN)
        self.photos = None if photos is None else _photos(str(photos))

    def draw(self, epoch: int, index: int) -> np.ndarray | None:
        """(S, S, 3) uint8, or None where the sample keeps its own background."""
        random = SampleRandom(self.seed, torch.tensor([index])).fork(f"new background {epoch}")
        if not bool(random.bernoulli(self.share)):
            return None
        linear = compose_background(random, self.bank, self.size, self.photos)
        return linear[0].sqrt_().mul_(255).clamp_(0, 255).round_().to(torch.uint8).permute(1, 2, 0).numpy()


@functools.lru_cache(maxsize=4)
def _photos(folder: str) -> Tensor:
    """Packed tiles of a folder's photos, once for all data sets of a run."""
    return photo_bank(photo_tiles(folder))


def lay_over(background: np.ndarray, crop: np.ndarray, foreground: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """A cut-out before another background.

    Args:
        background, crop: (S, S, 3) uint8.
        foreground: (S, S) uint8, 255 where the crop's own pixels stay. A pixel that is half covered shows nothing of
            them, since they show as much of what was behind.
        inside: (S, S) uint8, 255 within the photograph: beyond its border all is grey, as it was.

    Returns:
        (S, S, 3) uint8.
    """
    cover = Image.fromarray(np.clip(2 * foreground.astype(np.int16) - 255, 0, 255).astype(np.uint8))
    shown = Image.composite(Image.fromarray(crop), Image.fromarray(background), cover)
    beyond = Image.new("RGB", shown.size, GREY)
    return np.array(Image.composite(shown, beyond, Image.fromarray(inside)))
