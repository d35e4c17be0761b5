"""The rasteriser against a slow per-pixel reference, and the properties its users rely on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim import rendering
from handmim.rendering import (
    depth_map,
    interpolate,
    interpolate_pixels,
    project_with_depth,
    rasterize,
    render_mask,
    vertex_normals,
)
from handmim.scan_conversion import Scan

HEIGHT, WIDTH = 11, 14


def sphere(subdivisions: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit sphere by subdivision of an octahedron, outward winding."""
    points = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    vertices = [np.array(p, float) for p in points]
    faces = [(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5), (3, 1, 5), (0, 3, 5)]
    for _ in range(subdivisions):
        middle: dict[tuple[int, int], int] = {}

        def halfway(a: int, b: int, middle: dict = middle) -> int:
            key = (min(a, b), max(a, b))
            if key not in middle:
                point = vertices[a] + vertices[b]
                vertices.append(point / np.linalg.norm(point))
                middle[key] = len(vertices) - 1
            return middle[key]

        finer = []
        for a, b, c in faces:
            ab, bc, ca = halfway(a, b), halfway(b, c), halfway(c, a)
            finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        faces = finer
    return torch.tensor(np.array(vertices), dtype=torch.float32), torch.tensor(faces)


def camera(size: int, focal: float = 1.5) -> torch.Tensor:
    return torch.tensor([[focal * size, 0, (size - 1) / 2], [0, focal * size, (size - 1) / 2], [0, 0, 1.0]])


def random_rotation(seed: int) -> torch.Tensor:
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))
    return rotation * rotation.det().sign()


