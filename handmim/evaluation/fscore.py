"""F-scores of point clouds at distance thresholds: equal to those of a nearest-neighbour search in float64, but faster.

Only whether the nearest point is within a threshold matters. Where vertices correspond, many are proven to be by the
distance of the corresponding one. For the others both clouds are sorted along an axis, so that a run of points has its
neighbours in a short run of the other cloud; a float32 product gives their squared distances with a bound on rounding
errors, and what lies within that bound of a threshold is computed again in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Rows of one product of distances, about, and the most elements with four terms for which OpenBLAS does not start
# threads of its own, for which the threads here would wait.
ROWS = 64
PRODUCT_SIZE = 2**16
# Rounding errors of -2 p.q + |q|**2 in float32, in units of 2**-24 R**2 where R bounds |p| and |q|: rounding p and q
# moves 2 p.q by 4, |q|**2 is rounded once (1), and five roundings of terms whose absolute values add up to at most
# 3 R**2 give 15. The sum of 20 is rounded up.
ERROR_UNITS = 24


def squared_threshold(threshold: float, inclusive: bool = False) -> float:
    """The bound c for which `squared < c` is the same as `sqrt(squared) < threshold` in float64 (<= if inclusive)."""
    bound = threshold * threshold
    for _ in range(8):  # the square's rounding is a few units in the last place at most
        bound = np.nextafter(bound, 0.0)
    while np.sqrt(bound) < threshold or (inclusive and np.sqrt(bound) == threshold):
        bound = np.nextafter(bound, np.inf)
    return float(bound)


class Clouds:
    """A batch of clouds, each sorted along an axis, in the forms that the products need.

    Args:
        points: (B, N, 3) float64.
        target: The clouds these will be compared with; sorted along the same axes. None for the targets themselves.

    Attributes:
        points: (B, N, 3) float64, sorted.
        keys: (B, N) float64, their coordinates along the axis, ascending.
        order: (B, N) rows of the sorted points in all given points, counted through the batch.
        squares: (B, N) float64 squared distances from the centre.
        left, right: (B, N, 4) and (B, 4, N) float32 with left @ right of another cloud = squared distance - squares.
        error: (B,) bound on the rounding errors of a cloud's part in such a squared distance.
    """

    def __init__(self, points: np.ndarray, target: Clouds | None = None) -> None:
        if target is None:
            low, high = points.min(1), points.max(1)
            self.centre, self.axis = (high + low) / 2, (high - low).argmax(1)
        else:
            self.centre, self.axis = target.centre, target.axis
        batch, count = points.shape[:2]
        rows = np.arange(batch)
        self.order = points[rows, :, self.axis].argsort(1) + count * rows[:, None]
        self.points = points.reshape(-1, 3).take(self.order, 0)
        self.keys = self.points[rows, :, self.axis]
        centred = self.points - self.centre[:, None]
        self.squares = np.einsum("bni,bni->bn", centred, centred)
        self.right = np.empty((batch, 4, count), np.float32)
        self.right[:, :3], self.right[:, 3] = centred.transpose(0, 2, 1), self.squares
        self.left = np.empty((batch, count, 4), np.float32)
        np.multiply(centred, -2, out=self.left[..., :3], casting="same_kind")
        self.left[..., 3] = 1
        radius = np.sqrt(self.squares.max(1))
        # The second term: centring rounds in float64, which shows far from the origin only.
        self.error = radius * (ERROR_UNITS * 2.0**-24 * radius + 16 * 2.0**-53 * abs(self.centre).max(1))


def within(
    clouds: Clouds, others: Clouds, bounds: Sequence[float], corresponding: np.ndarray | None = None
) -> np.ndarray:
    """How many points of a cloud have a point of the other within distance thresholds.

    Args:
        clouds: B clouds of N points.
        others: B clouds of M points, sorted along the same axes.
        bounds: (T) of `squared_threshold`, ascending.
        corresponding: (B, N) squared distances between the given points i of both, if the clouds correspond.

    Returns:
        (B, T) numbers of points with a neighbour.
    """
    if corresponding is None:
        rows = np.arange(clouds.keys.size)
    else:
        rows = np.flatnonzero(corresponding.take(clouds.order).ravel() >= bounds[0])
    nearest = np.full(clouds.keys.size, -np.inf)  # what corresponding points prove
    nearest[rows] = clouds.squares.ravel()[rows] + _minima(clouds, others, rows, bounds[-1])
    nearest = nearest.reshape(clouds.keys.shape)
    error = np.maximum(clouds.error, others.error)[:, None]
    doubtful = np.zeros(nearest.shape, bool)
    for bound in bounds:
        doubtful |= ~(abs(nearest - bound) > error)  # NaN, from numbers beyond float32, is doubtful, too
    for sample in np.flatnonzero(doubtful.any(1)):
        nearest[sample, doubtful[sample]] = _exact(clouds.points[sample, doubtful[sample]], others.points[sample])
    return np.stack([(nearest < bound).sum(1) for bound in bounds], 1)


def _minima(clouds: Clouds, others: Clouds, rows: np.ndarray, bound: float) -> np.ndarray:
    """Smallest element of some rows of left @ right, of those that may belong to a squared distance below the bound.

    Points are taken in blocks along the axis; those of the other cloud that are near a block lie side by side.
    """
    batch, count = clouds.keys.shape
    step = min(4 * ROWS, max(ROWS, ROWS * clouds.keys.size // max(1, len(rows))))
    starts = np.arange(0, count, step)
    edges = rows.searchsorted((count * np.arange(batch)[:, None] + starts).ravel()).tolist() + [len(rows)]
    reach = 1.0001 * np.sqrt(bound)
    ends = np.minimum(starts + step, count) - 1
    windows = np.concatenate([clouds.keys[:, starts] - reach, clouds.keys[:, ends] + reach], 1)
    left, minima = clouds.left.reshape(-1, 4).take(rows, 0), np.full(len(rows), np.inf, np.float32)
    for sample, (keys, right) in enumerate(zip(others.keys, others.right, strict=True)):
        limits = keys.searchsorted(windows[sample]).tolist()
        for block, (low, high) in enumerate(zip(limits[: len(starts)], limits[len(starts) :], strict=True)):
            first, last = edges[sample * len(starts) + block : sample * len(starts) + block + 2]
            if first == last or low == high:
                continue
            if (last - first) * (high - low) <= PRODUCT_SIZE:
                np.minimum.reduce(left[first:last] @ right[:, low:high], 1, out=minima[first:last])
                continue
            for row in range(first, last, ROWS):
                part, out = left[row : min(last, row + ROWS)], minima[row : min(last, row + ROWS)]
                for column in range(low, high, PRODUCT_SIZE // ROWS):
                    product = part @ right[:, column : min(high, column + PRODUCT_SIZE // ROWS)]
                    np.minimum(out, np.minimum.reduce(product, 1), out=out)
    return minima


def _exact(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distance of each point to the nearest of the others, in blocks that bound the memory."""
    columns = others.T
    nearest = np.empty(len(points))
    for start in range(0, len(points), ROWS):
        x, y, z = (points[start : start + ROWS, axis, None] - columns[axis] for axis in range(3))
        nearest[start : start + ROWS] = (x * x + y * y + z * z).min(1)
    return nearest


def f_scores(
    predicted_within: np.ndarray, target_within: np.ndarray, predicted_count: int, target_count: int
) -> np.ndarray:
    """F-scores from numbers of points that have a neighbour.

    Args:
        predicted_within: (...) numbers of predicted points near a true one.
        target_within: (...) numbers of true points near a predicted one.
        predicted_count, target_count: Numbers of points.

    Returns:
        (..., 3): F, precision, recall, as the official scripts name them: their precision is the share of true points
        that are matched, their recall the share of predicted points. F is the same either way.
    """
    recall, precision = predicted_within / predicted_count, target_within / target_count
    total = recall + precision
    f = np.where(total > 0, 2 * recall * precision / np.where(total > 0, total, 1.0), 0.0)
    return np.stack([f, precision, recall], -1)
