"""Heat maps and part orientation fields against slow references."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.targets_hiu_dmtl import (
    BONES,
    bone_orientations,
    gaussian_heatmaps,
    part_orientation_fields,
    to_cells,
)

HEIGHT, WIDTH = 12, 10


def random_hand(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 21, 2, generator=generator) * 14 - 2, torch.randn(1, 21, 3, generator=generator)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_heatmaps_are_the_papers_formula(seed: int) -> None:
    keypoints, _ = random_hand(seed)
    maps = gaussian_heatmaps(keypoints, 1.5, HEIGHT, WIDTH)[0]
    for joint in (0, 7, 20):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                square = (x - keypoints[0, joint, 0]) ** 2 + (y - keypoints[0, joint, 1]) ** 2
                assert abs(maps[joint, y, x] - math.exp(-square / (2 * 1.5**2))) < 1e-5


def slow_field(keypoints: torch.Tensor, joints: torch.Tensor, radius: float) -> torch.Tensor:
    field = torch.zeros(20, 3, HEIGHT, WIDTH)
    for bone, (parent, child) in enumerate(BONES):
        a, b = keypoints[parent], keypoints[child]
        direction, space = b - a, joints[child] - joints[parent]
        value = torch.cat([direction / direction.norm(), space[2:] / space.norm()])
        for y in range(HEIGHT):
            for x in range(WIDTH):
                share = ((torch.tensor([x, y]) - a) @ direction / (direction @ direction)).clamp(0, 1)
                if (torch.tensor([x, y]) - a - share * direction).norm() <= radius:
                    field[bone, :, y, x] = value
    return field


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_fields_are_equation_2(seed: int) -> None:
    keypoints, joints = random_hand(seed)
    field = part_orientation_fields(keypoints, joints, 1.3, HEIGHT, WIDTH)
    different = (field[0] - slow_field(keypoints[0], joints[0], 1.3)).abs() > 1e-5
    assert different.float().mean() < 2e-3  # cells exactly at the radius may round either way
    assert field.abs().amax() > 0


def test_every_joint_but_the_wrist_ends_a_bone() -> None:
    assert [child for _, child in BONES] == list(range(1, 21))
    assert [parent for parent, child in BONES if child in (1, 5, 9, 13, 17)] == [0] * 5


def test_missing_labels_are_nan_where_nothing_is_known() -> None:
    keypoints, joints = random_hand(0)
    keypoints[0, 8], joints[0, 12] = torch.nan, torch.nan
    field = part_orientation_fields(keypoints, joints, 1.0, HEIGHT, WIDTH)[0]
    assert field[7].isnan().all()  # the bone 7 -> 8 has no place
    on_bone = field[11, 0].abs() + field[11, 1].abs() > 0
    assert field[11, 2].isnan().equal(on_bone)  # 11 -> 12 has a place, but its z is unknown there
    flat = bone_orientations(keypoints, None)
    assert flat[..., 2].isnan().all() and not flat[0, 0, :2].isnan().any()
    assert gaussian_heatmaps(keypoints, 1.0, HEIGHT, WIDTH)[0, 8].isnan().all()


def test_cells_cover_the_crop() -> None:
    corners = torch.tensor([[-0.5, -0.5], [255.5, 255.5], [1.5, 1.5]])
    assert torch.allclose(to_cells(corners, 256, 64), torch.tensor([[-0.5, -0.5], [63.5, 63.5], [0.0, 0.0]]))
