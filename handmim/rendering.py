"""One rasteriser for masks, overlays and synthetic images, in plain PyTorch.

Triangles are scan-converted in three dense expansions, faces -> picture rows -> pixels, so that (almost) no work is
spent on pixels outside a triangle; a z-buffer of packed 64-bit keys keeps the nearest face of each pixel. Everything is
batched and runs on CPU and CUDA without a compiled extension.

Frames: pixel coordinates have (0, 0) at the centre of the top-left pixel, x right, y down; depth is the camera frame's
z (metres, forward). An image of W x H pixels covers [-0.5, W - 0.5] x [-0.5, H - 0.5].
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

# Candidates nearer than this (metres) are dropped with their whole triangle; the rasteriser does not clip.
NEAR = 1e-3
# Screen area (px^2, twice the triangle's) below which a triangle cannot hold a pixel centre in float32.
_MIN_AREA = 1e-9
# Pixels of z-buffer that one CPU chunk may hold: 8 bytes each, so that the buffer stays in the cache.
_CPU_CHUNK_PIXELS = 1 << 18
_CUDA_CHUNK_PIXELS = 1 << 26


@dataclass
class Fragments:
    """What the rasteriser saw: the nearest face of every covered pixel.

    The compact form lists only covered pixels, sorted by `pixel_index`; shade those and `scatter` the result. The dense
    pictures are made from it when first asked for.

    Attributes:
        pixel_index: (P,) int64, image * height * width + y * width + x of each covered pixel, ascending.
        pixel_face: (P,) int64, row of `faces`.
        pixel_barycentric: (P, 3) float32, perspective-correct weights of the face's corners, each in [0, 1], sum 1.
        pixel_depth: (P,) float32, z in metres.
        size: (batch, height, width).
    """

    pixel_index: Tensor
    pixel_face: Tensor
    pixel_barycentric: Tensor
    pixel_depth: Tensor
    size: tuple[int, int, int]

    @property
    def pixel_image(self) -> Tensor:
        """(P,) int64: the image of the batch that a covered pixel belongs to."""
        return self.pixel_index // (self.size[1] * self.size[2])

    @property
    def pixel_xy(self) -> Tensor:
        """(P, 2) int64: x and y of each covered pixel."""
        inside = self.pixel_index % (self.size[1] * self.size[2])
        return torch.stack([inside % self.size[2], inside // self.size[2]], dim=-1)

    def scatter(self, values: Tensor, background: float | int | bool | Tensor = 0) -> Tensor:
        """Lay the values of covered pixels into pictures.

        Args:
            values: (P,) or (P, C), one row a covered pixel.
            background: value of all other pixels, or pictures (B, H, W) or (B, H, W, C) to draw on a copy of.

        Returns:
            (B, H, W) or (B, H, W, C), dtype of `values`.
        """
        shape = (*self.size, *values.shape[1:])
        if isinstance(background, Tensor):
            picture = background.to(values.dtype).expand(shape).clone(memory_format=torch.contiguous_format)
        else:
            picture = values.new_full(shape, background)
        flat = picture.view(-1, *values.shape[1:])
        flat[self.pixel_index] = values
        return picture

    @cached_property
    def mask(self) -> Tensor:
        """(B, H, W) bool: pixels that a face covers."""
        return self.scatter(torch.ones_like(self.pixel_index, dtype=torch.bool), False)

    @cached_property
    def face(self) -> Tensor:
        """(B, H, W) int64: row of `faces`, -1 where nothing is seen."""
        return self.scatter(self.pixel_face, -1)

    @cached_property
    def barycentric(self) -> Tensor:
        """(B, H, W, 3) float32: perspective-correct corner weights, 0 where nothing is seen."""
        return self.scatter(self.pixel_barycentric)

    @cached_property
    def depth(self) -> Tensor:
        """(B, H, W) float32: z in metres, inf where nothing is seen."""
        return self.scatter(self.pixel_depth, float("inf"))


@torch.no_grad()
def rasterize(
    points: Tensor, faces: Tensor, height: int, width: int, cull: bool = True, near: float = NEAR
) -> Fragments:
    """Find the nearest face at every pixel centre.

    Neighbouring faces that share an edge leave no pixel between them: both evaluate the edge from the same end point.
    A triangle that touches z <= `near` or has a non-finite corner is dropped, not clipped.

    Args:
        points: (B, V, 3) projected vertices: x px, y px, z metres.
        faces: (F, 3) int64 rows of `points`, the same for the whole batch.
        height: picture height, px.
        width: picture width, px.
        cull: drop faces seen from behind. A closed mesh with outward (counter-clockwise) winding looks the same with
            and without, at half the time.
        near: smallest visible depth, metres.

    Returns:
        `Fragments` of a (B, height, width) picture.

    Raises:
        ValueError: a shape or size that does not fit.
    """
    _check(points, faces, height, width)
    parts = []
    for first, chunk in _chunks(points, height, width):
        scan = _Scan(chunk, faces, height, width, cull, near)
        pixel, record = scan.covered()
        barycentric, depth = scan.shade(pixel, record)
        parts.append((pixel + first * height * width, scan.record_face(record), barycentric, depth))
    pixel, face, barycentric, depth = (torch.cat(part) if len(parts) > 1 else part[0] for part in zip(*parts))
    return Fragments(pixel, face, barycentric, depth, (points.shape[0], height, width))


@torch.no_grad()
def depth_map(
    points: Tensor, faces: Tensor, height: int, width: int, cull: bool = True, near: float = NEAR
) -> Tensor:
    """Depth of the nearest face at every pixel: a rasterisation without barycentrics, for shadow maps.

    Args: as `rasterize`.

    Returns:
        (B, height, width) float32, metres, inf where nothing is seen.
    """
    _check(points, faces, height, width)
    parts = [_Scan(chunk, faces, height, width, cull, near).depth() for _, chunk in _chunks(points, height, width)]
    return torch.cat(parts)


def interpolate_pixels(fragments: Fragments, faces: Tensor, attributes: Tensor) -> Tensor:
    """Interpolate vertex attributes at the covered pixels.

    Args:
        fragments: from `rasterize`.
        faces: (F, 3) int64, as given to `rasterize`.
        attributes: (B, V, C), or (V, C) for the whole batch.

    Returns:
        (P, C), one row a covered pixel. Differentiable in the attributes.
    """
    corners = faces.index_select(0, fragments.pixel_face)  # (P, 3)
    if attributes.dim() == 3:
        corners = corners + (fragments.pixel_image * attributes.shape[1])[:, None]
        attributes = attributes.flatten(0, 1)
    weights = fragments.pixel_barycentric.to(attributes.dtype)
    # The weighted bag is one fused gather and sum, ten times faster than indexing (P, 3, C) on a CPU.
    return F.embedding_bag(corners, attributes, per_sample_weights=weights, mode="sum")


def interpolate(fragments: Fragments, faces: Tensor, attributes: Tensor) -> Tensor:
    """Interpolate vertex attributes over the picture.

    Args: as `interpolate_pixels`.

    Returns:
        (B, H, W, C), 0 where nothing is seen.
    """
    return fragments.scatter(interpolate_pixels(fragments, faces, attributes))


def render_mask(vertices: Tensor, faces: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Silhouette of a mesh.

    Args:
        vertices: (B, V, 3), camera frame, metres.
        faces: (F, 3) int64, any winding.
        intrinsics: (B, 3, 3) or (3, 3), px.
        height: picture height, px.
        width: picture width, px.

    Returns:
        (B, height, width) bool.
    """
    points = project_with_depth(vertices, intrinsics)
    return torch.isfinite(depth_map(points, faces, height, width, cull=False))


