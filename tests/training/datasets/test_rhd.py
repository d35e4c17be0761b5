"""RHD's own order, pixels and two-handed pictures come out as the scene they were written from."""

import copy
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate_datasets import rhd as fabricator
from fabricate_datasets.scenes import make_scenes
from PIL import Image

from handmim.errors import DataError
from handmim.training.datasets.registry import open_dataset
from handmim.training.datasets.rhd import RHD

SIDES = ("right", "left", "left")


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(3, seed=11, size=(320, 320), side=SIDES)


@pytest.fixture(scope="module")
def written(tmp_path_factory, scenes) -> tuple[Path, dict[int, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("rhd")
    return root, fabricator.write(root, scenes)


@pytest.fixture()
def changeable(tmp_path: Path, written) -> tuple[Path, dict[int, dict[str, Any]]]:
    root = shutil.copytree(written[0], tmp_path / "rhd")
    return root, copy.deepcopy(written[1])


def test_samples_are_the_scenes(written, scenes):
    reader = open_dataset("rhd", written[0], "training")
    assert len(reader) == 3 and "3 hands" in reader.notes[0]
    for sample, scene in zip(reader, scenes, strict=True):
        assert sample.handedness == scene.side and sample.id.endswith(scene.side)
        np.testing.assert_allclose(sample.labels["joints"], scene.joints, atol=1e-6)
        np.testing.assert_allclose(sample.labels["keypoints_2d"], scene.keypoints_2d, atol=0.01)
        np.testing.assert_allclose(sample.intrinsics, scene.intrinsics, atol=1e-3)
        np.testing.assert_array_equal(sample.visibility, scene.visibility)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(sample.load_mask))(), scene.mask)
        np.testing.assert_array_equal(np.asarray(Image.open(sample.image)), scene.image)
        seen = scene.keypoints_2d[scene.visibility]
        assert (seen > sample.box[:2]).all() and (seen < sample.box[2:]).all()


def test_both_hands_of_a_picture_are_samples_of_their_own(changeable):
    root, annotations = changeable
    own = annotations[0]["uv_vis"].copy()
    annotations[0]["xyz"][:21] = annotations[0]["xyz"][21:] + [0.002, 0.0, 0.0]
    projected = annotations[0]["xyz"][:21] @ annotations[0]["K"].T
    annotations[0]["uv_vis"][:21, :2] = projected[:, :2] / projected[:, 2:]
    annotations[0]["uv_vis"][:21, 2] = own[21:, 2]
    fabricator.write_annotations(root, annotations)
    both = RHD(root)
    assert [sample.id for sample in both][:2] == ["00000-left", "00000-right"]
    assert not both[0].load_mask().any() and both[1].load_mask().any()
    dominant = RHD(root, hands="dominant")
    assert [sample.id for sample in dominant] == ["00000-right", "00001-left", "00002-left"]


def test_contents_count_what_is_there(written):
    parts = {part.path: part for part in RHD.contents(written[0])}
    assert parts["training/color"].found == 3 and parts["training/color"].expected == 41258
    assert parts["evaluation/anno_evaluation.pickle"].found == 0


def _metres_to_millimetres(annotations: dict[int, dict[str, Any]]) -> None:
    annotations[1]["xyz"] *= 1000


def _nan(annotations: dict[int, dict[str, Any]]) -> None:
    annotations[1]["xyz"][3, 1] = np.nan


def _joint_count(annotations: dict[int, dict[str, Any]]) -> None:
    annotations[1]["uv_vis"] = annotations[1]["uv_vis"][:21]


def _singular(annotations: dict[int, dict[str, Any]]) -> None:
    annotations[1]["K"][0, 0] = 0


def _opengl(annotations: dict[int, dict[str, Any]]) -> None:
    annotations[1]["xyz"] *= [1, -1, -1]


def _mirrored(annotations: dict[int, dict[str, Any]]) -> None:
    annotations[1]["xyz"][:, 0] *= -1


def _far_away(annotations: dict[int, dict[str, Any]]) -> None:
    annotations[1]["uv_vis"][:, 0] += 900


def _no_camera(annotations: dict[int, dict[str, Any]]) -> None:
    del annotations[1]["K"]


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (_metres_to_millimetres, "xyz"),
        (_nan, "xyz"),
        (_joint_count, "uv_vis"),
        (_singular, "intrinsics"),
        (_opengl, "xyz"),
        (_mirrored, "xyz"),
        (_far_away, "uv_vis"),
        (_no_camera, "K"),
    ],
)
def test_wrong_labels_are_named(changeable, damage: Callable, field: str):
    root, annotations = changeable
    damage(annotations)
    fabricator.write_annotations(root, annotations)
    with pytest.raises(DataError, match=rf"anno_training\.pickle.*\b{field}\b") as error:
        RHD(root)
    assert "00001" in str(error.value)


@pytest.mark.parametrize("number", [-1, 2**40])
def test_numbers_that_no_picture_has_are_named(changeable, number: int):
    root, annotations = changeable
    annotations[number] = annotations[1]
    fabricator.write_annotations(root, annotations)
    with pytest.raises(DataError, match=rf"anno_training\.pickle must hold numbers of pictures, got {number}"):
        RHD(root)


def test_missing_files_are_named(changeable):
    root, _ = changeable
    (root / "training" / "mask" / "00002.png").unlink()
    assert RHD(root)[2].load_mask is None
    (root / "training" / "color" / "00002.png").unlink()
    with pytest.raises(DataError, match=r"color/00002\.png is missing"):
        RHD(root)
    with pytest.raises(DataError, match=r"anno_evaluation\.pickle is missing"):
        RHD(root, "evaluation")


def test_code_in_the_pickle_is_not_run(changeable):
    root, _ = changeable
    (root / "training" / "anno_training.pickle").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="has not been called"):
        RHD(root)
