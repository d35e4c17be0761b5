"""Measures of any data set whose labels are known: joints, keypoints, meshes, masks, as far as a sample has them.

The official protocols of FreiHAND and HO3D are in `official`; here is what the other data sets are scored with, and
what the papers report beside the official figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..hand_maps import image_mask
from ..training.datasets.sample import HandReader, HandSample
from . import official
from .alignment import scale_translation_align
from .metrics import (
    class_overlaps,
    iou_pck,
    mask_iou,
    mean_error,
    mean_iou,
    normalized_errors_2d,
    pa_errors,
    pck,
    pck_curve,
    point_errors,
)
from .predictions import Predictions, evaluated_box
from .scores import Curve, Scores

WRIST, MIDDLE = 0, 9
POINT_LABELS = {"keypoints_2d": 2, "joints": 3}
# Highest threshold of 2D curves, as a share of the box's longer side, and their shape.
RANGE_2D, STEPS_2D = 0.3, 61
RANGE_3D_MM, STEPS_3D = (0.0, 50.0), 100


@dataclass(frozen=True, eq=False)
class Truth:
    """The labels of N samples, NaN where a sample lacks one.

    Attributes:
        ids: Names of the samples.
        boxes: (N, 4) float64 xyxy pixels.
        sides: "left", "right" or None for each.
        keypoints_2d: (N, 21, 2) float64 pixels.
        joints: (N, 21, 3) float64 metres, camera frame.
        vertices: (N, V, 3) float32 metres, camera frame; None if no sample has any.
        masks: Whether any sample has a mask.
        groups: A part of the data set for each sample, measured by itself as well; None without parts.
        hand_model: Whose vertices are labelled (even if they were not collected); None if none are.
        boxless: Number of samples whose box is made of their labels, or is the whole picture.
        checksum: SHA-256 of labels, boxes, sides and cameras, 16 hexadecimal digits.
        files: The same of the pictures' names and sizes in bytes.
        states: The same with the times at which they were last changed, by which kept predictions go: uncompressed
            pictures of one size have as many bytes.
    """

    ids: list[str]
    boxes: np.ndarray
    sides: list[str | None]
    keypoints_2d: np.ndarray
    joints: np.ndarray
    vertices: np.ndarray | None = None
    masks: bool = False
    groups: list[str] | None = None
    hand_model: str | None = None
    boxless: int = 0
    checksum: str = ""
    files: str = ""
    states: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def box_sides(self) -> np.ndarray:
        """(N,) longer sides of the boxes, pixels."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).max(1)

    def select(self, rows: Sequence[int]) -> Truth:
        """The labels of some of the samples."""
        rows = list(rows)
        arrays = {name: getattr(self, name)[rows] for name in ("boxes", *POINT_LABELS)}
        if self.vertices is not None:
            arrays["vertices"] = self.vertices[rows]
        lists = {name: [getattr(self, name)[row] for row in rows] for name in ("ids", "sides")}
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        return replace(self, **arrays, **lists, groups=groups)


def collect(reader: HandReader, count: int | None = None, vertices: bool = True) -> Truth:
    """The labels of the first samples of a reader.

    Raises:
        DataError: There is no sample, or none has a label that can be measured, or the box of one is none.
    """
    count = len(reader) if count is None else min(count, len(reader))
    if not count:
        raise DataError(f"{reader.name} has no sample in its split {reader.split!r}")
    columns = _Columns(count)
    for row in range(count):
        columns.take(row, reader[row], vertices)
    if not columns.labels:
        raise DataError(
            f"{reader.name} has no labels in its split {reader.split!r}: nothing can be measured; "
            f"its splits are {', '.join(reader.splits)}"
        )
    return Truth(
        ids=columns.ids,
        boxes=columns.boxes,
        sides=columns.sides,
        **columns.points,
        vertices=columns.vertices,
        masks="masks" in columns.labels,
        groups=list(reader.groups)[:count] if hasattr(reader, "groups") else None,
        hand_model=reader.hand_model if "vertices" in columns.labels else None,
        boxless=columns.boxless,
        checksum=columns.digest.hexdigest()[:16],
        files=columns.files.hexdigest()[:16],
        states=columns.states.hexdigest()[:16],
    )


