"""A recipe trains a small model, stops and resumes bit for bit, and releases weights that load."""

import json
import shutil

import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoImageProcessor, Trainer

from handmim.checkpoints import EMBEDDED_CHECKPOINT
from handmim.cli import main
from handmim.errors import DataError
from handmim.geometry import project
from handmim.image_processing_handmim import HandMIMImageProcessor
from handmim.modeling_handmim import HandMIMForMeshEstimation
from handmim.training.data_sections import build_validation_data
from handmim.training.datasets.check import check_dataset
from handmim.training.datasets.crops import HandCrops
from handmim.training.datasets.items import collate_hands
from handmim.training.datasets.registry import open_dataset
from handmim.training.datasets.synthetic import SyntheticHands
from handmim.training.ema import EMA_FILE
from handmim.training.finetuning import build_processor, finetune, prepare_recipe
from handmim.training.recipe import RecipeError, load_recipe
from handmim.training.runs import arguments_of, check_same_run
from handmim.training.starting_points import build_model
from handmim.training.trainer import HandMIMTrainer, HandMIMTrainingArguments
from handmim.training.validation_errors import hand_errors

SMALL = {"size": "tiny", "image_size": 64, "num_hidden_layers": 2, "feature_layers": [1, 2], "stem": "residual"}
EXTRAS = {"score_head": True, "heatmap_evidence": True}


@pytest.fixture
def recipe():
    return {
        "name": "small",
        "model": SMALL | EXTRAS,
        "data": [{"name": "synthetic", "samples": 32, "seed": 3}],
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
        "release": {"dtype": "float16"},
    }


def test_resume_is_exact(tmp_path, recipe):
    whole = finetune(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "parts" / "checkpoint-2")
    parts = finetune(recipe, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    averages = [tmp_path / run / "checkpoint-4" / EMA_FILE for run in ("whole", "parts")]
    assert averages[0].read_bytes() == averages[1].read_bytes()


def rates(checkpoint):
    groups = torch.load(checkpoint / "optimizer.pt", weights_only=True)["param_groups"]
    return {(group["initial_lr"], group["weight_decay"]) for group in groups}


def test_a_run_that_goes_on_does_so_with_the_rates_asked_for_now(tmp_path, recipe):
    """The checkpoint's came back with the optimiser, while recipe.yaml told of the new ones."""
    recipe["training"] |= {"max_steps": 2, "lr_scheduler_type": "constant", "weight_decay": 0.1}
    finetune(recipe, tmp_path)
    assert rates(tmp_path / "checkpoint-2") == {(1e-3, 0.1), (1e-3, 0.0)}
    recipe["training"] |= {"max_steps": 4, "learning_rate": 1e-5, "weight_decay": 0.2}
    finetune(recipe, tmp_path)
    assert rates(tmp_path / "checkpoint-4") == {(1e-5, 0.2), (1e-5, 0.0)}
    log = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert [line["learning_rate"] for line in log if line["step"] > 2] == [pytest.approx(1e-5)]


def test_checkpoints_of_another_recipe_are_not_gone_on_from(tmp_path, recipe):
    finetune(recipe, tmp_path)
    before = (tmp_path / "recipe.yaml").read_bytes()
    others = {
        "data.0.seed was 3, and is 4 now": {"data": [{"name": "synthetic", "samples": 32, "seed": 4}]},
        "model.score_head was True, and is None now": {"model": SMALL | {"heatmap_evidence": True}},
        "optim was None, and is 'sgd' now": {"training": recipe["training"] | {"optim": "sgd"}},
    }
    for told, changes in others.items():
        with pytest.raises(RecipeError, match=f"another recipe: {told}.*Choose another folder"):
            finetune(recipe | changes, tmp_path)
    assert (tmp_path / "recipe.yaml").read_bytes() == before


def test_where_files_are_may_change(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: [{name: folder, root: photos}]\nmodel: {checkpoint: /old/tiny}\n")
    check_same_run({"data": [{"name": "folder", "root": "moved"}], "model": {"checkpoint": "/new/tiny"}}, tmp_path)
    with pytest.raises(RecipeError, match="data was"):
        check_same_run({"data": [], "model": {"checkpoint": "/new/tiny"}}, tmp_path)


def test_a_validation_that_fails_does_not_cost_the_training(tmp_path, recipe, monkeypatch):
    """A damaged picture was found after the last step, and nothing of the run was kept."""

    def fail(self):
        raise DataError("a.jpg is damaged")

    monkeypatch.setattr(HandMIMTrainer, "evaluate", fail)
    recipe["training"] |= {"max_steps": 1, "save_strategy": "no"}
    recipe["validation"] = {"name": "synthetic", "samples": 4, "seed": 9}
    with pytest.raises(DataError, match="damaged"):
        finetune(recipe, tmp_path)
    assert (tmp_path / "release" / "model.safetensors").is_file()


def test_release_loads_and_predicts(tmp_path, recipe):
    recipe["release"]["box_scale"] = 1.35
    finetune(recipe, tmp_path)
    model = HandMIMForMeshEstimation.from_pretrained(tmp_path / "release", dtype=torch.float32).eval()
    with torch.no_grad():
        outputs = model(collate_hands(SyntheticHands(2, seed=5, size=64).__getitems__([0, 1]))["pixel_values"])
    assert torch.isfinite(outputs.vertices).all()
    assert json.loads((tmp_path / "release" / "preprocessor_config.json").read_text())["box_scale"] == 1.35


def test_the_processor_of_the_checkpoint_is_released():
    """Its crops became 1.2 times the box for 1.1: fine-tuned for no step at all, it gave other hands."""
    first = AutoImageProcessor.from_pretrained(EMBEDDED_CHECKPOINT)
    section = {"checkpoint": EMBEDDED_CHECKPOINT.name}
    assert build_processor(section, first.size["height"], {}).to_dict() == first.to_dict()
    assert build_processor(section, 128, {"box_scale": 1.3}).box_scale == 1.3
    assert build_processor({"checkpoint": "nowhere"}, 128, {"box_scale": 1.3}).box_scale == 1.3  # nothing to be read
    assert build_processor({"size": "tiny"}, 128, {}).box_scale == HandMIMImageProcessor.box_scale


def test_it_makes_no_difference_who_renders(tmp_path, recipe):
    runs = [finetune(recipe, tmp_path / place, render_hands=place).state_dict() for place in ("worker", "device")]
    assert all(torch.equal(one, other) for one, other in zip(*(run.values() for run in runs), strict=True))


def test_plain_trainer_trains_too(tmp_path, recipe):
    arguments = HandMIMTrainingArguments(output_dir=str(tmp_path), **recipe["training"] | {"save_strategy": "no"})
    model = build_model(recipe["model"], seed=0)
    data = SyntheticHands(16, seed=3, size=64)
    result = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate_hands).train()
    assert result.training_loss > 0


def test_every_term_of_the_loss_is_logged(tmp_path, recipe, capsys):
    finetune(recipe, tmp_path)
    printed = capsys.readouterr().out
    assert "loss_keypoints_2d" in printed and "loss_joints" in printed


def test_initial_weights_depend_on_the_seed_alone():
    first, again, other = (build_model(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_packaged_recipes_build_their_model():
    recipe = load_recipe("handmim-tiny-open-first")
    with torch.device("meta"):
        model = build_model(recipe["model"], seed=0)
    assert model.config.hand_model == "open"


def test_bad_recipes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe no-such-recipe: .*handmim-tiny-open"):
        load_recipe("no-such-recipe")
    with pytest.raises(FileNotFoundError, match="example-newhand .did you mean example-new-hand"):
        load_recipe("example-newhand")
    with pytest.raises(RecipeError, match="max_stps .did you mean max_steps"):
        arguments_of(HandMIMTrainingArguments, {"max_stps": 4}, tmp_path)
    with pytest.raises(RecipeError, match="hidden_sise .did you mean hidden_size"):
        build_model(SMALL | {"hidden_sise": 4}, seed=0)
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"model": {}, "data": {}, "training": {}, "typo": 1}))
    with pytest.raises(RecipeError, match="wrong.yaml.*typo"):
        prepare_recipe(path)


