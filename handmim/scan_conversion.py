"""From projected triangles to the nearest one at every pixel centre.

Triangles are scan-converted in three dense expansions, faces -> picture rows -> pixels, so that (almost) no work is
spent on pixels outside a triangle; a z-buffer of packed 64-bit keys keeps the nearest face of each pixel. Frames are
those of `rendering`.
"""

import numpy as np
import torch
from torch import Tensor

from .constants import constant

# Candidates nearer than this (metres) are dropped with their whole triangle; the rasteriser does not clip.
NEAR = 1e-3
# Screen area (px^2, twice the triangle's) below which a triangle cannot hold a pixel centre in float32.
_MIN_AREA = 1e-9
# Pixels that are scan-converted at once. On a CPU their triangles, rows and runs then stay in the cache, too.
_CPU_PIXELS = 1 << 19
_CUDA_PIXELS = 1 << 26


def nonzero(mask: Tensor) -> Tensor:
    """Indices of the true elements; numpy's scan is several times faster than PyTorch's on a CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(mask.numpy().nonzero()[0])
    return mask.nonzero().squeeze(-1)


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat row i `counts[i]` times.

    Args:
        counts: (R,) int32.

    Returns:
        row (N,) int32 the source row of each element, and place (N,) int32 counting from 0 within each row's run.
    """
    if counts.device.type == "cpu":
        row = torch.from_numpy(np.repeat(np.arange(len(counts), dtype=np.int32), counts.numpy()))
    else:
        row = torch.repeat_interleave(counts).int()
    start = counts.cumsum(0, dtype=torch.int32).sub_(counts)
    place = torch.arange(len(row), dtype=torch.int32, device=counts.device)
    return row, place.sub_(start.index_select(0, row))


