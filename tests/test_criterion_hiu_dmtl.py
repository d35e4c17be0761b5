"""What HIU-DMTL learns from, on stacks made by hand: which samples teach what, at which scale, in which direction."""

from typing import Any

import pytest
import torch
from torch import Tensor

from handmim.configuration_hiu_dmtl import DEFAULT_LOSS_WEIGHTS, HIUDMTLConfig
from handmim.criterion_hiu_dmtl import HandUnderstandingLoss, map_intrinsics, self_supervised, without_label
from handmim.geometry import project
from handmim.targets_hiu_dmtl import gaussian_heatmaps

SIZE, CELLS = 64, 16
NAN = float("nan")
FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def criterion(weights: dict[str, float], mesh: bool = True) -> HandUnderstandingLoss:
    """With these terms and no others."""
    off = dict.fromkeys(DEFAULT_LOSS_WEIGHTS, 0.0)
    config = HIUDMTLConfig(image_size=SIZE, loss_weights=off | weights, mesh=mesh, encoder_levels=2)
    return HandUnderstandingLoss(config, FACES if mesh else None, SIZE)


def stack_of(batch: int = 2) -> dict[str, Tensor]:
    """Maps at random; as the mesh a square before the camera that covers a quarter of the crop."""
    generator = torch.Generator().manual_seed(0)
    square = torch.tensor([[-1.0, -1, 4], [1, -1, 4], [1, 1, 4], [-1, 1, 4]])
    centre = (SIZE - 1) / 2
    intrinsics = torch.tensor([[64.0, 0, centre], [0, 64, centre], [0, 0, 1]])
    stack = {
        "heatmaps": torch.rand(batch, 21, CELLS, CELLS, generator=generator),
        "mask": torch.randn(batch, CELLS, CELLS, generator=generator),
        "pof": torch.randn(batch, 20, 3, CELLS, CELLS, generator=generator),
        "vertices": square.expand(batch, 4, 3).clone(),
        "joints": torch.randn(batch, 21, 3, generator=generator),
        "keypoints_2d": torch.rand(batch, 21, 2, generator=generator) * SIZE,
        "betas": torch.randn(batch, 10, generator=generator),
        "hand_pose": torch.eye(3).repeat(batch, 15, 1, 1),
        "log_focal": torch.zeros(batch),
    }
    return {name: value.requires_grad_() for name, value in stack.items()} | {
        "intrinsics": intrinsics.expand(batch, 3, 3)
    }


def gradient(loss: Tensor, stack: dict[str, Tensor], name: str) -> Tensor:
    (found,) = torch.autograd.grad(loss, stack[name], retain_graph=True, allow_unused=True)
    return torch.zeros_like(stack[name]) if found is None else found


class TestSelfSupervision:
    def test_maps_and_mesh_learn_from_each_other(self) -> None:
        """Section 3.3: both consistencies pull from either side."""
        stack = stack_of()
        loss, terms = criterion({"self_mask": 1.0, "self_keypoints": 1.0})([stack], {})
        assert terms["self_mask"] > 0 and terms["self_keypoints"] > 0
        for name in ("mask", "vertices", "heatmaps", "keypoints_2d"):
            assert gradient(loss, stack, name).flatten(1).abs().sum(1).gt(0).all(), name

    @pytest.mark.parametrize(("label", "name"), [("mask", "vertices"), ("keypoints_2d", "keypoints_2d")])
    def test_only_of_hands_that_lack_the_label_altogether(self, label: str, name: str) -> None:
        """Samples: labelled in part, without a label, without a label and no hand, and perhaps a hand."""
        stack = stack_of(4)
        shape = (4, SIZE, SIZE) if label == "mask" else (4, 21, 2)
        wanted = torch.zeros(shape)
        wanted[1:] = NAN
        wanted[0, 0] = NAN
        labels = {label: wanted, "hand": torch.tensor([1.0, 1.0, 0.0, NAN])}
        assert without_label(label, labels, wanted).tolist() == [False, True, False, True]
        loss, _ = criterion({"self_mask": 1.0, "self_keypoints": 1.0})([stack], labels)
        taught = gradient(loss, stack, name).flatten(1).abs().sum(1) > 0
        assert taught.tolist() == [False, True, False, True]

    def test_needs_a_mesh_and_what_it_is_compared_with(self) -> None:
        weights = {"self_mask": 1.0}
        assert self_supervised(HIUDMTLConfig(loss_weights=weights))
        assert not self_supervised(HIUDMTLConfig())
        assert not self_supervised(HIUDMTLConfig(loss_weights=weights, mesh=False))
        assert not self_supervised(HIUDMTLConfig(loss_weights=weights, tasks=["heatmaps"]))


