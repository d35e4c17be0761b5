"""Scenes for the detector: labels agree with the pixels, and a scene is a function of seed, epoch and index."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from handmim.errors import DataError
from handmim.synthesis import generate
from handmim.training.augmentation import Augmentation
from handmim.training.datasets.hand_scenes import (
    MAX_HANDS,
    Hands,
    HandScenes,
    Photo,
    collate_scenes,
    mirrored,
    padded,
    photo_tile,
    photos_of,
    reframed,
    rendered_tiles,
    within,
)
from handmim.training.datasets.sample import HandSample

PLAIN = Augmentation(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


@pytest.fixture()
def photo(tmp_path: Path) -> Photo:
    """A black photo with a white square as its hand."""
    picture = Image.new("RGB", (120, 80))
    ImageDraw.Draw(picture).rectangle((40, 20, 69, 49), fill=(255, 255, 255))
    picture.save(tmp_path / "square.png")
    sample = HandSample("square", tmp_path / "square.png", "right", box=np.array([39.5, 19.5, 69.5, 49.5]))
    return Photo(sample.image, (sample,))


def scenes(photo: Photo | None = None, **options) -> HandScenes:
    photos = [] if photo is None else [[photo]]
    return HandScenes(100, **({"seed": 5, "size": 96, "photos": photos, "photo_share": 0.4} | options))


def test_scenes_do_not_depend_on_their_batch(photo: Photo):
    data = scenes(photo, grids=(1, 1, 1))
    together = data.__getitems__(list(range(6)))
    alone = data[4]
    assert torch.equal(together[4]["pixel_values"], alone["pixel_values"])
    for name, value in alone["labels"].items():
        assert torch.equal(together[4]["labels"][name].nan_to_num(-1), value.nan_to_num(-1)), name
    assert not torch.equal(together[3]["pixel_values"], alone["pixel_values"])
    data.set_epoch(1)
    assert not torch.equal(data[4]["pixel_values"], alone["pixel_values"])


def test_scenes_are_what_the_detector_takes(photo: Photo):
    items = scenes(photo, grids=(1, 1, 1)).__getitems__(list(range(12)))
    batch = collate_scenes(items)
    boxes, right = batch["labels"]["boxes"], batch["labels"]["right"]
    assert batch["pixel_values"].shape == (12, 3, 96, 96) and boxes.shape == (12, MAX_HANDS, 4)
    assert batch["pixel_values"].abs().max() <= 1
    given = ~boxes.isnan().any(-1)
    assert given.any(1).sum() > 6 and (boxes[given][:, 2:] > boxes[given][:, :2]).all()
    assert boxes[given].min() >= -0.5 and boxes[given].max() <= 95.5
    assert set(right[given].tolist()) == {0.0, 1.0}
    assert batch["labels"]["counted"].dtype == torch.bool and not batch["labels"]["counted"][~given].any()


@pytest.mark.parametrize("mirror", [False, True])
def test_the_hand_of_a_photo_lies_where_its_label_says(photo: Photo, mirror: bool):
    random = np.random.default_rng(1)
    seen = 0
    for _ in range(40):
        tile = photo_tile(photo, 96, mirror, PLAIN, random)
        if not len(tile.hands.boxes):
            continue
        rows, columns = np.nonzero(tile.pixels.mean(0).numpy() > 0.5)
        bright = np.array([columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5])
        np.testing.assert_allclose(tile.hands.boxes[0], bright, atol=1.6)
        assert tile.hands.right[0] == (0.0 if mirror else 1.0)
        seen += 1
    assert seen > 25


def test_boxes_of_rendered_hands_hold_their_pixels():
    batch = generate(9, range(24), size=96, variety="scene")
    right = (batch.labels["hand"] == 1).numpy()
    tiles = rendered_tiles(batch)
    for row in np.nonzero(right)[0]:
        points = batch.labels["keypoints_2d"][row].numpy()
        own = batch.hands.boxes[(batch.hands.picture == row) & ~batch.hands.left].numpy()
        expected = np.concatenate([points.min(0), points.max(0)])
        assert np.abs(own - expected).max(1).min() < 1e-3
        assert len(tiles[row].hands.boxes) >= 1
    for row in np.nonzero(~right)[0]:  # a left hand, or none: then no mask either
        boxes = batch.hands.boxes[batch.hands.picture == row].numpy()
        mask = batch.mask[row].numpy()
        assert mask.any() <= (len(boxes) > 0)
        if mask.sum() > 60:
            rows, columns = np.nonzero(mask)
            assert batch.hands.left[batch.hands.picture == row].any()
            middle = np.array([columns.mean(), rows.mean()])
            assert any((middle > box[:2] - 4).all() and (middle < box[2:] + 4).all() for box in boxes)


def test_second_hands_are_where_they_are_drawn():
    """A picture with a second hand differs from the same without it, inside the second's box or its arm."""
    batch = generate(3, range(40), size=96, variety="scene")
    counts = torch.bincount(batch.hands.picture, minlength=40)
    assert (counts == 2).sum() > 5 and (counts == 0).any()
    assert (batch.hands.shown >= 0).all() and batch.hands.shown.max() < 4
    assert 0.3 < batch.hands.left.float().mean() < 0.8
    parts = [generate(3, range(start, start + 20), size=96, variety="scene").hands for start in (0, 20)]
    assert torch.equal(torch.cat([part.boxes for part in parts]), batch.hands.boxes)
    assert torch.equal(torch.cat([part.shown for part in parts]), batch.hands.shown)


