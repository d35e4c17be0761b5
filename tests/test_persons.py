"""Persons behind their hands: skeletons that hold together, bodies that are closed and hide what is behind them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.geometry import project
from handmim.synthesis import SampleRandom, bodies, generate, persons
from handmim.synthesis.hand_mesh import load_hand_mesh
from handmim.synthesis.light import sample_light
from handmim.synthesis.skin import paint

pytestmark = pytest.mark.usefixtures("small_bank")
PEOPLE = {"base": "scene", "persons": 1.0, "negatives": 0.3}


def people(count: int = 64, seed: int = 1) -> persons.Persons:
    return persons.sample_persons(SampleRandom(seed, torch.arange(count)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**62))
def test_limbs_keep_their_lengths_and_forearms_point_to_elbows(seed: int):
    some = people(16, seed)
    for number, side in enumerate(("right", "left")):
        shoulder, elbow, wrist = (some.joint(f"{side} {name}") for name in ("shoulder", "elbow", "wrist"))
        torch.testing.assert_close((elbow - shoulder).norm(dim=1), torch.full((16,), persons.UPPER_ARM))
        torch.testing.assert_close((elbow - wrist).norm(dim=1), torch.full((16,), persons.FOREARM))
        frame = some.forearms[:, number]
        torch.testing.assert_close(frame[:, :, 0] * persons.FOREARM, elbow - wrist, atol=1e-5, rtol=0)
        torch.testing.assert_close(frame @ frame.mT, torch.eye(3).expand(16, 3, 3), atol=1e-5, rtol=0)
        assert torch.linalg.det(frame).min() > 0.99
    assert some.joints[..., 2].min() >= persons.CLEAR - 1e-5


def test_an_arm_reaches_what_it_can_reach_and_points_at_the_rest():
    shoulder = torch.tensor([[0.1, -0.4, 0.0]]).repeat(30, 1)
    way = torch.nn.functional.normalize(torch.randn(30, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    for length, reached in ((0.3, 0.3), (0.5, 0.5), (0.9, 0.535), (0.02, 0.14)):
        _, wrist = persons._arm(SampleRandom(1, torch.arange(30)), shoulder, shoulder + way * length, "right")
        torch.testing.assert_close(wrist, shoulder + way * reached, atol=1e-6, rtol=0)


def test_a_person_does_not_depend_on_the_batch():
    whole, part = people(40), persons.sample_persons(SampleRandom(1, torch.tensor([31, 7])))
    for name in ("joints", "axes", "head_axes", "forearms"):
        assert torch.equal(getattr(whole, name)[[31, 7]], getattr(part, name)), name


def test_people_stand_in_different_ways_and_mostly_upright_before_the_camera():
    some = people(2000)
    down, back = some.axes[..., 1], some.axes[..., 2]
    assert (down[:, 1] > 0.8).float().mean() > 0.8 and (back[:, 2] > 0.5).float().mean() > 0.5
    assert (back[:, 2] < -0.5).float().mean() > 0.05
    apart = (some.joint("right wrist") - some.joint("left wrist")).norm(dim=1)
    assert 0.2 < (apart < 0.25).float().mean() < 0.6 and (apart > 0.6).float().mean() > 0.1


def test_bodies_are_closed_and_their_normals_point_outwards():
    mesh = bodies.load_body_mesh()
    vertices, normals = bodies.pose_body(mesh, people(8))
    corners, lean = (values.transpose(1, 2)[:, mesh.faces] for values in (vertices, normals))
    face = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0], dim=2)
    area = face.norm(dim=2)
    solid = area > 1e-7  # rings at the ends are points
    outward = (face * lean.mean(2)).sum(2) / area.clamp(min=1e-12)
    assert (outward[solid] > 0.3).all()
    # The volume inside a closed surface does not depend on the origin.
    volume = [(corner[:, :, 0] * face).sum((1, 2)) / 6 for corner in (corners, corners + 1.0)]
    torch.testing.assert_close(*volume, atol=1e-4, rtol=1e-3)
    assert (volume[0] > 0.04).all() and (volume[0] < 0.12).all()  # m^3; parts overlap, arms end at the elbow


def test_a_bare_arm_a_bald_head_and_a_face():
    clothes = bodies.Clothes(
        palette=torch.zeros(2, 7, 3),
        stripes=torch.zeros(2, 2, 3),
        stripe_rate=torch.zeros(2, 2),
        sleeve=torch.zeros(2),
        shorts=torch.zeros(2),
        hair=torch.tensor([[0.0, -1.0, 0.0]]).repeat(2, 1),
        hair_reach=torch.tensor([0.5, 2.0]),
        beard=torch.tensor([False, True]),
        fold=torch.zeros(2),
    )
    eye, nose, chin, top = [0.36, -0.02, -0.93], [0.0, 0.1, -1.0], [0.0, 0.7, -0.7], [0.0, -1.0, 0.0]
    place = torch.tensor([eye, nose, chin, top] * 2)
    kinds = bodies._head(clothes, place, torch.tensor([0] * 4 + [1] * 4))
    haired = [bodies.EYES, bodies.SKIN, bodies.SKIN, bodies.HAIR]
    assert kinds.tolist() == haired + [bodies.EYES, bodies.SKIN, bodies.HAIR, bodies.SKIN]


def test_bodies_are_drawn_where_they_stand_in_their_colours():
    random = SampleRandom(4, torch.arange(6))
    some, light = persons.sample_persons(random), sample_light(random.fork("light"))
    skin = paint(random.fork("skin"), load_hand_mesh())
    chosen = torch.tensor([1, 2, 4, 5])
    there = persons.sample_persons(SampleRandom(4, chosen))
    camera = torch.tensor([[60.0, 0.0, 47.5], [0.0, 60.0, 47.5], [0.0, 0.0, 1.0]]).repeat(4, 1, 1)
    picture = torch.full((6, 3, 96, 96), 7.0)
    clothes = bodies.sample_clothes(SampleRandom(4, chosen), skin, chosen)
    light = type(light)(**{name: value[chosen] for name, value in vars(light).items()})
    keys, depth = bodies.draw_bodies(picture, there, clothes, light, camera, chosen)
    assert (picture[[0, 3]] == 7).all()
    drawn = keys > 0
    assert torch.equal(drawn, depth.isfinite()) and torch.equal(drawn, (picture[chosen] != 7).any(1))
    torch.testing.assert_close(
        (keys[drawn] >> 32).int().view(torch.float32), depth[drawn].reciprocal(), rtol=0.05, atol=0
    )
    torch.testing.assert_close(there.joints, some.joints[chosen])
    neck = project(there.joint("neck")[:, None], camera)[:, 0].round().long()
    inside = ((neck >= 0) & (neck < 96)).all(1)
    assert inside.any()
    for row in torch.nonzero(inside).squeeze(1).tolist():
        assert drawn[row, neck[row, 1], neck[row, 0]]


def test_both_hands_of_a_person_are_there_and_nothing_depends_on_the_batch():
    whole = generate(3, range(40), size=64, variety=PEOPLE)
    counts = torch.bincount(whole.hands.picture, minlength=40)
    assert set(counts.tolist()) == {0, 2}
    for picture in torch.nonzero(counts == 2).squeeze(1).tolist():
        assert sorted(whole.hands.left[whole.hands.picture == picture].tolist()) == [False, True]
    part = generate(3, torch.tensor([33, 5, 12]), size=64, variety=PEOPLE)
    difference = (part.images.int() - whole.images[[33, 5, 12]].int()).abs()
    assert difference.max() <= 2 and (difference > 0).float().mean() < 1e-3
    assert torch.equal(part.labels["joints"].nan_to_num(9), whole.labels["joints"][[33, 5, 12]].nan_to_num(9))


def test_hands_are_at_the_ends_of_the_arms():
    random = SampleRandom(3, torch.arange(24))
    batch = generate(3, range(24), size=64, variety=PEOPLE | {"negatives": 0.0})
    wrist = batch.labels["joints"][:, 0]
    # A wrist joint lies a little inside of the arm's end.
    arm = persons.sample_persons(random.fork("persons"))
    assert (wrist - arm.joint("right wrist")).norm(dim=1).max() < 0.02


def test_what_a_body_hides_is_not_shown():
    batch = generate(6, range(150), size=64, variety=PEOPLE | {"negatives": 0.0, "things": 0.0, "loose": 0.0})
    right = ~batch.hands.left
    shown, pixels = batch.hands.shown[right], batch.mask.flatten(1).sum(1)
    hidden = pixels == 0
    assert 0 < hidden.sum() < 75
    assert torch.equal(shown == 0, hidden) and not batch.visibility[hidden].any()


def test_without_persons_nothing_changes():
    one = generate(3, range(8), size=64, variety="scene")
    other = generate(3, range(8), size=64, variety={"base": "scene", "persons": 0.0})
    assert torch.equal(one.images, other.images)
    several = generate(3, range(60), size=64, variety={"base": "scene", "persons": 0.3})
    alone = generate(3, range(60), size=64, variety="scene")
    same = (several.images == alone.images).flatten(1).all(1)
    assert 25 < same.sum() < 55
