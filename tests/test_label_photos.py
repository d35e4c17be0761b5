"""Guesses of another network as labels: what is taken, in which pixels and of which side, and what is left out."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conversion.label_photos import MARGIN, label, photos, seen_from, upright

PIXELS = np.zeros((80, 100, 3), np.uint8)
PAD = round(MARGIN * 100)


class Detector:
    """Stands for MediaPipe: hands at given pixels of the picture (corner of the first pixel: -0.5, -0.5)."""

    def __init__(self, *hands: np.ndarray, side: str = "Left", score: float = 0.99) -> None:
        self.hands, self.side, self.score = hands, side, score

    def process(self, padded: np.ndarray) -> SimpleNamespace:
        assert padded.shape == (80 + 2 * PAD, 100 + 2 * PAD, 3)
        shares = [(hand + 0.5 + PAD) / [padded.shape[1], padded.shape[0]] for hand in self.hands]
        landmarks = [SimpleNamespace(landmark=[SimpleNamespace(x=x, y=y) for x, y in hand]) for hand in shares]
        sides = [SimpleNamespace(classification=[SimpleNamespace(label=self.side, score=self.score)]) for _ in shares]
        return SimpleNamespace(multi_hand_landmarks=landmarks or None, multi_handedness=sides or None)


@pytest.fixture()
def points() -> np.ndarray:
    return np.random.default_rng(0).uniform([10, 10], [90, 70], (21, 2))


@pytest.mark.parametrize(("side", "hand"), [("Left", "right"), ("Right", "left")])
def test_points_come_back_in_pixels_and_sides_out_of_the_mirror(points: np.ndarray, side: str, hand: str) -> None:
    found = label(PIXELS, Detector(points, side=side), 0.9)
    assert found["handedness"] == hand
    np.testing.assert_allclose(found["keypoints_2d"], points, atol=0.006)


def test_doubtful_hands_are_left_out(points: np.ndarray) -> None:
    assert label(PIXELS, Detector(), 0.9) == "without a hand"
    assert label(PIXELS, Detector(points, points), 0.9) == "with several hands"
    assert label(PIXELS, Detector(points, score=0.8), 0.9) == "of an unsure side"
    assert label(PIXELS, Detector(points + [30, 0]), 0.9) == "with a hand beyond the border"
    assert label(PIXELS, Detector(points / 10), 0.9) == "with a small hand"


def test_palms_and_backs_are_told_apart() -> None:
    """Fingers up, palm to the camera: the thumb of a right hand is on the right of the picture."""
    points = np.zeros((21, 2))
    points[0], points[5], points[17], points[12] = [50, 90], [60, 50], [40, 50], [50, 10]
    flipped, turned = points * [-1, 1] + [100, 0], points * [-1, -1] + [100, 100]
    for seen in (points, turned):
        assert seen_from(seen, "right") == "palm" and seen_from(seen, "left") == "back"
    assert seen_from(flipped, "right") == "back" and seen_from(flipped, "left") == "palm"
    points[5], points[17] = [51, 50], [50, 50]
    assert seen_from(points, "right") is None


def test_photos_are_taken_as_they_are_shown(tmp_path: Path) -> None:
    """A phone's photo that lies on its side got keypoints that were turned by 90 degrees."""
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    for name in ("a.jpg", ".hidden/b.jpg", "c/d.JPG", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name, "JPEG", exif=exif)
    (tmp_path / "folder.png").mkdir()
    assert photos(tmp_path) == [tmp_path / "a.jpg", tmp_path / "c/d.JPG"]
    assert upright(tmp_path / "a.jpg").shape == (30, 20, 3)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    assert upright(tmp_path / "a.jpg") is None
