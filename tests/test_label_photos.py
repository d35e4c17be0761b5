"""Guesses of another network as labels: what is taken, in which pixels and of which side, and what is left out."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conversion.label_photos import MARGIN, label, main, photos, seen_from, upright

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
    for name in ("a.jpg", ".hidden/b.jpg", "c/d.JPG", "e.txt", "masks/f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name, "JPEG", exif=exif)
    (tmp_path / "folder.png").mkdir()
    assert photos(tmp_path) == [tmp_path / "a.jpg", tmp_path / "c/d.JPG"]
    assert upright(tmp_path / "a.jpg").shape == (30, 20, 3)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    assert upright(tmp_path / "a.jpg") is None


@pytest.fixture()
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the script on a folder of one photo and one mask, as if MediaPipe saw given hands in every picture."""
    for name in ("photo.png", "masks/photo.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / name)

    def start(*hands: np.ndarray) -> None:
        solutions = SimpleNamespace(hands=SimpleNamespace(Hands=lambda **_: Detector(*hands)))
        monkeypatch.setitem(sys.modules, "mediapipe", SimpleNamespace(solutions=solutions, __version__="0.10.21"))
        monkeypatch.setattr(sys, "argv", ["label_photos.py", str(tmp_path)])
        main()

    return start


def label_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file() and path.suffix != ".png"}


def test_guesses_are_written_and_replaced(run: Callable[..., None], points: np.ndarray, tmp_path: Path) -> None:
    points[0], points[5], points[17] = [50, 70], [60, 40], [40, 40]  # the palm of a right hand
    run(points)
    lines = {name: text.splitlines() for name, text in label_files(tmp_path).items()}
    assert {name: len(found) for name, found in lines.items()} == {"labels.jsonl": 1, "labels-palm.jsonl": 1}
    line = json.loads(lines["labels.jsonl"][0])
    assert line["image"] == "photo.png" and line["info"] == "guess of MediaPipe 0.10.21"
    points[5], points[17] = [40, 40], [60, 40]
    run(points)
    assert label_files(tmp_path).keys() == {"labels.jsonl", "labels-back.jsonl"}


def test_nothing_is_written_where_no_hand_is_found(
    run: Callable[..., None], points: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty files took the place of what was there."""
    run()
    assert not label_files(tmp_path) and "1 without a hand" in capsys.readouterr().out
    run(points)
    before = label_files(tmp_path)
    run()
    assert label_files(tmp_path) == before


@pytest.mark.parametrize("name", ["labels.jsonl", "labels-palm.jsonl", "labels-back.jsonl"])
@pytest.mark.parametrize(
    "own", ['{"image": "photo.png", "box": [1, 2, 30, 40]}', '{"info": "mine"}', "not JSON", "[1]"]
)
def test_annotations_are_never_replaced(
    run: Callable[..., None], points: np.ndarray, tmp_path: Path, name: str, own: str
) -> None:
    """They were lost, even where no hand was found."""
    guess = '{"image": "photo.png", "info": "guess of MediaPipe 0.10.21"}'
    (tmp_path / name).write_text(f"{guess}\n\n{own}\n")
    before = label_files(tmp_path)
    with pytest.raises(SystemExit, match=f"{name}, line 3, is no guess of MediaPipe"):
        run(points)
    assert label_files(tmp_path) == before
