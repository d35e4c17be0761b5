"""The manifest of real photographs is read as it says, and predictions are scored in the frame of the picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from handmim.evaluation.real_photos import Prediction, load_manifest, mean_hand, predict_mean, score, select
from handmim.geometry import axis_angle_to_matrix


def entry(name: str, **changes: object) -> dict:
    points = np.random.default_rng(len(name)).uniform(10, 50, (21, 2)).tolist()
    joints = np.random.default_rng(7).normal(0, 0.05, (21, 3)).tolist()
    plain = {
        "id": name, "source": "camera", "image": "photo.png", "bbox": [10, 10, 50, 30], "bbox_source": "by eye",
        "handedness": "right", "keypoints_2d": points, "keypoints_3d": joints, "K": None,
    }  # fmt: skip
    return plain | changes


@pytest.fixture()
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "photo.png").touch()
    partly = entry("b")["keypoints_2d"]
    partly[4] = None
    samples = [
        entry("a"),
        entry("b", keypoints_2d=partly, handedness="left", source="film", split="held-out", keypoints_3d=None),
        entry("c", bbox_source="mmpose annotation (tight on keypoints)", K=np.eye(3).tolist()),
        entry("no side", handedness=None),
        entry("no keypoints", keypoints_2d=None),
    ]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": "realdata manifest v1", "samples": samples}))
    return path


def test_manifest(manifest: Path):
    photos = load_manifest(manifest)
    assert [photo.id for photo in photos] == ["a", "b", "c"]
    assert [photo.split for photo in photos] == ["dev", "held-out", "dev"]
    assert np.isnan(photos[1].keypoints_2d[4]).all() and np.isfinite(photos[1].keypoints_2d[5]).all()
    assert np.isnan(photos[1].joints).all() and photos[1].joints.shape == (21, 3)
    assert photos[0].box_side == 40 and photos[0].intrinsics is None
    np.testing.assert_allclose(photos[2].box, [5.2, 7.6, 54.8, 32.4])  # tight: 24 % more, about the same centre
    np.testing.assert_array_equal(photos[2].intrinsics, np.eye(3))


def test_manifest_names_what_is_wrong(manifest: Path):
    (manifest.parent / "photo.png").unlink()
    with pytest.raises(FileNotFoundError, match="photo.png"):
        load_manifest(manifest)
    manifest.write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="'other'"):
        load_manifest(manifest)


def test_scores(manifest: Path):
    photos = load_manifest(manifest)
    keypoints = np.stack([np.nan_to_num(photo.keypoints_2d) for photo in photos])
    exact = Prediction(keypoints, np.stack([np.nan_to_num(photo.joints) * 3 for photo in photos]))
    figures = score(photos, exact)
    assert figures["mean_error"] == 0 and figures["pck_05"] == 1 and figures["auc"] == 1
    assert figures["hands"] == figures["found"] == 3 and figures["hands_3d"] == 2
    assert figures["pa_mpjpe_mm"] < 1e-6
    assert set(figures["sources"]) == {"camera", "film"} and figures["sources"]["camera"]["hands"] == 2
    keypoints[0] += [4, 0]  # a tenth of the box
    keypoints[1] = np.nan  # not found: error 1
    figures = score(photos, Prediction(keypoints))
    assert figures["found"] == 2 and "pa_mpjpe_mm" not in figures
    assert figures["mean_error"] == pytest.approx((21 * 0.1 + 20 * 1) / 62)
    assert figures["mean_error_found"] == pytest.approx(0.05)
    assert score(photos[:1], select(Prediction(keypoints), [0]))["mean_error"] == pytest.approx(0.1)


def test_mean_hand_is_put_into_boxes_and_mirrored(manifest: Path):
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
    photos = load_manifest(manifest)
    prediction = predict_mean(photos, relative, mean)
    np.testing.assert_allclose(prediction.keypoints_2d[0], np.array([30, 20]) + 40 * relative)
    np.testing.assert_allclose(prediction.keypoints_2d[1], np.array([30, 20]) + 40 * relative * [-1, 1])
    np.testing.assert_allclose(prediction.joints[1], mean * [-1, 1, 1])
