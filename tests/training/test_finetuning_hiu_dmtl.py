"""HIU-DMTL trains from recipes: any labels, with and without self-supervision, resumed bit for bit, released."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handmim import HIUDMTLForHandUnderstanding
from handmim.checkpoints import EMBEDDED_CHECKPOINT
from handmim.cli import main
from handmim.criterion_hiu_dmtl import self_supervised, without_label
from handmim.synthesis import generate
from handmim.training.data_sections import build_training_data, build_validation_data, label_terms, wanted_labels
from handmim.training.datasets.folder import LabelledFolder
from handmim.training.datasets.items import collate_hands
from handmim.training.datasets.subset import Subset
from handmim.training.ema import EMA_FILE
from handmim.training.finetuning import finetune
from handmim.training.recipe import RecipeError
from handmim.training.starting_points import build_model

SMALL = {
    "family": "hiu-dmtl", "image_size": 64, "hidden_size": 16, "num_stacks": 2, "encoder_depth": 1,
    "encoder_levels": 2, "regressor_channels": [16, 16], "regressor_hidden_size": 32,
}  # fmt: skip
UNSUPERVISED = {"self_mask": 0.5, "self_keypoints": 1.0}


def recipe(data: list[dict] | None = None, **model: object) -> dict:
    return {
        "name": "small",
        "model": SMALL | model,
        "data": data or [{"name": "synthetic", "samples": 32, "seed": 3}],
        "training": {
            "per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 2e-3, "save_steps": 2,
            "logging_steps": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "bf16": True,
        },
        "release": {"dtype": "float16"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight hands: 0 to 2 with everything, 3 to 5 with one label each, 6 and 7 with none."""
    root = tmp_path_factory.mktemp("hands")
    batch = generate(5, range(8), size=64, negatives=0.0)
    lines = []
    for row, pixels in enumerate(batch.images.numpy()):
        Image.fromarray(pixels).save(root / f"{row}.png")
        Image.fromarray(batch.mask[row].numpy().astype(np.uint8) * 255).save(root / f"{row}-mask.png")
        box = [8, 8, 56, 56]
        line = {"image": f"{row}.png", "id": f"hand {row}", "handedness": "right", "box": box}
        line["intrinsics"] = batch.intrinsics[row].tolist()
        points = {name: batch.labels[name][row].tolist() for name in ("keypoints_2d", "joints")}
        if row in (0, 1, 2, 3):
            line["keypoints_2d"] = points["keypoints_2d"]
        if row in (0, 1, 2, 4):
            line["joints"] = points["joints"]
        if row in (0, 1, 2, 5):
            line["mask"] = f"{row}-mask.png"
        lines.append(line)
    for name, rows in (("labels", lines), ("train", lines[:6])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    return root


def entry(folder: Path, **changes: object) -> dict:
    return {"name": "folder", "root": str(folder), "split": "train"} | changes


def test_resume_is_exact_and_what_is_released_predicts(tmp_path: Path, folder: Path) -> None:
    data = [entry(folder), {"name": "synthetic", "samples": 16, "seed": 3, "labels": False, "weight": 1}]
    data[0]["weight"] = 2
    chosen = recipe(data, loss_weights=UNSUPERVISED) | {"epoch_samples": 24}
    chosen["validation"] = entry(folder)
    whole = finetune(chosen, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "parts" / "checkpoint-2")
    parts = finetune(chosen, tmp_path / "parts")
    states = zip(whole.state_dict().values(), parts.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)  # with the running averages of batch norm
    averages = [tmp_path / run / "checkpoint-4" / EMA_FILE for run in ("whole", "parts")]
    assert averages[0].read_bytes() == averages[1].read_bytes()
    metrics = json.loads((tmp_path / "whole" / "eval_results.json").read_text())
    assert {"eval_pa_mpjpe", "eval_heatmap_2d", "eval_mask_iou", "eval_loss"} <= metrics.keys()
    history = json.loads((tmp_path / "whole" / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert {"loss_self_mask", "loss_self_keypoints", "loss_silhouette", "loss_bones"} <= history[0].keys()
    model = HIUDMTLForHandUnderstanding.from_pretrained(tmp_path / "whole" / "release", dtype=torch.float32).eval()
    with torch.no_grad():
        output = model(torch.zeros(1, 3, 64, 64))
    assert torch.isfinite(output.vertices).all() and torch.isfinite(output.heatmaps).all()
    assert (tmp_path / "whole" / "release" / "preprocessor_config.json").is_file()
    went_on = build_model({"checkpoint": str(tmp_path / "whole" / "release"), "loss_weights": {"mask": 2.0}}, seed=0)
    assert isinstance(went_on, HIUDMTLForHandUnderstanding) and went_on.config.loss_weights["mask"] == 2.0
    assert went_on.config.loss_weights["self_mask"] == 0.5


def test_the_loss_falls(tmp_path: Path) -> None:
    chosen = recipe([{"name": "synthetic", "samples": 4, "seed": 3, "negatives": 0}])
    chosen["training"] |= {
        "max_steps": 30,
        "per_device_train_batch_size": 4,
        "logging_steps": 10,
        "learning_rate": 5e-3,
    }
    finetune(chosen, tmp_path, save_strategy="no", warmup_steps=5, bf16=False)
    model = HIUDMTLForHandUnderstanding.from_pretrained(tmp_path / "release", dtype=torch.float32)
    fresh = build_model(chosen["model"], seed=0)
    batch = collate_hands(build_training_data(chosen, fresh, 0).__getitems__(range(4)))
    batch.pop("sample_ids")
    with torch.no_grad():
        assert model.train()(**batch).loss < 0.7 * fresh.train()(**batch).loss


@pytest.mark.parametrize(("tasks", "mesh"), [(["mask"], False), ([], True), (["heatmaps", "mask"], False)])
def test_any_subset_of_tasks_trains_and_is_measured(tasks: list[str], mesh: bool, folder: Path, tmp_path: Path) -> None:
    chosen = recipe([entry(folder, check=False)], tasks=tasks, mesh=mesh)
    finetune(chosen | {"validation": entry(folder, check=False)}, tmp_path, max_steps=1)
    metrics = json.loads((tmp_path / "eval_results.json").read_text()).keys()
    assert ("eval_pa_mpjpe" in metrics) == mesh and ("eval_mask_iou" in metrics) == ("mask" in tasks)


class TestSamplesWithoutLabels:
    def test_they_are_refused_before_the_first_step(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(Exception, match=r"labels.jsonl line 7 has no label"):
            finetune(recipe([entry(folder, split="labels")]), tmp_path)
        assert not list(tmp_path.glob("checkpoint-*"))

    def test_so_are_those_that_lack_what_is_learned(self, folder: Path, tmp_path: Path) -> None:
        chosen = recipe([entry(folder, labels=["mask"])])
        match = r"folder in .*: sample hand 3 \(number 3\) has none of mask to train on; self-supervision is off"
        with pytest.raises(Exception, match=match):
            finetune(chosen, tmp_path)

    def test_self_supervision_takes_them(self, folder: Path) -> None:
        model = build_model(SMALL | {"loss_weights": UNSUPERVISED}, seed=0).train()
        data = build_training_data({"data": [entry(folder, split="labels")], "augmentation": False}, model, 0)
        items = data.__getitems__([6, 7])
        assert len(data) == 8 and all(set(item["labels"]) == {"hand"} for item in items)
        batch = collate_hands(items)
        batch.pop("sample_ids")
        losses = model(**batch).losses
        assert losses["self_mask"] > 0 and losses["self_keypoints"] > 0 and "heatmaps" not in losses

    def test_labels_can_be_left_out_on_purpose(self, folder: Path) -> None:
        model = build_model(SMALL, seed=0)
        with pytest.raises(RecipeError, match=r"data.0.labels is false.*self_mask"):
            build_training_data({"data": [entry(folder, labels=False)]}, model, 0)
        model = build_model(SMALL | {"loss_weights": UNSUPERVISED}, seed=0)
        data = build_training_data({"data": [entry(folder, labels=False)]}, model, 0)
        assert all(set(item["labels"]) == {"hand"} for item in data.__getitems__(range(6)))

    def test_a_picture_without_a_hand_is_no_unlabelled_hand(self) -> None:
        labels = {"hand": torch.tensor([1.0, 0.0, torch.nan]), "mask": torch.full((3, 4, 4), torch.nan)}
        assert without_label("mask", labels, torch.zeros(3)).tolist() == [True, False, True]
        assert without_label("keypoints_2d", labels, torch.zeros(3)).tolist() == [True, False, True]

    def test_masks_of_left_hands_teach_nothing(self) -> None:
        model = build_model(SMALL, seed=0).eval()
        batch = generate(5, range(2), size=64, negatives=0.0)
        pixels, mask = torch.zeros(2, 3, 64, 64), batch.mask.float()
        other = torch.stack([mask[0], torch.zeros(64, 64)])
        found = [model(pixels, labels={"mask": m, "hand": torch.tensor([1.0, 0.0])}).losses for m in (mask, other)]
        assert all(torch.equal(found[0][name], found[1][name]) for name in ("mask", "silhouette"))


class TestWhatIsLearnedFrom:
    def names(self, **options: object) -> list[str]:
        return wanted_labels(None, "labels", build_model(SMALL | options, seed=0).config)

    def test_tasks_decide_about_labels(self) -> None:
        assert self.names() == ["joints", "keypoints_2d", "mask"]
        assert self.names(tasks=["mask"], mesh=False) == ["mask"]
        assert self.names(tasks=["heatmaps"], mesh=False) == ["keypoints_2d"]
        assert self.names(tasks=["pof"], loss_weights={"silhouette": 0}) == ["joints", "keypoints_2d"]
        assert self.names(loss_weights={"vertices": 1.0})[0] == "vertices"
        integral = {"heatmaps": 0.0, "heatmap_keypoints": 1.0}
        assert self.names(tasks=["heatmaps"], mesh=False, loss_weights=integral) == ["keypoints_2d"]
        config = build_model(SMALL | {"tasks": ["mask"], "mesh": False}, seed=0).config
        assert label_terms(config)["joints"] == ()
        with pytest.raises(RecipeError, match="tasks that learn from it are off"):
            wanted_labels(["joints"], "labels", config)
        with pytest.raises(RecipeError, match="joints and"):
            wanted_labels(["joints"], "labels", build_model(SMALL | {"loss_weights": {"bones": 0, "pof": 0}}, 0).config)

    def test_self_supervision_takes_something_to_compare_with(self) -> None:
        for options, expected in [
            ({}, False), ({"loss_weights": UNSUPERVISED}, True), ({"loss_weights": {"self_mask": 1.0}}, True),
            ({"loss_weights": {"self_mask": 1.0}, "tasks": ["pof"]}, False),
            ({"loss_weights": UNSUPERVISED, "mesh": False}, False),
        ]:  # fmt: skip
            assert self_supervised(build_model(SMALL | options, seed=0).config) == expected

    def test_validation_has_what_is_measured(self, folder: Path) -> None:
        data = build_validation_data(entry(folder), build_model(SMALL, seed=0))
        assert set(data[0]["labels"]) == {"keypoints_2d", "joints", "mask", "hand"}
        data = build_validation_data({"name": "synthetic", "samples": 1, "seed": 0}, build_model(SMALL, seed=0))
        assert {"vertices", "mask", "joints"} <= data[0]["labels"].keys()


class TestFamilies:
    def refused(self, match: str, **section: object) -> None:
        with pytest.raises(RecipeError, match=match):
            build_model(section, seed=0)

    def test_what_does_not_fit_is_told(self, tmp_path: Path) -> None:
        self.refused("handmim, hiu-dmtl, got 'resnet'", family="resnet")
        self.refused("model has size, which hiu-dmtl has not", family="hiu-dmtl", size="tiny")
        self.refused("model.timm is for stem: efficientnet, not for convolutions", **SMALL, timm="x.pth")
        self.refused("model.frozen_stem must be a number from 0 to 0 with this stem", **SMALL, frozen_stem=1)
        self.refused("unknown fields stacks .did you mean num_stacks.*; HIUDMTLConfig", **SMALL, stacks=3)
        self.refused("multiple of 16", **SMALL | {"image_size": 60})
        self.refused("is of the family handmim", family="hiu-dmtl", checkpoint=str(EMBEDDED_CHECKPOINT))
        self.refused("one of size, checkpoint, pretrained", hand_model="open")

    def test_weights_depend_on_the_seed_alone(self) -> None:
        first, again, other = (build_model(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)


class TestParts:
    def test_shares_are_fixed_and_nested(self, folder: Path) -> None:
        reader = LabelledFolder(folder, "train")
        third, half, rest = Subset(reader, 0, 1 / 3), Subset(reader, 0, 0.5), Subset(reader, 0.5, 1)
        names = [{sample.id for sample in part} for part in (third, half, rest)]
        assert [len(part) for part in names] == [2, 3, 3]
        assert names[0] < names[1] and not names[1] & names[2] and len(names[1] | names[2]) == 6
        assert half.name == "folder" and half.hand_model is None and half.root == folder

    def test_wrong_parts_are_told(self, folder: Path) -> None:
        for part in ([0.5, 0.2], [0, 2], 0.5, [0, 0.01], ["a", 1]):
            with pytest.raises(RecipeError, match=r"data.0: part"):
                build_training_data({"data": [entry(folder, part=part)]}, build_model(SMALL, seed=0), 0)


def test_command_line_trains_and_evaluates_every_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    assert main(["synthesize", "6", "--size", "64", "--seed", "4", "--split", "train", "--out", str(data)]) == 0
    shape = ["model.image_size=64", "model.hidden_size=16", "model.encoder_levels=2", "model.regressor_hidden_size=16"]
    short = [
        "training.max_steps=1",
        "training.batch_size=4",
        "training.save_strategy='no'",
        "training.disable_tqdm=true",
    ]
    words = ["finetune", "hiu-dmtl-ablation-synthetic", "--out", str(out)]
    for setting in (*shape, *short):
        words += ["--set", setting]
    assert main(words) == 0
    evaluate = ["evaluate", "folder", "--model", str(out / "release"), "--data", str(data), "--split", "train"]
    assert main([*evaluate, "--out", str(out / "scores"), "--device", "cpu"]) == 0
    report = json.loads((out / "scores" / "report.json").read_text())
    expected = {"auc_2d", "map_auc_2d", "mask_iou", "map_mask_iou", "map_miou", "pa_auc_joints", "pa_auc_vertices"}
    assert expected <= report["metrics"].keys() and {"iou_pck", "map_iou_pck", "map_pck_2d"} <= report["curves"].keys()
    assert list(report["stacks"]) == ["1", "2"] and report["stacks"]["2"] == report["metrics"]
    assert expected <= report["stacks"]["1"].keys()
    assert "stack 1" in capsys.readouterr().out
