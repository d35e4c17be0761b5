"""What is wrong with the values of labels: vectorised tests of many samples at once, of whatever data set.

Every test takes a `LabelBlock` and yields `Finding`s. What cannot be right is an error; what is only unlikely (a unit,
a frame, an angle in degrees) is a warning with the guess. `check.py` walks data sets and collects them. (Readers refuse
broken files with the first fault, by `label_checks.py`; here nothing is raised.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .label_checks import project_points

POINTS = ("keypoints_2d", "joints", "vertices")
# A hand from wrist to fingertip measures 0.15 to 0.21 m, a child's from 0.10; a fist is half as long, and the diagonal
# of the box around a spread hand longer.
SMALLEST_SPAN, LARGEST_SPAN = 0.04, 0.30
FARTHEST = 10.0  # metres; a hand there is smaller than any crop
LARGEST_PIXEL = 1e5
# Share of the hand's extent in pixels by which labelled and projected points may differ in the median.
PROJECTION_TOLERANCE, PROJECTION_PIXELS = 0.1, 3.0
LARGEST_BETA = 10.0  # standard deviations
_UNITS = ((1000.0, "millimetres"), (100.0, "centimetres"))
_FRAMES = (
    (np.array([1, -1, -1]), "an OpenGL frame (y up, z backwards)"),
    (np.array([-1, -1, 1]), "a frame with x to the left and y up"),
    (np.array([1, -1, 1]), "a frame with y up"),
    (np.array([-1, 1, 1]), "a mirrored frame (x to the left)"),
)


class Finding(NamedTuple):
    """One fault: row of the block, a short name that counts faults of a kind, field, sentence, error or warning."""

    row: int
    kind: str
    field: str
    message: str
    serious: bool = True


@dataclass(eq=False)
class LabelBlock:
    """B samples.

    Attributes:
        labels: (B, ...) float32 each, shapes of `sample.LABEL_SHAPES`.
        present: (B,) bool for each label: which samples have it; the other rows are not looked at.
        intrinsics: (B, 3, 3) pixels; NaN where there is no camera.
        boxes: (B, 4) xyxy pixels; NaN where there is none.
        sizes: (B, 2) width and height of the pictures; NaN where not looked up.
    """

    labels: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    intrinsics: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    rows: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = {name: np.flatnonzero(flags) for name, flags in self.present.items()}

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows (R,) that have a label, and its values there (R, ...)."""
        rows = self.rows[name]
        return rows, self.labels[name][rows]

    def names(self, *names: str) -> list[str]:
        """Those of the labels that some sample has."""
        return [name for name in names if name in self.rows and len(self.rows[name])]


def check_block(block: LabelBlock) -> Iterator[Finding]:
    """All tests."""
    with np.errstate(all="ignore"):
        for test in _TESTS:
            yield from test(block)


def check_rotation_vectors(name: str, rows: np.ndarray, vectors: np.ndarray) -> Iterator[Finding]:
    """Angles that are no radians.

    Args:
        name: Field.
        rows: (R,) of the block.
        vectors: (R, K, 3) axis-angle.
    """
    angle = np.nan_to_num(np.linalg.norm(vectors, axis=-1)).max(-1, initial=0)
    for i in np.flatnonzero(angle > 2 * np.pi + 0.01):
        hint = "write radians, not degrees" if angle[i] > 10 else "one turn is 6.28 radians"
        yield Finding(int(rows[i]), "angle", name, f"a rotation of {angle[i]:.4g}; {hint}", bool(angle[i] > 10))


def _finite(block: LabelBlock) -> Iterator[Finding]:
    for name in block.names(*block.labels):
        rows, values = block.of(name)
        # A sum is finite where all is: most blocks need no second look.
        suspects = ~np.isfinite(values.reshape(len(rows), -1).sum(1, dtype=np.float64))
        for i in np.flatnonzero(suspects):
            message = _not_finite(name, values[i])
            if message:
                yield Finding(int(rows[i]), "not finite", name, message)


def _not_finite(name: str, value: np.ndarray) -> str | None:
    """What is wrong with one label that holds NaN or Infinity; None if only whole points are missing."""
    if np.isinf(value).any():
        return f"value {int(np.flatnonzero(np.isinf(value))[0])} is Infinity"
    gaps = np.isnan(value)
    if name == "vertices" or name not in POINTS:
        return f"value {int(np.flatnonzero(gaps)[0])} is NaN; a sample without {name} leaves it out"
    partly = gaps.any(-1) & ~gaps.all(-1)
    if partly.any():
        return f"point {int(partly.argmax())} has only some of its coordinates; write null for the whole point"
    return "none of the points is labelled; leave it out" if gaps.all() else None


