"""FreiHAND and HO3D by their official rules, for a model's predictions or a submission file, in a report's words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..json_arrays import read_array
from . import official, report
from .alignment import scale_translation_align
from .benchmarks import Benchmark, other_hand_model
from .kept_reports import Measured, refuse_other_report
from .official import Protocol
from .scores import Curve, Scores
from .submission import load_submission, to_official, validate_submission, write_submission

SPLIT = "evaluation"
VERTICES_FILE = "evaluation_verts.json"
WRIST, MIDDLE = 0, 9
# The official files' names for what is measured -> this package's.
MEANS = {"xyz": "abs_mpjpe", "xyz_al": "pa_mpjpe", "xyz_sc_tr": "st_mpjpe", "mesh": "abs_mpvpe", "mesh_al": "pa_mpvpe"}
AREAS = {
    "xyz": "abs_auc_joints",
    "xyz_al": "pa_auc_joints",
    "xyz_sc_tr": "st_auc_joints",
    "mesh": "abs_auc_vertices",
    "mesh_al": "pa_auc_vertices",
}
TITLES = {
    "xyz": "joints, camera frame",
    "xyz_al": "joints, Procrustes",
    "xyz_sc_tr": "joints, wrist and scale",
    "mesh": "vertices, camera frame",
    "mesh_al": "vertices, Procrustes",
}
OWN_CURVES = ("pck_3d", "st_pck_3d")
F_SCORES = {"f_score_5": "abs_f5", "f_score_15": "abs_f15", "f_al_score_5": "f5", "f_al_score_15": "f15"}
# Which of MANO's vertices the true fingertips are, thumb to little: it is not the same everywhere.
TIP_JOINTS = (4, 8, 12, 16, 20)
TIP_VERTICES = {
    "freihand": (744, 320, 443, 555, 672),
    "ho3d-v2": (744, 333, 444, 555, 672),
    "ho3d-v3": (744, 333, 444, 555, 672),
}


def score_file(
    chosen: Benchmark, args: argparse.Namespace, command: str, private: list[Path]
) -> tuple[dict[str, Any], tuple[list[str], Mapping[str, Any]]]:
    """The report of a submission file; neither a model nor a picture is needed.

    Raises:
        DataError: The file, or the true labels, are missing, damaged or do not fit each other; or the folder for all
            files holds a report of something else.
    """
    if args.split not in (None, SPLIT):
        raise DataError(f"submissions are about the split {SPLIT!r}, got {args.split!r}")
    protocol = official.PROTOCOLS[chosen.official]
    truth = true_arrays(args.data, protocol)
    refuse_other_report(args.out, _measured(chosen, args, truth))
    joints, vertices = load_submission(args.pred, protocol, len(truth[0]))
    joints, vertices, *truth = (None if a is None else a[: args.limit] for a in (joints, vertices, *truth))
    measured = official.score(joints, vertices, *truth, protocol)
    scores = translated(measured, joints, truth[0])
    built = report.build(
        benchmark=chosen.name,
        title=chosen.title,
        protocol=chosen.rules,
        split=SPLIT,
        samples=len(joints),
        scores=scores,
        official=measured.values,
        submission={"file": args.pred.name, "checksum": report.file_checksum(args.pred)},
        data={"root_name": args.data.resolve().name, "labels_checksum": checksum(truth)},
        options={"tta": None, "trained_on": args.trained_on, "limit": args.limit},
        notes=_size_notes(protocol, len(joints)),
        command=command,
        private=private,
    )
    return built, ([f"{row:08d}" for row in range(len(joints))], scores.per_sample)


def _measured(chosen: Benchmark, args: argparse.Namespace, truth: list[np.ndarray]) -> Measured:
    """What tells a submission's report on the official labels from other reports."""

    def first_checksum(limit: int | None) -> str:
        return checksum([array[:limit] for array in truth])

    samples, root = len(truth[0][: args.limit]), args.data.resolve().name
    return Measured(chosen.name, SPLIT, "submission", root, args.limit, samples, "labels_checksum", first_checksum)