def test_labels_of_larger_pictures_are_told_before_the_first_step(tmp_path, recipe):
    """They trained on grey crops to the end without a word, and only `evaluate` stopped at them."""
    Image.new("RGB", (96, 96)).save(tmp_path / "shrunk.png")
    points = [[150.0 + 8 * joint, 380.0 - 8 * joint] for joint in range(21)]
    lines = [{"image": "shrunk.png", "id": f"hand {row}", "handedness": "right"} for row in range(3)]
    text = "".join(json.dumps(line | {"keypoints_2d": points}) + "\n" for line in lines)
    (tmp_path / "labels.jsonl").write_text(text)
    recipe["data"] = [{"name": "folder", "root": str(tmp_path)}]
    with pytest.raises(DataError, match="sample hand 0, keypoints_2d: all 21 points lie outside the picture of 96 x"):
        finetune(recipe, tmp_path / "run")
    recipe["data"][0]["check"] = False
    with pytest.raises(DataError, match=r"sample hand \d of folder: box .* lies outside the image of 96 x 96 pixels"):
        finetune(recipe, tmp_path / "run")


@pytest.mark.slow
def test_new_hand_example_lowers_the_error(tmp_path):
    """The documented example at small size: a synthesized folder, the checkpoint in the package, less error after."""
    shape = "--betas=-2.5,2.5,-2,2,-2,2"
    for split, start in (("train", "0"), ("val", "1000")):
        words = ["synthesize", "48", "--size", "96", "--seed", "71", "--start", start, shape, "--split", split]
        assert main([*words, "--out", str(tmp_path / "hand")]) == 0
    settings = ["training.disable_tqdm=true", "training.batch_size=16"]
    recipe = prepare_recipe("example-new-hand", {"folder": str(tmp_path / "hand")}, settings)
    finetune(recipe, tmp_path / "run")
    text = (tmp_path / "run" / "eval_results.json").read_text()
    before = HandMIMForMeshEstimation.from_pretrained(EMBEDDED_CHECKPOINT, dtype=torch.float32)
    data = build_validation_data(recipe["validation"], before)
    batch = collate_hands(data.__getitems__(range(len(data))))
    with torch.no_grad():
        errors = hand_errors(before.eval()(**batch), batch["labels"])
    assert json.loads(text)["eval_mpjpe"] < 0.95 * errors[:, 2].nanmean().item()


def test_synthesized_series_is_a_data_set(tmp_path, capsys):
    assert main(["synthesize", "8", "--size", "64", "--betas=-2,1", "--out", str(tmp_path)]) == 0
    assert check_dataset(tmp_path, images=True).ok
    data = open_dataset("folder", tmp_path)
    assert 3 <= len(data) <= 8 and data.hand_model == "open"
    assert all(sample.labels["betas"].tolist() == [-2, 1] + [0] * 8 for sample in data)
    item = HandCrops(data, 64, labels=["joints", "keypoints_2d", "mask"])[0]
    projected = project(item["labels"]["joints"], item["intrinsics"])
    assert (projected - item["labels"]["keypoints_2d"]).abs().max() < 0.02
    assert 0.01 < item["labels"]["mask"].float().mean() < 0.9