def _box(block: LabelBlock) -> Iterator[Finding]:
    low, high = block.boxes[:, :2], block.boxes[:, 2:]
    given = ~np.isnan(block.boxes).all(1)
    broken = given & ~np.isfinite(block.boxes).all(1)
    flat = given & ~broken & ~(high > low).all(1)
    for i in np.flatnonzero(broken | flat):
        hint = "x0, y0, x1, y1 must be numbers" if broken[i] else "x1 must exceed x0 and y1 exceed y0"
        yield Finding(int(i), "box", "box", f"{_show(block.boxes[i])} has no area; {hint} (not width and height)")
    good = given & ~broken & ~flat
    away = good & ((low > block.sizes - 0.5) | (high < -0.5)).any(1)
    for i in np.flatnonzero(away):
        yield Finding(int(i), "box outside", "box", f"{_show(block.boxes[i])} lies outside {_picture(block, i)}")
    if not block.names("keypoints_2d"):
        return
    rows, points = block.of("keypoints_2d")
    inside = ((points >= low[rows, None]) & (points <= high[rows, None])).all(-1).sum(1)
    labelled = (~np.isnan(points).any(-1)).sum(1)
    for i in np.flatnonzero(good[rows] & ~away[rows] & (labelled > 2) & (inside < labelled / 2)):
        box = _show(block.boxes[rows[i]])
        message = f"{box} holds {inside[i]} of {labelled[i]} keypoints; it must be x0, y0, x1, y1"
        yield Finding(int(rows[i]), "box misses hand", "box", message, False)


def _intrinsics(block: LabelBlock) -> Iterator[Finding]:
    matrices = block.intrinsics
    given, cameras = ~np.isnan(matrices).all((1, 2)), _cameras(matrices)
    for i in np.flatnonzero(given & ~cameras):
        yield Finding(int(i), "no camera", "intrinsics", _why_no_camera(matrices[i]))
    focal, centre = matrices[:, (0, 1), (0, 1)], matrices[:, :2, 2]
    ratio = focal[:, 0] / focal[:, 1]
    share = focal.mean(1) / block.sizes.max(1)
    for i in np.flatnonzero(cameras & ((ratio < 0.5) | (ratio > 2))):
        message = f"focal lengths {focal[i, 0]:.4g} and {focal[i, 1]:.4g} px differ by more than twice"
        yield Finding(int(i), "odd camera", "intrinsics", message, False)
    # From a fisheye to a crop from a telephoto lens.
    for i in np.flatnonzero(cameras & ((focal.mean(1) < 10) | (share < 0.2) | (share > 100))):
        message = f"a focal length of {focal[i].mean():.4g} is not likely in {_picture(block, i)}; write pixels"
        yield Finding(int(i), "odd camera", "intrinsics", message, False)
    far = (centre < -20 * block.sizes) | (centre > 21 * block.sizes)  # crops have their centre far outside
    for i in np.flatnonzero(cameras & far.any(1)):
        message = f"the principal point {_show(centre[i])} is far from {_picture(block, i)}"
        yield Finding(int(i), "odd camera", "intrinsics", message, False)


def _cameras(matrices: np.ndarray) -> np.ndarray:
    """(B,) bool: which of (B, 3, 3) are pinhole cameras without skew, which can be inverted."""
    focal = matrices[:, (0, 1), (0, 1)]
    skew = np.abs(matrices[:, (0, 1), (1, 0)]).max(1)
    last = np.abs(matrices[:, 2] - np.array([0, 0, 1.0])).max(1)
    return np.isfinite(matrices).all((1, 2)) & (focal > 0).all(1) & (skew <= 1e-3 * focal.max(1)) & (last < 1e-6)


def _why_no_camera(matrix: np.ndarray) -> str:
    form = "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels"
    unit = np.array([0, 0, 1])
    if not np.isfinite(matrix).all():
        return "holds NaN or Infinity"
    if np.abs(matrix[:, 2] - unit).max() < 1e-6 and np.abs(matrix[2, :2]).max() > 0:
        return f"looks transposed: its last row is {_show(matrix[2])}; it must be {form}"
    if np.abs(np.linalg.det(matrix)) < 1e-12:
        return f"cannot be inverted; it must be {form}"
    if min(matrix[0, 0], matrix[1, 1]) <= 0:
        return f"focal lengths must be positive, got {matrix[0, 0]:.4g} and {matrix[1, 1]:.4g}"
    if np.abs(matrix[2] - unit).max() >= 1e-6:
        return f"its last row must be 0, 0, 1, got {_show(matrix[2])}"
    return f"has a skew of {matrix[0, 1]:.4g} and {matrix[1, 0]:.4g}; undistort the picture, or set it to 0"


