"""What HIU-DMTL's maps and stacks score, by construction and against the network itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_reader import SIZE, SyntheticReader, scene

from handmim import HandMIMImageProcessor, HIUDMTLConfig, HIUDMTLForHandUnderstanding
from handmim.errors import ModelError
from handmim.evaluation.benchmarks import BENCHMARKS, measure, measure_stacks
from handmim.evaluation.posed_labels import with_posed_meshes
from handmim.evaluation.predictions import Predictions, Predictor, predict
from handmim.evaluation.scoring import Truth, collect
from handmim.geometry import affine_points, invert_affine
from handmim.hand_model import HandModel
from handmim.tta import DEFAULT_VIEWS

SMALL = {
    "image_size": 64, "hidden_size": 16, "num_stacks": 3, "encoder_depth": 1, "encoder_levels": 2,
    "regressor_channels": (16, 16), "regressor_hidden_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> SyntheticReader:
    return SyntheticReader(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def truth(reader: SyntheticReader) -> Truth:
    return collect(reader)


def network(**options: object) -> HIUDMTLForHandUnderstanding:
    torch.manual_seed(0)
    return HIUDMTLForHandUnderstanding(HIUDMTLConfig(**(SMALL | options))).eval()


def run(reader: SyntheticReader, model: HIUDMTLForHandUnderstanding, folder: Path | None = None) -> Predictions:
    work = Predictor(model, HandMIMImageProcessor(size=64))
    return predict(reader, work, count=len(reader), folder=folder, batch_size=4, workers=1, progress=False)


def exact_maps(reader: SyntheticReader, truth: Truth) -> Predictions:
    """The labels as maps that cover the picture, a cell a pixel."""
    masks = np.stack([255 * reader[row].load_mask().astype(np.uint8) for row in range(len(reader))])
    boxes = np.tile(np.array([-0.5, -0.5, SIZE - 0.5, SIZE - 0.5], np.float32), (len(reader), 1))
    return Predictions(None, heatmap_keypoints=truth.keypoints_2d, mask=masks, crop_box=boxes, hand_model="open")


def test_exact_maps_score_best(reader: SyntheticReader, truth: Truth) -> None:
    predicted = exact_maps(reader, truth)
    scores = measure(BENCHMARKS["folder"], reader, truth, predicted)
    for name in ("map_auc_2d", "map_pck_2d_05", "map_mask_iou", "map_miou"):
        assert scores.metrics[name] == 1.0, name
    assert scores.metrics["map_mean_2d"] == 0 and scores.curves["map_iou_pck"].area == 1.0
    assert "mask_iou" not in scores.metrics and "auc_2d" not in scores.metrics
    assert scores.omitted["2D keypoints of the mesh"] == "no mesh is predicted"
    worse = replace(predicted, mask=np.zeros_like(predicted.mask))
    scores = measure(BENCHMARKS["folder"], reader, truth, worse)
    cover = np.mean([reader[row].load_mask().mean() for row in range(len(reader))])
    assert scores.metrics["map_mask_iou"] == 0 and scores.metrics["map_miou"] == pytest.approx((1 - cover) / 2)


def test_every_stack_is_the_networks(reader: SyntheticReader, truth: Truth, tmp_path: Path) -> None:
    model = network()
    predicted = run(reader, model, tmp_path)
    assert len(predicted.stacks) == 2 and predicted.mask.dtype == np.uint8 and predicted.mask.shape == (6, 16, 16)
    processor = HandMIMImageProcessor(size=64)
    inputs = processor(reader[4].image, boxes=truth.boxes[4], handedness="right", return_tensors="pt",
                       intrinsics=reader[4].intrinsics)  # fmt: skip
    with torch.no_grad():
        output = model(inputs["pixel_values"], inputs["intrinsics"], return_all=True)
    to_image = invert_affine(inputs["crop_affine"].double())
    for found, stack in zip((*predicted.stacks, predicted), output.stacks, strict=True):
        np.testing.assert_allclose(found.joints[4], stack["joints"][0], atol=1e-5)
        points = affine_points(to_image, stack["heatmap_keypoints"].double())[0]
        np.testing.assert_allclose(found.heatmap_keypoints[4], points, atol=1e-3)
        np.testing.assert_allclose(found.mask[4] / 255, stack["mask"][0], atol=0.003)
    again = run(reader, model, tmp_path)  # from the chunks
    assert np.array_equal(again.mask, predicted.mask)
    assert np.array_equal(again.stacks[0].vertices, predicted.stacks[0].vertices)
    figures = measure_stacks(BENCHMARKS["folder"], reader, truth, predicted)
    assert list(figures) == ["1", "2"] and "map_auc_2d" in figures["1"] and "pa_auc_vertices" in figures["2"]


def test_networks_without_a_mesh(reader: SyntheticReader) -> None:
    predicted = run(reader, network(mesh=False, tasks=["heatmaps"], num_stacks=1))
    assert predicted.keypoints_2d is None and predicted.vertices is None and predicted.mask is None
    assert len(predicted) == len(predicted.select([0, 2])) + 4 and predicted.heatmap_keypoints.shape == (6, 21, 2)
    with pytest.raises(ModelError, match="meshes"):
        Predictor(network(mesh=False), HandMIMImageProcessor(size=64), DEFAULT_VIEWS)


def test_views_measure_the_last_mesh_alone() -> None:
    work = Predictor(network(), HandMIMImageProcessor(size=64), DEFAULT_VIEWS)
    assert work.fields == ("keypoints_2d", "joints", "vertices") and work.stacks == 1


def test_meshes_are_posed_from_labels(reader: SyntheticReader, truth: Truth) -> None:
    class Parameters(SyntheticReader):
        def __getitem__(self, index: int):
            sample = super().__getitem__(index)
            names = ("global_orient", "hand_pose", "betas")
            labels = {name: scene(self.count).labels[name][index].numpy() for name in names}
            return replace(sample, labels=sample.labels | labels, handedness="left" if index == 5 else "right")

    bare = replace(truth, vertices=None, hand_model=None)
    posed = with_posed_meshes(bare, Parameters(reader.root), HandModel("open"))
    np.testing.assert_allclose(posed.vertices[:5], truth.vertices[:5], atol=1e-5)
    assert np.isnan(posed.vertices[5]).all() and posed.hand_model == "open"
    assert with_posed_meshes(bare, reader, HandModel("open")).vertices is None
