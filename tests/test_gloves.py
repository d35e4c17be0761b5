"""Gloves: what they cover, whose they are, and that they are colour and thickness alone."""

from dataclasses import fields

import pytest
import torch

from handmim.synthesis import generate
from handmim.synthesis.gloves import put_on_gloves
from handmim.synthesis.hand_mesh import HandMesh, load_hand_mesh
from handmim.synthesis.random import SampleRandom
from handmim.synthesis.skin import Skin, dress, paint
from handmim.synthesis.surface import Surface
from handmim.synthesis.variety import Variety


@pytest.fixture(scope="module")
def mesh() -> HandMesh:
    return load_hand_mesh("cpu")


def skins(mesh: HandMesh, share: float, index: torch.Tensor | None = None, **variety) -> tuple[Skin, Skin]:
    """Bare hands, and the same with a share of them in gloves."""
    random = SampleRandom(4, torch.arange(64) if index is None else index)
    bare = paint(random, mesh, Variety(**variety))
    return bare, put_on_gloves(random.fork("gloves"), bare, mesh, share)


def test_a_share_of_the_hands_is_in_gloves_and_the_others_are_as_they_were(mesh: HandMesh):
    bare, gloved = skins(mesh, 0.25, torch.arange(400), jewellery=1.0)
    worn = gloved.glove_end.isfinite()
    assert 0.18 < worn.float().mean() < 0.32
    assert bare.glove_end.isinf().all() and not bare.glove_thickness.any()
    for field in fields(Skin):
        before, after = getattr(bare, field.name), getattr(gloved, field.name)
        assert torch.equal(before[~worn], after[~worn]), field.name
    assert torch.equal(bare.tone, gloved.tone)
    assert bare.ring_finger.min() > 0 and not gloved.ring_finger[worn].any()


def test_gloves_hide_nails_veins_and_the_dark_skin_of_joints(mesh: HandMesh):
    _, gloved = skins(mesh, 1.0)
    assert not gloved.relief_strength[:, 1:].any()
    back = gloved.albedo[..., mesh.dorsal > 0.95]
    far = (gloved.nail - back.mean(2)).abs().amax(1)
    assert far.max() < 0.3 and far.mean() < 0.05  # worn stuff is uneven, and no more


def test_gloves_are_of_every_lightness_and_some_of_two_colours(mesh: HandMesh):
    _, gloved = skins(mesh, 1.0, torch.arange(600))
    back, palm = (gloved.albedo[..., where].mean(2) for where in (mesh.dorsal > 0.95, mesh.dorsal < 0.05))
    level = back.mean(1)
    assert (level < 0.04).float().mean() > 0.1 and (level > 0.4).float().mean() > 0.1
    assert 0.15 < ((back - palm).abs().amax(1) > 0.1).float().mean() < 0.5


def test_hands_of_one_sample_wear_a_pair(mesh: HandMesh):
    _, gloved = skins(mesh, 0.5, torch.arange(32).repeat_interleave(2))
    for field in fields(Skin):
        first, second = getattr(gloved, field.name).unflatten(0, (32, 2)).unbind(1)
        assert torch.equal(first, second), field.name


def test_a_glove_is_as_thick_as_it_says_up_to_its_end(mesh: HandMesh):
    _, gloved = skins(mesh, 1.0, sleeves=0.0)
    points = mesh.rest.T.expand(64, 3, -1)
    out = (dress(gloved, mesh, points, torch.tensor([0.0, 1.0, 0.0])[:, None].expand_as(points)) - points)[:, 1]
    hand, arm = mesh.rest[:, 0] < -0.002, mesh.rest[:, 0] > 0.15
    assert torch.allclose(out[:, hand], gloved.glove_thickness[:, None].expand(-1, int(hand.sum())), atol=1e-6)
    assert not out[:, arm].any() and 2e-4 < gloved.glove_thickness.min() < gloved.glove_thickness.max() < 5e-3


def test_the_arm_behind_a_glove_is_bare(mesh: HandMesh):
    _, gloved = skins(mesh, 1.0, sleeves=0.0)
    points = 200
    arm = torch.nonzero((mesh.rest[mesh.faces, 0] > 0.15).all(1)).squeeze(1)[:points]
    irradiance = 0.5
    attributes = torch.zeros(64, 8, mesh.num_vertices)
    attributes[:, :3], attributes[:, 3:6], attributes[:, 6] = gloved.albedo, irradiance, mesh.rest[:, 0]
    surface = Surface(mesh, gloved, attributes.transpose(1, 2).reshape(-1, 8), jewellery=False, gloves=True)
    row = torch.arange(len(arm)) % 64
    colour = surface.colour(torch.full((len(arm), 3), 1 / 3), arm, row)
    assert torch.allclose(colour, gloved.tone[row] * irradiance, atol=1e-6)


def test_faces_have_the_colour_of_bare_skin():
    """People's were the mean colour of their hands, which are green or black in gloves."""
    variety = {"base": "scene", "persons": 1.0, "negatives": 0.0, "faults": []}
    bare, gloved = (generate(6, range(16), size=96, variety=variety | {"gloves": share}).images for share in (0.0, 1.0))
    same = (bare == gloved).all(-1).float().mean((1, 2))
    assert not torch.equal(bare, gloved) and same.max() > 0.5


def test_gloves_change_pictures_and_no_labels():
    bare, gloved = (generate(2, range(32), size=48, variety={"gloves": share}) for share in (0.0, 0.5))
    changed = (bare.images != gloved.images).flatten(1).any(1)
    assert 0.2 < changed.float().mean() < 0.9
    for name in ("joints", "vertices", "keypoints_2d", "hand"):
        assert torch.equal(bare.labels[name].nan_to_num(), gloved.labels[name].nan_to_num()), name


def test_a_gloved_hand_is_the_same_in_any_batch():
    whole = generate(9, range(12), size=48, variety={"gloves": 1.0})
    alone = generate(9, [7], size=48, variety={"gloves": 1.0})
    assert torch.equal(whole.images[7], alone.images[0])
