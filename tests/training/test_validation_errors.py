"""Errors of held-out hands against plain loops."""

import pytest
import torch
from torch import Tensor

from handmim.training.validation_errors import hand_errors, map_errors


def test_errors_by_hand():
    labels = {"joints": torch.randn(3, 21, 3), "vertices": torch.randn(3, 1649, 3)}
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    turn = turn * torch.linalg.det(turn)
    outputs = type("Outputs", (dict,), {"joints": property(lambda self: self["joints"])})()
    outputs["joints"] = labels["joints"] @ turn.T * 2 + 1
    outputs["vertices"] = labels["vertices"] + 0.001 * torch.randn(3, 1649, 3)
    labels["joints"][1, 4] = torch.nan
    labels["vertices"][2] = torch.nan
    errors = hand_errors(outputs, labels)
    assert errors[0, 0] < 0.01 and errors[1, 0].isnan()
    assert errors[0, 1] == pytest.approx(1.6, abs=0.1) and errors[2, 1].isnan()
    direct = outputs["joints"] - outputs["joints"][:, :1] - labels["joints"] + labels["joints"][:, :1]
    assert errors[0, 2] == pytest.approx(1000 * direct[0].norm(dim=-1).mean().item(), rel=1e-4)


def looped_map_errors(points: Tensor, mask: Tensor, labels: dict[str, Tensor], size: int) -> list[list[float]]:
    rows = []
    for row in range(len(points)):
        truth = labels["keypoints_2d"][row]
        errors = [(points[row, k] - truth[k]).norm().item() / size for k in range(21) if not truth[k].isnan().any()]
        both = either = 0
        for y in range(mask.shape[1]):
            for x in range(mask.shape[2]):
                cell = labels["mask"][row, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].float().mean() > 0.5
                seen = mask[row, y, x] > 0.5
                both, either = both + bool(cell & seen), either + bool(cell | seen)
        rows.append([sum(errors) / len(errors), both / either])
    return rows


def test_map_errors_equal_a_loop() -> None:
    torch.manual_seed(0)
    points, mask = 64 * torch.rand(2, 21, 2), torch.rand(2, 16, 16)
    labels = {"keypoints_2d": 64 * torch.rand(2, 21, 2), "mask": torch.rand(2, 64, 64) > 0.4}
    labels["keypoints_2d"][1, 4] = torch.nan
    errors = map_errors({"heatmap_keypoints": points, "mask": mask}, labels, 64)
    torch.testing.assert_close(errors, torch.tensor(looped_map_errors(points, mask, labels, 64)))
    assert map_errors({}, labels, 64).isnan().all()
