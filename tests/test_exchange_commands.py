"""`handmim exchange`: files of HaMeR's and WiLoR-mini's results, there and back, and hostile ones."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_hamer_format import SIZE, assert_same, make_hand

from handmim import Hand, HandModel
from handmim.cli import main
from handmim.errors import InputError
from handmim.exchange_files import flat, hands_of_report, nested, report_of, write_hands
from handmim.hamer_format import from_hamer, from_wilor, to_hamer, to_wilor


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, str], HandModel]:
    return {("open", side): HandModel("open", side) for side in ("right", "left")}


@pytest.fixture()
def hands(models: dict) -> list[Hand]:
    return [make_hand(models, "open", side, score=score) for side, score in (("left", 0.5), ("right", None))]


@pytest.fixture()
def report(hands: list[Hand], tmp_path: Path) -> Path:
    path = tmp_path / "photo.json"
    path.write_text(json.dumps(report_of(hands, np.array(SIZE))))
    return path


def exchange(source: Path, to: str, out: Path, *options: str) -> int:
    return main(["exchange", str(source), "--to", to, "--out", str(out), *options])


@pytest.mark.parametrize("kind", ["hamer", "wilor"])
def test_there_and_back(report: Path, hands: list[Hand], kind: str, tmp_path: Path) -> None:
    middle, back = tmp_path / "middle.npz", tmp_path / "back.json"
    assert exchange(report, kind, middle) == 0 and exchange(middle, "handmim", back) == 0
    found, size = hands_of_report(json.loads(back.read_bytes()), back)
    assert size.tolist() == list(SIZE) and len(found) == len(hands)
    for hand, expected in zip(found, hands, strict=True):
        assert_same(hand, expected)
    with np.load(middle, allow_pickle=False) as arrays:
        names = set(arrays.files)
    assert {"hamer": "pred_open_params.hand_pose", "wilor": "wilor_preds.pred_cam_t_full"}[kind] in names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.json", "middle.npz", "photo.json"]


def test_what_heat_maps_saw_stays_in_a_report(hands: list[Hand], tmp_path: Path) -> None:
    seen = replace(hands[0], heatmap_keypoints=hands[0].keypoints_2d + 1, crop_box=hands[0].box - 2)
    path, again = tmp_path / "photo.json", tmp_path / "again.json"
    path.write_text(json.dumps(report_of([seen, hands[1]], np.array(SIZE))))
    assert exchange(path, "handmim", again) == 0
    (first, second), _ = hands_of_report(json.loads(again.read_bytes()), again)
    for name in ("heatmap_keypoints", "crop_box"):
        np.testing.assert_allclose(getattr(first, name), getattr(seen, name), atol=1e-3)
        assert getattr(second, name) is None


def test_between_the_two(report: Path, hands: list[Hand], tmp_path: Path) -> None:
    assert exchange(report, "hamer", tmp_path / "a.npz") == 0
    assert exchange(tmp_path / "a.npz", "wilor", tmp_path / "b.npz") == 0
    with np.load(tmp_path / "b.npz", allow_pickle=False) as arrays:
        assert arrays["is_right"].tolist() == [0, 1]
        pixels = arrays["wilor_preds.pred_keypoints_2d"][:, 0]
    np.testing.assert_allclose(pixels, [hand.keypoints_2d for hand in hands], atol=1e-2)


def test_flat_and_nested(hands: list[Hand]) -> None:
    for found, expected in zip(from_hamer(nested(flat(to_hamer(hands, SIZE)))), hands, strict=True):
        assert_same(found, expected)
    for found, expected in zip(from_wilor(nested(flat(to_wilor(hands, SIZE)))), hands, strict=True):
        assert_same(found, expected)


def test_what_predict_writes_can_be_exchanged(tiny_checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    """The default camera looks half a pixel beside HaMeR's."""
    options = ["--model", str(tiny_checkpoint), "--device", "cpu", "--box", "10,10,80,70", "--hand", "left"]
    assert main(["predict", str(photo), "--out", str(tmp_path), *options]) == 0
    before = json.loads((tmp_path / "photo.json").read_bytes())
    assert exchange(tmp_path / "photo.json", "wilor", tmp_path / "photo.npz") == 0
    assert exchange(tmp_path / "photo.npz", "handmim", tmp_path / "again.json") == 0
    after = json.loads((tmp_path / "again.json").read_bytes())
    assert set(after) == set(before) and after["hands"][0].keys() == before["hands"][0].keys()
    np.testing.assert_allclose(after["hands"][0]["keypoints_2d"], before["hands"][0]["keypoints_2d"], atol=0.5)
    assert after["hands"][0]["intrinsics_source"] == "default"


