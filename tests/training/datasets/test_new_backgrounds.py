"""Photographed hands before other backgrounds: the hand and its labels stay, all else changes, the same every time."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fabricate_datasets.given import ListReader
from PIL import Image

from handmim.training.augmentation import GREY, Augmentation
from handmim.training.datasets.crops import HandCrops
from handmim.training.datasets.new_backgrounds import NewBackgrounds, lay_over
from handmim.training.datasets.sample import DataError, HandSample

SIZE = 64
COLOURS_STAY = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)


def test_draws_are_a_share_and_depend_on_seed_epoch_and_index_alone() -> None:
    backgrounds = NewBackgrounds(0.3, 16, seed=1)
    drawn = [backgrounds.draw(2, index) for index in range(200)]
    assert 35 < sum(picture is not None for picture in drawn) < 85
    again = NewBackgrounds(0.3, 16, seed=1)
    for index in (150, 3, 77):
        same = again.draw(2, index)
        assert (same is None) == (drawn[index] is None) and (same is None or (same == drawn[index]).all())
    shown = [number for number, picture in enumerate(drawn) if picture is not None]
    for other in (NewBackgrounds(0.3, 16, seed=2).draw, lambda _, index: backgrounds.draw(3, index)):
        assert shown != [number for number in range(200) if other(2, number) is not None]
    assert all(NewBackgrounds(1.0, 16, 0).draw(0, index).shape == (16, 16, 3) for index in range(5))
    with pytest.raises(ValueError, match=r"share in \[0, 1\], got 1.5"):
        NewBackgrounds(1.5, 16, 0)


def test_photos_are_behind_half_of_them(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), (255, 0, 255)).save(tmp_path / "magenta.png")
    backgrounds = NewBackgrounds(1.0, 16, 0, tmp_path)
    magenta = [(backgrounds.draw(0, index)[..., 1] == 0).mean() > 0.4 for index in range(100)]
    assert 25 < sum(magenta) < 75


def test_what_is_half_covered_shows_the_new_background() -> None:
    crop, background = np.full((1, 5, 3), 200, np.uint8), np.full((1, 5, 3), 40, np.uint8)
    cover, inside = np.array([[0, 127, 191, 255, 255]], np.uint8), np.array([[255, 255, 255, 255, 0]], np.uint8)
    shown = lay_over(background, crop, cover, inside)[0, :, 0]
    assert shown.tolist() == [40, 40, pytest.approx(120, abs=1), 200, GREY[0]]


def hand_of(tmp_path: Path, size: tuple[int, int] = (100, 80), **fields) -> HandSample:
    """A bright block on black, the foreground, which a keypoint marks."""
    shown = np.zeros(size[::-1], bool)
    shown[size[1] // 4 : size[1] * 3 // 4, size[0] // 4 : size[0] * 3 // 4] = True
    random = np.random.default_rng(0).integers(100, 255, (*shown.shape, 3), np.uint8)
    Image.fromarray(random * shown[..., None]).save(tmp_path / "hand.jpg", quality=98)
    points = np.tile(np.array(size, np.float32) / 2, (21, 1))
    box = np.array([0.2, 0.2, 0.8, 0.8]) * [*size, *size]
    return HandSample(
        "one", tmp_path / "hand.jpg", "left", box, labels={"keypoints_2d": points},
        **{"load_foreground": partial(np.asarray, shown)} | fields,
    )  # fmt: skip


def crops_of(
    sample: HandSample, share: float, augmentation: Augmentation | None = COLOURS_STAY, **options
) -> HandCrops:
    reader = ListReader([sample])
    reader.has_foregrounds = sample.load_foreground is not None
    return HandCrops(reader, SIZE, augmentation=augmentation, new_backgrounds=share, **options)


@pytest.mark.parametrize("size", [(100, 80), (1000, 800)])  # the larger is decoded at a quarter
def test_the_hand_and_its_labels_stay(tmp_path: Path, size: tuple[int, int]) -> None:
    sample = hand_of(tmp_path, size)
    own, other = crops_of(sample, 0.0), crops_of(sample, 1.0)
    for epoch in range(5):
        (plain,), (new,) = own.visit([0], [epoch]), other.visit([0], [epoch])
        old, shown = plain["pixel_values"], new["pixel_values"]
        hand, grey = old.amin(0) > -0.2, (old.abs() < 0.01).all(0)
        sure = torch.nn.functional.max_pool2d((~(hand & ~grey)).float()[None], 5, 1, 2)[0] == 0
        black = (old < -0.9).all(0)
        assert torch.equal(old[:, sure], shown[:, sure]) and sure.float().mean() > 0.1
        assert (old != shown).any(0)[black].float().mean() > 0.9
        # a picture that is decoded smaller may end a pixel earlier
        assert (old == shown).all(0)[grey].float().mean() > 0.97
        assert torch.equal(plain["labels"]["keypoints_2d"], new["labels"]["keypoints_2d"])
    assert torch.equal(shown, other.visit([0], [4])[0]["pixel_values"])


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    sample = hand_of(tmp_path, load_foreground=partial(np.zeros, (8, 9), bool))
    with pytest.raises(DataError, match="sample one of list: its foreground is 9 x 8 px, but the picture 100 x 80"):
        crops_of(sample, 1.0)[0]
    with pytest.raises(ValueError, match="part of augmentation"):
        crops_of(sample, 0.5, augmentation=None)
    with pytest.raises(ValueError, match="new_backgrounds need foregrounds; list in . has none"):
        crops_of(hand_of(tmp_path, load_foreground=None), 0.5)
    with pytest.raises(ValueError, match="background_photos are for new_backgrounds"):
        crops_of(sample, 0.0, background_photos=tmp_path)
    with pytest.raises(ValueError, match="got -0.5"):
        crops_of(sample, -0.5)


def test_samples_without_a_foreground_keep_their_background(tmp_path: Path) -> None:
    bare = hand_of(tmp_path, load_foreground=None)
    crops = crops_of(hand_of(tmp_path), 1.0)
    crops.reader.samples = [bare]
    assert torch.equal(crops[0]["pixel_values"], crops_of(bare, 0.0)[0]["pixel_values"])
