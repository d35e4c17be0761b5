"""Tests of the masks: exact counts, the ratio, blocks that are blocks, randomness from (seed, epoch, index)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handmim.training.masking import MaskGenerator

INDEX = torch.arange(400)


def touching(masks: Tensor, grid: int) -> float:
    """Share of masked patches' four neighbours (inside the grid) that are masked too."""
    image = masks.reshape(-1, grid, grid)
    pairs = [(image[:, 1:], image[:, :-1]), (image[:, :, 1:], image[:, :, :-1])]
    both = sum((a & b).sum() for a, b in pairs)
    either = sum((a | b).sum() for a, b in pairs)
    return float(both / either)


class TestCounts:
    @settings(max_examples=40, deadline=None)
    @given(
        grid=st.integers(1, 24),
        kind=st.sampled_from(["block", "random"]),
        low=st.floats(0.01, 1),
        share=st.floats(0, 1),
        seed=st.integers(0, 2**40),
        epoch=st.integers(0, 1000),
    )
    def test_counts_stay_in_the_range(
        self, grid: int, kind: str, low: float, share: float, seed: int, epoch: int
    ) -> None:
        high = low + share * (1 - low)
        masks = MaskGenerator(grid, kind, (low, high), seed)(epoch, torch.arange(5))
        assert masks.shape == (5, 2, grid * grid) and masks.dtype == torch.bool
        count = masks.sum(-1)
        assert (count >= max(1, round(low * grid * grid) - 1)).all() and (count <= round(high * grid * grid) + 1).all()

    @pytest.mark.parametrize("kind", ["block", "random"])
    @pytest.mark.parametrize("ratio", [0.1, 0.3, 0.75, 1.0])
    def test_a_fixed_ratio_gives_exactly_that_count(self, kind: str, ratio: float) -> None:
        count = MaskGenerator(14, kind, (ratio, ratio))(0, INDEX).sum(-1)
        assert (count == round(ratio * 196)).all()

    @pytest.mark.parametrize("kind", ["block", "random"])
    def test_ratio_is_uniform_and_views_have_their_own(self, kind: str) -> None:
        ratio = MaskGenerator(14, kind)(3, torch.arange(4000)).float().mean(-1)
        assert ratio.min() < 0.11 and ratio.max() > 0.49
        quantiles = ratio.quantile(torch.tensor([0.25, 0.5, 0.75]))
        assert torch.allclose(quantiles, torch.tensor([0.2, 0.3, 0.4]), atol=0.01)
        assert torch.corrcoef(ratio.T)[0, 1].abs() < 0.05


class TestShapes:
    def test_random_masks_have_no_preferred_place(self) -> None:
        share = MaskGenerator(8, "random", (0.3, 0.3))(0, torch.arange(5000)).float().mean((0, 1))
        assert (share - 19 / 64).abs().max() < 0.03

    def test_random_patches_are_independent_of_their_neighbours(self) -> None:
        masks = MaskGenerator(14, "random", (0.3, 0.3))(0, INDEX)
        assert touching(masks, 14) == pytest.approx(0.3**2 / (1 - 0.7**2), abs=0.01)

    def test_blocks_are_connected(self) -> None:
        masks = MaskGenerator(14, "block", (0.3, 0.3))(0, INDEX)
        assert touching(masks, 14) > 0.6

    def test_blocks_have_no_preferred_side(self) -> None:
        """The rectangle that is cut short is filled from each side alike."""
        share = MaskGenerator(14, "block")(0, torch.arange(5000)).float().mean((0, 1)).view(14, 14)
        for other in (share.flip(0), share.flip(1), share.T):
            assert (share - other).abs().max() < 0.04
        assert share.min() > 0.02  # rectangles lie inside the view, so corners are rare, as in BEiT

    def test_small_blocks_are_single_rectangles(self) -> None:
        """20 patches: the first rectangle, or most of it, is all."""
        masks = MaskGenerator(14, "block", (0.1, 0.1))(0, INDEX).reshape(-1, 14, 14)
        boxes = masks.any(2).sum(1) * masks.any(1).sum(1)
        assert (boxes <= 24).float().mean() > 0.3

    def test_rectangles_have_beits_aspect_ratios(self) -> None:
        """Log-uniform from 0.3 to 1 / 0.3: of masks that are one rectangle some are thrice as wide as high, or high as
        wide."""
        masks = MaskGenerator(14, "block", (0.1, 0.1))(0, torch.arange(1000)).reshape(-1, 14, 14)
        height, width = masks.any(2).sum(1), masks.any(1).sum(1)
        single = height * width == masks.sum((1, 2))
        aspect = (height / width)[single].log()
        assert len(aspect) > 50 and aspect.abs().max() <= math.log(10 / 2) + 1e-5  # 2 x 10 patches: rounded
        assert aspect.min() < -math.log(2) and aspect.max() > math.log(2)


class TestRandomness:
    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        generator = MaskGenerator(14, seed=7)
        index = torch.tensor([5, 900, 12, 5])
        together = generator(2, index)
        for row, i in zip(together, index, strict=True):
            assert torch.equal(row, generator(2, i[None])[0])
        assert torch.equal(together[0], together[3])

    def test_seed_epoch_index_and_view_all_matter(self) -> None:
        base = MaskGenerator(14, seed=1)(0, torch.tensor([4]))
        others = [
            MaskGenerator(14, seed=2)(0, torch.tensor([4])),
            MaskGenerator(14, seed=1)(1, torch.tensor([4])),
            MaskGenerator(14, seed=1)(0, torch.tensor([5])),
            base.flip(1),
        ]
        assert not any(torch.equal(base, other) for other in others)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"grid": 0}, "grid must be at least 1 patch, got 0"),
            ({"grid": 4, "kind": "blocks"}, "got 'blocks'"),
            ({"grid": 4, "ratio": (0.5, 0.1)}, r"got \(0.5, 0.1\)"),
            ({"grid": 4, "ratio": (0.0, 0.1)}, "0 < low"),
        ],
    )
    def test_refuses(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            MaskGenerator(**options)
