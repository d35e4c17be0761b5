"""A folder of one's own pictures and labels, from its lines to samples."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from fabricate_datasets.folder import scenes_of_folder, write_folder, write_lines

from handmim.cli import main
from handmim.errors import DataError
from handmim.hand_model import HandModel
from handmim.training.datasets.folder import LabelledFolder
from handmim.training.datasets.registry import open_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    write_folder(folder / "data")
    return folder / "data"


def test_all_labels_arrive_unchanged(root: Path) -> None:
    reader, scene = LabelledFolder(root), scenes_of_folder()[0]
    sample = reader[0]
    assert (sample.id, sample.handedness, reader.hand_model) == ("first", "right", "mano")
    assert sample.image == root / "images/0.png"
    assert set(sample.labels) == {"keypoints_2d", "joints", "vertices", "global_orient", "hand_pose", "betas"}
    for name, value in sample.labels.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, getattr(scene, name), atol=2e-6, err_msg=name)
    np.testing.assert_allclose(sample.intrinsics, scene.intrinsics)
    np.testing.assert_array_equal(sample.visibility, scene.visibility)
    np.testing.assert_array_equal(sample.load_mask(), scene.mask)
    np.testing.assert_allclose(sample.box, [*scene.box[:2] - 4, *scene.box[2:] + 4], atol=1e-4)


def test_parameters_pose_the_hand_that_is_labelled(root: Path, mano_folder: Path) -> None:
    import torch

    labels = LabelledFolder(root)[0].labels
    model = HandModel("mano", "right", mano_folder)
    posed = model(*(torch.from_numpy(labels[name])[None] for name in ("global_orient", "hand_pose", "betas"))).joints
    joints = posed[0].numpy() - posed[0, 0].numpy() + labels["joints"][0]
    np.testing.assert_allclose(joints, labels["joints"], atol=1e-5)


def test_a_sample_has_only_what_its_line_has(root: Path) -> None:
    reader, scenes = open_dataset("folder", root), scenes_of_folder()
    some, joints, mask = reader[1], reader[2], reader[-1]
    assert set(some.labels) == {"keypoints_2d"} and some.handedness == "left" and some.load_mask is None
    np.testing.assert_array_equal(some.load_foreground(), scenes[1].mask)
    assert reader.has_foregrounds and mask.load_foreground is None
    gone = np.arange(21) % 4 == 3
    assert np.isnan(some.labels["keypoints_2d"][gone]).all()
    np.testing.assert_allclose(some.labels["keypoints_2d"][~gone], scenes[1].keypoints_2d[~gone])
    for label in joints.labels.values():
        assert np.isnan(label).any(1).nonzero()[0].tolist() == [8]
    there = np.arange(21) != 8
    np.testing.assert_allclose(joints.labels["keypoints_2d"][there], scenes[2].keypoints_2d[there], atol=0.01)
    assert mask.labels == {} and (mask.load_mask() == scenes[3].mask).all()
    with pytest.raises(IndexError):
        reader[4]


def test_samples_travel_to_workers(root: Path) -> None:
    reader = pickle.loads(pickle.dumps(LabelledFolder(root)))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader[0])).load_mask(), scenes_of_folder()[0].mask)


def test_further_hands_of_a_picture_are_numbered(tmp_path: Path) -> None:
    lines = write_folder(tmp_path / "data", "train")
    lines[2]["image"] = lines[3]["image"] = "images/1.png"
    write_lines(tmp_path / "data/train.jsonl", lines)
    reader = LabelledFolder(tmp_path / "data", "train")
    assert [sample.id for sample in reader] == ["first", "images/1.png", "images/1.png#2", "images/1.png#3"]
    with pytest.raises(DataError, match="there is the split train"):
        LabelledFolder(tmp_path / "data")


def test_check_data_names_the_splits_there_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Who follows the README with train.jsonl and val.jsonl and forgets --split."""
    write_lines(tmp_path / "data/val.jsonl", write_folder(tmp_path / "data", "train"))
    assert main(["check-data", str(tmp_path / "data")]) == 1
    assert "labels.jsonl is missing; there is the split train and val" in capsys.readouterr().err


def test_splits_have_parts(tmp_path: Path) -> None:
    lines = write_folder(tmp_path / "data", "train")
    write_lines(tmp_path / "data/train-night_2.jsonl", lines[:1])
    assert len(LabelledFolder(tmp_path / "data", "train-night_2")) == 1
    for split in ("night", "train-", "train-../../x", "train-a/b"):
        with pytest.raises(DataError, match="split of folder must be one of labels, train, val, test"):
            LabelledFolder(tmp_path / "data", split)


