"""A recipe trains a small detector on rendered scenes and photos, stops and resumes bit for bit, and releases it."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from handmim.checkpoints import EMBEDDED_CHECKPOINT
from handmim.cli import main
from handmim.detection import resolve_detector
from handmim.image_processing_hand_detector import HandDetectorImageProcessor
from handmim.modeling_handmim import HandMIMForMeshEstimation
from handmim.training.datasets.hand_scenes import HandScenes
from handmim.training.detector import build_detector, build_scenes, prepare_recipe, train_detector
from handmim.training.ema import EMA_FILE
from handmim.training.recipe import RecipeError


@pytest.fixture()
def photos(tmp_path: Path) -> Path:
    """A labelled folder of one photo, and one of photos without hands."""
    (tmp_path / "hands").mkdir()
    (tmp_path / "rooms" / "deep").mkdir(parents=True)
    Image.new("RGB", (64, 48), (200, 150, 120)).save(tmp_path / "hands" / "a.png")
    Image.new("RGB", (64, 48), (20, 90, 20)).save(tmp_path / "rooms" / "deep" / "b.png")
    points = [[20.0 + 2 * (k % 5), 10.0 + 2 * (k // 5)] for k in range(21)]
    line = json.dumps({"image": "a.png", "handedness": "left", "keypoints_2d": points})
    (tmp_path / "hands" / "train.jsonl").write_text(line + "\n")
    return tmp_path


@pytest.fixture()
def recipe(photos: Path) -> dict:
    return {
        "name": "small",
        "detector": {"image_size": 96, "neck_width": 8},
        "scenes": {"samples": 64, "size": 96, "seed": 3, "background_photos": str(photos / "rooms")},
        "photos": [
            {"name": "folder", "root": str(photos / "hands"), "split": "train", "weight": 2},
            {"no_hands": str(photos / "rooms"), "weight": 1},
        ],
        "training": {
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "save_steps": 2,
            "logging_steps": 2,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        },
        "release": {"dtype": "float16", "coarse_size": 32},
    }


def test_resume_is_exact_and_the_release_detects(tmp_path: Path, recipe: dict):
    whole = train_detector(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "parts" / "checkpoint-2")
    parts = train_detector(recipe, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    averages = [tmp_path / run / "checkpoint-4" / EMA_FILE for run in ("whole", "parts")]
    assert averages[0].read_bytes() == averages[1].read_bytes()
    release = tmp_path / "whole" / "release"
    assert load_file(release / "model.safetensors")["backbone.layers.0.0.weight"].dtype == torch.float16
    assert HandDetectorImageProcessor.from_pretrained(release).coarse_size == 32
    assert resolve_detector(release).detect(torch.zeros(40, 60, 3, dtype=torch.uint8).numpy()) == []
    assert (tmp_path / "whole" / "recipe.yaml").is_file()


def test_training_goes_on_from_a_checkpoint(tmp_path: Path, recipe: dict):
    train_detector(recipe, tmp_path / "first", max_steps=1)
    recipe["detector"] = {"checkpoint": str(tmp_path / "first" / "release")}
    model = train_detector(recipe, tmp_path / "second", max_steps=1, learning_rate=0.0)
    assert model.config.neck_width == 8


def test_weights_of_efficientnet_start_a_detector(tmp_path: Path, recipe: dict):
    source = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    save_file(source.state_dict(), tmp_path / "lite0.safetensors")
    model = build_detector(recipe["detector"] | {"timm": str(tmp_path / "lite0.safetensors")}, seed=0)
    assert torch.equal(model.backbone.layers[6][3].conv_pwl.weight, source.blocks[5][3].conv_pwl.weight)
    model.save_pretrained(tmp_path / "detector")
    again = build_detector({"timm": str(tmp_path / "detector"), "stem_weights": "handmim-tiny-open"}, seed=1)
    assert torch.equal(again.backbone.layers[6][3].conv_pwl.weight, source.blocks[5][3].conv_pwl.weight)
    stem = HandMIMForMeshEstimation.from_pretrained(EMBEDDED_CHECKPOINT, dtype="float32").stem_layers
    ours = again.backbone.layers[: len(stem)]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), stem.parameters(), strict=True))


def test_the_command_trains(tmp_path: Path, capsys: pytest.CaptureFixture, photos: Path, monkeypatch):
    monkeypatch.setenv("BACKGROUND_PHOTOS", str(photos / "rooms"))
    monkeypatch.setenv("HANDS", str(photos))
    for part in ("phone_gestures", "asl_letters", "sign_digits"):
        shutil.copytree(photos / "hands", photos / part)
    small = [
        "detector.image_size=96",
        "detector.timm=null",
        "scenes.size=96",
        "training.max_steps=1",
        "training.per_device_train_batch_size=2",
    ]
    options = [word for setting in small for word in ("--set", setting)]
    assert main(["train-detector", "hand-detector-tiny-open-first", "--out", str(tmp_path / "run"), *options]) == 0
    said = capsys.readouterr()
    assert "wrote the trained detector to" in said.out and "model shards" not in said.err
    assert (tmp_path / "run" / "release" / "preprocessor_config.json").is_file()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"detector": {"width": 3}}, "detector has unknown fields width"),
        ({"detector": {"timm": "nowhere.pth"}}, "detector.timm: no file nowhere.pth"),
        ({"detector": {"timm": "a.pth", "checkpoint": "b"}}, "detector.timm is for a new detector"),
        ({"detector": {"image_size": 50}}, "detector: .*multiple of 32"),
        ({"release": {"coarse_size": 100}}, "release.coarse_size must be a multiple of 32, got 100"),
        ({"release": {"coarse_size": True}}, "release.coarse_size must be a multiple of 32, got True"),
        ({"scenes": {"size": 96, "seed": 1}}, "scenes needs samples"),
        ({"scenes": {"samples": 4, "size": 100, "seed": 1}}, "scenes: .*multiple of 48"),
        ({"scenes": {"samples": "x", "size": 96, "seed": 1}}, "scenes: length must be a whole number .* got 'x'"),
        ({"scenes": {"samples": 4, "size": 96, "seed": "x"}}, "scenes: seed must be a whole number, got 'x'"),
        ({"scenes": {"samples": 4, "size": 96, "seed": 1, "sise": 3}}, "scenes: .*sise"),
        ({"photos": [{"name": "folder"}]}, "photos.0 must have name, root"),
        ({"photos": [{"no_hands": "nowhere"}]}, "photos.0: no_hands .*holds no picture"),
        ({"photos": [{"no_hands": "nowhere", "split": "x"}]}, "photos.0: no_hands has fields beside it: split"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, recipe: dict, change: dict, problem: str):
    with pytest.raises(RecipeError, match=problem):
        train_detector(recipe | change, tmp_path / "run")


def test_weights_are_for_all_photos_or_for_none(recipe: dict):
    recipe["photos"][0].pop("weight")
    with pytest.raises(RecipeError, match="weight in every entry or in none"):
        build_scenes(recipe["scenes"], recipe["photos"])
    for entry in recipe["photos"]:
        entry.pop("weight", None)
    assert isinstance(build_scenes(recipe["scenes"], recipe["photos"]), HandScenes)


def test_other_recipes_are_sent_to_their_command():
    with pytest.raises(RecipeError, match="handmim train-detector is for recipes with the section scenes"):
        from handmim.training.finetuning import prepare_recipe as prepare_finetuning

        prepare_finetuning("hand-detector-tiny-open")
    with pytest.raises(RecipeError, match="must have the sections detector"):
        prepare_recipe("finetune-tiny-synthetic")
