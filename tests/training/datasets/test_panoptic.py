"""CMU Panoptic hands, from the files of the data set's page to samples."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricate_datasets import panoptic as fabricator
from fabricate_datasets.scenes import Scene, make_scenes

from handmim.errors import DataError
from handmim.training.datasets.check import check_reader
from handmim.training.datasets.panoptic import Panoptic
from handmim.training.datasets.registry import open_dataset

SIDES = ("left", "right")
LABELLED = [joint for joint in range(21) if joint not in fabricator.UNLABELLED]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return make_scenes(2, seed=21, size=(240, 200), side=SIDES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, scenes: list[Scene]) -> Path:
    folder = tmp_path_factory.mktemp("panoptic")
    fabricator.write(folder, scenes)
    return folder


@pytest.mark.parametrize(("split", "hands"), [("manual_train", 2), ("manual_test", 2), ("synth", 8)])
def test_hands_with_a_file_each(root: Path, scenes: list[Scene], split: str, hands: int) -> None:
    reader = open_dataset("panoptic", root, split)
    assert len(reader) == hands and reader[0].id.endswith("/00000_01_l")
    for number, sample in enumerate(reader):
        assert sample.handedness == SIDES[number % 2] and sample.image.is_file()
        points = sample.labels["keypoints_2d"]
        np.testing.assert_allclose(points[LABELLED], scenes[number % 2].keypoints_2d[LABELLED], atol=1e-4)
        assert np.isnan(points[list(fabricator.UNLABELLED)]).all()
    assert check_reader(reader, images=True).ok


def test_frames_of_the_dome_have_no_side(root: Path, scenes: list[Scene]) -> None:
    reader = Panoptic(root, "multiview")
    assert [sample.id for sample in reader] == [f"hand143_panopticdb/imgs/0000000{n}" for n in range(2)]
    assert all(sample.handedness is None for sample in reader) and "which hands" in reader.notes[0]
    np.testing.assert_allclose(reader[1].labels["keypoints_2d"][LABELLED], scenes[1].keypoints_2d[LABELLED], atol=1e-4)


def test_contents(root: Path, tmp_path: Path) -> None:
    parts = {(part.path, part.purpose[:6]): part for part in Panoptic.contents(root)}
    part = parts["hand_labels/manual_test", "labels"]
    assert (part.found, part.expected, part.required) == (2, 846, True)
    assert sum(part.expected for (_, kind), part in parts.items() if kind == "labels") == 1912 + 846 + 14261 + 1
    assert not any(part.found for part in Panoptic.contents(tmp_path))


def test_missing_and_wrong_files_are_named(root: Path, scenes: list[Scene], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manual_train is missing: unpack hand_labels.zip"):
        Panoptic(tmp_path)
    copy = shutil.copytree(root, tmp_path / "copy")
    label = copy / "hand_labels/manual_train/00001_01_r.json"
    for changes, message in (
        ({"is_left": None}, "is_left must be 0 or 1, got None"),
        ({"hand_pts": [[0, 0, 1]] * 20}, r"hand_pts must have shape \(21, 3\), got \(20, 3\)"),
    ):
        fabricator.write_label(label, scenes[1], **changes)
        with pytest.raises(DataError, match=f"00001_01_r.json.*{message}"):
            Panoptic(copy)
    label.write_text("[1, 2")
    with pytest.raises(DataError, match="00001_01_r.json is not JSON"):
        Panoptic(copy)
    fabricator.write_label(label, scenes[1], hand_pts=[[0, 0, 0]] * 21)
    reader = Panoptic(copy)
    assert len(reader) == 1 and reader.notes == ["1 hands without a labelled keypoint were left out"]
    label.with_suffix(".jpg").unlink()
    with pytest.raises(DataError, match="00001_01_r.jpg is missing"):
        Panoptic(copy)


def test_paths_of_the_dome_stay_below_it(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    file = copy / "hand143_panopticdb/hands_v143_14817.json"
    records = json.loads(file.read_text())
    records["root"][1]["img_paths"] = "../../../etc/passwd"
    file.write_text(json.dumps(records))
    with pytest.raises(DataError, match=r"root\[1\] names the file .*not below"):
        Panoptic(copy, "multiview")
