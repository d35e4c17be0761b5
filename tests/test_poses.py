"""Poses stay within the joints' ranges and out of each other, never depend on the batch, and vary widely."""

import math

import pytest
import torch

from handmim.geometry import axis_angle_to_matrix
from handmim.synthesis import anatomy as anatomy_module
from handmim.synthesis.anatomy import (
    axes_from_skeleton,
    forward_kinematics,
    open_hand_anatomy,
    penetration,
    rotation_from_angles,
    segment_distance,
)
from handmim.synthesis.poses import angles_to_pose, clamp_to_limits, library, limits, sample_angles, sample_poses
from handmim.synthesis.random import SampleRandom


@pytest.fixture(scope="module")
def angles() -> torch.Tensor:
    return sample_angles(SampleRandom(3, torch.arange(2000)))


def posed(angles: torch.Tensor) -> torch.Tensor:
    """(B, 5, 3, 3) angles -> (3, 5, 4, B) points."""
    anatomy = open_hand_anatomy()
    return forward_kinematics(rotation_from_angles(angles.permute(3, 1, 2, 0), anatomy), anatomy)


def test_rotations_are_flexion_then_abduction_about_the_axes():
    anatomy = open_hand_anatomy()
    angles = torch.randn(3, 5, 3, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    rotations = rotation_from_angles(angles, anatomy).permute(4, 2, 3, 0, 1)
    turn = [axis_angle_to_matrix(angles[k].movedim(-1, 0)[..., None] * anatomy.axes[:, :, k]) for k in range(3)]
    torch.testing.assert_close(rotations, turn[1] @ turn[0] @ turn[2], atol=1e-5, rtol=0)


def test_axes_form_right_handed_frames_near_the_skeleton():
    anatomy = open_hand_anatomy()
    assert torch.allclose(torch.linalg.det(anatomy.axes), torch.ones(5, 3), atol=1e-4)
    assert ((anatomy.axes * axes_from_skeleton(anatomy.joints)).sum(-1) > 0.9).all()


def test_flexion_curls_towards_the_palm_and_abduction_towards_the_thumb():
    rest = posed(torch.zeros(1, 5, 3, 3))[..., 0]
    flexed, abducted = torch.zeros(1, 5, 3, 3), torch.zeros(1, 5, 3, 3)
    flexed[:, :, :, 0] = 0.6
    abducted[:, 1:, 0, 1] = 0.3
    assert (posed(flexed)[1, 1:, 3, 0] < rest[1, 1:, 3] - 0.03).all()  # the palm faces -y
    assert (posed(abducted)[2, 1:, 3, 0] > rest[2, 1:, 3] + 0.02).all()  # the thumb's side is +z


def test_kinematics_agree_with_the_hand_model(angles: torch.Tensor):
    hand_model = pytest.importorskip("handmim.hand_model")
    model = hand_model.HandModel("open")
    pose = angles_to_pose(angles[:8])
    output = model(torch.eye(3).expand(8, 3, 3), pose, torch.zeros(8, 10), None)
    points = posed(angles[:8]).permute(3, 1, 2, 0)[:, :, :3]
    torch.testing.assert_close(output.joints[:, 1:].unflatten(1, (5, 4))[:, :, :3], points, atol=2e-5, rtol=0)


def test_segment_distance_equals_a_dense_search():
    generator = torch.Generator().manual_seed(1)
    offset, u, v = (torch.randn(3, 200, generator=generator, dtype=torch.float64) for _ in range(3))
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    s, t = grid[:, None, None, None], grid[:, None, None]
    dense = (offset + s * u - t * v).norm(dim=2).flatten(0, 1).amin(0)
    exact = segment_distance(offset, u, v)
    assert (exact <= dense + 1e-9).all()
    assert (dense - exact).max() < 0.03  # the grid's own error


def test_penetration_sees_crossed_fingers_and_a_thumb_in_the_palm():
    anatomy = open_hand_anatomy()
    poses = torch.zeros(3, 5, 3, 3)
    poses[1, 1, 0, 1], poses[1, 2, 0, 1] = -0.5, 0.5  # index and middle finger through each other
    poses[2, 0, 0, 0], poses[2, 0, 0, 1] = 0.9, -0.9  # the thumb into the palm
    depth = penetration(posed(poses), anatomy)
    assert depth[0] < 0.002
    assert (depth[1:] > 0.006).all()


def test_samples_stay_within_limits(angles: torch.Tensor):
    low, high = limits()
    assert (angles >= low - 1e-6).all() and (angles <= high + 1e-6).all()
    torch.testing.assert_close(clamp_to_limits(angles), angles)
    bent = angles[:, 1:, 0, 0] > math.radians(85)
    assert angles[:, 1:, 0, 1][bent].abs().max() < math.radians(7)


def test_samples_do_not_collide(angles: torch.Tensor):
    depth = penetration(posed(angles), open_hand_anatomy())
    assert (depth < 0.003).float().mean() > 0.99
    assert depth.max() < 0.01


def test_library_entries_do_not_collide():
    names, angles, _ = library()
    depth = penetration(posed(angles), open_hand_anatomy())
    assert depth.max() < 0.005, names[depth.argmax()]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("split", [1, 3, 17, 64])
def test_samples_do_not_depend_on_the_batch(split: int):
    whole = sample_poses(SampleRandom(11, torch.arange(64)))
    parts = [sample_poses(SampleRandom(11, chunk)) for chunk in torch.arange(64).split(split)]
    assert torch.equal(whole, torch.cat(parts))


def test_samples_are_rotations_and_change_with_seed_and_index():
    poses = sample_poses(SampleRandom(0, torch.arange(32)))
    assert poses.shape == (32, 15, 3, 3) and poses.dtype == torch.float32
    identity = poses @ poses.transpose(-1, -2)
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-5, rtol=0)
    assert (torch.linalg.det(poses) > 0.99).all()
    assert not torch.equal(poses[:1], poses[1:2])
    assert not torch.equal(poses, sample_poses(SampleRandom(1, torch.arange(32))))


def test_poses_vary(angles: torch.Tensor):
    flexion = angles[:, 1:, :, 0].rad2deg()
    # Every finger's knuckle and middle joint use their range, and none dominates.
    assert (flexion[..., :2].flatten(1).std(0) > 28).all()
    straight, curled = flexion[..., 1] < 25, flexion[..., 1] > 70
    assert (straight.float().mean(0) > 0.25).all() and (curled.float().mean(0) > 0.25).all()
    # Fists, flat hands and pointing are all there; every up-or-down combination of the four fingers occurs.
    assert 0.05 < curled.all(1).float().mean() < 0.4
    assert 0.05 < straight.all(1).float().mean() < 0.4
    assert (straight[:, 0] & curled[:, 1:].all(1)).float().mean() > 0.015
    powers = torch.tensor([1, 2, 4, 8])
    assert set((straight * powers).sum(1)[(straight | curled).all(1)].tolist()) == set(range(16))
    # Knowing seven directions does not yet give the pose: it is no fan around a mean.
    tips = posed(angles)[:, :, 3].flatten(0, 1).T
    variance = torch.linalg.svdvals(tips - tips.mean(0)).square()
    assert variance[:5].sum() / variance.sum() < 0.93
    assert variance[0] / variance.sum() < 0.5


def test_collision_pairs_name_bones_and_metacarpals_once():
    first, second = anatomy_module._collision_pairs("cpu")
    assert first.max() < 15 and second.max() == 18
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first)
