"""The hand layer against smplx, its symmetries, its precision and its life on the meta device."""

from pathlib import Path

import numpy as np
import pytest
import smplx
import torch
from fabricate_mano import fabricate, mirrored, write_pickle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from handmim import hand_model, open_hand_file
from handmim.geometry import axis_angle_to_matrix, mirror_matrix
from handmim.hand_model import JOINT_ORDER, PARENTS, HandModel
from handmim.mano_files import ManoFileNotFoundError

OPEN = {side: HandModel("open", side) for side in ("right", "left")}


def random_hand(batch: int, seed: int, angle: float = 0.8) -> dict[str, Tensor]:
    """Random arguments of `HandModel.forward`; `angle` in radians scales the rotations."""
    generator = torch.Generator().manual_seed(seed)
    axis_angle = angle * torch.randn(batch, 16, 3, generator=generator)
    rotmat = axis_angle_to_matrix(axis_angle)
    return {
        "global_orient": rotmat[:, 0],
        "hand_pose": rotmat[:, 1:],
        "betas": torch.randn(batch, 10, generator=generator),
        "translation": torch.randn(batch, 3, generator=generator),
    }


def identity_hand(batch: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    eye = torch.eye(3, dtype=dtype)
    return {
        "global_orient": eye.repeat(batch, 1, 1),
        "hand_pose": eye.repeat(batch, 15, 1, 1),
        "betas": torch.zeros(batch, 10, dtype=dtype),
    }


# ---------------------------------------------------------------------------------------------------------------------
# smplx


@pytest.mark.parametrize("num_vertices", [64, 778, 1001])
@pytest.mark.parametrize("batch", [1, 70])
def test_equals_smplx(tmp_path: Path, num_vertices: int, batch: int) -> None:
    file = write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(num_vertices, seed=num_vertices))
    ours = HandModel("mano", path=file)
    theirs = smplx.MANOLayer(str(file), use_pca=False, flat_hand_mean=True)
    hand = random_hand(batch, seed=1)
    expected = theirs(hand["betas"], hand["global_orient"][:, None], hand["hand_pose"], hand["translation"])
    got = ours(**hand)
    assert ours.num_vertices == num_vertices
    torch.testing.assert_close(got.vertices, expected.vertices, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.skeleton_joints, expected.joints, rtol=0, atol=1e-6)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("components", [6, 45])
def test_smplx_parameters_go_in_and_out(tmp_path: Path, flat: bool, components: int) -> None:
    file = write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(100))
    ours = HandModel("mano", path=file)
    theirs = smplx.MANO(str(file), num_pca_comps=components, flat_hand_mean=flat, batch_size=3)
    generator = torch.Generator().manual_seed(2)
    sizes = {"global_orient": 3, "hand_pose": components, "betas": 10, "transl": 3}
    parameters = {name: 0.3 * torch.randn(3, n, generator=generator) for name, n in sizes.items()}
    expected = theirs(**parameters)
    converted = ours.from_smplx(**parameters, flat_hand_mean=flat)
    torch.testing.assert_close(ours(**converted).vertices, expected.vertices, rtol=0, atol=1e-6)
    back = ours.to_smplx(**converted, flat_hand_mean=flat, num_pca_comps=components)
    for name, value in parameters.items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=1e-5)


def test_open_hand_has_no_components() -> None:
    with pytest.raises(ValueError, match="no principal components"):
        OPEN["right"].from_smplx(torch.zeros(1, 3), torch.zeros(1, 6), torch.zeros(1, 10))


