"""Every recipe of the paper's tables runs end to end on the miniature of its data set; what is wrong is told."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from fabricate_datasets import hiu_data
from fabricate_datasets.freihand import write_freihand
from fabricate_datasets.ho3d import write_ho3d
from fabricate_datasets.scenes import make_scenes, write_mano
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from conversion.graft_stem import graft
from handmim import HandMIMConfig, HandMIMForMeshEstimation, HandMIMImageProcessor, HIUDMTLForHandUnderstanding
from handmim.checkpoints import EMBEDDED_CHECKPOINT
from handmim.cli import build_parser
from handmim.evaluation.measures import MEASURES
from handmim.training.datasets.sample import DataError
from handmim.training.finetuning import finetune, prepare_recipe
from handmim.training.pretraining_trainer import PreTrainingArguments
from handmim.training.recipe import RECIPES, RecipeError, apply_settings, load_recipe, merge, recipe_names
from handmim.training.runs import NOTES
from handmim.training.trainer import HandMIMTrainingArguments

PAPER = [name for name in recipe_names() if name.startswith(("table", "figure"))]
HIU = [name for name in recipe_names() if name.startswith("hiu-dmtl-")]
# One narrow stack more or less, small pictures.
TINY_HIU = {
    "hidden_size": 8, "image_size": 32, "encoder_depth": 1, "encoder_levels": 1, "regressor_channels": [8, 8],
    "regressor_hidden_size": 16,
}  # fmt: skip
PRETRAINING = [name for name in recipe_names() if name.startswith("pretrain-")]
# One narrow layer, small pictures, two steps; the rest as the recipe has it.
TINY = {
    "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "feature_layers": [1, 2], "image_size": 32,
    "num_feedback": 1, "feature_channels": [16], "point_channels": [16, 8], "regressor_hidden_size": 32,
}  # fmt: skip
SHORT = [
    "training.batch_size=4", "training.max_steps=2", "training.use_cpu=true", "training.dataloader_num_workers=0",
    "training.dataloader_persistent_workers=false", "training.disable_tqdm=true", "training.logging_steps=1",
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in recipe_names() if "-tiny-open" in name])
def test_a_stage_says_how_long_it_is(name: str) -> None:
    """By `base` it would be as long as another one, whatever the released checkpoint had."""
    own = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert "max_steps" in own["training"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    mano = write_mano(folder / "mano")
    freihand, ho3d = make_scenes(3, seed=11, size=(224, 224)), make_scenes(3, seed=12, size=(640, 480))
    for split in ("training", "evaluation"):
        write_freihand(folder / "freihand", split, freihand)
    for split in ("train", "evaluation"):
        write_ho3d(folder / "ho3d", 2, split, ho3d)
    hiu_data.write(folder / "hiu", make_scenes(6, seed=13, size=(224, 224)), [0] * 6)
    named = {"freihand": "freihand", "ho3d-v2": "ho3d", "hiu-data": "hiu"}
    return {name: str(folder / path) for name, path in named.items()} | {"mano": str(mano)}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stand-in for a pre-trained backbone: the weights of a tiny one alone."""
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(1)
    model = HandMIMForMeshEstimation(HandMIMConfig(**TINY))
    state = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    model.save_pretrained(folder, state_dict=state)
    return str(folder)


def settings_for(recipe: dict, backbone: str, mano: str) -> list[str]:
    settings = [*SHORT, f"model.hand_model_path={mano}"]
    if "pretrained" in recipe["model"]:
        return [*settings, f"model.pretrained={backbone}"]
    return settings + [f"model.{name}={value}" for name, value in TINY.items()]


def used_roots(recipe: dict, roots: dict[str, str]) -> dict[str, str]:
    entries = [*recipe["data"], recipe["validation"]]
    return {entry["name"]: roots[entry["name"]] for entry in entries}


