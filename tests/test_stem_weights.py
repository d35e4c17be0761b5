"""EfficientNet-Lite0 goes into our stem, from timm's names and from the package's, and nothing else does."""

import re

import pytest
import timm
import torch
from torch import Tensor, nn

from handmim.backbone_weights import WeightsError
from handmim.configuration_handmim import HandMIMConfig
from handmim.modeling_handmim import HandMIMModel
from handmim.stem_weights import load_stem_weights, stem_name

SMALL = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1, "feature_layers": [1], "image_size": 64}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """EfficientNet-Lite0 whose batch norms do something."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 64, 64))
    return model.eval()


def backbone(stem: str = "efficientnet") -> HandMIMModel:
    torch.manual_seed(1)
    return HandMIMModel(HandMIMConfig(stem=stem, **SMALL)).eval()


def package_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the package efficientnet-lite-pytorch names them: blocks counted through, underscores before."""
    counts = [1 + max(int(n.split(".")[2]) for n in state if n.startswith(f"blocks.{s}.")) for s in range(7)]
    renamed = {}
    for name, value in state.items():
        words = name.split(".")
        if words[0] != "blocks":
            first = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            words[0] = first.get(words[0], "_fc")
        else:
            stage, block, part = int(words[1]), int(words[2]), words[3]
            wide = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
            wide |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
            narrow = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
            words = ["_blocks", str(sum(counts[:stage]) + block), (wide if stage else narrow)[part], *words[4:]]
        renamed[".".join(words)] = value
    return renamed


@pytest.mark.parametrize("names", ["timm", "package"])
def test_stem_computes_what_the_network_does(tmp_path, network, names):
    state = network.state_dict() if names == "timm" else package_state(network.state_dict())
    torch.save(state, tmp_path / "lite0.pth")
    ours = backbone()
    projection = ours.encoder.patch_embed.proj.weight.clone()
    load_stem_weights(ours, tmp_path / "lite0.pth")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.blocks[:5](network.bn1(network.conv_stem(pixels)))
        assert torch.equal(ours.encoder.patch_embed.layers(pixels), expected)
    assert expected.shape == (2, 112, 4, 4)
    assert torch.equal(ours.encoder.patch_embed.proj.weight, projection)


def test_timm_is_asked_by_name(monkeypatch, network):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **_: asked.append(name) or network)
    ours = backbone()
    load_stem_weights(ours, "timm")
    assert asked == ["tf_efficientnet_lite0"]
    assert torch.equal(ours.encoder.patch_embed.layers[0][0].weight, network.conv_stem.weight)


def test_timm_without_weights(monkeypatch):
    def create_model(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(WeightsError, match="could not load 'tf_efficientnet_lite0': no network; give a file"):
        load_stem_weights(backbone(), "timm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.2.0.bn1.weight"), r"lacks.*3\.0\.bn1\.weight \(1 of"),
        (lambda state: state.update(conv_stem=state.pop("conv_stem.weight")), r"0\.0\.weight"),
        (lambda state: state.update({"bn1.bias": torch.zeros(31)}), r"0\.1\.bias"),
        (lambda state: state.update({"bn1.bias": torch.full((32,), float("nan"))}), r"finite.*0\.1\.bias"),
    ],
)
def test_other_weights_are_refused_whole(tmp_path, network, change, message):
    state = dict(network.state_dict())
    change(state)
    torch.save(state, tmp_path / "lite0.pth")
    ours = backbone()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_stem_weights(ours, tmp_path / "lite0.pth")
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


def test_another_stem_or_no_file(tmp_path):
    with pytest.raises(WeightsError, match="fit stem='efficientnet', not 'patch'"):
        load_stem_weights(backbone("patch"), "timm")
    with pytest.raises(WeightsError, match=re.escape(f"no file {tmp_path / 'none.pth'}")):
        load_stem_weights(backbone(), tmp_path / "none.pth")


def test_names_beyond_the_stem():
    assert stem_name("blocks.5.0.conv_pw.weight") is None and stem_name("_blocks.11._bn0.weight") is None
    assert stem_name("blocks.4.2.bn3.bias") == stem_name("_blocks.10._bn2.bias") == "5.2.bn3.bias"
    assert stem_name("classifier.weight") is stem_name("_fc.bias") is stem_name("conv_head.weight") is None
    assert stem_name("bn2.weight") is stem_name("_bn1.weight") is None