def test_vertices_may_lie_in_a_file(tmp_path: Path) -> None:
    lines = write_folder(tmp_path / "data")
    np.save(tmp_path / "data/mesh.npy", np.array(lines[0]["vertices"]))
    lines[0]["vertices"] = "mesh.npy"
    write_lines(tmp_path / "data/labels.jsonl", lines)
    vertices = LabelledFolder(tmp_path / "data")[0].labels["vertices"]
    np.testing.assert_allclose(vertices, scenes_of_folder()[0].vertices)
    np.save(tmp_path / "data/mesh.npy", vertices[:700])
    with pytest.raises(DataError, match="mesh.npy must hold 778 x 3"):
        LabelledFolder(tmp_path / "data")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joint": []}, r"labels.jsonl line 2, joint: is not a field; did you mean joints\?"),
        ({"bbox": [0, 0, 1, 1]}, r"bbox: is not a field; did you mean box \(x0"),
        ({"keypoints_2d": [[1, 2]] * 20}, "line 2, keypoints_2d: must be 21 x 2 numbers, got 20 x 2; wrist, then"),
        ({"keypoints_2d": [[1, 2, 1]] * 21}, "a third number as in COCO goes into visibility"),
        ({"keypoints_2d": [[1, 2]] * 20 + [[3]]}, "must be 21 x 2 numbers; item 20 is a list of 1"),
        ({"handedness": "Left"}, "handedness: must be 'left' or 'right', got 'Left'"),
        ({"image": "../secret.png"}, "line 2, image: line 2 names the file '../secret.png', which is not below"),
        ({"image": "/etc/passwd"}, "not below"),
        ({"image": "images/9.png"}, "'images/9.png' is missing in"),
        ({"mask": "masks/9.png"}, "line 2, mask: 'masks/9.png' is missing"),
        ({"foreground": "/etc/passwd"}, "line 2, foreground: line 2 names the file '/etc/passwd', which is not below"),
        ({"id": "first"}, "'first' is the id of another line as well"),
        ({"betas": [0] * 10, "hand_model": "open"}, "hand_model: is open, but lines before have mano"),
        ({"betas": [0] * 10}, "hand_model: is missing: betas belong to a hand model; mano or open"),
        ({"keypoints_2d": None}, "line 2 has no label: give at least one of"),
    ],
)
def test_wrong_lines_are_refused_by_line_and_field(tmp_path: Path, change: dict, message: str) -> None:
    lines = write_folder(tmp_path / "data")
    lines[1] |= change
    write_lines(tmp_path / "data/labels.jsonl", lines)
    with pytest.raises(DataError, match=message):
        LabelledFolder(tmp_path / "data")


def test_faults_are_listed_by_the_command_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Without --split it said that labels.jsonl is missing."""
    for split, words in (("train", ["--split", "train"]), ("labels", [])):
        root = tmp_path / split
        lines = write_folder(root, split)
        lines[1]["joint"] = []
        write_lines(root / f"{split}.jsonl", lines)
        command = " ".join(["handmim check-data", str(root), *words])
        with pytest.raises(DataError, match=rf"\(`{re.escape(command)}` lists all faults\)"):
            LabelledFolder(root, split)
        assert main(["check-data", str(root), *words]) == 1
        assert f"{split}.jsonl line 2, joint: is not a field" in capsys.readouterr().out


def test_contents_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    parts = {part.path: part for part in LabelledFolder.contents(root)}
    assert parts["labels.jsonl"].found == 1 and not parts["val.jsonl"].found and not parts["val.jsonl"].required
    assert parts["**/*"].found == 8
    assert [part.path for part in LabelledFolder.contents(tmp_path) if part.required] == ["labels.jsonl"]


def test_the_labels_of_the_documented_example_are_read(tmp_path: Path) -> None:
    import handmim.training.datasets.folder as module

    example = module.__doc__.split("in 3D::")[1].split("(each on one line)")[0]
    text = " ".join(example.split()).replace("...", "null").replace('} {"image"', '}\n{"image"')
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 3
    write_folder(tmp_path / "data")
    for line in lines:
        for name in ("keypoints_2d", "joints"):
            if name in line:
                line[name] += [None] * (21 - len(line[name]))
        line["image"] = "images/0.png"
    lines[2]["mask"] = "masks/0.png"
    write_lines(tmp_path / "data/labels.jsonl", lines)
    assert [sample.handedness for sample in LabelledFolder(tmp_path / "data")] == ["right", "left", "right"]
