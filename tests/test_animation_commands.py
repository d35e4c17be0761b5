"""`handmim animate`: results of `handmim predict` in, one .glb out."""

import json
from pathlib import Path

import numpy as np
import pytest
from read_glb import GlbFile
from stub_network import picture, stub_model

from handmim.animation_commands import MAX_BYTES, find_results, natural_key, read_hand
from handmim.cli import main
from handmim.commands import write_results
from handmim.hand import CAMERA_TO_GLTF, Hand
from handmim.images import load_image

SIDES = ("right", "left")


@pytest.fixture(scope="module")
def hands() -> dict[str, list[Hand]]:
    """Each side in three pictures."""
    model = stub_model()
    return {s: [model(picture(seed=k), boxes=[10, 10, 80, 70], handedness=s)[0] for k in range(3)] for s in SIDES}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory, hands: dict[str, list[Hand]]) -> Path:
    """A folder as predict leaves it: frames 1, 2 and 10 show right and left, frame 9 shows nobody."""
    folder = tmp_path_factory.mktemp("results")
    for k, number in enumerate((1, 2, 10)):
        write_results(
            [hands["right"][k], hands["left"][k]], load_image(picture(seed=k)), folder, f"frame{number}", "glb"
        )
    write_results([], load_image(picture()), folder, "frame9", "glb")
    return folder


@pytest.mark.parametrize(("choice", "side"), [("0", "right"), ("1", "left"), ("left", "left"), ("right", "right")])
def test_a_folder(
    frames: Path, hands: dict, tmp_path: Path, capsys: pytest.CaptureFixture, choice: str, side: str
) -> None:
    out = tmp_path / "hand.glb"
    assert main(["animate", str(frames), "--hand", choice, "--fps", "10", "--out", str(out)]) == 0
    assert "4 frame(s), 1 without the hand" in capsys.readouterr().err
    glb = GlbFile(out)
    times = glb.accessor(glb.document["animations"][0]["samplers"][0]["input"])[:, 0]
    np.testing.assert_allclose(times, [0, 0.1, 0.3], rtol=1e-6)
    for time, hand in zip(times, hands[side], strict=True):
        error = np.linalg.norm(glb.vertices(time) - hand.vertices * CAMERA_TO_GLTF, axis=1)
        assert error.max() < 1.1e-4


def test_an_inexact_animation_warns(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["animate", str(frames), "--hand", "right", "--out", str(tmp_path / "hand.glb")]
    assert main(options) == 0 and "warning" not in capsys.readouterr().err
    monkeypatch.setattr("handmim.skinned_gltf.MAX_POSE_TARGETS", 0)
    assert main(options) == 0 and "warning: vertices are up to" in capsys.readouterr().err


def test_files_in_natural_order(frames: Path) -> None:
    names = [file.name for file in find_results([frames / "frame10.json", frames / "frame2.json"])]
    assert names == ["frame2.json", "frame10.json"]
    wanted = ["a.json", "a1.json", "a01b.json", "a2.json", "a2b3.json", "a2b20.json", "a10.json", f"a{9 * 10**30}.json"]
    assert sorted(map(Path, reversed(wanted)), key=natural_key) == list(map(Path, wanted))


def test_the_likeliest_of_a_side(tmp_path: Path, hands: dict) -> None:
    path = tmp_path / "f.json"
    found = [hand.to_dict() for hand in (hands["left"][0], hands["right"][0], hands["right"][1])]
    scores = (
        (0.4, 0.9, 2),
        (0.9, 0.4, 1),
        (None, None, 1),
        ("x", 0.1, 2),
        (0.9, 1, 2),
        (True, 0.1, 2),
        (10**400, 0, 1),
    )
    for first, second, best in scores:
        found[1]["score"], found[2]["score"] = first, second
        path.write_text(json.dumps({"hands": found}))
        assert read_hand(path, "right").betas == found[best]["betas"]
        assert read_hand(path, "right").global_orient == found[best]["global_orient"]
    assert read_hand(path, 3) is None


def hostile(hand: Hand, name: str, value: object) -> str:
    return json.dumps({"hands": [hand.to_dict() | {name: value}]})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("betas", [0.0] * 9, "bad.json: betas must be 10 finite numbers"),
        ("betas", ["0"] * 10, "betas must be"),
        ("betas", [[0.0] * 10], "betas must be"),
        ("betas", {"a": 1}, "betas must be"),
        ("betas", [10**4000] * 10, "betas must be"),
        ("hand_pose", [float("nan")] * 45, "hand_pose must be 15 x 3"),
        ("hand_pose", [[0.0] * 3] * 14 + [[0.0] * 4], "hand_pose must be 15 x 3"),
        ("global_orient", [float("inf"), 0, 0], "global_orient must be 3"),
        ("translation", [1e200, 0, 0], "translation has 1e+200"),
        ("handedness", "middle", "bad.json has handedness 'middle'"),
        ("handedness", "left", "bad.json has handedness 'left', but"),
        ("handedness", ["right"], "bad.json has handedness"),
        ("hand_model", "mano", "bad.json has hand_model 'mano', but"),
    ],
)
def test_hostile_hands(
    tmp_path: Path, hands: dict, capsys: pytest.CaptureFixture, name: str, value: object, message: str
) -> None:
    (tmp_path / "aaa.json").write_text(json.dumps({"hands": [hands["right"][0].to_dict()]}))
    (tmp_path / "bad.json").write_text(hostile(hands["right"][0], name, value))
    out = tmp_path / "hand.glb"
    assert main(["animate", str(tmp_path), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and len(error) < 400
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no result of handmim predict"),
        (b"[]", "is no result of handmim predict"),
        (b'{"hands": {}}', "is no result of handmim predict"),
        (b'{"hands": [1]}', "is no result of handmim predict"),
        (b'{"hands": [{}]}', "the hand has no 'betas'"),
        (b'{"hands": []}', "none of the 1 file(s) has a hand number 0"),
        (b"[" * 100_000, "is no result of handmim predict"),
        (b'{"hands": "\xff"}', "is no result of handmim predict"),
        (b" " * (MAX_BYTES + 1), "more than the 33554432 bytes"),
    ],
)
def test_hostile_files(tmp_path: Path, capsys: pytest.CaptureFixture, content: bytes, message: str) -> None:
    (tmp_path / "f.json").write_bytes(content)
    assert main(["animate", str(tmp_path / "f.json"), "--out", str(tmp_path / "h.glb")]) == 1
    assert message in capsys.readouterr().err


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for path, message in ((tmp_path, "holds no .json file"), (tmp_path / "no.json", "is missing or not a file")):
        assert main(["animate", str(path), "--out", str(tmp_path / "h.glb")]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--fps", "0"], ["--fps", "nan"], ["--hand", "-1"], ["--hand", "thumb"]])
def test_wrong_options(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["animate", str(tmp_path), "--out", str(tmp_path / "h.glb"), *options])
    assert stop.value.code == 2


def test_mano_is_refused(tmp_path: Path, hands: dict, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "f.json").write_text(hostile(hands["right"][0], "hand_model", "mano"))
    assert main(["animate", str(tmp_path), "--out", str(tmp_path / "h.glb")]) == 1
    error = capsys.readouterr().err
    assert "MANO licence" in error and "--allow-licensed" in error
