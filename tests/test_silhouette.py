"""Tests of the differentiable silhouette."""

import pytest
import torch
from torch import Tensor

from handmim.geometry import axis_angle_to_matrix, project
from handmim.hand_model import HandModel
from handmim.rendering import render_mask
from handmim.silhouette import _squared_distances, outline_edges, segment_distance, soft_silhouette

SIDE = 48
INTRINSICS = torch.tensor([[120.0, 0, 23.5], [0, 120.0, 23.5], [0, 0, 1]])


def square(depth: float = 1.0, half: float = 0.1) -> tuple[Tensor, Tensor]:
    """A square facing the camera, (1, 4, 3) and faces (2, 3)."""
    corners = torch.tensor([[-half, -half, depth], [half, -half, depth], [half, half, depth], [-half, half, depth]])
    return corners[None], torch.tensor([[0, 1, 2], [0, 2, 3]])


def posed_hands(count: int) -> tuple[Tensor, Tensor]:
    """Open hands seen from several sides, (count, V, 3), and their faces."""
    torch.manual_seed(0)
    hand = HandModel("open")
    orient = axis_angle_to_matrix(torch.randn(count, 3))
    pose = axis_angle_to_matrix(0.3 * torch.randn(count, 15, 3))
    vertices = hand(orient, pose, torch.zeros(count, 10)).vertices
    centre = vertices.mean(1, keepdim=True)
    return (vertices - centre + torch.tensor([0.0, 0.0, 0.5])).detach(), hand.faces


def test_agrees_with_the_hard_mask() -> None:
    vertices, faces = posed_hands(6)
    soft = soft_silhouette(vertices, faces, INTRINSICS.expand(6, 3, 3), SIDE, SIDE)
    hard = render_mask(vertices, faces, INTRINSICS, SIDE, SIDE)
    assert hard.float().mean() > 0.05
    assert torch.equal(soft > 0.5, hard)
    assert soft.min() >= 0 and soft.max() <= 1


def test_coverage_is_the_sigmoid_of_the_distance_to_the_outline() -> None:
    vertices, faces = square()
    soft = soft_silhouette(vertices, faces, INTRINSICS[None], SIDE, SIDE, sharpness=1.0)[0]
    # the right edge is at 120 * .1 + 23.5 = 35.5 px; the diagonal inside is no outline
    expected = torch.sigmoid(35.5 - torch.arange(30.0, 42.0))
    assert torch.allclose(soft[24, 30:42], expected, atol=1e-3)
    assert soft[24, 24] == pytest.approx(1, abs=1e-3)


def test_gradients_equal_finite_differences() -> None:
    vertices, faces = square()
    weight = torch.linspace(0, 1, SIDE) * torch.linspace(0.3, 1, SIDE)[:, None]
    vertices.requires_grad_(True)

    def value(points: Tensor) -> Tensor:
        return (weight * soft_silhouette(points, faces, INTRINSICS[None], SIDE, SIDE, sharpness=1.0)[0]).sum()

    value(vertices).backward()
    step = 1e-3
    for vertex, axis in ((0, 0), (1, 1), (2, 0), (3, 2)):
        moved = torch.zeros_like(vertices)
        moved[0, vertex, axis] = step
        with torch.no_grad():
            difference = (value(vertices + moved) - value(vertices - moved)) / (2 * step)
        assert vertices.grad[0, vertex, axis] == pytest.approx(difference.item(), rel=0.03, abs=0.5)


def test_gradients_of_a_hand_point_the_way_finite_differences_do() -> None:
    vertices, faces = posed_hands(4)
    weight = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4), (SIDE, SIDE), mode="bicubic")[0, 0]
    shift = torch.zeros(4, 3, requires_grad=True)

    def value(move: Tensor) -> Tensor:
        soft = soft_silhouette(vertices + move[:, None], faces, INTRINSICS.expand(4, 3, 3), SIDE, SIDE, 1.0)
        return (weight * soft).sum((1, 2))

    value(shift).sum().backward()
    step, differences = 4e-3, []
    for axis in range(3):
        move = step * torch.eye(3)[axis].expand(4, 3)
        with torch.no_grad():
            differences.append((value(move) - value(-move)) / (2 * step))
    expected = torch.stack(differences, 1)
    similarity = torch.nn.functional.cosine_similarity(shift.grad.flatten(), expected.flatten(), dim=0)
    assert similarity > 0.97


