"""A silhouette that knows how to move: soft coverage of a mesh with gradients to its vertices, in plain PyTorch.

A pixel's coverage is `sigmoid(d / sharpness)` with d the signed distance to the outline, positive inside. Which pixels
are inside, and which edges form the outline, comes from the rasteriser and has no gradient; the distance to the nearest
edge of the outline does. This is the coverage of SoftRas (Liu et al., ICCV 2019, arXiv 1904.01786) for the union of all
faces, at the cost of the outline's few hundred edges and the pixels beside them in place of all faces and all pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .rendering import depth_map, project_with_depth
from .scan_conversion import nonzero

# Beyond this many units of sharpness the sigmoid is within 4e-4 of 0 or 1: no gradient worth computing.
_REACH = 8.0
# Coverage is looked up in a picture this many times finer (odd, so that pixel centres coincide): gaps between fingers
# are often narrower than a pixel of the small maps that losses use.
_FINE = 3
# An edge is outline if this far (fine px) to one side of its middle nothing is covered.
_PROBE = 0.75
# Distances (pixel, edge) held at once on the way to each pixel's nearest edge.
_CHUNK_DISTANCES = 1 << 22
# Vertices nearer than this to the camera's plane, metres, are drawn behind it, so not at all: they project to nowhere,
# and the derivative of that, though nothing asks for it, is no number.
_PLANE = 1e-6


def soft_silhouette(
    vertices: Tensor, faces: Tensor, intrinsics: Tensor, height: int, width: int, sharpness: float = 0.5
) -> Tensor:
    """Soft coverage of every pixel by a mesh.

    Args:
        vertices: (B, V, 3) camera frame, metres.
        faces: (F, 3) int64, consistent winding; F may be 0.
        intrinsics: (B, 3, 3) or (3, 3), px of the picture that is drawn.
        height, width: Of the picture, px.
        sharpness: Width of the soft border, px: coverage goes from .27 to .73 over twice this distance.

    Returns:
        (B, height, width) in [0, 1], differentiable in the vertices and the intrinsics. A mesh that is nowhere in the
        picture, or has no faces, gives zeros without a gradient.
    """
    in_plane = vertices.detach()[..., 2:].abs() < _PLANE
    points = project_with_depth(torch.where(in_plane, -1.0, vertices.float()), intrinsics.float())
    fine = torch.cat([_FINE * points.detach()[..., :2] + _FINE // 2, points.detach()[..., 2:]], -1)
    covered = torch.isfinite(depth_map(fine, faces, _FINE * height, _FINE * width, cull=False))
    inside = covered[:, _FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    coverage = inside.to(points.dtype)
    outline = outline_edges(fine, faces, covered)
    pixel, edge = _nearest_edges(points.detach(), outline, inside, _REACH * sharpness)
    if len(pixel) == 0:
        return coverage + 0.0 * vertices.sum()  # projected, a point in the camera's plane would be no number
    position = _pixel_positions(pixel, height, width)
    corner = points[..., :2].flatten(0, 1)
    distance = segment_distance(position, corner[outline.start[edge]], corner[outline.end[edge]])
    sign = 2 * coverage.flatten()[pixel] - 1
    soft = torch.sigmoid(sign * distance / sharpness)
    return coverage.flatten().index_put((pixel,), soft).view_as(inside)


class Outline(NamedTuple):
    """Edges of the outlines of a batch: rows of the flattened (B V) points, and the picture each belongs to."""

    start: Tensor
    end: Tensor
    image: Tensor


@torch.no_grad()
def outline_edges(points: Tensor, faces: Tensor, inside: Tensor) -> Outline:
    """The edges between what is covered and what is not.

    An edge turns from front to back where the two faces that share it are seen from different sides, or where it has
    one face only (the open wrist). Of those, the ones that lie before other parts of the mesh are not outline.

    Args:
        points: (B, V, 3) px, px, metres.
        faces: (F, 3) int64.
        inside: (B, H, W) bool, covered pixels of the same picture.
    """
    edges, neighbours = _mesh_edges(faces)
    corner = points[:, faces, :2]  # (B, F, 3, 2)
    first, second = corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0]
    front = first[..., 0] * second[..., 1] > first[..., 1] * second[..., 0]  # (B, F)
    turning = (neighbours[:, 1] < 0) | (front[:, neighbours[:, 0]] != front[:, neighbours[:, 1].clamp(min=0)])
    image, edge = turning.nonzero(as_tuple=True)
    base = image * points.shape[1]
    start, end = base + edges[edge, 0], base + edges[edge, 1]
    flat = points[..., :2].flatten(0, 1)
    along = flat[end] - flat[start]
    normal = torch.stack([-along[:, 1], along[:, 0]], -1) / along.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    middle = (flat[start] + flat[end]) / 2
    sides = [_covered(inside, image, middle + side * _PROBE * normal) for side in (-1.0, 1.0)]
    bare = ~(sides[0] & sides[1])
    return Outline(start[bare], end[bare], image[bare])


def segment_distance(position: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance of points (N, 2) from segments between (N, 2) and (N, 2), px; broadcasts."""
    # by coordinate: sums over an axis of two are slow
    (x, y), (x0, y0), (x1, y1) = position.unbind(-1), start.unbind(-1), end.unbind(-1)
    along_x, along_y, x, y = x1 - x0, y1 - y0, x - x0, y - y0
    length = (along_x * along_x + along_y * along_y).clamp(min=1e-12)
    share = ((x * along_x + y * along_y) / length).clamp(0, 1)
    x, y = x - share * along_x, y - share * along_y
    return (x * x + y * y).clamp(min=1e-12).sqrt()


