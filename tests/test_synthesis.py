"""The generator: the same picture in any batch, labels that agree with each other and with the pixels."""

import functools
import os
import traceback
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from handmim.geometry import project
from handmim.hand_model import HandModel
from handmim.synthesis import SampleRandom, SyntheticBatch, backgrounds, generate
from handmim.synthesis.anatomy import forward_kinematics, open_hand_anatomy, penetration, rotation_from_angles
from handmim.synthesis.cameras import arm_stretch, sample_orientation
from handmim.synthesis.hand_mesh import load_hand_mesh
from handmim.synthesis.light import ambient, sample_light, shadow
from handmim.synthesis.poses import sample_angles
from handmim.synthesis.skin import sample_tone
from handmim.synthesis.variety import FAULTS, VARIETIES, Variety, find_variety

pytestmark = pytest.mark.usefixtures("small_bank")
POSE_LABELS = ("global_orient", "hand_pose", "betas", "vertices", "joints", "keypoints_2d")


@functools.lru_cache
def batch() -> SyntheticBatch:
    return generate(3, range(72), size=64)


# ---------------------------------------------------------------------------------------------------------------------
# Random numbers


def test_draws_do_not_depend_on_the_batch():
    whole = SampleRandom(5, torch.arange(40))
    part = SampleRandom(5, torch.tensor([31, 7]))
    for draw in ("uniform", "normal"):
        for shape in ((), (3,), (100,), (2, 40)):  # short and long draws take different ways
            assert torch.equal(getattr(whole, draw)(shape)[[31, 7]], getattr(part, draw)(shape))
    assert torch.equal(whole.select(torch.tensor([31, 7])).uniform((5,)), part.uniform((5,)))


def test_select_continues_where_the_parent_stands():
    one, two = SampleRandom(5, torch.arange(6)), SampleRandom(5, torch.arange(6))
    one.uniform((7,))
    two.uniform((7,))
    assert torch.equal(one.select(torch.tensor([4])).uniform((2,)), two.uniform((2,))[[4]])


def test_long_draw_equals_short_draws():
    together, apart = SampleRandom(5, torch.arange(4)), SampleRandom(5, torch.arange(4))
    assert torch.equal(together.uniform((300,)), torch.cat([apart.uniform((20,)) for _ in range(15)], 1))


def test_streams_are_independent_and_uniform():
    random = SampleRandom(0, torch.arange(4000))
    draws = torch.stack(
        [
            random.fork("a").uniform(),
            random.fork("b").uniform(),
            random.uniform(),
            SampleRandom(1, torch.arange(4000)).fork("a").uniform(),
        ]
    )
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 0.06  # four standard deviations
    assert torch.histc(draws, 10, 0, 1).sub(1600).abs().max() < 200
    assert draws.min() >= 0 and draws.max() < 1
    normal = random.normal((4,))
    assert abs(float(normal.mean())) < 0.04 and abs(float(normal.std()) - 1) < 0.03


def test_choice_follows_its_weights_and_integers_their_limits():
    random = SampleRandom(2, torch.arange(8000))
    share = torch.bincount(random.choice((1, 2, 1)), minlength=3) / 8000
    assert torch.allclose(share, torch.tensor([0.25, 0.5, 0.25]), atol=0.025)
    assert set(random.integers((), -1, 3).tolist()) == {-1, 0, 1, 2}
    with pytest.raises(ValueError, match="high"):
        random.integers((), 2, 2)


def test_rotations_are_rotations_without_a_preferred_direction():
    rotation = SampleRandom(2, torch.arange(4000)).rotation()
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(4000), atol=1e-5)
    assert rotation.mean(0).abs().max() < 0.04


# ---------------------------------------------------------------------------------------------------------------------
# Work for a device


