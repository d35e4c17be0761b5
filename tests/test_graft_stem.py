"""Another stem before a trained network: everything behind it is kept, and the result is one to go on from."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conversion.graft_stem import STEMS, graft
from handmim.configuration_handmim import HandMIMConfig
from handmim.configuration_hiu_dmtl import HIUDMTLConfig
from handmim.modeling_handmim import HandMIMForMeshEstimation
from handmim.modeling_hiu_dmtl import HIUDMTLForHandUnderstanding
from handmim.training.starting_points import build_model

SMALL = {
    "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1, "feature_layers": [1], "image_size": 32,
    "num_feedback": 1, "feature_channels": [16], "point_channels": [16, 8], "regressor_hidden_size": 32,
}  # fmt: skip


@pytest.fixture()
def lite0(tmp_path: Path) -> tuple[str, dict[str, Tensor]]:
    torch.manual_seed(1)
    state = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    save_file(state, tmp_path / "lite0.safetensors")
    return str(tmp_path / "lite0.safetensors"), state


def test_all_but_the_stem_is_kept(tmp_path: Path, lite0: tuple[str, dict[str, Tensor]]) -> None:
    torch.manual_seed(0)
    old = HandMIMForMeshEstimation(HandMIMConfig(**SMALL))
    file, state = lite0
    new = graft(old, 64, file)
    assert new.config.stem == "efficientnet" and new.config.image_size == 64
    positions, before = (model.backbone.encoder.pos_embed for model in (new, old))
    assert positions.shape == (1, 17, 64) and torch.equal(positions[:, 0], before[:, 0])
    kept = {name for name in old.state_dict() if not name.startswith((*STEMS, "backbone.encoder.pos_embed"))}
    assert kept and all(torch.equal(new.state_dict()[name], old.state_dict()[name]) for name in kept)
    assert torch.equal(new.stem_layers[0][0].weight, state["conv_stem.weight"])
    new.save_pretrained(tmp_path / "grafted")
    model = build_model({"checkpoint": str(tmp_path / "grafted"), "frozen_stem": 3}, seed=0)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).vertices.isfinite().all()


def test_a_stem_of_one_family_goes_before_the_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    HandMIMForMeshEstimation(HandMIMConfig(**SMALL | {"stem": "efficientnet"})).save_pretrained(tmp_path)
    stem = load_file(tmp_path / "model.safetensors")
    options = {"hidden_size": 16, "num_stacks": 1, "encoder_levels": 2, "regressor_channels": [16, 16]}
    old = HIUDMTLForHandUnderstanding(HIUDMTLConfig(image_size=32, **options))
    new = graft(old, 64, str(tmp_path / "model.safetensors"))
    assert new.config.stem == "efficientnet" and new.config.image_size == 64
    kept = {name for name in old.state_dict() if not name.startswith(STEMS)}
    assert kept and all(torch.equal(new.state_dict()[name], old.state_dict()[name]) for name in kept)
    layers = new.stem_layers.state_dict()
    assert layers and all(
        torch.equal(value, stem[f"backbone.encoder.patch_embed.layers.{name}"])
        for name, value in layers.items()
        if name.endswith("weight")
    )