def score_model(
    chosen: Benchmark, root: Path, predicted: Any, split: str, out: Path, scores: Scores
) -> tuple[dict[str, float], list[str], dict[str, str]]:
    """Official figures of a model, added to `scores`; and the submission file in the folder `out`.

    Args:
        chosen: The benchmark.
        root: Of the data set.
        predicted: `Predictions` for the first samples of the split.
        split: Others than the official evaluation split have no official labels: nothing is done.
        out: Where pred.json and pred.zip go, if the predictions are complete.
        scores: Figures so far.

    Returns:
        The official script's figures under its names, notes for people, and check sums of the labels.
    """
    if split != SPLIT:
        return {}, [f"the official rules are for the split {SPLIT!r}; these are the package's own"], {}
    protocol = official.PROTOCOLS[chosen.official]
    reason = other_hand_model(predicted.hand_model, "mano")
    truth = true_arrays(root, protocol, meshes=reason is None)
    if len(truth[0]) < len(predicted):
        raise DataError(f"{root}: {len(predicted)} samples, but official labels for {len(truth[0])}")
    notes: list[str] = []
    complete = len(predicted) == len(truth[0])
    truth = [None if array is None else array[: len(predicted)] for array in truth]
    mesh = None if reason else predicted.vertices
    joints, vertices = to_official(official_tips(predicted.joints, mesh, protocol), mesh, protocol)
    measured = official.score(joints, vertices, *truth, protocol)
    for name in OWN_CURVES:  # the official ones are about the same errors
        scores.curves.pop(name, None)
        scores.metrics.pop(name.replace("pck", "auc"), None)
    scores.add(translated(measured, joints, truth[0]))
    if reason:
        scores.omitted["vertices"] = reason
        notes.append(f"no submission file: the official format holds {protocol.vertices} vertices of MANO")
    elif not complete:
        notes.append(f"no submission file: only {len(predicted)} samples were predicted")
    else:
        validate_submission(write_submission(out, joints, vertices, protocol), protocol, len(predicted))
        notes.append("fingertips are the MANO vertices that the official labels take")
    # Of joints alone it would be another one than submissions have on the same labels.
    return measured.values, notes, {} if truth[1] is None else {"labels_checksum": checksum(truth)}


def official_tips(joints: np.ndarray, vertices: np.ndarray | None, protocol: Protocol) -> np.ndarray:
    """Joints whose fingertips are the vertices that a benchmark takes; unchanged without vertices of MANO."""
    if vertices is None:
        return joints
    joints = joints.copy()
    joints[:, TIP_JOINTS] = vertices[:, TIP_VERTICES[protocol.name]]
    return joints


def true_arrays(root: Path, protocol: Protocol, meshes: bool = True) -> list[np.ndarray | None]:
    """The public evaluation labels, as they are: joints (N, 21, 3) and vertices (N, 778, 3), float64 metres.

    Args:
        root: Of the data set.
        protocol: Of the benchmark.
        meshes: Whether vertices must be there; else they are None where they are not.

    Raises:
        DataError: One is missing or damaged.
    """
    arrays: list[np.ndarray | None] = []
    for name, points in (("evaluation_xyz.json", 21), (VERTICES_FILE, protocol.vertices)):
        path = root / name
        if not path.is_file() and name == VERTICES_FILE and not meshes:
            return [*arrays, None]
        if not path.is_file():
            raise DataError(f"{path} is missing: the public evaluation labels of {protocol.title} belong there")
        arrays.append(read_array(path, (points, 3), np.float64))
    if len(arrays[0]) != len(arrays[1]):
        raise DataError(
            f"{root}: {len(arrays[0])} samples' joints are labelled, but {len(arrays[1])} samples' vertices"
        )
    return arrays


def checksum(arrays: list[np.ndarray]) -> str:
    """Of the official labels, 16 hexadecimal digits."""
    import hashlib

    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, np.float64))
    return digest.hexdigest()[:16]


def translated(measured: official.Scores, joints: np.ndarray, truth: np.ndarray) -> Scores:
    """Official scores under this package's names, in millimetres; and the error with wrist and scale aligned.

    Args:
        measured: What `official.score` gave.
        joints, truth: (N, 21, 3) metres, official order and frame.
    """
    scores = Scores()
    for name, errors in measured.errors.items():
        scores.metrics[MEANS[name]] = float(1000 * errors.mean(0).mean())
        scores.per_sample[MEANS[name]] = 1000 * errors.mean(1)
        thresholds = 1000 * measured.protocol.thresholds
        scores.curves[AREAS[name]] = Curve(TITLES[name], "mm", thresholds.tolist(), measured.curves[name].tolist())
        scores.metrics[AREAS[name]] = scores.curves[AREAS[name]].area
    if "xyz_sc_tr" not in measured.errors:
        reference = measured.protocol.joint_order.index(MIDDLE)
        aligned = scale_translation_align(joints, truth, measured.protocol.joint_order.index(WRIST), reference)
        errors = np.linalg.norm(aligned - truth, axis=-1).mean(1)
        scores.per_sample["st_mpjpe"] = 1000 * errors
        scores.metrics["st_mpjpe"] = float(1000 * errors.mean())
    if measured.fscores is None:
        scores.omitted["vertices"] = "none were predicted"
    else:
        scores.metrics |= {ours: measured.values[name] for name, ours in F_SCORES.items()}
        for column, name in enumerate(("f5", "f15")):
            scores.per_sample[name] = measured.fscores[:, column, 1, 0]
        if "mesh" not in measured.errors:
            scores.omitted["vertex errors"] = f"the meshes have not {measured.protocol.vertices} vertices"
    return scores


def _size_notes(protocol: Protocol, samples: int) -> list[str]:
    if samples == protocol.samples:
        return []
    return [f"{samples} samples; the official split of {protocol.title} has {protocol.samples}"]
