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


def test_only_what_was_cut_out_is_changed(folder: Path) -> None:
    """Lines of other pictures and foregrounds from elsewhere were erased."""
    lines = script.read_lines(folder / "train.jsonl")
    Image.new("L", (200, 160)).save(folder / "mine.png")
    script.write(folder / "train-mine.jsonl", (json.dumps(lines[0] | {"foreground": "mine.png"}) + "\n\n").encode())
    night = json.dumps(lines[0] | {"image": "night.png", "foreground": ".foregrounds/night.png.png"}) + "\n"
    script.write(folder / "train-night.jsonl", night.encode())
    lines[1]["foreground"] = ".foregrounds/all.png.png"  # of an earlier run, which could tell
    lines += [lines[0] | {"keypoints_2d": [None, *lines[0]["keypoints_2d"][1:]], "id": "gap"}]
    script.write(folder / "train.jsonl", "\n".join(map(json.dumps, lines[::-1])).encode())
    assert script.cut_out_all(folder, "train") == (1, 3)
    assert script.read_lines(folder / "train-mine.jsonl")[0]["foreground"] == "mine.png"
    assert (folder / "train-night.jsonl").read_text() == night
    assert "foreground" not in script.read_lines(folder / "train.jsonl")[1]


@pytest.mark.parametrize("image", ["../outside.png", "/etc/outside.png", "some/../../outside.png"])
def test_pictures_elsewhere_are_refused(folder: Path, image: str) -> None:
    Image.new("RGB", (20, 16)).save(folder.parent / "outside.png")
    with pytest.raises(SystemExit, match="outside.png' is not below"):
        script.read_picture(folder, image)


def test_pictures_are_taken_as_they_are_shown(folder: Path) -> None:
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "phone.jpg", exif=exif)
    assert script.read_picture(folder, "phone.jpg").size == (20, 30)


def test_hands_that_cannot_be_told_are_left_out() -> None:
    close = (POINTS - [100, 80]) * 8 + [100, 80]  # its bones cover the picture
    for points in (close, POINTS + 500, None):  # or lies beyond the picture, or is not known
        assert script.cut_out(Image.new("RGB", (200, 160), "red"), points) is None
