"""Tests of HIU-DMTL's layers against formulas of the paper."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.layers_hiu_dmtl import TaskAttention, map_evidence, soft_argmax
from handmim.targets_hiu_dmtl import gaussian_heatmaps, part_orientation_fields


@settings(max_examples=10, deadline=None)
@given(x=st.floats(8, 20), y=st.floats(8, 12))
def test_equation_1_is_the_centre_of_a_heat_map(x: float, y: float) -> None:
    """Cells of a map that is not square, to order the axes; what is negative counts as nothing."""
    maps = gaussian_heatmaps(torch.tensor([[[x, y]]]), 1.5, 20, 28)
    expected = torch.tensor([[[(x + 0.5) * 2 / 28 - 1, (y + 0.5) * 2 / 20 - 1]]])
    torch.testing.assert_close(soft_argmax(3 * maps), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(soft_argmax(maps - 1e-3), expected, rtol=0, atol=5e-3)
    assert torch.equal(soft_argmax(-maps), torch.zeros(1, 1, 2))


def test_attention_is_figure_3() -> None:
    """Pooling, concatenation, two fully connected layers, softmax over the tasks, weighted sum."""
    torch.manual_seed(0)
    attention = TaskAttention(3, 4, 8)
    features = [torch.randn(2, 4, 5, 6) for _ in range(3)]
    pooled = torch.cat([feature.flatten(2).mean(2) for feature in features], 1)
    hidden = F.layer_norm(pooled @ attention.squeeze.weight.T + attention.squeeze.bias, (8,))
    scores = (hidden.clamp(min=0) @ attention.excite.weight.T + attention.excite.bias).view(2, 3, 4)
    share = scores.exp() / scores.exp().sum(1, keepdim=True)
    expected = sum(share[:, task, :, None, None] * features[task] for task in range(3))
    torch.testing.assert_close(attention(features), expected, rtol=1e-4, atol=1e-5)


def test_maps_in_numbers() -> None:
    """Position and height of each heat map, then the direction of each bone."""
    torch.manual_seed(0)
    keypoints, joints = torch.rand(1, 21, 2) * 20 + 6, torch.randn(1, 21, 3)
    heatmaps = 0.5 * gaussian_heatmaps(keypoints.round(), 1.0, 32, 32)
    fields = part_orientation_fields(keypoints, joints, 1.5, 32, 32)
    numbers = map_evidence({"heatmaps": heatmaps, "pof": fields.flatten(1, 2)})[0]
    places = (keypoints[0].round() + 0.5) / 16 - 1
    torch.testing.assert_close(numbers[:42].view(21, 2), places, rtol=0, atol=1e-3)
    torch.testing.assert_close(numbers[42:63], torch.full((21,), 0.5))
    bones = numbers[63:].view(20, 3)
    torch.testing.assert_close(bones[:, :2].norm(dim=1), torch.ones(20), rtol=1e-3, atol=1e-3)
    towards = F.normalize(keypoints[0, 1] - keypoints[0, 0], dim=0)
    torch.testing.assert_close(bones[0, :2], towards, rtol=1e-3, atol=1e-3)
