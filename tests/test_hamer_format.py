"""Results to and from HaMeR's, WiLoR's and WiLoR-mini's dictionaries; MANO is fabricated.

What the other packages do with a dictionary is written down here anew from what their public code does: `demo_lines`
and `wilor_mini_lines`. Nothing of theirs runs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smplx
import torch
from fabricate_mano import fabricate, write_pickle
from hypothesis import given, settings
from hypothesis import strategies as st
from smplx.vertex_ids import vertex_ids

from handmim import Hand, HandModel, InputError
from handmim.geometry import axis_angle_to_matrix, default_intrinsics, mirror_axis_angle
from handmim.hamer_camera import crop_camera, full_translation, hamer_camera
from handmim.hamer_format import from_hamer, from_wilor, to_hamer, to_wilor
from handmim.mano_files import ManoFileNotFoundError

SIZE = (640, 480)
CENTRED = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
FIELDS = "vertices joints keypoints_2d betas translation intrinsics box".split()
OWN_KEYS = ("boxes", "score", "faces", "intrinsics_source", "projection_error")


@pytest.fixture(scope="module")
def mano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mano")
    for side in ("right", "left"):
        write_pickle(folder / f"MANO_{side.upper()}.pkl", fabricate(side=side))
    return folder


@pytest.fixture(scope="module")
def models(mano: Path) -> dict[tuple[str, str], HandModel]:
    sides = ("right", "left")
    found = {("mano", side): HandModel("mano", side, mano) for side in sides}
    return found | {("open", side): HandModel("open", side) for side in sides}


@pytest.fixture(autouse=True)
def no_installed_mano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANDMIM_MANO_DIR", raising=False)
    monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path / "cache"))


def make_hand(
    models: dict, kind: str = "mano", side: str = "right", seed: int = 0, intrinsics: np.ndarray = CENTRED,
    wrist: tuple[float, float, float] = (0.05, -0.04, 0.5), score: float | None = 0.75,
) -> Hand:  # fmt: skip
    """A random hand of one side whose parameters, mesh and pixels agree."""
    rng = np.random.default_rng(seed)
    turns = torch.from_numpy(rng.normal(0, [[1.0]] + [[0.3]] * 15, (16, 3))).float()
    matrices, betas = axis_angle_to_matrix(turns), torch.from_numpy(rng.normal(size=(1, 10))).float()
    model = models[kind, side]
    posed = model(matrices[None, 0], matrices[None, 1:], betas)
    translation = np.float32(wrist) - posed.joints[0, 0].numpy()
    joints = posed.joints[0].numpy() + translation
    pixels = joints[:, :2] / joints[:, 2:] * intrinsics[(0, 1), (0, 1)] + intrinsics[:2, 2]
    return Hand(
        vertices=posed.vertices[0].numpy() + translation,
        joints=joints,
        keypoints_2d=pixels.astype(np.float32),
        faces=model.faces.numpy(),
        betas=betas[0].numpy(),
        global_orient=turns[0].numpy(),
        hand_pose=turns[1:].numpy(),
        translation=translation,
        intrinsics=intrinsics.astype(np.float32),
        box=np.concatenate([pixels.min(0), pixels.max(0)]).astype(np.float32),
        handedness=side,
        score=score,
        hand_model=kind,
    )


def assert_same(found: Hand, expected: Hand) -> None:
    for name in FIELDS:
        atol = 2e-3 if name in ("keypoints_2d", "box", "intrinsics") else 1e-5
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=atol, err_msg=name)
    for name in ("global_orient", "hand_pose"):  # of two axis-angles of half a turn either may come back
        a, b = (axis_angle_to_matrix(torch.from_numpy(getattr(hand, name))) for hand in (found, expected))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.faces, expected.faces)
    assert (found.handedness, found.hand_model) == (expected.handedness, expected.hand_model)
    assert found.intrinsics_source == expected.intrinsics_source
    assert found.score == pytest.approx(expected.score, abs=1e-6) if expected.score is not None else found.score is None
    for name in Hand.__dataclass_fields__:
        a, b = getattr(found, name), getattr(expected, name)
        assert not isinstance(b, np.ndarray) or (a.dtype, a.shape) == (b.dtype, b.shape), name


def as_tensors(out: dict[str, Any], only: tuple[str, ...] = ()) -> dict[str, Any]:
    """What HaMeR itself would hold: tensors, without our own keys."""
    keep = {name: value for name, value in out.items() if name not in OWN_KEYS and (not only or name in only)}
    mapping = {name: as_tensors(value) for name, value in keep.items() if isinstance(value, dict)}
    return {name: torch.tensor(value) for name, value in keep.items() if name not in mapping} | mapping


def demo_lines(out: dict[str, Any], device_is_cpu: bool = True) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """What HaMeR's and WiLoR's demo.py do after `out = model(batch)`, changes in place included.

    Returns:
        (B, 3) translations, vertices of each hand, and pixels (B, V, 2) by the picture's camera.
    """
    out["pred_cam"][:, 1] *= 2 * out["right"] - 1
    focal, centre, side = out["scaled_focal_length"], out["box_center"], out["box_size"]
    spread = side * out["pred_cam"][:, 0]
    shift = 2 * (centre - out["img_size"] / 2) / spread[:, None] + out["pred_cam"][:, 1:]
    full = torch.cat([shift, (2 * focal / spread)[:, None]], 1).numpy()
    vertices = []
    for row, right in enumerate(out["right"].numpy()):
        if device_is_cpu:
            out["pred_cam_t"][row].numpy()[0] *= -1  # the renderer
        points = out["pred_vertices"][row].numpy() if device_is_cpu else out["pred_vertices"][row].clone().numpy()
        points[:, 0] *= 2 * right - 1
        vertices.append(points)
    seen = np.stack(vertices) + full[:, None]
    pixels = seen[..., :2] / seen[..., 2:] * focal[:, None, None].numpy() + out["img_size"][:, None].numpy() / 2
    return full, vertices, pixels


# ---------------------------------------------------------------------------------------------------------------------
# The dictionary is theirs


def test_mano_posed_as_hamer_poses_it(mano: Path, models: dict) -> None:
    """smplx's right hand with the parameters, mirrored in x for a left hand, is our hand of either side."""
    hands = [make_hand(models, side=side, seed=seed) for seed, side in enumerate(["right", "left", "left"])]
    out = to_hamer(hands, SIZE)
    layer = smplx.MANOLayer(str(mano / "MANO_RIGHT.pkl"))  # as HaMeR builds it: flat_hand_mean at its default
    posed = layer(**{name: torch.from_numpy(value) for name, value in out["pred_mano_params"].items()}, pose2rot=False)
    np.testing.assert_allclose(out["pred_vertices"], posed.vertices, rtol=0, atol=1e-6)
    tips = posed.vertices[:, list(vertex_ids["mano"].values())]
    order = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
    joints = torch.cat([posed.joints, tips], 1)[:, order]
    np.testing.assert_allclose(out["pred_keypoints_3d"], joints, rtol=0, atol=1e-6)
    for row, hand in enumerate(hands):
        mirror = np.array([2 * out["right"][row] - 1, 1, 1])
        np.testing.assert_allclose(out["pred_vertices"][row] * mirror + out["pred_cam_t_full"][row], hand.vertices,
                                   rtol=0, atol=1e-6)  # fmt: skip


