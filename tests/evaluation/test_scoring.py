"""Figures of labelled samples, compared with what is known by construction or computed another way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_reader import SyntheticReader

from handmim.errors import DataError
from handmim.evaluation.benchmarks import BENCHMARKS, baselines, comparable, measure, open_reader
from handmim.evaluation.mean_hand import mean_hand, predict_mean
from handmim.evaluation.predictions import Predictions
from handmim.evaluation.scores import Curve, Scores
from handmim.evaluation.scoring import (
    Truth,
    auc_30px,
    collect,
    score,
    score_vertices,
    silhouette_iou,
    wrist_aligned,
)
from handmim.geometry import axis_angle_to_matrix
from handmim.hand_model import HandModel


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> SyntheticReader:
    return SyntheticReader(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def truth(reader: SyntheticReader) -> Truth:
    return collect(reader)


def exact(reader: SyntheticReader, truth: Truth) -> Predictions:
    """The labels as predictions."""
    cameras = np.stack([sample.intrinsics for sample in reader])
    faces = HandModel("open").faces.numpy()
    return Predictions(truth.keypoints_2d, truth.joints, truth.vertices, cameras, faces, "open")


def test_the_rules_say_what_2d_auc_is(reader: SyntheticReader, truth: Truth) -> None:
    """It was called an area as the 3D one, which is one by trapezoids."""
    shifted = truth.keypoints_2d + np.linspace(0, 20, 21)[:, None]
    scores = score(truth, replace(exact(reader, truth), keypoints_2d=shifted))
    curve = scores.curves["pck_2d"]
    assert scores.metrics["auc_2d"] == curve.area == pytest.approx(np.mean(curve.values))
    said = f"mean of PCK at {len(curve.thresholds)} thresholds, from 0 to {curve.thresholds[-1]:g} of it"
    assert all(said in benchmark.rules for benchmark in BENCHMARKS.values())


def test_labels_are_collected(reader: SyntheticReader, truth: Truth) -> None:
    assert truth.ids == [f"hand {row}" for row in range(6)] and truth.masks and truth.hand_model == "open"
    np.testing.assert_allclose(truth.joints[2], reader[2].labels["joints"])
    low = truth.keypoints_2d.min(1)
    assert (truth.boxes[:, :2] < low).all()  # boxes are those of the keypoints, with a margin
    assert len(collect(reader, 2)) == 2 and collect(reader, 2).checksum != truth.checksum
    assert collect(reader).checksum == truth.checksum
    assert collect(reader, vertices=False).vertices is None and collect(reader, vertices=False).hand_model == "open"


def test_readers_without_anything_to_measure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="synthetic has no sample in its split 'empty'"):
        collect(SyntheticReader(tmp_path, "empty"))
    with pytest.raises(DataError, match="no labels in its split 'unlabelled'.*train, test"):
        collect(SyntheticReader(tmp_path, "unlabelled"))


def test_exact_predictions(reader: SyntheticReader, truth: Truth) -> None:
    scores = measure(BENCHMARKS["folder"], reader, truth, exact(reader, truth))
    for name in ("pa_mpjpe", "st_mpjpe", "mpjpe", "mpvpe", "pa_mpvpe", "mean_2d", "epe_px"):
        assert scores.metrics[name] < 1e-4, name
    for name in ("f5", "f15", "pck_2d_05", "auc_2d", "auc_3d"):
        assert scores.metrics[name] == pytest.approx(1, abs=1e-6), name
    # The labels' masks leave out what objects hide, so not every one fits.
    assert scores.metrics["mask_iou"] > 0.6 and np.sort(scores.per_sample["mask_iou"])[-2] > 0.94
    assert scores.metrics["found"] == scores.metrics["samples_3d"] == scores.metrics["samples_mask"] == 6
    assert not scores.omitted and all(len(values) == 6 for values in scores.per_sample.values())


def test_known_errors(reader: SyntheticReader, truth: Truth) -> None:
    perfect = exact(reader, truth)
    far = perfect.joints + np.array([0.5, 0, 0])  # a shift is no error relative to the wrist
    far[:, 8] += [0, 0, 0.021]  # one fingertip 21 mm off: 1 mm in the mean of 21
    scores = score(truth, replace(perfect, joints=far, keypoints_2d=truth.keypoints_2d + [3, 4]))
    assert scores.metrics["mpjpe"] == pytest.approx(1.0, abs=1e-4)
    assert scores.metrics["epe_px"] == pytest.approx(5)
    assert scores.metrics["mean_2d"] == pytest.approx((5 / truth.box_sides).mean())
    assert scores.metrics["pa_mpjpe"] < 3
    doubled = score(truth, replace(perfect, joints=2 * perfect.joints))
    assert doubled.metrics["st_mpjpe"] < 1e-4 < 10 < doubled.metrics["mpjpe"]
    curve = scores.curves["pck_3d"]
    expected = 1 - (np.array(curve.thresholds) < 21 - 1e-6) / 21
    np.testing.assert_allclose(curve.values, expected)


def test_hands_that_were_not_found(reader: SyntheticReader, truth: Truth) -> None:
    perfect = exact(reader, truth)
    points, joints = perfect.keypoints_2d.copy(), perfect.joints.copy()
    points[1], joints[1] = np.nan, np.nan
    scores = score(truth, Predictions(points, joints))
    assert scores.metrics["found"] == 5 and scores.metrics["samples_3d"] == 5
    assert scores.metrics["mean_2d"] == pytest.approx(1 / 6) and scores.metrics["mean_2d_found"] == 0
    assert "3D joints" in score(truth, Predictions(points)).omitted


def test_groups(reader: SyntheticReader, truth: Truth) -> None:
    parted = replace(truth, groups=["a", "a", "b", "b", "b", "b"])
    shifted = exact(reader, truth)
    points = truth.keypoints_2d.copy()
    points[:2] += [0, 6]
    scores = score(parted, replace(shifted, keypoints_2d=points))
    assert scores.groups["a"]["samples"] == 2 and scores.groups["a"]["epe_px"] == pytest.approx(6)
    assert scores.groups["b"]["epe_px"] == 0 and scores.metrics["epe_px"] == pytest.approx(2)


def test_missing_labels(truth: Truth) -> None:
    tips = np.full_like(truth.joints, np.nan)
    tips[:, [4, 8, 12, 16, 20]] = truth.joints[:, [4, 8, 12, 16, 20]]
    aligned = wrist_aligned(truth.joints + [0.1, 0.2, 0.3], tips)
    np.testing.assert_allclose(aligned, truth.joints, atol=1e-12)  # no wrist: by the mean of the five tips
    only_tips = replace(truth, joints=tips, keypoints_2d=np.full_like(truth.keypoints_2d, np.nan))
    scores = score(only_tips, Predictions(truth.keypoints_2d, truth.joints + 1), (0.0, 100.0))
    assert scores.metrics["mpjpe"] < 1e-6 and "st_mpjpe" not in scores.metrics
    assert scores.curves["pck_3d"].thresholds[-1] == 100 and scores.omitted == {"2D keypoints": "not labelled"}


def test_vertices_of_other_hand_models_are_not_compared(tmp_path: Path, reader: SyntheticReader, truth: Truth) -> None:
    predicted = exact(reader, truth)
    mano = collect(SyntheticReader(tmp_path, hand_model="mano"), vertices=False)
    reason = comparable(mano, predicted)
    assert "open (1649 vertices)" in reason and "mano (778 vertices)" in reason
    scores = measure(BENCHMARKS["folder"], reader, mano, predicted)
    assert scores.omitted["vertices"] == reason and not {"mpvpe", "pa_mpvpe", "f5"} & scores.metrics.keys()
    assert scores.metrics["pa_mpjpe"] < 1e-4
    assert comparable(replace(truth, hand_model=None), predicted) == "not labelled"
    fewer = replace(predicted, vertices=predicted.vertices[:, :700], hand_model=None)
    assert comparable(truth, fewer) == "700 vertices are predicted, 1649 labelled"


def test_vertices(reader: SyntheticReader, truth: Truth) -> None:
    turn = axis_angle_to_matrix(torch.tensor([0.2, 0.3, -0.1], dtype=torch.float64)).numpy()
    predicted = exact(reader, truth)
    centre = truth.joints[:, :1]
    turned = [(points - centre) @ turn.T + centre for points in (truth.joints, truth.vertices.astype(np.float64))]
    partly = truth.vertices.copy()
    partly[3] = np.nan
    turned[1][4] = np.nan  # not found
    scores = score_vertices(replace(truth, vertices=partly), replace(predicted, joints=turned[0], vertices=turned[1]))
    assert scores.metrics["pa_mpvpe"] < 1e-3 < 1 < scores.metrics["mpvpe"] and scores.metrics["f5"] == 1
    assert np.isnan(scores.per_sample["f5"]).tolist() == [False] * 3 + [True] * 2 + [False]


def test_number_of_predictions(reader: SyntheticReader, truth: Truth) -> None:
    with pytest.raises(DataError, match="5 predictions for 6 samples"):
        measure(BENCHMARKS["folder"], reader, truth, exact(reader, truth).select(range(5)))


def test_silhouettes() -> None:
    square = np.array([[-0.5, -0.5, 1], [0.5, -0.5, 1], [0.5, 0.5, 1], [-0.5, 0.5, 1]])
    faces, camera = np.array([[0, 1, 2], [0, 2, 3]]), np.array([[10.0, 0, 9.5], [0, 10, 9.5], [0, 0, 1]])
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    assert silhouette_iou(mask, square, faces, camera) == 1
    half = mask.copy()
    half[:, 10:] = False
    assert silhouette_iou(half, square, faces, camera) == 0.5
    assert silhouette_iou(mask, square + [50, 0, 0], faces, camera) == 0


def test_curves_and_areas() -> None:
    assert Curve("", "", [0.0, 1.0, 2.0], [0.0, 1.0, 1.0]).area == pytest.approx(0.75)
    assert Curve("", "", [0.0, 1.0], [0.0, 1.0], area=0.3).area == 0.3
    target = np.zeros((1, 21, 2))
    predicted = target + [12, 0]  # 0.4 of 30 px: correct at 9/20 and above, 11 of 20 thresholds
    truth = Truth(["a"], np.array([[0.0, 0, 9, 9]]), ["right"], target, np.full((1, 21, 3), np.nan))
    assert auc_30px(truth, Predictions(predicted))["auc_2d_30px"] == pytest.approx(11 / 20)
    two = replace(truth, keypoints_2d=np.concatenate([target, target]))
    two.keypoints_2d[1, 1:] = np.nan
    # one of two labelled wrists is missed, which counts as one joint of 21
    found = np.concatenate([predicted, np.full_like(predicted, np.nan)])
    assert auc_30px(two, Predictions(found))["auc_2d_30px"] == pytest.approx(11 / 20 * (20 + 0.5) / 21)


def test_mean_hand_is_put_into_boxes_and_mirrored(truth: Truth) -> None:
    generator = torch.Generator().manual_seed(0)
    local = torch.randn(21, 3, generator=generator, dtype=torch.float64) * 0.05
    local -= local[:1].clone()
    turns = axis_angle_to_matrix(torch.randn(5, 3, generator=generator, dtype=torch.float64))
    joints = (turns @ local.T).transpose(1, 2) + torch.tensor([0, 0, 0.5])
    flat = torch.rand(21, 2, generator=generator, dtype=torch.float64)
    scale = torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)[:, None, None]
    relative, mean = mean_hand(scale * flat + 7, joints, turns)
    np.testing.assert_allclose(mean, local, atol=1e-12)
    extent = relative.max(0) - relative.min(0)
    assert extent.max() == pytest.approx(1 / 1.24)
    boxes = np.array([[10.0, 10, 50, 30], [10.0, 10, 50, 30]])
    two = replace(truth.select([0, 1]), boxes=boxes, sides=["right", "left"])
    prediction = predict_mean(two, relative, mean)
    np.testing.assert_allclose(prediction.keypoints_2d[0], np.array([30, 20]) + 40 * relative)
    np.testing.assert_allclose(prediction.keypoints_2d[1], np.array([30, 20]) + 40 * relative * [-1, 1])
    np.testing.assert_allclose(prediction.joints[1], mean * [-1, 1, 1])


def test_baseline_row(truth: Truth) -> None:
    ((name, row),) = baselines(BENCHMARKS["folder"], truth).items()
    assert "mean hand" in name and isinstance(row, Scores)
    assert 5 < row.metrics["pa_mpjpe"] < 60 and 0.05 < row.metrics["mean_2d"] < 1 and "mpjpe" not in row.metrics


def test_every_reader_has_a_benchmark() -> None:
    from handmim.training.datasets.registry import READERS

    assert set(BENCHMARKS) == {*READERS, "real-photos"}
    with pytest.raises(DataError, match="not a folder"):
        open_reader(BENCHMARKS["freihand"], "nowhere")