@pytest.mark.parametrize("name", PAPER)
def test_recipe_runs_on_its_miniature(name, roots, backbone, tmp_path):
    raw = load_recipe(name)
    settings = settings_for(raw, backbone, roots["mano"])
    if "frozen_blocks" in raw["model"]:
        settings.append("model.frozen_blocks=1")
    recipe = prepare_recipe(name, used_roots(raw, roots), settings)
    model = finetune(recipe, tmp_path)
    state = yaml.safe_load((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert any("eval_pa_mpvpe" in line for line in state["log_history"])
    released = HandMIMForMeshEstimation.from_pretrained(tmp_path / "release", hand_model_path=roots["mano"])
    assert released.config.hand_model == "mano"
    stored = load_file(tmp_path / "release" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    first = model.backbone.encoder.blocks[0].norm1.weight
    assert first.requires_grad == ("frozen_blocks" not in raw["model"])


@pytest.mark.parametrize("name", [name for name in HIU if "synthetic" not in name and "open" not in name])
def test_hiu_dmtl_recipe_runs_on_its_miniature(name, roots, tmp_path):
    raw = load_recipe(name)
    settings = [*SHORT, "training.max_steps=1", "training.eval_strategy='no'", f"model.hand_model_path={roots['mano']}"]
    settings += [f"model.{key}={value}" for key, value in TINY_HIU.items()]
    # the miniature is too small for the package's split
    settings += [f"data.{at}.split=all" for at, entry in enumerate(raw["data"]) if entry["name"] == "hiu-data"]
    recipe = prepare_recipe(name, used_roots(raw, roots), settings)
    finetune(recipe, tmp_path)
    released = HIUDMTLForHandUnderstanding.from_pretrained(tmp_path / "release", hand_model_path=roots["mano"])
    section = raw["model"]
    assert released.config.num_stacks == section["num_stacks"] and released.config.hand_model == "mano"
    assert list(released.config.tasks) == section.get("tasks", ["heatmaps", "mask", "pof"])
    assert released.config.mesh == section.get("mesh", True)
    assert released.config.task_attention == section.get("task_attention", True)


@pytest.fixture()
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the open checkpoints learn from beside rendered hands."""
    for part in ("phone_gestures", "asl_letters", "sign_digits"):
        write_photographs(tmp_path / "hands" / part)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.effect_noise((64, 64), 90).save(photos / "wall.png")
    monkeypatch.setenv("HANDS", str(tmp_path / "hands"))
    monkeypatch.setenv("BACKGROUND_PHOTOS", str(photos))


@pytest.mark.usefixtures("photographs")
def test_the_open_checkpoint_goes_on_in_stages_at_last_with_larger_crops(tmp_path, monkeypatch):
    torch.manual_seed(2)
    options = TINY | {"stem": "efficientnet", "heatmap_evidence": True, "heatmap_level": 0, "score_head": True}
    HandMIMForMeshEstimation(HandMIMConfig(**options, score_hidden_size=8)).save_pretrained(tmp_path / "relief")
    HandMIMImageProcessor(size=TINY["image_size"]).save_pretrained(tmp_path / "relief")
    settings = [*SHORT, "training.max_steps=1", "training.batch_size=8"]
    folder, side = tmp_path / "relief", TINY["image_size"]
    decay = "training.lr_scheduler_kwargs={num_decay_steps: 1}"
    stages = {"-backgrounds": [f"model.image_size={side}", decay]}
    stages |= {stage: [f"model.image_size={2 * side}", decay] for stage in ("-pixels", "")}
    for stage, more in (stages | {"-sides": ["model.score_hidden_size=8"]}).items():
        monkeypatch.setenv("HANDMIM_TINY_OPEN", str(folder))
        out = tmp_path / f"out{stage}"
        finetune(prepare_recipe(f"handmim-tiny-open{stage}", {}, [*settings, *more]), out)
        folder = out / "release"
    released = HandMIMForMeshEstimation.from_pretrained(folder)
    assert released.config.image_size == AutoImageProcessor.from_pretrained(folder).size["height"] == 2 * side


@pytest.mark.usefixtures("photographs")
def test_the_open_hiu_dmtl_checkpoint_is_made_in_stages(tmp_path, monkeypatch):
    """From small crops to larger ones, rendered hands and photographs of hands, and behind the other family's stem."""
    monkeypatch.setenv("HIU_DMTL_FIRST", str(tmp_path / "first" / "release"))
    monkeypatch.setenv("HIU_DMTL_TINY_OPEN", str(tmp_path / "grafted"))
    sizes = TINY_HIU | {"hidden_size": 16}
    small = [f"model.{key}={value}" for key, value in sizes.items() if key != "image_size"]
    settings = [*SHORT, "training.max_steps=1", "training.batch_size=8", *small]
    releases = []
    for stage, side in (("-first", 16), ("-convolutions", 24), ("-stem", 32), ("", 64)):
        out = tmp_path / (stage.lstrip("-") or "last")
        if not stage:
            monkeypatch.setenv("HIU_DMTL_TINY_OPEN", str(tmp_path / "stem" / "release"))
        if stage == "-stem":
            grafted = graft(releases[-1], side, str(EMBEDDED_CHECKPOINT / "model.safetensors"))
            grafted.save_pretrained(tmp_path / "grafted")
            settings.append("training.lr_scheduler_kwargs={num_decay_steps: 1}")
        finetune(prepare_recipe(f"hiu-dmtl-tiny-open{stage}", {}, [*settings, f"model.image_size={side}"]), out)
        releases.append(HIUDMTLForHandUnderstanding.from_pretrained(out / "release"))
    first, second, third, last = (release.config for release in releases)
    assert first.loss_weights["silhouette"] == 0 and first.loss_weights["heatmaps"] == 10
    assert second.image_size == 24 and second.loss_weights["silhouette"] == 0.5 and second.stem == "convolutions"
    assert last.stem == third.stem == "efficientnet" and last.loss_weights["heatmaps"] == 10
    assert (third.image_size, last.image_size) == (32, 64)


def write_photographs(folder: Path) -> None:
    """Two pictures with keypoints, the hands cut out."""
    folder.mkdir(parents=True)
    points = [[10.0 + joint, 40.0 - joint] for joint in range(21)]
    lines = []
    for number in range(2):
        Image.new("RGB", (48, 48), (90, 60 + number, 50)).save(folder / f"{number}.png")
        mask = Image.new("L", (48, 48))
        mask.paste(255, (8, 16, 34, 44))
        mask.save(folder / f"{number}.cut.png")
        line = {"image": f"{number}.png", "foreground": f"{number}.cut.png", "handedness": "right"}
        lines.append(line | {"keypoints_2d": points})
    for split in ("train", "train-palm", "train-back"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_hiu_dmtl_tables_are_complete():
    counts = {f"table{number}": sum(f"table{number}" in name for name in HIU) for number in range(1, 6)}
    assert counts == {"table1": 1, "table2": 3, "table3": 1, "table4": 7, "table5": 4}
    stacks = load_recipe("hiu-dmtl-table3")["expected"]
    assert [row["stack"] for row in stacks] == [number for number in range(1, 9) for _ in range(2)]
    assert stacks[-2] == {
        "benchmark": "hiu-data", "stack": 8, "map_auc_2d": 0.870, "auc_2d": 0.707, "map_mask_iou": 0.977,
        "mask_iou": 0.773,
    }  # fmt: skip
    assert load_recipe("hiu-dmtl-table4-all")["expected"][0]["pa_auc_vertices"] == 0.817
    named = {measure for name in HIU for row in load_recipe(name).get("expected", []) for measure in row}
    assert named - {"benchmark", "stack"} <= MEASURES.keys()
    self_supervised = load_recipe("hiu-dmtl-figure10-self")
    assert self_supervised["data"][2]["labels"] is False and self_supervised["model"]["loss_weights"]["self_mask"] > 0


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_states_what_it_needs(name):
    recipe = load_recipe(name)
    assert recipe["name"] == name and recipe["description"]
    assert ("pretraining" in recipe) == (name in PRETRAINING)
    arguments = PreTrainingArguments if name in PRETRAINING else HandMIMTrainingArguments
    assert recipe["training"].keys() <= {field.name for field in dataclasses.fields(arguments)} | {"batch_size"}
    if name in PRETRAINING and "expected" in recipe:
        after = load_recipe(recipe["expected"].pop("after"))
        assert after["expected"] == recipe["expected"]
    parser = build_parser()
    for command in recipe.get("commands", []):
        words = command.split()
        if words[1] in ("finetune", "pretrain"):
            args = parser.parse_args(words[1:])
            assert (args.recipe == name) == (words[1] == ("pretrain" if name in PRETRAINING else "finetune"))
            run = load_recipe(args.recipe)
            used = {entry["name"] for entry in [*run["data"], run.get("validation")] if entry} - {"synthetic"}
            assert isinstance(args, argparse.Namespace) and dict(args.roots).keys() == used


def test_tables_are_complete():
    assert len([name for name in PAPER if name.startswith("table1")]) == 5
    assert len([name for name in PAPER if name.startswith("table2")]) == 5
    assert len([name for name in PAPER if name.startswith("table3")]) == 8
    assert len([name for name in PAPER if name.startswith("table5-without")]) == 3
    assert load_recipe("table3-peclr-freihand")["expected"]["pa_mpjpe"] == 8.76
    expected = load_recipe("table1-handmim-small")["expected"]
    assert expected == {"benchmark": "freihand", "pa_mpjpe": 6.57, "pa_mpvpe": 6.57, "f5": 0.725, "f15": 0.984}
    assert "f5" not in load_recipe("table4-freihand-to-ho3d")["expected"]
    training = load_recipe("table2-vit-large")["training"]
    assert (training["batch_size"], training["num_train_epochs"], training["learning_rate"]) == (128, 100, 4e-5)


class TestPreparing:
    def test_settings_and_variables(self, monkeypatch):
        monkeypatch.setenv("FREIHAND", "/data/fh")
        recipe = prepare_recipe("table1-vit-small", {}, ["training.max_steps=4", "data.0.weight=2", "model.timm=x"])
        assert recipe["data"][0] == {"name": "freihand", "root": "/data/fh", "split": "training", "weight": 2}
        assert recipe["training"]["max_steps"] == 4 and not recipe.keys() & set(NOTES)
        recipe = prepare_recipe("table1-vit-small", {"freihand": "/other"})
        assert recipe["data"][0]["root"] == recipe["validation"]["root"] == "/other"

    def test_a_value_below_what_is_left_out(self):
        recipe = {"model": {"loss_weights": None}}
        apply_settings(recipe, ["model.loss_weights.score=0.3", "release.dtype=float16"])
        assert recipe == {"model": {"loss_weights": {"score": 0.3}}, "release": {"dtype": "float16"}}

    def test_short_numbers_are_numbers(self, tmp_path):
        recipe = {"training": {}}
        apply_settings(recipe, ["training.a=5e-4", "training.b=-1E3", "training.c=e4", "training.d=1e"])
        assert recipe["training"] == {"a": 5e-4, "b": -1000.0, "c": "e4", "d": "1e"}
        (tmp_path / "a.yaml").write_text("x: 4e-5")
        assert load_recipe(tmp_path / "a.yaml") == {"x": 4e-5}

    def test_missing_variables_are_named(self, monkeypatch):
        monkeypatch.delenv("FREIHAND", raising=False)
        with pytest.raises(RecipeError, match=r"data.0.root.*FREIHAND.*--data"):
            prepare_recipe("table1-vit-small")

    def test_bad_changes_are_refused(self):
        with pytest.raises(RecipeError, match="uses no rhd, but freihand"):
            prepare_recipe("table1-vit-small", {"rhd": "/x"})
        for setting in ("training", "=3", "data.7.weight=1", "data.first=1", "a=[1"):
            with pytest.raises(RecipeError):
                apply_settings({"data": [{}], "training": {}}, [setting])

    def test_bases(self, tmp_path):
        (tmp_path / "a.yaml").write_text("base: b\nmodel: {x: 1}")
        (tmp_path / "b.yaml").write_text("model: {x: 2, y: 3}\ndata: [1]")
        assert load_recipe(tmp_path / "a.yaml") == {"model": {"x": 1, "y": 3}, "data": [1]}
        (tmp_path / "b.yaml").write_text("base: a")
        with pytest.raises(RecipeError, match="its own base"):
            load_recipe(tmp_path / "a.yaml")
        (tmp_path / "b.yaml").write_text("a: &x [1]\nb: *x")  # a few lines of these fill the memory
        with pytest.raises(RecipeError, match=r"\*x is an alias"):
            load_recipe(tmp_path / "b.yaml")
        assert merge({"a": {"b": [1, 2]}}, {"a": {"b": [3]}}) == {"a": {"b": [3]}}


class TestStartOfTheRun:
    """What is wrong is told before the first step, by entry and field."""

    def refused(self, roots, tmp_path, match, *settings, error=RecipeError, name="table1-vit-small"):
        raw = load_recipe(name)
        settings = [*settings_for(raw, "", roots["mano"]), *settings]
        recipe = prepare_recipe(name, used_roots(raw, roots), settings)
        with pytest.raises(error, match=match):
            finetune(recipe, tmp_path)

    def test_model(self, roots, tmp_path):
        self.refused(roots, tmp_path, "heigth", "model.heigth=3")
        self.refused(roots, tmp_path, "model: .*image_size must be a multiple", "model.image_size=33")
        self.refused(roots, tmp_path, "one of size, checkpoint, pretrained", "model.checkpoint=x")
        self.refused(roots, tmp_path, "frozen_blocks.*3", "model.frozen_blocks=3")
        self.refused(roots, tmp_path, "nonesuch", "model.timm=nonesuch")

    def test_training(self, roots, tmp_path):
        self.refused(roots, tmp_path, "max_stepz", "training.max_stepz=3")
        self.refused(roots, tmp_path, "batch_size", "training.batch_size=0")
        self.refused(roots, tmp_path, "layer_decay", "training.layer_decay=2")

    def test_release(self, roots, tmp_path):
        """It was looked at after the run, which was lost."""
        self.refused(roots, tmp_path, "release.dtype must be one of float32.*fp16", "release.dtype=fp16")
        self.refused(roots, tmp_path, "release must be a mapping of dtype, box_scale.*dtpye", "release.dtpye=float16")
        self.refused(roots, tmp_path, "release must be a mapping", "release=float16")
        self.refused(roots, tmp_path, "box_scale must be a positive number, got 'wide'", "release.box_scale=wide")

    def test_validation(self, roots, tmp_path):
        self.refused(roots, tmp_path, "validation takes no weight", "validation.weight=2")
        synthetic = "validation={name: synthetic, samples: 4, render: device}"
        self.refused(roots, tmp_path, "validation.render must be worker", synthetic)

    def test_data(self, roots, tmp_path):
        self.refused(
            roots, tmp_path, "synthetic hands have no part", "data=[{name: synthetic, samples: 4, part: [0, 1]}]"
        )
        self.refused(roots, tmp_path, "data.0: box_scale must be a positive number", "data.0.box_scale=0")
        self.refused(roots | {"freihand": "nowhere"}, tmp_path, "nowhere", error=DataError)
        self.refused(roots, tmp_path, "data.0.*colour", "data.0.colour=red")
        self.refused(
            roots, tmp_path, "must be one of.*imagenet", "data.0.name=imagenet", "data.0.root=.", error=DataError
        )
        self.refused(roots, tmp_path, "data.0.labels.*depth", "data.0.labels=[depth]")
        self.refused(roots, tmp_path, "mask.*loss_weights.mask is 0", "data.0.labels=[mask]")
        self.refused(roots, tmp_path, "vertices without joints", "data.0.labels=[vertices]")
        self.refused(roots, tmp_path, "rotation", "augmentation.rotation=900")
        self.refused(roots, tmp_path, "list of data sets", "data=freihand")

    def test_hand_models(self, roots, tmp_path):
        self.refused(roots, tmp_path, "'mano', the network's is 'open'.*keypoints_2d", "model.hand_model=open")
        self.refused(roots, tmp_path, "MANO", "model.hand_model_path=nowhere", error=Exception)

    def test_open_hand_learns_from_manos_joints(self, roots, tmp_path):
        raw = load_recipe("table1-vit-small")
        settings = [*settings_for(raw, "", "null"), "model.hand_model=open", "data.0.labels=[joints, keypoints_2d]"]
        settings += ["training.max_steps=1", "training.eval_strategy='no'"]
        finetune(prepare_recipe("table1-vit-small", used_roots(raw, roots), settings), tmp_path)
        assert (tmp_path / "release" / "model.safetensors").is_file()

    def test_labels_are_checked(self, roots, tmp_path):
        scenes = make_scenes(2, seed=11, size=(224, 224))
        far = dataclasses.replace(scenes[1], joints=scenes[1].joints + 1000)
        write_freihand(tmp_path / "data", "training", [scenes[0], far])
        self.refused(roots | {"freihand": str(tmp_path / "data")}, tmp_path, "training.*1", error=DataError)


def test_command_line(roots, tmp_path, capsys):
    args = ["finetune", "table1-vit-small", "--out", str(tmp_path), "--data", f"freihand={roots['freihand']}"]
    recipe = load_recipe("table1-vit-small")
    for setting in [*settings_for(recipe, "", roots["mano"]), "training.max_steps=1"]:
        args += ["--set", setting]
    parsed = build_parser().parse_args(args)
    assert parsed.run(parsed) == 0
    assert "release" in capsys.readouterr().out
    assert yaml.safe_load((Path(tmp_path) / "recipe.yaml").read_text())["training"]["max_steps"] == 1
