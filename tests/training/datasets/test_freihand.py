"""FreiHAND in miniature, written and read back."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fabricate_datasets.freihand import SIZE, write_freihand
from fabricate_datasets.scenes import Scene, make_scenes
from PIL import Image

from handmim.hand_model import HandModel
from handmim.mano_files import ManoFileNotFoundError
from handmim.training.datasets.contact_sheet import contact_sheet, save_contact_sheet
from handmim.training.datasets.freihand import FreiHAND
from handmim.training.datasets.registry import open_dataset
from handmim.training.datasets.sample import LABEL_SHAPES, DataError

COUNT = 4


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return make_scenes(COUNT, seed=11, size=SIZE)


@pytest.fixture()
def root(tmp_path: Path, scenes: list[Scene]) -> Path:
    return write_freihand(write_freihand(tmp_path, "training", scenes), "evaluation", scenes[:2])


def edit(path: Path, change) -> None:  # noqa: ANN001
    """Change a JSON file by a function of its value."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_labels_are_those_of_the_scenes(root: Path, scenes: list[Scene], mano_folder: Path, split: str) -> None:
    data = open_dataset("freihand", root, split, hand_model_path=mano_folder)
    per_version = COUNT if split == "training" else 2
    assert len(data) == (16 if split == "training" else 2)
    ids = set()
    for index, sample in enumerate(data):
        scene = scenes[index % per_version]
        for name in ("joints", "vertices", "keypoints_2d", "global_orient", "hand_pose", "betas"):
            assert sample.labels[name].dtype == np.float32
            np.testing.assert_allclose(sample.labels[name], getattr(scene, name), atol=2e-5 if name[0] != "k" else 2e-3)
        np.testing.assert_allclose(sample.intrinsics, scene.intrinsics, rtol=1e-6)
        assert np.mean(sample.load_mask() == scene.mask) > 0.99
        image = np.asarray(Image.open(sample.image), np.float64)
        assert np.abs(image - scene.image)[scene.mask].mean() < 12  # versions keep the hand, JPEG adds noise
        assert sample.handedness == "right" and sample.image.is_file()
        ids.add(sample.id)
    assert len(ids) == len(data)
    assert set(data[0].labels) == set(LABEL_SHAPES)


def test_parameters_and_vertices_belong_together(root: Path, mano_folder: Path) -> None:
    data = FreiHAND(root, hand_model_path=mano_folder)
    sample, model = data[2], HandModel("mano", "right", mano_folder)
    orient, pose, betas = (torch.from_numpy(sample.labels[k])[None] for k in ("global_orient", "hand_pose", "betas"))
    hand = model(orient, pose, betas)
    moved = hand.vertices[0] - hand.joints[0, 0] + torch.from_numpy(sample.labels["joints"][0])
    np.testing.assert_allclose(moved, sample.labels["vertices"], atol=2e-5)
    # a reader that forgets the mean pose is centimetres off
    flat = model(
        orient,
        pose @ torch.linalg.inv(model.from_smplx(torch.zeros(1, 3), torch.zeros(1, 45), betas)["hand_pose"]),
        betas,
    )
    assert (flat.vertices - hand.vertices).norm(dim=2).max() > 0.01


def test_versions_share_labels(root: Path, mano_folder: Path) -> None:
    data = FreiHAND(root, versions=("hom", "gs"))
    assert len(data) == 2 * COUNT
    assert np.shares_memory(data[1].labels["vertices"], data[1 + COUNT].labels["vertices"])
    assert [data[i].image.name for i in (0, COUNT, -1)] == ["00000004.jpg", "00000000.jpg", "00000003.jpg"]
    assert pickle.loads(pickle.dumps(data[0])).id == "training/00000004"
    with pytest.raises(DataError, match="versions of freihand must be some of gs.*'green'"):
        FreiHAND(root, versions=("green",))
    with pytest.raises(IndexError):
        data[2 * COUNT]


def test_without_mano_parameters_are_left_out(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path / "nothing"))
    monkeypatch.delenv("HANDMIM_MANO_DIR", raising=False)
    data = FreiHAND(root)
    assert set(data[0].labels) == {"joints", "vertices", "keypoints_2d"}
    assert any("mean pose" in note for note in data.notes)
    assert any("32560" in note for note in data.notes)
    with pytest.raises(ManoFileNotFoundError):
        FreiHAND(root, hand_model_path=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "missing", ["training_xyz.json", "training_verts.json", "training_K.json", "training/rgb/00000006.jpg"]
)
def test_missing_files_are_named(root: Path, missing: str) -> None:
    (root / missing).unlink()
    with pytest.raises(DataError, match=missing):
        FreiHAND(root)
    parts = {part.path: part for part in FreiHAND.contents(root)}
    if missing.endswith(".json"):
        assert parts[missing].found == 0 and parts[missing].required


def test_contents(root: Path, tmp_path: Path) -> None:
    parts = {part.path: part for part in FreiHAND.contents(root)}
    assert parts["training/rgb"].found == 16 and parts["training/rgb"].expected == 130_240
    assert parts["training/mask"].found == COUNT and parts["evaluation/segmap"].found == 2
    assert all(part.found == 0 for part in FreiHAND.contents(tmp_path / "nowhere"))


