"""F-scores of point clouds at distance thresholds: equal to those of a nearest-neighbour search in float64, but faster.

Only whether the nearest point is within a threshold matters. Where vertices correspond, most are proven to be by the
distance of the corresponding one. The rest is decided by a float32 matrix of squared distances with a bound on its
rounding errors; what lies within the bound of a threshold is computed again in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Multiply-adds of a product that OpenBLAS still computes in the calling thread (65,536 times its default of 4). Several
# Python threads share the work here; products that start threads of their own would wait for each other.
SINGLE_THREAD_PRODUCT = 2**18
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
    """Which points have a point of the other cloud within distance thresholds, for one sample.

    Args:
        points: (N, 3) float64.
        others: (M, 3) float64, same unit and frame.
        bounds: (T) of `squared_threshold`, ascending.
        corresponding: (N,) squared distances between points[i] and others[i], if the clouds correspond; N = M.

    Returns:
        (T,) numbers of points that have a neighbour among the others, and (T,) of others that have one among the
        points.
    """
    if _apart(points, others, bounds[-1]):
        return np.zeros(len(bounds), np.int64), np.zeros(len(bounds), np.int64)
    if corresponding is None:
        return _search(points, others, bounds), _search(others, points, bounds)
    open_rows = np.flatnonzero(corresponding >= bounds[0])
    proven = np.array([len(points) - len(open_rows)] * len(bounds))
    if not len(open_rows):
        return proven, proven.copy()
    return (
        proven + _search(points[open_rows], others, bounds),
        proven + _search(others[open_rows], points, bounds),
    )


def _apart(points: np.ndarray, others: np.ndarray, bound: float) -> bool:
    """Whether a gap between the clouds along an axis proves that all squared distances exceed the bound."""
    gap = np.maximum(points.min(0) - others.max(0), others.min(0) - points.max(0)).max()
    return gap > 0 and gap * gap > 2 * bound


def _search(points: np.ndarray, others: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    """(T,) numbers of points with one of the others nearer than each bound; squared distances, as everywhere here."""
    centre = others.mean(0)
    near, far = points - centre, others - centre
    near_squares, far_squares = np.einsum("ij,ij->i", near, near), np.einsum("ij,ij->i", far, far)
    radius = np.sqrt(max(near_squares.max(), far_squares.max()))
    # The second term: centring rounds in float64, which shows far from the origin only.
    error = radius * (ERROR_UNITS * 2.0**-24 * radius + 16 * 2.0**-53 * abs(centre).max())
    left = np.ones((len(near), 4), np.float32)
    np.multiply(near, -2, out=left[:, :3], casting="same_kind")
    right = np.empty((4, len(far)), np.float32)
    right[:3], right[3] = far.T, far_squares
    nearest = near_squares + _row_minima(left, right)
    doubtful = np.zeros(len(near), bool)
    for bound in bounds:
        doubtful |= ~(abs(nearest - bound) > error)  # NaN, from numbers beyond float32, is doubtful, too
    if doubtful.any():
        nearest[doubtful] = _exact(points[doubtful], others)
    return np.array([np.count_nonzero(nearest < bound) for bound in bounds])


def _row_minima(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Smallest element of each row of left @ right; a block of the product at a time, which stays in the cache."""
    rows = max(1, SINGLE_THREAD_PRODUCT // right.size)
    product = np.empty((rows, right.shape[1]), np.float32)
    minima = np.empty(len(left), np.float32)
    for start in range(0, len(left), rows):
        block = left[start : start + rows]
        np.matmul(block, right, out=product[: len(block)]).min(1, out=minima[start : start + rows])
    return minima


def _exact(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distance of each point to the nearest of the others; blocks bound the memory."""
    columns = others.T
    nearest = np.empty(len(points))
    for start in range(0, len(points), 64):
        x, y, z = (points[start : start + 64, axis, None] - columns[axis] for axis in range(3))
        nearest[start : start + 64] = (x * x + y * y + z * z).min(1)
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