def test_fits_a_moved_and_turned_hand_back_to_its_mask() -> None:
    vertices, faces = posed_hands(1)
    target = render_mask(vertices, faces, INTRINSICS, SIDE, SIDE).float()
    centre = vertices.mean(1, keepdim=True)
    turn = torch.tensor([[0.0, 0.0, 0.35]], requires_grad=True)
    move = torch.tensor([[0.025, -0.02, 0.03]], requires_grad=True)
    optimizer = torch.optim.Adam([turn, move], lr=0.02)

    def overlap(coverage: Tensor) -> Tensor:
        union = (coverage + target - coverage * target).sum()
        return (coverage * target).sum() / union

    scores = []
    for _ in range(60):
        placed = (vertices - centre) @ axis_angle_to_matrix(turn).transpose(1, 2) + centre + move[:, None]
        score = overlap(soft_silhouette(placed, faces, INTRINSICS[None], SIDE, SIDE, 1.0))
        optimizer.zero_grad()
        (1 - score).backward()
        optimizer.step()
        scores.append(score.item())
    final = overlap(render_mask(placed.detach(), faces, INTRINSICS, SIDE, SIDE).float())
    assert scores[0] < 0.5 and final > 0.93


def test_outline_edges_are_at_the_border_of_the_mask() -> None:
    vertices, faces = posed_hands(2)
    camera = torch.tensor([[480.0, 0, 95.5], [0, 480.0, 95.5], [0, 0, 1]])
    inside = render_mask(vertices, faces, camera, 192, 192)
    points = torch.cat([project(vertices, camera), vertices[..., 2:]], -1)
    outline = outline_edges(points, faces, inside)
    assert len(outline.start) > 100
    middle = (points.flatten(0, 1)[outline.start, :2] + points.flatten(0, 1)[outline.end, :2]) / 2
    padded = torch.nn.functional.max_pool2d(1 - inside[:, None].float(), 5, 1, 2)[:, 0]
    shown = ((middle > 0) & (middle < 191)).all(-1)
    column, row = middle[shown].round().long().unbind(-1)
    assert (padded[outline.image[shown], row, column] > 0).all()  # a bare pixel is never far


def test_nothing_in_the_picture_gives_zeros_and_a_zero_gradient() -> None:
    vertices, faces = square()
    vertices = (vertices + torch.tensor([5.0, 0, 0])).requires_grad_(True)
    soft = soft_silhouette(vertices, faces, INTRINSICS[None], SIDE, SIDE)
    soft.sum().backward()
    assert soft.abs().max() == 0 and vertices.grad.abs().max() == 0
    vertices = vertices.detach() - torch.tensor([0.0, 0, 1]) * vertices.detach()[..., 2:]  # in the camera's plane
    assert soft_silhouette(vertices, faces, INTRINSICS[None], SIDE, SIDE).abs().max() == 0


def test_segment_distance_by_hand() -> None:
    start, end = torch.tensor([0.0, 0.0]), torch.tensor([4.0, 0.0])
    points = torch.tensor([[2.0, 3.0], [-3.0, 4.0], [7.0, -4.0]])
    assert torch.allclose(segment_distance(points, start, end), torch.tensor([3.0, 5.0, 5.0]))
    assert segment_distance(points[:1], start, start).item() == pytest.approx(13**0.5)


def test_squared_distances_are_those_of_segments() -> None:
    """The fast distances that choose the nearest edge, points and edges anywhere in a picture of 64 px."""
    generator = torch.Generator().manual_seed(0)
    position = 64 * torch.rand(200, 2, generator=generator)
    start = 64 * torch.rand(50, 2, generator=generator)
    end = start + torch.randn(50, 2, generator=generator)
    end[:3] = start[:3]  # an edge of no length is a point
    exact = segment_distance(position[:, None], start, end).square()
    torch.testing.assert_close(_squared_distances(position, start, end), exact, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("depth", [0.0, 1e-30, -1e-12])
def test_a_vertex_in_the_plane_of_the_camera_spoils_no_gradient(depth: float) -> None:
    vertices, faces = square()
    further = torch.tensor([[[0.0, 0.0, depth], [0.2, 0.1, depth]]])
    for triangles in (faces, torch.cat([faces, torch.tensor([[2, 1, 4], [3, 2, 5]])])):
        points = torch.cat([vertices, further], 1).requires_grad_(True)
        camera = INTRINSICS.clone().requires_grad_(True)
        soft = soft_silhouette(points, triangles, camera, SIDE, SIDE)
        soft.sum().backward()
        assert soft.sum() > 100 and points.grad.isfinite().all() and camera.grad.isfinite().all()
        assert points.grad[0, :4].any() and not points.grad[0, 4:].any()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_mesh_without_faces_is_nowhere(batch: int) -> None:
    vertices = torch.rand(batch, 5, 3).add(0.5).requires_grad_()
    picture = soft_silhouette(vertices, torch.zeros(0, 3, dtype=torch.int64), torch.eye(3) * 20, 12, 16)
    assert picture.shape == (batch, 12, 16) and not picture.any()
    picture.sum().backward()
    assert not vertices.grad.any()