@torch.no_grad()
def _nearest_edges(points: Tensor, outline: Outline, inside: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Pixels within reach of the outline, as indices of the flattened batch, and the nearest edge of each."""
    batch, height, width = inside.shape
    near = _near_border(inside, reach)
    flat = points[..., :2].flatten(0, 1)
    pixels, edges = [], []
    for image in range(batch):
        mine = nonzero(outline.image == image)
        pixel = nonzero(near[image].flatten())
        if len(mine) == 0 or len(pixel) == 0:
            continue
        position = _pixel_positions(pixel, height, width)
        start, end = flat[outline.start[mine]], flat[outline.end[mine]]
        for part, where in zip(
            pixel.split(max(1, _CHUNK_DISTANCES // len(mine))),
            position.split(max(1, _CHUNK_DISTANCES // len(mine))),
            strict=True,
        ):
            squared, best = _squared_distances(where, start, end).min(1)
            kept = squared < reach * reach
            pixels.append(part[kept] + image * height * width)
            edges.append(mine[best[kept]])
    empty = torch.zeros(0, dtype=torch.int64, device=points.device)
    return torch.cat([empty, *pixels]), torch.cat([empty, *edges])


def _squared_distances(position: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Squared distances (N, M) of points (N, 2) from segments between (M, 2) and (M, 2), px squared.

    As `segment_distance`, by matrix products: half the time, and good to 1e-3 px squared, enough to find the nearest.
    """
    centre = start.mean(0)  # small numbers have small rounding errors
    position, start, along = position - centre, start - centre, end - start
    length = along.square().sum(1).clamp(min=1e-12)
    slope = along / length[:, None]
    share = torch.addmm(-(start * slope).sum(1), position, slope.T)
    squared = torch.addmm(start.square().sum(1), position, start.T, alpha=-2).add_(position.square().sum(1)[:, None])
    clamped = share.clamp(0, 1)
    # |p - s|^2 - 2 c (p - s) . a + c^2 |a|^2 with c the clamped share
    return squared.add_(clamped.sub(share, alpha=2).mul_(clamped).mul_(length))


def _near_border(inside: Tensor, reach: float) -> Tensor:
    """(B, H, W) bool: pixels with both covered and bare ones within `reach` and a half."""
    side = 2 * int(reach + 1.5) + 1
    values = inside[:, None].float()
    highest = torch.nn.functional.max_pool2d(values, side, 1, side // 2)
    lowest = -torch.nn.functional.max_pool2d(-values, side, 1, side // 2)
    return (highest != lowest).squeeze(1)


def _covered(inside: Tensor, image: Tensor, position: Tensor) -> Tensor:
    """(N,) bool: whether the pixel nearest to a position (N, 2) is covered; nothing is, outside the picture."""
    height, width = inside.shape[1:]
    column, row = position.nan_to_num(-1.0, -1.0, -1.0).clamp(-4, 1 << 20).round().long().unbind(-1)
    seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return seen & inside[image, row.clamp(0, height - 1), column.clamp(0, width - 1)]


def _pixel_positions(pixel: Tensor, height: int, width: int) -> Tensor:
    """(N, 2) x, y of flattened pixel indices."""
    pixel = pixel % (height * width)
    return torch.stack([pixel % width, pixel // width], -1).float()


def _mesh_edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Edges (E, 2) of a mesh and the two faces (E, 2) of each, -1 for none."""
    sides = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
    # one number an edge: sorting pairs takes twenty times as long
    base = int(faces.max()) + 1 if len(faces) else 1
    keys, edge = (sides[:, 0] * base + sides[:, 1]).unique(return_inverse=True)
    edges = torch.stack([keys // base, keys % base], 1)
    owner = torch.arange(len(faces), device=faces.device).repeat(3)
    neighbours = torch.full((len(edges), 2), -1, device=faces.device)
    neighbours[edge, 0] = owner  # one of the two, whichever was written last
    other = neighbours[edge, 0] != owner
    neighbours[edge[other], 1] = owner[other]
    return edges, neighbours
