"""HIU-DMTL's losses: values by hand, directions of their gradients, missing labels."""

import math

import pytest
import torch

from handmim import losses_hiu_dmtl as losses
from handmim.targets_hiu_dmtl import BONES

NAN = float("nan")


class TestMaps:
    def test_what_is_drawn_counts_more(self) -> None:
        """By hand: squared errors, weighted 1 + 20 |target|, also where an orientation points to the left."""
        target = torch.tensor([[[0.0, 1.0], [-0.5, NAN]]])
        prediction = torch.tensor([[[0.1, 0.7], [0.5, 9.0]]], requires_grad=True)
        loss = losses.map_loss(prediction, target)
        assert loss.item() == pytest.approx((1 * 0.1**2 + 21 * 0.3**2 + 11 * 1.0**2) / 3, rel=1e-5)
        loss.backward()
        assert prediction.grad.sign().tolist() == [[[1, -1], [1, 0]]]

    def test_mask_is_binary_cross_entropy_of_labelled_cells(self) -> None:
        logits, target = torch.tensor([[[0.0, 3.0, -2.0]]]), torch.tensor([[[1.0, 0.25, NAN]]])
        p = 1 / (1 + math.exp(-3.0))
        expected = (math.log(2) - 0.25 * math.log(p) - 0.75 * math.log(1 - p)) / 2
        assert losses.mask_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


class TestBones:
    def test_one_minus_the_cosine(self) -> None:
        """Length and place do not matter; a bone turned by 60 degrees costs a half, one turned round two."""
        torch.manual_seed(0)
        target = torch.randn(1, 21, 3)
        assert losses.bone_loss(3 * target + 5, target).item() == pytest.approx(0, abs=1e-5)
        assert losses.bone_loss(-target, target).item() == pytest.approx(2, rel=1e-5)
        target = torch.zeros(1, 21, 3)
        for parent, child in BONES:
            target[0, child] = target[0, parent] + torch.tensor([0.02, 0.0, 0.0])
        joints = target.clone()
        joints[0, 8] = joints[0, 7] + torch.tensor([0.5, math.sqrt(0.75), 0.0])
        assert losses.bone_loss(joints, target).item() == pytest.approx(0.5 / 20, rel=1e-4)

    def test_a_missing_joint_leaves_out_its_bones(self) -> None:
        torch.manual_seed(0)
        target = torch.randn(2, 21, 3)
        joints = torch.randn(2, 21, 3, requires_grad=True)
        whole = losses.bone_loss(joints[:1], target[:1])
        target[1] = NAN
        loss = losses.bone_loss(joints, target)
        torch.testing.assert_close(loss, whole)
        loss.backward()
        assert joints.grad[1].abs().sum() == 0 and joints.grad.isfinite().all()
        target[0, 20] = NAN  # the tip ends one bone and begins none
        cosines = [
            torch.cosine_similarity(joints[0, c] - joints[0, p], target[0, c] - target[0, p], dim=0)
            for p, c in BONES[:-1]
        ]
        torch.testing.assert_close(losses.bone_loss(joints, target), 1 - torch.stack(cosines).mean())


class TestSilhouettes:
    def test_one_minus_intersection_over_union(self) -> None:
        coverage = torch.zeros(3, 4, 4)
        coverage[:, :2] = 1.0
        mask = torch.zeros(3, 4, 4)
        mask[0, :2], mask[1, 1:3] = 1.0, 1.0  # the same; four of twelve cells shared
        mask[2] = NAN
        assert losses.silhouette_loss(coverage, mask).item() == pytest.approx((0 + 1 - 4 / 12) / 2, rel=1e-5)
        assert losses.silhouette_loss(coverage[:1] / 2, mask[:1]).item() == pytest.approx(0.5, rel=1e-5)

    def test_without_a_mask_there_is_no_gradient(self) -> None:
        coverage = torch.rand(2, 4, 4, requires_grad=True)
        loss = losses.silhouette_loss(coverage, torch.full((2, 4, 4), NAN))
        loss.backward()
        assert loss == 0 and coverage.grad.abs().sum() == 0


def test_focal_length_is_in_sides_of_the_crop() -> None:
    intrinsics = torch.tensor([[120.0, 0, 32], [0, 136, 32], [0, 0, 1]])[None]  # 128 px in the mean: 2 sides of 64
    assert losses.focal_loss(torch.tensor([math.log(2.0)]), intrinsics, 64).item() == pytest.approx(0, abs=1e-6)
    assert losses.focal_loss(torch.tensor([math.log(4.0)]), intrinsics, 64).item() == pytest.approx(math.log(2) ** 2)