class _Columns:
    """Labels of samples while they are collected; `labels` names the kinds that any sample has."""

    def __init__(self, count: int) -> None:
        self.points = {name: np.full((count, 21, size), np.nan) for name, size in POINT_LABELS.items()}
        self.boxes, self.vertices = np.zeros((count, 4)), None
        self.ids: list[str] = []
        self.sides: list[str | None] = []
        self.labels: set[str] = set()
        self.boxless = 0
        self.digest, self.files, self.states = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def take(self, row: int, sample: HandSample, vertices: bool) -> None:
        """The labels of one sample; those of vertices only if wanted."""
        self.ids.append(sample.id)
        self.sides.append(sample.handedness)
        self.boxes[row] = evaluated_box(sample)
        self.boxless += sample.box is None
        for name in self.points.keys() & sample.labels.keys():
            self.points[name][row] = sample.labels[name]
        mesh = sample.labels.get("vertices")
        if mesh is not None and vertices:
            if self.vertices is None:
                self.vertices = np.full((len(self.boxes), *mesh.shape), np.nan, np.float32)
            self.vertices[row] = mesh
        kinds = {name for name in (*POINT_LABELS, "vertices") if not np.isnan(sample.labels.get(name, np.nan)).all()}
        self.labels |= kinds | ({"masks"} if sample.load_mask is not None else set())
        _digest(sample, self.boxes[row], self.digest)
        size, changed = _size_and_time(sample.image)
        self.files.update(repr((sample.image.name, size)).encode())
        self.states.update(repr((sample.image.name, size, changed)).encode())


def _digest(sample: HandSample, box: np.ndarray, digest: Any) -> None:
    """Everything that decides about a figure, but the picture; the same with and without labels nobody measures."""
    digest.update(repr((sample.id, sample.handedness)).encode())
    for value in (box, sample.intrinsics, *(sample.labels.get(name) for name in (*POINT_LABELS, "vertices"))):
        digest.update(b"-" if value is None else np.ascontiguousarray(value, np.float64).tobytes())


def _size_and_time(path: Any) -> tuple[int, int]:
    """Bytes of a file, and when it was last changed in nanoseconds."""
    try:
        found = path.stat()
    except OSError:  # told when the picture is read; a submission needs none
        return -1, -1
    return found.st_size, found.st_mtime_ns


