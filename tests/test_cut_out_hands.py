"""Photographed hands cut out: where a hand may be by its keypoints, what is written, and what is left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import conversion.cut_out_hands as script
from handmim.training.datasets.folder import LabelledFolder

# A flat hand that points up, px of a picture of 200 x 160: wrist, then the thumb and four fingers.
POINTS = np.array(
    [[100, 130]]
    + [[100 + 14 * k, 122 - 8 * k] for k in range(1, 5)]
    + [[112 - 10 * finger, 85 - 15 * k] for finger in range(4) for k in range(4)],
    float,
)  # fmt: skip


def test_regions_lie_in_one_another_and_around_the_hand() -> None:
    sure, near, reach = script.regions(POINTS, (200, 160))
    assert sure.shape == near.shape == reach.shape == (160, 200)
    assert not (sure & ~near).any() and not (near & ~reach).any() and sure.sum() < near.sum() < reach.sum()
    x, y = POINTS.round().astype(int).T
    assert sure[y, x].all()
    assert sure[110, 100] and sure[100, 100]  # the palm
    assert reach[155, 100] and reach[155, 130] and not near[155, 130]  # the arm may be anywhere below the hand
    assert not reach[20, 20] and not reach[100, 190]


def by_colour(pixels: np.ndarray, *regions: np.ndarray) -> np.ndarray:
    """Stands for GrabCut: the hand is red."""
    return (pixels[..., 0] > 150) & regions[-1]


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures of hands, the second as red as what is behind it; the first is in a part as well."""
    monkeypatch.setattr(script, "told_apart", by_colour)
    hand = script.painted((200, 160), script.bones(POINTS), 9.0)
    pixels = np.zeros((160, 200, 3), np.uint8)
    pixels[..., 0] = 220 * hand
    (tmp_path / "some").mkdir()
    Image.fromarray(pixels).save(tmp_path / "some/red.png")
    Image.new("RGB", (200, 160), "red").save(tmp_path / "all.png")
    lines = [
        {"image": name, "handedness": "right", "keypoints_2d": POINTS.tolist(), "info": "é"}
        for name in ("some/red.png", "all.png")
    ]
    for name, chosen in (("train", lines), ("train-palm", lines[:1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chosen))
    return tmp_path


def test_foregrounds_are_written_and_named(folder: Path) -> None:
    assert script.cut_out_all(folder, "train") == (1, 2)
    for split in ("train", "train-palm"):
        reader = LabelledFolder(folder, split)
        found = reader[0].load_foreground()
        shown = np.asarray(Image.open(folder / "some/red.png"))[..., 0] > 0
        assert reader.has_foregrounds and (found != shown).mean() < 0.01
    assert LabelledFolder(folder, "train")[1].load_foreground is None
    assert not list(folder.rglob("*.tmp"))
    written = (folder / "train.jsonl").read_text()
    assert script.cut_out_all(folder, "train") == (1, 2) and (folder / "train.jsonl").read_text() == written


def test_a_hand_that_fills_its_surroundings_is_left_out() -> None:
    close = (POINTS - [100, 80]) * 8 + [100, 80]  # its bones cover the picture
    assert script.cut_out(Image.new("RGB", (200, 160), "red"), close) is None
