"""Benchmarks by name: which data set, which split, which rules, and where the rules are from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..training.datasets.sample import MESH_VERTICES

if TYPE_CHECKING:
    from ..training.datasets.sample import HandReader
    from .predictions import Predictions
    from .scores import Scores
    from .scoring import Truth

# Measures without rotation say nothing about a hand in its own frame.
POSED = ("mpjpe", "st_mpjpe", "auc_3d", "st_auc_3d")
# The split that figures are about, by the names that data sets give it; else a reader's first.
EVALUATION_SPLITS = ("evaluation", "test", "manual_test", "val")
# `scoring.STEPS_2D` and `RANGE_2D`, which need torch. The 3D AUC are areas by trapezoids, this one is not.
RULES_2D = (
    "2D errors relative to the longer side of the box; 2D AUC is the mean of PCK at 61 thresholds, from 0 to 0.3 of it."
)
OWN_RULES = (
    "3D errors in mm: relative to the wrist (to the mean of the labelled joints where the wrist has no label), also "
    "scaled by the distance from wrist to middle knuckle, and after Procrustes alignment (PA, no reflection). "
    + RULES_2D
)
OFFICIAL_RULES = (
    "PA and camera figures, F-scores and their AUC (0-50 mm) by the rules of the official script; MPJPE (wrist, scale) "
    f"as HO3D defines it. {RULES_2D}"
)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: On the command line.
        dataset: Name of its reader.
        title: For people.
        official: Name of the official protocol, if there is one.
        range_3d_mm: Thresholds of the areas under 3D PCK curves.
        rules: Where they are from, in words.
        split: Which is measured by default; None: by `EVALUATION_SPLITS`.
    """

    name: str
    title: str
    official: str | None = None
    range_3d_mm: tuple[float, float] = (0.0, 50.0)
    rules: str = OWN_RULES
    split: str | None = None

    @property
    def dataset(self) -> str:
        return self.name


def _own(name: str, title: str, rules: str = "", range_3d_mm: tuple[float, float] = (0.0, 50.0)) -> Benchmark:
    return Benchmark(name, title, range_3d_mm=range_3d_mm, rules=f"{OWN_RULES} {rules}".strip())


_ZB = "3D AUC over 20-50 mm, the range of Zimmermann & Brox, ICCV 2017, which the literature on {} keeps."
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("freihand", "FreiHAND v2", "freihand", rules=OFFICIAL_RULES),
        Benchmark("ho3d-v2", "HO3D v2", "ho3d-v2", rules=OFFICIAL_RULES),
        Benchmark("ho3d-v3", "HO3D v3", "ho3d-v3", rules=OFFICIAL_RULES),
        _own("rhd", "Rendered Handpose Dataset", _ZB.format("RHD"), (20.0, 50.0)),
        _own("stb", "Stereo Hand Pose Tracking Benchmark", _ZB.format("STB"), (20.0, 50.0)),
        _own(
            "dexter-object",
            "Dexter+Object",
            "Fingertips only; 3D AUC over 0-100 mm as in Mueller et al., GANerated Hands, CVPR 2018. Papers differ in "
            "the alignment.",
            (0.0, 100.0),
        ),
        _own("youtube3d", "YouTube 3D Hands"),
        _own("panoptic", "CMU Panoptic hands"),
        _own(
            "coco-wholebody",
            "COCO-WholeBody hands",
            "AUC (30 px), with 20 thresholds below 30 px, and the mean error in pixels are mmpose's. PCK is of all "
            "points together, by a box that also holds the joints and 12 % around them: where the annotated box, which "
            "mmpose takes, is tight, mmpose's is lower.",
        ),
        _own("hiu-data", "HIU-Data", "The mean of IoU is the area under the IoU-PCK curve of HIU-DMTL, ICCV 2021."),
        _own("ge", "Ge et al. real-world test set"),
        Benchmark("folder", "labelled folder", split="labels"),
        _own("real-photos", "annotated photographs"),
    )
}


def benchmark(name: str) -> Benchmark:
    """A benchmark.

    Raises:
        DataError: None has this name.
    """
    if name not in BENCHMARKS:
        raise DataError(f"a benchmark must be one of {', '.join(sorted(BENCHMARKS))}, got {name!r}")
    return BENCHMARKS[name]


