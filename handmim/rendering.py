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
_CPU_CHUNK_PIXELS = 1 << 19
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
    chunks, buffer = _chunks(points, height, width)
    parts = []
    for first, chunk in chunks:
        scan = _Scan(chunk, faces, height, width, cull, near, buffer)
        pixel, record = scan.covered()
        barycentric, depth = scan.shade(pixel, record)
        parts.append((pixel + first * height * width, scan.face.index_select(0, record), barycentric, depth))
    pixel, face, barycentric, depth = (torch.cat(part) for part in zip(*parts, strict=True))
    return Fragments(pixel, face, barycentric, depth, (points.shape[0], height, width))


@torch.no_grad()
def depth_map(points: Tensor, faces: Tensor, height: int, width: int, cull: bool = True, near: float = NEAR) -> Tensor:
    """Depth of the nearest face at every pixel: a rasterisation without barycentrics, for shadow maps.

    Args: as `rasterize`.

    Returns:
        (B, height, width) float32, metres, inf where nothing is seen.
    """
    _check(points, faces, height, width)
    chunks, buffer = _chunks(points, height, width)
    return torch.cat([_Scan(chunk, faces, height, width, cull, near, buffer).depth() for _, chunk in chunks])


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
    # One (V, N) plane a coordinate, N the whole batch: gathers and sums then run over contiguous rows.
    planes = vertices.reshape(-1, *vertices.shape[-2:]).permute(2, 1, 0).contiguous()
    corner = [plane.index_select(0, faces.t().reshape(-1)).view(3, len(faces), plane.shape[1]) for plane in planes]
    first = [c[1] - c[0] for c in corner]
    second = [c[2] - c[0] for c in corner]
    normal = []
    for i, j in ((1, 2), (2, 0), (0, 1)):
        cross = torch.addcmul(first[i] * second[j], first[j], second[i], value=-1)
        total = torch.zeros_like(planes[0])
        for k in range(3):
            total = total.index_add_(0, faces[:, k], cross)
        normal.append(total)
    length = sum(n * n for n in normal).clamp(min=1e-30).sqrt()
    return torch.stack([n / length for n in normal]).permute(2, 1, 0).reshape(vertices.shape)


def _check(points: Tensor, faces: Tensor, height: int, width: int) -> None:
    if points.dim() != 3 or points.shape[-1] != 3:
        raise ValueError(f"points must have shape (B, V, 3), got {tuple(points.shape)}")
    if faces.dim() != 2 or faces.shape[-1] != 3 or faces.dtype.is_floating_point:
        raise ValueError(f"faces must be (F, 3) integers, got {tuple(faces.shape)} {faces.dtype}")
    if height < 1 or width < 1:
        raise ValueError(f"the picture must have at least one pixel, got height {height}, width {width}")