def _depth(block: LabelBlock) -> Iterator[Finding]:
    for name in block.names("joints", "vertices"):
        rows, points = block.of(name)
        depth = np.where(np.isnan(points[..., 2]), np.inf, points[..., 2])
        nearest = depth.min(1)
        for i in np.flatnonzero(nearest <= 0):
            behind = int((depth[i] <= 0).sum())
            if behind == np.isfinite(depth[i]).sum():
                hint = "OpenGL's frame has z backwards: turn it by diag(1, -1, -1)"
            else:
                hint = "are they relative to the wrist? add its position in the camera's frame"
            message = f"{behind} points lie behind the camera (z = {nearest[i]:.4g} m); {hint}"
            yield Finding(int(rows[i]), "behind camera", name, message)


def _units(block: LabelBlock) -> Iterator[Finding]:
    for name in block.names("joints", "vertices"):
        rows, points = block.of(name)
        labelled = (~np.isnan(points[..., 0])).sum(1)
        low = np.where(np.isnan(points), np.inf, points).min(1)
        high = np.where(np.isnan(points), -np.inf, points).max(1)
        span = np.linalg.norm(high - low, axis=-1)
        odd = (span > LARGEST_SPAN) | ((span < SMALLEST_SPAN) & (labelled > 10))
        for i in np.flatnonzero(odd & np.isfinite(span)):
            unit = next((unit for factor, unit in _UNITS if 0.04 < span[i] / factor < 0.4), None)
            hint = f"these look like {unit}; write metres" if unit else "write metres"
            message = f"the hand measures {span[i]:.4g} m from end to end; {hint}"
            yield Finding(int(rows[i]), "unit", name, message, bool(span[i] > 1 or span[i] < 0.005))
        for i in np.flatnonzero((low[:, 2] > FARTHEST) & np.isfinite(low[:, 2]) & ~odd):
            message = f"the hand is {low[i, 2]:.4g} m away; write metres, in the camera's frame"
            yield Finding(int(rows[i]), "unit", name, message, False)


def _wrist(block: LabelBlock) -> Iterator[Finding]:
    """Meshes are learned relative to their wrist joint: those without one would teach nothing."""
    if not block.names("vertices"):
        return
    known = np.zeros(len(block.boxes), bool)
    for name in block.names("joints"):
        rows, joints = block.of(name)
        known[rows] = ~np.isnan(joints[:, 0]).any(-1)
    rows = block.rows["vertices"]
    for i in rows[~known[rows]]:
        message = "teach nothing without a labelled wrist; label joints[0], or leave vertices out"
        yield Finding(int(i), "no wrist", "vertices", message)


def _projection(block: LabelBlock) -> Iterator[Finding]:
    if len(block.names("joints", "keypoints_2d")) < 2:
        return
    rows = np.flatnonzero(block.present["joints"] & block.present["keypoints_2d"] & _cameras(block.intrinsics))
    joints, points, cameras = block.labels["joints"][rows], block.labels["keypoints_2d"][rows], block.intrinsics[rows]
    kept = (~np.isnan(joints).any(-1) & ~np.isnan(points).any(-1)).sum(1) >= 3
    rows, joints, points, cameras = rows[kept], joints[kept], points[kept], cameras[kept]
    if not len(rows):
        return
    extent = np.nanmax(points, 1) - np.nanmin(points, 1)
    allowed = np.maximum(PROJECTION_PIXELS, PROJECTION_TOLERANCE * extent.max(1))
    away = _distance(joints, points, cameras)
    for i in np.flatnonzero(away > allowed):
        one = slice(i, i + 1)
        fits = [name for frame, name in _FRAMES if _fits(joints[one] * frame, points[one], cameras[one], allowed[i])]
        hint = f"they fit in {fits[0]}; turn them into x right, y down, z forward" if fits else "check frame and camera"
        message = f"the joints project {away[i]:.1f} px (median) away from the keypoints; {hint}"
        yield Finding(int(rows[i]), "projection", "joints", message, False)


