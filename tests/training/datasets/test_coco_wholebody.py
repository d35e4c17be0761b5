"""COCO-WholeBody's hands come out as the scenes they were written from."""

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate_datasets import coco_wholebody as fabricator
from fabricate_datasets.scenes import make_scenes

from handmim.errors import DataError
from handmim.training.datasets import json_records
from handmim.training.datasets.coco_wholebody import CocoWholeBody, hand_box
from handmim.training.datasets.registry import open_dataset


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(3, seed=13, size=(320, 240), side=("right", "left", "right"))


@pytest.fixture(scope="module")
def written(tmp_path_factory, scenes) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("coco")
    return root, fabricator.write(root, scenes)


@pytest.fixture()
def changeable(tmp_path: Path, written) -> tuple[Path, dict[str, Any]]:
    return shutil.copytree(written[0], tmp_path / "coco"), copy.deepcopy(written[1])


# Small pieces: records that begin in one and end in another must be read as well.
@pytest.mark.parametrize(("piece", "quick"), [(97, True), (97, False), (2**22, True), (2**22, False)])
def test_samples_are_the_scenes(written, scenes, piece: int, quick: bool, monkeypatch):
    monkeypatch.setattr(json_records, "PIECE_CHARACTERS", piece)
    if not quick:
        monkeypatch.setitem(sys.modules, "simdjson", None)
    reader = open_dataset("coco-wholebody", written[0], "val")
    assert [sample.id for sample in reader] == ["5000-right", "5001-left", "5002-right"]
    for number, (sample, scene) in enumerate(zip(reader, scenes, strict=True)):
        expected = scene.keypoints_2d.copy()
        if number == 0:
            expected[2] = np.nan
        np.testing.assert_allclose(sample.labels["keypoints_2d"], expected, atol=1e-4)
        assert sample.handedness == scene.side and sample.visibility is None and sample.intrinsics is None
        assert sample.image.name == f"{100 + 7 * number:012d}.jpg" and sample.image.is_file()
        assert (sample.box[:2] < scene.box[:2]).all() and (sample.box[2:] > scene.box[2:]).all()
        assert sample.labels.keys() == {"keypoints_2d"}


def test_both_hands_of_a_person_are_samples(changeable, scenes):
    root, data = changeable
    other = scenes[1]
    data["annotations"][0] |= {
        key: value for key, value in data["annotations"][1].items() if key.startswith(f"{other.side}hand")
    }
    fabricator.write_annotations(root, data)
    left, right = CocoWholeBody(root, "val")[0], CocoWholeBody(root, "val")[1]
    assert (left.id, right.id) == ("5000-left", "5000-right") and left.image == right.image
    np.testing.assert_allclose(left.labels["keypoints_2d"], other.keypoints_2d, atol=1e-4)


def test_boxes_hold_the_official_one_and_the_flesh():
    keypoints = np.array([[40, 50], [80, 60], [np.nan, np.nan]], np.float32)
    margin = 0.12 * 40
    tight = hand_box(np.array([40, 50, 40, 10], np.float32), keypoints)
    np.testing.assert_allclose(tight, [40 - margin, 50 - margin, 80 + margin, 60 + margin], atol=1e-4)
    wide = hand_box(np.array([20, 30, 100, 90], np.float32), keypoints)
    np.testing.assert_allclose(wide, [20, 30, 120, 120])
    np.testing.assert_allclose(hand_box(np.zeros(4, np.float32), keypoints), tight)


def test_confidence_can_leave_points_out(written):
    keypoints = CocoWholeBody(written[0], "val", min_confidence=0.2)[1].labels["keypoints_2d"]
    assert np.flatnonzero(np.isnan(keypoints[:, 0])).tolist() == [4, 9, 14, 19]


def test_points_outside_are_left_out_and_counted(changeable):
    root, data = changeable
    data["annotations"][1]["lefthand_kpts"][12] = 2000.0
    fabricator.write_annotations(root, data)
    reader = CocoWholeBody(root, "val")
    assert np.isnan(reader[1].labels["keypoints_2d"][4]).all() and "1 keypoints" in reader.notes[0]


@pytest.mark.parametrize("quick", [True, False])
def test_braces_in_texts_and_nested_records_are_no_ends(tmp_path, quick: bool, monkeypatch):
    if not quick:
        monkeypatch.setitem(sys.modules, "simdjson", None)
    first = {"segmentation": {"counts": [1], "size": [2, 3]}, "text": '}], \\" {"', "id": 1}
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"other": [[{"a": []}], 5.25], "images": [], "annotations": [first, {"id": 2**70}]}))
    records = list(json_records.json_records(file, ("images", "annotations")))
    assert records == [("annotations", 0, first), ("annotations", 1, {"id": 2**70})]


