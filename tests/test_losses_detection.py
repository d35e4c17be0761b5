"""Targets and losses of the hand detector: what each cell should say, against slow references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handmim.hand_boxes import overlap_of
from handmim.losses_detection import (
    box_loss,
    cell_centres,
    centre_loss,
    detection_targets,
    generalised_iou,
    side_loss,
)

NOTHING = [math.nan] * 4
numbers = st.floats(0, 100, allow_nan=False)


def targets_of(boxes: list, counted: list[bool] | None = None, right: list[float] | None = None, side: int = 8):
    counted = [True] * len(boxes) if counted is None else counted
    right = [1.0] * len(boxes) if right is None else right
    return detection_targets(torch.tensor([boxes]), torch.tensor([right]), torch.tensor([counted]), side, 8)


def test_cells_lie_in_the_middle_of_their_pixels():
    grid = cell_centres(3, 8)
    torch.testing.assert_close(grid[0, 0], torch.tensor([3.5, 3.5]))  # of pixels 0 to 7
    torch.testing.assert_close(grid[2, 1], torch.tensor([11.5, 19.5]))


def test_a_hand_peaks_at_its_nearest_cell_and_teaches_around_it():
    hand = [10.0, 20.0, 110.0, 150.0]
    target = targets_of([hand, NOTHING], side=24)
    assert (target.centre == 1).sum() == 1 and target.centre[0, 10, 7] == 1  # (59.5, 83.5)
    assert target.weight.sum() == pytest.approx(1)
    chosen = target.weight[0] > 0
    assert chosen[10, 7] and 1 < chosen.sum() < 20
    assert (target.boxes[0][chosen] == torch.tensor(hand)).all()
    assert (target.right[0][chosen] == 1).all() and target.care.all()


def test_without_hands_nothing_is_positive_and_everything_is_finite():
    target = targets_of([NOTHING, NOTHING], right=[math.nan, math.nan])
    assert target.centre.max() == 0 and target.weight.max() == 0 and target.care.all()
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    losses = [
        centre_loss(logits, target.centre, target.care),
        box_loss(logits[..., None] + torch.tensor([0.0, 0.0, 8.0, 8.0]), target.boxes, target.weight),
        side_loss(logits, target.right, target.weight),
    ]
    sum(losses).backward()
    assert all(torch.isfinite(loss) for loss in losses) and torch.isfinite(logits.grad).all()
    assert losses[1] == losses[2] == 0


def test_pictures_may_have_no_labels_at_all():
    target = detection_targets(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), 8, 8)
    assert target.centre.shape == (2, 8, 8) and target.centre.max() == target.weight.max() == 0 and target.care.all()


def test_hands_that_do_not_count_are_neither_wanted_nor_forbidden():
    target = targets_of([[0.0, 0.0, 30.0, 30.0], [20.0, 20.0, 60.0, 60.0]], counted=[True, False])
    assert (target.centre == 1).sum() == 1 and target.weight.sum() == pytest.approx(1)
    assert not target.care[0, 4, 4] and target.care[0, 0, 7]
    logits = torch.full((1, 8, 8), -9.0)
    logits[0, 4, 4] = 9.0  # a detection where nobody cares
    assert centre_loss(logits, target.centre, target.care) == pytest.approx(
        float(centre_loss(torch.full((1, 8, 8), -9.0), target.centre, target.care)), abs=1e-4
    )


def test_of_two_hands_in_a_cell_the_smaller_one_owns_it():
    small, large = [20.0, 20.0, 36.0, 36.0], [0.0, 0.0, 60.0, 60.0]
    target = targets_of([large, small], right=[0.0, 1.0])
    owned = (target.boxes[0] == torch.tensor(small)).all(-1) & (target.weight[0] > 0)
    assert owned.any() and (target.right[0][owned] == 1).all()
    others = ~owned & (target.weight[0] > 0)
    assert others.any() and (target.right[0][others] == 0).all()


def test_a_tiny_hand_between_cells_still_has_a_centre():
    target = targets_of([[15.4, 15.4, 15.6, 15.6]])
    assert (target.centre == 1).sum() == 1 and target.weight.sum() == pytest.approx(1)


@given(st.lists(st.tuples(numbers, numbers, st.floats(1, 60), st.floats(1, 60)), min_size=2, max_size=2))
def test_generalised_iou_is_that_of_the_definition(pair: list):
    first, second = (np.array([x, y, x + w, y + h]) for x, y, w, h in pair)
    iou = overlap_of(first, second)
    area = sum(float(np.prod(box[2:] - box[:2])) for box in (first, second))
    union = area / (1 + iou)
    hull = float(np.prod(np.maximum(first[2:], second[2:]) - np.minimum(first[:2], second[:2])))
    expected = iou - (hull - union) / hull
    found = generalised_iou(*(torch.from_numpy(box)[None] for box in (first, second)))
    assert float(found) == pytest.approx(expected, abs=1e-6)
    assert -1 <= float(found) <= 1


def test_a_perfect_answer_costs_nothing():
    target = targets_of([[10.0, 20.0, 40.0, 60.0], [44.0, 4.0, 60.0, 20.0]], right=[1.0, 0.0])
    logits = torch.where(target.centre == 1, 12.0, -12.0)
    assert centre_loss(logits, target.centre, target.care) < 1e-4
    assert box_loss(target.boxes, target.boxes, target.weight) == pytest.approx(0, abs=1e-6)
    assert side_loss(torch.where(target.right == 1, 20.0, -20.0), target.right, target.weight) < 1e-6


def test_unknown_sides_teach_nothing():
    target = targets_of([[10.0, 20.0, 40.0, 60.0]], right=[math.nan])
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    side_loss(logits, target.right, target.weight).backward()
    assert logits.grad.abs().max() == 0
