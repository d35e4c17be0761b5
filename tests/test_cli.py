"""The `handmim` command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from stub_network import StubNetwork, picture
from torch._utils import ExceptionWrapper

import handmim.commands
import handmim.synthesis.series
from handmim.cli import build_parser, main
from handmim.command_line import one_sentence
from handmim.commands import output_stems
from handmim.errors import DataError
from handmim.synthesis.batch import HandsShown


@pytest.fixture()
def predict(tiny_checkpoint: Path, tmp_path: Path):
    """`handmim predict ...` with the tiny model into tmp_path/out -> (exit code, names of the files written)."""

    def run(*arguments: object) -> tuple[int, set[str]]:
        out = tmp_path / "out"
        options = ["--model", tiny_checkpoint, "--device", "cpu", "--detector", "none", "--out", out]
        code = main([str(argument) for argument in ("predict", *options, *arguments)])
        return code, {file.name for file in out.iterdir()} if out.exists() else set()

    return run


def test_every_command_that_help_lists_runs_something() -> None:
    text = build_parser().format_help()
    for command in ("predict", "demo", "mano", "synthesize", "evaluate", "compare", "publish", "info"):
        assert command in text
    for later in ("benchmark",):
        assert later not in text


@pytest.mark.parametrize(
    "arguments",
    [[], ["predict"], ["predict", "--hand", "middle", "x.jpg"], ["predict", "x.jpg", "--box", "1,2,3"], ["mano"],
     ["predict", "x.jpg", "--format", "stl"], ["synthesize", "0", "--out", "x"], ["fly"],
     ["synthesize", "1", "--out", "x", "--variety", "{a"],
     ["predict", "a.jpg", "b.jpg", "--box", "1,2,30,40"]],
)  # fmt: skip
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "hint"),
    [(["predict", "x.jpg", "--formt", "obj"], "handmim predict", "--formt obj; did you mean --format?"),
     (["data", "info", "rhd", ".", "--sheets=x.png"], "handmim data info", "did you mean --sheet?"),
     (["info", "--qqq"], "handmim info", "--qqq\n")],
)  # fmt: skip
def test_the_command_itself_refuses_an_unknown_option(
    arguments: list[str], usage: str, hint: str, capsys: pytest.CaptureFixture
) -> None:
    """The usage shown was the program's, which lists no option of a command."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"usage: {usage} ") and hint in error


def test_one_image(predict, photo: Path, capsys: pytest.CaptureFixture) -> None:
    code, files = predict(photo, "--box", "10,10,60,60", "20,20,80,80", "--hand", "left", "--json")
    assert code == 0
    assert files == {"photo.json", "photo.overlay.png", "photo.0.glb", "photo.1.glb"}
    output = capsys.readouterr()
    report = json.loads(output.out)
    out = photo.parent / "out"
    assert report == json.loads((out / "photo.json").read_text())
    assert (report["width"], report["height"]) == (120, 90) and report["meshes"] == ["photo.0.glb", "photo.1.glb"]
    assert [hand["handedness"] for hand in report["hands"]] == ["left", "left"]
    assert report["hands"][1]["box"] == [20, 20, 80, 80]
    assert Image.open(out / "photo.overlay.png").height == 90
    mesh = trimesh.load(out / "photo.1.glb", force="mesh", process=False)
    np.testing.assert_allclose(mesh.vertices, np.array(report["hands"][1]["vertices"]) * [1, -1, -1], atol=1e-5)


def test_boxes_before_images(predict, photo: Path) -> None:
    code, files = predict("--format", "obj", "--box", "10,10,60,60", photo)
    assert code == 0 and files == {"photo.json", "photo.overlay.png", "photo.0.obj"}