def test_shapes_and_types(models: dict) -> None:
    hands = [make_hand(models, side=side) for side in ("left", "right")]
    out = to_hamer(hands, SIZE)
    shapes = dict(pred_cam=(2, 3), pred_cam_t=(2, 3), focal_length=(2, 2), pred_vertices=(2, 778, 3), right=(2,))
    shapes |= dict(pred_keypoints_3d=(2, 21, 3), pred_keypoints_2d=(2, 21, 2), box_center=(2, 2), box_size=(2,))
    shapes |= dict(img_size=(2, 2), scaled_focal_length=(2,), pred_cam_t_full=(2, 3))
    for name, shape in shapes.items():
        assert (out[name].shape, out[name].dtype) == (shape, np.float32), name
    params = {name: value.shape for name, value in out["pred_mano_params"].items()}
    assert params == {"global_orient": (2, 1, 3, 3), "hand_pose": (2, 15, 3, 3), "betas": (2, 10)}
    assert out["right"].tolist() == [0, 1] and out["img_size"].tolist() == [[640, 480]] * 2
    np.testing.assert_allclose(out["box_size"], [2 * max(h.box[2] - h.box[0], h.box[3] - h.box[1]) for h in hands])
    np.testing.assert_allclose(out["pred_cam_t"][:, :2], out["pred_cam"][:, 1:])
    np.testing.assert_allclose(out["pred_cam_t"][:, 2], 10000 / (256 * out["pred_cam"][:, 0]), rtol=1e-6)
    assert np.abs(out["pred_keypoints_2d"]).max() < 0.5  # the box holds all joints, the crop twice as much


