"""Synthetic hands, rendered as they are asked for: an endless data set that takes no disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...synthesis import generate
from ...synthesis.photos import photo_tiles
from ...synthesis.variety import find_variety
from .items import HandItems, Item

# What the generator gives beside what forward takes.
EXTRA_LABELS = ("mask", "visibility")


class SyntheticHands(HandItems):
    """Sample ``i`` is the synthetic image of (seed, i): the same in any order, process or batch, and in every epoch.

    Rendering is far cheaper by the batch: a ``DataLoader`` asks for whole ones (``__getitems__``).

    Args:
        length: Number of samples.
        seed: Of the images; sets with different seeds share none.
        size: Side of the images, pixels.
        negatives: Share of pictures without a right hand, which teach the score; see ``handmim.synthesis.generate``.
        first: Index of the first sample, to hold out a range of a seed.
        labels: Which labels to yield; None takes all but the mask. ``hand`` is always there.
        background_photos: Folder of photos without hands, shown behind some of the hands; None: patterns only.
        variety: "full", or "plain" for hands held up before an ideal camera, or one of them with changes, as
            ``{base: full, things: 0.0}``; see ``handmim.synthesis.variety``.
        new_each_epoch: Sample ``i`` of epoch ``e`` is the image of (seed, e * length + i), so that none returns.
    """

    name = "synthetic"
    hand_model = "open"

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        size: int,
        negatives: float | None = None,
        first: int = 0,
        labels: Sequence[str] | None = None,
        background_photos: str | Path | None = None,
        new_each_epoch: bool = False,
        variety: str | Mapping[str, Any] = "full",
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.length, self.seed, self.size, self.first = length, seed, size, first
        self.labels, self.new_each_epoch = labels, new_each_epoch
        self.options: dict[str, Any] = {"negatives": negatives, "variety": find_variety(variety)}
        if background_photos is not None:
            self.options["background_photos"] = photo_tiles(background_photos)

    def __len__(self) -> int:
        return self.length

    @torch.no_grad()
    def visit(self, indices: Sequence[int], epochs: Sequence[int]) -> list[Item]:
        passes = torch.tensor(epochs, dtype=torch.int64) if self.new_each_epoch else 0
        index = torch.tensor(indices, dtype=torch.int64) + self.first + passes * self.length
        batch = generate(self.seed, index, size=self.size, **self.options)
        labels = {name: value for name, value in batch.labels.items() if self._wants(name)}
        columns = zip(index.tolist(), normalise(batch.images), batch.intrinsics, strict=True)
        return [
            {
                "sample_id": f"synthetic {self.seed}/{number}",
                "pixel_values": pixels,
                "intrinsics": intrinsics,
                "labels": {name: value[row] for name, value in labels.items()},
            }
            for row, (number, pixels, intrinsics) in enumerate(columns)
        ]

    def _wants(self, name: str) -> bool:
        return name == "hand" or (name not in EXTRA_LABELS if self.labels is None else name in self.labels)


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in [-1, 1], as ``HandMIMImageProcessor`` does by default."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)
