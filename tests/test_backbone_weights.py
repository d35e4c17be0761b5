"""Transformers of every published layout give, inside our backbone, the features that they give themselves."""

import argparse
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from handmim import HandMIMConfig, HandMIMForMeshEstimation, HandMIMForPreTraining, HandMIMModel
from handmim import backbone_weights as weights
from handmim.backbone_weights import HALF, IMAGENET, WeightsError, load_backbone_weights, timm_state_dict
from handmim.cli import main

SMALL = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 4, "feature_layers": [1, 2, 3, 4]}
State = dict[str, Tensor]


def source_model(**changes: Any) -> nn.Module:
    """timm's transformer with random weights and no classifier: every layer's output counts."""
    torch.manual_seed(5)
    options: dict[str, Any] = {
        "img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 1, "num_classes": 0,
    }  # fmt: skip
    model = timm.models.vision_transformer.VisionTransformer(**options | changes).eval()
    for name, value in model.named_parameters():
        nn.init.normal_(value, std=0.2, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model


def backbone(image_size: int = 32, patch_size: int = 16) -> HandMIMModel:
    torch.manual_seed(0)
    return HandMIMModel(HandMIMConfig(image_size=image_size, patch_size=patch_size, **SMALL)).eval()


def difference(model: nn.Module, ours: HandMIMModel, normalisation: weights.Normalisation) -> float:
    """Largest distance of the tokens, each network seeing the same picture as it wants it, over their size."""
    size = ours.config.image_size
    picture = torch.rand(2, 3, size, size)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in normalisation)
    with torch.no_grad():
        expected = model.forward_features((picture - mean) / deviation)
        found = ours(2 * picture - 1).last_hidden_state
    return float((found - expected).abs().max() / expected.abs().max())


def random_parts(**shapes: tuple[int, ...]) -> State:
    return {name.replace("__", "."): torch.randn(shape) for name, shape in shapes.items()}


# Each layout as its authors' code writes it.


def timm_layout(state: State) -> Any:
    return state | random_parts(head__weight=(7, 64), head__bias=(7,))


def mae_layout(state: State) -> Any:
    decoder = random_parts(
        mask_token=(1, 1, 32), decoder_pos_embed=(1, 5, 32), decoder_embed__weight=(32, 64),
        decoder_blocks__0__norm1__weight=(32,), decoder_pred__bias=(768,),
    )  # fmt: skip
    arguments = argparse.Namespace(model="mae_vit_base_patch16", lr=1e-3)
    return {"model": state | decoder, "optimizer": {"state": {}}, "epoch": 799, "args": arguments}


def dino_layout(state: State) -> Any:
    head = random_parts(head__mlp__0__weight=(8, 64), head__last_layer__weight_g=(9, 1))
    student = {f"module.backbone.{name}": torch.randn_like(value) for name, value in state.items()}
    teacher = {f"backbone.{name}": value for name, value in state.items()} | head
    return {"student": student, "teacher": teacher, "epoch": 3, "args": argparse.Namespace(arch="vit_small")}


def ibot_layout(state: State) -> Any:
    return {"state_dict": state | random_parts(masked_embed=(1, 64))}


def dinov2_layout(state: State) -> Any:
    return state | random_parts(mask_token=(1, 64))


