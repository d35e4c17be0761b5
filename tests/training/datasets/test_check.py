"""Faults of labels are found, all in one go, by sample or line and field."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate_datasets.folder import write_folder, write_lines
from fabricate_datasets.given import ListReader
from PIL import Image

from handmim.errors import DataError
from handmim.training.datasets.check import SHOWN, check_dataset, check_reader
from handmim.training.datasets.folder import LabelledFolder
from handmim.training.datasets.sample import HandSample


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder without faults, and its lines."""
    folder = tmp_path_factory.mktemp("check") / "data"
    lines = write_folder(folder)
    for name, size, value in (("small", (20, 16), 0), ("black", (200, 160), 1), ("white", (200, 160), 255)):
        Image.new("L", size, value).save(folder / f"{name}.png")
    return folder, lines


def problems(good: tuple[Path, list[dict[str, Any]]], change: Callable[[list[Any]], Any], images: bool = True) -> Any:
    """Errors and warnings of the folder with changed lines, each as text."""
    folder, lines = good
    lines = copy.deepcopy(lines)
    change(lines)
    write_lines(folder / "test.jsonl", lines)
    report = check_dataset(folder, "test", images)
    texts = [[str(p) for kept in found.values() for p in kept] for found in (report.errors, report.warnings)]
    return texts[0], texts[1], report


def test_a_good_folder_has_no_faults(good: tuple[Path, list[dict[str, Any]]]) -> None:
    report = check_dataset(good[0], images=True)
    assert report.lines() == [
        f"{good[0] / 'labels.jsonl'}: 4 samples; labels: betas 1, global_orient 1, hand_pose 1, joints 2, "
        "keypoints_2d 2, mask 2, vertices 1",
        "no errors, no warnings",
    ]
    assert check_reader(LabelledFolder(good[0]), images=True).lines() == [
        f"folder in {good[0]}: 4 samples; labels: betas 1, global_orient 1, hand_pose 1, joints 2, "
        "keypoints_2d 3, mask 2, vertices 1",  # one of them projected
        "no errors, no warnings",
    ]


def scaled(name: str, factor: float) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        lines[0][name] = (np.array(lines[0][name]) * factor).tolist()

    return change


def put(row: int, **fields: Any) -> Callable[[list[Any]], None]:
    return lambda lines: lines[row].update(fields)


def turned(*signs: int) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        lines[0]["joints"] = (np.array(lines[0]["joints"]) * signs).tolist()

    return change


