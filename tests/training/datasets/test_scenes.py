"""The scenes that every miniature data set is written from agree with themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fabricate_datasets.scenes import Scene, make_scenes, mano_order

from handmim.geometry import axis_angle_to_matrix, project
from handmim.hand_model import HandModel


@pytest.fixture(scope="module", params=["right", "left"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return make_scenes(3, seed=1, side=request.param)[2]


def test_the_written_model_gives_the_vertices_and_joints(scene: Scene, mano_folder: Path) -> None:
    model = HandModel("mano", scene.side, mano_folder)
    tensors = [torch.from_numpy(getattr(scene, name))[None] for name in ("global_orient", "hand_pose", "betas")]
    out = model(*tensors, torch.from_numpy(scene.translation)[None])
    assert model.num_vertices == 778
    np.testing.assert_allclose(out.vertices[0], scene.vertices, atol=2e-6)
    np.testing.assert_allclose(out.joints[0], scene.joints, atol=2e-5)
    pose = torch.from_numpy(scene.axis_angle(relative_to_mean=True)[3:]).float() + model.hands_mean
    np.testing.assert_allclose(axis_angle_to_matrix(pose.view(15, 3)), scene.hand_pose, atol=1e-5)


def test_labels_lie_on_the_picture(scene: Scene) -> None:
    projected = project(torch.from_numpy(scene.joints), torch.from_numpy(scene.intrinsics)).numpy()
    np.testing.assert_allclose(projected, scene.keypoints_2d, atol=1e-3)
    x, y = scene.keypoints_2d[scene.visibility].round().astype(int).T
    assert scene.mask[y, x].mean() > 0.8
    rows, columns = np.nonzero(scene.mask)
    spread = np.abs(np.array([columns.mean(), rows.mean()]) - scene.keypoints_2d.mean(0)).max()
    assert spread < 0.3 * np.ptp(scene.keypoints_2d, 0).max()


def test_scenes_are_the_same_again() -> None:
    first, again = make_scenes(3, seed=1)[1], make_scenes(3, seed=1)[1]
    assert first is again
    assert np.array_equal(mano_order(first.joints)[[13, 16, 20]], first.joints[[1, 4, 20]])