class HostCopies(TorchDispatchMode):
    """Where tensors are made of numbers in Python: on a GPU a copy each, for which everything before it is awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten.lift_fresh.default:
            frames = [frame for frame in traceback.extract_stack() if f"{os.sep}handmim{os.sep}" in frame.filename]
            self.places += [f"{frame.filename}:{frame.lineno} {frame.line}" for frame in frames[-1:]]
        return func(*args, **kwargs or {})


def test_no_batch_but_the_first_copies_numbers_from_the_host():
    variety = {"base": "full", "persons": 0.5, "second_hands": 0.5, "gloves": 0.5, "jewellery": 0.5, "things": 0.7}
    index = torch.arange(48)
    generate(4, index, 32, variety=variety)  # whose backgrounds, tables and numbers are kept
    with HostCopies() as copies:
        generate(4, index + 1, 32, variety=variety)
    # numpy's ways through masks are those of a CPU; a background that was not needed before is drawn once
    allowed = ("torch.from_numpy", "torch.tensor([number]")
    assert [place for place in copies.places if not any(way in place for way in allowed)] == []


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def test_a_sample_is_the_same_in_any_batch():
    """Labels have equal bits. Vector and scalar arithmetic round differently, so a pixel may differ by a step."""
    whole = batch()
    for index in ([5], [40, 3, 17]):
        part = generate(3, torch.tensor(index), size=64)
        difference = (part.images.int() - whole.images[index].int()).abs()
        assert difference.max() <= 2 and (difference > 0).float().mean() < 1e-3
        for name in POSE_LABELS:
            assert torch.equal(part.labels[name].nan_to_num(9), whole.labels[name][index].nan_to_num(9)), name
        assert torch.equal(part.intrinsics, whole.intrinsics[index])
        assert torch.equal(part.labels["hand"], whole.labels["hand"][index])
        assert (part.mask != whole.mask[index]).float().mean() < 1e-4


def test_the_same_call_gives_the_same_bits():
    one, two = generate(9, range(20), size=48), generate(9, range(20), size=48)
    assert torch.equal(one.images, two.images)
    assert all(torch.equal(one.labels[k].nan_to_num(9), two.labels[k].nan_to_num(9)) for k in one.labels)


def test_indices_and_seeds_differ():
    images = batch().images.float()
    distance = torch.cdist(images.flatten(1), images.flatten(1)) + torch.eye(len(images)) * 1e9
    assert distance.min() > 500
    other = generate(4, range(4), size=64).images
    assert (other.float() - images[:4]).abs().mean() > 10


def test_shapes_and_types():
    result = generate(0, range(3), size=40)
    vertices = HandModel("open").num_vertices
    expected = {
        "global_orient": (3, 3, 3),
        "hand_pose": (3, 15, 3, 3),
        "betas": (3, 10),
        "vertices": (3, vertices, 3),
        "joints": (3, 21, 3),
        "keypoints_2d": (3, 21, 2),
        "hand": (3,),
        "mask": (3, 40, 40),
        "visibility": (3, 21),
    }
    assert {name: tuple(value.shape) for name, value in result.labels.items()} == expected
    assert result.images.shape == (3, 40, 40, 3) and result.images.dtype == torch.uint8
    assert result.intrinsics.shape == (3, 3, 3)


def test_labels_agree_with_each_other():
    result = batch()
    shown = result.labels["hand"] == 1
    labels = {name: value[shown] for name, value in result.labels.items()}
    projected = project(labels["joints"], result.intrinsics[shown])
    assert (projected - labels["keypoints_2d"]).abs().max() < 1e-3
    model = HandModel("open")
    with torch.no_grad():
        hand = model(labels["global_orient"], labels["hand_pose"], labels["betas"])
    shift = labels["joints"][:, :1] - hand.joints[:, :1]
    assert (hand.joints + shift - labels["joints"]).abs().max() < 1e-5
    assert (hand.vertices + shift - labels["vertices"]).abs().max() < 1e-5
    assert labels["joints"][..., 2].min() > 0.05


def test_visible_joints_lie_on_the_mask_and_the_mask_on_the_mesh():
    result = batch()
    shown = torch.nonzero(result.labels["hand"] == 1).squeeze(1)
    sample, joint = torch.nonzero(result.visibility, as_tuple=True)
    pixel = result.labels["keypoints_2d"][sample, joint].round().long()
    near = torch.nn.functional.max_pool2d(result.mask[:, None].float(), 5, 1, 2)[:, 0] > 0  # tips lie on the rim
    assert near[sample, pixel[:, 1], pixel[:, 0]].all()
    assert result.mask[sample, pixel[:, 1], pixel[:, 0]].float().mean() > 0.95
    assert 0.3 < result.visibility[shown].float().mean() < 0.95
    for k in shown.tolist():
        y, x = torch.nonzero(result.mask[k], as_tuple=True)
        mesh = project(result.labels["vertices"][k], result.intrinsics[k])
        if len(x):
            # 4 px: the forearm's bend moves the rim of the hand's mesh, which the label keeps straight
            assert x.min() >= mesh[:, 0].min() - 4 and x.max() <= mesh[:, 0].max() + 4
            assert y.min() >= mesh[:, 1].min() - 4 and y.max() <= mesh[:, 1].max() + 4


def test_negatives_have_no_pose_and_can_be_switched_off():
    result = batch()
    negative = result.labels["hand"] == 0
    assert 0.05 < negative.float().mean() < 0.35
    for name in POSE_LABELS:
        missing = result.labels[name].flatten(1).isnan()
        assert missing[negative].all() and not missing[~negative].any()
    assert not result.visibility[negative].any()
    assert generate(3, range(24), size=32, negatives=0.0).labels["hand"].all()
    assert not generate(3, range(24), size=32, negatives=1.0).labels["hand"].any()


def test_left_hands_are_flipped_right_hands():
    right, left = (generate(3, range(40), size=64, negatives=share) for share in (0.0, 1.0))
    flipped = [k for k in range(40) if torch.equal(left.mask[k], right.mask[k].flip(1)) and right.mask[k].any()]
    assert 20 < len(flipped) < 38  # the others show no hand
    assert torch.equal(left.images[flipped], right.images[flipped].flip(2))
    centre = left.intrinsics[flipped, 0, 2] + right.intrinsics[flipped, 0, 2]
    assert torch.allclose(centre, torch.full_like(centre, 63.0), atol=1e-3)


def test_pictures_are_spread_in_brightness_and_colour():
    images = batch().images.float()
    level = images.mean((1, 2, 3))
    assert 60 < level.mean() < 170 and level.std() > 20
    assert images.std((1, 2, 3)).min() > 2  # none is blank
    grey = (images[..., 0] - images[..., 2]).abs().amax((1, 2)) < 3
    assert 0 < grey.float().mean() < 0.4


def test_skin_runs_from_light_to_dark_with_paler_palms():
    tone, palm = sample_tone(SampleRandom(0, torch.arange(2000)))
    level = tone.mean(1)
    assert level.min() < 0.22 and level.max() > 0.75
    assert torch.histc(level, 3, 0.15, 0.85).min() > 350
    dark = level < 0.3
    assert (palm[dark].mean(1) - level[dark]).mean() > 0.1


def test_views_cover_the_sphere_and_prefer_upright_hands():
    orient = sample_orientation(SampleRandom(0, torch.arange(4000)))
    assert torch.allclose(orient @ orient.mT, torch.eye(3).expand_as(orient), atol=1e-5)
    fingers = -orient[:, :, 0]  # the fingers' direction, camera frame
    octant = (fingers > 0).long() @ torch.tensor([1, 2, 4])
    assert torch.bincount(octant, minlength=8).min() > 150
    assert (fingers[:, 1] < -0.7).float().mean() > 0.2


def test_a_background_does_not_depend_on_those_drawn_before():
    one, two = (backgrounds.BackgroundBank(5, 4) for _ in range(2))
    for entry in (3, 0, 2):
        one.packed(torch.tensor([entry]))
    side = backgrounds.BANK_SIDE**2
    assert torch.equal(
        one.packed(torch.tensor([2]))[2 * side : 3 * side], two.packed(torch.tensor([2]))[2 * side : 3 * side]
    )
    assert one._drawn == [True, False, True, True] and two._drawn == [False, False, True, False]


def test_arms_are_stretched_out_of_the_picture_and_do_not_point_at_the_camera():
    wrist = torch.tensor([[0.0, 0.0, 1.0]]).repeat(3, 1)
    direction = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    camera = torch.tensor([[100.0, 0, 49.5], [0, 100, 49.5], [0, 0, 1]]).repeat(3, 1, 1)
    longer = arm_stretch(wrist, direction, camera, 100)  # the border is 0.5 m from the axis
    assert torch.allclose(longer[:2], torch.tensor(0.3), atol=1e-6)
    assert longer[2] > 0.5  # along the line of sight no length leads out of the picture: an end far away is small
    camera[:, 0, 0] = camera[:, 1, 1] = 300
    assert arm_stretch(wrist, direction, camera, 100)[0] == 0
    assert sample_orientation(SampleRandom(0, torch.arange(2000)))[:, 2, 0].min() > -0.71


def test_forearms_are_in_the_light():
    """What lay beyond the grids of depths was in the shadow of all that did, and black."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 3, 500, generator=generator) * 0.02
    arm = torch.rand(2, 3, 500, generator=generator) * 0.02 + torch.tensor([0.3, 0.0, 0.0])[:, None]
    light = sample_light(SampleRandom(1, torch.arange(2)))
    light.direction = torch.tensor([0.0, 0.0, -1.0]).expand(2, 2, 3)
    both, normals = torch.cat([points, arm], 2), torch.tensor([0.0, 0.0, -1.0])[:, None].expand(2, 3, 1000)
    assert (shadow(light, both)[..., 500:] == 1).all()
    assert torch.equal(shadow(light, both)[..., :500], shadow(light, points))
    seen = ambient(light, both, normals, torch.eye(3).expand(2, 3, 3)).mean(1)
    assert (seen[:, 500:] > seen[:, :500].mean(1, keepdim=True)).all()


