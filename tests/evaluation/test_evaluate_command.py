"""`handmim evaluate` and `handmim compare` from the command line to every file they write."""

import json
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_reader import SyntheticReader, write_manifest
from fabricate_datasets.freihand import write_freihand
from fabricate_datasets.ho3d import write_ho3d
from fabricate_datasets.scenes import make_scenes, write_mano
from PIL import Image
from stub_network import TINY

from handmim.cli import build_parser, main
from handmim.evaluation.predictions import Predictor
from handmim.evaluation.report import load, marks, row_name
from handmim.evaluation.runner import command, output_folder, write

COUNT = 4


@pytest.fixture(scope="module")
def freihand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_freihand(tmp_path_factory.mktemp("data") / "FreiHAND", "evaluation", make_scenes(COUNT))


@pytest.fixture(scope="module")
def ho3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ho3d(tmp_path_factory.mktemp("data") / "HO3D", 2, "evaluation", make_scenes(COUNT))


@pytest.fixture(scope="module")
def ho3d_v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ho3d(tmp_path_factory.mktemp("data") / "HO3D_v3", 3, "evaluation", make_scenes(COUNT))


@pytest.fixture(scope="module")
def mano(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A checkpoint with random weights on the fabricated MANO, whose card names a training set."""
    from handmim import HandMIMConfig, HandMIMForMeshEstimation, HandMIMImageProcessor

    folder = tmp_path_factory.mktemp("models")
    files = write_mano(folder / "mano")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = HandMIMForMeshEstimation(HandMIMConfig(**(TINY | {"hand_model": "mano"})), hand_model_path=str(files))
    model.save_pretrained(folder / "tiny-mano")
    HandMIMImageProcessor(size=64).save_pretrained(folder / "tiny-mano")
    (folder / "tiny-mano" / "README.md").write_text("---\ndatasets: [ho3d-v2]\n---\n# A card\n")
    return SimpleNamespace(model=folder / "tiny-mano", files=files)


def handmim(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def evaluate(*arguments: object) -> int:
    return handmim("evaluate", *arguments, "--device", "cpu", "--workers", 2)


def check_portable(report: dict, *folders: Path) -> None:
    """No absolute path of this machine, anywhere in a report."""
    text = json.dumps(report)
    for folder in (*folders, Path.cwd(), Path.home(), Path(sys.prefix)):
        if len(str(folder)) > 1:
            assert str(folder) not in text
    assert ': "/' not in text and '["/' not in text


@pytest.mark.parametrize(("name", "data"), [("freihand", "freihand"), ("ho3d-v2", "ho3d"), ("ho3d-v3", "ho3d_v3")])
def test_official_benchmarks(
    name: str,
    data: str,
    request: pytest.FixtureRequest,
    mano: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """A MANO model's report and submission; the submission alone gives the same official figures."""
    root, out = request.getfixturevalue(data), tmp_path / "out"
    options = ("--model", mano.model, "--hand-model-path", mano.files, "--data", root, "--out", out)
    assert evaluate(name, *options, "--report", tmp_path / "copy.json") == 0
    printed = capsys.readouterr().out
    assert "PA-MPVPE, mm" in printed and "trained on ho3d-v2" in printed and "wrote" in printed
    report = load(out / "report.json")
    assert report == load(tmp_path / "copy.json") and report["samples"] == COUNT
    assert report["model"]["name"] == "tiny-mano" and len(report["model"]["weights_checksum"]) == 64
    assert report["model"]["config"]["hand_model"] == "mano" and report["options"]["trained_on"] == ["ho3d-v2"]
    assert report["data"]["root_name"] == root.name and {"handmim", "torch", "python"} <= report["versions"].keys()
    assert report["command"] == f"handmim evaluate {name} --model tiny-mano --data {root.name} --device cpu"
    check_portable(report, tmp_path, root.parent, mano.model.parent)
    assert {"pa_mpjpe", "pa_mpvpe", "st_mpjpe", "f5", "f15", "mean_2d"} <= report["metrics"].keys()
    assert report["metrics"]["pa_mpjpe"]["value"] == pytest.approx(10 * official_value(report, "xyz"), rel=1e-9)
    with zipfile.ZipFile(out / "pred.zip") as archive:
        assert archive.namelist() == ["pred.json"] and archive.read("pred.json") == (out / "pred.json").read_bytes()
    assert Image.open(out / "curves.png").width > 800
    lines = (out / "samples.csv").read_text().splitlines()
    assert len(lines) == COUNT + 1 and lines[0].startswith("sample,pa_mpjpe,pa_mpvpe,")

    assert handmim("evaluate", name, "--pred", out / "pred.json", "--data", root, "--report", tmp_path / "p.json") == 0
    again = load(tmp_path / "p.json")
    assert again["model"] is None and again["submission"]["file"] == "pred.json"
    for key, value in report["official"].items():  # float32 predictions, written with nine digits
        assert again["official"][key] == pytest.approx(value, abs=1e-6), key
    assert again["data"]["labels_checksum"] == report["data"]["labels_checksum"]
    check_portable(again, tmp_path, root.parent)


def official_value(report: dict, name: str) -> float:
    """PA joint error of scores.txt, centimetres: each benchmark's script has its own name for it."""
    (key,) = {f"{name}_al_mean3d", f"{name}_procrustes_al_mean3d"} & report["official"].keys()
    return report["official"][key]


def test_exact_submission_scores_zero(freihand: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = [json.loads((freihand / f"evaluation_{key}.json").read_text()) for key in ("xyz", "verts")]
    (tmp_path / "pred.json").write_text(json.dumps(labels))
    arguments = ("freihand", "--pred", tmp_path / "pred.json", "--data", freihand, "--out", tmp_path / "out")
    assert handmim("evaluate", *arguments) == 0
    metrics = {name: entry["value"] for name, entry in load(tmp_path / "out" / "report.json")["metrics"].items()}
    assert metrics["pa_mpjpe"] < 1e-4 and metrics["abs_mpvpe"] == 0 and metrics["f5"] == 1
    assert metrics["st_mpjpe"] < 1e-9
    assert (tmp_path / "out" / "curves.png").is_file() and "F@5" in capsys.readouterr().out
    assert handmim("evaluate", *arguments[:5], "--limit", 2) == 0
    assert "first 2 samples" in capsys.readouterr().out


def test_an_open_hand_on_mano_labels_reports_joints_only(
    freihand: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate("freihand", "--model", tiny_checkpoint, "--data", freihand, "--out", tmp_path / "out") == 0
    report = load(tmp_path / "out" / "report.json")
    assert "meshes of different hand models" in report["omitted"]["vertices"]
    assert "pa_mpjpe" in report["metrics"] and not {"pa_mpvpe", "f5"} & report["metrics"].keys()
    assert report["official"]["mesh_al_mean3d"] < 0  # the official script's way of saying so
    assert not (tmp_path / "out" / "pred.json").exists() and "no submission file" in capsys.readouterr().out


def test_an_open_hand_needs_no_vertices(
    tiny_checkpoint: Path, mano: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The advice was meshes=False, which the command line does not have."""
    root = write_freihand(tmp_path / "FreiHAND", "evaluation", make_scenes(2))
    arguments = ("freihand", "--data", root, "--model")
    assert evaluate(*arguments, tiny_checkpoint, "--out", tmp_path / "with") == 0
    (root / "evaluation_verts.json").unlink()
    assert evaluate(*arguments, tiny_checkpoint, "--out", tmp_path / "without") == 0
    with_vertices, without = (load(tmp_path / name / "report.json") for name in ("with", "without"))
    assert without["metrics"] == with_vertices["metrics"] and without["official"] == with_vertices["official"]
    assert "labels_checksum" in with_vertices["data"] and "labels_checksum" not in without["data"]
    capsys.readouterr()
    assert evaluate(*arguments, mano.model, "--hand-model-path", mano.files, "--out", tmp_path / "mano") == 1
    assert "evaluation_verts.json is missing" in capsys.readouterr().err


def test_submissions_need_neither_torch_nor_transformers(freihand: Path, tmp_path: Path) -> None:
    labels = [json.loads((freihand / f"evaluation_{key}.json").read_text()) for key in ("xyz", "verts")]
    (tmp_path / "pred.json").write_text(json.dumps(labels))
    code = (
        "import sys; sys.argv[0] = 'handmim'\n"
        "from handmim.cli import main\n"
        f"files = [{str(tmp_path / 'pred.json')!r}, '--data', {str(freihand)!r}]\n"
        "code = main(['evaluate', 'freihand', '--pred', *files])\n"
        "loaded = {'torch', 'transformers', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'{loaded} loaded' if loaded else code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_real_photos_and_continuation(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_manifest(tmp_path, COUNT)
    arguments = ("real-photos", "--model", tiny_checkpoint, "--data", tmp_path, "--out", tmp_path / "out")
    assert evaluate(*arguments, "--trained-on", "synthetic hands") == 0
    printed = capsys.readouterr().out
    assert "mean hand" in printed and "film (2)" in printed and "tiny [trained on synthetic hands]" in printed
    report = load(tmp_path / "out" / "report.json")
    assert {"mask_iou", "pa_mpjpe", "auc_2d"} <= report["metrics"].keys() and set(report["groups"]) == {
        "camera",
        "film",
    }
    (baseline,) = report["baselines"].values()
    assert "pa_mpjpe" in baseline and "mpjpe" not in baseline
    check_portable(report, tmp_path, tiny_checkpoint.parent)

    def never(self: Predictor, crops: list) -> dict:
        raise AssertionError("predicted again")

    monkeypatch.setattr(Predictor, "__call__", never)
    assert evaluate(*arguments) == 0  # all chunks are there
    kept = load(tmp_path / "out" / "report.json")
    assert kept["metrics"] == report["metrics"] and kept["options"]["trained_on"] is None
    for change in (("--tta",), ("--limit", 3)):  # other options, other chunks
        with pytest.raises(AssertionError, match="predicted again"):
            evaluate(*arguments, *change)
    monkeypatch.undo()
    assert evaluate(*arguments, "--tta", "--limit", 3) == 0
    viewed = load(tmp_path / "out" / "report.json")
    assert len(viewed["options"]["tta"]["views"]) == 3 and viewed["samples"] == 3
    assert row_name(viewed) == "tiny [TTA; first 3 samples]"


def test_another_model_never_takes_kept_predictions(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_manifest(tmp_path, 2)
    other = tmp_path / "model"
    other.mkdir()
    for file in tiny_checkpoint.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    arguments = ("real-photos", "--model", other, "--data", tmp_path, "--out", tmp_path / "out")
    assert evaluate(*arguments) == 0
    first = load(tmp_path / "out" / "report.json")
    weights = load_file(other / "model.safetensors")
    weights["initial.output.bias"] += 0.1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert evaluate(*arguments) == 0
    second = load(tmp_path / "out" / "report.json")
    assert first["model"]["weights_checksum"] != second["model"]["weights_checksum"]
    assert first["metrics"] != second["metrics"] and len(list((tmp_path / "out" / "predictions").iterdir())) == 2


def test_other_pictures_never_take_kept_predictions(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Uncompressed pictures of one size have as many bytes: the figures of those before were given for them."""
    path = write_manifest(tmp_path, 2)
    manifest = json.loads(path.read_text())
    for row, entry in enumerate(manifest["samples"]):
        Image.open(tmp_path / entry["image"]).save(tmp_path / f"photo{row}.bmp")
        entry["image"] = f"photo{row}.bmp"
    path.write_text(json.dumps(manifest))
    arguments = ("real-photos", "--model", tiny_checkpoint, "--data", tmp_path, "--out", tmp_path / "out")
    assert evaluate(*arguments) == 0
    first = load(tmp_path / "out" / "report.json")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo0.bmp")
    assert evaluate(*arguments) == 0
    second = load(tmp_path / "out" / "report.json")
    assert first["data"] == second["data"] and first["metrics"] != second["metrics"]


def test_a_reader_of_the_same_hand_model(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vertices, masks, joints and notes of a data set that labels the open hand."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(
        "handmim.evaluation.runner.open_reader", lambda chosen, root, split, **_: SyntheticReader(root, count=3)
    )
    arguments = ("rhd", "--model", tiny_checkpoint, "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert evaluate(*arguments) == 0
    report = load(tmp_path / "out" / "report.json")
    assert {"pa_mpvpe", "mpvpe", "f5", "mask_iou"} <= report["metrics"].keys() and not report["omitted"]
    assert report["curves"]["pck_3d"]["thresholds"][0] == 20 and "20-50 mm" in report["protocol"]
    assert report["notes"] == ["drawn below data", "3 of 3 samples have no box: it is made of their labels"]


def miniature(name: str, root: Path) -> None:
    """A data set of two or more hands in its official layout."""
    write = import_module(f"fabricate_datasets.{name.replace('-', '_')}")
    left = make_scenes(2, seed=31, size=(240, 240), side="left")
    scenes = make_scenes(2, seed=5, size=(320, 320))
    if name == "folder":
        write.write_folder(root)
    elif name in ("ge", "dexter-object"):
        write.write(root, left)
    elif name == "stb":
        write.write(root, left, ["B1Counting", "B1Random"])
    elif name == "hiu-data":
        write.write(root, scenes, [0, 1])
    elif name == "panoptic":
        write.write(root, scenes)
    else:
        write.write(root, scenes, {"rhd": "evaluation", "youtube3d": "test", "coco-wholebody": "val"}[name])


OWN = {
    "ge": {"pa_mpjpe", "auc_2d"}, "dexter-object": {"mpjpe"}, "stb": {"pa_mpjpe", "st_auc_3d"},
    "hiu-data": {"auc_2d", "mask_iou"}, "panoptic": {"auc_2d"}, "rhd": {"pa_mpjpe", "mask_iou"},
    "youtube3d": {"pa_mpjpe"}, "coco-wholebody": {"auc_2d_30px", "pck_2d_20", "epe_px"}, "folder": {"auc_2d"},
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_the_other_benchmarks(name: str, tiny_checkpoint: Path, mano: SimpleNamespace, tmp_path: Path) -> None:
    """Every reader's labels can be measured by name alone, in the split that figures are about."""
    miniature(name, tmp_path / "data")
    arguments = (name, "--model", tiny_checkpoint, "--data", tmp_path / "data", "--out", tmp_path / "out")
    # Labels of YouTube 3D Hands need MANO whatever the model; two hands are too few for HIU-Data's test split.
    extra = {"youtube3d": ("--hand-model-path", mano.files), "hiu-data": ("--split", "all")}.get(name, ())
    assert evaluate(*arguments, *extra) == 0
    report = load(tmp_path / "out" / "report.json")
    assert OWN[name] <= report["metrics"].keys(), report["metrics"].keys()
    assert report["split"] in ("test", "evaluation", "val", "manual_test", "labels", "all") and report["curves"]
    check_portable(report, tmp_path, tiny_checkpoint.parent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nosuch", "--model", "m", "--data", "."], "BENCHMARK must be one of freihand"),
     (["rhd", "--pred", "p.json", "--data", "."], "--pred scores submissions to freihand, ho3d-v2, ho3d-v3"),
     (["freihand", "--pred", "p.json", "--data", ".", "--tta"], "--tta needs --model"),
     (["freihand", "--pred", "p.json", "--data", ".", "--revision", "v1"], "--revision needs --model"),
     (["freihand", "--data", "."], "--model --pred"), (["freihand", "--model", "m"], "--data"),
     (["freihand", "--model", "m", "--pred", "p", "--data", "."], "not allowed"),
     (["freihand", "--model", "m", "--data", ".", "--limit", "0"], "--limit")],
)  # fmt: skip
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        handmim("evaluate", *arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_revision_is_named_in_command_and_folder() -> None:
    arguments = ["evaluate", "rhd", "--model", "org/name", "--data", "RHD"]
    newest, pinned = (build_parser().parse_args(arguments + more) for more in ([], ["--revision", "refs/pr/1"]))
    assert output_folder(newest) == Path("rhd-name") and output_folder(pinned) == Path("rhd-name-refs-pr-1")
    assert command(pinned) == "handmim evaluate rhd --model org/name --data RHD --revision refs/pr/1"
    assert "--revision" not in command(newest)


def test_two_runs_have_two_folders(tmp_path: Path) -> None:
    """The second one's report replaced the first one's."""
    arguments = ["evaluate", "rhd", "--data", "RHD", "--model"]
    first, second = (build_parser().parse_args([*arguments, str(tmp_path / run / "release")]) for run in "ab")
    assert output_folder(first) == Path("rhd-a-release") and output_folder(second) == Path("rhd-b-release")
    assert command(first) == "handmim evaluate rhd --model a/release --data RHD"


def test_two_folders_of_data_have_two_folders(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report on the second one's pictures replaced that on the first one's."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, count)
        assert evaluate("real-photos", "--model", tiny_checkpoint, "--data", tmp_path / name) == 0
    assert [load(tmp_path / f"real-photos-{name}-tiny" / "report.json")["samples"] for name in "ab"] == [2, 3]
    arguments = ["evaluate", "folder", "--model", "org/name", "--split", "val", "--data"]
    assert output_folder(build_parser().parse_args([*arguments, "mine"])) == Path("folder-mine-val-name")
    args = build_parser().parse_args(["evaluate", "real-photos", "--model", "m", "--data", "a/manifest.json"])
    assert output_folder(args) == Path("real-photos-a-m")


def test_a_report_of_other_data_is_not_replaced(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """It was lost, with its figures of each sample and its curves."""
    out = tmp_path / "out"
    for name, changes in (("a", {}), ("b", {"handedness": "left"})):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, 2, **changes)
    arguments = ("real-photos", "--model", tiny_checkpoint, "--out", out, "--data")
    assert evaluate(*arguments, tmp_path / "a", "--limit", 1) == 0
    assert evaluate(*arguments, tmp_path / "a" / "manifest.json") == 0  # the same data, and more of it
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    monkeypatch.setattr(Predictor, "__call__", lambda *_: pytest.fail("predicted"))
    for more in ((tmp_path / "b",), (tmp_path / "b", "--limit", 1), (tmp_path / "a", "--split", "dev")):
        capsys.readouterr()
        assert evaluate(*arguments, *more) == 1
        error = capsys.readouterr().err
        assert "report.json is about other data (real-photos, split 'all', of a folder 'a')" in error, error
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    (out / "report.json").write_text("{}")
    assert evaluate(*arguments, tmp_path / "a") == 1
    assert "move it away or give another --out" in capsys.readouterr().err


def test_a_submission_replaces_only_reports_of_submissions_on_its_labels(
    freihand: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """In one folder a model's report and those of submissions to two data sets replaced each other in turn."""
    out, other, pred = tmp_path / "out", tmp_path / "FreiHAND", tmp_path / "pred.json"
    other.mkdir()
    labels = {key: json.loads((freihand / f"evaluation_{key}.json").read_text()) for key in ("xyz", "verts")}
    pred.write_text(json.dumps(list(labels.values())))
    for key, values in labels.items():
        (other / f"evaluation_{key}.json").write_text(json.dumps(values[::-1]))
    submission = ("freihand", "--pred", pred, "--out", out, "--data")
    model = ("freihand", "--model", tiny_checkpoint, "--out", out, "--data", freihand)
    assert handmim("evaluate", *submission, freihand, "--limit", 2) == 0
    assert handmim("evaluate", *submission, freihand) == 0  # the same labels, and more of them
    for arguments, message in (
        ((*submission, other), "other data (freihand, split 'evaluation', of a folder 'FreiHAND')"),
        (model, "report.json is about a submission, not a model, and would be lost; give another --out"),
    ):
        before = (out / "report.json").read_bytes()
        capsys.readouterr()
        assert evaluate(*arguments) == 1
        assert message in capsys.readouterr().err and (out / "report.json").read_bytes() == before
    (out / "report.json").unlink()
    assert evaluate(*model) == 0
    assert handmim("evaluate", *submission, freihand) == 1
    assert "is about a model, not a submission" in capsys.readouterr().err


def test_an_old_report_without_a_check_sum_is_replaced_by_its_repetition_only(
    freihand: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pred, out = tmp_path / "pred.json", tmp_path / "out"
    labels = [json.loads((freihand / f"evaluation_{key}.json").read_text()) for key in ("xyz", "verts")]
    pred.write_text(json.dumps(labels))
    arguments = ("evaluate", "freihand", "--pred", pred, "--data", freihand, "--out", out)
    for entry, changed, code in (("root_name", freihand.name, 0), ("root_name", "elsewhere", 1), ("samples", 3, 1)):
        (out / "report.json").unlink(missing_ok=True)
        assert handmim(*arguments) == 0
        old = load(out / "report.json")
        del old["data"]["labels_checksum"]
        (old if entry == "samples" else old["data"])[entry] = changed
        (out / "report.json").write_text(json.dumps(old))
        capsys.readouterr()
        assert handmim(*arguments) == code, (entry, changed)
        assert ("other data" in capsys.readouterr().err) == bool(code)


def test_places_are_looked_at_before_anything_is_measured(
    freihand: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A --report that could not be written lost the folder's report, too, after hours of predictions."""
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "report.json").mkdir(parents=True)
    cases = [
        (("--report", tmp_path), f"--report: {tmp_path} cannot be written: it is a folder; name another place"),
        (("--report", tmp_path / "file" / "r.json"), f"{tmp_path / 'file'} is no folder"),
        (("--out", tmp_path / "file" / "deep" / "out"), f"{tmp_path / 'file'} is no folder"),
        (("--out", tmp_path / "taken"), "report.json cannot be written: it is a folder"),
    ]
    if Path("/dev/null").exists():
        cases.append((("--report", "/dev/null"), "it is a device or a pipe"))
    for source in (("--model", "no-such-model"), ("--pred", tmp_path / "gone.json")):
        for places, message in cases:
            assert handmim("evaluate", "freihand", *source, "--data", freihand, *places) == 1
            assert message in capsys.readouterr().err


def test_the_report_of_the_folder_is_written_first(tmp_path: Path) -> None:
    report = {"format": "handmim evaluation report 1"}
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError):
        write(report, (["a"], {}), tmp_path / "out", tmp_path / "folder")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report


def test_other_crops_and_another_fit_are_named_everywhere() -> None:
    """Figures with and without the fit went into the same folder, under the same name and command."""
    arguments = ["evaluate", "rhd", "--model", "org/name", "--data", "RHD", "--fit-steps", "0", "--limit", "2"]
    args = build_parser().parse_args([*arguments, "--image-size", "96"])
    assert output_folder(args) == Path("rhd-name-96px-fit0-first2")
    assert "--image-size 96 --fit-steps 0" in command(args)
    report = {"model": {"name": "name"}, "options": {"image_size": 96, "fit_steps": 0, "limit": 2}, "samples": 2}
    assert row_name(report) == "name [96 px; 0 fit steps; first 2 samples]"
    assert marks(report) == ["96 px", "0 fit steps", "first 2 samples"]


def test_what_is_missing_is_named(freihand: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cases = [
        (
            ("freihand", "--model", "embedded", "--data", tmp_path / "gone"),
            "gone, the root of freihand, is not",
        ),
        (("freihand", "--model", "embedded", "--data", tmp_path), "is missing"),
        (("freihand", "--pred", tmp_path / "p.json", "--data", freihand), "p.json, a submission file, is missing"),
        (("freihand", "--pred", tmp_path / "p.json", "--data", tmp_path), "evaluation_xyz.json is missing"),
        (("freihand", "--pred", tmp_path / "p.json", "--data", freihand, "--split", "training"), "'training'"),
        (("real-photos", "--model", "embedded", "--data", tmp_path), "manifest.json is missing"),
    ]
    for arguments, message in cases:
        assert handmim("evaluate", *arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.startswith("handmim: error: ") and error.count("\n") == 1, error
    truth = np.array(json.loads((freihand / "evaluation_xyz.json").read_text()))
    (tmp_path / "p.json").write_text(json.dumps([truth[:2].tolist(), truth[:2].tolist()]))
    assert handmim("evaluate", "freihand", "--pred", tmp_path / "p.json", "--data", freihand) == 1
    assert "4 samples" in capsys.readouterr().err


def test_compare(freihand: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = [json.loads((freihand / f"evaluation_{key}.json").read_text()) for key in ("xyz", "verts")]
    (tmp_path / "pred.json").write_text(json.dumps(labels))
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    assert (
        handmim("evaluate", "freihand", "--pred", tmp_path / "pred.json", "--data", freihand, "--report", paths[0]) == 0
    )
    options = ("--model", tiny_checkpoint, "--data", freihand, "--out", tmp_path / "out", "--report", paths[1])
    assert evaluate("freihand", *options) == 0
    capsys.readouterr()
    plot = tmp_path / "plots" / "both.png"
    assert handmim("compare", *paths, "--published", "--plot", plot) == 0
    printed = capsys.readouterr().out
    assert "HandMIM-Large [published: HandMIM table 1]" in printed and "mean hand" in printed
    assert "pred.json" in printed and "tiny: vertices not measured" in printed
    assert Image.open(plot).width > 800
    assert handmim("compare", paths[0], tmp_path / "pred.json") == 1
    assert "pred.json is not a report" in capsys.readouterr().err
