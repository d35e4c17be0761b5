"""Checks of labels at the start of a run, over whole arrays; messages name file, sample, field and value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ...errors import DataError

# Depths beyond this are millimetres that were taken for metres.
MAX_DEPTH_METRES = 10.0
# A joint angle beyond several turns, or a shape beyond this many standard deviations, is no hand.
MAX_PARAMETER = 50.0
# Samples checked at once.
ROWS = 2048

Name = Callable[[int], str]


def check_counts(counts: Mapping[Path, int]) -> int:
    """The number of samples, if all files of a split have as many.

    Raises:
        DataError: They differ.
    """
    if len(set(counts.values())) != 1:
        said = ", ".join(f"{path} has {count}" for path, count in counts.items())
        raise DataError(f"the label files must have as many samples each: {said}")
    return next(iter(counts.values()))


def check_finite(values: np.ndarray, path: Path, field: str, name: Name, limit: float = np.inf) -> None:
    """All numbers of (N, ...) are finite, and none exceeds a limit.

    Raises:
        DataError: Naming the first sample where one does.
    """
    index = _first_bad(values, lambda part: np.isfinite(part) & (np.abs(part) <= limit))
    if index is not None:
        largest = np.abs(values[index]).max()
        beyond = f"{largest:g}" if np.isfinite(largest) else "a number that is not finite"
        raise DataError(f"{path}: {field} of sample {name(index)} has {beyond}, which no hand has")


def _first_bad(values: np.ndarray, good: Callable[[np.ndarray], np.ndarray]) -> int | None:
    """The first row of (N, ...) where something is not good; by parts, for labels of hundreds of megabytes."""
    for start in range(0, len(values), ROWS):
        part = values[start : start + ROWS]
        with np.errstate(invalid="ignore"):
            rows = good(part).reshape(len(part), -1).all(1)
        if not rows.all():
            return start + int(rows.argmin())
    return None


def check_intrinsics(intrinsics: np.ndarray, path: Path, name: Name) -> None:
    """(N, 3, 3) are cameras: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0, so they can be inverted.

    Raises:
        DataError: Naming the first sample whose matrix is none.
    """
    check_finite(intrinsics, path, "intrinsics", name)
    focal = intrinsics[:, (0, 1), (0, 1)]
    zero = np.abs(intrinsics[:, (0, 1, 2, 2), (1, 0, 0, 1)]).max(1, initial=0)
    good = (focal > 0).all(1) & (zero <= 1e-3 * focal.max(1)) & (np.abs(intrinsics[:, 2, 2] - 1) < 1e-6)
    if not good.all():
        index = int(good.argmin())
        raise DataError(
            f"{path}: intrinsics of sample {name(index)} must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive "
            f"focal lengths, got {intrinsics[index].tolist()}"
        )


def check_depth(points: np.ndarray, path: Path, field: str, name: Name) -> None:
    """All of (N, P, 3), camera frame, metres, lie before the camera and at most ten metres away.

    Raises:
        DataError: Naming the first sample where one does not: most often another frame or millimetres.
    """
    check_finite(points, path, field, name)
    depth = points[..., 2]
    index = _first_bad(depth, lambda part: (part > 0) & (part <= MAX_DEPTH_METRES))
    if index is not None:
        raise DataError(
            f"{path}: {field} of sample {name(index)} must lie 0 to {MAX_DEPTH_METRES:g} m before the camera, got "
            f"depths from {depth[index].min():g} to {depth[index].max():g}"
        )


def check_in_frame(keypoints: np.ndarray, size: tuple[int, int], path: Path, field: str, name: Name) -> None:
    """The centre of each hand's (N, 21, 2) keypoints, pixels, lies in the picture or near it.

    Single joints may lie outside, and a hand may leave the picture; one that is half a picture away belongs to another
    picture or camera.

    Raises:
        DataError: Naming the first sample whose hand is.
    """
    extent = np.array(size, np.float64)
    # No label at all is no error here.
    centre = np.nanmean(np.where(np.isnan(keypoints).all((1, 2))[:, None, None], extent / 2, keypoints), axis=1)
    bad = ((centre < -0.5 * extent) | (centre > 1.5 * extent)).any(1)
    if bad.any():
        index = int(bad.argmax())
        raise DataError(
            f"{path}: {field} of sample {name(index)} lies out of its picture of {size[0]} x {size[1]} pixels, around "
            f"({centre[index, 0]:.0f}, {centre[index, 1]:.0f}): a wrong camera, frame or picture"
        )


def project_points(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(..., P, 3) camera frame -> (..., P, 2) pixels, float32, by (..., 3, 3) without skew."""
    points, intrinsics = points.astype(np.float64), intrinsics.astype(np.float64)
    focal, principal = intrinsics[..., None, (0, 1), (0, 1)], intrinsics[..., None, :2, 2]
    return (points[..., :2] / points[..., 2:] * focal + principal).astype(np.float32)
