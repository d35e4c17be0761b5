"""HO-3D in miniature, written and read back."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate_datasets.ho3d import SIZE, write_ho3d
from fabricate_datasets.scenes import Scene, make_scenes
from PIL import Image

from handmim.training.datasets.contact_sheet import save_contact_sheet
from handmim.training.datasets.ho3d import HO3Dv2, HO3Dv3
from handmim.training.datasets.registry import open_dataset
from handmim.training.datasets.sample import DataError

COUNT = 4
READERS = {2: HO3Dv2, 3: HO3Dv3}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return make_scenes(COUNT, seed=12, size=SIZE)


@pytest.fixture(params=[2, 3])
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture()
def root(tmp_path: Path, scenes: list[Scene], version: int) -> Path:
    return write_ho3d(write_ho3d(tmp_path, version, "train", scenes), version, "evaluation", scenes)


@pytest.fixture()
def v3(tmp_path: Path, scenes: list[Scene]) -> Path:
    return write_ho3d(write_ho3d(tmp_path / "v3", 3, "train", scenes), 3, "evaluation", scenes)


def edit_meta(root: Path, frame: str, **fields: Any) -> None:
    path = root / frame
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), **fields}, 2))


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_labels_are_those_of_the_scenes(
    root: Path, scenes: list[Scene], mano_folder: Path, version: int, split: str
) -> None:
    data = open_dataset(f"ho3d-v{version}", root, split, hand_model_path=mano_folder)
    assert len(data) == COUNT
    names = ["joints", "vertices", "keypoints_2d"]
    if split == "train":
        names += ["global_orient", "hand_pose", "betas"]
    for sample, scene in zip(data, scenes, strict=True):
        assert set(sample.labels) == set(names)
        for name in names:
            assert sample.labels[name].dtype == np.float32
            np.testing.assert_allclose(sample.labels[name], getattr(scene, name), atol=2e-5 if name[0] != "k" else 5e-3)
        np.testing.assert_allclose(sample.intrinsics, scene.intrinsics, rtol=1e-6)
        assert sample.handedness == "right"
        assert np.abs(np.asarray(Image.open(sample.image), np.float64) - scene.image).mean() < 12
        if split == "evaluation":
            np.testing.assert_allclose(sample.box, scene.box, atol=0.51)
        if version == 3:
            mask = sample.load_mask()
            assert mask.shape == scene.mask.shape and np.mean(mask == scene.mask) > 0.995
        else:
            assert sample.load_mask is None
    assert data[0].id == f"{split}/{'ABF10' if split == 'train' else 'AP10'}/0000"
    assert pickle.loads(pickle.dumps(data))[1].id == data[1].id


def test_frames_without_annotation_are_counted(tmp_path: Path, scenes: list[Scene], mano_folder: Path) -> None:
    data = HO3Dv2(write_ho3d(tmp_path, 2, "train", scenes, missing=2), hand_model_path=mano_folder)
    assert len(data) == COUNT
    np.testing.assert_allclose(data[0].labels["joints"], scenes[0].joints, atol=1e-5)
    assert any("2 of 6 frames have no annotation" in note for note in data.notes)
    for path in tmp_path.glob("train/*/meta/*.pkl"):
        path.write_bytes(pickle.dumps({"handJoints3D": None}, 2))
    with pytest.raises(DataError, match="train.txt lists no frame with annotations"):
        HO3Dv2(tmp_path)


def test_without_mano_there_are_no_vertices(v3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path / "nothing"))
    monkeypatch.delenv("HANDMIM_MANO_DIR", raising=False)
    data = HO3Dv3(v3)
    assert "vertices" not in data[0].labels and "hand_pose" in data[0].labels
    assert any("no vertices" in note for note in data.notes)
    assert "vertices" in HO3Dv3(v3, "evaluation")[0].labels


@pytest.mark.parametrize(
    ("split", "missing"),
    [
        ("train", "train.txt"),
        ("train", "train/SM2/rgb/0001.jpg"),
        ("train", "train/ABF10/meta/0002.pkl"),
        ("evaluation", "evaluation.txt"),
        ("evaluation", "evaluation_xyz.json"),
        ("evaluation", "evaluation_verts.json"),
    ],
)
def test_missing_files_are_named(v3: Path, split: str, missing: str) -> None:
    (v3 / missing).unlink()
    with pytest.raises(DataError, match=missing):
        HO3Dv3(v3, split)
    gone = [part.path for part in HO3Dv3.contents(v3) if part.required and not part.found]
    assert gone == ([missing] if missing.count("/") == 0 else [])


def test_contents(v3: Path, tmp_path: Path) -> None:
    parts = {part.path: part.found for part in HO3Dv3.contents(v3)}
    assert parts["train/*/rgb"] == parts["train/*/meta"] == parts["evaluation/*/seg"] == COUNT
    assert {part.path: part.found for part in HO3Dv2.contents(v3)}["train/*/rgb"] == 0
    assert all(part.found == 0 for part in HO3Dv3.contents(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"handJoints3D": np.ones((21, 3))}, r"handJoints3D \(negated z\) of sample train/SM2/0001 must lie 0 to 10 m"),
        (
            {"handJoints3D": np.full((21, 3), [0.0, 0, -400.0])},
            r"sample train/SM2/0001 must lie .* got depths from 400",
        ),
        ({"handJoints3D": np.full((21, 3), np.nan)}, r"handJoints3D .*SM2/0001 has a number that is not finite"),
        (
            {"handJoints3D": np.full((21, 3), [5.0, 0, -0.5])},
            r"joints of sample train/SM2/0001 lies out of its picture",
        ),
        (
            {"handJoints3D": np.ones((20, 3))},
            r"SM2/meta/0001.pkl: handJoints3D must have shape \(21, 3\), got .*\(20, 3\)",
        ),
        ({"handPose": "a" * 48}, r"0001.pkl: handPose must have shape \(48,\), got str"),
        ({"handBeta": [10**400] * 10}, r"0001.pkl: handBeta must have shape \(10,\), got list"),
        ({"handPose": np.full(48, np.inf)}, r"handPose of sample train/SM2/0001"),
        ({"camMat": np.zeros((3, 3))}, r"intrinsics of sample train/SM2/0001 must be"),
    ],
)
def test_wrong_annotations_are_named(v3: Path, fields: dict[str, Any], message: str) -> None:
    edit_meta(v3, "train/SM2/meta/0001.pkl", **fields)
    with pytest.raises(DataError, match=message):
        HO3Dv3(v3)


def test_evaluation_labels_of_another_list_are_refused(v3: Path) -> None:
    path = v3 / "evaluation_xyz.json"
    joints = np.array(json.loads(path.read_text()))
    path.write_text(json.dumps((joints * [1, -1, -1]).tolist()))  # OpenCV's frame: not what the file holds
    with pytest.raises(DataError, match="evaluation_xyz.json does not belong to .*sample evaluation/AP10/0000"):
        HO3Dv3(v3, "evaluation")
    path.write_text(json.dumps(joints[:-1].tolist()))
    with pytest.raises(DataError, match="evaluation.txt has 4, .*evaluation_xyz.json has 3"):
        HO3Dv3(v3, "evaluation")
    path.write_text(json.dumps(joints.tolist()))
    edit_meta(v3, "evaluation/SM1/meta/0001.pkl", handBoundingBox=[50, 60, 20, 80])
    with pytest.raises(DataError, match="handBoundingBox of sample evaluation/SM1/0001 must be"):
        HO3Dv3(v3, "evaluation")


class Hostile:
    def __reduce__(self) -> tuple:
        return os.system, ("touch pwned",)


def test_hostile_pickles_are_refused(v3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (v3 / "train/SM2/meta/0001.pkl").write_bytes(pickle.dumps({"camMat": Hostile()}, 2))
    with pytest.raises(DataError, match="0001.pkl: the pickle names (posix|nt).system"):
        HO3Dv3(v3)
    assert not (tmp_path / "pwned").exists()
    (v3 / "train/SM2/meta/0001.pkl").write_bytes(pickle.dumps([1, 2], 2))
    with pytest.raises(DataError, match="0001.pkl must hold a dict, got list"):
        HO3Dv3(v3)


@pytest.mark.parametrize("line", ["../../etc/0000", "../0000", "/etc/passwd", "SM2/../../0000", "..\\x/0000", "SM2"])
def test_paths_out_of_the_root_are_refused(v3: Path, line: str) -> None:
    (v3 / "train.txt").write_text(f"ABF10/0000\n{line}\n")
    with pytest.raises(DataError, match="train.txt (must list frames|names the file)"):
        HO3Dv3(v3)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_out_of_the_root_are_refused(v3: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (v3 / "train" / "SM2").rename(outside)
    (v3 / "train" / "SM2").symlink_to(outside)
    with pytest.raises(DataError, match="SM2/rgb.*is not below"):
        HO3Dv3(v3)
    (v3 / "train" / "SM2").unlink()
    outside.rename(v3 / "train" / "SM2")
    target = (v3 / "train/SM2/rgb/0001.jpg").rename(tmp_path / "picture.jpg")
    (v3 / "train/SM2/rgb/0001.jpg").symlink_to(target)
    with pytest.raises(DataError, match="0001.jpg.*is not below"):
        HO3Dv3(v3)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_official_folders_may_be_links(v3: Path, tmp_path: Path, mano_folder: Path) -> None:
    (v3 / "train").rename(tmp_path / "other disk")
    (v3 / "train").symlink_to(tmp_path / "other disk")
    (tmp_path / "link").symlink_to(v3)
    assert len(HO3Dv3(tmp_path / "link", hand_model_path=mano_folder)) == COUNT


def test_contact_sheets(root: Path, mano_folder: Path, version: int, tmp_path: Path) -> None:
    for split in ("train", "evaluation"):
        data = READERS[version](root, split, hand_model_path=mano_folder)
        path = save_contact_sheet(data, tmp_path / "sheet.png", tile=96)
        assert Image.open(path).size == (4 * 96, 110)
        if os.environ.get("HANDMIM_SHEETS"):
            save_contact_sheet(data, Path(os.environ["HANDMIM_SHEETS"]) / f"ho3d_v{version}_{split}.png")