ERRORS = [
    (put(1, keypoint2d=[]), "test.jsonl line 2, keypoint2d: is not a field; did you mean keypoints_2d?"),
    (put(2, joints=[[0, 0, 1]] * 20), "line 3, joints: must be 21 x 3 numbers, got 20 x 3; wrist, then"),
    (put(1, keypoints_2d=[[float("nan"), 1.0]] * 21), "line 2, keypoints_2d: holds NaN or Infinity; write null"),
    (put(0, betas=[float("inf")] * 10), "line 1, betas: holds NaN or Infinity"),
    (put(1, keypoints_2d=[[10, None]] + [None] * 20), "line 2, keypoints_2d: point 0 has only some of its coord"),
    (put(1, keypoints_2d=[None] * 21), "line 2, keypoints_2d: none of the points is labelled"),
    (put(1, keypoints_2d=[[250.0, 30.0]] * 21), "keypoints_2d: all 21 points lie outside the picture of 200 x 160"),
    (put(1, keypoints_2d=[[50.0, 30.0]] * 20 + [[50, 900]]), "point 20 at [50, 900] is far outside the picture"),
    (put(1, keypoints_2d=[[0.5, 0.1]] * 21), "all points lie in [0, 2]: write pixels"),
    (put(2, intrinsics=[[0] * 3] * 3), "line 3, intrinsics: cannot be inverted"),
    (put(2, intrinsics=[[9, 0, 0], [0, 9, 0], [5, 5, 1]]), "line 3, intrinsics: looks transposed"),
    (put(2, intrinsics=[[-9, 0, 5], [0, 9, 5], [0, 0, 1]]), "focal lengths must be positive, got -9 and 9"),
    (put(2, intrinsics=[[9, 3, 5], [0, 9, 5], [0, 0, 1]]), "has a skew of 3 and 0"),
    (turned(1, -1, -1), "line 1, joints: 21 points lie behind the camera"),
    (scaled("joints", 1000), "line 1, joints: the hand measures"),
    (scaled("hand_pose", 180 / np.pi), "line 1, hand_pose: a rotation of"),
    (put(2, hand_model="open", betas=[0] * 10), "line 3, hand_model: is open, but line 1 has mano"),
    (put(0, vertices=[[0, 0, 1.0]] * 700), "line 1, vertices: must be 778 for hand_model mano, got 700"),
    (
        put(0, joints=None),
        "line 1, vertices: teach nothing without a labelled wrist; label joints[0], or leave vertices out",
    ),
    (lambda lines: lines[0]["joints"].__setitem__(0, None), "line 1, vertices: teach nothing without"),
    (put(0, box=[100, 100, 50, 50]), "line 1, box: [100, 100, 50, 50] has no area; x1 must exceed x0"),
    (put(3, box=[500, 0, 600, 50]), "line 4, box: [500, 0, 600, 50] lies outside the picture of 200 x 160 px"),
    (put(1, image="images/7.png"), "line 2, image: 'images/7.png' is missing in"),
    (put(1, image="labels.jsonl"), "labels.jsonl is not a picture that can be read"),
    (put(1, image="../../x.png"), "line 2, image: it names the file '../../x.png', which is not below"),
    (put(1, foreground="masks/7.png"), "line 2, foreground: 'masks/7.png' is missing in"),
    (put(1, foreground="small.png"), "line 2, foreground: is 20 x 16 px, but the picture 200 x 160"),
    (put(3, mask="black.png"), "line 4, mask: has no pixel above 127"),
    (put(1, foreground="white.png"), "line 2, foreground: is white all over"),
    (put(3, mask=None), "test.jsonl line 4 has no label: give at least one of"),
    (put(1, id="first"), "line 2, id: 'first' is the id of line 1 as well"),
    (lambda lines: lines.append(lines[1]), "test.jsonl line 5 says the same as line 2"),
    (lambda lines: lines.append("{'image': 1}"), "test.jsonl line 5 is not JSON"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_errors_name_line_and_field(good: Any, change: Callable[[list[Any]], Any], message: str) -> None:
    errors, _, report = problems(good, change)
    assert any(message in error for error in errors), errors
    assert not report.ok
    with pytest.raises(DataError, match="test.jsonl has labels that cannot be trained on: test.jsonl line"):
        report.raise_for_errors()


WARNINGS = [
    (turned(-1, 1, 1), "line 1, joints: the joints project", "they fit in a mirrored frame"),
    (turned(1, -1, 1), "line 1, joints: the joints project", "they fit in a frame with y up"),
    (scaled("betas", 100), "line 1, betas: a value is", "standard deviations"),
    (put(1, handedness=None), "line 2, handedness: is missing", "taken for a right one"),
    (put(0, box=[3, 4, 5, 6]), "line 1, box: [3, 4, 5, 6] holds 0 of 21 keypoints", "must be x0, y0, x1, y1"),
    (put(2, intrinsics=[[1.2, 0, 0.5], [0, 1.6, 0.5], [0, 0, 1]]), "line 3, intrinsics: a focal length of", "pixels"),
]


@pytest.mark.parametrize(("change", "message", "hint"), WARNINGS)
def test_unlikely_labels_are_warnings(good: Any, change: Callable[[list[Any]], Any], message: str, hint: str) -> None:
    errors, warnings, report = problems(good, change)
    assert not errors and report.ok
    assert any(message in warning and hint in warning for warning in warnings), warnings


def test_units_and_frames_are_guessed(good: Any) -> None:
    assert "these look like millimetres; write metres" in problems(good, scaled("joints", 1000))[0][0]
    assert "these look like centimetres; write metres" in problems(good, scaled("joints", 100))[0][0]
    assert "turn it by diag(1, -1, -1)" in problems(good, turned(1, -1, -1))[0][0]
    assert "write radians, not degrees" in problems(good, scaled("hand_pose", 180 / np.pi))[0][0]


def test_points_a_little_outside_are_all_right(good: Any) -> None:
    def change(lines: list[Any]) -> None:
        lines[1]["keypoints_2d"][0] = [-30.0, 190.0]

    assert problems(good, change)[:2] == ([], [])


def test_all_faults_are_counted_and_the_first_shown(good: Any) -> None:
    def change(lines: list[Any]) -> None:
        lines[:] = [{"image": f"images/{i % 4}.png", "mask": "masks/0.png", "hand": i} for i in range(SHOWN + 7)]
        lines[3] = {"image": "images/0.png"}

    errors, _, report = problems(good, change, images=False)
    assert len(errors) == SHOWN + 1 and report.error_counts.total() == SHOWN + 7
    assert "error: ... and 6 more of this kind (unknown field, hand)" in report.lines()
    assert report.lines()[-1] == f"{SHOWN + 7} errors, no warnings"


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels.jsonl is missing"):
        check_dataset(tmp_path)
    (tmp_path / "labels.jsonl").write_text("\n\n")
    assert "is empty" in check_dataset(tmp_path).lines()[0]
    with pytest.raises(DataError, match="is not a folder"):
        check_dataset(tmp_path / "nowhere")


def test_sizes_are_those_of_the_upright_picture(good: Any) -> None:
    picture = Image.new("RGB", (30, 400))
    exif = picture.getexif()
    exif[0x0112] = 6  # lies on its side
    picture.save(good[0] / "phone.jpg", exif=exif)
    points = {"handedness": "left", "keypoints_2d": [[350.0, 20.0]] * 21}
    assert problems(good, lambda lines: lines.append({"image": "phone.jpg"} | points))[0] == []
    points["keypoints_2d"] = [[20.0, 350.0]] * 21
    errors = problems(good, lambda lines: lines.append({"image": "phone.jpg"} | points))[0]
    assert errors == ["test.jsonl line 5, keypoints_2d: all 21 points lie outside the picture of 400 x 30 px"]
    Image.new("RGB", (400, 5)).save(good[0] / "phone.jpg")
    assert "has 400 x 5 pixels" in problems(good, lambda lines: lines.append({"image": "phone.jpg"} | points))[0][0]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_pictures_are_named(good: Any, suffix: str) -> None:
    """Their headers are whole: they passed the check and ended the run in the middle."""
    cut = good[0] / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 200, 3), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])

    def change(lines: list[Any]) -> None:
        lines[1]["image"] = lines[2]["image"] = lines[3]["mask"] = cut.name

    errors = problems(good, change)[0]
    places = ("line 2, image", "line 3, image", "line 4, mask")
    assert len(errors) == 3
    for error, place in zip(errors, places, strict=True):
        assert error.startswith(f"test.jsonl {place}: {cut} is ") and "truncated" in error
    named = check_reader(LabelledFolder(good[0], "test"), images=True).error_counts
    assert named == {("unreadable picture", "image"): 2, ("file", "mask"): 1}
    assert problems(good, change, images=False)[0] == []