def test_hands_stay_where_the_window_shows_them():
    scene = torch.full((3, 96, 96), -1.0)
    scene[:, 30:50, 40:70] = 1.0
    hands = Hands(np.array([[39.5, 29.5, 69.5, 49.5]]), np.ones(1), np.ones(1, bool))
    random, factors = np.random.default_rng(0), []
    for _ in range(40):
        framed, moved = reframed(scene, hands, random)
        if len(moved.boxes):
            rows, columns = np.nonzero(framed.mean(0).numpy() > 0.2)
            bright = np.array([columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5])
            np.testing.assert_allclose(moved.boxes[0], bright, atol=1.1)
            factors.append((moved.boxes[0, 2:] - moved.boxes[0, :2]).max() / 30)
    assert len(factors) > 25 and min(factors) < 0.75 and max(factors) > 1.3


def test_mirrored_twice_is_the_same():
    tile = rendered_tiles(generate(9, range(4), size=96, variety="scene"))[0]
    twice = mirrored(mirrored(tile))
    assert torch.equal(twice.pixels, tile.pixels)
    np.testing.assert_allclose(twice.hands.boxes, tile.hands.boxes)
    np.testing.assert_array_equal(twice.hands.right, tile.hands.right)


def test_of_a_hand_at_the_border_the_seen_part_counts():
    hands = Hands(
        np.array([[-10.0, 0, 30, 20], [-30.0, 0, 10, 20], [-50.0, 0, 0, 20], [5.0, 5, 10, 10], [50.0, 50, 60, 60]]),
        np.array([1.0, 0, 1, 0, math.nan]),
        np.ones(5, bool),
    )
    seen = within(hands, np.array([0.0, 0, 100, 100]))
    np.testing.assert_array_equal(seen.boxes[:2], [[0, 0, 30, 20], [0, 0, 10, 20]])
    assert seen.counted.tolist() == [True, False, False, True]  # three quarters; a quarter; none; too small; whole
    assert len(seen.boxes) == 4


def test_more_hands_than_there_is_room_for():
    boxes = np.array([[0.0, 0.0, 10.0 + k, 10.0] for k in range(MAX_HANDS + 5)])
    labels = padded(Hands(boxes, np.ones(len(boxes)), np.ones(len(boxes), bool)))
    assert labels["boxes"].shape == (MAX_HANDS, 4) and labels["boxes"][:, 2].min() == 15


def test_all_hands_of_a_picture_belong_together(tmp_path: Path):
    points = np.random.default_rng(0).uniform(0, 50, (21, 2)).astype(np.float32)
    samples = [
        HandSample("a", tmp_path / "one.png", "left", labels={"keypoints_2d": points}),
        HandSample("b", tmp_path / "two.png", None, box=np.array([0.0, 0, 9, 9])),
        HandSample("c", tmp_path / "one.png", "right", labels={"keypoints_2d": points + 9}),
    ]
    first, second = photos_of(samples)
    assert [sample.id for sample in first.samples] == ["a", "c"] and len(second.samples) == 1
    with pytest.raises(DataError, match="sample d has no box, and no two keypoints"):
        photos_of([HandSample("d", tmp_path / "one.png")])


def test_an_unreadable_photo_is_named(tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="bad.jpg"):
        scenes(Photo(tmp_path / "bad.jpg"), photo_share=1.0)[0]


@pytest.mark.parametrize(
    "options",
    [{"size": 100}, {"size": 40}, {"grids": (1, 2)}, {"grids": (0, 0, 0)}, {"photo_share": 2.0}, {"variety": "wild"},
     {"photos": [[]]}, {"photo_weights": [1.0, 2.0]}],
)  # fmt: skip
def test_impossible_scenes_are_refused(options: dict, photo: Photo):
    with pytest.raises(ValueError, match="must"):
        scenes(photo, **options)