def test_the_demo_draws_the_same_pixels(models: dict) -> None:
    hands = [make_hand(models, side=side, seed=5) for side in ("left", "right", "left")]
    out = as_tensors(to_hamer(hands, SIZE))
    expected = out["pred_cam_t_full"].clone()
    full, _, pixels = demo_lines(out)
    np.testing.assert_allclose(full, expected, rtol=0, atol=1e-6)
    for hand, seen in zip(hands, pixels, strict=True):
        np.testing.assert_allclose(seen, hand.vertices[:, :2] / hand.vertices[:, 2:] * 600 + [320, 240], atol=1e-3)


def test_wilor_mini_is_in_the_frame_of_the_picture(models: dict) -> None:
    hands = [make_hand(models, side=side, seed=2) for side in ("left", "right")]
    entries = to_wilor(hands, SIZE)
    shapes = dict(global_orient=(1, 1, 3), hand_pose=(1, 15, 3), betas=(1, 10), pred_cam=(1, 3))
    shapes |= dict(pred_vertices=(1, 778, 3), pred_keypoints_3d=(1, 21, 3), pred_keypoints_2d=(1, 21, 2))
    for entry, hand in zip(entries, hands, strict=True):
        preds = entry["wilor_preds"]
        assert {name: preds[name].shape for name in shapes} == shapes and isinstance(
            preds["scaled_focal_length"], float
        )
        assert all(preds[name].dtype == np.float32 for name in shapes)
        np.testing.assert_allclose(preds["pred_vertices"][0] + preds["pred_cam_t_full"][0], hand.vertices, atol=1e-6)
        np.testing.assert_allclose(preds["pred_keypoints_2d"][0], hand.keypoints_2d, atol=1e-3)
        np.testing.assert_array_equal(preds["global_orient"][0, 0], hand.global_orient)
        assert entry["is_right"] == (hand.handedness == "right") and entry["hand_bbox"] == hand.box.tolist()
    # as the pipeline does it: the right hand's numbers, with signs changed for the left
    raw, left = to_hamer(hands[:1], SIZE, rescale_factor=2.5), entries[0]["wilor_preds"]
    np.testing.assert_allclose(left["pred_cam"], raw["pred_cam"] * [1, -1, 1], rtol=1e-6)
    np.testing.assert_allclose(left["pred_vertices"], raw["pred_vertices"] * [-1, 1, 1], rtol=1e-6)
    turned = axis_angle_to_matrix(mirror_axis_angle(torch.from_numpy(left["hand_pose"])))
    np.testing.assert_allclose(turned, raw["pred_mano_params"]["hand_pose"], atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# There and back


@pytest.mark.parametrize("kind", ["mano", "open"])
def test_there_and_back(models: dict, kind: str) -> None:
    hands = [make_hand(models, kind, side, seed) for seed, side in enumerate(["left", "right", "left"])]
    for found, expected in zip(from_hamer(to_hamer(hands, SIZE)), hands, strict=True):
        assert_same(found, expected)
    for found, expected in zip(from_wilor(to_wilor(hands, SIZE)), hands, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("device_is_cpu", [True, False])
@pytest.mark.parametrize("after_demo", [True, False])
def test_without_our_own_keys(models: dict, after_demo: bool, device_is_cpu: bool) -> None:
    """Tensors of HaMeR's own keys, before the demo's lines or after them, which change them in place."""
    hands = [make_hand(models, side=side, seed=seed, score=None) for seed, side in enumerate(["left", "right", "left"])]
    out = as_tensors(to_hamer(hands, SIZE))
    del out["pred_cam_t_full"]
    if after_demo:
        demo_lines(out, device_is_cpu)
    batch = {name: out.pop(name) for name in ("right", "box_center", "box_size", "img_size", "personid")}
    found = from_hamer(out, batch, faces=models["mano", "right"].faces)
    for hand, expected in zip(found, hands, strict=True):
        side = max(expected.box[2:] - expected.box[:2])
        assert max(hand.box[2:] - hand.box[:2]) == pytest.approx(2 * side, rel=1e-5)
        hand.__dict__["box"] = expected.box
        assert_same(hand, expected)


def test_wilor_demo_mirrors_joints_too(models: dict) -> None:
    hand = make_hand(models, side="left", seed=4)
    out = to_hamer([hand], SIZE)
    out["pred_cam"][:, 1] *= -1
    out["pred_vertices"][..., 0] *= -1
    out["pred_keypoints_3d"][..., 0] *= -1
    assert_same(from_hamer(out)[0], hand)


def test_the_guess_of_the_demo_and_the_true_focal_length(models: dict) -> None:
    """Without a focal length hands are metres away; the true one brings them back."""
    hand = make_hand(models, side="left")
    out = as_tensors(to_hamer([hand], SIZE))
    for name in ("pred_cam_t_full", "scaled_focal_length"):
        del out[name]
    faces = models["mano", "right"].faces
    far = from_hamer(out, faces=faces)[0]
    assert far.intrinsics_source == "default" and far.intrinsics[0, 0] == pytest.approx(12500)
    assert far.translation[2] == pytest.approx(hand.translation[2] * 12500 / 600, rel=1e-5)
    near = from_hamer(out, faces=faces, focal_length=600)[0]
    np.testing.assert_allclose(near.vertices, hand.vertices, atol=1e-5)
    assert near.intrinsics_source == "given"
    entry = to_wilor([hand], SIZE)[0]
    entry["wilor_preds"]["pred_cam_t_full"] = entry["wilor_preds"]["pred_cam_t_full"] * [1, 1, 2]
    entry["wilor_preds"]["scaled_focal_length"] = 1200.0
    np.testing.assert_allclose(from_wilor([entry], focal_length=600)[0].vertices, hand.vertices, atol=1e-5)


def test_no_hands(models: dict) -> None:
    assert to_wilor([], SIZE) == from_wilor([]) == []
    with pytest.raises(InputError, match="no hands"):
        to_hamer([], SIZE)
    out = to_hamer([make_hand(models)], SIZE)
    none = {name: value[:0] for name, value in out.items() if isinstance(value, np.ndarray)}
    none["pred_mano_params"] = {name: value[:0] for name, value in out["pred_mano_params"].items()}
    assert from_hamer(none) == []


def test_the_picture_gives_the_size(models: dict, photo: Path) -> None:
    hand = make_hand(models, intrinsics=np.array([[100.0, 0, 60], [0, 100, 45], [0, 0, 1]]))
    hand.__dict__["image"] = photo
    assert to_hamer([hand])["img_size"].tolist() == [[120, 90]]
    hand.__dict__["image"] = None
    with pytest.raises(InputError, match="image_size"):
        to_hamer([hand])


# ---------------------------------------------------------------------------------------------------------------------
# Cameras


def test_a_camera_beside_the_middle(models: dict) -> None:
    """Our default camera looks half a pixel beside HaMeR's: the hand moves a little and stays rigid."""
    camera = default_intrinsics(*SIZE).double().numpy()
    hand = make_hand(models, intrinsics=camera, side="left")
    out = to_hamer([hand], SIZE)
    error = out["projection_error"][0]
    assert 1e-3 < error < 0.15  # of half a pixel, what the depth of the hand leaves
    back = from_hamer(out)[0]
    np.testing.assert_allclose(back.keypoints_2d, hand.keypoints_2d, atol=error + 1e-3)
    moved = back.vertices - hand.vertices
    assert np.abs(moved - moved[0]).max() < 1e-6 and np.linalg.norm(moved[0]) < 1e-3
    np.testing.assert_allclose(back.hand_pose, hand.hand_pose, atol=1e-5)


def test_a_camera_that_hamer_has_not_is_refused(models: dict) -> None:
    camera = np.array([[600.0, 0, 420], [0, 600, 240], [0, 0, 1]])
    hands = [make_hand(models), make_hand(models, intrinsics=camera)]
    with pytest.raises(InputError, match=r"hand 1: .*pixels off, more than max_error=1"):
        to_hamer(hands, SIZE)
    error = to_hamer(hands, SIZE, max_error=50)["projection_error"]
    assert error[0] < 1e-9 and 1 < error[1] < 50
    with pytest.raises(InputError, match="pixels off"):
        to_wilor([make_hand(models, intrinsics=np.diag([600.0, 660, 1]) + [[0, 0, 320], [0, 0, 240], [0, 0, 0]])], SIZE)


@pytest.mark.parametrize(("place", "value"), [((0, 0), -600), ((1, 1), 0), ((2, 2), 2), ((2, 0), 1)])
def test_an_impossible_camera_is_refused(models: dict, place: tuple[int, int], value: float) -> None:
    hand = make_hand(models)
    hand.intrinsics[place] = value
    with pytest.raises(InputError, match="hand 0: intrinsics must have focal lengths above 0 and the last row 0, 0, 1"):
        to_hamer([hand], SIZE)


def test_the_fit_is_the_best_one(models: dict) -> None:
    hand = make_hand(models)
    points, camera = hand.vertices.astype(float), CENTRED + [[0, 0, 12], [0, 0, -7], [0, 0, 0]]
    shift, focal, error = hamer_camera(points, camera, np.array(SIZE, float), max_error=5)
    pixels = points[:, :2] / points[:, 2:] * 600 + camera[:2, 2]

    def squares(move: np.ndarray) -> float:
        moved = points + move
        return float(((moved[:, :2] / moved[:, 2:] * focal + np.array(SIZE) / 2 - pixels) ** 2).sum())

    best = squares(shift)
    assert 1 < error < 5
    for axis in np.vstack([np.eye(3), -np.eye(3)]):
        assert squares(shift + 1e-4 * axis) > best


numbers_of = dict(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_side_box_and_camera(models: dict, data: st.DataObject) -> None:
    width, height = data.draw(st.integers(16, 8000)), data.draw(st.integers(16, 8000))
    focal = data.draw(st.floats(0.3, 5, **numbers_of)) * max(width, height)
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    depth = data.draw(st.floats(0.3, 5, **numbers_of))
    across = data.draw(st.tuples(*[st.floats(-0.7, 0.7, **numbers_of)] * 2))
    wrist = (across[0] * depth * width / focal, across[1] * depth * height / focal, depth)
    kind, side = data.draw(st.sampled_from(["mano", "open"])), data.draw(st.sampled_from(["left", "right"]))
    hand = make_hand(models, kind, side, data.draw(st.integers(0, 9)), camera, wrist)
    reach = data.draw(st.floats(0.3, 3, **numbers_of)) * np.max(hand.box[2:] - hand.box[:2])
    middle = (hand.box[:2] + hand.box[2:]) / 2 + data.draw(st.floats(-0.4, 0.4, **numbers_of)) * reach
    aspect = data.draw(st.floats(0.2, 1, **numbers_of))
    hand.__dict__["box"] = np.float32([*middle - [reach, aspect * reach], *middle + [reach, aspect * reach]])
    out = to_hamer([hand], (width, height))
    pixels = hand.vertices[:, :2].astype(float) / hand.vertices[:, 2:] * focal + [width / 2, height / 2]
    points = out["pred_vertices"][0] * [2.0 * out["right"][0] - 1, 1, 1] + out["pred_cam_t_full"][0].astype(float)
    seen = points[:, :2] / points[:, 2:] * float(out["scaled_focal_length"][0]) + out["img_size"][0] / 2
    np.testing.assert_allclose(seen, pixels, rtol=0, atol=1e-3 * max(1, focal / 1000))
    without = {name: value for name, value in out.items() if name != "pred_cam_t_full"}
    for found in (*from_hamer(out), *from_hamer(without), *from_wilor(to_wilor([hand], (width, height)))):
        scale = max(1.0, depth, *map(abs, wrist))
        np.testing.assert_allclose(found.vertices, hand.vertices, rtol=0, atol=1e-5 * scale)
        np.testing.assert_allclose(found.translation, hand.translation, rtol=0, atol=1e-5 * scale)
        np.testing.assert_allclose(found.hand_pose, hand.hand_pose, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found.faces, hand.faces)
        assert found.handedness == side


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_crop_camera_is_an_inverse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    translation = np.concatenate([rng.normal(size=(4, 2)), rng.uniform(0.1, 5, (4, 1))], 1)
    rest = (
        rng.uniform(100, 5000, 4),
        rng.uniform(-50, 900, (4, 2)),
        rng.uniform(5, 900, 4),
        rng.uniform(50, 999, (4, 2)),
    )
    camera = crop_camera(translation, *rest)
    np.testing.assert_allclose(full_translation(camera, *rest), translation, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# The open hand, faces, bad input


def test_open_parameters_are_never_called_mano(models: dict) -> None:
    hand = make_hand(models, "open", "left")
    out, entry = to_hamer([hand], SIZE), to_wilor([hand], SIZE)[0]
    assert "pred_mano_params" not in out and out["pred_vertices"].shape == (1, 1649, 3)
    assert not {"global_orient", "hand_pose", "betas"} & set(entry["wilor_preds"])
    del out["pred_open_params"], entry["open_params"]
    with pytest.raises(InputError, match="pred_mano_params is missing"):
        from_hamer(out)
    with pytest.raises(InputError, match="global_orient is missing in prediction 0"):
        from_wilor([entry])
    with pytest.raises(InputError, match="share a hand model"):
        to_hamer([hand, make_hand(models)], SIZE)


def test_faces(models: dict, mano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = to_hamer([make_hand(models, side="left")], SIZE)
    faces = out.pop("faces")
    with pytest.raises(ManoFileNotFoundError):
        from_hamer(out)
    np.testing.assert_array_equal(from_hamer(out, faces=faces.astype(np.uint32))[0].faces, faces[:, ::-1])
    monkeypatch.setenv("HANDMIM_MANO_DIR", str(mano))
    np.testing.assert_array_equal(from_hamer(out)[0].faces, faces[:, ::-1])
    for bad in (faces + 700, faces - 1, faces[:, :2], faces + 0.5):
        with pytest.raises(InputError, match="faces must"):
            from_hamer(out, faces=bad)


def spoiled(value: np.ndarray, number: float = np.nan) -> np.ndarray:
    value = value.copy()
    value.flat[0] = number
    return value


WRONG = {
    "right": [[1.0], [0.0, 0.5], [[0.0], [1.0]], ["left", "right"], None],
    "pred_vertices": [lambda v: v[:1], lambda v: v[..., :2], lambda v: v[:, :0], spoiled, lambda v: v.astype(object)],
    "pred_keypoints_3d": [lambda v: v[:, :20], spoiled, lambda v: np.float32("inf") * v, lambda v: v + 1],
    "pred_keypoints_2d": [lambda v: v[:, :20], spoiled, lambda v: v + 1],
    "pred_cam": [lambda v: v[:, :2], spoiled, lambda v: -v, lambda v: "s, tx, ty"],
    "pred_cam_t_full": [lambda v: v[0], spoiled, lambda v: -v],
    "scaled_focal_length": [lambda v: np.append(v, 1), lambda v: -v, spoiled, lambda v: 0 * v],
    "img_size": [lambda v: v[0], lambda v: 0 * v, spoiled],
    "boxes": [lambda v: v[:, :3], lambda v: v[:, [2, 3, 0, 1]], spoiled],
    "score": [lambda v: v + 1, lambda v: v[:1]],
    "intrinsics_source": [lambda v: v[:1], lambda v: np.array(["dream", "dream"]), lambda v: np.array([1, 2])],
    "pred_mano_params": [lambda v: None, lambda v: [1, 2], lambda v: {}],
}


@pytest.mark.parametrize(("key", "number"), [(key, i) for key, values in WRONG.items() for i in range(len(values))])
def test_wrong_values_are_named(models: dict, key: str, number: int) -> None:
    out = to_hamer([make_hand(models, side=side) for side in ("left", "right")], SIZE)
    wrong = WRONG[key][number]
    out[key] = wrong(out[key]) if callable(wrong) else wrong
    names = {"pred_cam_t_full": "translation|pred_cam_t_full", "boxes": "box", "pred_keypoints_3d": "pred_keypoints"}
    names |= {
        "pred_vertices": "pred_vertices|shape .1, 21, 3., got",
        "pred_cam": "pred_cam|of a crop apart",
    }
    with pytest.raises(InputError, match=names.get(key, key)):
        from_hamer(out)


@pytest.mark.parametrize("key", ["right", "img_size", "pred_vertices", "pred_keypoints_3d", "scaled_focal_length"])
def test_missing_keys_are_named(models: dict, key: str) -> None:
    out = to_hamer([make_hand(models)], SIZE)
    del out[key]
    with pytest.raises(InputError, match=f"{key}.* is missing"):
        from_hamer(out)


def test_missing_cameras_and_boxes_are_named(models: dict) -> None:
    out = to_hamer([make_hand(models)], SIZE)
    for gone, named in (("pred_cam_t_full", None), ("pred_cam", "pred_cam"), ("boxes", None), ("box_size", "box_size")):
        copy = {name: value for name, value in out.items() if name != gone}
        if named is None:
            out = copy
            continue
        with pytest.raises(InputError, match=f"{named}.* is missing"):
            from_hamer(copy)


@pytest.mark.parametrize("name", ["global_orient", "hand_pose", "betas"])
def test_wrong_parameters_are_named(models: dict, name: str) -> None:
    for spoil in (spoiled, lambda v: v[:, :-1], lambda v: -v, lambda v: 2 * v):
        out = to_hamer([make_hand(models)], SIZE)
        params = out["pred_mano_params"]
        if name == "betas" and spoil is not spoiled and spoil(params[name]).shape == params[name].shape:
            continue
        params[name] = spoil(params[name])
        with pytest.raises(InputError, match="pred_mano_params"):
            from_hamer(out)
        entry = to_wilor([make_hand(models)], SIZE)[0]
        entry["wilor_preds"][name] = spoiled(entry["wilor_preds"][name])
        with pytest.raises(InputError, match=f"{name} in prediction 1"):
            from_wilor([to_wilor([make_hand(models)], SIZE)[0], entry])


def test_wrong_predictions_are_named(models: dict) -> None:
    entry = to_wilor([make_hand(models)], SIZE)[0]
    for wrong, named in (
        ({"wilor_preds": None}, "wilor_preds is missing in prediction 0"),  # a detection without an estimate
        ({"hand_bbox": [1, 2, 3]}, "hand_bbox"),
        ({"is_right": 2}, "is_right"),
        ({"is_right": None}, "is_right"),
        ({"img_size": None}, "img_size is missing in prediction 0; pass image_size"),
        ({"img_size": [640]}, "image_size must be"),
        ({"score": 1.5}, "score"),
        ({"wilor_preds": entry["wilor_preds"] | {"scaled_focal_length": [1.0, 2.0]}}, "scaled_focal_length"),
        ({"wilor_preds": entry["wilor_preds"] | {"scaled_focal_length": -600.0}}, "scaled_focal_length|front"),
    ):
        with pytest.raises(InputError, match=named):
            from_wilor([entry | wrong])
    for wrong in ("text", {"a": 1}, 3, [3]):
        with pytest.raises(InputError, match="must be"):
            from_wilor(wrong)
    with pytest.raises(InputError, match="out must be a dict"):
        from_hamer([1])
    with pytest.raises(InputError, match="focal_length must be"):
        from_wilor([entry], focal_length=-1)


def test_hands_that_cannot_be_told(models: dict) -> None:
    for name in ("vertices", "box", "intrinsics", "translation"):
        hand = make_hand(models)
        hand.__dict__[name] = spoiled(getattr(hand, name))
        with pytest.raises(InputError, match=f"{name} of hand 1 must be finite"):
            to_hamer([make_hand(models), hand], SIZE)
    behind = make_hand(models)
    behind.__dict__["vertices"] = -behind.vertices
    with pytest.raises(InputError, match="hand 0: .*in front"):
        to_hamer([behind], SIZE)
    empty = make_hand(models)
    empty.__dict__["box"] = np.float32([5, 5, 5, 5])
    with pytest.raises(InputError, match="hand 0 is empty"):
        to_hamer([empty], SIZE)
    for size in ((640,), (0, 480), ("a", "b"), (np.nan, 3)):
        with pytest.raises(InputError, match="image_size"):
            to_hamer([make_hand(models)], size)