def test_a_hand_of_one_point_has_its_official_box_or_goes(changeable):
    root, data = changeable
    for record, side in zip(data["annotations"][:3], ("right", "left", "right"), strict=True):
        record[f"{side}hand_kpts"][3:] = [0.0] * 60
    data["annotations"][2]["righthand_box"] = [0.0] * 4
    fabricator.write_annotations(root, data)
    reader = CocoWholeBody(root, "val")
    assert [sample.id for sample in reader] == ["5000-right", "5001-left"] and "1 valid hands" in reader.notes[0]
    for sample, record, side in zip(reader, data["annotations"], ("right", "left"), strict=False):
        x, y, width, height = record[f"{side}hand_box"]
        np.testing.assert_allclose(sample.box, [x, y, x + width, y + height], rtol=1e-6)


def test_two_pictures_of_one_number_are_refused(changeable):
    root, data = changeable
    data["images"].append(dict(data["images"][0]))  # the same once more is no fault
    fabricator.write_annotations(root, data)
    assert len(CocoWholeBody(root, "val")) == 3
    data["images"].append(data["images"][1] | {"id": data["images"][0]["id"]})
    fabricator.write_annotations(root, data)
    with pytest.raises(DataError, match=r"images\[4\]: id 100 is that of '000000000100.jpg' as well"):
        CocoWholeBody(root, "val")


def test_a_byte_order_mark_is_passed_over(changeable):
    root, _ = changeable
    file = root / "annotations" / "coco_wholebody_val_v1.0.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(CocoWholeBody(root, "val")) == 3


def test_other_places_of_the_files(changeable):
    root, _ = changeable
    (root / "annotations" / "coco_wholebody_val_v1.0.json").rename(root / "coco_wholebody_val_v1.0.json")
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images" / "val2017")
    assert len(CocoWholeBody(root, "val")) == 3
    parts = {part.path: part.found for part in CocoWholeBody.contents(root)}
    assert parts["coco_wholebody_val_v1.0.json"] == 1 and parts["images/val2017"] == 3 and parts["train2017"] == 0


def _short(data: dict[str, Any]) -> None:
    data["annotations"][1]["lefthand_kpts"].pop()


def _nan(data: dict[str, Any]) -> None:
    data["annotations"][1]["lefthand_kpts"][5] = float("nan")


def _text(data: dict[str, Any]) -> None:
    data["annotations"][1]["lefthand_box"][0] = "ten"


def _no_flag(data: dict[str, Any]) -> None:
    del data["annotations"][1]["lefthand_valid"]


def _no_picture(data: dict[str, Any]) -> None:
    data["annotations"][1]["image_id"] = 3


def _outside(data: dict[str, Any]) -> None:
    data["annotations"][1]["lefthand_kpts"][0::3] = [700.0] * 21


def _huge(data: dict[str, Any]) -> None:
    data["annotations"][1]["lefthand_kpts"][5] = 10**400


def _long_id(data: dict[str, Any]) -> None:
    data["annotations"][1]["image_id"] = 2**70


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (_huge, "lefthand_kpts"),
        (_long_id, "image_id"),
        (_short, "lefthand_kpts"),
        (_nan, "lefthand_kpts"),
        (_text, "lefthand_box"),
        (_no_flag, "lefthand_valid"),
        (_no_picture, "image_id 3"),
        (_outside, "lefthand_kpts"),
    ],
)
def test_wrong_labels_are_named(changeable, damage: Callable, field: str):
    root, data = changeable
    damage(data)
    fabricator.write_annotations(root, data)
    with pytest.raises(DataError, match=rf"coco_wholebody_val_v1\.0\.json: annotation 5001.*{field}"):
        CocoWholeBody(root, "val")


@pytest.mark.parametrize("name", ["../000000000100.jpg", "/etc/passwd"])
def test_paths_out_of_the_root_are_refused(changeable, name: str):
    root, data = changeable
    data["images"][0]["file_name"] = name
    fabricator.write_annotations(root, data)
    with pytest.raises(DataError, match="not below"):
        CocoWholeBody(root, "val")


def test_missing_and_damaged_files_are_named(changeable):
    root, _ = changeable
    with pytest.raises(DataError, match=r"coco_wholebody_train_v1\.0\.json is missing"):
        CocoWholeBody(root)
    file = root / "annotations" / "coco_wholebody_val_v1.0.json"
    whole = file.read_text()
    for damaged in (whole[: len(whole) // 2], "[1, 2]", '{"images": []}', '{"images": [3], "annotations": []}', "\x00"):
        file.write_text(damaged)
        with pytest.raises(DataError, match=r"coco_wholebody_val_v1\.0\.json"):
            CocoWholeBody(root, "val")
    file.write_text(whole)
    (root / "val2017" / "000000000107.jpg").unlink()
    with pytest.raises(DataError, match=r"000000000107\.jpg is missing"):
        CocoWholeBody(root, "val")
