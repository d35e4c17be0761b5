"""The front door and its results."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from read_glb import GlbFile
from safetensors.torch import load_file
from stub_network import picture, stub_model

from handmim import Hand, HandMIM, HandMIMForMeshEstimation, InputError
from handmim.cli import main
from handmim.geometry import project

BOX = [10, 10, 80, 70]
NAMES = (
    "vertices joints keypoints_2d faces betas global_orient hand_pose translation intrinsics box handedness score "
    "hand_model"
)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> HandMIM:
    return HandMIM.from_pretrained(tiny_checkpoint, device="cpu", detector="whole-image")


@pytest.fixture(scope="module")
def hand() -> Hand:
    return stub_model()(picture(), boxes=BOX, handedness="left")[0]


def test_fields(model: HandMIM) -> None:
    (hand,) = model(picture(), boxes=BOX, handedness="right")
    vertices, faces = model.model.hand_model.num_vertices, len(model.model.hand_model.faces)
    shapes = {
        "vertices": (vertices, 3),
        "joints": (21, 3),
        "keypoints_2d": (21, 2),
        "betas": (10,),
        "global_orient": (3,),
        "hand_pose": (15, 3),
        "translation": (3,),
        "intrinsics": (3, 3),
        "box": (4,),
    }
    for name, shape in shapes.items():
        value = getattr(hand, name)
        assert (value.shape, value.dtype) == (shape, np.float32) and np.isfinite(value).all(), name
    assert hand.faces.shape == (faces, 3) and hand.hand_model == "open" and hand.intrinsics_source == "default"
    assert set(NAMES.split()) <= set(Hand.__dataclass_fields__)
    points = project(torch.from_numpy(hand.joints), torch.from_numpy(hand.intrinsics))
    np.testing.assert_allclose(points, hand.keypoints_2d, atol=1e-3)
    assert "right" in repr(hand) and len(repr(hand)) < 120


def test_one_image_or_several(model: HandMIM, photo: Path) -> None:
    image = np.asarray(Image.open(photo))
    kinds = [photo, str(photo), Image.open(photo), image, photo.read_bytes()]
    single = [model(kind, boxes=BOX) for kind in kinds]
    together = model(kinds, boxes=[BOX] * 5, batch_size=2)
    for hands in single + together:
        assert isinstance(hands, list) and len(hands) == 1
        np.testing.assert_allclose(hands[0].vertices, single[0][0].vertices, atol=1e-6)
    assert model([]) == [] and len(model([photo])) == 1 and len(model([photo])[0]) == 1
    assert len(model(np.stack([image, image]))) == 2


def test_intrinsics_scale_depth(model: HandMIM) -> None:
    camera = np.array([[300.0, 0, 59.5], [0, 300, 44.5], [0, 0, 1]])
    near = model(picture(), boxes=BOX, handedness="right", intrinsics=camera)[0]
    camera[0, 0] = camera[1, 1] = 600
    far = model(picture(), boxes=BOX, handedness="right", intrinsics=camera)[0]
    assert near.intrinsics_source == "given"
    assert far.joints[0, 2] == pytest.approx(2 * near.joints[0, 2], rel=1e-4)


@pytest.mark.parametrize("kind", ["obj", "ply", "glb"])
def test_export(hand: Hand, tmp_path: Path, kind: str) -> None:
    path = hand.export(tmp_path / f"hand.{kind}")
    mesh = trimesh.load(path, force="mesh", process=False)
    expected = hand.vertices * ([1, -1, -1] if kind == "glb" else [1, 1, 1])  # glTF: y up, towards the viewer +z
    np.testing.assert_allclose(mesh.vertices, expected, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, hand.faces)
    assert mesh.volume > 0
    if kind == "glb":  # smooth, and of skin: without a material it is metal, and black
        file = GlbFile(path)
        surface = file.document["materials"][file.primitive["material"]]["pbrMetallicRoughness"]
        assert surface["metallicFactor"] == 0 and surface["baseColorFactor"][0] > surface["baseColorFactor"][2]
        normals = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals
        assert (file.attribute("NORMAL") * normals).sum(1).mean() > 0.98
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no temporary file is left


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_export_of_mirrored_views(hand: Hand, tmp_path: Path, kind: str) -> None:
    """Arrays with negative strides, as `faces[:, ::-1]` of a hand that is mirrored."""
    viewed = replace(hand, vertices=hand.vertices[::-1], faces=(len(hand.vertices) - 1 - hand.faces)[:, ::-1])
    first = trimesh.load_mesh(viewed.export(tmp_path / f"view.{kind}"), process=False)
    copied = replace(hand, vertices=viewed.vertices.copy(), faces=viewed.faces.copy())
    second = trimesh.load_mesh(copied.export(tmp_path / f"copy.{kind}"), process=False)
    np.testing.assert_array_equal(first.vertices, second.vertices)
    np.testing.assert_array_equal(first.faces, second.faces)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_export_of_what_is_not_finite(hand: Hand, tmp_path: Path, kind: str, value: float) -> None:
    vertices = hand.vertices.copy()
    vertices[7, 1] = value
    with pytest.raises(InputError, match=rf"hand.{kind} cannot be written: vertex 7 of the hand is not finite"):
        replace(hand, vertices=vertices).export(tmp_path / f"hand.{kind}")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only some users make links")
def test_export_keeps_a_link(hand: Hand, tmp_path: Path) -> None:
    (tmp_path / "latest.obj").symlink_to("hand.obj")
    assert hand.export(tmp_path / "latest.obj") == tmp_path / "latest.obj"
    assert (tmp_path / "latest.obj").is_symlink() and (tmp_path / "hand.obj").stat().st_size > 0


def test_export_of_another_kind(hand: Hand, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'hand.stl'"):
        hand.export(tmp_path / "hand.stl")
    assert not list(tmp_path.iterdir())


def test_overlay(photo: Path) -> None:
    (hand,) = stub_model()(photo, boxes=BOX, handedness="right")
    drawn = hand.overlay()
    width, height = Image.open(photo).size
    assert drawn.height == height and drawn.width > width  # the view from the side stands beside
    original = np.asarray(Image.open(photo).convert("RGB")).astype(int)
    changed = np.abs(np.asarray(drawn.convert("RGB"))[:, :width] - original).max(-1) > 20
    inside = hand.keypoints_2d.round().astype(int)
    assert 0 < changed.mean() < 0.9
    seen = [changed[y, x] for x, y in inside if 0 <= x < width and 0 <= y < height]
    assert np.mean(seen) > 0.7
    blank = hand.overlay(np.zeros((height, width, 3), np.uint8))
    assert np.asarray(blank)[0, 0].max() == 0
    with pytest.raises(InputError, match="pass one"):
        Hand(**{**{name: getattr(hand, name) for name in NAMES.split()}}).overlay()


def test_to_dict_is_json(hand: Hand) -> None:
    data = json.loads(json.dumps(hand.to_dict()))
    assert set(data) == set(NAMES.split()) | {"intrinsics_source"}
    np.testing.assert_allclose(data["vertices"], hand.vertices, rtol=1e-6)
    assert data["handedness"] == "left" and np.array(data["faces"]).shape == hand.faces.shape


def test_dtype(tiny_checkpoint: Path, model: HandMIM) -> None:
    half = HandMIM.from_pretrained(tiny_checkpoint, device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    a, b = (m(picture(), boxes=BOX, handedness="right")[0] for m in (half, model))
    assert a.vertices.dtype == np.float32
    np.testing.assert_allclose(a.joints - a.joints[:1], b.joints - b.joints[:1], atol=0.01)


@pytest.mark.parametrize("name", ["handmim-tiny-open", "hiu-dmtl-tiny-open"])
def test_crops_of_another_size(name: str) -> None:
    usual, small = (
        HandMIM.from_pretrained(name, detector="none", device="cpu", image_size=size) for size in (None, 128)
    )
    assert small.model.config.image_size == small.image_processor.size["height"] == 128
    assert usual.model.config.image_size == usual.image_processor.size["height"] > 128
    a, b = (model(picture(), boxes=BOX, handedness="right")[0] for model in (usual, small))
    assert not np.allclose(a.vertices, b.vertices)
    np.testing.assert_array_equal(a.intrinsics, b.intrinsics)
    np.testing.assert_allclose(a.keypoints_2d.mean(0), b.keypoints_2d.mean(0), atol=0.2 * (BOX[2] - BOX[0]))
    for size in (0, 90, "large"):  # without the words of what checks it
        with pytest.raises(InputError, match="^(Field 'image_size'|image_size must be a multiple)"):
            HandMIM.from_pretrained(name, image_size=size)


def test_the_fit_can_be_left_out_or_lengthened(tiny_checkpoint: Path) -> None:
    plain, usual, long = (
        HandMIM.from_pretrained(detector="none", device="cpu", fit_steps=steps)(picture(), boxes=BOX)[0]
        for steps in (0, None, 8)
    )
    assert not np.allclose(plain.vertices, usual.vertices) and np.isfinite(long.vertices).all()
    points = project(torch.from_numpy(usual.joints), torch.from_numpy(usual.intrinsics))
    np.testing.assert_allclose(points, usual.keypoints_2d, atol=1e-3)
    with pytest.raises(InputError, match="fit_steps needs heatmap_evidence"):
        HandMIM.from_pretrained(tiny_checkpoint, fit_steps=3)
    for steps in (-1, "many"):
        with pytest.raises(InputError, match="fit_steps"):
            HandMIM.from_pretrained(fit_steps=steps)


def test_test_time_augmentation_by_the_front_door_and_the_command(tmp_path: Path) -> None:
    plain, seen = (HandMIM.from_pretrained(detector="none", device="cpu", tta=tta) for tta in (False, True))
    a, b = (model(picture(), boxes=BOX, handedness="right")[0] for model in (plain, seen))
    assert not np.allclose(a.joints, b.joints, atol=1e-4)
    Image.fromarray(picture()).save(tmp_path / "hand.png")
    box = ",".join(str(value) for value in BOX)
    words = ["--box", box, "--hand", "right", "--tta", "--json", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "hand.png"), *words]) == 0
    (found,) = json.loads((tmp_path / "out" / "hand.json").read_text())["hands"]
    np.testing.assert_allclose(found["joints"], b.joints, atol=1e-4)


def test_fast_layers_save_plain_weights(tiny_checkpoint: Path, model: HandMIM, tmp_path: Path) -> None:
    from handmim.acceleration import PackedLinear, is_supported

    fast = any(isinstance(module, PackedLinear) for module in model.model.modules())
    assert fast == is_supported()
    model(picture(), boxes=BOX, handedness="right")  # makes the packed copies
    model.model.save_pretrained(tmp_path)
    saved, original = (load_file(folder / "model.safetensors") for folder in (tmp_path, tiny_checkpoint))
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], original[name]) for name in saved)
    plain = HandMIMForMeshEstimation.from_pretrained(tmp_path)
    assert not any(isinstance(module, PackedLinear) for module in plain.modules())


def test_a_model_says_what_it_is(tiny_checkpoint: Path, model: HandMIM) -> None:
    size = model.model.config.image_size
    assert repr(model) == f"HandMIM({str(tiny_checkpoint)!r}, handmim, {size} px, cpu)"


@pytest.mark.parametrize("kwargs", [{"device": "abacus"}, {"device": "cuda:99"}, {"dtype": "int8"}, {"dtype": "x"}])
def test_unknown_device_or_dtype(tiny_checkpoint: Path, kwargs: dict) -> None:
    with pytest.raises(InputError, match=next(iter(kwargs.values()))):
        HandMIM.from_pretrained(tiny_checkpoint, **kwargs)
