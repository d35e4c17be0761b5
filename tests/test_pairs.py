"""Two hands palm to palm: mirror images that touch, in any pose, and pictures that show them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handmim.geometry import axis_angle_to_matrix
from handmim.hand_model import HandModel
from handmim.synthesis import SampleRandom, generate, pairs
from handmim.synthesis.generator import _Scene
from handmim.synthesis.variety import find_variety

PAIRS = 3
PALM = torch.tensor([0.0, -1.0, 0.0])
TURNED_ROUND = torch.tensor([-1.0, 1.0, 1.0])


def two_hands(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices of first and second hands (N, V, 3), m, the camera's frame, and where the first ones' palms look."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(PAIRS, 16, 3, generator=generator) * torch.tensor([3.0] + [0.4] * 15)[:, None]
    rotations = axis_angle_to_matrix(draws)
    orient, pose, betas = rotations[:, 0], rotations[:, 1:], torch.randn(PAIRS, 10, generator=generator)
    place = torch.randn(PAIRS, 3, generator=generator)
    random, model = SampleRandom(seed, torch.arange(PAIRS)), HandModel("open")
    with torch.no_grad():
        first = model(orient, pose, betas)
        turned, turn = pairs.twin_orientation(random, orient)
        second = model(turned, pose, betas)
    surface = first.vertices + place[:, None]
    wrists = [hand.skeleton_joints[:, 0] for hand in (first, second)]
    moved = pairs.twin_translation(random, orient, turn, surface.mT, wrists[0] + place, wrists[1])
    return surface, (second.vertices + moved[:, None]) * TURNED_ROUND, orient @ PALM


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_they_touch_and_do_not_run_into_each_other(seed: int):
    first, second, palm = two_hands(seed)
    below, above = ((hand * palm[:, None]).sum(2) for hand in (first, second))
    assert torch.allclose(below.amax(1), above.amin(1), atol=1e-5)
    middles = (hand.mean(1) - palm * (hand.mean(1) * palm).sum(1, keepdim=True) for hand in (first, second))
    assert torch.stack([*middles]).diff(dim=0).norm(dim=2).max() < 0.06


def test_they_are_mirror_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pairs, "TURN", 0.0)
    monkeypatch.setattr(pairs, "SLIDE", 0.0)
    first, second, palm = two_hands(0)
    height = (first * palm[:, None]).sum(2)
    image = first + 2 * (height.amax(1, keepdim=True) - height)[..., None] * palm[:, None]
    torch.testing.assert_close(second, image, atol=1e-5, rtol=0)


def test_arms_stay_on_their_own_side():
    bend = SampleRandom(0, torch.arange(50)).rotation()
    kept = pairs.arms_apart(bend)
    torch.testing.assert_close(kept @ kept.mT, torch.eye(3).expand_as(kept), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(kept), torch.ones(50))
    assert (kept[:, :, 0] @ PALM <= 0).all()  # no elbow where the palm looks
    assert torch.equal(kept[bend[:, 1, 0] >= 0], bend[bend[:, 1, 0] >= 0])


@pytest.mark.usefixtures("small_bank")
def test_pictures_show_the_pair():
    """A left hand against the right one's palm; of one sample the same in any batch."""
    variety = find_variety({"base": "plain", "second_hands": 1.0, "together": 1.0})
    batch = generate(5, range(24), size=64, variety=variety)
    assert batch.hands.left.view(24, 2).sum(1).eq(1).all()
    part = generate(5, [17, 3], size=64, variety=variety)
    assert torch.equal(part.hands.boxes.view(2, 2, 4), batch.hands.boxes.view(24, 2, 4)[[17, 3]])
    scene = _Scene(5, torch.arange(24), 64, variety)
    scene._pose()
    hands = scene.vertices[:, :, : scene.mesh.num_hand_vertices]
    first, second = hands[:24], hands[24:] * TURNED_ROUND[:, None]
    palm = scene.global_orient[:24] @ PALM
    below, above = ((hand * palm[..., None]).sum(1) for hand in (first, second))
    assert torch.allclose(below.amax(1), above.amin(1), atol=1e-5)
    assert torch.equal(scene.hand_pose[:24], scene.hand_pose[24:])
    lefts = _Scene(5, torch.arange(24), 64, replace(variety, negatives=0.5))
    assert lefts.left.any() and torch.equal(lefts.parent[lefts.twin], torch.nonzero(~lefts.left & ~lefts.empty)[:, 0])
    alone = generate(5, range(24), size=64, variety=replace(variety, together=0.0))
    assert torch.equal(batch.labels["hand_pose"], alone.labels["hand_pose"])