def test_a_folder_with_one_bad_image(predict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "B.jpg", "c.overlay.png", ".hidden.png"):
        Image.fromarray(picture()).save(folder / name)
    (folder / "bad.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no picture either")
    code, files = predict(folder, tmp_path / "nothing.jpg", "--batch-size", "2", "--format", "ply")
    errors = capsys.readouterr().err
    assert code == 1 and "bad.jpg is not an image" in errors and "nothing.jpg does not exist" in errors
    assert "2 failed" in errors and "Traceback" not in errors
    expected = {f"{stem}.{end}" for stem in ("a", "b.png", "B.jpg") for end in ("json", "overlay.png", "0.ply")}
    assert files == expected


def test_the_detector_is_named(predict, photo: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    predict(photo)
    assert "hands are looked for by whole-image\n" in capsys.readouterr().err
    predict(photo, "--box", "10,10,60,60")
    assert "looked for" not in capsys.readouterr().err
    monkeypatch.setattr("handmim.mediapipe_detector.find_spec", lambda name: None)  # no mediapipe
    monkeypatch.delenv("HANDMIM_MEDIAPIPE_TASK", raising=False)
    predict(photo, "--detector", "auto")
    assert "hands are looked for by open\n" in capsys.readouterr().err
    monkeypatch.setattr("handmim.open_detector.OpenHandDetector.is_here", lambda: False)
    predict(photo, "--detector", "auto")
    assert "by whole-image (mediapipe is not installed; pip install handmim[detect])\n" in capsys.readouterr().err


def test_pictures_whose_files_cannot_be_written_do_not_stop_the_others(
    predict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a.png", "b.png", f"{'c' * 245}.png", "d.png"):
        Image.fromarray(picture()).save(tmp_path / name)
    (tmp_path / "out" / "a.json").mkdir(parents=True)
    labels = tmp_path / "out" / "b.json"
    labels.write_text('{"shapes": ["the user\'s labels"]}')
    code, files = predict(*sorted(tmp_path.glob("*.png")))
    errors = capsys.readouterr().err
    assert code == 1 and "3 failed" in errors and "d.json" in files and f"{'c' * 245}.json" not in files
    assert "a.json" in errors and "b.json is there and was not written by handmim" in errors and ".tmp" not in errors
    assert labels.read_text() == '{"shapes": ["the user\'s labels"]}'


def test_without_overlay(predict, photo: Path) -> None:
    assert predict(photo)[1] == {"photo.json", "photo.overlay.png", "photo.0.glb"}
    assert predict(photo, "--no-overlay")[1] == {"photo.json", "photo.0.glb"}  # the earlier one told of other hands


def test_meshes_of_an_earlier_run_go_only_if_it_lists_them(predict, photo: Path) -> None:
    out = photo.parent / "out"
    predict(photo, "--box", "10,10,60,60", "20,20,80,80", "30,30,80,80")
    (out / "photo.7.glb").write_text("the user's own")
    report = json.loads((out / "photo.json").read_text())
    report["meshes"] += ["../photo.png", "photo.json", "other.1.glb", "photo.1.obj", 3, None]
    (out / "photo.json").write_text(json.dumps(report))
    (out / "other.1.glb").touch()
    (out / "photo.1.obj").touch()  # of another format, which this run would not write
    _, files = predict(photo, "--box", "10,10,60,60")
    kept = {"photo.7.glb", "other.1.glb"}
    assert files == {"photo.json", "photo.overlay.png", "photo.0.glb"} | kept and photo.is_file()
    for listed in ("1", '{"photo.7.glb": 1}', '[["photo.7.glb"]]'):
        (out / "photo.json").write_text(f'{{"hands": [], "meshes": {listed}}}')
        assert predict(photo, "--box", "10,10,60,60")[0] == 0
    for text in ("", "{", "[]", "{}", '{"meshes": []}', "[" * 100_000):  # none of ours
        (out / "photo.json").write_text(text)
        assert predict(photo, "--box", "10,10,60,60")[0] == 1 and (out / "photo.json").read_text() == text
    assert kept <= {file.name for file in out.iterdir()}


def test_errors_of_a_loader_are_one_sentence() -> None:
    """PyTorch makes the worker's whole traceback the message."""
    try:
        raise DataError("sample 7 (a.jpg)\nis damaged: export it again")
    except DataError as error:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 1")
        assert one_sentence(error) == "sample 7 (a.jpg) is damaged: export it again"
    with pytest.raises(DataError) as error:
        wrapped.reraise()
    assert str(error.value).startswith("Caught DataError in DataLoader worker process 1.")
    assert one_sentence(error.value) == "sample 7 (a.jpg) is damaged: export it again"


def test_names_of_files() -> None:
    assert output_stems(["x/a.jpg", "x/b.png"]) == ["a", "b"]
    assert output_stems(["x/a.jpg", "x/A.png", "y/c.jpg"]) == ["a.jpg", "A.png", "c"]
    assert output_stems(["x/a.jpg", "y/a.jpg"]) == ["a.jpg", "a.jpg-2"]
    assert output_stems(["https://h/p/photo.jpg?size=3"]) == ["photo"]
    assert output_stems(["x/what?.jpg", "x/what?2.jpg"]) == ["what?", "what?2"]  # files, not addresses
    many = ["a-2.jpg", "x/a.jpg", "y/a.jpg", "a.jpg-2.png", "z/a.jpg"]
    assert len({stem.lower() for stem in output_stems(many)}) == len(many)


def test_a_failing_picture_does_not_stop_its_batch(predict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A box outside is found out inside the model's batch; here a detector that dislikes one of the pictures."""
    sizes = {"a": (120, 90), "b": (64, 64), "c": (100, 80)}
    for name, (width, height) in sizes.items():
        Image.fromarray(picture(width, height)).save(tmp_path / f"{name}.png")
    from handmim import HandMeshPipeline, InputError

    original = HandMeshPipeline._detect

    def moody(self, request, *camera):
        if request.image.size == (64, 64):
            raise InputError("no square pictures")
        return original(self, request, *camera)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HandMeshPipeline, "_detect", moody)
        code, files = predict(*(tmp_path / f"{name}.png" for name in sizes))
    assert code == 1 and {name.split(".")[0] for name in files} == {"a", "c"}
    assert "b.png: no square pictures" in capsys.readouterr().err


def test_info(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handmim.mediapipe_detector.find_spec", lambda name: None)
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in (
        "python",
        "torch",
        "transformers",
        "open hand",
        "MANO right",
        "detectors",
        "open, open-fine, open-fast, whole-image (mediapipe is not installed; pip install handmim[detect])",
        "checkpoint",
    ):
        assert word in text


def fake_generate(seed: int, index: range, size: int = 128, **_: object) -> handmim.synthesis.SyntheticBatch:
    """What the generator returns, at once: every picture and label follows from (seed, index)."""
    images = torch.stack([torch.from_numpy(picture(size, size, seed + i).copy()) for i in index])
    intrinsics = torch.tensor([[2.0 * size, 0, size / 2], [0, 2.0 * size, size / 2], [0, 0, 1]]).expand(
        len(index), 3, 3
    )
    pixels = images.permute(0, 3, 1, 2) / 127.5 - 1
    labels = StubNetwork()(pixels, intrinsics)
    labels |= {"mask": images[..., 0] > 100, "visibility": labels["joints"][..., 2] > 0, "hand": torch.ones(len(index))}
    points = labels["keypoints_2d"]
    boxes = torch.cat([points.amin(1), points.amax(1)], 1)
    count = torch.ones(len(index))
    hands = HandsShown(torch.arange(len(index)), boxes, count == 0, count)
    return handmim.synthesis.SyntheticBatch(images, intrinsics, labels, hands)


def check_demo(checkpoint: Path, out: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["demo", "--model", str(checkpoint), "--device", "cpu", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert " mm " in text and "handmim predict" in text
    assert {file.name for file in out.iterdir()} == {"demo.json", "demo.overlay.png", "demo.0.glb"}


def test_demo(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(handmim.synthesis, "generate", fake_generate)
    check_demo(tiny_checkpoint, tmp_path, capsys)


@pytest.mark.slow
def test_demo_with_the_generator(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    check_demo(tiny_checkpoint, tmp_path, capsys)


def check_synthesize(folder: Path) -> None:
    arguments = ["--size", "64", "--seed", "3"]
    assert main(["synthesize", "5", "--out", str(folder / "a"), *arguments]) == 0
    assert main(["synthesize", "2", "--out", str(folder / "b"), *arguments, "--start", "3"]) == 0
    names = [f"{index:08d}.png" for index in range(5)]
    assert sorted(file.name for file in (folder / "a" / "images").iterdir()) == names
    assert Image.open(folder / "a" / "masks" / names[0]).size == (64, 64)
    assert (folder / "a" / "images" / names[4]).read_bytes() == (folder / "b" / "images" / names[4]).read_bytes()
    with np.load(folder / "a" / "labels.npz") as a, np.load(folder / "b" / "labels.npz") as b:
        assert a["joints"].shape == (5, 21, 3) and a["index"].tolist() == list(range(5))
        for name in a:
            np.testing.assert_allclose(a[name][3:], b[name], rtol=1e-4, atol=1e-5)


def test_synthesize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(handmim.synthesis.series, "generate", fake_generate)
    monkeypatch.setattr(handmim.synthesis.series, "CHUNK", 2)
    check_synthesize(tmp_path)
    assert main(["synthesize", "5", "--out", str(tmp_path / "a"), "--size", "64", "--seed", "3"]) == 0
    assert "holds these 5 images of the split labels already" in capsys.readouterr().out
    assert main(["synthesize", "5", "--out", str(tmp_path / "a"), "--size", "64", "--seed", "4"]) == 1
    assert "was begun with seed 3, not 4" in capsys.readouterr().err


def test_synthesize_takes_parts_of_a_variety(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = []
    monkeypatch.setattr(
        handmim.synthesis.series,
        "generate",
        lambda *args, variety, **options: asked.append(variety) or fake_generate(*args, **options),
    )
    command = ["synthesize", "2", "--out", str(tmp_path), "--size", "64", "--variety"]
    parts = {"base": "plain", "poses": [0, 0, 0, 1, 0]}
    for _ in range(2):  # the second finds it done
        assert main([*command, "{base: plain, poses: [0, 0, 0, 1, 0]}"]) == 0
    assert (
        asked == [parts]
        and json.loads((tmp_path / "synthesis.json").read_text())["splits"]["labels"]["variety"] == parts
    )
    assert main([*command, "plain"]) == 1 and "was begun with variety" in capsys.readouterr().err
    for wrong, message in (("{stones: 1}", "unknown fields stones"), ("many", "one of full, scene, plain, got 'many'")):
        assert main([*command, wrong]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_synthesize_with_the_generator(tmp_path: Path) -> None:
    check_synthesize(tmp_path)


def test_mano_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    calls = []
    monkeypatch.setattr(
        "handmim.mano_installation.install_mano", lambda *args: calls.append(args) or tmp_path / "kept.npz"
    )
    assert main(["mano", "install", "some/MANO_RIGHT.pkl", "--side", "right"]) == 0
    assert calls == [(Path("some/MANO_RIGHT.pkl"), "right")] and "kept.npz" in capsys.readouterr().out


def test_a_missing_mano_file_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["mano", "install", str(tmp_path / "hand.pkl")]) == 1
    assert "hand.pkl is not there" in capsys.readouterr().err


def test_pictures_that_cannot_be_read_are_counted_once(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    names = [str(tmp_path / name) for name in ("empty.jpg", "text.jpg", "none.jpg")]
    assert main(["predict", *names, "--model", str(tiny_checkpoint), "--out", str(tmp_path)]) == 1
    assert "3 image(s), 0 hand(s), 3 failed" in capsys.readouterr().err
