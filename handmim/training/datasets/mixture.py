"""Several data sets as one, in fixed shares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..augmentation import random_generator
from .items import HandItems, Item


class Mixture(HandItems):
    """Draws every data set in proportion to its weight, each without repeats until it is used up.

    Of the items of an epoch a fixed block belongs to each data set, in size its weight. Over the epochs a block walks
    through its data set in a new random order a pass, and goes on where the last epoch stopped: a large data set with a
    small weight is still seen whole, a small one with a large weight is repeated evenly. Which sample an index is
    depends on (seed, epoch, index) alone; a shuffling sampler mixes the blocks.

    A batch is fetched by one call a data set, so that rendered ones render by the batch.

    Args:
        datasets: What is mixed.
        weights: Relative shares, positive; None: the lengths, so that an epoch sees every sample once.
        length: Items of an epoch; None: all data sets' samples together.
        seed: Of the orders.

    Raises:
        ValueError: A weight that is not positive, or more or fewer of them than data sets.
    """

    def __init__(
        self,
        datasets: Sequence[HandItems],
        weights: Sequence[float] | None = None,
        *,
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = [len(dataset) for dataset in datasets]
        weights = sizes if weights is None else list(weights)
        if len(weights) != len(sizes) or not sizes or not all(0 < weight < np.inf for weight in weights):
            raise ValueError(f"weights must be a positive number for each of the {len(sizes)} data sets, got {weights}")
        self.datasets, self.seed = list(datasets), seed
        self.length = sum(sizes) if length is None else length
        self.counts = shares(weights, self.length)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self) -> int:
        return self.length

    def locate(self, index: int, epoch: int) -> tuple[int, int, int]:
        """Which data set, which of its samples, and for the how manieth time, an index is in an epoch."""
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        visit = epoch * int(self.counts[which]) + index - int(self.starts[which])
        size = len(self.datasets[which])
        return which, int(_order(self.seed, which, visit // size, size)[visit % size]), visit // size

    def visit(self, indices: Sequence[int], epochs: Sequence[int]) -> list[Item]:
        places = [self.locate(index, epoch) for index, epoch in zip(indices, epochs, strict=True)]
        items: list[Item] = [{}] * len(places)
        for which, dataset in enumerate(self.datasets):
            rows = [row for row, place in enumerate(places) if place[0] == which]
            if rows:
                fetched = dataset.visit([places[row][1] for row in rows], [places[row][2] for row in rows])
                for row, item in zip(rows, fetched, strict=True):
                    items[row] = item
        return items


def shares(weights: Sequence[float], total: int) -> np.ndarray:
    """(N,) int64 that sum to `total`, in proportion to the weights, by largest remainders."""
    exact = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64) * total
    counts = np.floor(exact).astype(np.int64)
    most = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[most] += 1
    return counts


@lru_cache(maxsize=32)
def _order(seed: int, which: int, visit: int, size: int) -> np.ndarray:
    """(size,) the order of a pass over a data set; 32 bits suffice below four thousand million samples."""
    order = np.arange(size, dtype=np.uint32)
    random_generator(seed, visit, which, stream=1).shuffle(order)
    return order
