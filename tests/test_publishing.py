"""What a published repository holds, and everything that must not be in it."""

import fnmatch
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fabricate_mano import fabricate, write_pickle
from hub_server import HubServer, run_with_hub
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from handmim import HandMIMConfig, HandMIMForMeshEstimation
from handmim.checkpoint_safety import UnsafeUploadError, _path_in, check_folder
from handmim.cli import main
from handmim.errors import HandMIMError
from handmim.hand_arrays import _runs, _spreads, hand_array_in, known_arrays, known_shapes
from handmim.mano_installation import install_mano
from handmim.model_card import collect_facts
from handmim.publishing import NEVER, PublishError, build_folder, find_checkpoint, publish

REPOSITORY = Path(__file__).parents[1]
NAMES = {"README.md", "LICENSE", "config.json", "model.safetensors", "preprocessor_config.json"}
HAND = {"open_hand.safetensors", "open_hand_provenance.md"}


@pytest.fixture()
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The released model of a run, to be spoilt."""
    folder = tmp_path / "run" / "release"
    shutil.copytree(tiny_checkpoint, folder)
    return folder


def published(checkpoint: Path, **options: object) -> Path:
    """The folder of a dry run."""
    out = checkpoint.parents[1] / "out"
    return publish(checkpoint, "org/tiny", licence="Apache-2.0", dry_run=out, **options)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def add_tensor(checkpoint: Path, name: str, value: torch.Tensor) -> None:
    path = checkpoint / "model.safetensors"
    save_file(load_file(path) | {name: value.contiguous()}, path, metadata={"format": "pt"})


# -- what is in it


def test_the_folder_is_whole(checkpoint: Path) -> None:
    out = published(checkpoint)
    code = {name for name in names(out) if name.endswith(".py")}
    assert names(out) - code == NAMES | HAND
    assert {"hub_classes.py", "modeling_handmim.py", "pipeline_hand_mesh.py", "detection.py"} <= code
    assert not {"publishing.py", "modeling_hiu_dmtl.py", "hand.py"} & code
    assert (out / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert (out / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()
    config = json.loads((out / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "hub_classes.HandMIMForMeshEstimation"
    assert config["custom_pipelines"]["hand-mesh-estimation"]["impl"] == "hub_classes.HandMeshPipeline"
    card = (out / "README.md").read_text()
    assert card.startswith("---\n") and "license: apache-2.0" in card and "trust_remote_code" in card


def test_the_weights_come_back(checkpoint: Path) -> None:
    sent = HandMIMForMeshEstimation.from_pretrained(checkpoint).eval()
    back = HandMIMForMeshEstimation.from_pretrained(published(checkpoint)).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(sent(pixels).vertices, back(pixels).vertices)


def test_without_code(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", auto_map={"AutoModel": "other/repo--a.B"}, custom_pipelines={"x": {}})
    out = published(checkpoint, carry_code=False)
    assert names(out) == NAMES
    config = json.loads((out / "config.json").read_text())
    assert "auto_map" not in config and "custom_pipelines" not in config
    assert "auto_map" not in (out / "preprocessor_config.json").read_text()
    assert "trust_remote_code" not in (out / "README.md").read_text()


def test_other_licences_are_for_the_weights_only(checkpoint: Path) -> None:
    out = publish(checkpoint, "org/tiny", licence="CC-BY-NC-4.0", dry_run=checkpoint.parents[1] / "out")
    assert {"LICENSE-code"} == {name for name in names(out) if "LICENSE" in name}
    assert "license: cc-by-nc-4.0" in (out / "README.md").read_text()


def test_shards_stay_shards(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = HandMIMForMeshEstimation.from_pretrained(tiny_checkpoint)
    model.save_pretrained(tmp_path / "a" / "b", max_shard_size="300KB")
    out = published(tmp_path / "a" / "b")
    shards = {name for name in names(out) if name.startswith("model-")}
    assert len(shards) > 1 and "model.safetensors.index.json" in names(out) and "model.safetensors" not in names(out)
    again = HandMIMForMeshEstimation.from_pretrained(out).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    (tmp_path / "a" / "b" / sorted(shards)[0]).unlink()
    with pytest.raises(HandMIMError, match=sorted(shards)[0]):
        publish(tmp_path / "a" / "b", "org/tiny", licence="MIT", dry_run=tmp_path / "other")


def test_a_recipe_loses_the_places_of_its_machine(checkpoint: Path) -> None:
    recipe = {"name": "mine", "data": [{"name": "freihand", "root": "/srv/people/anna/FreiHAND"}], "training": {}}
    recipe["photos"] = {
        "name": "folder",
        "root": "../../secret/customer/photos",
        "more": "..\\secret\\b",
        "up": "../..",
    }
    recipe["model"] = {"checkpoint": "../anna/base/release"}
    (checkpoint.parent / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = published(checkpoint)
    found = yaml.safe_load((out / "recipe.yaml").read_text())
    assert found["data"][0]["name"] == "freihand" and "anna" not in (out / "recipe.yaml").read_text()
    assert found["photos"] == {"name": "folder", "root": "photos", "more": "b", "up": ""}
    assert found["model"]["checkpoint"] == "release" and "secret" not in (out / "recipe.yaml").read_text()
    assert not {"anna", "secret"} & set(re.findall(r"\w+", (out / "README.md").read_text()))


def test_what_a_trainer_keeps_for_itself_stays(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_1.pth", "training_args.bin")
    for name in kept:
        torch.save({"step": 1}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text('{"logs": "/home/anna/runs"}')
    options = ["--licence", "MIT", "--dry-run", str(checkpoint.parents[1] / "out")]
    assert main(["publish", str(checkpoint), "org/tiny", *options]) == 0
    told = capsys.readouterr().out
    assert all(name in told.splitlines()[0] for name in (*kept, "trainer_state.json"))
    assert "model.safetensors" in told and "README.md" in told and "nothing was uploaded" in told
    assert not names(checkpoint.parents[1] / "out") & {*kept, "trainer_state.json"}


def test_a_checkpoint_without_processor_gets_one(checkpoint: Path) -> None:
    (checkpoint / "preprocessor_config.json").unlink()
    values = json.loads((published(checkpoint) / "preprocessor_config.json").read_text())
    assert values["size"] == {"height": 64, "width": 64} and "HandMIMImageProcessor" in values["auto_map"].popitem()[1]


def test_publishing_marks_no_class_and_the_client_leaves_nothing_behind(checkpoint: Path) -> None:
    out = published(checkpoint)
    assert HandMIMForMeshEstimation._auto_class is None and HandMIMConfig._auto_class is None
    assert not [name for name in names(out) for pattern in NEVER if fnmatch.fnmatch(name, pattern)]


def test_the_licence_of_the_zoo_is_for_its_own_networks(checkpoint: Path, tmp_path: Path) -> None:
    """A repository's name alone made somebody's weights somebody else's."""
    packaged = shutil.copytree(find_checkpoint("handmim-tiny-open"), tmp_path / "copy")
    assert collect_facts(packaged, repo_id="org/handmim-tiny-open").licence == "Apache-2.0"
    assert collect_facts(find_checkpoint("handmim-tiny-open"), repo_id="me/mine").licence == "Apache-2.0"
    for name in ("handmim-base-freihand", "handmim-tiny-open", "my-hand"):
        assert collect_facts(checkpoint, repo_id=f"me/{name}").licence == ""
        with pytest.raises(PublishError, match="--licence"):
            publish(checkpoint, f"me/{name}", dry_run=tmp_path / "out")
    change_json(packaged / "config.json", hand_model="mano")
    assert collect_facts(packaged, repo_id="org/handmim-tiny-open").licence == ""
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_the_package_are_known_under_any_name() -> None:
    for name in ("hiu-dmtl-tiny-open", "hand-detector-tiny-open"):
        folder = find_checkpoint(name)
        assert folder.is_dir() and collect_facts(folder, repo_id="me/mine").licence == "Apache-2.0"


