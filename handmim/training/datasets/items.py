"""What a training data set yields, and how items become a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

# One right hand: sample_id (str), pixel_values (3, S, S) float32 in [-1, 1], intrinsics (3, 3) of the crop in pixels,
# labels: any of those of `HandMIMForMeshEstimation.forward`, without the batch dimension. Or one that is to be rendered
# on the training device: sample_id and unrendered, a pair (source, number), see `synthetic.SyntheticHands`.
Item = dict[str, Any]


class HandItems(Dataset[Item]):
    """A data set of right hands whose items are functions of (index, epoch).

    The epoch is kept in shared memory: persistent workers of a ``DataLoader`` hold copies of this object, and would
    otherwise stay in the epoch they were started in.
    """

    def __init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The current epoch, in every process."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Called by ``Trainer`` before each epoch."""
        self._epoch.fill_(epoch)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def visit(self, indices: Sequence[int], epochs: Sequence[int]) -> list[Item]:
        """Items by index, each as it is in its own epoch."""

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Items of the current epoch; a ``DataLoader`` asks for whole batches."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"index must be in [0, {len(self)}), got {index}")
        return self.visit(indices, [self.epoch] * len(indices))


def collate_hands(items: Sequence[Item]) -> dict[str, Any]:
    """Stack items into what ``forward`` takes; labels that only some of them have are NaN for the others.

    Args:
        items: See `HandItems`; all with intrinsics, or all without. Every label that occurs must have one shape.

    Returns:
        pixel_values (B, 3, S, S), intrinsics (B, 3, 3), labels {name: (B, ...)}, sample_ids (list of B str). Where some
        items are to be rendered on the device: these fields of the others, if there are any; unrendered
        {source: list of numbers}; sample_ids of the others first, then of each source (`render_on_device`).

    Raises:
        ValueError: Labels of two shapes, as those of two hand models.
    """
    ready = [item for item in items if "unrendered" not in item]
    batch = _stack(ready) if ready else {"sample_ids": []}
    waiting: dict[str, list[Item]] = {}
    for item in items:
        if "unrendered" in item:
            waiting.setdefault(item["unrendered"][0], []).append(item)
    if waiting:
        batch["unrendered"] = {source: [item["unrendered"][1] for item in some] for source, some in waiting.items()}
        batch["sample_ids"] += [item["sample_id"] for some in waiting.values() for item in some]
    return batch


def join_batches(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batches one after the other: pixel_values, intrinsics and labels, as of `collate_hands`.

    Raises:
        ValueError: Labels of two shapes, as those of two hand models.
    """
    joined = {name: torch.cat([part[name] for part in parts]) for name in ("pixel_values", "intrinsics")}
    joined["labels"] = {}
    for name in sorted({name for part in parts for name in part["labels"]}):
        present = next(part["labels"][name] for part in parts if name in part["labels"])
        columns = []
        for part in parts:
            value = part["labels"].get(name)
            if value is None:
                value = present.new_full(
                    (len(part["pixel_values"]), *present.shape[1:]), torch.nan, dtype=torch.float32
                )
            elif value.shape[1:] != present.shape[1:]:
                raise ValueError(_two_shapes(name, "one data set", value.shape[1:], present.shape[1:]))
            columns.append(value)
        joined["labels"][name] = torch.cat(columns)
    return joined


def _stack(items: Sequence[Item]) -> dict[str, Any]:
    """Items that hold their pixels."""
    names = sorted({name for item in items for name in item["labels"]})
    cameras = {"intrinsics": torch.stack([item["intrinsics"] for item in items])} if "intrinsics" in items[0] else {}
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        **cameras,
        "labels": {name: _stack_label(name, items) for name in names},
        "sample_ids": [_name(item) for item in items],
    }


def _name(item: Item) -> str:
    """Of a sample; transformers' Trainer drops what `forward` does not take, unless remove_unused_columns=False."""
    return item.get("sample_id", "without a name")


def _stack_label(name: str, items: Sequence[Item]) -> Tensor:
    values: list[Tensor | None] = [item["labels"].get(name) for item in items]
    present = next(value for value in values if value is not None)
    for item, value in zip(items, values, strict=True):
        if value is not None and value.shape != present.shape:
            raise ValueError(_two_shapes(name, f"sample {_name(item)}", value.shape, present.shape))
    if all(value is not None for value in values):
        return torch.stack(values)
    missing = torch.full_like(present, torch.nan, dtype=torch.float32)
    return torch.stack([missing if value is None else value.float() for value in values])


def _two_shapes(name: str, where: str, shape: torch.Size, other: torch.Size) -> str:
    return (
        f"label {name} of {where} has shape {tuple(shape)}, another of its batch has {tuple(other)}: data sets that "
        "are mixed must share the hand model, or leave this label out"
    )
