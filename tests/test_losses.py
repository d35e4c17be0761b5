"""Tests of the losses: values by hand, gradients, missing labels."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handmim import losses

NAN = float("nan")

# a loss of one prediction and one label, with the shape of both
PAIRS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "parameters": (losses.parameter_loss, (4, 15, 3, 3)),
    "joints": (losses.keypoint_3d_loss, (4, 21, 3)),
    "vertices": (lambda p, t: losses.vertex_loss(p, p[..., :1, :], t, t[..., :1, :]), (4, 50, 3)),
    "keypoints_2d": (lambda p, t: losses.keypoint_2d_loss(p, t, 128), (4, 21, 2)),
    "heatmap_keypoints": (lambda p, t: losses.heatmap_keypoint_loss(p, t), (4, 21, 2)),
    "heatmap": (lambda p, t: losses.heatmap_loss(log_softmax(p), t[:, :, 0, :2], 1.0), (4, 5, 8, 8)),
    "score": (losses.score_loss, (4,)),
}


def log_softmax(logits: Tensor) -> Tensor:
    return logits.flatten(-2).log_softmax(-1).view(logits.shape)


def random_pair(name: str, seed: int = 0) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    function, shape = PAIRS[name]
    generator = torch.Generator().manual_seed(seed)
    prediction, target = (torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))
    return function, prediction.requires_grad_(), target


class TestEveryLoss:
    @pytest.mark.parametrize("name", PAIRS)
    def test_missing_samples_equal_their_absence(self, name: str) -> None:
        """Value and gradient are those of the batch without the missing samples."""
        function, prediction, target = random_pair(name)
        target[2:] = NAN
        loss = function(prediction, target)
        loss.backward()
        few = prediction.detach()[:2].requires_grad_()
        expected = function(few, target[:2])
        expected.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(prediction.grad[:2], few.grad)
        assert torch.equal(prediction.grad[2:], torch.zeros_like(prediction.grad[2:]))
        assert few.grad.abs().sum() > 0

    @pytest.mark.parametrize("name", PAIRS)
    def test_nothing_present_is_zero(self, name: str) -> None:
        function, prediction, target = random_pair(name)
        loss = function(prediction, torch.full_like(target, NAN))
        loss.backward()
        assert loss == 0 and torch.equal(prediction.grad, torch.zeros_like(prediction))

    @pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("heatmap", "score")])
    def test_perfect_prediction_is_zero(self, name: str) -> None:
        function, _, target = random_pair(name)
        assert function(target.clone(), target) == 0

    @pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("heatmap", "heatmap_keypoints", "score")])
    def test_iterations_broadcast(self, name: str) -> None:
        """A leading dimension of iterations gives the mean over them."""
        function, prediction, target = random_pair(name)
        _, other, _ = random_pair(name, seed=1)
        stacked = function(torch.stack([prediction, other]), target)
        torch.testing.assert_close(stacked, (function(prediction, target) + function(other, target)) / 2)

    @pytest.mark.parametrize("name", PAIRS)
    def test_gradient_by_finite_differences(self, name: str) -> None:
        function, prediction, target = random_pair(name)
        loss = function(prediction, target)
        loss.backward()
        direction = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(3))
        step = 1e-2 * direction / direction.abs().max()
        with torch.no_grad():
            numeric = function(prediction + step, target) - function(prediction - step, target)
        # the kinks of L1 and float32 leave a few percent of the longest possible change
        scale = (prediction.grad.abs() * step.abs()).sum() * 2
        torch.testing.assert_close(numeric, 2 * (prediction.grad * step).sum(), rtol=0, atol=0.05 * scale.item())

    @pytest.mark.parametrize("name", PAIRS)
    def test_half_precision_predictions_give_float32(self, name: str) -> None:
        function, prediction, target = random_pair(name)
        assert function(prediction.detach().bfloat16(), target).dtype == torch.float32


class TestValues:
    def test_parameter_loss_is_the_mean_square(self) -> None:
        prediction, target = torch.zeros(1, 10), torch.zeros(1, 10)
        prediction[0, 0] = 2.0
        assert losses.parameter_loss(prediction, target) == pytest.approx(0.4)

    def test_3d_losses_are_decimetres_relative_to_the_wrist(self) -> None:
        target = torch.randn(2, 21, 3)
        moved = target + torch.tensor([1.0, -2.0, 3.0])  # a translation costs nothing
        assert losses.keypoint_3d_loss(moved, target) == pytest.approx(0, abs=1e-5)
        moved[:, 5, 0] += 0.21  # 2.1 dm on one of 63 coordinates
        assert losses.keypoint_3d_loss(moved, target) == pytest.approx(2.1 / 63, rel=1e-4)
        assert losses.vertex_loss(moved, moved[:, :1], target, target[:, :1]) == pytest.approx(2.1 / 63, rel=1e-4)

    def test_missing_wrist_leaves_the_sample_out(self) -> None:
        target = torch.randn(2, 21, 3)
        target[0, 0] = NAN
        moved = target.nan_to_num() + torch.randn(2, 21, 3)
        expected = losses.keypoint_3d_loss(moved[1:], target[1:])
        torch.testing.assert_close(losses.keypoint_3d_loss(moved, target), expected)  # summed in another order

    def test_2d_loss_is_in_half_sides(self) -> None:
        target = torch.zeros(1, 21, 2)
        assert losses.keypoint_2d_loss(target + 32.0, target, size=128) == pytest.approx(0.5)

    def test_score_is_binary_cross_entropy(self) -> None:
        loss = losses.score_loss(torch.tensor([0.0, 100.0, -3.0]), torch.tensor([1.0, 1.0, NAN]))
        assert loss == pytest.approx(math.log(2) / 2)

    def test_priors(self) -> None:
        assert losses.shape_prior_loss(torch.full((2, 10), 3.0)) == pytest.approx(9.0)
        assert losses.pose_prior_loss(torch.eye(3).expand(2, 15, 3, 3)) == 0
        assert losses.pose_prior_loss(torch.zeros(1, 15, 3, 3)) == pytest.approx(1 / 3)


class TestHeatmaps:
    @settings(max_examples=30, deadline=None)
    @given(x=st.floats(-0.8, 0.8), y=st.floats(-0.8, 0.8), sigma=st.floats(0.5, 2.0))
    def test_its_own_target_has_no_loss(self, x: float, y: float, sigma: float) -> None:
        """Kullback-Leibler: zero at the Gaussian itself, positive elsewhere. The map is not square, to order axes."""
        rows = (y + 1) * 16 / 2 - 0.5 - torch.arange(16.0)
        columns = (x + 1) * 32 / 2 - 0.5 - torch.arange(32.0)
        logits = -(rows[:, None] ** 2 + columns**2) / (2 * sigma**2)
        target = torch.tensor([[[x, y]]])
        assert losses.heatmap_loss(log_softmax(logits[None, None]), target, sigma) == pytest.approx(0, abs=1e-4)
        assert losses.heatmap_loss(log_softmax(logits.roll(3, 1)[None, None]), target, sigma) > 0.1

    def test_keypoints_outside_the_crop_do_not_count(self) -> None:
        logits = log_softmax(torch.randn(1, 2, 8, 8)).requires_grad_()
        target = torch.tensor([[[0.3, -0.2], [1.2, 0.0]]])
        losses.heatmap_loss(logits, target, 1.0).backward()
        assert logits.grad[0, 0].abs().sum() > 0 and logits.grad[0, 1].abs().sum() == 0
        predicted = torch.zeros(1, 2, 2)
        assert losses.heatmap_keypoint_loss(predicted, target) == pytest.approx(0.25)


def square(left: int, top: int, side: int, size: int = 64) -> Tensor:
    """(1, size, size) bool mask of a square."""
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, top : top + side, left : left + side] = True
    return mask


def filled(left: float, top: float, side: float, count: int = 12) -> Tensor:
    """(1, count^2, 2) points that fill the same square, in pixels."""
    place = (torch.arange(count) + 0.5) / count * side - 0.5
    y, x = torch.meshgrid(place + top, place + left, indexing="ij")
    return torch.stack([x, y], -1).reshape(1, -1, 2)


class TestMaskLoss:
    def test_distance_to_mask_is_exact(self) -> None:
        generator = torch.Generator().manual_seed(0)
        cells = torch.rand(3, 20, 20, generator=generator) < 0.03
        place = torch.stack(torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij"), -1).view(-1, 2)
        for mask, distance in zip(cells, losses.distance_to_mask(cells), strict=True):
            expected = torch.cdist(place, place[mask.flatten()]).amin(1).view(20, 20) * (2 / 20)
            torch.testing.assert_close(distance, expected)

    def test_picked_cells_lie_in_the_mask(self) -> None:
        cells = torch.rand(4, 30, 30, generator=torch.Generator().manual_seed(1)) < 0.1
        cells[0] = False
        cells[0, 3, 7] = True
        centres = losses.pick_cells(cells, 50)
        place = ((centres + 1) * 15 - 0.5).round().long()
        assert all(mask[at[:, 1], at[:, 0]].all() for mask, at in zip(cells, place, strict=True))
        assert len(place[1].unique(dim=0)) == 50 and len(place[0].unique(dim=0)) == 1

    def test_values(self) -> None:
        mask = square(20, 16, 24)
        assert losses.mask_loss(filled(20, 16, 24), mask) < 0.05  # half the spacing of the points
        # far away, both directions see the shift of 40 px, less at most half of either square
        assert 40 / 32 < losses.mask_loss(filled(60, 16, 24), mask) < 2 * 40 / 32
        # a mesh that is too small lies inside, but leaves cells uncovered; one too large covers all, and sticks out
        small, large = (losses.mask_loss(filled(32 - s / 2, 28 - s / 2, s), mask) for s in (8, 48))
        assert small > 0.1 and large > 0.1

    def test_gradient_leads_onto_the_mask(self) -> None:
        mask, target = square(16, 20, 24), filled(16, 20, 24)
        points = (filled(44, 40, 10)).requires_grad_()
        optimizer = torch.optim.Adam([points], lr=1.0)
        for _ in range(150):
            optimizer.zero_grad()
            loss = losses.mask_loss(points, mask)
            loss.backward()
            assert torch.isfinite(points.grad).all()
            optimizer.step()
        assert loss < 0.1
        low, high = points.detach()[0].amin(0), points.detach()[0].amax(0)
        assert (low - target[0].amin(0)).abs().max() < 4 and (high - target[0].amax(0)).abs().max() < 4

    def test_samples_without_a_mask_contribute_nothing(self) -> None:
        points = torch.cat([filled(10, 10, 20), filled(30, 5, 20), filled(9, 9, 9)]).requires_grad_()
        mask = torch.cat([square(20, 16, 24), square(0, 0, 8), square(0, 0, 0)]).float()  # the third is empty
        mask[1] = NAN
        loss = losses.mask_loss(points, mask)
        loss.backward()
        alone = losses.mask_loss(points.detach()[:1], mask[:1] == 1)
        torch.testing.assert_close(loss, alone)
        assert points.grad[0].abs().sum() > 0 and not points.grad[1:].any()
        nothing = losses.mask_loss(points, torch.full_like(mask, NAN))
        nothing.backward()
        assert nothing == 0

    def test_vertices_that_are_no_numbers_give_no_number(self) -> None:
        points = filled(10, 10, 20)
        for spoiled in (points * NAN, torch.where(torch.arange(points.shape[1])[:, None] == 3, NAN, points)):
            spoiled = spoiled.requires_grad_()
            loss = losses.mask_loss(spoiled, square(20, 16, 24))
            loss.backward()  # once killed the process
            assert loss.isnan()

    def test_iterations_broadcast(self) -> None:
        mask, first, other = square(20, 16, 24), filled(10, 10, 20), filled(30, 5, 20)
        both = losses.mask_loss(torch.stack([first, other]), mask)
        torch.testing.assert_close(both, (losses.mask_loss(first, mask) + losses.mask_loss(other, mask)) / 2)


class TestMeshLosses:
    WEIGHTS = {
        "global_orient": 1, "hand_pose": 1, "betas": 1, "vertices": 1, "joints": 1, "keypoints_2d": 1,
        "shape_prior": 0, "pose_prior": 0,
    }  # fmt: skip

    @staticmethod
    def hand(vertices: int = 30) -> dict[str, Tensor]:
        return {
            "vertices": torch.randn(2, vertices, 3),
            "joints": torch.randn(2, 21, 3),
            "keypoints_2d": torch.randn(2, 21, 2),
            "global_orient": torch.randn(2, 3, 3),
            "hand_pose": torch.randn(2, 15, 3, 3),
            "betas": torch.randn(2, 10),
        }

    def test_terms_follow_labels_and_weights(self) -> None:
        hand, labels = self.hand(), self.hand()
        full = losses.mesh_losses([hand], labels, 64, self.WEIGHTS)
        assert set(full) == set(labels)
        del labels["joints"]  # vertices are relative to the wrist, which is a joint
        assert set(full) - set(losses.mesh_losses([hand], labels, 64, self.WEIGHTS)) == {"joints", "vertices"}
        weights = self.WEIGHTS | {"betas": 0, "shape_prior": 1, "pose_prior": 1}
        names = set(losses.mesh_losses([hand], self.hand(), 64, weights))
        assert names == set(full) - {"betas"} | {"shape_prior", "pose_prior"}

    def test_another_hand_models_vertices_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"30 vertices\), got 31"):
            losses.mesh_losses([self.hand(30)], self.hand(31), 64, self.WEIGHTS)

    def test_a_mask_needs_its_weight(self) -> None:
        hand = self.hand()
        hand["vertices"][..., 2] += 5.0
        labels = {"mask": torch.cat([square(20, 16, 24), square(1, 1, 9)])}
        intrinsics = torch.tensor([[60.0, 0, 32], [0, 60, 32], [0, 0, 1]]).expand(2, 3, 3)
        assert not losses.mesh_losses([hand], labels, 64, self.WEIGHTS | {"mask": 0.0}, intrinsics)
        assert set(losses.mesh_losses([hand], labels, 64, self.WEIGHTS | {"mask": 1.0}, intrinsics)) == {"mask"}