class Scan:
    """Scan conversion of pictures: `rasterize` before anything is computed for the covered pixels.

    A record is one kept triangle of one image. Quantities are separate contiguous vectors, because gathers and
    arithmetic on those are several times faster than on the rows of a table; so are 32-bit numbers than 64-bit ones.

    Args:
        points, faces, height, width, cull, near: As in `rasterize`; not checked.
        stagger: px; the samples of odd rows lie that much further right. Rows of half the height and a stagger of
            half a pixel give two samples a pixel on a diagonal: both upright and level edges have a middle tone.
        buffer: int64, memory of at least B * height * width for the keys.

    Attributes:
        keys: (B, height, width) int64, 0 where nothing is seen; the nearer the face, the larger the key, so keys of
            pictures from one camera may be merged by their maximum. `record` reads them.
        image, face: (M,) int32 of each record.
    """

    @torch.no_grad()
    def __init__(
        self,
        points: Tensor,
        faces: Tensor,
        height: int,
        width: int,
        cull: bool = True,
        near: float = NEAR,
        stagger: float = 0.0,
        buffer: Tensor | None = None,
    ) -> None:
        batch = points.shape[0]
        x, y, z = points.float().permute(2, 0, 1).contiguous().unbind(0)
        self._planes, self._faces = (x, y, z.reciprocal()), faces.int().t().contiguous()
        size = batch * height * width
        memory = torch.zeros(size, dtype=torch.int64, device=x.device) if buffer is None else buffer[:size].zero_()
        self.keys = memory.view(batch, height, width)
        step = max(1, (_CPU_PIXELS if x.device.type == "cpu" else _CUDA_PIXELS) // (height * width))
        image, face, record = [], [], []
        runs = records = 0
        for first in range(0, max(batch, 1), step):
            part = tuple(plane[first : first + step] for plane in self._planes)
            some = _Conversion(part, self._faces, self.keys[first : first + step], cull, near, stagger)
            record.append(some.fill(runs).add_(records))
            image.append(some.image.add_(first))
            face.append(some.face)
            runs, records = runs + len(record[-1]), records + len(face[-1])
        self.image, self.face, self._run_record = torch.cat(image), torch.cat(face), torch.cat(record)

    def depth(self) -> Tensor:
        """(B, H, W) float32 metres, inf where nothing is seen."""
        return (self.keys >> 32).int().view(torch.float32).reciprocal_()

    def record(self, keys: Tensor) -> Tensor:
        """The records (P,) int32 that keys (P,), none of them 0, stand for."""
        return self._run_record.index_select(0, keys & 0xFFFFFFFF)

    @torch.no_grad()
    def shade(self, record: Tensor, column: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Look at records from samples.

        Args:
            record: (P,) int32.
            column, row: (P,) float32, where the samples lie, stagger included, px of their image.

        Returns:
            Perspective-correct barycentric coordinates (P, 3), each in [0, 1], and depth (P,) in metres.
        """
        face, start = self.face.index_select(0, record), self.image.index_select(0, record)
        start *= self._planes[0].shape[1]
        corner = [corners.index_select(0, face).add_(start) for corners in self._faces]
        x, y, inverse = ([plane.view(-1).index_select(0, c) for c in corner] for plane in self._planes)
        along, across = column - x[0], row - y[0]
        (ax, ay), (bx, by) = ((x[k].sub_(x[0]), y[k].sub_(y[0])) for k in (1, 2))
        area = (ax * by).addcmul_(bx, ay, value=-1)
        second = (along * by).addcmul_(bx, across, value=-1).div_(area).clamp_(min=0)
        third = (ax * across).addcmul_(along, ay, value=-1).div_(area).clamp_(min=0)
        first = (1 - second).sub_(third).clamp_(min=0)
        linear = first + second + third
        parts = [w.mul_(v) for w, v in zip((first, second, third), inverse, strict=True)]
        scale = (parts[0] + parts[1]).add_(parts[2]).reciprocal_()
        weights = column.new_empty(len(column), 3)
        for k, part in enumerate(parts):  # faster than to stack and to divide
            torch.mul(part, scale, out=weights[:, k])
        return weights, linear.mul_(scale)


class _Conversion:
    """The part of a batch that `Scan` converts at once, so that its vectors stay in the cache.

    Args:
        planes: x, y (px) and inverse depth (1/m) of the points, (B, V) each.
        faces: (3, F) int64.
        keys: (B, height, width) int64, zeros, to be filled.
        cull, near, stagger: As in `Scan`.
    """

    # Corner order by rising y, from the code (y0 > y1) + 2 (y1 > y2) + 4 (y0 > y2); 3 and 4 cannot occur.
    _ORDER = ((0, 1, 2), (1, 0, 2), (0, 2, 1), (0, 1, 2), (0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

    def __init__(
        self, planes: tuple[Tensor, ...], faces: Tensor, keys: Tensor, cull: bool, near: float, stagger: float
    ) -> None:
        self.batch, self.height, self.width = keys.shape
        self.num_faces, self.device, self.stagger, self.keys = faces.shape[1], keys.device, stagger, keys
        start = torch.arange(self.batch, dtype=torch.int32, device=self.device) * planes[0].shape[1]
        index = (start[:, None] + faces.reshape(1, -1)).view(-1)
        corners = [plane.reshape(-1).index_select(0, index).view(self.batch, 3, self.num_faces) for plane in planes]
        source = nonzero(self._visible(corners, cull, near).flatten()).int()
        self.image = source.div(max(self.num_faces, 1), rounding_mode="floor")
        self.face = source - self.image * self.num_faces
        self.corner = source + self.image * (2 * self.num_faces)  # corner 0 of each record in the vectors below
        self.x, self.y, self.inverse = (corner.flatten() for corner in corners)

    def _visible(self, corners: Tensor, cull: bool, near: float) -> Tensor:
        """(B, F) faces that can cover a pixel centre; NaN fails every comparison, an infinity fails the area's."""
        x, y, inverse = (c.unbind(1) for c in corners)
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        # Outward winding seen from the front is counter-clockwise for an upright y, so negative with y down.
        size = area.neg_() if cull else area.abs_()
        keep = (size > _MIN_AREA) & (size < float("inf"))
        # Behind the camera the inverse is negative.
        keep &= torch.minimum(torch.minimum(inverse[0], inverse[1]), inverse[2]) > 0
        keep &= torch.maximum(torch.maximum(inverse[0], inverse[1]), inverse[2]) < 1 / near
        for value, last, stagger in ((x, self.width - 1, self.stagger), (y, self.height - 1, 0.0)):
            low = torch.minimum(torch.minimum(value[0], value[1]), value[2]).sub_(stagger).ceil_().clamp_(min=0)
            high = torch.maximum(torch.maximum(value[0], value[1]), value[2]).floor_().clamp_(max=last)
            keep &= low <= high
        return keep

    def fill(self, first_run: int) -> Tensor:
        """Fill the z-buffer with keys: bits of the largest inverse depth, then its run; 0 where nothing is.

        Args:
            first_run: Number of the first run; keys of all conversions then differ.

        Returns:
            (N,) the record of each run.
        """
        record, pixel, count, inverse, slope = self._spans()
        run, column = _expand(count)
        nearness = torch.addcmul(inverse.index_select(0, run), column.float(), slope.index_select(0, run))
        # Positive floats order like their bits, so one integer maximum compares depth first, then run.
        key = nearness.view(torch.int32).long().bitwise_left_shift_(32).add_(run.add(first_run))
        pixel = pixel.index_select(0, run).add_(column).long()
        self.keys.view(-1).scatter_reduce_(0, pixel, key, "amax")
        return record

    def _edges(self) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Cut every triangle at its middle corner into two pieces, each between the long edge and a short one.

        Returns:
            The long edges (M,) and the short edges (2 * M,: all upper ones, then all lower ones) as x, y and inverse
            depth of the upper end and the slopes of x and inverse depth with y; then the first row and the number of
            rows of the 2 * M pieces, whole numbers in float32.
        """
        count = len(self.corner)
        y0, y1, y2 = (self.y.index_select(0, self.corner + k * self.num_faces) for k in range(3))
        code = (y0 > y1).int() + ((y1 > y2).int() << 1) + ((y0 > y2).int() << 2)
        order = (constant(self._ORDER, self.device, torch.int32) * self.num_faces).unbind(1)
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
        piece, down = _expand(rows.int())
        record = torch.arange(len(self.corner), dtype=torch.int32, device=self.device).repeat(2).index_select(0, piece)
        whole_row = down.add_(first.int().index_select(0, piece))
        row = whole_row.float()
        x, inverse = [], []
        for edge, owner in ((long, record), (short, piece)):
            upper_x, upper_y, upper_inverse, slope_x, slope_inverse = (v.index_select(0, owner) for v in edge)
            down = row - upper_y
            x.append(upper_x.addcmul_(down, slope_x))
            inverse.append(upper_inverse.addcmul_(down, slope_inverse))
        if self.stagger:
            shift = (whole_row & 1).float().mul_(self.stagger)
            x = [value.sub_(shift) for value in x]
        left = torch.minimum(x[0], x[1]).ceil_().clamp_(0, self.width)
        right = torch.maximum(x[0], x[1]).floor_().clamp_(-1, self.width - 1)
        run = x[1] - x[0]
        slope = (inverse[1] - inverse[0]) / (run + (run == 0))
        at_left = torch.addcmul(inverse[0], left - x[0], slope)
        pixel = (self.image * self.height).index_select(0, record).add_(whole_row).mul_(self.width).add_(left.int())
        return record, pixel, (right - left + 1).clamp_(min=0).int(), at_left, slope
