"""The real-world test set of Ge et al., from centimetres and whole frames to metres and crops."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricate_datasets import ge as fabricator
from fabricate_datasets.scenes import Scene, make_scenes
from scipy.io import loadmat, savemat

from handmim.errors import DataError
from handmim.training.datasets.check import check_reader
from handmim.training.datasets.ge import GeRealWorld
from handmim.training.datasets.registry import open_dataset


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scene]]:
    root = tmp_path_factory.mktemp("ge")
    return root, fabricator.write(root, make_scenes(2, seed=31, size=(240, 240), side="left"))


def test_joints_are_metres_and_project_into_the_crops(written: tuple[Path, list[Scene]]) -> None:
    root, frames = written
    reader = open_dataset("ge", root)
    boxes = loadmat(root / "params.mat")["bbox"]
    assert [sample.id for sample in reader] == ["00000", "00001"]
    for sample, frame, (x, y, side, _) in zip(reader, frames, boxes, strict=True):
        assert sample.handedness == "left" and sample.image.is_file()
        np.testing.assert_allclose(sample.labels["joints"], frame.joints, atol=1e-6)
        # Where the points of the whole frame are after cutting and scaling, centre of pixel to centre of pixel; the
        # authors' camera differs by less than half a pixel.
        carried = (frame.keypoints_2d - [x, y] + 0.5) * fabricator.CROP / side - 0.5
        np.testing.assert_allclose(sample.labels["keypoints_2d"], carried, atol=0.5)
        assert carried.min() > 0 and carried.max() < fabricator.CROP
    report = check_reader(reader, images=True)
    assert report.ok and not report.warning_counts


def test_real_values_of_the_authors_camera() -> None:
    """The formula of view_realworld_data.py, written out for one box."""
    from handmim.training.datasets.ge import crop_cameras

    camera = crop_cameras(np.array([[1000.0, 1010.0, 640.0, 360.0]]), np.array([[500.0, 300.0, 512.0, 512.0]]))[0]
    np.testing.assert_allclose(camera, [[500, 0, 70], [0, 505, 30], [0, 0, 1]])


def test_contents(written: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    parts = {part.path: part for part in GeRealWorld.contents(written[0])}
    assert (parts["images"].found, parts["images"].expected) == (2, 583) and parts["pose_gt.mat"].found
    assert [part.found for part in GeRealWorld.contents(tmp_path)] == [0, 0, 0]


def test_wrong_files_are_named(written: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    root = shutil.copytree(written[0], tmp_path / "ge")
    cameras = {name: value for name, value in loadmat(root / "params.mat").items() if name[0] != "_"}
    joints = loadmat(root / "pose_gt.mat")["pose_gt"]
    for values, message in (
        (joints * 1000, "0 to 10 m before the camera"),
        (joints * [1, -1, -1], "before the camera"),
        (joints[:, :20], r"pose_gt must have shape \(N, 21, 3\)"),
        (joints[:1], "pose_gt.mat has 1, .*params.mat/cam_param has 2"),
        (joints + [0, 100, 0], "lies out of its picture"),
    ):
        savemat(root / "pose_gt.mat", {"pose_gt": values})
        with pytest.raises(DataError, match=message):
            GeRealWorld(root)
    savemat(root / "pose_gt.mat", {"pose_gt": joints})
    fabricator.write_params(root, **{**cameras, "bbox": cameras["bbox"] * 0})
    with pytest.raises(DataError, match="params.mat: intrinsics of sample 0"):
        GeRealWorld(root)
    fabricator.write_params(root, cam_param=cameras["cam_param"])
    with pytest.raises(DataError, match="params.mat must hold .*'bbox'"):
        GeRealWorld(root)
    fabricator.write_params(root, **cameras)
    (root / "images/00001.jpg").unlink()
    with pytest.raises(DataError, match=r"images/00001.jpg is missing"):
        GeRealWorld(root)