def test_gradient_equals_smplx(tmp_path: Path) -> None:
    file = write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(90))
    ours = HandModel("mano", path=file)
    theirs = smplx.MANOLayer(str(file), use_pca=False, flat_hand_mean=True)
    weight = torch.randn(40, 90, 3, generator=torch.Generator().manual_seed(0))
    gradients = []
    for run in (
        lambda h: ours(**h),
        lambda h: theirs(h["betas"], h["global_orient"][:, None], h["hand_pose"], h["translation"]),
    ):
        hand = {name: value.requires_grad_() for name, value in random_hand(40, seed=5).items()}
        (run(hand).vertices * weight).sum().backward()
        gradients.append([value.grad for value in hand.values()])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> HandModel:
    folder = tmp_path_factory.mktemp("mano")
    return HandModel("mano", path=write_pickle(folder / "MANO_RIGHT.pkl", fabricate(20))).double()


@pytest.mark.parametrize("chunk", [1, 32])
def test_gradcheck_at_zero_pose(small_model: HandModel, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(hand_model, "CPU_CHUNK", chunk)

    def outputs(axis_angle: Tensor, betas: Tensor, translation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rotmat = axis_angle_to_matrix(axis_angle)
        hand = small_model(rotmat[:, 0], rotmat[:, 1:], betas, translation)
        return hand.vertices, hand.joints, hand.skeleton_joints

    shapes = [(2, 16, 3), (2, 10), (2, 3)]
    zeros = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(outputs, zeros)


def test_finite_gradient_at_zero_pose() -> None:
    hand = {name: value.requires_grad_() for name, value in identity_hand(1).items()}
    OPEN["right"](**hand).vertices.square().sum().backward()
    for value in hand.values():
        assert value.grad.isfinite().all() and value.grad.abs().max() > 0


def test_second_derivative_raises_instead_of_being_wrong() -> None:
    hand = identity_hand(1)
    hand["betas"].requires_grad_()
    loss = OPEN["right"](**hand).vertices.square().sum()
    (gradient,) = torch.autograd.grad(loss, hand["betas"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_jacobian_by_vmap(small_model: HandModel) -> None:
    hand = identity_hand(1, torch.float64)

    def vertices(betas: Tensor) -> Tensor:
        return small_model(hand["global_orient"], hand["hand_pose"], betas).vertices[0]

    jacobian = torch.func.jacrev(vertices)(hand["betas"])[..., 0, :]
    torch.testing.assert_close(jacobian, small_model.shape_dirs, rtol=0, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Precision


def test_low_precision_inputs_keep_float32_arithmetic() -> None:
    hand = {name: value.bfloat16() for name, value in random_hand(4, seed=3).items()}
    expected = OPEN["right"](**{name: value.float() for name, value in hand.items()}).vertices
    assert torch.equal(OPEN["right"](**hand).vertices, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(OPEN["right"](**hand).vertices, expected)
    cast = HandModel().to(torch.bfloat16)
    assert cast.template.dtype == torch.float32
    assert torch.equal(cast(**hand).vertices, expected)


def test_zero_pose_is_the_template() -> None:
    for model in OPEN.values():
        hand = model(**identity_hand(1))
        torch.testing.assert_close(hand.vertices[0], model.template, rtol=0, atol=2e-7)
        regressed = model.joint_regressor @ model.template
        torch.testing.assert_close(hand.skeleton_joints[0], regressed, rtol=0, atol=1e-6)
        torch.testing.assert_close(hand.joints[0], model.mean_shape_joints())


def test_views_of_the_blend_shapes() -> None:
    model = OPEN["right"]
    betas = torch.randn(1, 10, generator=torch.Generator().manual_seed(0))
    hand = identity_hand(1) | {"betas": betas}
    expected = model.template + model.shape_dirs @ betas[0]
    torch.testing.assert_close(model(**hand).vertices[0], expected, rtol=0, atol=1e-6)
    assert model.pose_dirs.shape == (model.num_vertices, 3, 135)


def test_compiled_formula_is_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    transforms, shaped = torch.randn(70, 12, 16, generator=generator), torch.randn(70, 3, 11, generator=generator)
    weights = torch.rand(16, 11, generator=generator)
    plain = hand_model._skin(transforms, shaped, weights)
    torch.testing.assert_close(hand_model._Skinning.apply(transforms, shaped, weights), plain)


# ---------------------------------------------------------------------------------------------------------------------
# Geometry

seeds = st.integers(0, 2**31)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_left_is_the_mirror_of_right(seed: int) -> None:
    hand = random_hand(2, seed)
    sign = torch.tensor([-1.0, 1, 1])
    mirror = {name: mirror_matrix(value) for name, value in hand.items() if value.ndim > 2}
    mirror |= {"betas": hand["betas"], "translation": hand["translation"] * sign}
    right, left = OPEN["right"](**hand), OPEN["left"](**mirror)
    for name in ("vertices", "joints", "skeleton_joints"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name) * sign, rtol=0, atol=1e-6)


def test_left_faces_look_outwards() -> None:
    def volume(model: HandModel) -> Tensor:
        a, b, c = model.template[model.faces].unbind(1)
        return (a * torch.linalg.cross(b, c)).sum() / 6

    assert volume(OPEN["right"]) > 0
    torch.testing.assert_close(volume(OPEN["left"]), volume(OPEN["right"]))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_global_rotation_is_about_the_wrist(seed: int) -> None:
    hand = random_hand(2, seed)
    turned = OPEN["right"](**hand)
    straight = OPEN["right"](**hand | {"global_orient": torch.eye(3).repeat(2, 1, 1)})
    wrist = straight.joints[:, :1]
    for name in ("vertices", "joints", "skeleton_joints"):
        expected = (getattr(straight, name) - wrist) @ hand["global_orient"].mT + wrist
        torch.testing.assert_close(getattr(turned, name), expected, rtol=0, atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_translation_adds(seed: int) -> None:
    hand = random_hand(2, seed)
    moved, still = OPEN["right"](**hand), OPEN["right"](**hand | {"translation": None})
    for name in ("vertices", "joints", "skeleton_joints"):
        expected = getattr(still, name) + hand["translation"][:, None]
        torch.testing.assert_close(getattr(moved, name), expected, rtol=0, atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_bones_keep_their_length(seed: int) -> None:
    hand = random_hand(2, seed, angle=1.5)
    posed = OPEN["right"](**hand).skeleton_joints
    flat = OPEN["right"](**identity_hand(2) | {"betas": hand["betas"]}).skeleton_joints
    lengths = [(joints[:, 1:] - joints[:, PARENTS[1:]]).norm(dim=-1) for joints in (posed, flat)]
    torch.testing.assert_close(*lengths, rtol=0, atol=2e-6)


def test_joints_are_skeleton_and_tips() -> None:
    model, hand = OPEN["right"], random_hand(3, seed=0)
    output = model(**hand)
    both = torch.cat([output.skeleton_joints, output.vertices[:, model.tip_vertices]], 1)
    assert torch.equal(output.joints, both[:, JOINT_ORDER])
    # every tip lies beyond its finger's last joint, seen from the joint before it
    flat = model.mean_shape_joints().view(21, 3)
    for finger in range(5):
        before, last, tip = flat[1 + 4 * finger + 1], flat[1 + 4 * finger + 2], flat[1 + 4 * finger + 3]
        assert torch.dot(tip - last, last - before) > 0


def test_batch_does_not_matter() -> None:
    hand = random_hand(70, seed=9)
    whole = OPEN["right"](**hand).vertices
    alone = OPEN["right"](**{name: value[66:67] for name, value in hand.items()}).vertices
    torch.testing.assert_close(whole[66:67], alone, rtol=0, atol=1e-6)
    empty = OPEN["right"](**{name: value[:0] for name, value in hand.items()})
    assert empty.vertices.shape == (0, OPEN["right"].num_vertices, 3)


# ---------------------------------------------------------------------------------------------------------------------
# Buffers, meta device, files


def test_no_hand_model_array_in_a_checkpoint() -> None:
    assert OPEN["right"].state_dict() == {}
    assert not list(OPEN["right"].parameters())


def test_meta_device_round_trip() -> None:
    with torch.device("meta"):
        model = HandModel()
    assert model.template.is_meta and model.template.shape == OPEN["right"].template.shape
    # what transformers does: every non-persistent buffer becomes uninitialised memory, here visibly wrong
    for name, buffer in list(model.named_buffers()):
        model.register_buffer(name, torch.full_like(buffer, 7, device="cpu"), persistent=False)
    model.reset_buffers()
    hand = random_hand(2, seed=0)
    assert torch.equal(model(**hand).vertices, OPEN["right"](**hand).vertices)
    for name, buffer in OPEN["right"].named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


def test_forgotten_reset_after_meta_device_repairs_itself() -> None:
    with torch.device("meta"):
        parent = nn.Sequential(HandModel())
    parent.to_empty(device="cpu")
    hand = random_hand(2, seed=0)
    assert torch.equal(parent[0](**hand).vertices, OPEN["right"](**hand).vertices)


def test_missing_mano_file_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDMIM_MANO_DIR", raising=False)
    model = HandModel("mano")
    assert model.num_vertices == 778 and model.faces.shape == (1538, 3)
    assert model.template.isnan().all()
    with pytest.raises(ManoFileNotFoundError) as error:
        model(**identity_hand(1))
    for text in ("https://mano.is.tue.mpg.de", "handmim mano install MANO_RIGHT.pkl", str(tmp_path / "cache")):
        assert text in str(error.value)
    monkeypatch.setenv("HANDMIM_MANO_DIR", str(tmp_path))
    write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(60))  # another V than the one assumed
    model.reset_buffers()
    assert model(**identity_hand(1)).vertices.shape == (1, 60, 3)


def test_left_mano_is_the_mirror_of_right_mano(tmp_path: Path) -> None:
    right_arrays = fabricate(120)
    write_pickle(tmp_path / "MANO_RIGHT.pkl", right_arrays)
    write_pickle(tmp_path / "MANO_LEFT.pkl", mirrored(right_arrays))
    right, left = HandModel("mano", path=tmp_path), HandModel("mano", "left", tmp_path)
    hand = random_hand(2, seed=4) | {"translation": None}
    mirror = hand | {name: mirror_matrix(hand[name]) for name in ("global_orient", "hand_pose")}
    expected = right(**hand).vertices * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(left(**mirror).vertices, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "smpl"}, "kind must be 'open' or 'mano', got 'smpl'"),
        ({"side": "both"}, "side must be 'right' or 'left', got 'both'"),
    ],
)
def test_wrong_arguments(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HandModel(**change)


def test_wrong_shapes_are_named() -> None:
    hand = identity_hand(2)
    with pytest.raises(ValueError, match=r"hand_pose must have shape \(2, 15, 3, 3\), got \(2, 16, 3, 3\)"):
        OPEN["right"](**hand | {"hand_pose": torch.zeros(2, 16, 3, 3)})
    with pytest.raises(ValueError, match=r"betas must have shape \(2, 10\), got \(1, 10\)"):
        OPEN["right"](**hand | {"betas": torch.zeros(1, 10)})
    with pytest.raises(ValueError, match="translation"):
        OPEN["right"](**hand | {"translation": torch.zeros(3)})


def test_missing_open_hand_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(open_hand_file, "_HERE", tmp_path)
    with pytest.raises(ValueError, match="pip install handmim"):
        open_hand_file.find_open_hand()


def test_open_hand_is_sound() -> None:
    model = OPEN["right"]
    assert model.faces.min() >= 0 and model.faces.max() == model.num_vertices - 1
    np.testing.assert_allclose(model.skinning_weights.sum(1), 1, atol=2e-3)
    np.testing.assert_allclose(model.joint_regressor.sum(1), 1, atol=2e-3)