def test_masks_of_readers_must_fit_their_picture(tmp_path: Path) -> None:
    Image.new("RGB", (96, 80)).save(tmp_path / "a.png")
    points = {"keypoints_2d": np.random.default_rng(0).uniform(30, 60, (21, 2)).astype(np.float32)}
    samples = [
        HandSample(str(i), tmp_path / "a.png", "right", labels=points, **{load: partial(np.zeros, size, bool)})
        for i, (load, size) in enumerate(
            [("load_mask", (80, 96)), ("load_mask", (40, 48)), ("load_foreground", (9, 9))]
        )
    ]
    reader = ListReader(samples, tmp_path)
    assert check_reader(reader, images=True).lines()[:-2] == [
        "error: sample 1, mask: is 48 x 40 px, but the picture 96 x 80",
        "error: sample 2, foreground: is 9 x 9 px, but the picture 96 x 80",
    ]
    assert check_reader(reader).ok


def test_readers_are_checked_by_sample_and_field(tmp_path: Path) -> None:
    eye = np.eye(3, dtype=np.float32)
    labels = [
        {"keypoints_2d": np.zeros((20, 2), np.float32)},
        {"global_orient": eye * 1.2},
        {"global_orient": eye * [-1, 1, 1]},
        {"vertices": np.ones((778, 3), np.float32)},
        {"joints": np.full((21, 3), np.inf, np.float32)},
        {"pose": eye},
        {},
    ]
    samples: list[Any] = [
        HandSample(str(i), tmp_path / "a.jpg", "right", labels=label) for i, label in enumerate(labels)
    ]
    samples += [samples[1], DataError("the mesh is gone")]
    reader = ListReader(samples, tmp_path)
    reader.notes = ["the mesh needs MANO"]
    report = check_reader(reader)
    assert report.lines()[-3] == "note: the mesh needs MANO"
    expected = {
        "sample 0, keypoints_2d: must have shape (21, 2), got (20, 2)",
        "sample 1, global_orient: a matrix is not orthogonal (by 0.44); rotations must be proper",
        "sample 2, global_orient: a matrix is a reflection; rotations must be proper",
        "sample 3, vertices: must have shape (1649, 3), got (778, 3)",
        "sample 3, vertices: teach nothing without a labelled wrist; label joints[0], or leave vertices out",
        "sample 4, joints: value 0 is Infinity",
        "sample 5, pose: is not one of global_orient, hand_pose, betas, vertices, joints, keypoints_2d",
        "sample 6 has no label to train on",
        "sample 1, id: another sample has this id",
        "sample number 8 cannot be read: the mesh is gone",
    }
    assert expected <= {str(problem) for kept in report.errors.values() for problem in kept}
    with pytest.raises(
        DataError,
        match="list in .* cannot be trained on: sample 0, keypoints_2d: .*; and 9 more.* .the mesh needs MANO",
    ):
        report.raise_for_errors()