# -- what must not be in it


def spoil_key(checkpoint: Path) -> None:
    add_tensor(checkpoint, "hand_model.rest_base", torch.randn(7))


def spoil_shape(checkpoint: Path) -> None:
    add_tensor(checkpoint, "decoder.weight", torch.randn(3, 778))


def spoil_value(checkpoint: Path) -> None:
    hidden = torch.from_numpy(np.array(known_arrays()["open template"])).half().flatten()
    add_tensor(checkpoint, "decoder.weight", torch.cat([torch.randn(100).half(), hidden]).view(-1, 1))


def spoil_scaled(checkpoint: Path) -> None:
    millimetres = -1000 * torch.from_numpy(np.array(known_arrays()["open template"]))
    add_tensor(checkpoint, "decoder.weight", millimetres.flatten()[torch.randperm(millimetres.numel())].view(17, -1))


def spoil_nan(checkpoint: Path) -> None:
    name = "initial.correction.weight"
    value = load_file(checkpoint / "model.safetensors")
    name = name if name in value else sorted(value)[0]
    add_tensor(checkpoint, name, torch.full_like(value[name], torch.nan))


def spoil_config_numbers(checkpoint: Path) -> None:
    numbers = known_arrays()["open template"][400:1000].round(6).tolist()
    change_json(checkpoint / "config.json", mean_hand=numbers)


