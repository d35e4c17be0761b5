"""Geometry: rotations, cameras, crops and alignment hold their algebra."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim import geometry

angles = st.floats(-3.1, 3.1, allow_nan=False)
vectors = st.tuples(angles, angles, angles).map(lambda v: torch.tensor(v, dtype=torch.float64))
pixels = st.floats(-500, 1500)


def random_rotations(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return geometry.axis_angle_to_matrix(torch.randn(count, 3, generator=generator, dtype=torch.float64))


@given(vectors)
def test_axis_angle_gives_rotations(axis_angle):
    rotmat = geometry.axis_angle_to_matrix(axis_angle)
    assert torch.allclose(rotmat @ rotmat.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.linalg.det(rotmat) == pytest.approx(1)
    assert torch.allclose(rotmat, torch.linalg.matrix_exp(geometry.skew(axis_angle)), atol=1e-9)


@given(vectors)
def test_axis_angle_round_trip(axis_angle):
    angle = axis_angle.norm()
    if angle > math.pi:  # the same rotation the short way round
        axis_angle = axis_angle * (1 - 2 * math.pi / angle)
    back = geometry.matrix_to_axis_angle(geometry.axis_angle_to_matrix(axis_angle))
    again = geometry.axis_angle_to_matrix(back)
    assert torch.allclose(again, geometry.axis_angle_to_matrix(axis_angle), atol=1e-9)
    assert back.norm() <= math.pi + 1e-9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns_survive(axis):
    axis_angle = torch.zeros(3, dtype=torch.float64)
    axis_angle[axis] = math.pi
    back = geometry.matrix_to_axis_angle(geometry.axis_angle_to_matrix(axis_angle))
    assert torch.allclose(back.abs(), axis_angle, atol=1e-6)


def test_gradient_at_zero_is_finite_and_right():
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(geometry.axis_angle_to_matrix, zero)


@given(vectors)
def test_rot6d_round_trip(axis_angle):
    rotmat = geometry.axis_angle_to_matrix(axis_angle)
    assert torch.allclose(geometry.rot6d_to_matrix(geometry.matrix_to_rot6d(rotmat)), rotmat, atol=1e-9)


@given(vectors)
def test_mirror_is_its_own_inverse_and_agrees_in_both_forms(axis_angle):
    rotmat = geometry.axis_angle_to_matrix(axis_angle)
    mirrored = geometry.mirror_matrix(rotmat)
    assert torch.equal(geometry.mirror_matrix(mirrored), rotmat)
    assert torch.allclose(geometry.axis_angle_to_matrix(geometry.mirror_axis_angle(axis_angle)), mirrored, atol=1e-12)


def test_projection_of_the_optical_axis_is_the_principal_point():
    intrinsics = geometry.default_intrinsics(640, 480)
    point = geometry.project(torch.tensor([[0.0, 0.0, 0.7]]), intrinsics)
    assert torch.allclose(point, torch.tensor([[319.5, 239.5]]))
    assert intrinsics[0, 0] == pytest.approx(800)


def test_crop_edges_follow_the_pixel_convention():
    affine = geometry.crop_affine(torch.tensor([9.5, 19.5, 29.5, 39.5]), size=40)
    corners = geometry.affine_points(affine, torch.tensor([[9.5, 19.5], [29.5, 39.5]]))
    assert torch.allclose(corners, torch.tensor([[-0.5, -0.5], [39.5, 39.5]]))


@given(pixels, pixels, st.floats(1, 900), st.floats(1, 900), st.booleans())
def test_affine_inverse(x, y, width, height, mirror):
    box = torch.tensor([x, y, x + width, y + height], dtype=torch.float64)
    affine = geometry.crop_affine(box, 224, mirror=mirror, scale=1.2)
    points = torch.tensor([[x, y], [0.0, 3.0]], dtype=torch.float64)
    there = geometry.affine_points(affine, points)
    assert torch.allclose(geometry.affine_points(geometry.invert_affine(affine), there), points, atol=1e-6)
    identity = geometry.compose_affine(geometry.invert_affine(affine), affine)
    assert torch.allclose(identity, torch.eye(2, 3, dtype=torch.float64), atol=1e-7)


@settings(max_examples=50)
@given(st.floats(-math.pi, math.pi), st.floats(0.1, 5), pixels, pixels, st.booleans())
def test_crop_camera_sees_what_the_crop_shows(angle, zoom, x, y, mirror):
    """Projecting the turned points with the crop's camera equals warping the projected points."""
    flip = -1.0 if mirror else 1.0
    cosine, sine = math.cos(angle) * zoom, math.sin(angle) * zoom
    affine = torch.tensor([[cosine * flip, -sine, x], [sine * flip, cosine, y]], dtype=torch.float64)
    intrinsics = geometry.default_intrinsics(640, 480).double()
    points = torch.tensor([[0.1, -0.2, 0.8], [-0.05, 0.02, 0.4], [0.0, 0.1, 1.5]], dtype=torch.float64)
    warped = geometry.affine_points(affine, geometry.project(points, intrinsics))
    turned = points @ geometry.crop_rotation(affine).T
    seen = geometry.project(turned, geometry.crop_intrinsics(affine, intrinsics))
    assert torch.allclose(seen, warped, atol=1e-6)


