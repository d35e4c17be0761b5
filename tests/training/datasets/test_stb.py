"""STB's order, millimetres and cameras come out as the hands that were before them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricate_datasets import stb as fabricator
from fabricate_datasets.scenes import make_scenes

from handmim.errors import DataError
from handmim.training.datasets.registry import open_dataset
from handmim.training.datasets.stb import STB

SEQUENCES = ("B1Counting", "B1Random")
CAMERAS = ("SK_color", "BB_left", "BB_right")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict[str, list[np.ndarray]]]:
    root = tmp_path_factory.mktemp("stb")
    return root, fabricator.write(root, make_scenes(2, seed=12, size=(320, 320), side="left"), SEQUENCES)


@pytest.fixture()
def changeable(tmp_path: Path, written) -> Path:
    return shutil.copytree(written[0], tmp_path / "stb")


@pytest.mark.parametrize("camera", CAMERAS)
def test_samples_are_the_hands_before_the_camera(written, camera: str):
    root, truth = written
    reader = open_dataset("stb", root, "test", cameras=camera)
    assert [sample.id for sample in reader] == [f"{name}/{camera}_{n}" for name in SEQUENCES for n in range(2)]
    official = fabricator.COLOUR if camera == "SK_color" else fabricator.STEREO
    for sample, joints in zip(reader, truth[camera] * 2, strict=True):
        assert sample.handedness == "left" and sample.image.is_file()
        np.testing.assert_allclose(sample.labels["joints"], joints, atol=1e-6)
        np.testing.assert_allclose(sample.intrinsics, official, rtol=1e-6)
        projected = joints @ official.T
        np.testing.assert_allclose(sample.labels["keypoints_2d"], projected[:, :2] / projected[:, 2:], atol=0.01)


def test_several_cameras_follow_each_other(written):
    reader = STB(written[0], "test", cameras=CAMERAS)
    assert len(reader) == 12 and reader[-1].id == "B1Random/BB_right_1"
    assert reader[2].image.name == "BB_left_0.png"
    with pytest.raises(IndexError):
        reader[12]


def test_wrist_can_be_left_out(written):
    reader = STB(written[0], "test", wrist="missing")
    assert "left out" in reader.notes[0]
    for label in reader[0].labels.values():
        assert np.isnan(label[0]).all() and np.isfinite(label[1:]).all()


def test_splits_are_the_published_ones(written):
    with pytest.raises(DataError, match="B2Counting_SK.mat is missing"):
        STB(written[0], "train")
    parts = {part.path: part for part in STB.contents(written[0])}
    assert (parts["labels/*_SK.mat"].found, parts["labels/*_SK.mat"].expected) == (2, 12)
    assert (parts["images/*/BB_left_*.png"].found, parts["images/*/BB_left_*.png"].expected) == (4, 18000)


def test_wrong_labels_are_named(changeable):
    file = changeable / "labels" / "B1Random_SK.mat"
    good = fabricator.hand_para(file)
    fabricator.write_labels(file, other=good)
    with pytest.raises(DataError, match="B1Random_SK.mat.*handPara"):
        STB(changeable, "test")
    hole = good.copy()
    hole[1, 5, 1] = np.nan
    damages = {
        "shape": good[:, :20],
        "B1Random/SK_color_1 has a number that is not finite": hole,
        "metres|before the camera": good * 1000,
        "lies out of its picture": good + [[[3000]], [[0]], [[0]]],
    }
    for message, points in damages.items():
        fabricator.write_labels(file, handPara=points)
        with pytest.raises(DataError, match=f"B1Random_SK.mat.*({message})"):
            STB(changeable, "test")


def test_missing_pictures_are_named(changeable):
    (changeable / "images" / "B1Random" / "SK_color_1.png").unlink()
    with pytest.raises(DataError, match=r"B1Random/SK_color_1\.png is missing"):
        STB(changeable, "test")
    assert len(STB(changeable, "test", cameras="BB_right")) == 4


def test_bad_options_are_refused(written):
    with pytest.raises(DataError, match="SK_depth"):
        STB(written[0], "test", cameras="SK_depth")
    with pytest.raises(DataError, match="palm"):
        STB(written[0], "test", wrist="palm")