class TestSupervision:
    def test_terms_are_means_over_stacks(self) -> None:
        first, second = stack_of(), stack_of()
        second["keypoints_2d"] = second["keypoints_2d"] + 5.0
        labels = {"keypoints_2d": torch.full((2, 21, 2), 10.0)}
        weights = {"keypoints_2d": 3.0}
        alone = [criterion(weights)([stack], labels)[1]["keypoints_2d"] for stack in (first, second)]
        loss, terms = criterion(weights)([first, second], labels)
        torch.testing.assert_close(terms["keypoints_2d"], (alone[0] + alone[1]) / 2)
        torch.testing.assert_close(loss, 3 * terms["keypoints_2d"])

    def test_targets_are_those_of_the_maps_cells(self) -> None:
        """A mask is averaged over the 4 x 4 pixels of a cell; pixel 5.5 is the centre of cell 1."""
        mask = torch.zeros(1, SIZE, SIZE)
        mask[0, :4, 4:6] = 1.0
        keypoints = torch.full((1, 21, 2), 5.5)
        keypoints[..., 1] = 13.5
        targets = criterion({}).map_targets({"mask": mask, "keypoints_2d": keypoints})
        assert targets["mask"][0, 0, 1] == 0.5 and targets["mask"].sum() == 0.5
        assert targets["heatmaps"][0, 0, 3, 1] == 1.0
        where = torch.tensor([1.0, 3.0]).expand(1, 21, 2)
        torch.testing.assert_close(targets["heatmaps"], gaussian_heatmaps(where, 1.0, CELLS, CELLS))

    def test_masks_without_a_hand_teach_nothing(self) -> None:
        stack = stack_of()
        labels = {"mask": torch.ones(2, SIZE, SIZE), "hand": torch.tensor([1.0, 0.0])}
        loss, _ = criterion({"mask": 1.0, "silhouette": 1.0})([stack], labels)
        for name in ("mask", "vertices"):
            assert gradient(loss, stack, name).flatten(1).abs().sum(1).gt(0).tolist() == [True, False]

    def test_rendered_masks_lie_where_the_crop_shows_them(self) -> None:
        """A mesh that covers pixels 15.5 to 47.5 of the crop fills cells 4 to 11 of its map."""
        stack, mask = stack_of(1), torch.zeros(1, SIZE, SIZE)
        mask[:, 16:48, 16:48] = 1.0
        _, terms = criterion({"silhouette": 1.0})([stack], {"mask": mask})
        _, moved = criterion({"silhouette": 1.0})([stack], {"mask": mask.roll(1, 2)})
        _, other = criterion({"silhouette": 1.0})([stack], {"mask": mask.roll(-1, 2)})
        assert terms["silhouette"] < moved["silhouette"]
        torch.testing.assert_close(moved["silhouette"], other["silhouette"], rtol=1e-3, atol=1e-4)

    def test_focal_length_learns_where_the_camera_is_known(self) -> None:
        stack, labels = stack_of(), {"keypoints_2d": torch.full((2, 21, 2), 10.0)}
        measure = criterion({"focal": 1.0, "keypoints_2d": 1.0})
        assert "focal" not in measure([stack], labels)[1]
        assert measure([stack], labels, stack["intrinsics"])[1]["focal"] == 0  # 64 px: one side

    def test_priors_need_something_else_to_learn(self) -> None:
        weights: dict[str, Any] = {"shape_prior": 1.0, "pose_prior": 1.0, "bones": 1.0}
        with pytest.raises(ValueError, match="something to learn"):
            criterion(weights)([stack_of()], {})
        assert set(criterion(weights)([stack_of()], {"joints": torch.randn(2, 21, 3)})[1]) == set(weights)


def test_the_maps_camera_sees_cells() -> None:
    """Pixel x of the crop is cell (x + .5) / 4 - .5 of its maps."""
    intrinsics = torch.tensor([[[70.0, 0, 20], [0, 50, 41], [0, 0, 1]]])
    points = torch.randn(1, 9, 3) + torch.tensor([0.0, 0, 5])
    cells = (project(points, intrinsics) + 0.5) / 4 - 0.5
    torch.testing.assert_close(project(points, map_intrinsics(intrinsics)), cells)
