"""Metrics against plain loops in numpy, and against cases whose answer is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.evaluation.metrics import auc, mean_error, normalized_errors_2d, pa_mpjpe, pck, pck_curve, point_errors
from handmim.geometry import axis_angle_to_matrix


def looped_pa(predicted: np.ndarray, target: np.ndarray) -> float:
    """Umeyama 1991 for one sample, its labelled joints only."""
    labelled = ~np.isnan(target).any(1)
    a, b = predicted[labelled], target[labelled]
    a, b = a - a.mean(0), b - b.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = np.trace(np.diag(s) @ sign) / (a * a).sum()
    return float(np.linalg.norm(scale * a @ (u @ sign @ vt) - b, axis=1).mean())


@pytest.fixture()
def hands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(6, 21, 3, generator=generator, dtype=torch.float64) * 0.05
    predicted = target + 0.02 * torch.randn(6, 21, 3, generator=generator, dtype=torch.float64)
    target[1, 3:5] = torch.nan
    target[2, 3:5] = torch.nan
    target[4] = torch.nan
    predicted[5] = torch.nan
    return predicted, target


def test_pa_mpjpe_equals_a_loop(hands: tuple[torch.Tensor, torch.Tensor]):
    predicted, target = hands
    errors = pa_mpjpe(predicted, target)
    for row in range(4):
        assert errors[row].item() == pytest.approx(looped_pa(predicted[row].numpy(), target[row].numpy()), abs=1e-12)
    assert errors[4:].isnan().all()


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.2, 5), angles=st.tuples(*[st.floats(-1.7, 1.7)] * 3), shift=st.floats(-3, 3))
def test_pa_mpjpe_ignores_similarities_but_not_mirrors(scale: float, angles: tuple, shift: float):
    target = torch.randn(1, 21, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rotation = axis_angle_to_matrix(torch.tensor(angles, dtype=torch.float64))
    moved = scale * target @ rotation.T + shift
    assert pa_mpjpe(moved, target).item() < 1e-9
    assert pa_mpjpe(moved * torch.tensor([-1.0, 1, 1]), target).item() > 0.1


def test_pa_mpjpe_needs_three_points():
    target = torch.randn(1, 21, 3, dtype=torch.float64)
    target[:, 2:] = torch.nan
    assert pa_mpjpe(torch.randn(1, 21, 3), target).isnan().all()


def test_normalized_errors_count_misses_and_leave_out_what_has_no_label():
    target = torch.tensor([[[0.0, 0], [10, 0]], [[0, 0], [torch.nan] * 2]])
    predicted = torch.tensor([[[3.0, 4], [10, 10]], [[torch.nan] * 2] * 2])
    errors = normalized_errors_2d(predicted, target, torch.tensor([10.0, 20.0]))
    torch.testing.assert_close(errors, torch.tensor([[0.5, 1], [1, torch.nan]]), equal_nan=True)
    assert mean_error(errors) == pytest.approx(2.5 / 3)
    assert point_errors(predicted, target)[0].tolist() == [5, 10]


def test_pck_is_strict_and_its_curve_is_not():
    errors = torch.tensor([0.0, 0.1, 0.2, torch.nan], dtype=torch.float64)
    assert pck(errors, 0.1) == pytest.approx(1 / 3)
    np.testing.assert_allclose(pck_curve(errors, [0.0, 0.1, 0.15, 0.2]), [1 / 3, 2 / 3, 2 / 3, 1])


def test_auc_is_the_mean_of_the_curve():
    errors = torch.tensor(np.random.default_rng(0).gamma(2, 0.06, 300))
    expected = np.mean([(errors.numpy() <= threshold).mean() for threshold in np.linspace(0, 0.3, 61)])
    assert auc(errors, 0.3) == pytest.approx(expected, abs=1e-12)
    assert auc(torch.zeros(5), 0.3) == 1 and auc(torch.ones(5), 0.3) == 0
    assert math.isnan(mean_error(torch.full((3,), torch.nan)))