def project_with_depth(vertices: Tensor, intrinsics: Tensor) -> Tensor:
    """Perspective projection that keeps the depth, the input of `rasterize`.

    Args:
        vertices: (..., V, 3), camera frame, metres.
        intrinsics: (..., 3, 3), px.

    Returns:
        (..., V, 3): x px, y px, z metres.
    """
    depth = vertices[..., 2:]
    homogeneous = vertices @ intrinsics.to(vertices.dtype).transpose(-1, -2)
    return torch.cat([homogeneous[..., :2] / depth, depth], dim=-1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals of the vertices.

    Args:
        vertices: (..., V, 3).
        faces: (F, 3) int64; counter-clockwise winding gives outward normals.

    Returns:
        (..., V, 3), unit length; 0 for a vertex of no face.
    """
    flat = vertices.reshape(-1, *vertices.shape[-2:]).permute(1, 2, 0)  # (V, 3, N): gathers copy whole rows
    origin, first, second = (flat.index_select(0, faces[:, k]) for k in range(3))
    face_normal = torch.linalg.cross(first - origin, second - origin, dim=1)
    normal = torch.zeros_like(flat)
    for k in range(3):
        normal = normal.index_add(0, faces[:, k], face_normal)
    return F.normalize(normal, dim=1, eps=1e-12).permute(2, 0, 1).reshape(vertices.shape)


def _check(points: Tensor, faces: Tensor, height: int, width: int) -> None:
    if points.dim() != 3 or points.shape[-1] != 3:
        raise ValueError(f"points must have shape (B, V, 3), got {tuple(points.shape)}")
    if faces.dim() != 2 or faces.shape[-1] != 3 or faces.dtype.is_floating_point:
        raise ValueError(f"faces must be (F, 3) integers, got {tuple(faces.shape)} {faces.dtype}")
    if height < 1 or width < 1:
        raise ValueError(f"the picture must have at least one pixel, got height {height}, width {width}")


def _chunks(points: Tensor, height: int, width: int) -> list[tuple[int, Tensor]]:
    """Split the batch so that a chunk's z-buffer stays in the cache (CPU) or in modest memory (CUDA)."""
    budget = _CPU_CHUNK_PIXELS if points.device.type == "cpu" else _CUDA_CHUNK_PIXELS
    step = max(1, budget // (height * width))
    starts = range(0, max(points.shape[0], 1), step)
    return [(first, points[first : first + step]) for first in starts]


def _nonzero(mask: Tensor) -> Tensor:
    """Indices of the true elements; numpy's scan is several times faster than PyTorch's on a CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(mask.numpy().nonzero()[0])
    return mask.nonzero().squeeze(-1)


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat row i `counts[i]` times.

    Returns:
        row (N,) the source row of each element, and start (len(counts),) where a row's run begins, so that
        `arange(N) - start[row]` counts within the run.
    """
    end = counts.cumsum(0)
    total = int(end[-1]) if len(end) else 0
    # A cumulative sum over run boundaries: faster than repeat_interleave, and the same on every device.
    mark = torch.zeros(total + 1, dtype=torch.int64, device=counts.device)
    mark.scatter_add_(0, end, torch.ones_like(end))
    return mark[:total].cumsum(0), end - counts


class _Scan:
    """Scan conversion of one chunk of pictures.

    A record is one kept triangle of one image. All its quantities are separate contiguous vectors, because gathers and
    arithmetic on those are several times faster than on rows of a table.
    """

    # Corner order by rising y, from the code (y0 > y1) + 2 (y1 > y2) + 4 (y0 > y2); impossible codes are unused.
    _ORDER = ((0, 1, 2), (1, 0, 2), (0, 2, 1), (0, 1, 2), (0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

    def __init__(self, points: Tensor, faces: Tensor, height: int, width: int, cull: bool, near: float) -> None:
        self.batch, self.height, self.width, self.num_faces = points.shape[0], height, width, faces.shape[0]
        self.device = points.device
        x, y, z = self._corners(points.float(), faces)
        keep = self._visible(x, y, z, cull, near)
        self.source = _nonzero(keep)  # image * F + face of each record
        self.x = [c.index_select(0, self.source) for c in x]
        self.y = [c.index_select(0, self.source) for c in y]
        self.inverse = [c.index_select(0, self.source).reciprocal() for c in z]
        self.buffer = self._zbuffer()

    def _corners(self, points: Tensor, faces: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """x, y and z of the three corners of every (image, face): three lists of three (B * F,) vectors."""
        planes = points.permute(2, 0, 1).reshape(3 * self.batch, -1)
        index = faces.t().reshape(1, -1).expand(3 * self.batch, -1)
        corner = planes.gather(1, index.long()).view(3, self.batch, 3, -1).transpose(1, 2).reshape(3, 3, -1)
        return list(corner[0]), list(corner[1]), list(corner[2])

    def _visible(self, x: list[Tensor], y: list[Tensor], z: list[Tensor], cull: bool, near: float) -> Tensor:
        """Faces that can cover a pixel centre; a NaN fails every comparison, an infinity fails the area's."""
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        # Outward winding seen from the front is counter-clockwise for an upright y, so negative with y down.
        size = area.neg() if cull else area.abs()
        keep = (size > _MIN_AREA) & (size < float("inf"))
        keep &= torch.minimum(torch.minimum(z[0], z[1]), z[2]) > near
        for value, last in ((x, self.width - 1), (y, self.height - 1)):
            low = torch.minimum(torch.minimum(value[0], value[1]), value[2]).ceil_().clamp_(min=0)
            high = torch.maximum(torch.maximum(value[0], value[1]), value[2]).floor_().clamp_(max=last)
            keep &= low <= high
        return keep

    def _zbuffer(self) -> Tensor:
        """(B * H * W,) int64 keys: the bits of the largest inverse depth, then its record; 0 where nothing is."""
        buffer = torch.zeros(self.batch * self.height * self.width, dtype=torch.int64, device=self.device)
        record, pixel, count, inverse, slope = self._spans()
        row, start = _expand(count)
        step = torch.arange(len(row), device=self.device)
        column = step - start.index_select(0, row)
        nearness = torch.addcmul(inverse.index_select(0, row), column.float(), slope.index_select(0, row))
        # Positive floats order like their bits, so one integer maximum compares depth first, then record.
        key = (nearness.view(torch.int32).long() << 32) + record.index_select(0, row)
        pixel = (pixel - start).index_select(0, row) + step
        return buffer.scatter_reduce_(0, pixel, key, "amax")

    def _halves(self) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Cut every triangle at its middle corner into two pieces, each between two edges.

        Returns:
            For 2 * M pieces (all upper ones, then all lower ones): first row, number of rows (whole numbers in float32),
            and for each of two edges: x, y, inverse depth of its upper end, slopes of x and inverse depth with y.
        """
        x, y, inverse = (torch.cat(c) for c in (self.x, self.y, self.inverse))  # corner-major, (3 * M,)
        count = len(self.source)
        y0, y1, y2 = self.y
        code = (y0 > y1).long() + ((y1 > y2).long() << 1) + ((y0 > y2).long() << 2)
        order = (torch.tensor(self._ORDER, device=self.device) * count).unbind(1)
        record = torch.arange(count, device=self.device)
        top, middle, bottom = (column.index_select(0, code) + record for column in order)
        # Both faces at an edge follow it from its upper to its lower end: equal float operations, so no pixel is lost.
        upper = torch.cat([top, top, middle])  # long edge, upper short edge, lower short edge
        lower = torch.cat([bottom, middle, bottom])
        upper_x, upper_y, upper_inverse = (c.index_select(0, upper) for c in (x, y, inverse))
        lower_x, lower_y, lower_inverse = (c.index_select(0, lower) for c in (x, y, inverse))
        drop = (lower_y - upper_y).clamp_(min=1e-30)
        slope_x = ((lower_x - upper_x) / drop).nan_to_num_()
        slope_inverse = ((lower_inverse - upper_inverse) / drop).nan_to_num_()
        begin = upper_y[:count].ceil().clamp_(0, self.height)
        cut = upper_y[2 * count :].ceil().clamp_(0, self.height)
        end = lower_y[:count].floor().clamp_(-1, self.height - 1) + 1
        edges = (upper_x, upper_y, upper_inverse, slope_x, slope_inverse)
        long = [value[:count].repeat(2) for value in edges]
        short = [value[count:] for value in edges]
        return torch.cat([begin, cut]), torch.cat([cut - begin, end - cut]).clamp_(min=0), [long, short]

    def _spans(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Cut the pieces into runs of pixels along rows.

        Returns:
            For every run: record, first pixel's flat index, number of pixels, inverse depth at the first pixel and its
            slope with x.
        """
        first, rows, edges = self._halves()
        piece, start = _expand(rows.long())
        row = (torch.arange(len(piece), device=self.device) - start.index_select(0, piece)).float()
        row += first.index_select(0, piece)
        x, inverse = [], []
        for upper_x, upper_y, upper_inverse, slope_x, slope_inverse in edges:
            down = row - upper_y.index_select(0, piece)
            x.append(torch.addcmul(upper_x.index_select(0, piece), down, slope_x.index_select(0, piece)))
            inverse.append(
                torch.addcmul(upper_inverse.index_select(0, piece), down, slope_inverse.index_select(0, piece))
            )
        left = torch.minimum(x[0], x[1]).ceil_().clamp_(0, self.width)
        right = torch.maximum(x[0], x[1]).floor_().clamp_(-1, self.width - 1)
        run = x[1] - x[0]
        slope = (inverse[1] - inverse[0]) / (run + (run == 0))
        at_left = torch.addcmul(inverse[0], left - x[0], slope)
        record = piece % max(len(self.source), 1)
        image = self.source.div(self.num_faces, rounding_mode="floor").index_select(0, record)
        pixel = (image * self.height + row.long()) * self.width + left.long()
        return record, pixel, (right - left + 1).clamp_(min=0).long(), at_left, slope

    def depth(self) -> Tensor:
        """(B, H, W) float32 metres, inf where nothing is seen."""
        inverse = (self.buffer >> 32).int().view(torch.float32)
        return inverse.reciprocal_().view(self.batch, self.height, self.width)

    def covered(self) -> tuple[Tensor, Tensor]:
        """Flat indices of the covered pixels, ascending, and their records."""
        pixel = _nonzero(self.buffer > 0)
        return pixel, self.buffer.index_select(0, pixel) & 0xFFFFFFFF

    def record_face(self, record: Tensor) -> Tensor:
        """Row of `faces` of each record."""
        return (self.source % self.num_faces).index_select(0, record)

    def shade(self, pixel: Tensor, record: Tensor) -> tuple[Tensor, Tensor]:
        """Perspective-correct barycentric coordinates (P, 3) and depth (P,) of records at pixels."""
        x, y = self.x, self.y
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        inside = pixel % (self.height * self.width)
        row = inside.div(self.width, rounding_mode="floor")
        across = (inside - row * self.width).float() - x[0].index_select(0, record)
        down = row.float() - y[0].index_select(0, record)

        def plane(along_x: Tensor, along_y: Tensor) -> Tensor:
            return torch.addcmul(
                across * (along_x / area).index_select(0, record), down, (along_y / area).index_select(0, record)
            )

        second = plane(y[2] - y[0], x[0] - x[2]).clamp_(min=0)
        third = plane(y[0] - y[1], x[1] - x[0]).clamp_(min=0)
        first = (1 - second - third).clamp_(min=0)
        weights = [w * c.index_select(0, record) for w, c in zip((first, second, third), self.inverse)]
        total = weights[0] + weights[1] + weights[2]
        depth = (first + second + third) / total
        return torch.stack([w / total for w in weights], dim=-1), depth