def spoil_config_path(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", pretrained={"from": ["/opt/weights/mae.pth"]})


def spoil_home(checkpoint: Path) -> None:
    change_json(checkpoint / "preprocessor_config.json", note=f"made in {Path.home()}")


def spoil_metadata(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "source": "/home/anna/runs/1"})


def spoil_npz(checkpoint: Path) -> None:
    np.savez(checkpoint / "hands.npz", a=np.zeros(3))


def spoil_pickle(checkpoint: Path) -> None:
    (checkpoint / "notes.md").write_bytes(pickle.dumps({"a": 1}))


def spoil_mano(checkpoint: Path) -> None:
    (checkpoint / "MANO_RIGHT.md").write_text("x")


def spoil_bin(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")


def spoil_truncated(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def spoil_missing(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    del tensors["score.bias"]
    save_file(tensors, path, metadata={"format": "pt"})


def spoil_extra(checkpoint: Path) -> None:
    add_tensor(checkpoint, "decoder.weight", torch.randn(5, 3))


def spoil_other_shape(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", hidden_size=128)


def spoil_kind(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", model_type="vit", architectures=["ViTModel"])


def spoil_json(checkpoint: Path) -> None:
    (checkpoint / "preprocessor_config.json").write_text("[1, 2")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_key, r"model.safetensors: hand_model.rest_base has the name"),
        (spoil_shape, r"model.safetensors: decoder.weight has the shape of 'MANO template'"),
        (spoil_value, r"model.safetensors: decoder.weight holds the hand model's array 'open template'"),
        (spoil_scaled, r"model.safetensors: decoder.weight holds the hand model's array 'open template'"),
        (spoil_nan, r"model.safetensors: .* no numbers"),
        (spoil_config_numbers, r"config.json: its numbers are the hand model's array 'open template'"),
        (spoil_config_path, r"config.json: pretrained.from\[0\] holds a path .*/opt/weights"),
        (spoil_home, r"preprocessor_config.json: note holds a path"),
        (spoil_metadata, r"model.safetensors: its metadata holds a path"),
        (spoil_npz, r"hands.npz is an archive"),
        (spoil_pickle, r"notes.md is a pickle"),
        (spoil_mano, r"MANO_RIGHT.md is named like MANO's licensed files"),
        (spoil_bin, r"no model.safetensors but pytorch_model.bin"),
        (spoil_truncated, r"weights .* damaged"),
        (spoil_missing, r"lack tensors of .* score.bias"),
        (spoil_extra, r"have tensors beside .* 1 in all, such as decoder.weight"),
        (spoil_other_shape, r"have other shapes than a HandMIMForMeshEstimation"),
        (spoil_kind, r"model_type 'vit'"),
        (spoil_json, r"preprocessor_config.json cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refused_by_name(checkpoint: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(checkpoint)
    with pytest.raises(HandMIMError, match=message):
        published(checkpoint)
    left = {path.name for path in checkpoint.parents[1].iterdir()}
    assert left == {"run"}, "an upload that is refused leaves nothing behind"


def test_a_snapshot_of_the_cache_is_published_as_files(checkpoint: Path) -> None:
    """The Hub's cache holds links to its blobs; a folder to upload holds none."""
    blob = checkpoint.parent / "blob"
    (checkpoint / "model.safetensors").rename(blob)
    (checkpoint / "model.safetensors").symlink_to(blob)
    out = published(checkpoint)
    assert not (out / "model.safetensors").is_symlink()
    (out / "more.json").symlink_to(out / "config.json")
    with pytest.raises(UnsafeUploadError, match="more.json is a link"):
        check_folder(out)


def test_notes_with_a_path_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    notes = tmp_path / "run" / "notes.md"
    notes.write_text("A hand model.\n\n## training\n\nTrained from /home/anna/data/hands on one GPU.\n")
    with pytest.raises(UnsafeUploadError, match=r"README.md: line \d+ holds a path or name .*/home/anna"):
        published(checkpoint, notes=notes)


@pytest.mark.parametrize(
    "text",
    [
        "read from /gpfs/anna/freihand on",
        "(/nfs/anna/x)",
        "`/cluster/home/anna/x`",
        "/home2/anna",
        "*/lustre/anna/hands*",
        "see ~/projects/kunde, 2 GB",
        "of ~anna/data/hands",
        "rsync host:/gpfs/anna/x .",
        "--data=/gpfs/anna/x </gpfs/anna>",
        "</gpfs/anna/x>",
        r"on \\server\anna\x",
        r"`\\\\server\\anna`",
        "/home/jörg",
        "[x](/home/anna/x)",
        "C:/Users/anna",
        "/c/Users/anna",
    ],
)
def test_paths_of_a_machine_are_seen(text: str) -> None:
    assert _path_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.org/work/anna/x and <https://example.org/home/anna>, http://localhost:8080/a/b/c",
        "[the paper](https://arxiv.org/abs/2307.16061v1) [a model](/org/model/x)",
        "</details> <br/> <summary>a</summary></details>",
        "a/b, and/or, 3/4, N/A, km/h, m/s /m/s, 2026/11/30, 30/11/2026, train/val/test, Hände/Köpfe/Füße",
        "runs/mine/release, ./a/b/c, ../report.json, runs/*/freihand/report.json, **/report.json",
        r"$\frac{a}/b/c$, \(x/y/z\), (a+b)/cc/dd, x \\ y \\\hline\hline \alpha\beta, $\left[0\right]/ab/cd$",
        "#!/usr/bin/env python, /dev/null, /path/to/freihand/images, ~/.cache/huggingface, GET /api/models/x",
        "~5/10/20 of them, ~~a/b/c~~, ~/data, left/right/",
        "org/handmim-base@refs/pr/1, git@github.com:org/name/x.git, s3://bucket/a/b",
    ],
)
def test_ordinary_words_with_slashes_are_no_paths(text: str) -> None:
    assert _path_in(text) is None


def test_pictures_lose_what_the_camera_wrote(checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x013B] = "Anna Example"
    Image.new("RGB", (8, 8)).save(tmp_path / "run" / "hand.jpg", exif=exif)
    notes = tmp_path / "run" / "notes.md"
    notes.write_text("![hand](hand.jpg)\n")
    out = published(checkpoint, notes=notes)
    assert b"Anna" not in (out / "hand.jpg").read_bytes() and Image.open(out / "hand.jpg").size == (8, 8)
    (tmp_path / "run" / "hand.jpg").write_bytes(b"GIF89a")
    with pytest.raises(PublishError, match=r"hand.jpg cannot be published \(it is no JPEG, PNG or WebP"):
        publish(checkpoint, "org/tiny", licence="MIT", notes=notes, dry_run=tmp_path / "again")


@pytest.fixture()
def mano(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, np.ndarray]:
    """An installed (fabricated) MANO with another number of vertices, so that no shape gives it away."""
    monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path / "cache"))
    model = fabricate(num_vertices=400, num_faces=700)
    install_mano(write_pickle(tmp_path / "MANO_RIGHT.pkl", model))
    caches = (known_arrays, known_shapes, _runs, _spreads)
    for cached in caches:
        cached.cache_clear()
    yield model
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("name", ["shapedirs", "posedirs", "hands_components", "v_template"])
def test_the_users_mano_is_recognised_by_its_values(checkpoint: Path, mano: dict, name: str) -> None:
    value = torch.from_numpy(np.array(mano[name], np.float64))[..., :135]
    flat = value.movedim(-1, 0).flatten().bfloat16()
    add_tensor(checkpoint, "rectifiers.extra", torch.cat([torch.randn(10).bfloat16(), flat])[None])
    with pytest.raises(UnsafeUploadError, match=r"rectifiers.extra holds the hand model's array 'MANO right"):
        published(checkpoint)


def test_random_weights_are_no_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((1649, 9), (400, 400), (4947, 4), (2334,)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            weights = (0.02 * torch.randn(*shape, generator=generator)).to(dtype).float()
            assert hand_array_in(weights.numpy()) is None
    assert hand_array_in(np.zeros((1649, 3))) is None and hand_array_in(np.ones(4947)) is None


def test_a_folder_of_the_users_is_not_touched(checkpoint: Path) -> None:
    out = checkpoint.parents[1] / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(PublishError, match="holds something"):
        build_folder(checkpoint, out, facts=None)
    assert names(out) == {"mine.txt"}


def test_no_folder_and_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(tmp_path / "none"), "org/x", "--dry-run"]) == 1
    assert "is no folder" in capsys.readouterr().err
    for name in ("my hand", "alone", "me/..", "../me", "me/.", "a/b/c"):
        assert main(["publish", "handmim-tiny-open", name, "--dry-run"]) == 1
        assert "ORGANISATION/NAME" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["me/..", "..", "me/.", "a/b/c", "", "me/"])
