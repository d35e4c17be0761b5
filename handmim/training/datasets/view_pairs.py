"""The data set of pre-training: two views of every picture of a collection, their transforms, and masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import DataError
from ..view_rendering import FILL, render_on_cpu
from ..views import ViewAugmentation, draw_views
from .images import DEFAULT_SIZE, ImageCollection, shrink

logger = logging.getLogger(__name__)

MAX_SUBSTITUTES = 16  # pictures tried in place of a broken one

Masks = Callable[[int, Tensor], Tensor]


class ViewPairs(Dataset[dict[str, Tensor]]):
    """Two augmented views a picture; every number is a function of (seed, epoch, index, view).

    Pass `collate_views` as the `collate_fn` of a `DataLoader`: batches are made whole.

    An item (batched along a new first dimension) holds

    * transforms (2, 4) float32: (angle, gamma, a, b) of eq. 3, see `handmim/training/views.py`;
    * bool_masked_pos (2, N) bool, True where masked, if there are `masks`;
    * index () int64, if `with_index`;
    * render="worker": pixel_values (2, 3, S, S) uint8;
    * render="device": images (P, P, 3) uint8, the picture at the top left; sizes (2,), its width and height;
      appearance (2, 6). `view_rendering.finish_on_device` turns them into pixel_values on a GPU.

    Args:
        images: The pictures.
        augmentation: Of the views.
        seed: Of the run.
        masks: (epoch, index (B,) int64) -> (B, 2, N) bool, such as `handmim.training.masking.MaskGenerator`.
        render: Where the pixels of the views are made.
        source_size: P; larger pictures are shrunk to it. Only for render="device".
        broken: What to do about a picture that cannot be read: "skip" logs its name once a process, counts it and
            takes the next that can be read (always the same one, so that a resumed run sees the same); "fatal" raises.
        with_index: Whether items tell their index.

    Raises:
        ValueError: An unknown word.
        DataError: While reading: a broken picture (by "fatal"), or too many in a row (by "skip").
    """

    def __init__(
        self,
        images: ImageCollection,
        augmentation: ViewAugmentation | None = None,
        *,
        seed: int,
        masks: Masks | None = None,
        render: Literal["worker", "device"] = "worker",
        source_size: int = DEFAULT_SIZE,
        broken: Literal["skip", "fatal"] = "skip",
        with_index: bool = False,
    ) -> None:
        if render not in ("worker", "device"):
            raise ValueError(f"render must be 'worker' or 'device', got {render!r}")
        if broken not in ("skip", "fatal"):
            raise ValueError(f"broken must be 'skip' or 'fatal', got {broken!r}")
        self.images, self.augmentation, self.seed = images, augmentation or ViewAugmentation(), seed
        self.masks, self.render, self.source_size = masks, render, source_size
        self.broken, self.with_index = broken, with_index
        # In shared memory: persistent workers hold copies of this object, yet follow the epoch and add to the count.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._skipped = torch.zeros((), dtype=torch.int64).share_memory_()
        self._told: set[int] = set()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def epoch(self) -> int:
        """The current epoch, in every process."""
        return int(self._epoch)

    @property
    def skipped(self) -> int:
        """How often a broken picture was met so far, in all processes (about: they count without a lock)."""
        return int(self._skipped)

    def set_epoch(self, epoch: int) -> None:
        """Called by ``Trainer`` before each epoch."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch; a ``DataLoader`` asks for it."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"index must be in [0, {len(self)}), got {index}")
        epoch, index = self.epoch, torch.tensor(indices, dtype=torch.int64)
        pictures = self._read(indices)
        if self.render == "device":
            pictures = [shrink(picture, self.source_size) for picture in pictures]
        sizes = torch.tensor([(picture.shape[1], picture.shape[0]) for picture in pictures], dtype=torch.float32)
        draws = draw_views(self.augmentation, self.seed, epoch, index, sizes)
        batch = {"transforms": draws.transforms}
        if self.render == "worker":
            batch["pixel_values"] = render_on_cpu(pictures, draws, self.augmentation.size)
        else:
            images = pad(pictures, self.source_size)
            batch |= {"images": images, "sizes": draws.sizes, "appearance": draws.appearance}
        if self.masks is not None:
            batch["bool_masked_pos"] = self.masks(epoch, index)
        if self.with_index:
            batch["index"] = index
        return batch

    def _read(self, indices: Sequence[int]) -> list[np.ndarray]:
        found = self.images.read_many(indices)
        return [
            self._substitute(index, result) if isinstance(result, DataError) else result
            for index, result in zip(indices, found, strict=True)
        ]

    def _substitute(self, index: int, error: DataError) -> np.ndarray:
        if self.broken == "fatal":
            raise error
        tried = 0
        result: np.ndarray | DataError = error
        while isinstance(result, DataError):
            self._skipped += 1
            if index not in self._told:
                self._told.add(index)
                logger.warning("skipped: %s", result)
            tried += 1
            if tried > min(MAX_SUBSTITUTES, len(self)):
                raise DataError(f"{tried} pictures in a row cannot be read, the last: {result}") from result
            index = (index + 1) % len(self)
            (result,) = self.images.read_many([index])
        return result


def pad(pictures: Sequence[np.ndarray], size: int) -> Tensor:
    """B arrays (h, w, 3) uint8 no larger than `size` -> (B, size, size, 3), each at the top left of `FILL`."""
    out = torch.full((len(pictures), size, size, 3), FILL, dtype=torch.uint8)
    for place, picture in zip(out.numpy(), pictures, strict=True):
        place[: picture.shape[0], : picture.shape[1]] = picture
    return out


def collate_views(items: dict[str, Tensor] | Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """Batches pass as they are; items (where a loader asks for them one by one) are stacked."""
    if isinstance(items, dict):
        return items
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