@given(st.floats(0.2, 3), st.floats(-2, 2), st.floats(-2, 2))
def test_camera_round_trip(scale, tx, ty):
    camera = torch.tensor([scale, tx, ty], dtype=torch.float64)
    intrinsics = geometry.crop_intrinsics(
        geometry.crop_affine(torch.tensor([100.0, 50.0, 300.0, 260.0]), 128), geometry.default_intrinsics(640, 480)
    ).double()
    wrist = geometry.camera_translation(camera, intrinsics, 128)
    assert torch.allclose(geometry.camera_from_translation(wrist, intrinsics, 128), camera, atol=1e-9)
    seen = geometry.project(wrist[None], intrinsics)[0]
    assert torch.allclose(seen, camera[1:] * 64 + 63.5, atol=1e-6)


def test_camera_scale_is_half_sides_per_decimetre():
    intrinsics = geometry.default_intrinsics(128, 128)
    wrist = geometry.camera_translation(torch.tensor([0.8, 0.0, 0.0]), intrinsics, 128)
    beside = wrist + torch.tensor([0.1, 0.0, 0.0])
    span = geometry.project(torch.stack([wrist, beside]), intrinsics)
    assert (span[1, 0] - span[0, 0]).item() == pytest.approx(0.8 * 64, rel=1e-5)


@given(vectors, st.floats(0.1, 10), vectors)
def test_similarity_is_recovered(axis_angle, scale, shift):
    generator = torch.Generator().manual_seed(3)
    source = torch.randn(21, 3, generator=generator, dtype=torch.float64)
    rotation = geometry.axis_angle_to_matrix(axis_angle)
    target = scale * source @ rotation.T + shift
    aligned, similarity = geometry.similarity_align(source, target)
    assert torch.allclose(aligned, target, atol=1e-8)
    assert torch.allclose(similarity.rotation, rotation, atol=1e-8)
    assert similarity.scale.item() == pytest.approx(scale)


def test_similarity_never_reflects():
    generator = torch.Generator().manual_seed(4)
    source = torch.randn(5, 21, 3, generator=generator, dtype=torch.float64)
    mirrored = source * source.new_tensor([-1.0, 1.0, 1.0])
    aligned, similarity = geometry.similarity_align(source, mirrored)
    assert torch.allclose(torch.linalg.det(similarity.rotation), torch.ones(5, dtype=torch.float64))
    assert (aligned - mirrored).norm(dim=-1).mean() > 0.1


def test_similarity_of_a_collapsed_source_is_finite():
    aligned, _ = geometry.similarity_align(torch.zeros(21, 3), torch.randn(21, 3))
    assert torch.isfinite(aligned).all()


def test_batches_equal_singles():
    rotations = random_rotations(7)
    batched = geometry.matrix_to_axis_angle(rotations)
    singles = torch.stack([geometry.matrix_to_axis_angle(r) for r in rotations])
    assert np.array_equal(batched.numpy(), singles.numpy())
