"""F-scores of point clouds at distance thresholds: equal to those of a nearest-neighbour search in float64, but faster.

Only whether the nearest point is within a threshold matters. Where vertices correspond, many are proven to be by the
distance of the corresponding one. For the others both clouds are sorted along an axis, so that a run of points has its
neighbours in a short run of the other cloud; a float32 product gives their squared distances with a bound on rounding
errors, and what lies within that bound of a threshold is computed again in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Rows and columns of one product of distances. With four terms that is the largest size for which OpenBLAS does not
# start threads of its own, for which the threads here would wait.
ROWS, COLUMNS = 64, 1024
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


def within(
    points: np.ndarray, others: np.ndarray, bounds: Sequence[float], corresponding: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How many points have a point of the other cloud within distance thresholds, and the other way round.

    Args:
        points: (B, N, 3) float64.
        others: (B, M, 3) float64, same unit and frame.
        bounds: (T) of `squared_threshold`, ascending.
        corresponding: (B, N) squared distances between points[b, i] and others[b, i], if the clouds correspond.

    Returns:
        (B, T) numbers of points with a neighbour among the others, (B, T) of others with one among the points.
    """
    centre = (others.max(1) + others.min(1)) / 2
    axis = (others.max(1) - others.min(1)).argmax(1)
    clouds = [_Clouds(cloud, centre, axis, corresponding) for cloud in (points, others)]
    counts = np.empty((2, len(points), len(bounds)), np.int64)
    for row in range(len(points)):
        for direction in range(2):
            counts[direction, row] = _search(clouds[direction], clouds[1 - direction], row, bounds)
    return counts[0], counts[1]


class _Clouds:
    """A batch of clouds, each sorted along an axis, in the forms that the products need.

    Attributes:
        points: (B, N, 3) float64, sorted.
        keys: (B, N) float64, their coordinates along the axis, ascending.
        corresponding: (B, N) squared distances of the corresponding points in the same order, or None.
        squares: (B, N) float64 squared distances from the centre.
        left, right: (B, N, 4) and (B, 4, N) float32 with left @ right of another cloud = squared distance - squares.
        error: (B,) bound on the rounding errors of a cloud's part in such a squared distance.
    """

    def __init__(
        self, points: np.ndarray, centre: np.ndarray, axis: np.ndarray, corresponding: np.ndarray | None
    ) -> None:
        batch, count = points.shape[:2]
        rows = np.arange(batch)
        order = points[rows, :, axis].argsort(1)
        order += count * rows[:, None]  # of the batch's points in a row: one plain take is far faster than a nested one
        self.points = points.reshape(-1, 3).take(order, 0)
        self.keys = self.points[rows, :, axis]
        self.corresponding = None if corresponding is None else corresponding.ravel().take(order)
        centred = self.points - centre[:, None]
        self.squares = np.einsum("bni,bni->bn", centred, centred)
        self.right = np.empty((batch, 4, count), np.float32)
        self.right[:, :3], self.right[:, 3] = centred.transpose(0, 2, 1), self.squares
        self.left = np.empty((batch, count, 4), np.float32)
        np.multiply(centred, -2, out=self.left[..., :3], casting="same_kind")
        self.left[..., 3] = 1
        radius = np.sqrt(self.squares.max(1))
        # The second term: centring rounds in float64, which shows far from the origin only.
        self.error = radius * (ERROR_UNITS * 2.0**-24 * radius + 16 * 2.0**-53 * abs(centre).max(1))


def _search(clouds: _Clouds, others: _Clouds, sample: int, bounds: Sequence[float]) -> np.ndarray:
    """(T,) numbers of a cloud's points with one of the other cloud nearer than each bound."""
    left, squares, keys, points = (a[sample] for a in (clouds.left, clouds.squares, clouds.keys, clouds.points))
    proven = 0
    if clouds.corresponding is not None:
        rows = np.flatnonzero(clouds.corresponding[sample] >= bounds[0])
        proven = len(left) - len(rows)
        if not len(rows):
            return np.full(len(bounds), proven)
        left, squares, keys, points = left[rows], squares[rows], keys[rows], points[rows]
    nearest = squares + _row_minima(left, keys, others.right[sample], others.keys[sample], bounds[-1])
    # The products of points at different distances from the centre are bounded by the larger.
    error = max(clouds.error[sample], others.error[sample])
    doubtful = np.zeros(len(nearest), bool)
    for bound in bounds:
        doubtful |= ~(abs(nearest - bound) > error)  # NaN, from numbers beyond float32, is doubtful, too
    if doubtful.any():
        nearest[doubtful] = _exact(points[doubtful], others.points[sample])
    return np.array([proven + np.count_nonzero(nearest < bound) for bound in bounds])


def _row_minima(
    left: np.ndarray, keys: np.ndarray, right: np.ndarray, other_keys: np.ndarray, bound: float
) -> np.ndarray:
    """Smallest element of each row of left @ right, of those that may belong to a squared distance below the bound.

    Rows and columns are sorted by their keys: the columns of a block of rows are those whose keys are near.
    """
    reach = 1.0001 * np.sqrt(bound)
    starts = range(0, len(left), ROWS)
    first = other_keys.searchsorted(keys[::ROWS] - reach).tolist()
    last = other_keys.searchsorted(keys[[min(len(left), start + ROWS) - 1 for start in starts]] + reach).tolist()
    minima = np.full(len(left), np.inf, np.float32)
    for start, low, high in zip(starts, first, last, strict=True):
        rows, out = left[start : start + ROWS], minima[start : start + ROWS]
        for column in range(low, high, COLUMNS):
            product = rows @ right[:, column : min(high, column + COLUMNS)]
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
