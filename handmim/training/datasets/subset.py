"""Part of a data set, the same in every run: shares of the labels, as in HIU-DMTL's figure 10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..augmentation import random_generator
from .sample import HandReader, HandSample

# Which samples come first is fixed: the same share is the same samples for every seed of a run.
ORDER_STREAM = 2


class Subset(Sequence[HandSample]):
    """Samples from one share of a data set to another, in a fixed random order of which each share is a piece.

    The part [0, 0.1] lies within [0, 0.2]; [0, 0.1] and [0.1, 1] share no sample and are together the whole.

    Args:
        reader: The data set; its attributes are this one's, too.
        start, stop: Shares, 0 <= start < stop <= 1.

    Raises:
        ValueError: Other shares, or ones so near that no sample lies between.
    """

    def __init__(self, reader: HandReader, start: float, stop: float) -> None:
        if not 0 <= start < stop <= 1:
            raise ValueError(f"part must be two shares, 0 <= start < stop <= 1, got [{start}, {stop}]")
        order = np.arange(len(reader))
        random_generator(0, 0, 0, stream=ORDER_STREAM).shuffle(order)
        self.rows = np.sort(order[round(start * len(order)) : round(stop * len(order))])
        if not len(self.rows):
            raise ValueError(f"part [{start}, {stop}] of {len(reader)} samples is none")
        self.reader = reader

    def __getattr__(self, name: str) -> Any:
        if name == "reader":  # while it is unpickled by a worker
            raise AttributeError(name)
        return getattr(self.reader, name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> HandSample:
        return self.reader[int(self.rows[index])]