def _chunks(points: Tensor, height: int, width: int) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Split the batch so that a chunk's z-buffer stays in the cache (CPU) or in modest memory (CUDA).

    Returns:
        (first image, points) of each chunk, and the z-buffer they share.
    """
    budget = _CPU_CHUNK_PIXELS if points.device.type == "cpu" else _CUDA_CHUNK_PIXELS
    step = max(1, budget // (height * width))
    chunks = [(first, points[first : first + step]) for first in range(0, max(points.shape[0], 1), step)]
    size = min(step, points.shape[0]) * height * width
    return chunks, torch.empty(size, dtype=torch.int64, device=points.device)


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

    A record is one kept triangle of one image. Quantities are separate contiguous vectors, because gathers and
    arithmetic on those are several times faster than on the rows of a table.
    """

    # Corner order by rising y, from the code (y0 > y1) + 2 (y1 > y2) + 4 (y0 > y2); 3 and 4 cannot occur.
    _ORDER = ((0, 1, 2), (1, 0, 2), (0, 2, 1), (0, 1, 2), (0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

    def __init__(
        self, points: Tensor, faces: Tensor, height: int, width: int, cull: bool, near: float, buffer: Tensor
    ) -> None:
        self.batch, self.height, self.width, self.num_faces = points.shape[0], height, width, faces.shape[0]
        self.device = points.device
        planes = points.float().permute(2, 0, 1).reshape(3 * self.batch, points.shape[1])
        index = faces.long().t().reshape(1, -1).expand(3 * self.batch, 3 * self.num_faces)
        corners = planes.gather(1, index).view(3, self.batch, 3, self.num_faces)
        source = _nonzero(self._visible(corners, cull, near).flatten())
        self.image = source.div(max(self.num_faces, 1), rounding_mode="floor")
        self.face = source - self.image * self.num_faces
        self.corner = source + self.image * (2 * self.num_faces)  # corner 0 of each record in the vectors below
        self.x, self.y, self.inverse = corners[0].flatten(), corners[1].flatten(), corners[2].flatten().reciprocal()
        self.buffer = buffer[: self.batch * height * width].zero_()
        self._fill()

    def _visible(self, corners: Tensor, cull: bool, near: float) -> Tensor:
        """(B, F) faces that can cover a pixel centre; NaN fails every comparison, an infinity fails the area's."""
        x, y, z = (c.unbind(1) for c in corners)
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        # Outward winding seen from the front is counter-clockwise for an upright y, so negative with y down.
        size = area.neg_() if cull else area.abs_()
        keep = (size > _MIN_AREA) & (size < float("inf"))
        keep &= torch.minimum(torch.minimum(z[0], z[1]), z[2]) > near
        for value, last in ((x, self.width - 1), (y, self.height - 1)):
            low = torch.minimum(torch.minimum(value[0], value[1]), value[2]).ceil_().clamp_(min=0)
            high = torch.maximum(torch.maximum(value[0], value[1]), value[2]).floor_().clamp_(max=last)
            keep &= low <= high
        return keep

    def _fill(self) -> None:
        """Fill the z-buffer with keys: bits of the largest inverse depth, then its record; 0 where nothing is."""
        record, pixel, count, inverse, slope = self._spans()
        run, start = _expand(count)
        step = torch.arange(len(run), device=self.device)
        column = (step - start.index_select(0, run)).float()
        nearness = torch.addcmul(inverse.index_select(0, run), column, slope.index_select(0, run))
        # Positive floats order like their bits, so one integer maximum compares depth first, then record.
        key = (nearness.view(torch.int32).long() << 32).add_(record.index_select(0, run))
        pixel = (pixel - start).index_select(0, run).add_(step)
        self.buffer.scatter_reduce_(0, pixel, key, "amax")

    def _edges(self) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Cut every triangle at its middle corner into two pieces, each between the long edge and a short one.

        Returns:
            The long edges (M,) and the short edges (2 * M,: all upper ones, then all lower ones) as x, y and inverse
            depth of the upper end and the slopes of x and inverse depth with y; then the first row and the number of
            rows of the 2 * M pieces, whole numbers in float32.
        """
        count = len(self.corner)
        y0, y1, y2 = (self.y.index_select(0, self.corner + k * self.num_faces) for k in range(3))
        code = (y0 > y1).long() + ((y1 > y2).long() << 1) + ((y0 > y2).long() << 2)
        order = (torch.tensor(self._ORDER, device=self.device) * self.num_faces).unbind(1)
        sorted_corner = torch.cat([column.index_select(0, code) + self.corner for column in order])
        values = [v.index_select(0, sorted_corner) for v in (self.x, self.y, self.inverse)]  # top, middle, bottom
        long = self._edge([v[:count] for v in values], [v[2 * count :] for v in values])
        short = self._edge([v[: 2 * count] for v in values], [v[count:] for v in values])
        begin, cut = values[1][: 2 * count].ceil().clamp_(0, self.height).chunk(2)
        end = values[1][2 * count :].floor().clamp_(-1, self.height - 1) + 1
        return long, short, torch.cat([begin, cut]), torch.cat([cut - begin, end - cut]).clamp_(min=0)

    @staticmethod
    def _edge(upper: list[Tensor], lower: list[Tensor]) -> list[Tensor]:
        """Both faces at an edge follow it from its upper end with equal float operations: no pixel is lost between."""
        drop = (lower[1] - upper[1]).clamp_(min=1e-30)
        return upper + [((lower[k] - upper[k]) / drop).nan_to_num_() for k in (0, 2)]

    def _spans(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Cut the pieces into runs of pixels along rows.

        Returns:
            For every run: record, first pixel's flat index, number of pixels, inverse depth at the first pixel and its
            slope with x.
        """
        long, short, first, rows = self._edges()
        piece, start = _expand(rows.long())
        record = piece - (piece >= len(self.corner)).long() * len(self.corner)
        row = (torch.arange(len(piece), device=self.device) - start.index_select(0, piece)).float()
        row += first.index_select(0, piece)
        x, inverse = [], []
        for edge, owner in ((long, record), (short, piece)):
            upper_x, upper_y, upper_inverse, slope_x, slope_inverse = (v.index_select(0, owner) for v in edge)
            down = row - upper_y
            x.append(upper_x.addcmul_(down, slope_x))
            inverse.append(upper_inverse.addcmul_(down, slope_inverse))
        left = torch.minimum(x[0], x[1]).ceil_().clamp_(0, self.width)
        right = torch.maximum(x[0], x[1]).floor_().clamp_(-1, self.width - 1)
        run = x[1] - x[0]
        slope = (inverse[1] - inverse[0]) / (run + (run == 0))
        at_left = torch.addcmul(inverse[0], left - x[0], slope)
        pixel = (self.image * self.height).index_select(0, record).add_(row.long()).mul_(self.width).add_(left.long())
        return record, pixel, (right - left + 1).clamp_(min=0).long(), at_left, slope

    def depth(self) -> Tensor:
        """(B, H, W) float32 metres, inf where nothing is seen."""
        inverse = (self.buffer >> 32).int().view(torch.float32)
        return inverse.reciprocal_().view(self.batch, self.height, self.width)

    def covered(self) -> tuple[Tensor, Tensor]:
        """Flat indices of the covered pixels, ascending, and their records."""
        pixel = _nonzero(self.buffer > 0)
        return pixel, self.buffer.index_select(0, pixel) & 0xFFFFFFFF

    def shade(self, pixel: Tensor, record: Tensor) -> tuple[Tensor, Tensor]:
        """Perspective-correct barycentric coordinates (P, 3) and depth (P,) of records at pixels."""
        corner = [self.corner + k * self.num_faces for k in range(3)]
        x = [self.x.index_select(0, c) for c in corner]
        y = [self.y.index_select(0, c) for c in corner]
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        row = pixel.div(self.width, rounding_mode="floor")
        across = (pixel - row * self.width).float() - x[0].index_select(0, record)
        down = (row - (self.image * self.height).index_select(0, record)).float() - y[0].index_select(0, record)

        def weight(along_x: Tensor, along_y: Tensor) -> Tensor:
            slope_x, slope_y = ((c / area).index_select(0, record) for c in (along_x, along_y))
            return slope_x.mul_(across).addcmul_(down, slope_y).clamp_(min=0)

        second = weight(y[2] - y[0], x[0] - x[2])
        third = weight(y[0] - y[1], x[1] - x[0])
        first = (1 - second - third).clamp_(min=0)
        weights = [
            linear * self.inverse.index_select(0, c).index_select(0, record)
            for linear, c in zip((first, second, third), corner, strict=True)
        ]
        total = weights[0] + weights[1] + weights[2]
        depth = (first + second + third) / total
        return torch.stack([w / total for w in weights], dim=-1), depth