def test_grey_borders_hide_the_hand():
    varieties = ({"base": "full", "borders": borders} for borders in (True, False))
    shown, whole = (generate(2, range(64), size=64, variety=variety) for variety in varieties)
    hidden = whole.mask & ~shown.mask
    assert 0 < hidden.sum() < 0.1 * whole.mask.sum() and (shown.mask & ~whole.mask).sum() == 0
    assert (shown.images[hidden] == 127).all()
    lost = whole.visibility & ~shown.visibility
    assert lost.any() and not (shown.visibility & ~whole.visibility).any()


def test_no_right_hand_lies_beside_a_left_one():
    pictures = generate(5, range(200), size=16, variety={"base": "full", "negatives": 1.0, "second_hands": 1.0})
    assert pictures.hands.left.all() and len(pictures.hands.left) > 200


def test_pictures_may_be_large():
    assert generate(0, [0], size=640).images.shape == (1, 640, 640, 3)


def test_plain_pictures_show_one_upright_hand_without_any_fault():
    batch = generate(4, range(48), size=64, variety="plain")
    assert (batch.labels["hand"] == 1).all() and batch.visibility.float().mean() > 0.55
    fingers = -batch.labels["global_orient"][:, 1, 0]
    assert (fingers < 0).float().mean() > 0.9
    spread = batch.labels["keypoints_2d"].amax(1) - batch.labels["keypoints_2d"].amin(1)
    assert spread.amax(1).min() > 64 / 2  # no hand is lost in its crop
    again = generate(4, [7], size=64, variety=VARIETIES["plain"])
    assert torch.equal(again.images[0], batch.images[7])


