"""Fitting hands to maps: derivatives against differences, hands found again, and what bad maps do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fabricate_mano import fabricate, write_pickle
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_network import TINY
from torch import Tensor

from handmim import HandMIMConfig, HandMIMForMeshEstimation
from handmim.configuration_hiu_dmtl import HIUDMTLConfig
from handmim.fitting import Evidence, _skeleton, fit_hands, fit_output
from handmim.geometry import axis_angle_to_matrix, project
from handmim.hand_model import HandModel
from handmim.modeling_hiu_dmtl import HIUDMTLForHandUnderstanding
from handmim.synthesis.poses import sample_poses
from handmim.synthesis.random import SampleRandom
from handmim.targets_hiu_dmtl import (
    bone_orientations,
    gaussian_heatmaps,
    mean_fields,
    part_orientation_fields,
    to_cells,
)

SIZE, CELLS = 96, 48
CAMERA = torch.tensor([[220.0, 0, 45], [0, 230, 50], [0, 0, 1]])
UPRIGHT = torch.tensor([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])
FIELDS = {"vertices", "joints", "keypoints_2d", "global_orient", "hand_pose", "betas", "camera", "translation"}


@pytest.fixture(scope="module")
def hand_model() -> HandModel:
    return HandModel("open")


def turns(count: int, joints: int, std: float, seed: int) -> Tensor:
    """(count, joints, 3, 3) random rotations."""
    generator = torch.Generator().manual_seed(seed)
    return axis_angle_to_matrix(torch.randn(count, joints, 3, generator=generator) * std)


def hands(model: HandModel, seed: int, count: int = 4, std: float = 0.0) -> dict[str, Tensor]:
    """Plausible hands half a metre away; with `std` every joint turned by so many radians more, at random."""
    random = SampleRandom(seed, torch.arange(count))
    orient = turns(count, 1, 0.4, seed)[:, 0] @ UPRIGHT @ turns(count, 1, std, seed + 1)[:, 0]
    pose = sample_poses(random) @ turns(count, 15, std, seed + 2)
    betas = random.fork("betas").normal((10,)) * (std == 0)
    posed = model(orient, pose, betas)
    shift = torch.tensor([0.0, 0.0, 0.5]) - posed.joints.mean(1) + std * 0.02
    joints = posed.joints + shift[:, None]
    return {"joints": joints, "global_orient": orient, "hand_pose": pose, "betas": betas}


def cameras(count: int = 4) -> Tensor:
    return CAMERA.repeat(count, 1, 1)


def truthful(hand: dict[str, Tensor]) -> Evidence:
    """The maps that a perfect network draws."""
    keypoints = project(hand["joints"], cameras(len(hand["joints"])))
    maps = gaussian_heatmaps(to_cells(keypoints, SIZE, CELLS), 1.0, CELLS, CELLS)
    return Evidence(maps, maps.amax((2, 3)), bone_orientations(keypoints, hand["joints"])[..., 2])


def relative(joints: Tensor) -> Tensor:
    return joints - joints[:, :1]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_skeleton_is_the_hand_and_its_derivatives_are_true(hand_model: HandModel, seed: int) -> None:
    hand = hands(hand_model, seed)
    skeleton = _skeleton(hand_model, hand)
    frames = skeleton.frames()
    points = skeleton.points(frames)
    assert float((points - hand["joints"]).abs().max()) < 1e-6
    moves = skeleton.derivatives(frames, points)
    step = torch.randn(4, moves.shape[-1], generator=torch.Generator().manual_seed(seed)) * 1e-3
    there, back = skeleton.moved(step), skeleton.moved(-step)
    change = (there.points(there.frames()) - back.points(back.frames())) / 2
    linear = (moves @ step[:, None, :, None]).squeeze(-1)
    assert float((change - linear).abs().max()) < 2e-3 * float(linear.abs().max())


def test_joints_move_only_what_comes_after_them(hand_model: HandModel) -> None:
    skeleton = _skeleton(hand_model, hands(hand_model, 3))
    frames = skeleton.frames()
    moved = skeleton.derivatives(frames, skeleton.points(frames)).abs().sum((0, 2)) > 0  # (21, U)
    index_middle = slice(3 + 9 + 3, 3 + 9 + 6)  # thumb first, three joints a finger
    assert moved[:, index_middle].any(1).nonzero().flatten().tolist() == [7, 8]
    assert not moved[0, :48].any() and moved[0, 48:51].any()


@pytest.mark.parametrize("seed", range(3))
def test_hands_are_found_again(hand_model: HandModel, seed: int) -> None:
    truth, start = hands(hand_model, seed), hands(hand_model, seed, std=0.25)
    fitted = fit_hands(hand_model, start, truthful(truth), cameras(), SIZE, 6, 1.0)
    assert set(fitted) == FIELDS
    target = project(truth["joints"], cameras())
    seen = ((target > 0) & (target < SIZE - 1)).all(-1)  # the others have no map
    pixels = (fitted["keypoints_2d"] - target)[seen].norm(dim=-1)
    before = (project(start["joints"], cameras()) - target)[seen].norm(dim=-1)
    assert float(pixels.mean()) < 1.0 < 4.0 < float(before.mean())
    error = (relative(fitted["joints"]) - relative(truth["joints"])).norm(dim=-1).mean()
    first = (relative(start["joints"]) - relative(truth["joints"])).norm(dim=-1).mean()
    assert float(error) < 0.35 * float(first)


def test_fields_tell_what_the_picture_does_not(hand_model: HandModel) -> None:
    truth, start = hands(hand_model, 5, 16), hands(hand_model, 5, 16, std=0.3)
    told = truthful(truth)
    flat = Evidence(told.heatmaps, told.trust)
    with_fields, without = (fit_hands(hand_model, start, e, cameras(16), SIZE, 6, 1.0) for e in (told, flat))
    errors = [
        float((relative(f["joints"]) - relative(truth["joints"])).norm(dim=-1).mean()) for f in (with_fields, without)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_what_is_given_back_belongs_together(hand_model: HandModel) -> None:
    fitted = fit_hands(
        hand_model, hands(hand_model, 1, std=0.2), truthful(hands(hand_model, 1)), cameras(), SIZE, 3, 0.5
    )
    posed = hand_model(fitted["global_orient"], fitted["hand_pose"], fitted["betas"], fitted["translation"])
    assert torch.allclose(posed.vertices, fitted["vertices"], atol=1e-5)
    assert torch.allclose(posed.joints, fitted["joints"], atol=1e-5)
    assert torch.allclose(project(fitted["joints"], cameras()), fitted["keypoints_2d"], atol=1e-2)
    assert torch.allclose(torch.det(fitted["hand_pose"]), torch.ones(4, 15), atol=1e-4)


def test_a_second_peak_far_away_does_not_draw_a_finger(hand_model: HandModel) -> None:
    truth, start = hands(hand_model, 2), hands(hand_model, 2, std=0.05)
    told = truthful(truth)
    ghost = gaussian_heatmaps(torch.full((4, 21, 2), 4.0), 1.0, CELLS, CELLS) * 0.8
    ghost[:, [k for k in range(21) if k != 8]] = 0
    fitted = fit_hands(
        hand_model, start, Evidence(told.heatmaps + ghost, told.trust, told.depths), cameras(), SIZE, 6, 0.5
    )
    error = (fitted["keypoints_2d"] - project(truth["joints"], cameras()))[:, 8].norm(dim=-1)
    assert float(error.max()) < 5


def test_a_map_says_nothing_far_from_its_peak() -> None:
    """Where the window's weight underflowed, the keypoint was read in the picture's corner, with full trust."""
    evidence = Evidence(gaussian_heatmaps(torch.full((1, 21, 2), 40.0), 1.0, CELLS, CELLS), torch.ones(1, 21))
    for x in (0.0, SIZE / 2, 3.0 * SIZE):
        place = evidence.keypoints(SIZE, torch.tensor([x, SIZE / 2]).expand(1, 21, 2), 0.05)
        assert (place.isnan() | (place > 30 * SIZE / CELLS)).all(), place


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: Evidence(torch.zeros_like(e.heatmaps), torch.zeros_like(e.trust)),
        lambda e: Evidence(e.heatmaps, torch.zeros_like(e.trust), torch.full_like(e.depths, torch.nan)),
        lambda e: Evidence(torch.full_like(e.heatmaps, torch.nan), e.trust, torch.full_like(e.depths, torch.nan)),
    ],
    ids=["empty", "untrusted", "not numbers"],
)
def test_maps_that_say_nothing_change_nothing(hand_model: HandModel, spoil: Callable[[Evidence], Evidence]) -> None:
    start = hands(hand_model, 4, std=0.1)
    fitted = fit_hands(hand_model, start, spoil(truthful(hands(hand_model, 4))), cameras(), SIZE, 3, 0.5)
    for name in ("joints", "hand_pose", "betas"):
        assert torch.allclose(fitted[name], start[name], atol=1e-5), name


def test_hands_of_a_batch_do_not_see_each_other(hand_model: HandModel) -> None:
    start, told = hands(hand_model, 6, std=0.2), truthful(hands(hand_model, 6))
    whole = fit_hands(hand_model, start, told, cameras(), SIZE, 3, 0.5)
    one = Evidence(told.heatmaps[2:3], told.trust[2:3], told.depths[2:3])
    alone = fit_hands(hand_model, {k: v[2:3] for k, v in start.items()}, one, cameras(1), SIZE, 3, 0.5)
    assert torch.allclose(alone["vertices"], whole["vertices"][2:3], atol=1e-3)
    none = Evidence(told.heatmaps[:0], told.trust[:0], told.depths[:0])
    assert (
        fit_hands(hand_model, {k: v[:0] for k, v in start.items()}, none, cameras(0), SIZE, 3, 0.5)["vertices"].shape[0]
        == 0
    )


def test_mano_is_fitted_too(tmp_path: Path) -> None:
    write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(side="right"))
    model = HandModel("mano", "right", tmp_path)
    truth, start = hands(model, 0), hands(model, 0, std=0.2)
    fitted = fit_hands(model, start, truthful(truth), cameras(), SIZE, 6, 1.0)
    before, after = (
        float((points - project(truth["joints"], cameras())).norm(dim=-1).mean())
        for points in (project(start["joints"], cameras()), fitted["keypoints_2d"])
    )
    assert after < 0.5 * before


def test_log_probabilities_and_heights_say_the_same(hand_model: HandModel) -> None:
    truth, start = hands(hand_model, 7), hands(hand_model, 7, std=0.2)
    heights = truthful(truth).heatmaps
    logs = (heights / heights.sum((2, 3), keepdim=True)).clamp(min=1e-30).log()
    ours = HandMIMConfig(**TINY | {"heatmap_evidence": True, "heatmap_level": 0, "fit_steps": 3, "fit_turn": 0.5})
    theirs = HIUDMTLConfig(fit_steps=3)
    first = fit_output(ours, hand_model, start | {"heatmaps": logs}, cameras(), SIZE)
    second = fit_output(theirs, hand_model, start | {"heatmaps": heights}, cameras(), SIZE)
    assert torch.allclose(first["keypoints_2d"], second["keypoints_2d"], atol=0.05)


def test_fields_are_read_where_they_are_strong(hand_model: HandModel) -> None:
    hand = hands(hand_model, 8)
    cells = to_cells(project(hand["joints"], cameras()), SIZE, CELLS)
    fields = part_orientation_fields(cells, hand["joints"], 1.0, CELLS, CELLS)
    expected = bone_orientations(cells, hand["joints"])
    seen = fields.abs().sum((2, 3, 4)) > 0
    assert torch.allclose(mean_fields(fields)[seen], expected[seen], atol=1e-4)


def handmim(**changes: Any) -> HandMIMForMeshEstimation:
    options = {"heatmap_evidence": True, "heatmap_level": 0, "orientation_frame": "ray"} | changes
    torch.manual_seed(0)
    return HandMIMForMeshEstimation(HandMIMConfig(**TINY | options))


def hiu_dmtl(**changes: Any) -> HIUDMTLForHandUnderstanding:
    options = {"image_size": 64, "hidden_size": 16, "num_stacks": 1, "encoder_levels": 2, "encoder_depth": 1}
    torch.manual_seed(0)
    return HIUDMTLForHandUnderstanding(HIUDMTLConfig(**options | changes))


@pytest.mark.parametrize("make", [handmim, hiu_dmtl])
def test_networks_fit_unless_they_train(make: Callable[..., Any]) -> None:
    model = make(fit_steps=2)
    size = model.config.image_size
    given = {"pixel_values": torch.randn(2, 3, size, size), "intrinsics": cameras(2)}
    labels = {"joints": hands(HandModel("open"), 0, 2)["joints"]}
    with torch.no_grad():
        plain = make(fit_steps=0).eval()(**given, labels=labels)
        fitted = model.eval()(**given, labels=labels, return_all=True)
        trained = model.train()(**given, labels=labels, return_all=True)
    assert not torch.allclose(fitted.joints, plain.joints) and fitted.joints.isfinite().all()
    assert torch.equal(fitted.loss, plain.loss)  # of what the network itself estimates
    before_any_fit = [(o.iterations if make is handmim else o.stacks)[-1]["joints"] for o in (fitted, trained)]
    assert torch.equal(before_any_fit[0], plain.joints) and torch.equal(before_any_fit[1], trained.joints)


@pytest.mark.parametrize("make", [handmim, hiu_dmtl])
def test_the_fit_is_in_float32_whatever_the_network(make: Callable[..., Any]) -> None:
    model = make(fit_steps=2).eval()
    size = model.config.image_size
    given = {"pixel_values": torch.randn(2, 3, size, size), "intrinsics": cameras(2)}
    with torch.no_grad():
        expected = model(**given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = model(**given)
        low = model.to(torch.bfloat16)(**{**given, "pixel_values": given["pixel_values"].bfloat16()})
    for found in (under, low):
        assert found.joints.dtype == torch.float32 and found.joints.isfinite().all()
        assert float((found.joints - expected.joints).norm(dim=-1).mean()) < 0.05


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (handmim, {"fit_steps": 3, "heatmap_evidence": False}, "fit_steps needs heatmap_evidence"),
        (hiu_dmtl, {"fit_steps": 3, "tasks": ("mask",)}, "fit_steps needs mesh and the task heatmaps"),
        (hiu_dmtl, {"fit_steps": -1}, "fit_steps must be from 0 to 100, got -1"),
        (handmim, {"fit_turn": 0.0}, "fit_turn must be above 0"),
    ],
)
def test_configurations_that_cannot_be_fitted_are_refused(
    make: Callable[..., Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        make(**changes)
