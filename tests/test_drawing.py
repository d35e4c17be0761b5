"""Overlay pictures: what they change, what they leave, and who hides whom."""

import numpy as np
import pytest
import torch

from handmim.drawing import FINGER_COLORS, draw_keypoints, overlay
from handmim.rendering import render_mask

INTRINSICS = torch.tensor([[80.0, 0, 39.5], [0, 80, 29.5], [0, 0, 1]])


def ball(x: float, y: float, z: float, radius: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """A closed sphere of latitude and longitude strips, outward winding."""
    rings, sectors = 12, 24
    polar, around = torch.meshgrid(
        torch.linspace(0, torch.pi, rings + 1), torch.linspace(0, 2 * torch.pi, sectors + 1)[:-1], indexing="ij"
    )
    points = torch.stack([polar.sin() * around.cos(), polar.sin() * around.sin(), polar.cos()], -1).reshape(-1, 3)
    i, j = torch.meshgrid(torch.arange(rings), torch.arange(sectors), indexing="ij")
    a, b = (i * sectors + j).reshape(-1), (i * sectors + (j + 1) % sectors).reshape(-1)
    faces = torch.cat([torch.stack([a, a + sectors, b], 1), torch.stack([b, a + sectors, b + sectors], 1)])
    return points * radius + torch.tensor([x, y, z]), faces


def photo(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_overlay_changes_the_hand_and_nothing_else() -> None:
    vertices, faces = ball(0.05, -0.02, 0.6)
    image = photo()
    before = image.copy()
    drawn = overlay(image, [(vertices, faces, (200, 40, 40))], INTRINSICS, side_view=False)
    assert (image == before).all() and drawn.dtype == np.uint8 and drawn.shape == image.shape
    mask = render_mask(vertices[None], faces, INTRINSICS, 60, 80)[0]
    near_hand = torch.nn.functional.max_pool2d(mask[None].float(), 3, 1, 1)[0].bool().numpy()
    changed = (drawn != image).any(-1)
    assert not changed[~near_hand].any()
    assert changed[mask.numpy()].mean() > 0.95
    hand = drawn[mask.numpy()].mean(0)
    assert hand[0] > 1.5 * hand[1] and hand[0] > 1.5 * hand[2]


def test_edges_are_antialiased() -> None:
    drawn = overlay(np.zeros((60, 80, 3), np.uint8), [(*ball(0, 0, 0.6), (255, 255, 255))], INTRINSICS, False)
    column = drawn[30, :, 0].astype(int)
    edge = column[(column > 0).argmax()]
    assert 0 < edge < 0.9 * column[column > 0][1:6].mean()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_hand_hides_the_farther(order: tuple[int, int]) -> None:
    hands = [(*ball(0, 0, 0.5, 0.05), (255, 0, 0)), (*ball(0, 0, 0.8, 0.2), (0, 0, 255))]
    drawn = overlay(np.zeros((60, 80, 3), np.uint8), [hands[i] for i in order], INTRINSICS, False)
    red, _, blue = drawn[30, 40].astype(int)
    assert red > blue + 50
    red, _, blue = drawn[30, 40 + 14].astype(int)
    assert blue > red + 50


def test_side_view_brings_far_hands_near() -> None:
    """A hand a long way behind another one, and higher, must not make both too small to be seen."""
    vertices = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    faces = torch.arange(60).reshape(20, 3)
    near = vertices + torch.tensor([0.0, 0.0, 0.5])
    far = vertices + torch.tensor([0.0, -1.5, 6.0])
    image = np.zeros((100, 100, 3), np.uint8)
    panel = overlay(image, [(near, faces, (250, 0, 0)), (far, faces, (0, 0, 250))], INTRINSICS)[:, 100:].astype(int)
    red, blue = (panel[..., 0] > panel[..., 2] + 50).nonzero(), (panel[..., 2] > panel[..., 0] + 50).nonzero()
    assert np.ptp(red[1]) > 30 and np.ptp(blue[1]) > 30  # of 100
    assert red[1].mean() < blue[1].mean() - 20 and blue[0].mean() < red[0].mean() - 20


def test_side_view_shows_depth_to_the_right() -> None:
    near, far = (*ball(0, 0, 0.5, 0.05), (255, 0, 0)), (*ball(0, 0, 0.9, 0.05), (0, 0, 255))
    drawn = overlay(photo(), [near, far], INTRINSICS)
    assert drawn.shape == (60, 80 + 60, 3)
    panel = drawn[:, 80:].astype(int)
    red = (panel[..., 0] > panel[..., 2] + 50).nonzero()[1]
    blue = (panel[..., 2] > panel[..., 0] + 50).nonzero()[1]
    assert len(red) and len(blue) and red.max() < blue.min()


def test_no_hand_and_unseen_hands() -> None:
    image = photo()
    assert (overlay(image, [], INTRINSICS, False) == image).all()
    assert overlay(image, [], INTRINSICS).shape == (60, 140, 3)
    behind = [(*ball(0, 0, -0.6), None), (*ball(5, 0, 0.6), None)]
    assert (overlay(image, behind, INTRINSICS, False) == image).all()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (1, 40), (2400, 2000)])
def test_any_size_of_picture(height: int, width: int) -> None:
    focal = 0.4 * max(height, width)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    image = np.zeros((height, width, 3), np.uint8)
    vertices, faces = ball(0, 0, 0.3)
    drawn = overlay(image, [(vertices.numpy(), faces.numpy(), None)], intrinsics, side_view=False)
    assert drawn[height // 2, width // 2].max() > 60 and drawn[0, 0].max() == 0
    # The strips of a large picture meet without a seam.
    assert (np.diff((drawn[:, width // 2] > 0).any(-1).astype(int)) == 1).sum() <= 1


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_wrong_images_raise(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        overlay(image, [], INTRINSICS)
    with pytest.raises(ValueError, match="uint8"):
        draw_keypoints(image, np.zeros((21, 2)))


def test_wrong_meshes_and_keypoints_raise() -> None:
    with pytest.raises(ValueError, match=r"\(7, 2\)"):
        overlay(photo(), [(np.zeros((7, 2)), np.zeros((1, 3), int), None)], INTRINSICS)
    with pytest.raises(ValueError, match="21"):
        draw_keypoints(photo(), np.zeros((16, 2)))


def skeleton() -> np.ndarray:
    points = np.zeros((21, 2))
    points[0] = (40, 55)
    for finger in range(5):
        for k in range(4):
            points[1 + 4 * finger + k] = (10 + 15 * finger, 40 - 9 * k)
    return points


def test_keypoints_are_drawn_where_they_are() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    points = skeleton()
    drawn = draw_keypoints(image, torch.tensor(points))
    assert image.max() == 0
    for finger, color in enumerate(FINGER_COLORS):
        x, y = points[4 * finger + 3].astype(int)
        assert np.abs(drawn[y, x].astype(int) - color).max() < 80, finger
    changed = drawn.any(-1)
    y, x = changed.nonzero()
    assert changed.mean() < 0.4 and y.min() > 9 and x.min() > 6 and x.max() < 74


def test_missing_and_distant_keypoints_are_left_out() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    points = skeleton()
    points[5:9] = np.nan
    points[12] = 1e12
    drawn = draw_keypoints(image, points)
    whole = draw_keypoints(image, skeleton())
    assert drawn[40, 25].max() == 0 and whole[40, 25].max() > 0
    assert (draw_keypoints(photo(), np.full((21, 2), np.nan)) == photo()).all()
    assert (draw_keypoints(photo(), skeleton() + 500) == photo()).all()