def _distance(joints: np.ndarray, points: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """(R,) median distance in pixels between projected joints (R, N, 3) and keypoints (R, N, 2)."""
    return np.nanmedian(np.linalg.norm(project_points(joints, cameras) - points, axis=-1), 1)


def _fits(joints: np.ndarray, points: np.ndarray, cameras: np.ndarray, allowed: float) -> bool:
    """Whether joints lie before the camera and project to the keypoints."""
    return bool(np.nanmin(joints[..., 2]) > 0 and _distance(joints, points, cameras)[0] <= allowed)


def _pixels(block: LabelBlock) -> Iterator[Finding]:
    for name in block.names("keypoints_2d"):
        rows, points = block.of(name)
        labelled = ~np.isnan(points).any(-1)
        size = block.sizes[rows][:, None]
        beyond = np.maximum(-0.5 - points, points - (size - 0.5)).max(-1)  # (R, 21) px; NaN where size is unknown
        beyond = np.where(beyond > 0, beyond, 0)
        largest = np.where(labelled, np.abs(points).max(-1), 0).max(1)
        # The hand may leave the picture; what is further outside than its longer side belongs to something else.
        odd = (largest > LARGEST_PIXEL) | (largest <= 2) | ((beyond > 0).sum(1) * 2 > labelled.sum(1))
        odd |= beyond.max(1) > block.sizes[rows].max(1)
        for i in np.flatnonzero(odd & (labelled.sum(1) > 0)):
            message, serious = _outside(points[i], beyond[i], largest[i], _picture(block, rows[i]), size[i].max())
            if message:
                kind = "outside" if "outside" in message else "pixel"
                yield Finding(int(rows[i]), kind, name, message, serious)


def _outside(points: np.ndarray, beyond: np.ndarray, largest: float, picture: str, side: float) -> tuple[str, bool]:
    """What is wrong with one sample's keypoints (21, 2) that lie `beyond` (21,) px outside, and whether surely."""
    count, outside, worst = int((~np.isnan(points).any(-1)).sum()), int((beyond > 0).sum()), int(beyond.argmax())
    if largest > LARGEST_PIXEL:
        return f"a coordinate is {largest:.4g}; write pixels of the picture", True
    if largest <= 2 and count > 2:
        return "all points lie in [0, 2]: write pixels, not shares of the size", True
    if outside == count:
        return f"all {count} points lie outside {picture}", True
    if beyond[worst] > side:
        return f"point {worst} at {_show(points[worst])} is far outside {picture}", True
    return (f"{outside} of {count} points lie outside {picture}", False) if outside * 2 > count else ("", False)


def _rotations(block: LabelBlock) -> Iterator[Finding]:
    for name in block.names("global_orient", "hand_pose"):
        rows, matrices = block.of(name)
        matrices = matrices.reshape(len(rows), -1, 3, 3)
        # Rows of a rotation: two of length one, at right angles, and the third their cross product.
        cross = np.cross(matrices[..., 0, :], matrices[..., 1, :])
        handed = (cross * matrices[..., 2, :]).sum(-1).min(1)
        fault = np.abs(matrices @ np.swapaxes(matrices, -1, -2) - np.eye(3, dtype=np.float32)).max((1, 2, 3))
        for i in np.flatnonzero((fault > 1e-2) | (handed < 0)):
            what = "a reflection" if handed[i] < 0 else f"not orthogonal (by {fault[i]:.3g})"
            yield Finding(int(rows[i]), "rotation", name, f"a matrix is {what}; rotations must be proper")


def _betas(block: LabelBlock) -> Iterator[Finding]:
    for name in block.names("betas"):
        rows, values = block.of(name)
        largest = np.abs(values).max(1)
        for i in np.flatnonzero(largest > LARGEST_BETA):
            message = f"a value is {largest[i]:.4g} standard deviations; hands are within {LARGEST_BETA:g} of the mean"
            yield Finding(int(rows[i]), "betas", name, message, False)


_TESTS: tuple[Callable[[LabelBlock], Iterator[Finding]], ...] = (
    *(_finite, _box, _intrinsics, _depth, _units, _wrist),
    *(_projection, _pixels, _rotations, _betas),
)


def _show(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"


def _picture(block: LabelBlock, row: int) -> str:
    width, height = block.sizes[row]
    return "the picture" if np.isnan(width) else f"the picture of {width:.0f} x {height:.0f} px"
