"""EfficientNet-Lite0 goes into its layers, from timm's names and from the package's, and nothing else does."""

import re

import pytest
import timm
import torch
from torch import Tensor, nn

from handmim.backbone_weights import WeightsError
from handmim.efficientnet import STRIDES, WIDTHS, efficientnet_layers
from handmim.efficientnet_weights import layer_name, load_efficientnet


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """EfficientNet-Lite0 whose batch norms do something."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 64, 64))
    return model.eval()


def make_layers(stages: int = 7) -> nn.Sequential:
    torch.manual_seed(1)
    return efficientnet_layers(3, stages).eval()


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


def test_cpus_compute_depthwise_convolutions_in_the_weights_type():
    """In bfloat16 their gradients take up to twelve times as long."""
    layers, types = make_layers(5).train(), {True: set(), False: set()}
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            wide = module.groups == 1
            module.register_forward_hook(lambda _module, _args, output, wide=wide: types[wide].add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        layers(torch.randn(1, 3, 64, 64)).sum().backward()
    assert types == {True: {torch.bfloat16}, False: {torch.float32}}
    assert layers.bfloat16()(torch.randn(1, 3, 64, 64).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("stages", [5, 7])
@pytest.mark.parametrize("names", ["timm", "package"])
def test_layers_compute_what_the_network_does(tmp_path, network, names, stages):
    state = network.state_dict() if names == "timm" else package_state(network.state_dict())
    torch.save(state, tmp_path / "lite0.pth")
    layers = make_layers(stages)
    load_efficientnet(layers, tmp_path / "lite0.pth")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(layers(pixels), network.blocks[:stages](network.bn1(network.conv_stem(pixels))))


@pytest.mark.parametrize("prefix", ["backbone.encoder.patch_embed", "patch_embed", "backbone.stem", "stem", "backbone"])
def test_a_checkpoints_stem_is_found(prefix):
    assert layer_name(f"{prefix}.layers.2.0.conv_pw.weight") == "2.0.conv_pw.weight"


def test_of_a_pretraining_checkpoint_the_teacher_alone_is_taken():
    """That is what fine-tuning loads; the student has the same names behind another word."""
    assert layer_name("student.encoder.patch_embed.layers.2.0.conv_pw.weight") is None


def test_widths_and_strides():
    x = torch.randn(1, 3, 64, 64)
    for layer, width, stride in zip(make_layers(), WIDTHS, STRIDES, strict=True):
        x = layer(x)
        assert x.shape == (1, width, 64 // stride, 64 // stride)


def test_timm_is_asked_by_name(monkeypatch, network):
    layers, asked = make_layers(), []
    monkeypatch.setattr(timm, "create_model", lambda name, **_: asked.append(name) or network)
    load_efficientnet(layers, "timm")
    assert asked == ["tf_efficientnet_lite0"]
    assert torch.equal(layers[0][0].weight, network.conv_stem.weight)


def test_timm_without_weights(monkeypatch):
    def create_model(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(WeightsError, match="could not load 'tf_efficientnet_lite0': no network; give a file"):
        load_efficientnet(make_layers(), "timm")


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
    layers = make_layers()
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_efficientnet(layers, tmp_path / "lite0.pth")
    assert all(torch.equal(before[name], value) for name, value in layers.state_dict().items())


def test_no_file(tmp_path):
    with pytest.raises(WeightsError, match=re.escape(f"no file {tmp_path / 'none.pth'}")):
        load_efficientnet(make_layers(), tmp_path / "none.pth")


def test_names_of_other_parts():
    assert layer_name("blocks.4.2.bn3.bias") == layer_name("_blocks.10._bn2.bias") == "5.2.bn3.bias"
    assert layer_name("blocks.6.0.bn3.bias") == layer_name("_blocks.15._bn2.bias") == "7.0.bn3.bias"
    assert layer_name("classifier.weight") is layer_name("_fc.bias") is layer_name("conv_head.weight") is None
    assert layer_name("bn2.weight") is layer_name("_bn1.weight") is None
