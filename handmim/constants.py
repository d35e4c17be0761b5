"""Numbers of the program as tensors: each is copied to a device once, not for every batch.

A copy from the host's memory makes a GPU finish all it was given before, a hundred times a batch where the numbers
stand in the formulas.
"""

import functools
from typing import Any

import torch
from torch import Tensor


@functools.lru_cache(maxsize=1024)
def constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of (nested) tuples of numbers; the same object for the same arguments, to be read only."""
    with torch.inference_mode(False):  # of use where gradients are wanted, too
        return torch.tensor(values, dtype=dtype, device=device)
