"""Which patches the student does not see: block-wise and random masks, a function of (seed, epoch, index) alone."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from handmim.synthesis.random import SampleRandom

VIEWS = 2
# Rectangles drawn for a block-wise mask. They are laid one after the other until the count is reached; with the areas
# below, three or four do, and fewer than one mask in a thousand needs single patches after the last.
RECTANGLES = 12
# BEiT (Bao et al. 2022) and iBOT: rectangles have an aspect ratio in [0.3, 1 / 0.3] and at least (side // 3)^2 patches.
MIN_ASPECT = 0.3


class MaskGenerator:
    """Masks for the two views of a sample, each with its own ratio (HandMIM section 3.1: uniform in [0.1, 0.5]).

    Args:
        grid: Patches along a side of the view.
        kind: "block": rectangles as in BEiT and iBOT. "random": patches independently of each other.
        ratio: Range of the share of masked patches.
        seed: Masks are a function of (seed, epoch, index, view).

    Raises:
        ValueError: For an empty grid, an unknown kind or a ratio outside (0, 1].
    """

    def __init__(
        self,
        grid: int,
        kind: Literal["block", "random"] = "block",
        ratio: Sequence[float] = (0.1, 0.5),
        seed: int = 0,
    ) -> None:
        if grid < 1:
            raise ValueError(f"grid must be at least 1 patch, got {grid}")
        if kind not in ("block", "random"):
            raise ValueError(f"kind must be 'block' or 'random', got {kind!r}")
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] <= 1:
            raise ValueError(f"ratio must be (low, high) with 0 < low <= high <= 1, got {tuple(ratio)}")
        self.grid, self.kind, self.ratio, self.seed = grid, kind, (float(ratio[0]), float(ratio[1])), seed

    def __call__(self, epoch: int, index: Tensor) -> Tensor:
        """Draws masks.

        Args:
            epoch: Number of the epoch.
            index: (B,) int64 sample indices.

        Returns:
            (B, 2, N) bool, True where a patch is masked, row-major; exactly round(ratio N) of them, at least one.
        """
        random = SampleRandom(self.seed, index).fork(f"masks of epoch {epoch}")
        patches = self.grid * self.grid
        count = (random.uniform((VIEWS,), *self.ratio) * patches).round().clamp(min=1)  # (B, 2)
        order = random.uniform((VIEWS, patches))
        if self.kind == "block":
            order = self._block_order(random, count, order)
        rank = order.argsort(dim=-1, stable=True).argsort(dim=-1)
        return rank < count[..., None]

    def _block_order(self, random: SampleRandom, count: Tensor, spare: Tensor) -> Tensor:
        """In which order patches are masked, (B, 2, N): rectangle after rectangle, and then the rest as `spare` says.

        A rectangle that does not fit the count any more is filled row by row (or column by column) from one of its
        sides, so that what is left of it is a rectangle too.
        """
        top, left, height, width, side = self._rectangles(random, count)  # (B, 2, R, 1) each
        cell = torch.arange(self.grid * self.grid, device=spare.device)
        row, column = cell // self.grid - top, cell % self.grid - left  # (B, 2, R, N) inside the rectangle
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row, column = torch.where(side >= 2, height - 1 - row, row), torch.where(side >= 2, width - 1 - column, column)
        scan = torch.where(side % 2 == 0, row * width + column, column * height + row) / (height * width)
        step = torch.arange(RECTANGLES, device=spare.device)[:, None]
        order = torch.where(inside, step + scan, RECTANGLES).amin(dim=2)
        return torch.where(order < RECTANGLES, order, RECTANGLES + spare)

    def _rectangles(self, random: SampleRandom, count: Tensor) -> tuple[Tensor, ...]:
        """Top, left, height, width and filling side of each rectangle, (B, 2, R, 1), as BEiT draws them."""
        shape = (VIEWS, RECTANGLES)
        least = torch.minimum(count, torch.tensor(max(1, self.grid // 3) ** 2))[..., None]
        area = least + random.uniform(shape) * (count[..., None] - least)
        aspect = random.log_uniform(shape, MIN_ASPECT, 1 / MIN_ASPECT)
        height = (area * aspect).sqrt().round().clamp(1, self.grid)
        width = (area / height).round().clamp(1, self.grid)
        top = (random.uniform(shape) * (self.grid - height + 1)).floor()
        left = (random.uniform(shape) * (self.grid - width + 1)).floor()
        side = random.integers(shape, 0, 4)
        return tuple(value.unsqueeze(-1) for value in (top, left, height, width, side))