def dinov2_training_layout(state: State) -> Any:
    """Blocks in chunks of two; heads beside the backbone."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            name = f"blocks.{int(number) // 2}.{number}.{rest}"
        renamed[f"backbone.{name}"] = value
    heads = random_parts(dino_head__mlp__0__weight=(8, 64), ibot_head__last_layer__weight_v=(9, 8))
    return {"teacher": renamed | heads | {"backbone.mask_token": torch.randn(1, 64)}}


DINOV2 = {"init_values": 1e-5, "patch_size": 14, "img_size": 28}
LAYOUTS: dict[str, tuple[Callable[[State], Any], str, dict[str, Any], str]] = {
    "timm": (timm_layout, "timm", {}, "vit.pth"),
    "mae": (mae_layout, "mae", {}, "checkpoint-799.pth"),
    "mae without decoder": (lambda state: {"model": state}, "mae", {}, "mae_pretrain_vit_base.pth"),
    "dino": (lambda state: state, "dino", {}, "dino_deitsmall16_pretrain.pth"),
    "dino training": (dino_layout, "dino", {}, "dino_vitbase16_pretrain_full_checkpoint.pth"),
    "ibot": (ibot_layout, "ibot", {}, "checkpoint_teacher.pth"),
    "dinov2": (dinov2_layout, "dinov2", DINOV2, "dinov2_vits14_pretrain.pth"),
    "dinov2 training": (dinov2_training_layout, "dinov2", DINOV2, "teacher_checkpoint.pth"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_are_the_sources(layout: str, tmp_path: Path) -> None:
    write, kind, options, name = LAYOUTS[layout]
    model = source_model(**options)
    torch.save(write(dict(model.state_dict())), tmp_path / name)
    ours = backbone(image_size=options.get("img_size", 32), patch_size=options.get("patch_size", 16))
    report = load_backbone_weights(ours, tmp_path / name)
    assert report.kind == kind and report.normalisation == (HALF if kind == "timm" else IMAGENET)
    assert difference(model, ours, report.normalisation) < 2e-5
    assert difference(source_model(**options | {"depth": 3}), ours, report.normalisation) > 1e-2
    # no key is lost: every one of the source's is used, changed or skipped for a reason
    told = {*report.used, *report.changed, *report.skipped}
    assert {name for name in told if name.startswith("blocks.")} == {
        name for name in model.state_dict() if name.startswith("blocks.")
    }
    assert not set(report.used) & report.changed.keys() and ("classifier" in str(report)) == (layout == "timm")


def test_safetensors_and_a_named_kind(tmp_path: Path) -> None:
    model = source_model()
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    ours = backbone()
    assert load_backbone_weights(ours, f"dino:{tmp_path / 'vit.safetensors'}").kind == "dino"
    assert difference(model, ours, IMAGENET) < 2e-5 < 1e-3 < difference(model, ours, HALF)
    load_backbone_weights(ours, tmp_path / "vit.safetensors")
    assert difference(model, ours, HALF) < 2e-5
    with pytest.raises(WeightsError, match="one of timm, mae.*'moco'"):
        load_backbone_weights(ours, tmp_path / "vit.safetensors", "moco")


def test_positions_without_a_class_row(tmp_path: Path) -> None:
    model = source_model(no_embed_class=True)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    ours = backbone()
    report = load_backbone_weights(ours, tmp_path / "vit.safetensors")
    assert difference(model, ours, HALF) < 2e-5 and "zero row" in report.changed["pos_embed"]


def test_grids_and_patches_are_resampled_and_told(tmp_path: Path) -> None:
    model = source_model(**DINOV2 | {"img_size": 56})
    torch.save(dinov2_layout(dict(model.state_dict())), tmp_path / "dinov2_vits14_pretrain.pth")
    ours = backbone(image_size=28, patch_size=14)
    report = load_backbone_weights(ours, tmp_path / "dinov2_vits14_pretrain.pth")
    assert "from 4 x 4 to 2 x 2" in report.changed["pos_embed"] and "proj" in report.changed["blocks.0.ls1.gamma"]
    expected = timm.layers.resample_abs_pos_embed(model.pos_embed, [2, 2])
    torch.testing.assert_close(ours.encoder.pos_embed, expected)
    ours = backbone(image_size=64)
    report = load_backbone_weights(ours, tmp_path / "dinov2_vits14_pretrain.pth")
    told = report.changed["patch_embed.proj.weight"]
    assert "from patches of 14 to 16" in told and "patch_size=14 keeps it" in told and "[-1, 1]" in told
    # smooth pictures look the same in patches of either size
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 3, 3), (560, 560), mode="bicubic")
    mean, deviation = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    small, large = (torch.nn.functional.interpolate(smooth, (side, side), mode="area") for side in (56, 64))
    with torch.no_grad():
        expected = model.patch_embed((small - mean) / deviation)
        found = ours.encoder.patch_embed(2 * large - 1).flatten(1, 2)
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, r"lacks.*blocks\.3"),
        ({"depth": 5}, r"further parts.*blocks\.4"),
        ({"embed_dim": 128}, "other shapes.*128"),
        ({"reg_tokens": 2}, "register tokens"),
        ({"qk_norm": True}, "further parts.*q_norm"),
        ({"class_token": False, "global_pool": "avg"}, "class token"),
        ({"global_pool": "avg", "num_classes": 5, "fc_norm": True}, "follows the pooling"),
        ({"pre_norm": True}, "further parts.*norm_pre|lacks"),
    ],
)
def test_what_would_compute_something_else_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    save_file(source_model(**changes).state_dict(), tmp_path / "vit.safetensors")
    ours = backbone()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_backbone_weights(ours, tmp_path / "vit.safetensors")
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("broken", ["cut", "nan", "no square", "half"])
def test_damaged_weights(broken: str, tmp_path: Path) -> None:
    state = dict(source_model().state_dict())
    if broken == "cut":
        del state["blocks.2.mlp.fc1.bias"]
    elif broken == "nan":
        state["norm.weight"] = state["norm.weight"] / 0
    elif broken == "no square":
        state["pos_embed"] = torch.zeros(1, 8, 64)
    else:
        state["blocks.0.ls1.gamma"] = torch.ones(32)
    torch.save(state, tmp_path / "vit.pth")
    wanted = {"cut": "lacks.*fc1.bias", "nan": "not finite.*norm", "no square": "8 rows", "half": "ls1"}[broken]
    with pytest.raises(WeightsError, match=f"vit.pth.*{wanted}"):
        load_backbone_weights(backbone(), tmp_path / "vit.pth")


def test_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"model": {"cls_token": torch.zeros(1)}, "args": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"12")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"a": torch.zeros(3)}, tmp_path / "half.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "half.pth").read_bytes()[100:])
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"a": 3}}, tmp_path / "number.pth")
    torch.save({"model": {"a": {"b": torch.zeros(1)}}}, tmp_path / "nested.pth")
    torch.save({"a": torch.zeros(1).expand(10**9, 10**9)}, tmp_path / "endless.pth")
    for name in (
        "evil.pth",
        "cut.safetensors",
        "empty.pth",
        "half.pth",
        "list.pth",
        "number.pth",
        "nested.pth",
        "endless.pth",
    ):
        with pytest.raises(WeightsError, match=name):
            load_backbone_weights(backbone(), tmp_path / name)
    assert not (tmp_path / "executed").exists()
    torch.save({"a": torch.zeros(500_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "packed.pth", "w", 8) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / "packed.pth").stat().st_size < 100_000
    monkeypatch.setattr(weights, "MAX_WEIGHT_BYTES", 1_000_000)
    with pytest.raises(WeightsError, match="packed.pth is larger than"):
        load_backbone_weights(backbone(), tmp_path / "packed.pth")
    monkeypatch.setattr(weights, "MAX_WEIGHT_BYTES", 1)
    with pytest.raises(WeightsError, match="larger than"):
        load_backbone_weights(backbone(), tmp_path / "list.pth")


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name timm loads, offline from its cache; here from a stand-in, which knows its own normalisation."""
    asked = []

    def create_model(name: str, **_: Any) -> nn.Module:
        asked.append(name)
        model = source_model()
        model.pretrained_cfg = {"mean": IMAGENET[0], "std": IMAGENET[1]}
        return model

    monkeypatch.setattr(timm, "create_model", create_model)
    ours = backbone()
    report = load_backbone_weights(ours, "mae-base")
    assert asked == ["vit_base_patch16_224.mae"] and report.kind == "mae"
    assert difference(source_model(), ours, IMAGENET) < 2e-5
    assert load_backbone_weights(ours, "vit_small_patch16_224.dino").kind == "dino"
    for wrong in ("no_such_model", "ibot-base", "missing.pth"):
        with pytest.raises(WeightsError, match=f"got '{wrong}'"):
            load_backbone_weights(ours, wrong)
    residual = HandMIMModel(HandMIMConfig(image_size=32, stem="residual", **SMALL | {"hidden_size": 96}))
    with pytest.raises(WeightsError, match="residual"):
        load_backbone_weights(residual, "mae-base")
    with pytest.raises(WeightsError, match="residual"):
        timm_state_dict(residual)


