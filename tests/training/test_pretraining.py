"""Every pre-training recipe runs in miniature, loads into a mesh model, and goes on where it stopped."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fabricate_datasets import coco_wholebody, youtube3d
from fabricate_datasets.freihand import write_freihand
from fabricate_datasets.scenes import make_scenes
from killed_runs import Runs
from pretraining_miniature import SHORT, TINY, TINY_METHOD, log_lines, tiny_recipe, write_pictures
from transformers import TrainerCallback

from handmim.cli import build_parser
from handmim.modeling_handmim import HandMIMForMeshEstimation
from handmim.modeling_pretraining_handmim import HandMIMForPreTraining
from handmim.training import pretraining
from handmim.training.finetuning import prepare_recipe as prepare_finetuning
from handmim.training.pretraining import build_network, prepare_recipe, pretrain
from handmim.training.pretraining_trainer import PreTrainer, PreTrainingArguments, cosine_between
from handmim.training.recipe import RecipeError, load_recipe, recipe_names
from handmim.training.starting_points import build_model
from handmim.training.trainer import last_checkpoint

RECIPES = [name for name in recipe_names() if name.startswith("pretrain-")]
HEAD: dict[str, Any] = {
    "num_feedback": 1, "feature_channels": [16], "point_channels": [16, 8], "regressor_hidden_size": 32,
}  # fmt: skip
TERMS = {
    "handmim": {"pose", "patch", "reconstruction"},
    "handmim_without_pose": {"patch", "reconstruction"},
    "handmim_without_patch": {"pose", "reconstruction"},
    "handmim_without_reconstruction": {"pose", "patch"},
    "ibot": {"pose", "patch"},
    "peclr": {"pose"},
    "mae": {"reconstruction"},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def settings_of(recipe: dict[str, Any], root: Path) -> list[str]:
    sections = {"model": TINY, "pretraining": TINY_METHOD, "training": SHORT | {"batch_size": 4}}
    if recipe["pretraining"]["method"] == "ibot":
        sections["pretraining"] = TINY_METHOD | {"num_prototypes": 24}
    settings = [f"{section}.{key}={value}" for section, values in sections.items() for key, value in values.items()]
    return [*settings, "model.size=tiny", f"data=[{{name: folder, root: {root}}}]"]


class TestRecipes:
    @pytest.mark.parametrize("name", RECIPES)
    def test_runs_and_loads_into_a_mesh_model(self, name, pictures, tmp_path, caplog):
        raw = load_recipe(name)
        recipe = prepare_recipe(name, {}, settings_of(raw, pictures))
        model = pretrain(recipe, tmp_path)
        lines = log_lines(tmp_path, 2)
        assert {key for key in lines[-1] if key.startswith("loss_")} == {
            f"loss_{term}" for term in TERMS[raw["pretraining"]["method"]]
        }
        assert len(lines) == 2 and lines[-1]["feature_spread"] > 0
        assert ("teacher_momentum" in lines[-1]) == model.config.pretraining_config.uses_teacher
        logging.getLogger("transformers").propagate = True
        caplog.clear()  # of what the run itself had to say, as that this CPU has no bfloat16
        with caplog.at_level(logging.WARNING):
            mesh, info = HandMIMForMeshEstimation.from_pretrained(
                tmp_path / "release", output_loading_info=True, **HEAD
            )
            again = build_model({"pretrained": str(tmp_path / "release"), **HEAD}, seed=3)
        logging.getLogger("transformers").propagate = False
        assert not caplog.records and not any(info.values())
        expected = model.backbone.state_dict()
        for loaded in (mesh, again):
            found = loaded.backbone.state_dict()
            assert all(torch.equal(value, expected[key]) for key, value in found.items())
        assert mesh.config.drop_path_rate == 0 and again.config.image_size == 32
        assert (tmp_path / "release" / "preprocessor_config.json").is_file()

    def test_fine_tuning_starts_from_it(self, pictures, tmp_path):
        pretrain(tiny_recipe(pictures), tmp_path / "run")
        recipe = {
            "model": {"pretrained": str(tmp_path / "run" / "release"), **HEAD},
            "data": [{"name": "synthetic", "samples": 8}],
            "training": {key: value for key, value in SHORT.items()},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        from handmim.training.finetuning import finetune

        finetune(prepare_finetuning(tmp_path / "recipe.yaml"), tmp_path / "fine")
        assert (tmp_path / "fine" / "release" / "model.safetensors").is_file()

    def test_recipes_of_the_other_command_are_told(self):
        with pytest.raises(RecipeError, match="handmim pretrain is for"):
            prepare_finetuning("pretrain-tiny-synthetic")
        with pytest.raises(RecipeError, match="must have the sections model, pretraining"):
            prepare_recipe("handmim-tiny-open")

    def test_command_line(self, pictures, tmp_path, capsys):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe(Path("${PICTURES}"))))
        words = ["pretrain", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]
        words += ["--data", f"folder={pictures}", "--set", "training.max_steps=1"]
        args = build_parser().parse_args(words)
        assert args.run(args) == 0
        assert "release" in capsys.readouterr().out
        assert pretraining.main([*words[1:], "--set", "views.rotation=[0, 900]"]) == 1
        assert "rotation" in capsys.readouterr().err

    def test_any_mixture_of_pictures(self, pictures, tmp_path):
        scenes = make_scenes(3, seed=11, size=(224, 224))
        write_freihand(tmp_path / "freihand", "training", scenes)
        youtube3d.write(tmp_path / "youtube3d", scenes)
        coco_wholebody.write(tmp_path / "coco", scenes)
        manifest = [json.dumps({"file": f"a/{number}.png"}) for number in range(3)]
        shutil.copytree(pictures, tmp_path / "crops")
        (tmp_path / "crops" / "manifest.jsonl").write_text("\n".join(manifest) + "\n")
        recipe = tiny_recipe(pictures, batch_size=8, broken_images="fatal")
        recipe["data"] += [
            {"name": "freihand", "root": str(tmp_path / "freihand"), "split": "training", "size": 64},
            {"name": "youtube3d", "root": str(tmp_path / "youtube3d"), "split": "train", "mirror_left": True},
            {"name": "coco-wholebody", "root": str(tmp_path / "coco"), "split": "val"},
            {"name": "crops", "root": str(tmp_path / "crops")},
            {"name": "synthetic", "length": 5, "size": 48, "negatives": 0.1},
        ]
        pretrain(recipe, tmp_path / "out")
        assert np.isfinite(log_lines(tmp_path / "out", 2)[-1]["loss"])


class TestSchedules:
    def test_cosine(self):
        assert cosine_between(0.04, 0.4, 0) == pytest.approx(0.04) and cosine_between(0.04, 0.4, 1) == 0.4
        assert cosine_between(2, 1, 0.5) == pytest.approx(1.5) and cosine_between(2, 1, 7) == 1

    def test_endpoints(self, pictures, tmp_path):
        """At each end of a run of ten steps in five epochs: rate, decay, momentum and temperature."""
        seen: list[dict[str, float]] = []

        class Watch(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, **kwargs):
                groups = trainer.optimizer.param_groups
                network = trainer.network
                seen.append(
                    {
                        "lr": groups[0]["lr"],
                        "decays": sorted({group["weight_decay"] for group in groups}),
                        "epoch": float(network.epoch),
                        "temperature": float(network._temperature(0.07)),
                        "teacher": network.teacher_pairs()[5][0].clone(),
                    }
                )

            def on_optimizer_step(self, args, state, control, **kwargs):
                seen[-1]["student"] = trainer.network.teacher_pairs()[5][1].clone()

            def on_step_end(self, args, state, control, **kwargs):
                seen[-1]["after"] = trainer.network.teacher_pairs()[5][0].clone()

        recipe = tiny_recipe(pictures)
        recipe["pretraining"] |= {"temperature_warmup_epochs": 2, "teacher_momentum": 0.9}
        arguments = PreTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=5, num_train_epochs=5, warmup_epochs=2,
            learning_rate=1.024, save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        model = build_network(recipe["model"], recipe["pretraining"], 0)
        data = pretraining.build_views(recipe, model.config, arguments)
        trainer = PreTrainer(model=model, args=arguments, train_dataset=data, data_collator=pretraining.collate_views)
        trainer.callback_handler.callbacks.insert(0, Watch())  # before the schedules' own, but for its end
        handler = trainer.callback_handler.callbacks
        handler.append(handler.pop(0))
        trainer.train()
        assert len(seen) == 10
        rates = [step["lr"] for step in seen]
        assert rates[0] == 0 and max(rates) == rates[4] == pytest.approx(0.005)  # 1.024 * 5 / 1024
        assert 1e-6 < rates[-1] < 0.2 * rates[4]
        assert seen[0]["decays"] == [0, 0.04] and seen[-1]["decays"][1] == pytest.approx(cosine_between(0.04, 0.4, 0.9))
        assert [step["epoch"] for step in seen] == [number / 2 for number in range(10)]
        assert seen[0]["temperature"] == pytest.approx(0.04) and seen[-1]["temperature"] == pytest.approx(0.07)
        for number in (1, 9):
            step, momentum = seen[number], cosine_between(0.9, 1, number / 10)
            torch.testing.assert_close(step["after"], momentum * step["teacher"] + (1 - momentum) * step["student"])

    def test_rate_follows_the_batch(self, tmp_path):
        def peak(**changes: Any) -> float:
            return PreTrainingArguments(
                output_dir=str(tmp_path), use_cpu=True, report_to="none", **changes
            ).peak_learning_rate

        assert peak(per_device_train_batch_size=1024) == 2e-3
        assert peak(per_device_train_batch_size=64, gradient_accumulation_steps=4) == 5e-4
        assert peak(per_device_train_batch_size=64, reference_batch_size=0, learning_rate=0.1) == 0.1
        for changes in ({"render_views": "gpu"}, {"broken_images": "x"}, {"warmup_epochs": -1}):
            with pytest.raises(ValueError, match=next(iter(changes))):
                peak(**changes)

    def test_prototypes_rest_for_an_epoch(self, pictures, tmp_path):
        for epochs, rests in ((1, True), (0, False)):
            recipe = tiny_recipe(pictures, "ibot", frozen_prototype_epochs=epochs, learning_rate=1.0)
            before = build_network(recipe["model"], recipe["pretraining"], 42).projector.prototypes
            model = pretrain(recipe, tmp_path / str(epochs), seed=42)
            assert torch.equal(before, model.projector.prototypes) == rests

    def test_teacher_and_exempt_parameters(self, pictures, tmp_path):
        recipe = tiny_recipe(pictures)
        model = build_network(recipe["model"], recipe["pretraining"], 0)
        arguments = PreTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
        trainer = PreTrainer(
            model=model,
            args=arguments,
            train_dataset=pretraining.build_views(
                recipe | {"data": [{"name": "synthetic", "length": 100, "size": 32}]}, model.config, arguments
            ),
        )
        groups = trainer.create_optimizer().param_groups
        optimised = {id(parameter) for group in groups for parameter in group["params"]}
        teacher = {id(pair[0]) for pair in model.teacher_pairs()}
        assert not optimised & teacher
        assert optimised == {id(p) for p in model.parameters() if p.requires_grad}
        assert (
            id(model.student.encoder.pos_embed) in {id(p) for p in groups[1]["params"]}
            and groups[1]["weight_decay"] == 0
        )


class TestOptions:
    def test_accumulation_moves_the_teacher_once_a_step(self, pictures, tmp_path, monkeypatch):
        calls: list[float] = []
        monkeypatch.setattr(HandMIMForPreTraining, "update_teacher", lambda self, momentum: calls.append(momentum))
        pretrain(tiny_recipe(pictures, batch_size=8, gradient_accumulation_steps=4), tmp_path)
        assert len(calls) == 2

    @pytest.mark.parametrize("options", [{"bf16": True}, {"gradient_checkpointing": True}, {"render_views": "device"}])
    def test_runs_close_to_the_plain_one(self, pictures, tmp_path, options):
        recipe = tiny_recipe(pictures)
        recipe["model"]["drop_path_rate"] = 0.0
        pretrain(recipe, tmp_path / "plain")
        pretrain(recipe, tmp_path / "other", **options)
        plain, other = (log_lines(tmp_path / name, 2)[0] for name in ("plain", "other"))
        for name in ("loss_pose", "loss_patch", "loss_reconstruction"):
            assert other[name] == pytest.approx(plain[name], rel=2e-2)

    @pytest.mark.slow
    def test_compiled(self, pictures, tmp_path):
        recipe = tiny_recipe(pictures)
        recipe["model"]["drop_path_rate"] = 0.0
        pretrain(recipe, tmp_path / "plain")
        pretrain(recipe, tmp_path / "compiled", torch_compile=True)
        plain, compiled = (log_lines(tmp_path / name, 2)[-1]["loss"] for name in ("plain", "compiled"))
        assert compiled == pytest.approx(plain, rel=1e-3)
        assert HandMIMForMeshEstimation.from_pretrained(tmp_path / "compiled" / "release", **HEAD)

    def test_tensorboard(self, pictures, tmp_path, monkeypatch):
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            with pytest.raises(RecipeError, match=r"tensorboard.*handmim\[train\].*report_to=none"):
                pretrain(tiny_recipe(pictures, report_to="tensorboard"), tmp_path)
            return
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
        pretrain(tiny_recipe(pictures, report_to="tensorboard"), tmp_path / "out")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (events,) = (tmp_path / "board").rglob("events*")
        board = EventAccumulator(str(events)).Reload()
        assert {"train/loss_pose", "train/class_entropy", "train/feature_spread", "train/weight_decay"} <= set(
            board.Tags()["scalars"]
        )

    def test_timm_weights_start_teacher_and_student(self, tmp_path):
        import timm
        from safetensors.torch import save_file

        vit = timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=1, num_classes=0
        )
        save_file(vit.state_dict(), tmp_path / "vit.safetensors")
        model = build_network(TINY | {"timm": str(tmp_path / "vit.safetensors")}, TINY_METHOD, 0)
        for network in (model.backbone, model.student):
            assert torch.equal(network.encoder.pos_embed, vit.pos_embed)


class TestResume:
    @pytest.mark.parametrize("method", ["handmim", "peclr"])
    def test_is_exact(self, pictures, tmp_path, method):
        recipe = tiny_recipe(pictures, method, max_steps=5, save_steps=3, learning_rate=0.5, seed=3, bf16=True)
        whole = pretrain(recipe, tmp_path / "whole")
        shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "parts" / "checkpoint-3")
        parts = pretrain(recipe, tmp_path / "parts")
        values = zip(whole.state_dict().items(), parts.state_dict().values(), strict=True)
        assert all(torch.equal(value, other) for (_, value), other in values)
        lines = [log_lines(tmp_path / run, 5)[-1] for run in ("whole", "parts")]
        assert lines[0] == lines[1] and lines[0]["epoch"] > 2

    @pytest.mark.slow
    @pytest.mark.parametrize("processes", [1, 2])
    def test_killed_run_goes_on_bit_for_bit(self, pictures, tmp_path, processes):
        """In the third epoch, with workers that outlive epochs, accumulation, and pictures that cannot be read."""
        shutil.copytree(pictures, tmp_path / "pictures")
        (tmp_path / "pictures" / "broken.png").write_bytes(b"\x89PNG\r\n")
        recipe = tiny_recipe(
            tmp_path / "pictures", max_steps=7, save_steps=2, save_total_limit=5, seed=5, learning_rate=0.5,
            gradient_accumulation_steps=2, dataloader_num_workers=1, dataloader_persistent_workers=True,
            ddp_backend="gloo",
        )  # fmt: skip
        runs = Runs(tmp_path, "pretraining", "PreTrainer", "pretrain", recipe)
        runs.start("whole", processes=processes)
        assert runs.start("parts", deadly=5, processes=processes) != 0
        assert last_checkpoint(tmp_path / "parts").endswith("checkpoint-4")
        runs.start("parts", processes=processes)
        assert runs.same_bits("whole", "parts", ["checkpoint-7/model.safetensors", "release/model.safetensors"])

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["handmim", "ibot", "peclr"])
    def test_two_processes_equal_one(self, tmp_path, method):
        """The same global batches: the losses of twenty steps agree to float tolerance."""
        recipe = tiny_recipe(None, method, max_steps=20, learning_rate=0.1, warmup_epochs=1, ddp_backend="gloo")
        recipe["model"]["drop_path_rate"] = 0.0
        runs = Runs(tmp_path, "pretraining", "PreTrainer", "pretrain", recipe)
        runs.start("one")
        runs.start("two", processes=2)
        one, two = ([line["loss"] for line in log_lines(tmp_path / run, 20)] for run in ("one", "two"))
        assert len(one) == 20 and max(one) - min(one) > 1e-3
        np.testing.assert_allclose(two, one, rtol=1e-4)