def test_some_headers_tell_labels_of_another_resolution(tmp_path: Path) -> None:
    Image.new("RGB", (96, 80)).save(tmp_path / "a.png")
    points = np.random.default_rng(0).uniform(30, 60, (21, 2)).astype(np.float32)
    samples = [
        HandSample(str(i), tmp_path / "a.png", "right", labels={"keypoints_2d": scale * points})
        for i, scale in enumerate([1, 4] * 50)
    ]
    reader = ListReader(samples, tmp_path)
    assert check_reader(reader).ok
    report = check_reader(reader, headers=12)
    assert [key for key in report.error_counts] == [("outside", "keypoints_2d")]
    assert report.error_counts.total() == 6 and report.samples == 100
    with pytest.raises(DataError, match=r"all 21 points lie outside the picture of 96 x 80 px; .*and 3 more, which"):
        report.raise_for_errors()
    assert check_reader(reader, headers=1000).error_counts.total() == 50
    assert check_reader(ListReader([], tmp_path), headers=12).ok


def test_more_samples_than_a_block_are_all_tested(tmp_path: Path) -> None:
    good_joints = np.random.default_rng(0).uniform(0, 0.1, (21, 3)).astype(np.float32) + np.float32(0.5)
    samples = [HandSample(str(i), tmp_path / "a", labels={"joints": good_joints}) for i in range(2500)]
    samples[2400] = HandSample("bad", tmp_path / "a", labels={"joints": -good_joints})
    report = check_reader(ListReader(samples, tmp_path))
    assert [key for key in report.error_counts] == [("behind camera", "joints")] and report.samples == 2500
    assert report.errors["behind camera", "joints"][0].place == "sample bad"
