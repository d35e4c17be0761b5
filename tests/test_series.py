"""Series on disk: each layout is read back by its reader, an interrupted run goes on, nothing is written over."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handmim.errors import DataError
from handmim.images import load_image
from handmim.synthesis import SyntheticBatch, generate, series
from handmim.synthesis.layouts import LAYOUTS, coco_person
from handmim.synthesis.series import MANIFEST, Series, write_series
from handmim.training.datasets.coco_wholebody import CocoWholeBody
from handmim.training.datasets.freihand import FreiHAND

SIZE, SEED, START = 64, 7, 40


def small(layout: str = "folder", split: str = "train", **changes: object) -> Series:
    return Series(
        **{"split": split, "count": 5, "start": START, "seed": SEED, "size": SIZE, "layout": layout} | changes
    )


@pytest.fixture(scope="module")
def truth() -> SyntheticBatch:
    """The pictures of `small` in the layouts of others, which show a right hand each."""
    return generate(SEED, range(START, START + 5), size=SIZE, negatives=0.0)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("split", "official"), [("train", "training"), ("test", "evaluation")])
def test_freihand_reads_its_layout(tmp_path: Path, truth: SyntheticBatch, split: str, official: str) -> None:
    assert write_series(tmp_path, small("freihand", split))
    data = FreiHAND(tmp_path, official, versions=("gs",), meshes=False)
    assert len(data) == 5 and data.hand_model is None
    for row, sample in enumerate(data):
        assert sample.labels.keys() == {"joints", "keypoints_2d"} and sample.handedness == "right"
        np.testing.assert_allclose(sample.labels["joints"], truth.labels["joints"][row], atol=1e-5)
        np.testing.assert_allclose(sample.labels["keypoints_2d"], truth.labels["keypoints_2d"][row], atol=0.02)
        np.testing.assert_allclose(sample.intrinsics, truth.intrinsics[row], atol=1e-4)
        assert (sample.load_mask() != truth.mask[row].numpy()).mean() < 0.01
        difference = load_image(sample.image).pixels.astype(int) - truth.images[row].numpy()
        assert np.abs(difference).mean() < 4  # JPEG
    with pytest.raises(DataError, match=f"{official}_verts.json is missing.*meshes=False"):
        FreiHAND(tmp_path, official, versions=("gs",))
    scale = json.loads((tmp_path / f"{official}_scale.json").read_text())
    assert all(0.02 < length < 0.06 for length in scale)


def test_coco_wholebody_reads_its_layout(tmp_path: Path, truth: SyntheticBatch) -> None:
    assert write_series(tmp_path, small("coco-wholebody"))
    data = CocoWholeBody(tmp_path, "train")
    assert [sample.handedness for sample in data] == ["right", "left", "right", "left", "right"]
    for row, sample in enumerate(data):
        pixels, points = truth.images[row].numpy(), truth.labels["keypoints_2d"][row].numpy().copy()
        if sample.handedness == "left":
            pixels, points[:, 0] = pixels[:, ::-1], SIZE - 1 - points[:, 0]
        inside = ((points >= -0.5) & (points <= SIZE - 0.5)).all(1)
        np.testing.assert_allclose(sample.labels["keypoints_2d"][inside], points[inside], atol=1e-4)
        assert np.isnan(sample.labels["keypoints_2d"][~inside]).all()
        assert np.abs(load_image(sample.image).pixels.astype(int) - pixels).mean() < 4
        assert (sample.box[:2] <= points[inside].min(0)).all() and (sample.box[2:] >= points[inside].max(0)).all()


def test_a_person_of_coco_has_one_hand() -> None:
    points = np.stack([np.linspace(-10, 50, 21), np.linspace(5, 40, 21)], 1)
    right, left = (coco_person(9, picture, points, 64) for picture in (2, 3))
    assert (right["righthand_valid"], right["lefthand_valid"], left["lefthand_valid"]) == (True, False, True)
    assert right["lefthand_kpts"] == [0.0] * 63 and right["image_id"] == 2
    labelled = np.reshape(right["righthand_kpts"], (21, 3))
    assert (labelled[:4] == 0).all() and (labelled[4:, 2] == 1).all()  # the first lie outside
    mirrored = np.reshape(left["lefthand_kpts"], (21, 3))
    np.testing.assert_allclose(mirrored[4:, 0], 63 - labelled[4:, 0], atol=1e-6)
    x, y, width, height = right["righthand_box"]
    assert x == 0 and y == 0 and 50 < x + width <= 63 and 40 < y + height <= 63


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_interrupted_series_goes_on(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "CHUNK", 2)
    drawn: list[int] = []

    def stops_at(limit: int):
        def draw(seed: int, index: range, **options: object) -> SyntheticBatch:
            if len(drawn) >= limit:
                raise KeyboardInterrupt
            drawn.append(index.start)
            return generate(seed, index, **options)

        return draw

    write_series(tmp_path / "whole", small(layout))
    monkeypatch.setattr(series, "generate", stops_at(2))
    with pytest.raises(KeyboardInterrupt):
        write_series(tmp_path / "parts", small(layout))
    assert not any(path.exists() for path in LAYOUTS[layout](tmp_path / "parts", "train").label_files())
    (tmp_path / "parts" / ".series-train" / f"{START:08d}.npz").write_bytes(b"PK damaged")
    monkeypatch.setattr(series, "generate", stops_at(99))
    told: list[int] = []
    assert write_series(tmp_path / "parts", small(layout), told.append)
    assert drawn == [START, START + 2, START, START + 4]  # what is damaged, and what was missing
    assert told == [2, 2, 1]
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert not write_series(tmp_path / "parts", small(layout)) and len(drawn) == 4
    (tmp_path / "parts" / ".series-train").mkdir()  # as one leaves it that is killed at its very end
    assert not write_series(tmp_path / "parts", small(layout))
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_variety_of_tuples_is_known_again(tmp_path: Path) -> None:
    """Written, they become lists."""
    kind = small(variety={"base": "plain", "poses": (1, 0, 0, 0, 0)})
    assert write_series(tmp_path, kind) and not write_series(tmp_path, kind)


def test_splits_lie_side_by_side(tmp_path: Path) -> None:
    write_series(tmp_path, small())
    assert write_series(tmp_path, small(split="val", start=START + 5))
    with pytest.raises(DataError, match="train has other pictures with indices from 40 to 44"):
        write_series(tmp_path, small(split="test", seed=SEED + 1, count=2))
    assert write_series(tmp_path, small(split="test", seed=SEED + 1, start=500))
    assert json.loads((tmp_path / MANIFEST).read_text())["splits"].keys() == {"train", "val", "test"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_share_no_picture(layout: str, tmp_path: Path) -> None:
    """Every split begins at index 0 unless it is told otherwise: a test set was part of what was trained on."""
    kind = {"base": "plain", "poses": (1, 0, 0, 0, 0)}
    write_series(tmp_path, small(layout, variety=kind))
    last = list(LAYOUTS[layout].splits)[-1]
    again = small(layout, last, start=START + 3, count=1, size=48, variety=kind)
    with pytest.raises(DataError, match="train has the same pictures with indices from 40 to 44: choose --start 45"):
        write_series(tmp_path, again)
    assert write_series(tmp_path, replace(again, start=45))
    assert not write_series(tmp_path, small(layout, variety=kind))  # what is there stays


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "split train was begun with seed 7, not 8"),
        ({"count": 6}, "begun with count 5, not 6"),
        ({"betas": (1.0,) + 9 * (0.0,)}, "begun with betas None"),
        ({"layout": "freihand"}, "has the layout folder, not freihand"),
        ({"split": "val", "start": -3}, r"index must lie in \[0, 2\^62\), got -3"),
        ({"split": "val", "betas": (float("nan"),) + 9 * (0.0,)}, "betas must be 10 finite numbers"),
        ({"split": "val", "size": 8}, "size must be at least 16 px"),
    ],
)
def test_nothing_is_written_over(changes: dict, message: str, tmp_path: Path) -> None:
    write_series(tmp_path, small())
    before = files(tmp_path)
    with pytest.raises(DataError, match=message):
        write_series(tmp_path, small(**changes))
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"format": 3}',
        '{"format": "handmim series 1", "splits": {"a": 1}}',
        '{"format": "handmim series 1", "splits": {"a": {"start": "0", "count": 5}}}',
    ],
)
def test_a_strange_manifest_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match="synthesis.json is not one that handmim synthesize wrote"):
        write_series(tmp_path, small())


def test_a_shape_that_is_refused_does_not_block_the_next(tmp_path: Path) -> None:
    """Its manifest was there, and the corrected command was another series."""
    with pytest.raises(DataError, match="betas must be 10 finite numbers"):
        write_series(tmp_path, small(betas=(float("nan"),) + 9 * (0.0,)))
    assert not files(tmp_path) and write_series(tmp_path, small())


def test_labels_of_unknown_origin_and_unknown_splits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="train.jsonl is there already"):
        write_series(tmp_path, small())
    with pytest.raises(DataError, match="freihand has the splits train, test, got 'val'"):
        write_series(tmp_path, small("freihand", "val"))


def test_pictures_and_masks_of_the_own_layout(tmp_path: Path) -> None:
    write_series(tmp_path, small(betas=tuple(torch.linspace(-1, 1, 10).tolist())))
    picture, mask = (Image.open(tmp_path / folder / f"{START:08d}.png") for folder in ("images", "masks"))
    assert (picture.mode, mask.mode, picture.size) == ("RGB", "1", (SIZE, SIZE))
    with np.load(tmp_path / "train.npz") as labels:
        assert labels["index"].tolist() == list(range(START, START + 5)) and "size" not in labels
