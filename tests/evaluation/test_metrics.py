"""Metrics against plain loops in numpy, and against cases whose answer is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.evaluation.metrics import (
    MeanError,
    acceleration_error,
    auc,
    class_overlaps,
    iou_pck,
    mask_iou,
    mean_error,
    mean_iou,
    normalized_errors_2d,
    pa_errors,
    pa_mpjpe,
    pck,
    pck_curve,
    point_errors,
    root_relative_errors,
)
from handmim.geometry import axis_angle_to_matrix, similarity_align


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


def test_masks() -> None:
    masks = torch.zeros(4, 6, 8, dtype=torch.bool)
    truth = masks.clone()
    masks[0, :2], truth[0, 1:3] = True, True  # 8 of 24 pixels
    masks[1, 2:4] = truth[1, 2:4] = True
    masks[2, 0, 0] = True
    ious = mask_iou(masks, truth)
    assert ious[:3].tolist() == [pytest.approx(1 / 3), 1, 0] and ious[3].isnan()
    assert iou_pck(ious, [0.0, 0.2, 0.5, 1.0]).tolist() == [pytest.approx(k / 3) for k in (3, 2, 1, 1)]


def test_acceleration_error_ignores_steady_motion_and_sees_jitter() -> None:
    time = torch.arange(6, dtype=torch.float64)[:, None, None]
    target = (0.1 * time**2).expand(6, 21, 3).clone()
    steady = target + 0.3 * time + 1
    assert acceleration_error(steady, target).max() < 1e-12
    jitter = target.clone()
    jitter[3, :, 0] += 0.01  # enters three second differences with weights 1, -2, 1
    errors = acceleration_error(jitter, target, frame_rate=10)
    torch.testing.assert_close(errors[:, 0], torch.tensor([0.0, 1, 2, 1], dtype=torch.float64))
    target[0, 4] = torch.nan
    assert acceleration_error(jitter, target).isnan().sum() == 1
    with pytest.raises(ValueError, match="three frames, got 2"):
        acceleration_error(jitter[:2], target[:2])


def test_root_relative_errors(hands: tuple[torch.Tensor, torch.Tensor]) -> None:
    predicted, target = hands
    shifted = predicted + torch.tensor([1.0, -2, 3], dtype=torch.float64)
    errors = root_relative_errors(shifted, target)
    torch.testing.assert_close(errors, root_relative_errors(predicted, target), equal_nan=True)
    assert errors[0, 0] == 0 and errors[1, 3:5].isnan().all() and errors[4].isnan().all()


def test_batches_of_errors_add_up() -> None:
    errors = torch.rand(7, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors[2, 3] = torch.nan
    metric = MeanError()
    assert math.isnan(metric.compute())
    for part in errors.split(3):
        metric.update(part)
    assert metric.compute() == pytest.approx(mean_error(errors))
    assert metric.curve([0.2, 0.5]).tolist() == pck_curve(errors, [0.2, 0.5]).tolist()
    metric.reset()
    assert len(metric.errors()) == 0


def test_pa_errors_of_joints_have_the_mean_of_their_samples(hands: tuple[torch.Tensor, torch.Tensor]):
    predicted, target = hands
    errors = pa_errors(predicted, target)
    assert errors.shape == (6, 21) and errors[1, 3:5].isnan().all() and not errors[1, 5:].isnan().any()
    torch.testing.assert_close(errors.nanmean(1), pa_mpjpe(predicted, target), equal_nan=True)
    aligned, _ = similarity_align(predicted[:1], target[:1])
    torch.testing.assert_close(errors[:1], (aligned - target[:1]).norm(dim=-1))


def test_mean_iou_equals_a_loop():
    generator = torch.Generator().manual_seed(3)
    predicted, target = (torch.rand(4, 5, 6, generator=generator) > share for share in (0.4, 0.6))
    counts = {hand: [0, 0] for hand in (False, True)}
    for seen, true in zip(predicted.flatten().tolist(), target.flatten().tolist(), strict=True):
        for hand in counts:
            counts[hand][0] += seen == hand and true == hand
            counts[hand][1] += seen == hand or true == hand
    expected = sum(both / either for both, either in counts.values()) / 2
    overlaps = sum(class_overlaps(*pair) for pair in zip(predicted, target, strict=True))
    assert overlaps.tolist() == [list(map(float, counts[hand])) for hand in (False, True)]
    assert mean_iou(overlaps) == pytest.approx(expected)
    assert mean_iou(class_overlaps(target, target)) == 1.0
    assert math.isnan(mean_iou(class_overlaps(target[:1] | True, target[:1] | True)))
