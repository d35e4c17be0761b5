"""Synthetic hands, rendered as they are asked for: an endless data set that takes no disk."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from handmim.synthesis import generate

PIXEL_MEAN = PIXEL_STD = 0.5


class SyntheticHands(Dataset):
    """Sample ``i`` is the synthetic image of (seed, i): the same in any order, process or batch.

    A ``DataLoader`` asks for whole batches (``__getitems__``), because rendering is far cheaper by the batch; pass
    :func:`already_collated` as its ``collate_fn`` (``data_collator`` of a ``Trainer``).

    Args:
        length: Number of samples.
        seed: Of the images; sets with different seeds share none.
        size: Side of the images, pixels.
        negatives: Share of pictures without a right hand, which teach the score; see ``handmim.synthesis.generate``.
        first: Index of the first sample, to hold out a range of a seed.
    """

    def __init__(self, length: int, *, seed: int, size: int, negatives: float | None = None, first: int = 0) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.length, self.seed, self.size, self.first = length, seed, size, first
        self.options = {} if negatives is None else {"negatives": negatives}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample, without the batch dimension."""
        if not 0 <= index < self.length:
            raise IndexError(f"index must be in [0, {self.length}), got {index}")
        batch = self.__getitems__([index])
        labels = {name: value[0] for name, value in batch["labels"].items()}
        return {"pixel_values": batch["pixel_values"][0], "intrinsics": batch["intrinsics"][0], "labels": labels}

    @torch.no_grad()
    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """A batch: pixel_values (B, 3, S, S) in [-1, 1], intrinsics (B, 3, 3) crop px, labels as in forward."""
        index = torch.tensor(indices, dtype=torch.int64) + self.first
        batch = generate(self.seed, index, size=self.size, **self.options)
        return {
            "pixel_values": normalise(batch.images),
            "intrinsics": batch.intrinsics,
            "labels": batch.labels,
        }


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in [-1, 1], as ``HandMIMImageProcessor`` does by default."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(PIXEL_MEAN).div_(PIXEL_STD)


def already_collated(batch: dict[str, Any]) -> dict[str, Any]:
    """The ``collate_fn`` for data sets whose ``__getitems__`` returns a batch."""
    return batch
