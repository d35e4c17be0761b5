"""Packed CPU kernels give the plain numbers, and leave everything else about a model as it was."""

import copy
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from handmim import acceleration
from handmim.acceleration import PackedLinear, is_supported, optimize_for_inference, restore_plain_layers

needs_kernels = pytest.mark.skipif(not is_supported(), reason="this processor or PyTorch has no packed kernels")
needs_bfloat16 = pytest.mark.skipif(not is_supported(torch.bfloat16), reason="no bfloat16 instructions")


def vit() -> VisionTransformer:
    """A small random ViT whose biases and norms are not at their neutral starting values."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=64, patch_size=16, num_classes=7, embed_dim=96, depth=3, num_heads=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture()
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@needs_kernels
@pytest.mark.parametrize("batch", [1, 2])
def test_float32_equals_the_plain_model(images: torch.Tensor, batch: int) -> None:
    plain = vit()
    fast = optimize_for_inference(copy.deepcopy(plain))
    assert sum(type(module) is PackedLinear for module in fast.modules()) == 3 * 4 + 1
    with torch.inference_mode():
        torch.testing.assert_close(fast(images[:batch]), plain(images[:batch]), atol=1e-5, rtol=1e-5)
    assert fast.blocks[0].attn.qkv._packed is not None


@needs_bfloat16
def test_bfloat16_is_near_and_stays_inside_the_blocks(images: torch.Tensor) -> None:
    plain = vit()
    fast = optimize_for_inference(copy.deepcopy(plain), torch.bfloat16)
    with torch.inference_mode():
        expected, output = plain(images), fast(images)
    assert output.dtype == torch.float32
    difference = ((output - expected).norm() / expected.norm()).item()
    assert 1e-6 < difference < 0.03
    assert fast.head.matmul_dtype == torch.float32


def test_state_dict_and_parameters_do_not_change(images: torch.Tensor) -> None:
    model = vit()
    parameters, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    optimize_for_inference(model)
    with torch.no_grad():
        model(images)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)


def test_saved_weights_load_into_a_plain_model(images: torch.Tensor, tmp_path: Path) -> None:
    model = optimize_for_inference(vit())
    with torch.no_grad():
        expected = model(images)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    plain = vit()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
        plain.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        torch.testing.assert_close(plain(images), expected, atol=1e-5, rtol=1e-5)


def test_changed_weights_are_packed_again(images: torch.Tensor) -> None:
    model, other = optimize_for_inference(vit()), vit()
    with torch.no_grad():
        before = model(images)
        for parameter in other.parameters():
            parameter.mul_(1.1)
        model.load_state_dict(other.state_dict())
        after = model(images)
        torch.testing.assert_close(after, other(images), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)


def test_a_copy_uses_its_own_weights(images: torch.Tensor) -> None:
    model = optimize_for_inference(vit())
    with torch.no_grad():
        expected = model(images)
        other = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.zero_()
        torch.testing.assert_close(other(images), expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_plain_model(images: torch.Tensor) -> None:
    plain, fast = vit(), optimize_for_inference(vit())
    plain(images).square().sum().backward()
    fast(images).square().sum().backward()
    for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)


def test_autocast_and_other_dtypes_take_the_plain_path(images: torch.Tensor) -> None:
    plain, fast = vit(), optimize_for_inference(vit())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast(images), plain(images), atol=0, rtol=0)
    plain, fast = plain.double(), fast.double()
    with torch.inference_mode():
        torch.testing.assert_close(fast(images.double()), plain(images.double()), atol=1e-12, rtol=1e-12)


def test_export_sees_plain_operations(images: torch.Tensor) -> None:
    model = optimize_for_inference(vit())
    with torch.no_grad():
        model(images)
        program = torch.export.export(model, (images,))
        torch.testing.assert_close(program.module()(images), model(images), atol=1e-5, rtol=1e-5)
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)


def test_restore_gives_back_the_original_layers(images: torch.Tensor) -> None:
    plain, model = vit(), optimize_for_inference(optimize_for_inference(vit()), torch.bfloat16)
    with torch.inference_mode():
        model(images)
        restore_plain_layers(model)
        torch.testing.assert_close(model(images), plain(images), atol=0, rtol=0)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert all(a.__dict__.keys() == b.__dict__.keys() for a, b in zip(model.modules(), plain.modules(), strict=True))


def test_nothing_happens_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "is_supported", lambda *_: False)
    model = vit()
    types = [type(module) for module in model.modules()]
    assert optimize_for_inference(model) is model
    assert [type(module) for module in model.modules()] == types


def test_layers_elsewhere_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Linear(4, 4, dtype=torch.float64), nn.Bilinear(4, 4, 4))
    optimize_for_inference(model)
    assert [type(module) for module in model] == [nn.Linear, nn.Linear, nn.Bilinear]


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_any_leading_shape(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(5, 3, bias=bias)
    x = torch.randn(shape)
    with torch.no_grad():
        expected = layer(x)
        output = optimize_for_inference(layer)(x)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-6)


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(ValueError, match="float16"):
        optimize_for_inference(vit(), torch.float16)
