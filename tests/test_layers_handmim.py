"""Tests of the network's layers against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.configuration_handmim import HandMIMConfig
from handmim.geometry import default_intrinsics
from handmim.hand_state import ray_rotation
from handmim.layers_handmim import (
    STATE_SIZE,
    EfficientNetStem,
    Regressor,
    ResidualStem,
    Upsample,
    default_crop_intrinsics,
    normalise_pixels,
    sample_points,
    soft_argmax,
)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9))
def test_sample_points_equals_grid_sample(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    feature_map = torch.randn(2, height, width, 5, generator=generator, requires_grad=True)
    points = torch.rand(2, 21, 2, generator=generator) * 3 - 1.5  # some outside
    ours = sample_points(feature_map, points)
    theirs = F.grid_sample(feature_map.permute(0, 3, 1, 2), points[:, :, None], align_corners=False)
    theirs = theirs.squeeze(3).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weight = torch.randn(ours.shape, generator=generator)
    gradients = [torch.autograd.grad((weight * out).sum(), feature_map)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_sample_points_survives_nonsense_positions() -> None:
    feature_map = torch.ones(1, 4, 4, 3)
    points = torch.tensor([[[torch.nan, 0.0], [torch.inf, 0.0], [1e30, -1e30]]], requires_grad=True)
    sampled = sample_points(feature_map, points)
    assert sampled.isfinite().all() and not sampled.requires_grad
    assert (sampled[0, 1:] == 0).all()


def test_upsample_equals_transposed_convolution() -> None:
    layer = Upsample(6, 5)
    x = torch.randn(2, 3, 4, 6)
    expected = F.conv_transpose2d(x.permute(0, 3, 1, 2), layer.deconv.weight, stride=2)
    expected = F.gelu(F.layer_norm(expected.permute(0, 2, 3, 1), (5,), eps=1e-6))
    result = layer(x)
    assert result.shape == (2, 6, 8, 5)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_sampling_single_cells_equals_sampling_the_grown_map(depth: int) -> None:
    layers = torch.nn.ModuleList(Upsample(6 - i, 5 - i) for i in range(depth))
    for layer in layers:
        torch.nn.init.normal_(layer.norm.bias)
    x = torch.randn(2, 3, 4, 6, requires_grad=True)
    points = torch.rand(2, 21, 2) * 2.4 - 1.2
    points[0, :4] = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [0.999, -0.999]])
    grown = x
    for layer in layers:
        grown = layer(grown)
    sparse, full = sample_points(x, points, layers), sample_points(grown, points)
    torch.testing.assert_close(sparse, full, rtol=1e-4, atol=1e-5)
    parameters = (x, *(layer.deconv.weight for layer in layers))
    gradients = [torch.autograd.grad(out.square().sum(), parameters) for out in (sparse, full)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5))
def test_soft_argmax_of_a_gaussian_is_its_centre(x: float, y: float) -> None:
    rows = (y + 1) * 24 / 2 - 0.5 - torch.arange(24.0)
    columns = (x + 1) * 32 / 2 - 0.5 - torch.arange(32.0)
    logits = -(rows[:, None] ** 2 + columns**2) / 2
    log_probability = logits.flatten().log_softmax(0).view(1, 1, 24, 32)
    torch.testing.assert_close(soft_argmax(log_probability), torch.tensor([[[x, y]]]), rtol=0, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(cx=st.floats(-300, 400), cy=st.floats(-300, 400), focal=st.floats(60, 1000))
def test_ray_rotation_takes_the_axis_to_the_crops_centre(cx: float, cy: float, focal: float) -> None:
    intrinsics = torch.tensor([[[focal, 0, cx], [0, focal, cy], [0, 0, 1]]])
    rotation = ray_rotation(intrinsics, 64)[0]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), rtol=0, atol=1e-5)
    assert torch.linalg.det(rotation) > 0
    ray = intrinsics[0] @ rotation[:, 2]
    torch.testing.assert_close(ray[:2] / ray[2], torch.tensor([31.5, 31.5]), rtol=1e-3, atol=0.05)
    torch.testing.assert_close(rotation[0, 1], rotation[1, 0])  # the axis lies in the image: no turn in the plane


def test_ray_rotation_at_the_centre_is_the_identity() -> None:
    torch.testing.assert_close(ray_rotation(default_intrinsics(64, 64)[None], 64)[0], torch.eye(3))


def test_normalise_pixels_maps_edges_to_one() -> None:
    pixels = torch.tensor([-0.5, 63.5, 31.5])
    torch.testing.assert_close(normalise_pixels(pixels, 64), torch.tensor([-1.0, 1.0, 0.0]))


def test_default_crop_camera_looks_at_the_centre() -> None:
    intrinsics = default_crop_intrinsics(128, torch.device("cpu"))
    assert intrinsics.tolist() == [[640.0, 0.0, 63.5], [0.0, 640.0, 63.5], [0.0, 0.0, 1.0]]


def test_residual_stem_has_the_grid_of_a_patch_embedding() -> None:
    stem = ResidualStem(img_size=64, patch_size=16, embed_dim=192).eval()
    convolutions = [layer for layer in stem.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [convolution.out_channels for convolution in convolutions] == [32, 64, 128, 192]
    assert stem(torch.randn(2, 3, 64, 64)).shape == (2, 4, 4, 192)
    assert stem.num_patches == 16


def test_efficientnet_stem_ends_at_stride_16() -> None:
    stem = EfficientNetStem(img_size=64, patch_size=16, embed_dim=192).eval()
    assert len(stem.layers) == 6 and stem.layers[:3](torch.randn(1, 3, 64, 64)).shape == (1, 24, 16, 16)
    assert stem(torch.randn(2, 3, 64, 64)).shape == (2, 4, 4, 192)
    assert stem.num_patches == 16


def test_regressor_corrects_the_state() -> None:
    regressor = Regressor(7, HandMIMConfig(regressor_hidden_size=16)).eval()
    torch.nn.init.zeros_(regressor.output.weight)
    torch.nn.init.zeros_(regressor.output.bias)
    state = torch.randn(2, STATE_SIZE)
    assert torch.equal(regressor([torch.randn(2, 3), torch.randn(2, 4)], state), state)
