"""Mixtures keep their shares, use data sets up before repeating, and depend on (seed, epoch, index) alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handmim.training.datasets.items import HandItems, collate_hands
from handmim.training.datasets.mixture import Mixture, shares
from handmim.training.datasets.synthetic import SyntheticHands


class Numbered(HandItems):
    """Items that know what was asked for."""

    def __init__(self, name, length, labels=()):
        super().__init__()
        self.name, self.length, self.labels, self.calls = name, length, labels, 0

    def __len__(self):
        return self.length

    def visit(self, indices, epochs):
        self.calls += 1
        return [
            {
                "sample_id": f"{self.name}{index}@{epoch}",
                "pixel_values": torch.full((3, 4, 4), float(index)),
                "intrinsics": torch.eye(3),
                "labels": {name: torch.ones(21, 2) for name in self.labels},
            }
            for index, epoch in zip(indices, epochs, strict=True)
        ]


def test_every_sample_once_without_weights():
    mixture = Mixture([Numbered("a", 5), Numbered("b", 3)])
    ids = [mixture[index]["sample_id"] for index in range(len(mixture))]
    assert sorted(ids) == sorted([f"a{i}@0" for i in range(5)] + [f"b{i}@0" for i in range(3)])


def test_shares_and_passes():
    mixture = Mixture([Numbered("a", 5), Numbered("b", 100)], [3, 1], length=40, seed=2)
    seen = []
    for epoch in range(10):
        mixture.set_epoch(epoch)
        ids = [item["sample_id"] for item in mixture.__getitems__(range(40))]
        assert sum(name.startswith("a") for name in ids) == 30
        seen += ids
    assert len(set(seen)) == 400  # never the same sample in the same pass
    assert sorted(name for name in seen if name.startswith("b")) == sorted(f"b{i}@0" for i in range(100))
    assert {name.split("@")[1] for name in seen if name.startswith("a")} == {str(visit) for visit in range(60)}
    orders = [[name[1] for name in seen[:30]][start : start + 5] for start in (0, 5, 10, 15)]
    assert len({tuple(order) for order in orders}) > 1


def test_batches_fetch_each_dataset_once_and_keep_the_order():
    parts = [Numbered("a", 8), Numbered("b", 8)]
    mixture = Mixture(parts)
    batch = mixture.__getitems__([9, 0, 15, 3])
    assert [part.calls for part in parts] == [1, 1]
    assert [item["sample_id"] for item in batch] == [mixture[index]["sample_id"] for index in (9, 0, 15, 3)]


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=6), st.integers(1, 1000))
def test_shares_sum_up(weights, total):
    counts = shares(weights, total)
    assert counts.sum() == total and np.abs(counts - np.array(weights) / sum(weights) * total).max() <= 1


def test_missing_labels_are_nan():
    batch = collate_hands(Mixture([Numbered("a", 1, ["keypoints_2d"]), Numbered("b", 1)]).__getitems__([0, 1]))
    assert torch.isfinite(batch["labels"]["keypoints_2d"][0]).all()
    assert torch.isnan(batch["labels"]["keypoints_2d"][1]).all()
    assert batch["sample_ids"] == ["a0@0", "b0@0"] and batch["pixel_values"].shape == (2, 3, 4, 4)


def test_two_hand_models_in_one_batch_are_refused():
    items = Numbered("a", 2, ["vertices"]).__getitems__([0, 1])
    items[1]["labels"]["vertices"] = torch.ones(30, 3)
    with pytest.raises(ValueError, match="vertices of sample a1@0"):
        collate_hands(items)


def test_synthetic_hands_join_a_mixture():
    synthetic = SyntheticHands(6, seed=1, size=32, new_each_epoch=True)
    mixture = Mixture([synthetic, Numbered("a", 2)], [2, 1], length=6)
    ids = []
    for epoch in range(3):
        mixture.set_epoch(epoch)
        ids += [item["sample_id"] for item in mixture.__getitems__(range(6))]
    synthetic_ids = [name for name in ids if name.startswith("synthetic")]
    assert len(set(synthetic_ids)) == len(synthetic_ids) == 12  # the second pass is rendered anew


def test_bad_weights_are_refused():
    for weights in ([1], [1, 0], [1, float("nan")]):
        with pytest.raises(ValueError, match="weights"):
            Mixture([Numbered("a", 1), Numbered("b", 1)], weights)