def wrist_aligned(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Shift predictions to the true wrist; where it is not labelled (fingertips only) to the labelled joints' mean.

    Args:
        predicted, target: (B, 21, 3); NaN where not labelled.

    Returns:
        (B, 21, 3) shifted predictions.
    """
    labelled = ~np.isnan(target).any(-1, keepdims=True)
    weight = np.where(labelled[:, :1], np.arange(21)[:, None] == WRIST, labelled)
    weight = weight / np.maximum(weight.sum(1, keepdims=True), 1)
    shift = np.where(weight > 0, (target - predicted) * weight, 0.0).sum(1, keepdims=True)
    return predicted + shift


# ---------------------------------------------------------------------------------------------------------------------
# Scores


def nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where everything is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(-1) / known.sum(-1)


def curve(errors: Tensor, title: str, unit: str, low: float, high: float, steps: int) -> Curve:
    """Share of labelled points whose error is at most each of equally spaced thresholds."""
    thresholds = torch.linspace(low, high, steps, dtype=torch.float64)
    return Curve(title, unit, thresholds.tolist(), pck_curve(errors.double(), thresholds).tolist())


def score(truth: Truth, predicted: Predictions, range_3d_mm: tuple[float, float] = RANGE_3D_MM) -> Scores:
    """Everything that the labels allow, but masks.

    Args:
        truth: N samples.
        predicted: The same N samples; NaN for hands that were not found: their 2D points count as error 1 (of the box's
            side), in 3D they are left out.
        range_3d_mm: Thresholds of the 3D PCK curves' areas.

    Returns:
        The figures, and those of each group.
    """
    scores = Scores()
    scores.add(score_2d(truth, predicted))
    scores.add(score_3d(truth, predicted, range_3d_mm))
    names = sorted(set(truth.groups or ()))
    for name in names if len(names) > 1 else ():
        rows = [row for row, group in enumerate(truth.groups) if group == name]
        part = score(replace(truth.select(rows), groups=None), predicted.select(rows), range_3d_mm)
        scores.groups[name] = {"samples": len(rows), **part.metrics}
    return scores


def score_2d(truth: Truth, predicted: Predictions) -> Scores:
    """Errors of the 2D keypoints as a share of the box's longer side, and in pixels.

    Those of the projected joints; and with the prefix map_ those of heat maps, where there are any.
    """
    scores = Scores()
    if np.isnan(truth.keypoints_2d).all():
        scores.omitted["2D keypoints"] = "not labelled"
        return scores
    if predicted.keypoints_2d is None:
        scores.omitted["2D keypoints of the mesh"] = "no mesh is predicted"
    else:
        found = ~np.isnan(predicted.keypoints_2d).any((1, 2))
        scores.metrics["found"] = int(found.sum())
        errors = _add_2d(scores, predicted.keypoints_2d, truth, "", "2D keypoints")
        if found.any() and not found.all() and not errors[found].isnan().all():
            scores.metrics["mean_2d_found"] = mean_error(errors[found])
    if predicted.heatmap_keypoints is not None:
        _add_2d(scores, predicted.heatmap_keypoints, truth, "map_", "2D keypoints of the heat maps")
    return scores


def _add_2d(scores: Scores, points: np.ndarray, truth: Truth, prefix: str, title: str) -> Tensor:
    """The figures of 2D keypoints (N, 21, 2) -> errors (N, 21), shares of the box's side."""
    keypoints, target = (torch.from_numpy(np.asarray(array, np.float64)) for array in (points, truth.keypoints_2d))
    errors = normalized_errors_2d(keypoints, target, torch.from_numpy(truth.box_sides))
    metrics = {"mean_2d": mean_error(errors)}
    metrics |= {f"pck_2d_{round(100 * at):02d}": pck(errors, at) for at in (0.05, 0.1, 0.2)}
    pixels = point_errors(keypoints, target)
    if not pixels.isnan().all():
        metrics["epe_px"] = mean_error(pixels)  # of hands that were found: pixels have no error of a miss
    shares = curve(errors, title, "share of the box's side", 0.0, RANGE_2D, STEPS_2D)
    # As `metrics.auc`: the mean over the thresholds, no area by trapezoids as in 3D; `benchmarks.RULES_2D` says so.
    metrics["auc_2d"] = float(np.mean(shares.values))
    scores.metrics |= {f"{prefix}{name}": value for name, value in metrics.items()}
    scores.curves[f"{prefix}pck_2d"] = replace(shares, area=metrics["auc_2d"])
    scores.per_sample[f"{prefix}mean_2d"] = errors.nanmean(1).numpy()
    return errors


def score_3d(truth: Truth, predicted: Predictions, range_mm: tuple[float, float]) -> Scores:
    """Joint errors in millimetres without rotation (wrist; wrist and scale) and after Procrustes alignment."""
    scores = Scores()
    if np.isnan(truth.joints).all():
        scores.omitted["3D joints"] = "not labelled"
        return scores
    if predicted.joints is None:
        scores.omitted["3D joints"] = "not predicted"
        return scores
    joints, target = (np.asarray(p.joints, np.float64) for p in (predicted, truth))
    aligned = {
        "mpjpe": wrist_aligned(joints, target),
        "st_mpjpe": scale_translation_align(joints, target, WRIST, MIDDLE),
    }
    errors = {name: 1000 * np.linalg.norm(points - target, axis=-1) for name, points in aligned.items()}
    scores.per_sample = {name: nan_mean(value) for name, value in errors.items()}
    procrustes = 1000 * pa_errors(torch.from_numpy(joints), torch.from_numpy(target))
    scores.per_sample["pa_mpjpe"] = procrustes.nanmean(1).numpy()
    for name, values in scores.per_sample.items():
        if not np.isnan(values).all():
            scores.metrics[name] = float(np.nanmean(values))
    scores.metrics["samples_3d"] = int((~np.isnan(scores.per_sample["mpjpe"])).sum())
    titles = {"mpjpe": "3D joints, wrist aligned", "st_mpjpe": "3D joints, wrist and scale aligned"}
    for name, title in titles.items():
        if name in scores.metrics:
            key = name.replace("mpjpe", "pck_3d")
            scores.curves[key] = curve(torch.from_numpy(errors[name]), title, "mm", *range_mm, STEPS_3D)
            scores.metrics[key.replace("pck", "auc")] = scores.curves[key].area
    if "pa_mpjpe" in scores.metrics:
        _add_area(scores, "pa_auc_joints", procrustes, "3D joints, Procrustes aligned")
    return scores


def _add_area(scores: Scores, name: str, errors: Tensor, title: str) -> None:
    """A 3D PCK curve over the range of the official scripts, and its area, under one name as there."""
    scores.curves[name] = curve(errors, title, "mm", *RANGE_3D_MM, STEPS_3D)
    scores.metrics[name] = scores.curves[name].area


def score_vertices(truth: Truth, predicted: Predictions) -> Scores:
    """Vertex errors (wrist; Procrustes without reflection) in millimetres, their PCK, and F-scores after alignment.

    Args:
        truth, predicted: With vertices of the same hand model (`benchmarks.comparable`); hands that were not found
            (NaN) are left out.
    """
    scores = Scores()
    rows = np.flatnonzero(~(np.isnan(truth.vertices) | np.isnan(predicted.vertices)).any((1, 2)))
    if not len(rows):
        return scores
    target, mesh = (np.asarray(points.vertices[rows], np.float64) for points in (truth, predicted))
    rules = replace(official.FREIHAND, vertices=target.shape[1], reflections=False)
    # Joints are measured elsewhere, here they are only asked for.
    nothing = np.zeros((len(rows), 21, 3))
    measured = official.score(nothing, mesh, nothing, target, rules)
    shift = (truth.joints[rows, WRIST] - predicted.joints[rows, WRIST])[:, None]
    errors = {
        "auc_vertices": 1000 * np.linalg.norm(mesh + shift - target, axis=-1),
        "pa_auc_vertices": 1000 * measured.errors["mesh_al"],
    }
    titles = {"auc_vertices": "vertices, wrist aligned", "pa_auc_vertices": "vertices, Procrustes aligned"}
    for name, values in errors.items():
        if not np.isnan(values).all():
            _add_area(scores, name, torch.from_numpy(values), titles[name])
    figures = {
        "mpvpe": errors["auc_vertices"].mean(1),
        "pa_mpvpe": errors["pa_auc_vertices"].mean(1),
        "f5": measured.fscores[:, 0, 1, 0],
        "f15": measured.fscores[:, 1, 1, 0],
    }
    for name, values in figures.items():
        if not np.isnan(values).all():
            scores.per_sample[name] = np.full(len(truth), np.nan)
            scores.per_sample[name][rows] = values
            scores.metrics[name] = float(np.nanmean(values))
    return scores


def score_masks(reader: HandReader, predicted: Predictions, progress: Callable[[int], Any] | None = None) -> Scores:
    """Intersection over union of labelled masks and the mesh's silhouette, and HIU-DMTL's own mask (prefix map_).

    Args:
        reader: The data set; its masks are read one by one.
        predicted: With vertices, faces and intrinsics, or mask and crop_box, of its first samples.
        progress: Called with the number of samples done.
    """
    scores = Scores()
    mesh = all(getattr(predicted, name) is not None for name in ("vertices", "faces", "intrinsics"))
    names = [name for name, there in (("mask_iou", mesh), ("map_mask_iou", predicted.mask is not None)) if there]
    if not names:
        scores.omitted["masks"] = "no mesh is predicted"
        return scores
    values, overlaps = {name: np.full(len(predicted), np.nan) for name in names}, torch.zeros(2, 2).double()
    for row in range(len(predicted)):
        load = reader[row].load_mask
        mask = None if load is None else load()
        if mask is not None and mesh:
            shape = predicted.vertices[row], predicted.faces, predicted.intrinsics[row]
            values["mask_iou"][row] = silhouette_iou(mask, *shape)
        if mask is not None and predicted.mask is not None:
            pair = predicted_mask(predicted, row, mask.shape), torch.from_numpy(np.ascontiguousarray(mask, bool))
            values["map_mask_iou"][row] = mask_iou(*pair).item()
            overlaps += class_overlaps(*pair)
        if progress:
            progress(row + 1)
    count = max(int((~np.isnan(column)).sum()) for column in values.values())
    if not count:
        scores.omitted["masks"] = "not labelled"
        return scores
    scores.metrics["samples_mask"] = count
    for name, title in (("mask_iou", "masks"), ("map_mask_iou", "segmented masks")):
        if name in values:
            _add_iou(scores, name, values[name], f"{title} of at least this IoU")
    if predicted.mask is not None:
        scores.metrics["map_miou"] = mean_iou(overlaps)
    return scores


def _add_iou(scores: Scores, name: str, values: np.ndarray, title: str) -> None:
    """Mean and PCK curve of the IoU (N,) of samples."""
    thresholds = np.linspace(0, 1, 101)
    shares = iou_pck(torch.from_numpy(values), thresholds)
    scores.metrics[name] = float(np.nanmean(values))
    key = name.replace("mask_iou", "iou_pck")
    scores.curves[key] = Curve(title, "IoU", thresholds.tolist(), shares.tolist())
    scores.per_sample[name] = values


def predicted_mask(predicted: Predictions, row: int, shape: tuple[int, int]) -> Tensor:
    """(H, W) bool: the mask that the network drew of one sample, in its picture."""
    probability = predicted.mask[row].astype(np.float32) / 255
    return torch.from_numpy(image_mask(probability, predicted.crop_box[row], shape[1], shape[0]))


def silhouette_iou(mask: np.ndarray, vertices: np.ndarray, faces: np.ndarray, intrinsics: np.ndarray) -> float:
    """Intersection over union of a mask (H, W) and the silhouette of a mesh (V, 3), camera frame, in its picture.

    NaN where the mask is empty and the mesh outside the picture.
    """
    from ..rendering import render_mask

    mesh, camera = (torch.from_numpy(np.asarray(array, np.float32))[None] for array in (vertices, intrinsics))
    seen = render_mask(mesh, torch.from_numpy(faces), camera, *mask.shape)[0]
    return mask_iou(seen, torch.from_numpy(np.ascontiguousarray(mask, bool))).item()


def auc_30px(truth: Truth, predicted: Predictions) -> dict[str, float]:
    """mmpose's AUC of hand keypoints: mean PCK at 0, 1/20, ..., 19/20 of 30 pixels, strictly below each.

    A share is the mean of those of the joints, as there. Labelled points of hands that were not found are misses.
    """
    keypoints, target = (torch.from_numpy(np.asarray(p.keypoints_2d, np.float64)) for p in (predicted, truth))
    sides = torch.full(keypoints.shape[:1], 30.0, dtype=torch.float64)
    errors = normalized_errors_2d(keypoints, target, sides, miss=float("inf"))
    joints = [joint for joint in errors.unbind(1) if not joint.isnan().all()]
    return {"auc_2d_30px": float(np.mean([pck(joint, step / 20) for step in range(20) for joint in joints]))}
