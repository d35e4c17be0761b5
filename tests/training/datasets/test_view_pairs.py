"""The data set of pre-training: batches, workers, epochs, and pictures that cannot be read."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from handmim.errors import DataError
from handmim.training.datasets.images import FolderImages, SyntheticImages
from handmim.training.datasets.view_pairs import ViewPairs, collate_views
from handmim.training.masking import MaskGenerator
from handmim.training.view_rendering import finish_on_device
from handmim.training.views import ViewAugmentation

AUGMENTATION = ViewAugmentation(size=32)


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Six pictures of which the second and third are damaged."""
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(6, 0).repeat(7, 1)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(b"damaged")
    return tmp_path


def test_an_item() -> None:
    data = ViewPairs(SyntheticImages(4, size=48), AUGMENTATION, seed=1, masks=MaskGenerator(2, seed=1), with_index=True)
    item = data[3]
    assert {name: tuple(value.shape) for name, value in item.items()} == {
        "transforms": (2, 4),
        "pixel_values": (2, 3, 32, 32),
        "bool_masked_pos": (2, 4),
        "index": (),
    }
    assert item["pixel_values"].dtype == torch.uint8
    batch = data.__getitems__([0, 3])
    assert all(torch.equal(batch[name][1], item[name]) for name in item)
    assert all(torch.equal(value, batch[name]) for name, value in collate_views([data[0], item]).items())
    with pytest.raises(IndexError):
        data[4]


def test_workers_follow_the_epoch() -> None:
    data = ViewPairs(SyntheticImages(4, size=48), AUGMENTATION, seed=1)
    loader = DataLoader(data, 2, num_workers=1, persistent_workers=True, collate_fn=collate_views)
    seen = []
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = list(loader)
        seen.append(torch.cat([batch["pixel_values"] for batch in batches]))
        assert torch.equal(seen[-1], data.__getitems__(range(4))["pixel_values"])
    assert not torch.equal(*seen)


def test_both_ways_of_rendering(folder: Path) -> None:
    images = FolderImages(folder, size=None)
    worker = ViewPairs(images, AUGMENTATION, seed=5)[0]
    batch = ViewPairs(images, AUGMENTATION, seed=5, render="device", source_size=64).__getitems__([0])
    assert batch["images"].shape == (1, 64, 64, 3)
    done = finish_on_device(batch, "cpu", 32)
    assert torch.equal(done["transforms"][0], worker["transforms"])
    levels = (done["pixel_values"][0] + 1) * 127.5
    assert (levels - worker["pixel_values"].float()).abs().mean() < 0.6
    shrunk = ViewPairs(images, AUGMENTATION, seed=5, render="device", source_size=32)[0]
    assert shrunk["sizes"].tolist() == [32, round(32 * 48 / 56)]


def test_broken_pictures_are_skipped_by_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ViewPairs(FolderImages(folder), AUGMENTATION, seed=0)
    with caplog.at_level(logging.WARNING):
        batch = data.__getitems__([1, 3])
        data.__getitems__([1])
    assert data.skipped == 4
    names = [record.getMessage() for record in caplog.records]
    assert len(names) == 2
    assert "1.png" in names[0]
    assert "2.png" in names[1]
    # Always the same substitute, with the broken one's own draws.
    assert torch.equal(batch["pixel_values"][0], data[1]["pixel_values"])
    assert not torch.equal(batch["transforms"][0], batch["transforms"][1])


def test_broken_pictures_may_be_fatal(folder: Path) -> None:
    data = ViewPairs(FolderImages(folder), AUGMENTATION, seed=0, broken="fatal")
    data[0]
    with pytest.raises(DataError, match=r"1\.png"):
        data[1]


def test_too_many_broken_pictures(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"17 pictures in a row .*16\.png"):
        ViewPairs(FolderImages(tmp_path), AUGMENTATION, seed=0)[0]


@pytest.mark.parametrize("option", [{"render": "gpu"}, {"broken": "ignore"}])
def test_unknown_words(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(option.values()))):
        ViewPairs(SyntheticImages(1), AUGMENTATION, seed=0, **option)