@pytest.mark.parametrize("model_class", [HandMIMModel, HandMIMForMeshEstimation, HandMIMForPreTraining])
def test_back_to_timm(model_class: type) -> None:
    torch.manual_seed(3)
    model = model_class(HandMIMConfig(image_size=32, **SMALL)).eval()
    peer = source_model()
    peer.load_state_dict(timm_state_dict(model))
    assert difference(peer, getattr(model, "backbone", model), HALF) < 2e-5


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In, and out again: the same weights; the folder is one that fine-tuning starts from."""
    options = {"embed_dim": 192, "depth": 12, "num_heads": 3}
    model = source_model(**options)
    save_file(timm_layout(dict(model.state_dict())), tmp_path / "vit.safetensors")
    arguments = ["--size", "tiny", "--image-size", "32", "--out", str(tmp_path / "in")]
    save_file({**model.state_dict(), "head.weight": torch.zeros(7, 192)}, tmp_path / "vit.safetensors")
    assert main(["convert", str(tmp_path / "vit.safetensors"), *arguments]) == 0
    assert "not used  head.weight: classifier" in capsys.readouterr().out
    from handmim.training.starting_points import build_model

    tuned = build_model({"pretrained": str(tmp_path / "in")}, seed=0).eval()
    assert difference(model, tuned.backbone, HALF) < 2e-5
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(tmp_path / "in"), "--to", "timm", "--out", str(out)]) == 0
    back = load_file(out)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    assert main(["convert", str(tmp_path / "in"), "--to", "timm", "--out", str(tmp_path / "out.pth")]) == 1
    assert main(["convert", str(tmp_path / "nothing"), "--size", "tiny", "--out", str(tmp_path / "x")]) == 1
    assert "got '" in capsys.readouterr().err
