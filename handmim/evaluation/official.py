"""Scores equal to those of the official FreiHAND and HO3D evaluation scripts, in a fraction of their time.

The definitions are those of `eval.py` of lmb-freiburg/freihand and shreyashampali/ho3d. Whatever is peculiar in them is
a field of `Protocol` with the official value as default:

* the mean over points of the per-point mean over samples, and the area under the PCK curve over 100 thresholds from 0
  to 5 cm, both ends included, with `<=`, by the trapezoid rule;
* Procrustes alignment that admits reflections and adds 1e-8 to both norms; joints and vertices aligned independently;
* F-scores with `<`, of the raw and of the aligned vertices, which need not correspond;
* a mesh with another number of vertices has no mesh errors, and its vertices follow the joints' alignment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError
from .alignment import Procrustes, scale_translation_align
from .fscore import Clouds, f_scores, squared_threshold, within

# Samples handled at a time by a thread: their vertices stay in its cache.
CHUNK = 32
NO_MESH = -1.0
HO3D_FROM_OURS = (0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20)


@dataclass(frozen=True)
class Protocol:
    """How a benchmark measures, and the form of its files.

    Attributes:
        name: As on the command line.
        title: For people.
        samples: Size of the official evaluation split.
        printed: Measure -> its name in scores.txt, in the order of that file. Measures: `xyz` and `mesh` as they are,
            `xyz_al` and `mesh_al` after Procrustes alignment, `xyz_sc_tr` after scale-translation alignment.
        joint_order: The official files' joint k is joint `joint_order[k]` in this package's order.
        opengl: Whether the official files' y points up and z backwards.
        vertices: Number of vertices of the true meshes.
        f_thresholds: Metres, ascending.
        f_inclusive: Whether a neighbour at exactly the threshold counts.
        curve_end, curve_steps: Metres; the PCK thresholds are `linspace(0, curve_end, curve_steps)`.
        curve_inclusive: Whether an error of exactly the threshold counts as correct.
        reflections, norm_epsilon: Of the Procrustes alignment.
        root, reference: Joints of the scale-translation alignment, in the official order.
        mesh_follows_joints: Whether vertices take the joints' alignment even if they could be aligned themselves.
    """

    name: str
    title: str
    samples: int
    printed: dict[str, str] = field(hash=False)
    joint_order: tuple[int, ...] = tuple(range(21))
    opengl: bool = False
    vertices: int = 778
    f_thresholds: tuple[float, ...] = (0.005, 0.015)
    f_inclusive: bool = False
    curve_end: float = 0.05
    curve_steps: int = 100
    curve_inclusive: bool = True
    reflections: bool = True
    norm_epsilon: float = 1e-8
    root: int = 0
    reference: int = 4
    mesh_follows_joints: bool = False

    @property
    def thresholds(self) -> np.ndarray:
        """(curve_steps,) of the PCK curve, metres."""
        return np.linspace(0.0, self.curve_end, self.curve_steps)


_MESH = {"mesh": "mesh", "mesh_al": "mesh_al"}
_HO3D = {"xyz": "xyz", "xyz_al": "xyz_procrustes_al", "xyz_sc_tr": "xyz_scale_trans_al", **_MESH}
FREIHAND = Protocol("freihand", "FreiHAND", 3960, {"xyz": "xyz", "xyz_al": "xyz_al", **_MESH})
HO3D_V2 = Protocol("ho3d-v2", "HO3D v2", 11524, _HO3D, HO3D_FROM_OURS, opengl=True)
HO3D_V3 = Protocol("ho3d-v3", "HO3D v3", 20137, _HO3D, HO3D_FROM_OURS, opengl=True)
PROTOCOLS = {protocol.name: protocol for protocol in (FREIHAND, HO3D_V2, HO3D_V3)}


@dataclass(frozen=True, eq=False)
class Scores:
    """What an official script finds out.

    Attributes:
        protocol: How it was measured.
        values: The lines of scores.txt in their order, unrounded: `..._mean3d` in centimetres, the others as shares.
            What a mesh of another kind, or none, does not have is -1 (-100 for `..._mean3d`: the scripts turn the
            -1 into centimetres, too).
        errors: Measure -> (N, points) distances in metres.
        fscores: (N, T, 2, 3): thresholds; raw, aligned; F, precision, recall (named as in the scripts, where precision
            is the share of true vertices matched). None without vertices.
        curves: Measure -> (curve_steps,) mean PCK at `protocol.thresholds`.
    """

    protocol: Protocol
    values: dict[str, float]
    errors: dict[str, np.ndarray]
    fscores: np.ndarray | None
    curves: dict[str, np.ndarray]

    def text(self) -> str:
        """The official scores.txt."""
        return "".join(f"{name}: {value:f}\n" for name, value in self.values.items())

    def median(self, measure: str) -> float:
        """Mean over points of the median over samples, metres; the scripts compute it and do not print it."""
        return float(np.median(self.errors[measure], 0).mean())


def score(
    pred_joints: np.ndarray,
    pred_vertices: np.ndarray | None,
    gt_joints: np.ndarray,
    gt_vertices: np.ndarray | None,
    protocol: Protocol = FREIHAND,
    threads: int | None = None,
) -> Scores:
    """Score predictions as the official script does.

    Args:
        pred_joints: (N, 21, 3) metres, official joint order and frame.
        pred_vertices: (N, V, 3), or None: there are no mesh errors and F-scores then.
        gt_joints: (N, 21, 3).
        gt_vertices: (N, 778, 3); may be None where no vertices are predicted.
        protocol: FREIHAND, HO3D_V2 or HO3D_V3, or one with other options.
        threads: Default: one for each processor this process may use, at most eight.

    Raises:
        DataError: Numbers of samples or points do not fit, or a number is not finite; names array and sample.
    """
    scorer = Scorer(protocol)
    arrays = scorer.checked(pred_joints, pred_vertices, gt_joints, gt_vertices)
    starts = range(0, len(gt_joints), CHUNK)
    chunks = ([None if a is None else a[start : start + CHUNK] for a in arrays] for start in starts)
    with ThreadPoolExecutor(threads or min(8, _processors())) as pool:
        return scorer.finish(pool.map(lambda chunk: scorer.measure(*chunk), chunks))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class _Part:
    """Measured samples: measure -> (B, points) errors, measure -> PCK counts, and (B, T, 2, 3) F-scores."""

    errors: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    fscores: np.ndarray | None


class Scorer:
    """Scores batch by batch: `update` with each batch, then `compute`. `score` does both with threads.

    Example:
        >>> import numpy as np
        >>> scorer = Scorer(FREIHAND)
        >>> joints, vertices = np.random.rand(2, 21, 3), np.random.rand(2, 778, 3)
        >>> scorer.update(joints, vertices, joints, vertices)
        >>> scorer.compute().values["f_score_5"]
        1.0
    """

    def __init__(self, protocol: Protocol = FREIHAND) -> None:
        self.protocol = protocol
        self.thresholds = protocol.thresholds
        self.bounds = [squared_threshold(t, protocol.f_inclusive) for t in protocol.f_thresholds]
        self.parts: list[_Part] = []

    def update(
        self,
        pred_joints: np.ndarray,
        pred_vertices: np.ndarray | None,
        gt_joints: np.ndarray,
        gt_vertices: np.ndarray | None,
    ) -> None:
        """Take a batch; arrays and errors as for `score`."""
        self.parts.append(self.measure(*self.checked(pred_joints, pred_vertices, gt_joints, gt_vertices)))

    def compute(self) -> Scores:
        """The scores of all batches so far."""
        return self.finish(self.parts)

    def reset(self) -> None:
        """Forget all batches."""
        self.parts.clear()

    def checked(
        self,
        pred_joints: np.ndarray,
        pred_vertices: np.ndarray | None,
        gt_joints: np.ndarray,
        gt_vertices: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]:
        """The arrays as float64; DataError unless they fit each other and are finite."""
        samples = len(gt_joints)
        any_mesh = None if pred_vertices is None else (np.shape(pred_vertices) + (0, 0))[1]
        gt_joints = _checked(gt_joints, samples, 21, "true joints")
        if pred_vertices is not None or gt_vertices is not None:
            gt_vertices = _checked(gt_vertices, samples, self.protocol.vertices, "true vertices")
        pred_joints = _checked(pred_joints, samples, 21, "predicted joints")
        if pred_vertices is not None:
            pred_vertices = _checked(pred_vertices, samples, any_mesh, "predicted vertices")
            if not any_mesh:
                raise DataError("predicted vertices must be (N, V, 3) with at least one vertex, or None")
        return pred_joints, pred_vertices, gt_joints, gt_vertices

    def measure(
        self,
        pred_joints: np.ndarray,
        pred_vertices: np.ndarray | None,
        gt_joints: np.ndarray,
        gt_vertices: np.ndarray | None,
    ) -> _Part:
        """Measure checked samples."""
        protocol = self.protocol
        joint_fit = self._fit(pred_joints, gt_joints)
        squares = {"xyz": _squares(gt_joints, pred_joints)}
        squares["xyz_al"] = _squares(gt_joints, joint_fit.aligned(pred_joints))
        if "xyz_sc_tr" in protocol.printed:
            aligned = scale_translation_align(pred_joints, gt_joints, protocol.root, protocol.reference)
            squares["xyz_sc_tr"] = _squares(gt_joints, aligned)
        fscores = None
        if pred_vertices is not None:
            corresponds = pred_vertices.shape[1] == protocol.vertices
            if corresponds and not protocol.mesh_follows_joints:
                aligned = self._fit(pred_vertices, gt_vertices).aligned(pred_vertices)
            else:
                aligned = joint_fit.aligned_other(pred_vertices)
            if corresponds:
                squares["mesh"] = _squares(gt_vertices, pred_vertices)
                squares["mesh_al"] = _squares(gt_vertices, aligned)
            target = Clouds(gt_vertices)
            raw = self._fscores(pred_vertices, target, squares.get("mesh"))
            fscores = np.stack([raw, self._fscores(aligned, target, squares.get("mesh_al"))], 2)
        errors = {name: np.sqrt(square) for name, square in squares.items()}
        return _Part(errors, {name: self._correct(values) for name, values in errors.items()}, fscores)

    def _fit(self, predicted: np.ndarray, target: np.ndarray) -> Procrustes:
        protocol = self.protocol
        return Procrustes.fit(predicted, target, reflections=protocol.reflections, epsilon=protocol.norm_epsilon)

    def _correct(self, errors: np.ndarray) -> np.ndarray:
        """(curve_steps,) numbers of points that are correct at each threshold."""
        side = "left" if self.protocol.curve_inclusive else "right"
        first = np.searchsorted(self.thresholds, errors.ravel(), side)
        return np.bincount(first, minlength=len(self.thresholds) + 1)[:-1].cumsum()

    def _fscores(self, predicted: np.ndarray, target: Clouds, squares: np.ndarray | None) -> np.ndarray:
        """(B, T, 3) F, precision, recall; `squares` are those between corresponding vertices, if they correspond."""
        clouds = Clouds(predicted, target)
        matched = within(clouds, target, self.bounds, squares), within(target, clouds, self.bounds, squares)
        return f_scores(*matched, predicted.shape[1], self.protocol.vertices)

    def finish(self, parts: Iterable[_Part]) -> Scores:
        """Put measured parts together."""
        parts = list(parts)
        if not parts:
            raise DataError(f"{self.protocol.title}: there is nothing to score, no sample was given")
        names = [name for name in self.protocol.printed if all(name in part.errors for part in parts)]
        errors = {name: np.concatenate([part.errors[name] for part in parts]) for name in names}
        curves = {name: sum(part.counts[name] for part in parts) / errors[name].size for name in names}
        fscores = None
        if all(part.fscores is not None for part in parts):
            fscores = np.concatenate([part.fscores for part in parts])
        return Scores(self.protocol, self._values(errors, curves, fscores), errors, fscores, curves)

    def _values(
        self, errors: dict[str, np.ndarray], curves: dict[str, np.ndarray], fscores: np.ndarray | None
    ) -> dict[str, float]:
        values = {}
        for name, printed in self.protocol.printed.items():
            mean = errors[name].mean(0).mean() if name in errors else NO_MESH
            values[f"{printed}_mean3d"] = float(100 * mean)
            values[f"{printed}_auc3d"] = area_under(curves[name], self.thresholds) if name in curves else NO_MESH
        for index, threshold in enumerate(self.protocol.f_thresholds):
            for kind, prefix in enumerate(("f_score", "f_al_score")):
                value = NO_MESH if fscores is None else float(fscores[:, index, kind, 0].mean())
                values[f"{prefix}_{round(threshold * 1000)}"] = value
        return values


def area_under(curve: np.ndarray, thresholds: np.ndarray) -> float:
    """Area under a curve by the trapezoid rule, over the range of its thresholds: a share."""
    steps = np.diff(thresholds)
    return float(((curve[1:] + curve[:-1]) / 2 * steps).sum() / steps.sum())


def _squares(target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(B, N) squared distances, added up from x to z as the scripts do: their bits decide at a threshold."""
    difference = target - predicted
    difference *= difference
    return difference[..., 0] + difference[..., 1] + difference[..., 2]


def _checked(array: np.ndarray, samples: int, points: int, what: str) -> np.ndarray:
    array = np.asarray(array, np.float64)
    if array.shape != (samples, points, 3):
        raise DataError(f"{what} must be of shape ({samples}, {points}, 3), got {array.shape}")
    finite = np.isfinite(array).all((1, 2))
    if not finite.all():
        raise DataError(f"{what} of sample {int(finite.argmin())} must be finite, got NaN or infinity")
    return array