def test_variety_changes_what_it_names_and_nothing_else():
    full, clean = (generate(2, range(32), size=48, variety=Variety(faults=value)) for value in (FAULTS, ()))
    assert all(torch.equal(value, clean.labels[name]) or value.isnan().any() for name, value in full.labels.items())
    assert not torch.equal(full.images, clean.images)
    assert torch.equal(full.images, generate(2, range(32), size=48).images)


@pytest.mark.parametrize(
    ("change", "images_alone"),
    [
        ({"faults": ["blur"]}, True),
        ({"faults": []}, True),
        ({"sleeves": 0}, True),
        ({"relief": 0.5}, True),
        ({"jewellery": 0.8}, True),
        ({"gloves": 0.5}, True),
        ({"shadows": 1.0}, True),
        ({"borders": False}, True),
        ({"jitter": 0.0}, False),
        ({"poses": [1, 0, 0, 0, 0]}, False),
        ({"views": (1, 0, 0, 0, 0)}, False),
    ],
)
def test_one_change_of_variety_leaves_the_rest_alone(change: dict[str, Any], images_alone: bool):
    full, other = generate(2, range(32), size=48), generate(2, range(32), size=48, variety=change)
    assert not torch.equal(full.images, other.images)
    same = [torch.equal(full.labels[k].nan_to_num(), other.labels[k].nan_to_num()) for k in POSE_LABELS]
    assert all(same) if images_alone else not all(same)
    assert torch.equal(full.labels["hand"], other.labels["hand"]) and torch.equal(
        full.labels["betas"].nan_to_num(), other.labels["betas"].nan_to_num()
    )


def test_pictures_from_afar_have_lost_what_is_fine_and_nothing_else():
    """They hold no frequencies beyond those of 64 px; the others, and all labels, are as they were."""
    near, some, far = (
        generate(2, range(24), size=192, variety={"borders": False, "far": share, "faults": ["compression"]})
        for share in (0.0, 0.5, 1.0)
    )
    assert all(torch.equal(value, far.labels[name]) or value.isnan().any() for name, value in near.labels.items())
    as_near, as_far = ((some.images == other.images).flatten(1).all(1) for other in (near, far))
    assert (as_near ^ as_far).all() and 4 < as_far.sum() < 20
    alone = generate(2, [7], size=192, variety={"borders": False, "far": 1.0, "faults": ["compression"]})
    assert torch.equal(alone.images[0], far.images[7])
    fine = [_energy_beyond(batch.images, 40) for batch in (near, far)]
    assert (fine[1] < 0.35 * fine[0]).all()
    means = [batch.images.float().mean((1, 2)) for batch in (near, far)]
    torch.testing.assert_close(means[1], means[0], atol=4.0, rtol=0)
    small = [generate(2, range(8), size=16, variety={"far": share}).images for share in (0.0, 1.0)]
    assert torch.equal(*small)  # already so small


