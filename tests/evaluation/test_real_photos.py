"""The manifest of real photographs is read as it says; what is wrong with it is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_reader import write_manifest
from PIL import Image

from handmim.errors import DataError
from handmim.evaluation.real_photos import RealPhotos


def entry(name: str, **changes: object) -> dict:
    points = np.random.default_rng(len(name)).uniform(10, 50, (21, 2)).tolist()
    joints = np.random.default_rng(7).normal([0, 0, 0.5], 0.03, (21, 3)).tolist()
    plain = {
        "id": name, "source": "camera", "image": "photo.png", "bbox": [10, 10, 50, 30], "bbox_source": "by eye",
        "handedness": "right", "keypoints_2d": points, "keypoints_3d": joints, "K": None,
    }  # fmt: skip
    return plain | changes


def write(folder: Path, samples: list, **top: object) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"format": "realdata manifest v1", "samples": samples} | top))
    return path


@pytest.fixture()
def manifest(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40)).save(tmp_path / "photo.png")
    partly = entry("b")["keypoints_2d"]
    partly[4] = None
    return write(
        tmp_path,
        [
            entry("a"),
            entry("b", keypoints_2d=partly, handedness="left", source="film", split="held-out", keypoints_3d=None),
            entry("c", bbox_source="mmpose annotation (tight on keypoints)", K=np.eye(3).tolist()),
            entry("no side", handedness=None),
            entry("no keypoints", keypoints_2d=None),
        ],
    )


def test_manifest(manifest: Path) -> None:
    reader = RealPhotos(manifest)
    assert [sample.id for sample in reader] == ["a", "b", "c"] and reader.groups == ["camera", "film", "camera"]
    assert [s.id for s in RealPhotos(manifest.parent, "dev")] == ["a", "c"]
    assert [s.id for s in RealPhotos(manifest, "held-out")] == ["b"]
    a, b, c = reader
    assert np.isnan(b.labels["keypoints_2d"][4]).all() and np.isfinite(b.labels["keypoints_2d"][5]).all()
    assert set(b.labels) == {"keypoints_2d"} and a.intrinsics is None and b.handedness == "left"
    np.testing.assert_allclose(c.box, [5.2, 7.6, 54.8, 32.4])  # tight: 24 % more, about the same centre
    np.testing.assert_array_equal(c.intrinsics, np.eye(3))
    assert "2 hands" in reader.notes[0]


def test_masks(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), bool)
    mask[10:20, 30:50] = True
    write_manifest(tmp_path, 2)
    Image.fromarray(mask).save(tmp_path / "mask0.png")
    np.testing.assert_array_equal(RealPhotos(tmp_path)[0].load_mask(), mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"image": "gone.png"}, "gone.png is missing: .*sample a"), ({"image": "../x.png"}, "not below"),
     ({"image": None}, "sample a: image is missing"), ({"image": 3}, "sample a: image must be text, got a number"),
     ({"mask": "gone.png"}, "gone.png"), ({"bbox": [1, 2, 3]}, "sample a: bbox must be 4 numbers, got 3"),
     ({"bbox": [1, None, 3, 4]}, r"sample a: bbox must be x0, y0, x1, y1 in pixels, got \[1, None, 3, 4\]"),
     ({"bbox": None}, "sample a: bbox must be x0, y0, x1, y1 in pixels, got None"),
     ({"bbox": [50, 10, 10, 30]}, "sample a, bbox: .* has no area"),
     ({"keypoints_2d": [[1, 2]] * 20}, "sample a: keypoints_2d must be 21 x 2 numbers, got 20 x 2"),
     ({"keypoints_2d": [[1]] * 21}, "sample a: keypoints_2d"), ({"keypoints_3d": "x"}, "sample a: keypoints_3d must"),
     ({"keypoints_2d": [[float("inf"), 2]] + [[1, 2]] * 20}, "sample a: keypoints_2d holds NaN or Infinity; write"),
     ({"keypoints_2d": [None] * 21}, "sample a, keypoints_2d: none of the points is labelled; leave it out"),
     ({"keypoints_3d": [[x, 300 * x, 500] for x in range(21)]}, "sample a, keypoints_3d: .*write metres"),
     ({"K": [[1, 2], [3, 4]]}, "sample a: K must be 3 x 3 numbers, got 2 x 2"), ({"id": None}, "has no id"),
     ({"handedness": "Right"}, "sample a: handedness must be 'left' or 'right', got 'Right'")],
)  # fmt: skip
def test_wrong_entries_are_named(manifest: Path, changes: dict, message: str) -> None:
    write(manifest.parent, [entry("a", **changes)])
    with pytest.raises(DataError, match=message):
        RealPhotos(manifest)


def test_millimetres_are_told(manifest: Path) -> None:
    """Errors of two metres were reported without a word."""
    metres = np.array(entry("a")["keypoints_3d"])
    write(manifest.parent, [entry("a", keypoints_3d=(1000 * metres).tolist())])
    said = "manifest.json has labels that cannot be right: sample a, keypoints_3d: .* millimetres; write metres"
    with pytest.raises(DataError, match=said):
        RealPhotos(manifest)


def test_an_id_counts_once(manifest: Path) -> None:
    write(manifest.parent, [entry("a"), entry("b"), entry("a")])
    with pytest.raises(DataError, match="sample a, id: another sample has this id"):
        RealPhotos(manifest)


def test_splits_are_those_of_the_manifest(manifest: Path) -> None:
    """A part that the manifest called test could not be asked for."""
    write(manifest.parent, [entry("a", split="test"), entry("b"), entry("c", split="odd light")])
    assert RealPhotos(manifest).splits == ("all", "dev", "odd light", "test")
    assert [s.id for s in RealPhotos(manifest, "test")] == ["a"] and len(RealPhotos(manifest)) == 3
    with pytest.raises(DataError, match="one of all, dev, odd light, test, got 'held-out'; .*manifest.json names no"):
        RealPhotos(manifest, "held-out")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other", "samples": []}', '{"samples": {}}', "3"])
def test_wrong_manifests(manifest: Path, text: str) -> None:
    manifest.write_text(text)
    with pytest.raises(DataError, match="manifest"):
        RealPhotos(manifest)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="manifest.json is missing"):
        RealPhotos(tmp_path)
    with pytest.raises(DataError, match="split of real-photos must be one of all"):
        RealPhotos(write_manifest(tmp_path), "test")
