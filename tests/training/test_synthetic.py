"""The synthetic data set gives the same sample in any order and batch."""

import pytest
import torch
from torch.utils.data import DataLoader

from handmim.training.datasets.synthetic import SyntheticHands, already_collated


def test_samples_do_not_depend_on_the_batch():
    data = SyntheticHands(10, seed=1, size=64)
    batch = data.__getitems__([3, 7])
    single = data[7]
    assert torch.equal(batch["pixel_values"][1], single["pixel_values"])
    assert torch.equal(batch["labels"]["joints"][1].nan_to_num(9), single["labels"]["joints"].nan_to_num(9))


def test_held_out_range_continues_the_seed():
    whole, tail = SyntheticHands(10, seed=1, size=64), SyntheticHands(4, seed=1, size=64, first=6)
    assert torch.equal(whole[7]["pixel_values"], tail[1]["pixel_values"])


def test_loader_serves_batches():
    data = SyntheticHands(5, seed=1, size=64, negatives=0.0)
    batches = list(DataLoader(data, batch_size=4, collate_fn=already_collated))
    assert [len(batch["pixel_values"]) for batch in batches] == [4, 1]
    pixels = batches[0]["pixel_values"]
    assert pixels.shape == (4, 3, 64, 64) and -1 <= pixels.min() < pixels.max() <= 1
    assert torch.isfinite(batches[0]["labels"]["joints"]).all()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="0"):
        SyntheticHands(0, seed=1, size=64)
    with pytest.raises(IndexError, match="5"):
        SyntheticHands(5, seed=1, size=64)[5]
