"""YouTube 3D Hands' meshes in pixels come out as the scenes they were written from, up to the camera nobody knows."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fabricate_datasets import youtube3d as fabricator
from fabricate_datasets.cameras import seen_by
from fabricate_datasets.scenes import make_scenes, mano_arrays
from PIL import Image

from handmim.errors import DataError
from handmim.geometry import similarity_align
from handmim.training.datasets.label_checks import project_points
from handmim.training.datasets.registry import open_dataset
from handmim.training.datasets.youtube3d import YouTube3DHands

TIPS = [4, 8, 12, 16, 20]
SIDES = ("right", "left", "right", "left")


@pytest.fixture(scope="module")
def scenes():
    """Before cameras of other focal lengths than the reader assumes (400 pixels), beside the middle of the picture."""
    hands = make_scenes(4, seed=14, size=(320, 240), side=SIDES)
    cameras = [np.array([[focal, 0, 159.5], [0, focal, 119.5], [0, 0, 1]]) for focal in (330, 390, 440, 520)]
    return [seen_by(hand, camera, (320, 240), (0.1, -0.05)) for hand, camera in zip(hands, cameras, strict=True)]


@pytest.fixture(scope="module")
def written(tmp_path_factory, scenes) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("youtube")
    return root, fabricator.write(root, scenes)


@pytest.fixture()
def changeable(tmp_path: Path, written) -> tuple[Path, dict[str, Any]]:
    return shutil.copytree(written[0], tmp_path / "youtube"), copy.deepcopy(written[1])


def _distance(source: np.ndarray, target: np.ndarray) -> float:
    """Mean distance in metres after the best turn, shift and scale; no mirror image is made."""
    aligned = similarity_align(torch.from_numpy(source).double(), torch.from_numpy(target).double())[0].numpy()
    return float(np.linalg.norm(aligned - target, axis=1).mean())


def test_keypoints_are_those_of_the_scenes(written, scenes, mano_folder):
    reader = open_dataset("youtube3d", written[0], "train", hand_model_path=mano_folder)
    assert [sample.id for sample in reader] == ["70", "71", "72", "73"]
    for sample, scene in zip(reader, scenes, strict=True):
        points = sample.labels["keypoints_2d"]
        assert sample.handedness == scene.side
        np.testing.assert_array_equal(np.asarray(Image.open(sample.image)), scene.image)
        np.testing.assert_allclose(points[TIPS], scene.keypoints_2d[TIPS], atol=0.01)
        pixels = fabricator.pixel_mesh(scene)[:, :2]
        regressed = mano_arrays(scene.side)["J_regressor"] @ pixels
        # MANO's order, by name: wrist; index, middle, little, ring, thumb, three joints each.
        for row, finger in {1: 5, 4: 9, 7: 17, 10: 13, 13: 1}.items():
            np.testing.assert_allclose(points[finger : finger + 3], regressed[row : row + 3], atol=0.01)
        np.testing.assert_allclose(points[0], regressed[0], atol=0.01)
        # The fabricated regressor is made for the flat hand.
        assert np.abs(points - scene.keypoints_2d).max() < 0.15 * np.ptp(scene.keypoints_2d, 0).max()
        np.testing.assert_allclose(sample.box, [*pixels.min(0), *pixels.max(0)], atol=0.01)


def test_metric_meshes_have_the_shape_of_the_scenes(written, scenes, mano_folder):
    for sample, scene in zip(YouTube3DHands(written[0], hand_model_path=mano_folder), scenes, strict=True):
        vertices, joints = sample.labels["vertices"], sample.labels["joints"]
        assert _distance(vertices, scene.vertices) < 0.004 < 0.010 < _distance(vertices * [1, 1, -1], scene.vertices)
        relative, expected = vertices - joints[0], scene.vertices - scene.joints[0]
        # Size of the mean hand and an assumed camera: a fifth either way.
        assert 0.8 < np.linalg.norm(relative, axis=1).mean() / np.linalg.norm(expected, axis=1).mean() < 1.25
        cosine = (relative * expected).sum() / np.linalg.norm(relative) / np.linalg.norm(expected)
        assert cosine > 0.97
        np.testing.assert_allclose(project_points(joints, sample.intrinsics), sample.labels["keypoints_2d"], atol=0.01)
        np.testing.assert_allclose(
            project_points(vertices, sample.intrinsics), fabricator.pixel_mesh(scene)[:, :2], atol=0.01
        )


def test_depth_that_points_backwards_is_found(changeable, scenes, mano_folder):
    root, data = changeable
    for record in data["annotations"]:
        record["vertices"] = (np.array(record["vertices"]) * [1, 1, -1]).tolist()
    fabricator.write_annotations(root, data)
    reader = YouTube3DHands(root, hand_model_path=mano_folder)
    assert any("has been turned" in note for note in reader.notes)
    for sample, scene in zip(reader, scenes, strict=True):
        assert _distance(sample.labels["vertices"], scene.vertices) < 0.004


def test_a_wrong_side_is_noted(changeable, mano_folder):
    root, data = changeable
    data["annotations"][0]["is_left"] = 1
    fabricator.write_annotations(root, data)
    assert any(note.startswith("1 palms are mirror images") for note in YouTube3DHands(root, None, mano_folder).notes)


def test_without_mano_there_are_boxes_and_sides(written, scenes, monkeypatch, tmp_path):
    monkeypatch.setenv("HANDMIM_MANO_DIR", str(tmp_path))
    monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path))
    reader = YouTube3DHands(written[0])
    assert any("handmim mano install" in note for note in reader.notes)
    for sample, scene in zip(reader, scenes, strict=True):
        assert sample.labels == {} and sample.handedness == scene.side
        assert (sample.box[:2] < scene.box[:2] + 3).all() and (sample.box[2:] > scene.box[2:] - 3).all()


def test_metric_labels_can_be_left_out(written, mano_folder):
    sample = YouTube3DHands(written[0], "train", mano_folder, metric=False)[0]
    assert sample.labels.keys() == {"keypoints_2d"} and sample.intrinsics is None


def test_labels_follow_frames_of_another_resolution(changeable, written, mano_folder):
    root, data = changeable
    for image in data["images"][::2]:
        picture = Image.open(root / image["name"])
        picture.resize((640, 480)).save(root / image["name"])
    large, small = (YouTube3DHands(folder, hand_model_path=mano_folder) for folder in (root, written[0]))
    assert any(note.startswith("1 videos have another resolution") for note in large.notes)
    expected = (small[0].labels["keypoints_2d"] + 0.5) * 2 - 0.5
    np.testing.assert_allclose(large[0].labels["keypoints_2d"], expected, atol=0.01)
    np.testing.assert_allclose(large[0].labels["joints"], small[0].labels["joints"], atol=1e-4)
    np.testing.assert_allclose(large[1].labels["keypoints_2d"], small[1].labels["keypoints_2d"])
    Image.new("RGB", (640, 300)).save(root / data["images"][0]["name"])
    with pytest.raises(DataError, match="0.png has 640 x 300 pixels, its labels are for 320 x 240"):
        YouTube3DHands(root, hand_model_path=mano_folder)


def test_hands_without_frames_are_left_out(changeable, scenes, mano_folder):
    root, data = changeable
    (root / data["images"][1]["name"]).unlink()
    reader = YouTube3DHands(root, hand_model_path=mano_folder)
    assert [sample.id for sample in reader] == ["70", "72", "73"] and "1 of 4 frames" in reader.notes[0]
    np.testing.assert_allclose(reader[1].labels["keypoints_2d"][TIPS], scenes[2].keypoints_2d[TIPS], atol=0.01)
    parts = {part.path: part.found for part in YouTube3DHands.contents(root)}
    assert parts["youtube_train.json"] == 1 and parts["youtube/*/video/frames/*.png"] == 3
    shutil.rmtree(root / "youtube")
    with pytest.raises(DataError, match="none of 4 frames is there"):
        YouTube3DHands(root, hand_model_path=mano_folder)
    with pytest.raises(DataError, match="youtube_val.json is missing"):
        YouTube3DHands(root, "val")


def _short(record: dict[str, Any]) -> None:
    record["vertices"].pop()


def _nan(record: dict[str, Any]) -> None:
    record["vertices"][5][1] = float("nan")


def _side(record: dict[str, Any]) -> None:
    record["is_left"] = "yes"


def _unknown(record: dict[str, Any]) -> None:
    record["image_id"] = 1


def _outside(record: dict[str, Any]) -> None:
    record["vertices"] = (np.array(record["vertices"]) + 500).tolist()


def _huge(record: dict[str, Any]) -> None:
    record["vertices"][5][1] = -(10**400)


def _long_id(record: dict[str, Any]) -> None:
    record["image_id"] = 2**64


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (_huge, "vertices"),
        (_long_id, "image_id"),
        (_short, "vertices"),
        (_nan, "vertices"),
        (_side, "is_left"),
        (_unknown, "image_id"),
        (_outside, "vertices"),
    ],
)
def test_wrong_labels_are_named(changeable, mano_folder, damage: Callable, field: str):
    root, data = changeable
    damage(data["annotations"][2])
    fabricator.write_annotations(root, data)
    with pytest.raises(DataError, match=rf"youtube_train\.json: annotation 72: .*{field}"):
        YouTube3DHands(root, hand_model_path=mano_folder)


def test_two_frames_of_one_number_are_refused(changeable, mano_folder):
    root, data = changeable
    data["images"].append(data["images"][0] | {"name": data["images"][1]["name"]})
    fabricator.write_annotations(root, data)
    with pytest.raises(DataError, match=r"youtube_train\.json: images\[\d+\]: id \d+ is that of .* as well"):
        YouTube3DHands(root, hand_model_path=mano_folder)


def test_paths_out_of_the_root_are_refused(changeable, mano_folder):
    root, data = changeable
    data["images"][0]["name"] = "youtube/../../secret.png"
    fabricator.write_annotations(root, data)
    with pytest.raises(DataError, match="not below"):
        YouTube3DHands(root, hand_model_path=mano_folder)