def test_a_push_goes_nowhere_but_into_its_own_folder(
    name: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "me/.." wrote the model into the system's temporary folder itself."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(PublishError, match="ORGANISATION/NAME"):
        HandMIMForMeshEstimation.from_pretrained(tiny_checkpoint).push_to_hub(name)
    assert not list((tmp_path / "temporary").iterdir())


# -- reports and cards

REPORT = REPOSITORY / "model_cards" / "sources" / "handmim-tiny-open" / "real-photos-dev.json"

WITH_REPORTS = """
import sys
from handmim.cli import main
from huggingface_hub import HfApi

report, notes = sys.argv[1:]
mine = b"---\\nlicense: apache-2.0\\n---\\nmine"
publish = ["publish", "handmim-tiny-open", "org/reported", "--licence", "Apache-2.0"]
assert main([*publish, "--no-code"]) == 0
HfApi().upload_file(path_or_fileobj=mine, path_in_repo="README.md", repo_id="org/reported")
assert main([*publish, "--no-code"]) == 0
kept = HfApi().hf_hub_download("org/reported", "README.md")
assert open(kept, "rb").read() == mine, "a card that is there stays"
assert main([*publish, "--report", report, "--notes", notes]) == 0
assert main([*publish, "--report", report, "--revision", "v2"]) == 0
"""


def test_reports_travel_with_the_card_that_shows_them(hub: HubServer, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("## Limits\n\nSmall hands are guessed.\n")
    done = run_with_hub(hub, WITH_REPORTS, REPORT, notes, cache=tmp_path / "cache")
    files = hub.repos["org/reported"].files
    card, value = files["README.md"].decode(), json.loads(REPORT.read_text())["metrics"]["pa_mpjpe"]["value"]
    assert "model-index" in card and f"{value:.2f}" in card and "Small hands are guessed" in card
    assert [name for name in files if name.startswith("evaluation/")] == ["evaluation/real-photos-dev.json"]
    assert json.loads(files["evaluation/real-photos-dev.json"]) == json.loads(REPORT.read_text())
    assert HAND <= files.keys() and not hub.unknown
    assert done.stdout.splitlines()[-1].endswith("/org/reported/tree/v2")
    branch = hub.repos["org/reported"].find("v2").files
    assert b"blob/v2/evaluation/real-photos-dev.json" in branch["README.md"].content and "blob/main/evaluation" in card


def test_a_report_of_other_weights_is_refused(checkpoint: Path) -> None:
    with pytest.raises(HandMIMError, match="of another model: its parameters is"):
        published(checkpoint, reports=[REPORT])
    with pytest.raises(HandMIMError, match="is not a report of handmim evaluate"):
        published(checkpoint, reports=[checkpoint / "config.json"])


REPUBLISHED = """
import sys
from handmim.cli import main
from huggingface_hub import HfApi

report, other = sys.argv[1:]
first = ["publish", "handmim-tiny-open", "org/hand", "--licence", "Apache-2.0"]
second = ["publish", other, "org/hand", "--licence", "CC-BY-NC-4.0", "--dataset", "freihand"]
api = HfApi()
for name in ("geometry.py", "README.md"):
    api.create_repo("org/own", exist_ok=True)
    api.upload_file(path_or_fileobj=b"# mine", path_in_repo=name, repo_id="org/own")
assert main([*second[:2], "org/own", *second[3:], "--no-code"]) == 1
assert main([*second[:2], "org/own", *second[3:], "--no-code", "--notes", other + "/../notes.md"]) == 0
assert main([*first, "--report", report]) == 0
assert main(first) == 0
api.create_tag("org/hand", tag="first")
assert main([*second, "--no-code"]) == 0
api.create_tag("org/hand", tag="second")
api.upload_file(path_or_fileobj=b"# mine", path_in_repo="README.md", repo_id="org/hand")
assert main(first) == 1
assert main([*second, "--licence", "MIT"]) == 1
"""


def test_other_weights_do_not_keep_card_figures_licence_and_code(
    hub: HubServer, checkpoint: Path, tmp_path: Path
) -> None:
    """All of it stayed, in silence, on the weights of another checkpoint."""
    (checkpoint.parent / "notes.md").write_text("## limits\n\nMany.\n")
    done = run_with_hub(hub, REPUBLISHED, REPORT, checkpoint, cache=tmp_path / "cache")
    first, second = (hub.repos["org/hand"].find(hub.repos["org/hand"].tags[tag]).files for tag in ("first", "second"))
    assert "evaluation/real-photos-dev.json" in first and b"model-index" in first["README.md"].content, "same weights"
    assert second.keys() == NAMES - {"LICENSE"}
    text = second["README.md"].content.decode()
    assert "license: cc-by-nc-4.0" in text and "trained-on-freihand" in text and "Not evaluated yet" in text
    assert hub.repos["org/hand"].files["README.md"] == b"# mine" and len(hub.repos["org/hand"].history("main")) == 4
    assert done.stderr.count("belongs to other weights") == 1 and done.stderr.count("says another licence") == 2
    assert (
        hub.repos["org/own"].files["geometry.py"] == b"# mine" and b"Many." in hub.repos["org/own"].files["README.md"]
    )
    assert not hub.unknown


# -- push_to_hub

PUSHES = """
import sys, torch
import handmim
from handmim import HandMIMConfig, HandMIMForMeshEstimation, HandMIMImageProcessor
from handmim.publishing import PublishError
from huggingface_hub import HfApi
from transformers import pipeline

folder = sys.argv[1]
model = HandMIMForMeshEstimation.from_pretrained(folder)
model.push_to_hub("org/model", max_shard_size="300KB")
model.push_to_hub("org/model", licence="MIT", datasets=["freihand"])
HfApi().upload_file(path_or_fileobj=b"---\\nlicense: mit\\n---\\nmine", path_in_repo="README.md", repo_id="org/model")
model.push_to_hub("org/model", commit_message="again", revision="next", carry_code=False)
model.push_to_hub("org/model")
HandMIMImageProcessor(size=64, box_scale=1.5).push_to_hub("org/model")
model.save_pretrained(folder + "-saved", push_to_hub=True, repo_id="org/saved", private=True)
pipe = pipeline("hand-mesh-estimation", model=model, image_processor=HandMIMImageProcessor(size=64), device="cpu")
pipe.save_pretrained(folder + "-pipe")
pipe.push_to_hub("org/pipe")
assert type(model)._auto_class is None and not hasattr(model.config, "custom_pipelines")
for repo_id in ("a/b/c", "stranger/model"):
    try:
        model.push_to_hub(repo_id)
    except PublishError as error:
        print(error)
    else:
        raise SystemExit(repo_id)
"""


def test_push_to_hub(hub: HubServer, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    done = run_with_hub(hub, PUSHES, folder, cache=tmp_path / "cache")
    assert "a/b/c" in done.stdout and "stranger/model" in done.stdout and "own name" in done.stdout
    assert not hub.unknown
    commits = [commit for commit in hub.repos["org/model"].history("main") if "config.json" in commit.files]
    sharded = commits[-1].files
    assert "model.safetensors" not in sharded and "model.safetensors.index.json" in sharded
    assert b"not stated" in sharded["README.md"].content and b"stub" not in sharded["README.md"].content
    told = commits[-2].files["README.md"].content
    assert b"license: mit" in told and b"trained-on-freihand" in told, "the card stayed without what was told"
    files = hub.repos["org/model"].files
    assert "model.safetensors" in files and not [name for name in files if name.startswith("model-")], "old shards"
    assert files["README.md"].endswith(b"mine"), "a card that is there stays"
    assert json.loads(files["preprocessor_config.json"])["box_scale"] == 1.5
    assert b"again" in hub.repos["org/model"].find("next").title.encode()
    assert hub.repos["org/saved"].private and HAND <= hub.repos["org/saved"].files.keys()
    whole = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "hub_classes.py"}
    assert whole <= hub.repos["org/pipe"].files.keys()
    assert names(tmp_path / "tiny-pipe") == {"config.json", "model.safetensors", "preprocessor_config.json"}
    for repository in hub.repos.values():
        assert not [name for name in repository.files if name.endswith((".bin", ".pt", ".pth", ".npz", ".pkl"))]


PRIVATE = """
import sys
from handmim import HandMIMForMeshEstimation, HandMIMImageProcessor
from handmim.cli import main
from handmim.publishing import PublishError
from handmim.training.trainer import HandMIMTrainer, HandMIMTrainingArguments

folder = sys.argv[1]
assert main(["publish", folder, "org/open", "--licence", "MIT", "--private"]) == 1
assert main(["publish", folder, "org/new", "--licence", "MIT", "--private"]) == 0
assert main(["publish", folder, "org/new", "--licence", "MIT", "--private", "--no-code"]) == 0
model = HandMIMForMeshEstimation.from_pretrained(folder)
options = dict(output_dir=folder + "-out", push_to_hub=True, hub_model_id="org/open", hub_private_repo=True)
for push in (
    lambda: model.push_to_hub("org/open", private=True),
    lambda: HandMIMImageProcessor(size=64).push_to_hub("org/open", private=True),
    lambda: HandMIMTrainer(model=model, args=HandMIMTrainingArguments(use_cpu=True, **options)),
):
    try:
        push()
    except PublishError as error:
        print(error)
    else:
        raise SystemExit("uploaded")
"""


def test_a_public_repository_gets_nothing_that_is_to_be_private(
    hub: HubServer, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The Hub changes nothing about a repository that is there: it was uploaded for all to see, without a word."""
    hub.create("org/open")
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    done = run_with_hub(hub, PRIVATE, folder, cache=tmp_path / "cache")
    assert "org/open is a public repository" in done.stderr and done.stdout.count("nothing was uploaded") == 3
    assert not hub.repos["org/open"].files and hub.repos["org/new"].private and hub.repos["org/new"].files


TRAINERS = """
import sys
from pathlib import Path
import torch
from handmim import HandMIMForMeshEstimation, HandMIMImageProcessor
from handmim.training.trainer import HandMIMTrainer, HandMIMTrainingArguments
from torch.utils.data import default_collate
from transformers import Trainer, TrainingArguments

folder, out = sys.argv[1:]
item = {"pixel_values": torch.zeros(3, 64, 64), "labels": {"joints": torch.zeros(21, 3) + torch.tensor([0, 0, 1.0])}}
options = dict(
    max_steps=2, save_steps=1, per_device_train_batch_size=2, use_cpu=True, push_to_hub=True, learning_rate=1e-3
)

def train(kind, arguments, name, **more):
    options_of = arguments(output_dir=f"{out}/{name}", hub_model_id=f"org/{name}", **options, **more)
    trainer = kind(
        model=HandMIMForMeshEstimation.from_pretrained(folder), args=options_of, train_dataset=[item] * 4,
        data_collator=default_collate, processing_class=HandMIMImageProcessor(size=64),
    )
    Path(f"{out}/{name}").mkdir(parents=True, exist_ok=True)
    Path(f"{out}/{name}/recipe.yaml").write_text("name: mine\\ndata: [{name: synthetic}]\\n")
    trainer.train()
    return trainer

ours = train(HandMIMTrainer, HandMIMTrainingArguments, "ours", hub_strategy="all_checkpoints")
ours.push_to_hub(license="mit", dataset="freihand", tags="x", model_name="y")
plain = train(Trainer, TrainingArguments, "plain", hub_strategy="end", remove_unused_columns=False)
plain.push_to_hub()
"""


@pytest.mark.slow
def test_trainers_push(hub: HubServer, tiny_checkpoint: Path, tmp_path: Path) -> None:
    run_with_hub(hub, TRAINERS, tiny_checkpoint, tmp_path / "out", cache=tmp_path / "cache")
    ours, plain = hub.repos["org/ours"].files, hub.repos["org/plain"].files
    assert NAMES - {"LICENSE"} | HAND | {"recipe.yaml", "hub_classes.py"} <= ours.keys()
    assert not [name for name in ours if name.endswith((".bin", ".pt", ".pth")) or "/" in name]
    assert b"hand-mesh-estimation" in ours["README.md"]
    assert not list((tmp_path / "out").rglob("*.py")), "no code in a Trainer's checkpoints"
    with safe_open(tmp_path / "out" / "ours" / "checkpoint-2" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "hand_model" in name]
    # what a plain Trainer does is transformers' doing; what it leaves on disk can be published
    assert "training_args.bin" in plain
    out = publish(tmp_path / "out" / "plain" / "checkpoint-2", "org/plain", licence="MIT", dry_run=tmp_path / "dry")
    assert NAMES - {"LICENSE"} | HAND <= names(out)