def swap_frame(rows: list) -> None:
    rows[:] = (np.array(rows) * [1, -1, -1]).tolist()


def millimetres(rows: list) -> None:
    rows[:] = (np.array(rows) * 1000).tolist()


def not_finite(rows: list) -> None:
    rows[2][5][1] = float("nan")


def out_of_frame(rows: list) -> None:
    rows[3] = (np.array(rows[3]) + [5, 0, 0]).tolist()


def one_less(rows: list) -> None:
    rows.pop()


def joint_less(rows: list) -> None:
    rows[1].pop()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("xyz", swap_frame, r"training_xyz.json: joints of sample training/00000000 must lie 0 to 10 m before"),
        ("verts", swap_frame, r"training_verts.json: vertices of sample training/00000000 must lie"),
        ("xyz", millimetres, r"joints of sample training/00000000 must lie 0 to 10 m"),
        ("xyz", not_finite, r"training_xyz.json.*item 2"),
        ("xyz", out_of_frame, r"training_xyz.json: joints of sample training/00000003 lies out of its picture of 224"),
        ("xyz", one_less, r"as many samples each: .*training_xyz.json has 3, .*training_K.json has 4"),
        ("verts", one_less, r"training_verts.json has 3"),
        ("xyz", joint_less, r"training_xyz.json.*item 1"),
        (
            "K",
            lambda rows: rows[1].__setitem__(0, [0, 0, 0]),
            r"training_K.json: intrinsics of sample training/00000001",
        ),
        (
            "mano",
            lambda rows: rows[1][0].__setitem__(3, 1e6),
            r"training_mano.json: parameters of sample .*1 has 1e\+06",
        ),
    ],
)
def test_wrong_labels_are_named(root: Path, mano_folder: Path, file: str, change, message: str) -> None:  # noqa: ANN001
    edit(root / f"training_{file}.json", change)
    with pytest.raises(DataError, match=message):
        FreiHAND(root, hand_model_path=mano_folder)


def test_split_and_root_are_checked(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be one of training, evaluation, got 'test'"):
        FreiHAND(root, "test")
    with pytest.raises(DataError, match="nowhere"):
        FreiHAND(tmp_path / "nowhere")


def test_contact_sheet_shows_labels_on_the_hand(root: Path, mano_folder: Path, tmp_path: Path) -> None:
    data = FreiHAND(root, hand_model_path=mano_folder)
    sheet = contact_sheet([data[0], data[5], data[10]], columns=2, tile=96)
    assert sheet.shape == (2 * (96 + 14), 192, 3) and sheet.dtype == np.uint8
    path = save_contact_sheet(data, tmp_path / "sheet.png", count=4, tile=96)
    assert Image.open(path).size == (4 * 96, 110)
    if os.environ.get("HANDMIM_SHEETS"):
        save_contact_sheet(data, Path(os.environ["HANDMIM_SHEETS"]) / "freihand.png", count=12)
        save_contact_sheet(FreiHAND(root, "evaluation"), Path(os.environ["HANDMIM_SHEETS"]) / "freihand_eval.png")


def test_a_crop_of_the_sheet_keeps_pixels_in_place(root: Path) -> None:
    from handmim.training.datasets.contact_sheet import _warp

    picture = np.zeros((40, 40), np.uint8)
    picture[12, 17] = 255
    affine = torch.tensor([[3.0, 0.0, -30.0], [0.0, 3.0, -21.0]])  # pixel (17, 12) goes to (21, 15)
    crop = np.asarray(_warp(Image.fromarray(picture), affine, 48, Image.Resampling.NEAREST))
    rows, columns = np.nonzero(crop)
    assert (rows.mean(), columns.mean()) == (15, 21) and len(rows) == 9


LABELS_MEMORY = """
import re, sys
sys.path[:0] = sys.argv[2:]
from handmim.training.datasets.freihand import FreiHAND
import numpy as np
def memory(name):  # getrusage's peak would be that of the process which started this one, if it was larger
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = memory("VmRSS")
data = FreiHAND(sys.argv[1], versions=("gs",))
print(len(data), data.vertices.nbytes, memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_many_labels(tmp_path: Path, scenes: list[Scene]) -> None:
    """32,560 samples, the official number, take less than 1 GB at the highest while they are read."""
    count = 32_560
    write_freihand(tmp_path, "training", scenes[:1])
    for key in ("xyz", "verts", "K"):
        item = (tmp_path / f"training_{key}.json").read_text()[1:-1]
        with (tmp_path / f"training_{key}.json").open("w") as file:
            file.write("[")
            for start in range(0, count, 100):
                file.write((", " if start else "") + ", ".join([item] * min(100, count - start)))
            file.write("]")
    pictures = tmp_path / "training" / "rgb"
    for number in range(1, count):
        if number > 3:
            (pictures / f"{number:08d}.jpg").hardlink_to(pictures / f"{number % 4:08d}.jpg")
    package = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", LABELS_MEMORY, str(tmp_path), str(package)], capture_output=True, text=True, check=True
    )
    samples, kept, peak = map(int, result.stdout.split())
    print(f"{kept / 1e6:.0f} MB of vertices kept, peak {peak / 1e6:.0f} MB")
    assert samples == count and kept == count * 778 * 3 * 4
    assert kept < peak < 6e8, peak
