"""The synthetic data set gives the same sample in any order and batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from handmim.errors import ImageError
from handmim.synthesis.backgrounds import BANK_SIDE
from handmim.synthesis.photos import photo_tiles
from handmim.training.datasets.items import collate_hands
from handmim.training.datasets.synthetic import SyntheticHands


def test_samples_do_not_depend_on_the_batch():
    data = SyntheticHands(10, seed=1, size=64)
    batched = data.__getitems__([3, 7])[1]
    single = data[7]
    assert batched["sample_id"] == single["sample_id"] == "synthetic 1/7"
    assert torch.equal(batched["pixel_values"], single["pixel_values"])
    assert torch.equal(batched["labels"]["joints"].nan_to_num(9), single["labels"]["joints"].nan_to_num(9))


def test_held_out_range_continues_the_seed():
    whole, tail = SyntheticHands(10, seed=1, size=64), SyntheticHands(4, seed=1, size=64, first=6)
    assert torch.equal(whole[7]["pixel_values"], tail[1]["pixel_values"])


def test_loader_serves_batches():
    data = SyntheticHands(5, seed=1, size=64, negatives=0.0)
    batches = list(DataLoader(data, batch_size=4, collate_fn=collate_hands))
    assert [len(batch["pixel_values"]) for batch in batches] == [4, 1]
    pixels = batches[0]["pixel_values"]
    assert pixels.shape == (4, 3, 64, 64) and -1 <= pixels.min() < pixels.max() <= 1
    assert torch.isfinite(batches[0]["labels"]["joints"]).all()


def test_epochs_can_bring_new_samples():
    same, new = (SyntheticHands(4, seed=1, size=32, new_each_epoch=new) for new in (False, True))
    first = same[1]["pixel_values"]
    for data in (same, new):
        data.set_epoch(1)
    assert torch.equal(same[1]["pixel_values"], first)
    assert torch.equal(new[1]["pixel_values"], SyntheticHands(8, seed=1, size=32)[5]["pixel_values"])


def test_labels_are_chosen():
    item = SyntheticHands(1, seed=1, size=32, labels=["mask", "joints"])[0]
    assert set(item["labels"]) == {"mask", "joints", "hand"} and item["labels"]["mask"].dtype == torch.bool


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="0"):
        SyntheticHands(0, seed=1, size=64)
    with pytest.raises(IndexError, match="5"):
        SyntheticHands(5, seed=1, size=64)[5]


def test_photos_are_shown_behind_hands(tmp_path: Path):
    with pytest.raises(ImageError, match="holds no image"):
        SyntheticHands(4, seed=1, size=32, background_photos=tmp_path)
    Image.fromarray(np.full((40, 60, 3), (0, 250, 0), np.uint8)).save(tmp_path / "green.png")
    plain, green = (SyntheticHands(24, seed=1, size=32, background_photos=folder) for folder in (None, tmp_path))
    before, after = ([data[i] for i in range(24)] for data in (plain, green))
    changed = [not torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(before, after, strict=True)]
    assert 6 <= sum(changed) <= 20  # about half of them
    shown = torch.stack([item["pixel_values"] for item, new in zip(after, changed, strict=True) if new])
    assert (shown[:, 1] - shown[:, 0]).mean() > 0.3  # green more than red
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a["labels"]["joints"].nan_to_num(9), b["labels"]["joints"].nan_to_num(9))


def test_tiles_of_photos_are_square_parts_and_always_the_same(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    for number, shape in enumerate([(30, 50, 3), (300, 200, 3)]):
        pixels = np.random.default_rng(number).integers(0, 255, shape, np.uint8)
        Image.fromarray(pixels).save(tmp_path / ("a.png", "inner/b.png")[number])
    tiles = photo_tiles(tmp_path, tiles=3)
    assert tiles.shape == (6, BANK_SIDE, BANK_SIDE, 3) and tiles.dtype == torch.uint8
    assert torch.equal(tiles, photo_tiles(tmp_path, tiles=3))
    assert not torch.equal(tiles[0], tiles[1])
