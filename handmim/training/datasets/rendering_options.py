"""Options of rendered pictures, checked before a run: recipes hold whatever was typed."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ...synthesis.generator import check_betas
from ...synthesis.variety import Variety, find_variety

MAX_BETAS = 10
# As `synthesis.generator.check_arguments` has them.
SMALLEST = 16  # px
MAX_INDEX = 2**62


def check_series(length: Any, seed: Any, size: Any, first: Any) -> None:
    """Raises a ValueError unless these are whole numbers and name pictures: see `datasets.images.SyntheticImages`."""
    for name, value, least in (
        ("length", length, 1),
        ("seed", seed, -math.inf),
        ("size", size, SMALLEST),
        ("first", first, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            bound = "" if least < 0 else f" of at least {least}"
            raise ValueError(f"{name} must be a whole number{bound}, got {value!r}")
    if first + length > MAX_INDEX:
        raise ValueError(f"first + length must be at most 2^62, got {first} + {length}")


def variety_of(variety: Any, negatives: Any = None) -> Variety:
    """What `find_variety` finds, with another share of negatives if one is given.

    Raises:
        ValueError: There is no such variety, or the share is none.
    """
    found = find_variety(variety)
    return found if negatives is None else replace(found, negatives=negatives)


def betas_of(betas: Any) -> Tensor | None:
    """Up to ten numbers as (10,) float32, with 0 for those that are left out; None for None.

    Raises:
        ValueError: Something else.
    """
    if isinstance(betas, list | tuple):
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in betas)
        if numbers and 1 <= len(betas) <= MAX_BETAS:
            betas = torch.tensor([*betas, *[0.0] * (MAX_BETAS - len(betas))], dtype=torch.float32)
    if betas is not None and not isinstance(betas, Tensor):
        raise ValueError(f"betas must be a list of up to {MAX_BETAS} numbers, got {betas!r}")
    check_betas(betas)
    return betas
