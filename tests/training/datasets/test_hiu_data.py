"""HIU-Data, as far as its form is known."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricate_datasets import hiu_data as fabricator
from fabricate_datasets.scenes import Scene, make_scenes

from handmim.errors import DataError
from handmim.training.datasets.check import check_reader
from handmim.training.datasets.hiu_data import HIUData
from handmim.training.datasets.registry import open_dataset

HALVES = (0, 1, 0)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return make_scenes(3, seed=51, size=(200, 180), side=("right", "left", "right"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, scenes: list[Scene]) -> Path:
    folder = tmp_path_factory.mktemp("hiu")
    fabricator.write(folder, scenes, HALVES)
    return folder


def test_keypoints_masks_and_sides(root: Path, scenes: list[Scene]) -> None:
    reader = open_dataset("hiu-data", root)
    assert [sample.id for sample in reader] == ["hand0-1", "hand1-2", "hand2-1"]
    assert [sample.image.name for sample in reader] == ["hand0.jpg", "hand1.png", "hand2.jpg"]
    for sample, scene in zip(reader, scenes, strict=True):
        assert sample.handedness == scene.side and set(sample.labels) == {"keypoints_2d"}
        np.testing.assert_allclose(sample.labels["keypoints_2d"][:20], scene.keypoints_2d[:20], atol=1e-4)
        assert np.isnan(sample.labels["keypoints_2d"][20]).all()
        np.testing.assert_array_equal(sample.load_mask(), scene.mask)
    assert check_reader(reader, images=True).ok
    inner = HIUData(root / fabricator.FOLDER)[1]
    np.testing.assert_array_equal(inner.labels["keypoints_2d"], reader[1].labels["keypoints_2d"])


def test_sides_are_as_chosen(root: Path) -> None:
    assert [sample.handedness for sample in HIUData(root, first="left")] == ["left", "right", "left"]
    assert {sample.handedness for sample in HIUData(root, first="unknown")} == {None}
    with pytest.raises(DataError, match="first must be one of right, left, unknown, got 'both'"):
        HIUData(root, first="both")


def test_two_hands_are_two_samples_without_a_mask(root: Path, scenes: list[Scene], tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "hiu")
    label = copy / fabricator.FOLDER / "hand1.json"
    fabricator.write_label(label, {0: scenes[0], 1: scenes[1]})
    reader = HIUData(copy)
    assert [sample.id for sample in reader] == ["hand0-1", "hand1-1", "hand1-2", "hand2-1"]
    assert [sample.load_mask is None for sample in reader] == [False, True, True, False]
    np.testing.assert_allclose(reader[1].labels["keypoints_2d"][:20], scenes[0].keypoints_2d[:20], atol=1e-4)
    fabricator.write_label(label, {1: scenes[1]}, hand_type=[0, 0], hand_type_valid=[0, 0])
    assert HIUData(copy)[1].id == "hand1-2" and HIUData(copy)[1].handedness is None
    fabricator.write_label(label, {})
    assert len(HIUData(copy)) == 2 and HIUData(copy).notes[1] == "1 pictures without a labelled hand were left out"


def test_train_and_test_share_no_picture(scenes: list[Scene], tmp_path: Path) -> None:
    fabricator.write(tmp_path, [scenes[0]] * 40, [0] * 40)
    ids = {split: {sample.id for sample in HIUData(tmp_path, split)} for split in HIUData.splits}
    assert ids["train"] | ids["test"] == ids["all"] and not ids["train"] & ids["test"]
    assert 0 < len(ids["test"]) < 12


def test_contents_and_faults(root: Path, scenes: list[Scene], tmp_path: Path) -> None:
    parts = HIUData.contents(root)
    assert [part.found for part in parts] == [3, 3, 3] and parts[0].path == "to_cv_community/*.json"
    assert [part.found for part in HIUData.contents(tmp_path)] == [0, 0, 0]
    with pytest.raises(DataError, match="has no label file"):
        HIUData(tmp_path)
    copy = shutil.copytree(root, tmp_path / "hiu")
    (copy / fabricator.FOLDER / "hand2_mask.png").unlink()
    assert HIUData(copy)[2].load_mask is None
    label = copy / fabricator.FOLDER / "hand2.json"
    for changes, message in (
        ({"pts2d_2hand": [[0, 0]] * 21}, r"hand2.json: pts2d_2hand must have shape \(42, 2\), got \(21, 2\)"),
        ({"hand_type": "right"}, "hand2.json: hand_type must"),
        ({"pts2d_2hand": [[1e9, 3]] * 42}, "pts2d_2hand of sample hand2-1 has"),
    ):
        fabricator.write_label(label, {0: scenes[2]}, **changes)
        with pytest.raises(DataError, match=message):
            HIUData(copy)
    (copy / fabricator.FOLDER / "hand2.jpg").unlink()
    with pytest.raises(DataError, match="its picture hand2.jpg .* is missing"):
        HIUData(copy)
