"""Synthetic hands, rendered as they are asked for: an endless data set that takes no disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...synthesis import generate
from ...synthesis.photos import photo_tiles
from .items import HandItems, Item, join_batches
from .rendering_options import check_series, variety_of

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
        render: "worker": items hold their pixels; "device": they only name them, and what trains renders whole batches
            where it trains (`render_on_device`), which a GPU does far faster than a loader's workers.
        source: What "device" items call this data set; those of one run differ.
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
        render: Literal["worker", "device"] = "worker",
        source: str = "synthetic",
    ) -> None:
        super().__init__()
        check_series(length, seed, size, first)
        if render not in ("worker", "device"):
            raise ValueError(f"render must be 'worker' or 'device', got {render!r}")
        self.at_device, self.source = render == "device", source
        self.length, self.seed, self.size, self.first = length, seed, size, first
        self.labels, self.new_each_epoch = labels, new_each_epoch
        self.options: dict[str, Any] = {"variety": variety_of(variety, negatives)}
        if background_photos is not None:
            self.options["background_photos"] = photo_tiles(background_photos)

    def __len__(self) -> int:
        return self.length

    @torch.no_grad()
    def visit(self, indices: Sequence[int], epochs: Sequence[int]) -> list[Item]:
        passes = torch.tensor(epochs, dtype=torch.int64) if self.new_each_epoch else 0
        index = torch.tensor(indices, dtype=torch.int64) + self.first + passes * self.length
        names = [{"sample_id": f"synthetic {self.seed}/{number}"} for number in index.tolist()]
        if self.at_device:
            return [
                name | {"unrendered": (self.source, number)} for name, number in zip(names, index.tolist(), strict=True)
            ]
        batch = self.render(index)
        return [
            name
            | {field: batch[field][row] for field in ("pixel_values", "intrinsics")}
            | {"labels": {label: value[row] for label, value in batch["labels"].items()}}
            for row, name in enumerate(names)
        ]

    def render(self, index: Tensor | Sequence[int], device: torch.device | str = "cpu") -> dict[str, Any]:
        """The images of (seed, index) as a batch on a device: pixel_values, intrinsics, labels; see `HandItems`."""
        index = torch.as_tensor(index, dtype=torch.int64)
        batch = generate(self.seed, index, size=self.size, device=device, **self.options)
        # What inference mode made cannot be saved for a backward pass; copies can.
        labels = {name: value.clone() for name, value in batch.labels.items() if self._wants(name)}
        return {"pixel_values": normalise(batch.images), "intrinsics": batch.intrinsics.clone(), "labels": labels}

    def _wants(self, name: str) -> bool:
        return name == "hand" or (name not in EXTRA_LABELS if self.labels is None else name in self.labels)


def sources(dataset: Any) -> dict[str, SyntheticHands]:
    """The data sets whose items are rendered on the device, by what the items call them.

    Args:
        dataset: A data set, or a mixture of some.

    Raises:
        ValueError: Two of one name.
    """
    found: dict[str, SyntheticHands] = {}
    for part in getattr(dataset, "datasets", [dataset]):
        if isinstance(part, SyntheticHands) and part.at_device:
            if part.source in found:
                raise ValueError(f"two data sets that are rendered on the device are called {part.source!r}")
            found[part.source] = part
    return found


def render_on_device(
    batch: Mapping[str, Any], known: Mapping[str, SyntheticHands], device: torch.device | str
) -> dict[str, Any]:
    """A batch of `collate_hands` whose unrendered items have been rendered, behind the others.

    Args:
        batch: Its tensors are on the device.
        known: See `sources`.
        device: Where to render.

    Raises:
        ValueError: Labels of two shapes, as those of two hand models.
    """
    ready = [{name: batch[name] for name in ("pixel_values", "intrinsics", "labels")}] if "labels" in batch else []
    drawn = [known[source].render(numbers, device) for source, numbers in batch["unrendered"].items()]
    return join_batches([*ready, *drawn]) | {"sample_ids": batch["sample_ids"]}


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in [-1, 1], as ``HandMIMImageProcessor`` does by default."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)
