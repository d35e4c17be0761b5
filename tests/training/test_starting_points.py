"""Backbones from timm and from pre-training load whole or not at all; frozen blocks stay as they are."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from handmim import HandMIMConfig, HandMIMForMeshEstimation
from handmim.checkpoints import EMBEDDED_CHECKPOINT
from handmim.training.freezing import freeze_blocks
from handmim.training.optim import layer_of, parameter_groups
from handmim.training.recipe import RecipeError
from handmim.training.starting_points import build_model

SMALL = {
    "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 3, "feature_layers": [1], "image_size": 32,
    "num_feedback": 1, "feature_channels": [16], "point_channels": [16, 8], "regressor_hidden_size": 32,
}  # fmt: skip


def timm_vit(**changes) -> torch.nn.Module:
    torch.manual_seed(5)
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 1, "num_classes": 7}
    return timm.models.vision_transformer.VisionTransformer(**options | changes)


def small_section(**changes) -> dict:
    return {"size": "small", **SMALL, **changes}


class TestTimm:
    @pytest.mark.parametrize("suffix", ["safetensors", "pth"])
    def test_file_gives_the_same_tokens(self, tmp_path, suffix):
        source = timm_vit()
        path = tmp_path / f"vit.{suffix}"
        if suffix == "pth":  # nested and prefixed, as MAE, DINO and DDP write them
            torch.save({"model": {f"module.{name}": value for name, value in source.state_dict().items()}}, path)
        else:
            save_file(source.state_dict(), path)
        model = build_model(small_section(timm=str(path)), seed=0).eval()
        pixels = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            expected = source.eval().forward_features(pixels)
            torch.testing.assert_close(model.backbone(pixels).last_hidden_state, expected)

    def test_position_embeddings_are_resampled(self, tmp_path):
        save_file(timm_vit(img_size=64).state_dict(), tmp_path / "vit.safetensors")
        model = build_model(small_section(timm=str(tmp_path / "vit.safetensors")), seed=0)
        assert model.backbone.encoder.pos_embed.shape == (1, 5, 64)

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"depth": 2}, r"lacks.*blocks\.2"),
            ({"embed_dim": 128}, "other shapes.*128"),
            ({"qk_norm": True}, "further parts.*q_norm"),
            ({"reg_tokens": 2}, "register tokens"),
        ],
    )
    def test_other_architectures_are_refused(self, tmp_path, changes, message):
        save_file(timm_vit(**changes).state_dict(), tmp_path / "vit.safetensors")
        with pytest.raises(RecipeError, match=message):
            build_model(small_section(timm=str(tmp_path / "vit.safetensors")), seed=0)

    def test_only_for_new_networks(self):
        with pytest.raises(RecipeError, match="new network"):
            build_model({"checkpoint": EMBEDDED_CHECKPOINT.name, "timm": "x.pth"}, seed=0)


class TestRevisions:
    @pytest.mark.parametrize(
        "start, message",
        [
            ({"size": "small"}, "'v1' for none"),
            ({"checkpoint": EMBEDDED_CHECKPOINT.name}, "'v1' for handmim-tiny-open"),
            ({"pretrained": str(EMBEDDED_CHECKPOINT)}, "'v1' for .*handmim-tiny-open"),
            ({"checkpoint": "org/name", "revision": 123}, "write it in quotes, got 123"),
        ],
    )
    def test_only_what_is_on_the_hub_has_them(self, start, message):
        with pytest.raises(RecipeError, match=message):
            build_model({"revision": "v1"} | start, seed=0)


class TestCheckpoints:
    @pytest.fixture()
    def saved(self, tmp_path):
        model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL))
        model.save_pretrained(tmp_path / "mesh")
        backbone = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
        model.save_pretrained(tmp_path / "backbone", state_dict=dict(backbone))
        config = tmp_path / "backbone" / "config.json"
        config.write_text(config.read_text().replace("HandMIMForMeshEstimation", "HandMIMForPreTraining"))
        backbone.popitem()
        model.save_pretrained(tmp_path / "cut", state_dict=dict(backbone))
        head = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone.")}
        model.save_pretrained(tmp_path / "head", state_dict=head)
        return tmp_path, model

    def test_whole_and_backbone(self, saved):
        folder, model = saved
        same = build_model({"checkpoint": str(folder / "mesh")}, seed=3)
        assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))
        first, again, other = (build_model({"pretrained": str(folder / "backbone")}, seed=s) for s in (3, 3, 4))
        assert torch.equal(first.backbone.encoder.pos_embed, model.backbone.encoder.pos_embed)
        assert torch.equal(first.initial.hidden1.weight, again.initial.hidden1.weight)
        assert not torch.equal(first.initial.hidden1.weight, other.initial.hidden1.weight)

    def test_incomplete_ones_are_refused(self, saved):
        folder, _ = saved
        for name in ("cut", "head"):
            for start in ("pretrained", "checkpoint"):
                with pytest.raises(RecipeError, match="lacks"):
                    build_model({start: str(folder / name)}, seed=0)
        with pytest.raises(RecipeError, match="model.pretrained"):
            build_model({"checkpoint": str(folder / "backbone")}, seed=0)

    def test_embedded_checkpoint_by_name(self):
        section = {"checkpoint": EMBEDDED_CHECKPOINT.name}
        weights = build_model(section, seed=0).config.loss_weights
        model = build_model(section | {"loss_weights": {"betas": 3.0}}, seed=0)
        assert model.dtype == torch.float32 and model.config.loss_weights == weights | {"betas": 3.0}
        with pytest.raises(Exception, match=r"got \['beta'\]"):
            build_model(section | {"loss_weights": {"beta": 3.0}}, seed=0)


class TestFreezing:
    def test_frozen_blocks_stay_in_evaluation(self):
        model = build_model(small_section(frozen_blocks=2, drop_path_rate=0.5), seed=0).train()
        encoder = model.backbone.encoder
        frozen = [encoder.patch_embed, *encoder.blocks[:2]]
        assert not any(module.training for part in frozen for module in part.modules())
        assert encoder.blocks[2].training and model.initial.training
        free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert not any(name.startswith(("backbone.encoder.patch_embed", "backbone.encoder.blocks.1")) for name in free)
        assert not free & {"backbone.encoder.cls_token", "backbone.encoder.pos_embed"}
        assert "backbone.encoder.blocks.2.norm1.weight" in free and "backbone.encoder.norm.weight" in free

    def test_nothing_and_everything(self):
        model = build_model(small_section(), seed=0)
        assert all(parameter.requires_grad for parameter in model.parameters())
        freeze_blocks(model, 3)
        assert {name for name, p in model.backbone.named_parameters() if p.requires_grad} == {
            "encoder.norm.weight",
            "encoder.norm.bias",
        }

    def test_residual_stem_keeps_its_statistics(self):
        section = small_section(stem="residual", hidden_size=96, num_attention_heads=1, frozen_blocks=1)
        model = build_model(section, seed=0).train()
        before = {name: value.clone() for name, value in model.backbone.encoder.patch_embed.state_dict().items()}
        model(torch.randn(2, 3, 32, 32), labels={"joints": torch.randn(2, 21, 3)}).loss.backward()
        after = model.backbone.encoder.patch_embed.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


class TestFrozenStem:
    SECTION = small_section(stem="efficientnet", num_hidden_layers=1)
    HIU_DMTL = {
        "family": "hiu-dmtl", "stem": "efficientnet", "image_size": 32, "hidden_size": 16, "num_stacks": 1,
        "encoder_depth": 1, "encoder_levels": 1, "regressor_channels": [16, 16], "regressor_hidden_size": 32,
    }  # fmt: skip

    @pytest.mark.parametrize(("section", "behind"), [(SECTION, "encoder.patch_embed.proj"), (HIU_DMTL, "stem.pyramid")])
    def test_first_parts_keep_weights_and_statistics(self, section, behind):
        model = build_model(section | {"frozen_stem": 3}, seed=0).train()
        layers, after = model.stem_layers, model.backbone.get_submodule(behind)
        states = [{name: value.clone() for name, value in module.state_dict().items()} for module in (layers, after)]
        optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
        model(torch.randn(2, 3, 32, 32), labels={"joints": torch.randn(2, 21, 3)}).loss.backward()
        optimizer.step()
        changed, changed_after = (
            {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
            for module, before in zip((layers, after), states, strict=True)
        )
        assert {name.split(".")[0] for name in changed} == {"3", "4", "5"}
        assert changed_after

    @pytest.mark.parametrize("parts", [7, -1, True, "2"])
    def test_other_numbers_are_refused(self, parts):
        with pytest.raises(RecipeError, match="model.frozen_stem must be a number from 0 to 6 with this stem"):
            build_model(self.SECTION | {"frozen_stem": parts}, seed=0)

    def test_a_patch_projection_has_no_parts(self):
        with pytest.raises(RecipeError, match="from 0 to 0 with this stem, got 1"):
            build_model(small_section(frozen_stem=1), seed=0)
        model = build_model(small_section(frozen_stem=0), seed=0)
        assert all(parameter.requires_grad for parameter in model.parameters())

    @pytest.mark.parametrize("section", [SECTION, HIU_DMTL])
    def test_weights_of_efficientnet_start_it(self, tmp_path, section):
        source = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        save_file(source.state_dict(), tmp_path / "lite0.safetensors")
        model = build_model(section | {"timm": str(tmp_path / "lite0.safetensors")}, seed=0)
        assert torch.equal(model.stem_layers[0][0].weight, source.conv_stem.weight)
        save_file(timm_vit().state_dict(), tmp_path / "vit.safetensors")
        with pytest.raises(RecipeError, match=r"model\.timm: .*vit\.safetensors is not EfficientNet-Lite0"):
            build_model(self.SECTION | {"timm": str(tmp_path / "vit.safetensors")}, seed=0)

    @pytest.mark.parametrize("section", [SECTION, HIU_DMTL])
    def test_a_checkpoint_lends_its_stem(self, section):
        model = build_model(section | {"timm": EMBEDDED_CHECKPOINT.name}, seed=0)
        lender = HandMIMForMeshEstimation.from_pretrained(EMBEDDED_CHECKPOINT, dtype=torch.float32)
        for name, value in lender.stem_layers.state_dict().items():
            assert torch.equal(model.stem_layers.state_dict()[name], value), name


class TestLayerDecay:
    def test_rates(self):
        model = build_model(small_section(), seed=0)
        groups = parameter_groups(model, 0.05, learning_rate=1.0, layer_decay=0.5)
        rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        named = dict(model.named_parameters())
        assert len(rates) == len(named)
        expected = {
            "backbone.encoder.patch_embed.proj.weight": 0.5**4, "backbone.encoder.pos_embed": 0.5**4,
            "backbone.encoder.blocks.0.attn.qkv.weight": 0.5**3, "backbone.encoder.blocks.2.mlp.fc1.bias": 0.5,
            "backbone.encoder.norm.weight": 1.0, "initial.hidden1.weight": 1.0,
        }  # fmt: skip
        assert {name: rates[id(named[name])] for name in expected} == expected
        decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        assert decays[id(named["backbone.encoder.pos_embed"])] == 0
        assert decays[id(named["initial.hidden1.weight"])] == 0.05

    def test_layers_by_name(self):
        assert layer_of("module.backbone.encoder.blocks.11.norm1.weight", 13) == 12
        assert layer_of("encoder.cls_token", 13) == 0 and layer_of("rectifiers.0.reduce1.weight", 13) == 13


class TestTrainedParts:
    """They learn, and nothing else does, of either family."""

    HIU = {
        "family": "hiu-dmtl", "image_size": 32, "hidden_size": 8, "num_stacks": 2, "encoder_depth": 1,
        "encoder_levels": 1, "regressor_channels": [8, 8], "regressor_hidden_size": 16,
    }  # fmt: skip

    @pytest.mark.parametrize(
        ("section", "parts"),
        [
            (small_section(stem="residual", hidden_size=96), ["upsample", "initial", "rectifiers"]),
            (small_section(score_head=True), ["score"]),
            (HIU, ["regressor"]),
            (HIU | {"score_head": True, "score_hidden_size": 8}, ["score"]),
        ],
    )
    def test_they_alone_change(self, section, parts):
        model = build_model(section | {"trained_parts": parts}, seed=0).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
        size = model.config.image_size
        labels = {"keypoints_2d": torch.full((2, 21, 2), size / 4), "hand": torch.ones(2)}
        labels["joints"] = torch.randn(2, 21, 3, generator=torch.Generator().manual_seed(0))
        pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        model(pixel_values=pixels, labels=labels).loss.backward()
        optimizer.step()
        changed = {name.split(".")[0] for name, value in model.state_dict().items() if not value.equal(before[name])}
        assert changed == set(parts)

    def test_a_part_of_another_form_starts_anew(self, tmp_path):
        old = HandMIMForMeshEstimation(HandMIMConfig.from_size("small", **SMALL, score_head=True))
        old.save_pretrained(tmp_path)
        changes = {"checkpoint": str(tmp_path), "score_hidden_size": 8}
        model = build_model(changes | {"trained_parts": ["score"]}, seed=0)
        assert [layer.weight.shape for layer in (model.score[0], model.score[2])] == [(8, 64), (1, 8)]
        assert torch.equal(model.initial.hidden1.weight, old.initial.hidden1.weight)
        with pytest.raises(RecipeError, match=r"lacks 4 weights of this model, score\.0\.bias"):
            build_model(changes, seed=0)

    @pytest.mark.parametrize(("part", "name"), [("score", "score.0.bias"), ("backbone", "backbone.encoder.cls_token")])
    def test_a_part_that_is_cut_does_not(self, tmp_path, part, name):
        model = HandMIMForMeshEstimation(
            HandMIMConfig.from_size("small", **SMALL, score_head=True, score_hidden_size=8)
        )
        weights = {key: value for key, value in model.state_dict().items() if key != name}
        model.save_pretrained(tmp_path, state_dict=weights)
        with pytest.raises(RecipeError, match=f"lacks 1 weights of this model, {name}"):
            build_model({"checkpoint": str(tmp_path), "trained_parts": [part]}, seed=0)

    def test_what_cannot_be_is_told(self):
        for parts in ("score", [], ["score"], ["hand_model"], [3], [["backbone"]]):
            with pytest.raises(RecipeError, match="trained_parts must be some of backbone, regressor, got"):
                build_model(self.HIU | {"trained_parts": parts}, seed=0)