def _energy_beyond(images: torch.Tensor, frequency: int) -> torch.Tensor:
    """(B,) of the luminance of (B, S, S, 3), at more than so many periods a picture."""
    window = torch.hann_window(images.shape[1])  # the picture's ends do not meet
    spectrum = torch.fft.fft2(images.float().mean(-1) * window * window[:, None]).abs().square()
    axis = torch.fft.fftfreq(images.shape[1], 1 / images.shape[1]).abs()
    return spectrum[:, (axis[:, None] > frequency) | (axis > frequency)].sum(1)


def test_colliding_fingers_are_let_through_when_asked():
    free, apart = (sample_angles(SampleRandom(3, torch.arange(256)), Variety(collisions=c)) for c in (True, False))
    anatomy = open_hand_anatomy("cpu")
    depth = [
        penetration(
            forward_kinematics(rotation_from_angles(a.permute(3, 1, 2, 0).contiguous(), anatomy), anatomy), anatomy
        )
        for a in (free, apart)
    ]
    assert depth[0].mean() > 2 * depth[1].mean()


@pytest.mark.parametrize(
    ("variety", "message"),
    [
        ("easy", "full, scene, plain, got 'easy'"),
        ({"base": "easy"}, "full, scene, plain, got 'easy'"),
        ({"thing": 0.5}, "unknown fields thing; there are poses"),
        ({"things": 1.5}, r"things must be a number in \[0, 1\], got 1.5"),
        ({"things": True}, "things must be a number"),
        ({"poses": [1, 0]}, "poses must be 5 shares"),
        ({"views": [0, 0, 0, 0, 0]}, "not all 0"),
        ({"faults": ["dust"]}, "faults must be some of blur, resolution"),
        ({"far": -0.1}, r"far must be a number in \[0, 1\]"),
        ({"borders": 1}, "borders must be true or false, got 1"),
    ],
)
def test_varieties_that_cannot_be_are_refused(variety: Any, message: str):
    with pytest.raises(ValueError, match=message):
        find_variety(variety)


def test_photos_appear_behind_hands():
    photos = torch.zeros(2, 30, 40, 3, dtype=torch.uint8)
    photos[..., 1] = 255
    plain = generate(3, range(24), size=48)
    green = generate(3, range(24), size=48, background_photos=photos)
    changed = (plain.images != green.images).flatten(1).any(1)
    assert 4 < int(changed.sum()) < 20


def test_forearm_follows_the_hand():
    mesh, model = load_hand_mesh(), HandModel("open")
    eye = torch.eye(3)[None]
    with torch.no_grad():
        hand = model(eye, eye[:, None].expand(1, 15, 3, 3), torch.zeros(1, 10))
    bend = torch.tensor([[[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]])
    straight, bent = (
        mesh.extend(hand.vertices, hand.skeleton_joints[:, 0], eye, turn, torch.zeros(1, 10))[0] for turn in (eye, bend)
    )
    assert (straight[:, : model.num_vertices].T - hand.vertices[0]).abs().max() < 1e-6
    assert (straight.T - mesh.rest).norm(dim=1).max() < 0.002
    far = mesh.rest[:, 0] > 0.1
    assert (bent[:, far] - straight[:, far]).norm(dim=0).min() > 0.03
    assert torch.equal(bent[:, mesh.rest[:, 0] < -0.05], straight[:, mesh.rest[:, 0] < -0.05])
    normals = mesh.normals(straight[None])[0]
    assert (normals.norm(dim=0) - 1).abs().max() < 1e-4
    assert normals[1, mesh.rest[:, 1] > 0.012].mean() > 0.5  # outward on the back of the hand


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": []}, "index"),
        ({"index": [-1]}, "index"),
        ({"index": [0], "size": 8}, "size"),
        ({"index": [0], "negatives": 1.5}, "negatives"),
        ({"index": [0], "background_photos": torch.zeros(1, 4, 4, 3)}, "background_photos"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(0, **arguments)
