"""Views of a crop are perspective pictures, and what is seen in them comes together in the crop's own frame."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_network import TINY, picture, ramp, stub_model

from handmim import HandMIM, HandMIMConfig, HandMIMForMeshEstimation, HandMIMImageProcessor, HandModel
from handmim.fitting import Evidence
from handmim.geometry import affine_points, axis_angle_to_matrix, invert_affine, nearest_rotation, project
from handmim.pipeline_hand_mesh import HandMeshPipeline
from handmim.targets_hiu_dmtl import gaussian_heatmaps, to_cells
from handmim.tta import DEFAULT_VIEWS, View, describe, estimate_from_views, mean_evidence, mean_hand, view_of, widen

SIZE, WIDE = 64, 104
CAMERA = torch.tensor([[[300.0, 0, 70], [0, 330, 40], [0, 0, 1]]])
ANGLES = st.floats(-3.0, 3.0, width=32)


def views(*angles: float) -> list:
    return [view_of(torch.zeros(1, 3, WIDE, WIDE), CAMERA, View(angle), SIZE) for angle in angles]


def test_views_are_perspective_pictures() -> None:
    """A turned camera sees turned points where the warp carries their picture, with different focal lengths as well."""
    points = torch.randn(1, 21, 3, generator=torch.Generator().manual_seed(0)) * 0.05 + torch.tensor([0.0, 0, 0.6])
    for view in (View(), View(30), View(-100, 0.8), View(zoom=1.3)):
        seen = view_of(torch.zeros(1, 3, WIDE, WIDE), CAMERA, view, SIZE)
        turned = points @ seen.rotation.T
        np.testing.assert_allclose(
            project(turned, seen.intrinsics), affine_points(seen.affine, project(points, CAMERA)), atol=1e-3
        )
        centre = affine_points(seen.affine, torch.full((1, 1, 2), (WIDE - 1) / 2))
        np.testing.assert_allclose(centre[0, 0], [31.5, 31.5], atol=1e-4)


def test_pixels_of_views_follow_the_warp() -> None:
    y, x = torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="ij")
    ramp = torch.stack([x, y, x + y])[None] / 100
    seen = view_of(ramp, torch.tensor([[[300.0, 0, 70], [0, 300, 40], [0, 0, 1]]]), View(20, 0.9), SIZE)
    points = torch.tensor([[[50.0, 50], [40, 60], [62, 45]]])
    for place, value in zip(affine_points(seen.affine, points)[0], points[0], strict=True):
        corner = place.floor().long()
        patch = seen.pixel_values[0, :2, corner[1] : corner[1] + 2, corner[0] : corner[0] + 2]
        assert patch.amin((1, 2)).mul(100).sub(2).lt(value).all() and patch.amax((1, 2)).mul(100).add(2).gt(value).all()


@settings(deadline=None, max_examples=20)
@given(st.tuples(ANGLES, ANGLES, ANGLES), st.floats(-150, 150))
def test_a_hand_seen_from_turned_cameras_is_one_hand(orient: tuple[float, ...], angle: float) -> None:
    """Whatever the views are, answers that agree have themselves as their mean."""
    model = HandModel("open")
    root = axis_angle_to_matrix(torch.tensor([orient]))
    pose = axis_angle_to_matrix(0.3 * torch.cos(torch.arange(45.0)).view(1, 15, 3))
    betas, wrist = torch.linspace(-1, 1, 10)[None], torch.tensor([[0.02, -0.03, 0.6]])
    outputs = []
    for seen in (looks := views(0, angle)):
        hand = model(seen.rotation @ root, pose, betas)
        joints = hand.joints - hand.joints[:, :1] + (wrist @ seen.rotation.T)[:, None]
        outputs.append({"global_orient": seen.rotation @ root, "hand_pose": pose, "betas": betas, "joints": joints})
    found = mean_hand(model, looks, outputs, SIZE)
    np.testing.assert_allclose(found["global_orient"], root, atol=1e-5)
    np.testing.assert_allclose(found["hand_pose"], pose, atol=1e-5)
    np.testing.assert_allclose(found["joints"], outputs[0]["joints"], atol=1e-5)
    np.testing.assert_allclose(found["keypoints_2d"], project(found["joints"], looks[0].intrinsics), atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.floats(-60, 60), st.integers(0, 1000))
def test_maps_of_turned_views_say_the_same(angle: float, seed: int) -> None:
    """Peaks that show the same points in every view stay where they are in the first, and as high."""
    points = SIZE / 2 + 12 * torch.randn(1, 21, 2, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)
    looks, cells = views(0, angle), 32
    evidence = []
    for seen in looks:
        there = affine_points(seen.affine, affine_points(invert_affine(looks[0].affine), points))
        maps = gaussian_heatmaps(to_cells(there, SIZE, cells), 1.5, cells, cells)
        evidence.append(Evidence(maps, maps.amax((2, 3))))
    mean = mean_evidence(looks, evidence, SIZE)
    np.testing.assert_allclose(mean.keypoints(SIZE), evidence[0].keypoints(SIZE), atol=0.5)
    assert (mean.heatmaps.amax((2, 3)) > 0.7).all() and mean.trust.amax() <= 1 and mean.depths is None


def test_a_cell_that_one_view_does_not_reach_counts_by_the_others() -> None:
    looks = views(0, 45)
    whole = Evidence(torch.ones(1, 21, 16, 16), torch.ones(1, 21), torch.zeros(1, 20))
    mean = mean_evidence(looks, [whole, whole], SIZE)
    assert mean.heatmaps[..., 0, 0].min() == 1 and mean.heatmaps.max() <= 1 + 1e-6
    assert torch.equal(mean.depths, torch.zeros(1, 20))


@given(st.tuples(ANGLES, ANGLES, ANGLES))
def test_the_nearest_rotation_to_a_rotation_is_itself(axis: tuple[float, ...]) -> None:
    rotation = axis_angle_to_matrix(torch.tensor(axis))
    np.testing.assert_allclose(nearest_rotation(1.7 * rotation), rotation, atol=1e-5)
    mirrored = nearest_rotation(rotation @ torch.diag(torch.tensor([0.3, 0.2, -0.1])))
    assert torch.linalg.det(mirrored) > 0.99


def test_description_of_views() -> None:
    assert describe(()) is None
    assert len(describe(DEFAULT_VIEWS)["views"]) == len(DEFAULT_VIEWS) and DEFAULT_VIEWS[0] == View()
    wide = widen(96, 1.2)
    assert (wide["size"]["height"] - 96) % 2 == 0 and wide["box_scale"] / 1.2 == pytest.approx(
        wide["size"]["height"] / 96
    )


class TestFrontDoor:
    """Pictures in, hands in the pictures' frame out, as without views."""

    def test_a_stub_that_turns_with_the_picture_gives_the_same_hand(self) -> None:
        image, boxes = ramp(200, 160), [[60, 50, 120, 110], [50, 40, 100, 90]]
        plain, viewed = stub_model(), stub_model()
        viewed.pipeline.tta = True
        sides = ["right", "left"]
        for one, other in zip(plain(image, boxes, sides), viewed(image, boxes, sides), strict=True):
            assert np.abs(one.keypoints_2d - other.keypoints_2d).mean() < 1
            np.testing.assert_allclose(other.box, one.box) and other.handedness == one.handedness
        assert viewed.model.batches == [2, 2, 2]

    @pytest.mark.parametrize("fit_steps", [0, 2])
    def test_parameters_and_mesh_belong_together(self, fit_steps: int) -> None:
        torch.manual_seed(0)
        config = HandMIMConfig.from_size("tiny", **TINY, heatmap_evidence=True, heatmap_level=0, fit_steps=fit_steps)
        network = HandMIMForMeshEstimation(config).eval()
        pipeline = HandMeshPipeline(
            model=network,
            image_processor=HandMIMImageProcessor(size=64),
            detector="none",
            tta=True,
            task="hand-mesh-estimation",
        )
        hand = HandMIM(pipeline)(picture(), [[20, 20, 80, 80]], "right")[0]
        orient, pose = (
            axis_angle_to_matrix(torch.from_numpy(value))[None] for value in (hand.global_orient, hand.hand_pose)
        )
        posed = network.hand_model(orient, pose, torch.from_numpy(hand.betas)[None])
        np.testing.assert_allclose(posed.vertices[0] + torch.from_numpy(hand.translation), hand.vertices, atol=1e-4)
        assert 0 <= hand.score <= 1

    def test_autocast_leaves_the_mean_and_the_fit_alone(self) -> None:
        torch.manual_seed(0)
        config = HandMIMConfig.from_size("tiny", **TINY, heatmap_evidence=True, heatmap_level=0, fit_steps=2)
        network = HandMIMForMeshEstimation(config).eval()
        pixels, cameras = torch.rand(2, 3, WIDE, WIDE) * 2 - 1, CAMERA.expand(2, 3, 3)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = estimate_from_views(network, pixels, cameras)
        posed = network.hand_model(found["global_orient"], found["hand_pose"], found["betas"])
        np.testing.assert_allclose(posed.joints + found["translation"][:, None], found["joints"], atol=1e-5)
        assert all(value.dtype == torch.float32 for value in found.values())

    def test_one_plain_view_is_the_model(self) -> None:
        torch.manual_seed(0)
        config = HandMIMConfig.from_size("tiny", **TINY, heatmap_evidence=True, heatmap_level=0, fit_steps=2)
        network = HandMIMForMeshEstimation(config).eval()
        pixels, cameras = torch.rand(2, 3, 104, 104) * 2 - 1, CAMERA.expand(2, 3, 3)
        seen = view_of(pixels, cameras, View(), 64)
        with torch.no_grad():
            plain = network(pixel_values=seen.pixel_values, intrinsics=seen.intrinsics)
            found = estimate_from_views(network, pixels, cameras, (View(),))
        np.testing.assert_allclose(found["joints"], plain.joints, atol=1e-4)
        np.testing.assert_allclose(found["keypoints_2d"] - 20, plain.keypoints_2d, atol=0.05)
        np.testing.assert_allclose(found["score_logits"], plain.score_logits, atol=1e-5)