def open_reader(chosen: Benchmark, root: str | Path, split: str | None = None, **options: Any) -> HandReader:
    """The samples of a benchmark.

    Args:
        chosen: Which.
        root: Folder of the official layout.
        split: None: the one that figures are about.
        **options: Of the reader.

    Raises:
        DataError: Something is missing or wrong.
    """
    if chosen.name == "real-photos":
        from .real_photos import RealPhotos

        return RealPhotos(root, split)
    from ..training.datasets.registry import reader_class

    reader = reader_class(chosen.dataset)
    return reader(root, default_split(chosen, reader) if split is None else split, **options)


def default_split(chosen: Benchmark, reader: type[HandReader]) -> str:
    """Of a benchmark's reader the split that figures are about."""
    return chosen.split or next((name for name in EVALUATION_SPLITS if name in reader.splits), reader.splits[0])


def other_hand_model(predicted: str | None, labelled: str | None) -> str | None:
    """Why meshes of two hand models cannot be compared; None if it is the same one, or one is not known."""
    if predicted is None or labelled is None or predicted == labelled:
        return None
    sizes = [f"{name} ({MESH_VERTICES.get(name, '?')} vertices)" for name in (predicted, labelled)]
    return (
        f"the model predicts the hand {sizes[0]}, the labels are of {sizes[1]}: meshes of different hand models have "
        "no points in common, so only joints are compared"
    )


def comparable(truth: Truth, predicted: Predictions) -> str | None:
    """Why vertices of labels and predictions cannot be compared; None if they can."""
    if truth.hand_model is None:
        return "not labelled"
    if predicted.vertices is None and predicted.hand_model == truth.hand_model:
        return "not predicted"
    reason = other_hand_model(predicted.hand_model, truth.hand_model)
    if reason is None and predicted.vertices.shape[1] != truth.vertices.shape[1]:
        reason = f"{predicted.vertices.shape[1]} vertices are predicted, {truth.vertices.shape[1]} labelled"
    return reason


def measure(
    chosen: Benchmark,
    reader: HandReader,
    truth: Truth,
    predicted: Predictions,
    progress: Callable[[int], Any] | None = None,
) -> Scores:
    """All figures of predictions that a data set's labels allow, by the package's own rules.

    Args:
        chosen: The benchmark.
        reader: Its samples, for the masks.
        truth: Their labels (`scoring.collect`).
        predicted: One prediction a sample.
        progress: Called with the number of masks compared.

    Raises:
        DataError: The predictions are not as many as the labels.
    """
    from .scoring import score, score_masks

    if len(predicted) != len(truth):
        raise DataError(f"{len(predicted)} predictions for {len(truth)} samples of {chosen.name}")
    scores = score(truth, predicted, chosen.range_3d_mm)
    reason = comparable(truth, predicted)
    if reason is None:
        from .scoring import score_vertices

        scores.add(score_vertices(truth, predicted))
    else:
        scores.omitted["vertices"] = reason
    if chosen.name == "coco-wholebody":
        from .scoring import auc_30px

        scores.metrics |= auc_30px(truth, predicted)
    if truth.masks:
        masks = score_masks(reader, predicted, progress)
        scores.add(masks)
        for name in scores.groups:
            rows = [row for row, group in enumerate(truth.groups) if group == name]
            shares = masks.per_sample.get("mask_iou", np.full(len(truth), np.nan))[rows]
            if not np.isnan(shares).all():
                scores.groups[name]["mask_iou"] = float(np.nanmean(shares))
    else:
        scores.omitted["masks"] = "not labelled"
    return scores


def measure_stacks(
    chosen: Benchmark, reader: HandReader, truth: Truth, predicted: Predictions
) -> dict[str, dict[str, float]]:
    """The figures of each stack of a cascade but the last, which `measure` takes, under its number from 1."""
    alone = replace(truth, groups=None)
    return {
        str(number): measure(chosen, reader, alone, stack).metrics for number, stack in enumerate(predicted.stacks, 1)
    }


def baselines(chosen: Benchmark, truth: Truth) -> dict[str, Scores]:
    """The mean hand in every box, so that other figures can be read. It has no orientation: in 3D only PA says much."""
    from .mean_hand import NAME, predict_mean, synthetic_mean_hand
    from .scoring import score

    scores = score(replace(truth, groups=None), predict_mean(truth, *synthetic_mean_hand()), chosen.range_3d_mm)
    kept = {name: value for name, value in scores.metrics.items() if not name.startswith(POSED)}
    return {NAME: replace(scores, metrics=kept)}