def test_another_programs_file(hands: list[Hand], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """WiLoR-mini's own keys only: faces and the size of the picture come from the command line."""
    arrays = flat(to_wilor(hands[:1], SIZE))
    faces = arrays.pop("faces")[0]
    del arrays["img_size"], arrays["score"], arrays["intrinsics_source"]
    np.savez(tmp_path / "theirs.npz", **arrays)
    np.save(tmp_path / "faces.npy", faces)
    out = tmp_path / "ours.json"
    assert exchange(tmp_path / "theirs.npz", "handmim", out) == 1
    assert "theirs.npz: img_size is missing" in capsys.readouterr().err
    options = ["--image-size", "640", "480", "--faces", str(tmp_path / "faces.npy"), "--focal-length", "1200"]
    assert exchange(tmp_path / "theirs.npz", "handmim", out, *options) == 0
    found = hands_of_report(json.loads(out.read_bytes()), out)[0][0]
    assert found.intrinsics[0, 0] == 1200 and found.intrinsics_source == "given"
    assert found.translation[2] == pytest.approx(2 * hands[0].translation[2], rel=1e-5)
    np.testing.assert_array_equal(found.faces, hands[0].faces)


def test_a_camera_that_hamer_has_not(models: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    camera = np.array([[600.0, 0, 420], [0, 600, 240], [0, 0, 1]])
    path = tmp_path / "photo.json"
    path.write_text(json.dumps(report_of([make_hand(models, "open", intrinsics=camera)], np.array(SIZE))))
    assert exchange(path, "hamer", tmp_path / "a.npz") == 1
    assert "pixels off" in capsys.readouterr().err and not (tmp_path / "a.npz").exists()
    assert exchange(path, "hamer", tmp_path / "a.npz", "--max-error", "50") == 0


# ---------------------------------------------------------------------------------------------------------------------
# Hostile files


class Payload:
    """A pickle of this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple]:
        return Path.write_text, (self.path, "executed")


def test_object_arrays_are_not_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trace, out = tmp_path / "trace", tmp_path / "out.json"
    payload = np.array([Payload(trace)], dtype=object)
    np.savez(tmp_path / "bad.npz", pred_vertices=payload)
    np.save(tmp_path / "bad.npy", payload, allow_pickle=True)
    assert exchange(tmp_path / "bad.npz", "handmim", out) == 1
    assert "bad.npz" in capsys.readouterr().err
    np.savez(tmp_path / "good.npz", pred_vertices=np.zeros((1, 3, 3)))
    assert exchange(tmp_path / "good.npz", "handmim", out, "--faces", str(tmp_path / "bad.npy")) == 1
    assert "bad.npy" in capsys.readouterr().err
    assert not trace.exists() and not out.exists()


def test_a_file_that_unpacks_to_too_much(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("pred_vertices.npy", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(2**20))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**20
    assert exchange(tmp_path / "bomb.npz", "handmim", tmp_path / "out.json") == 1
    assert "unpacks to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({}, "pred_vertices is missing"),
        ({"pred_vertices": np.zeros((0, 778, 3))}, "pred_keypoints_3d is missing"),
        ({"right": np.zeros(1), "right.x": np.zeros(1)}, "right is both"),
        ({"right.x": np.zeros(1), "right": np.zeros(1)}, "right is both"),
        ({"wilor_preds.betas": np.zeros((2, 1, 10)), "is_right": np.zeros(1)}, "one row for each hand"),
        ({"wilor_preds.betas": np.zeros((1, 1, 10)), "is_right": np.float64(1)}, "one row for each hand"),
        ({"wilor_preds.betas": np.zeros((0, 1, 10))}, "no hands"),
        ({"wilor_preds.betas": np.zeros((1, 1, 10))}, "is_right is missing"),
        ({"pred_vertices": np.array(["text"])}, "pred_vertices must be numbers"),
        ({"pred_vertices": np.zeros(3, [("x", "f4")])}, "pred_vertices must be numbers"),
        ({"pred_vertices": np.zeros((1, 3, 3), "M8[s]")}, "pred_vertices must be numbers"),
        ({"wilor_preds.betas": np.zeros((1, 1, 10)), "is_right": np.array([b"x"])}, "must be numbers, got |S1"),
        (
            {"wilor_preds.betas": np.zeros((1, 1, 10)), "is_right": np.zeros(1, [("x", "f4")])},
            "must be numbers, got [(",
        ),
    ],
)
def test_hostile_arrays(arrays: dict, named: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    assert exchange(tmp_path / "bad.npz", "handmim", tmp_path / "out.json") == 1
    message = capsys.readouterr().err
    assert named in message and "bad.npz" in message or "right is both" in message or "one row" in message
    assert not (tmp_path / "out.json").exists()


def test_archives_that_are_no_npz(hands: list[Hand], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = tmp_path / "good.npz"
    np.savez(good, **flat(to_hamer(hands, SIZE)))
    whole = good.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-100])
    (tmp_path / "directory.npz").mkdir()
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("pred_vertices", "no array")
    large = str({"descr": "<f4", "fortran_order": False, "shape": (2**70,)}).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as archive:
        archive.writestr("pred_vertices.npy", b"\x93NUMPY\x01\x00\x76\x00" + large)
    for name in ("cut", "directory", "text", "large"):
        assert exchange(tmp_path / f"{name}.npz", "handmim", tmp_path / "out.json") == 1
        message = capsys.readouterr().err
        assert f"{name}.npz" in message and message.count("\n") == 1 and not (tmp_path / "out.json").exists()


def test_odd_files_of_faces(hands: list[Hand], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, faces = tmp_path / "hands.npz", tmp_path / "faces.npy"
    np.savez(source, **flat(to_hamer(hands, SIZE)))
    np.savez(tmp_path / "whole.npz", faces=np.zeros((1, 3)))
    whole = (tmp_path / "whole.npz").read_bytes()
    for content in (whole, whole[:-30], b"PK\x03\x04", b"", b"\x93NUMPY\x01\x00\x76\x00(", b"text"):
        faces.write_bytes(content)
        assert exchange(source, "handmim", tmp_path / "out.json", "--faces", str(faces)) == 1
        message = capsys.readouterr().err
        assert "faces.npy" in message and message.count("\n") == 1
    arrays = (np.zeros((2, 3), "S3"), np.zeros((1, 2)), np.array([[0, 1, 99999]]), np.zeros((1, 3), [("x", "f4")]))
    for array in arrays:
        np.save(faces, array)
        assert exchange(source, "handmim", tmp_path / "out.json", "--faces", str(faces)) == 1
        message = capsys.readouterr().err
        assert "faces.npy" in message and message.count("\n") == 1 and not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("name", ["vertices", "betas", "translation", "box", "scaled_focal_length"])
def test_numbers_beyond_float32(hands: list[Hand], name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arrays = flat(to_hamer(hands, SIZE))
    key = {"vertices": "pred_vertices", "betas": "pred_open_params.betas", "box": "boxes"}.get(name, name)
    key = {"translation": "pred_cam_t_full"}.get(key, key)
    arrays[key] = arrays[key].astype(np.float64)
    arrays[key][..., -1] = 1e39
    np.savez(tmp_path / "large.npz", **arrays)
    assert exchange(tmp_path / "large.npz", "handmim", tmp_path / "out.json") == 1
    message = capsys.readouterr().err
    assert "large.npz" in message and "finite in float32" in message and not (tmp_path / "out.json").exists()


def test_reports_hold_finite_numbers(hands: list[Hand], tmp_path: Path) -> None:
    bad = replace(hands[0], betas=np.full(10, np.inf, np.float32))
    with pytest.raises(InputError, match="not finite"):
        write_hands(tmp_path / "out.json", [bad], np.array(SIZE), "handmim")
    assert not list(tmp_path.iterdir())


def change(report: Path, **fields: Any) -> None:
    data = json.loads(report.read_bytes())
    for name, value in fields.items():
        if name in data:
            data[name] = value
        else:
            data["hands"][1][name] = value
    report.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hands": None}, "'hands' is missing"),
        ({"hands": []}, "no hands"),
        ({"hands": [3]}, "hand 0: a hand must be a dict"),
        ({"width": 0}, "width and height"),
        ({"height": "480"}, "width and height"),
        ({"vertices": [[1, 2]]}, "hand 1: vertices"),
        ({"vertices": [[1, 2, float("nan")]]}, "hand 1: vertices must be finite"),
        ({"joints": None}, "hand 1: joints is missing"),
        ({"betas": ["a"] * 10}, "hand 1: betas must be numbers"),
        ({"betas": [[1], [1, 2]]}, "hand 1: betas must be"),
        ({"faces": [[0, 1, 5000]]}, "hand 1: faces must name vertices 0 to 1648"),
        ({"faces": None}, "hand 1: faces is missing"),
        ({"handedness": "both"}, "hand 1: handedness must be left or right"),
        ({"hand_model": ["open"]}, "hand 1: hand_model must be"),
        ({"hand_model": "mano"}, "share a hand model"),
        ({"score": 7}, "hand 1: score must be in [0, 1]"),
        ({"intrinsics_source": {}}, "intrinsics_source"),
        ({"vertices": [[1, 2, 1e39]]}, "hand 1: vertices must be finite in float32, got 1e+39"),
        ({"crop_box": [0, 0, 1, 1e39]}, "hand 1: crop_box must be finite in float32"),
        ({"intrinsics": [[-600, 0, 320], [0, -600, 240], [0, 0, 1]]}, "hand 1: intrinsics must have focal lengths"),
        ({"intrinsics": [[0, 0, 320], [0, 600, 240], [0, 0, 1]]}, "hand 1: intrinsics must have focal lengths"),
        ({"intrinsics": [[600, 0, 320], [0, 600, 240], [0, 0, 2]]}, "hand 1: intrinsics must have focal lengths"),
    ],
)
def test_wrong_reports(report: Path, fields: dict, named: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    change(report, **fields)
    for kind in ("hamer", "wilor"):
        assert exchange(report, kind, tmp_path / "out.npz") == 1
        message = capsys.readouterr().err
        assert named in message or "no hands" in message or "hand models" in message
        assert "photo.json" in message or "no hands" in message or "hand model" in message
        assert message.count("\n") == 1 and not (tmp_path / "out.npz").exists()


def test_wrong_names(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for source, kind, out, named in (
        (report, "hamer", tmp_path / "out.json", "must end in .npz"),
        (report, "handmim", tmp_path / "out.npz", "must end in .json"),
        (tmp_path / "photo.pkl", "handmim", tmp_path / "out.json", "photo.pkl must be"),
        (tmp_path / "none.json", "hamer", tmp_path / "out.npz", "none.json cannot be read"),
        (tmp_path / "none.npz", "handmim", tmp_path / "out.json", "none.npz is missing"),
    ):
        assert exchange(source, kind, out) == 1
        assert named in capsys.readouterr().err