def reference(points: np.ndarray, faces: np.ndarray, cull: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest face, its depth, and whether the pixel is clear of every edge and every tie."""
    face = np.full((HEIGHT, WIDTH), -1)
    depth = np.full((HEIGHT, WIDTH), np.inf)
    clear = np.ones((HEIGHT, WIDTH), bool)
    for v in range(HEIGHT):
        for u in range(WIDTH):
            hits = []
            for index, corners in enumerate(points[faces]):
                (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners
                area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
                if abs(area) < 1e-3:
                    clear[v, u] &= abs(area) == 0
                    continue
                if cull and area > 0:
                    continue
                wa = ((bx - u) * (cy - v) - (cx - u) * (by - v)) / area
                wb = ((cx - u) * (ay - v) - (ax - u) * (cy - v)) / area
                wc = 1 - wa - wb
                longest = max(
                    math.dist((ax, ay), (bx, by)), math.dist((bx, by), (cx, cy)), math.dist((cx, cy), (ax, ay))
                )
                # A weight times the triangle's height is a distance to an edge, at least area / longest wide.
                if abs(min(wa, wb, wc)) * abs(area) / longest < 1e-3:
                    clear[v, u] = False
                if min(wa, wb, wc) >= 0:
                    hits.append((1 / (wa / az + wb / bz + wc / cz), index))
            if hits:
                hits.sort()
                depth[v, u], face[v, u] = hits[0]
                if len(hits) > 1 and hits[1][0] - hits[0][0] < 1e-4 * hits[0][0]:
                    clear[v, u] = False
    return face, depth, clear


pixel = st.floats(-6, 20, width=32)
corner = st.tuples(pixel, pixel, st.floats(0.25, 4, width=32))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(corner, corner, corner), min_size=1, max_size=5), st.booleans())
def test_matches_the_slow_reference(triangles: list, cull: bool) -> None:
    points = np.array(triangles, dtype=np.float64).reshape(-1, 3)
    faces = np.arange(len(points)).reshape(-1, 3)
    face, depth, clear = reference(points, faces, cull)
    got = rasterize(torch.tensor(points)[None], torch.tensor(faces), HEIGHT, WIDTH, cull=cull)
    np.testing.assert_array_equal(got.face[0].numpy()[clear], face[clear])
    np.testing.assert_allclose(got.depth[0].numpy()[clear], depth[clear], rtol=2e-3)
    seen = got.barycentric[0][got.mask[0]]
    assert ((seen >= 0) & (seen <= 1)).all()
    torch.testing.assert_close(seen.sum(-1), torch.ones(len(seen)))


def test_reference_comparison_is_not_empty() -> None:
    points = np.array([[1.0, 1, 1], [9, 2, 1], [3, 9, 1], [0, 0, 2], [0, 12, 2], [12, 0, 2]])
    face, _, clear = reference(points, np.arange(6).reshape(2, 3), cull=False)
    assert {-1, 0, 1} <= set(face[clear].tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([16, 61, 128]), st.floats(1.2, 4), st.booleans())
def test_closed_sphere_has_no_crack(seed: int, size: int, distance: float, cull: bool) -> None:
    vertices, faces = sphere()
    placed = vertices @ random_rotation(seed).T + torch.tensor([0.1, -0.05, distance])
    mask = rasterize(project_with_depth(placed, camera(size, 1.0))[None], faces, size, size, cull=cull).mask[0].int()
    assert mask.sum() > 0.03 * size**2
    for lines in (mask, mask.T):  # a convex shape meets every row and column in one run
        assert ((lines.diff(dim=1) == 1).sum(1) + lines[:, 0]).max() <= 1


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.25, 1 / 3])
@pytest.mark.parametrize("shear", [0.0, 0.37, 1.0])
def test_grid_on_pixel_centres_covers_all(offset: float, shear: float) -> None:
    n = 30
    y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    points = torch.stack([x + offset + shear * y - 20.0, y + offset - 5.0, torch.ones(n, n)], -1).reshape(1, -1, 3)
    a = (y[:-1, :-1] * n + x[:-1, :-1]).reshape(-1)
    faces = torch.cat([torch.stack([a, a + n, a + 1], 1), torch.stack([a + 1, a + n, a + n + 1], 1)])
    fragments = rasterize(points, faces, 8, 8)
    rows = fragments.pixel_xy[:, 1]
    assert len(rows) == 64
    assert (rasterize(points, faces.flip(1), 8, 8).pixel_index).numel() == 0  # from behind


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_interpolation_is_perspective_correct(seed: int) -> None:
    vertices, faces = sphere(1)
    placed = (vertices @ random_rotation(seed).T + torch.tensor([0.0, 0, 1.6]))[None]
    intrinsics = camera(48, 0.7)
    fragments = rasterize(project_with_depth(placed, intrinsics), faces, 48, 48)
    position = interpolate_pixels(fragments, faces, placed)
    projected = position @ intrinsics.T
    torch.testing.assert_close(projected[:, :2] / projected[:, 2:], fragments.pixel_xy.float(), atol=2e-3, rtol=0)
    torch.testing.assert_close(position[:, 2], fragments.pixel_depth)
    linear = placed @ torch.tensor([[2.0], [-3.0], [0.5]]) + 4
    torch.testing.assert_close(
        interpolate_pixels(fragments, faces, linear), position @ torch.tensor([[2.0], [-3.0], [0.5]]) + 4
    )


def test_depth_order_does_not_depend_on_face_order() -> None:
    points = torch.tensor([[0.0, 0, 1], [0, 9, 1], [9, 0, 1], [0, 0, 2], [0, 9, 2], [9, 0, 2]])[None]
    near, far = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 4, 5]])
    assert set(rasterize(points, torch.cat([near, far]), 8, 8).pixel_face.tolist()) == {0}
    assert set(rasterize(points, torch.cat([far, near]), 8, 8).pixel_face.tolist()) == {1}


def test_intersecting_triangles_split_where_they_meet() -> None:
    slanted = torch.tensor([[-50.0, -50, 1], [-50, 90, 1], [90, 20, 3]])
    flat = torch.tensor([[-50.0, -50, 1.6], [-50, 90, 1.6], [90, 20, 1.6]])
    fragments = rasterize(torch.cat([slanted, flat])[None], torch.arange(6).view(2, 3), 40, 40)
    torch.testing.assert_close(
        fragments.depth,
        torch.minimum(*(rasterize(t[None], torch.arange(3)[None], 40, 40).depth for t in (slanted, flat))),
    )
    assert set(fragments.pixel_face.tolist()) == {0, 1}


def scenes(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    vertices, faces = sphere()
    turned = torch.stack([vertices @ random_rotation(i).T * (0.3 + 0.1 * i) for i in range(batch)])
    return project_with_depth(turned + torch.tensor([0.1, 0, 2.0]), camera(size)), faces


def test_batch_equals_singles(monkeypatch: pytest.MonkeyPatch) -> None:
    points, faces = scenes(5, 40)
    whole = rasterize(points, faces, 40, 44)
    monkeypatch.setattr(rendering, "_CPU_CHUNK_PIXELS", 2 * 40 * 44)
    chunked = rasterize(points, faces, 40, 44)
    assert torch.equal(whole.pixel_index, chunked.pixel_index)
    assert torch.equal(whole.pixel_barycentric, chunked.pixel_barycentric)
    for i in range(5):
        single = rasterize(points[i : i + 1], faces, 40, 44)
        for name in ("face", "barycentric", "depth", "mask"):
            assert torch.equal(getattr(single, name)[0], getattr(whole, name)[i]), name
    assert torch.equal(depth_map(points, faces, 40, 44), depth_map(points, faces, 40, 44, cull=False))
    torch.testing.assert_close(depth_map(points, faces, 40, 44), whole.depth)


def test_compact_and_dense_forms_agree() -> None:
    points, faces = scenes(3, 32)
    fragments = rasterize(points, faces, 32, 36)
    assert (fragments.pixel_index.diff() > 0).all()
    x, y = fragments.pixel_xy.unbind(1)
    assert torch.equal(fragments.face[fragments.pixel_image, y, x], fragments.pixel_face)
    assert (fragments.face == -1).sum() + len(x) == 3 * 32 * 36
    shared = torch.rand(points.shape[1], 4)
    per_image = torch.rand(3, points.shape[1], 4)
    for attributes in (shared, per_image):
        picture = interpolate(fragments, faces, attributes)
        corners = attributes.expand(3, -1, -1)[fragments.pixel_image[:, None], faces[fragments.pixel_face]]
        expected = (corners * fragments.pixel_barycentric[..., None]).sum(1)
        torch.testing.assert_close(picture[fragments.mask], expected)
        assert (picture[~fragments.mask] == 0).all()
    background = torch.rand(32, 36, 4)
    picture = fragments.scatter(torch.zeros(len(x), 4), background)
    assert torch.equal(picture[~fragments.mask], background.expand(3, -1, -1, -1)[~fragments.mask])


def test_interpolation_is_differentiable_in_attributes() -> None:
    points, faces = scenes(2, 16)
    fragments = rasterize(points, faces, 16, 16)
    attributes = torch.rand(2, points.shape[1], 3, requires_grad=True)
    interpolate(fragments, faces, attributes).sum().backward()
    torch.testing.assert_close(attributes.grad.sum(), torch.tensor(3.0 * len(fragments.pixel_index)))


@pytest.mark.parametrize(
    "corners",
    [
        [[100.0, 0, 1], [110, 0, 1], [100, 10, 1]],  # right of the picture
        [[0.0, -30, 1], [9, -30, 1], [0, -20, 1]],  # above
        [[0.0, 0, -1], [0, 9, -1], [9, 0, -1]],  # behind the camera
        [[0.0, 0, 1], [0, 9, 0.0], [9, 0, 1]],  # touches the camera plane
        [[0.0, 0, 1], [0, 9, float("nan")], [9, 0, 1]],
        [[0.0, 0, 1], [0, float("inf"), 1], [9, 0, 1]],
        [[0.0, 0, 1], [4, 4, 1], [8, 8, 1]],  # no area
        [[1.2, 1.2, 1], [1.2, 1.4, 1], [1.4, 1.2, 1]],  # between pixel centres
    ],
)
def test_unseen_triangles(corners: list) -> None:
    fragments = rasterize(torch.tensor([corners]), torch.tensor([[0, 1, 2]]), 10, 10, cull=False)
    assert fragments.pixel_index.numel() == 0
    assert not fragments.mask.any() and (fragments.face == -1).all() and torch.isinf(fragments.depth).all()
    assert interpolate(fragments, torch.tensor([[0, 1, 2]]), torch.ones(3, 2)).abs().sum() == 0


def test_huge_triangle_and_empty_inputs() -> None:
    triangle = torch.tensor([[[-1e6, -1e6, 1.0], [-1e6, 3e6, 1], [3e6, -1e6, 1]]])
    assert rasterize(triangle, torch.tensor([[0, 1, 2]]), 6, 5).mask.all()
    assert rasterize(torch.zeros(0, 3, 3), torch.tensor([[0, 1, 2]]), 6, 5).face.shape == (0, 6, 5)
    assert rasterize(triangle, torch.zeros(0, 3, dtype=torch.int64), 6, 5).face.shape == (1, 6, 5)


@pytest.mark.parametrize(
    ("points", "faces", "size"),
    [
        (torch.zeros(4, 3), torch.zeros(1, 3, dtype=torch.int64), 4),
        (torch.zeros(1, 4, 3), torch.zeros(1, 4, dtype=torch.int64), 4),
        (torch.zeros(1, 4, 3), torch.zeros(1, 3), 4),
        (torch.zeros(1, 4, 3), torch.zeros(1, 3, dtype=torch.int64), 0),
    ],
)
def test_wrong_inputs_raise(points: torch.Tensor, faces: torch.Tensor, size: int) -> None:
    with pytest.raises(ValueError, match="got"):
        rasterize(points, faces, size, size)


def test_render_mask_of_a_sphere_is_its_disc() -> None:
    vertices, faces = sphere(4)
    placed = torch.stack([vertices * 0.1 + torch.tensor([0.0, 0, 1.0]), vertices * 0.1 + torch.tensor([0.05, 0, 1.0])])
    mask = render_mask(placed, faces.flip(1), camera(101), 101, 101)  # winding does not matter
    radius = 1.5 * 101 * 0.1 / math.sqrt(1 - 0.1**2)
    y, x = torch.meshgrid(torch.arange(101) - 50.0, torch.arange(101) - 50.0, indexing="ij")
    distance = torch.hypot(x, y)
    assert mask[0][distance < radius - 0.1].all() and not mask[0][distance > radius + 0.01].any()
    assert (mask[1].nonzero()[:, 1].float().mean() - 50 - 1.5 * 101 * 0.05).abs() < 0.5


def test_vertex_normals_match_a_loop() -> None:
    vertices, faces = sphere(2)
    batch = torch.stack([vertices, vertices * torch.tensor([1.0, 2.0, 0.5])])
    got = vertex_normals(batch, faces)
    for points, normals in zip(batch.double().numpy(), got, strict=True):
        expected = np.zeros_like(points)
        for a, b, c in faces.numpy():
            expected[[a, b, c]] += np.cross(points[b] - points[a], points[c] - points[a])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(normals.numpy(), expected, atol=1e-5)
    assert ((got[0] * vertices).sum(1) > 0.95).all()  # outward
    lonely = vertex_normals(torch.rand(4, 3), torch.tensor([[0, 1, 2]]))
    assert lonely.shape == (4, 3) and (lonely[3] == 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    points, faces = scenes(4, 64)
    here = rasterize(points, faces, 64, 64)
    there = rasterize(points.cuda(), faces.cuda(), 64, 64)
    assert (here.face != there.face.cpu()).float().mean() < 1e-3  # edges may round differently
    same = here.face == there.face.cpu()
    torch.testing.assert_close(here.depth[same], there.depth.cpu()[same], rtol=1e-4, atol=0)
    torch.testing.assert_close(
        vertex_normals(points, faces), vertex_normals(points.cuda(), faces.cuda()).cpu(), atol=1e-4, rtol=0
    )


def test_staggered_rows_are_sampled_further_right():
    """Odd rows of a staggered scan equal those of the mesh moved left, even rows those of the mesh itself."""
    vertices, faces = sphere(2)
    points = project_with_depth(vertices @ random_rotation(3).T * 0.4 + torch.tensor([0.02, 0.01, 2.0]), camera(32))[
        None
    ]
    staggered = Scan(points, faces, 32, 32, stagger=0.5).keys[0] > 0
    plain, moved = (rasterize(points - torch.tensor([x, 0, 0]), faces, 32, 32).mask[0] for x in (0.0, 0.5))
    assert torch.equal(staggered[::2], plain[::2]) and torch.equal(staggered[1::2], moved[1::2])
    assert not torch.equal(plain[1::2], moved[1::2])
