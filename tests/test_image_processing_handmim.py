"""Crops, their cameras, and the way back to the image's frame."""

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from stub_network import StubNetwork, picture, ramp
from transformers import AutoImageProcessor

from handmim import HandMIMImageProcessor, HandModel, InputError
from handmim.geometry import affine_points, axis_angle_to_matrix, crop_affine, invert_affine, project
from handmim.image_processing_handmim import resolve_intrinsics, square_crop
from handmim.images import load_image

FILL = (10.0, 20.0, 30.0)
sides = st.floats(20, 3000)
boxes = st.builds(
    lambda x, y, w, h: [x, y, x + w, y + h], st.floats(-200, 3500), st.floats(-200, 2500), sides, sides
).filter(lambda box: box[2] > 0 and box[3] > 0)


def linear_crop(box: list[float], mirror: bool, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop of a picture with red = x and green = y, and the source coordinates of its pixels by the affine."""
    affine = crop_affine(torch.tensor(box, dtype=torch.float64), size, mirror, 1.2)
    crop = square_crop(ramp(250, 200), affine.numpy(), size, FILL)
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    source = affine_points(invert_affine(affine), torch.stack([x, y], -1).view(-1, 2).double())
    return crop, source.view(size, size, 2).numpy(), affine.numpy()


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0, 150), st.floats(0, 120), st.floats(4, 400), st.floats(0.3, 3), st.booleans(), st.sampled_from([16, 65])
)
def test_a_linear_picture_is_reproduced(x: float, y: float, side: float, ratio: float, mirror: bool, size: int) -> None:
    crop, source, affine = linear_crop([x, y, x + side, y + side * ratio], mirror, size)
    step = 1 / abs(affine[1, 1])
    margin = 3 * max(1.0, step)  # the filters must not reach beyond the picture
    inside = (source > margin).all(-1) & (source < np.array([250, 200]) - 1 - margin).all(-1)
    assert (
        np.abs(crop[:2].transpose(1, 2, 0) - source)[inside].max(initial=0) < 1.1
    )  # the pre-shrink rounds twice to 8 bits


def test_beyond_the_picture_there_is_the_fill_colour() -> None:
    crop, source, _ = linear_crop([-300, -300, 60, 60], False, 64)
    outside = (source < -10).any(-1)
    assert outside.any() and np.abs(crop[:, outside] - np.array(FILL)[:, None]).max() < 1e-3


def test_shrinking_does_not_alias() -> None:
    board = np.indices((640, 640)).sum(0) % 2 * 255
    board = np.repeat(board[..., None], 3, -1).astype(np.uint8)
    for zoomed_out in (640, 320, 200):  # down to 64 pixels by 10, 5 and 3.1
        affine = crop_affine(torch.tensor([50.0, 50, 50 + zoomed_out - 50, zoomed_out]).double(), 64)
        assert np.abs(square_crop(board, affine.numpy(), 64, FILL)[:, 2:-12, 2:-12] - 127.5).max() < 8


@settings(max_examples=25, deadline=None)
@given(st.floats(-30, 100), st.floats(-30, 70), st.floats(35, 120), st.floats(35, 120))
def test_left_hand_crops_are_right_hand_crops_of_the_mirrored_picture(x: float, y: float, w: float, h: float) -> None:
    image = picture()
    processor = HandMIMImageProcessor(size=48)
    left = processor(image, boxes=[x, y, x + w, y + h], handedness="left")
    width = image.shape[1]
    right = processor(image[:, ::-1].copy(), boxes=[width - 1 - x - w, y, width - 1 - x, y + h], handedness="right")
    torch.testing.assert_close(left.pixel_values, right.pixel_values, atol=2e-2, rtol=0)
    torch.testing.assert_close(left.intrinsics, right.intrinsics, atol=1e-2, rtol=1e-5)
    assert left.mirrored.tolist() == [True] and right.mirrored.tolist() == [False]


def test_output_of_several_images() -> None:
    processor = HandMIMImageProcessor(size={"height": 32, "width": 32})
    camera = [[200.0, 0, 50], [0, 210, 40], [0, 0, 1]]
    out = processor(
        [picture(), Image.fromarray(picture(200, 100))],
        boxes=[[[1, 2, 40, 30], [5, 5, 50, 60]], [10, 10, 90, 90]],
        handedness=[["left", "right"], None],
        intrinsics=[camera, None],
    )
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in out.items()}
    assert shapes == {
        "pixel_values": ((3, 3, 32, 32), torch.float32),
        "intrinsics": ((3, 3, 3), torch.float32),
        "crop_affine": ((3, 2, 3), torch.float32),
        "mirrored": ((3,), torch.bool),
        "image_index": ((3,), torch.int64),
        "image_intrinsics": ((3, 3, 3), torch.float32),
        "boxes": ((3, 4), torch.float32),
    }
    assert out.mirrored.tolist() == [True, False, False] and out.image_index.tolist() == [0, 0, 1]
    np.testing.assert_allclose(out.image_intrinsics[1], camera)
    assert out.pixel_values.abs().max() <= 1 + 1e-6  # processors with fused multiply-add round otherwise
    numpy = processor(picture(), return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in numpy.values())


def test_without_a_box_the_crop_is_the_picture() -> None:
    image = picture(96, 96)
    crop = HandMIMImageProcessor(size=96)(image).pixel_values[0]
    expected = torch.from_numpy(image.copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(crop, expected, atol=1e-3, rtol=0)


def test_boxes_may_be_tensors_of_any_type_and_sides_are_words() -> None:
    processor = HandMIMImageProcessor(size=32)
    given = processor(picture(), boxes=torch.tensor([[1.0, 2.0, 30.0, 40.0]], dtype=torch.bfloat16))
    assert given["boxes"].tolist() == [[1, 2, 30, 40]]
    kinds = {name: value.dtype for name, value in given.items()}
    assert {name: value.dtype for name, value in processor(picture(), boxes=[]).items()} == kinds
    with pytest.raises(InputError, match="'left', 'right' or None, got 0"):
        processor(picture(), handedness=0)


def test_no_boxes_give_an_empty_batch() -> None:
    out = HandMIMImageProcessor(size=32)(picture(), boxes=np.zeros((0, 4)))
    assert out.pixel_values.shape == (0, 3, 32, 32) and out.intrinsics.shape == (0, 3, 3)


def test_the_geometry_stays_exact_in_other_precisions() -> None:
    processor = HandMIMImageProcessor(size=64)
    exact = processor(np.zeros((4000, 6000, 3), np.uint8), boxes=[4001, 3003, 5007, 3811], handedness="left")
    for dtype in (torch.bfloat16, torch.float16):
        other = processor(np.zeros((4000, 6000, 3), np.uint8), boxes=[4001, 3003, 5007, 3811], handedness="left")
        other = other.to("cpu", dtype)
        assert other.pixel_values.dtype == dtype and other.image_index.dtype == torch.int64
        for name in ("intrinsics", "crop_affine", "mirrored", "image_intrinsics", "boxes"):
            assert torch.equal(other[name], exact[name]), name
    assert processor(picture(), return_tensors="np").to("cpu").pixel_values.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    "options",
    [
        {"do_resize": False}, {"crop_size": 32}, {"resample": 0}, {"return_tensors": "tf"},
        {"data_format": "channels_last"}, {"box_scale": 0}, {"box_scale": -1.2}, {"box_scale": float("nan")},
    ],
)  # fmt: skip
def test_options_without_effect_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        HandMIMImageProcessor(size=32)(picture(), **options)


def test_results_must_be_of_the_crops() -> None:
    processor = HandMIMImageProcessor(size=32)
    inputs = processor(picture(), boxes=[[1, 1, 30, 30]] * 2)
    outputs = StubNetwork()(inputs.pixel_values, inputs.intrinsics)
    with pytest.raises(ValueError, match="outputs are of 2 crops, but inputs of 1"):
        processor.post_process_hand_mesh(outputs, processor(picture()))
    with pytest.raises(ValueError, match="no mesh"):
        processor.post_process_hand_mesh({"heatmaps": torch.zeros(2, 21, 8, 8)}, inputs)


@settings(max_examples=40, deadline=None)
@given(boxes, st.booleans(), st.floats(500, 8000), st.floats(-500, 500))
@example([0.0, 0.0, 2474.605150654632, 1900.037109375], False, 897.5562388432603, 0.0)
def test_results_project_to_their_keypoints(box: list[float], left: bool, focal: float, offset: float) -> None:
    image = np.zeros((2600, 3600, 3), np.uint8)
    camera = [[focal, 0, 1800 + offset], [0, focal, 1300 - offset], [0, 0, 1]]
    processor = HandMIMImageProcessor(size=64)
    inputs = processor(image, boxes=box, handedness="left" if left else "right", intrinsics=camera)
    outputs = StubNetwork()(inputs.pixel_values, inputs.intrinsics)
    (hand,) = processor.post_process_hand_mesh(outputs, inputs)
    pixels = project(torch.from_numpy(hand["joints"]).double(), torch.tensor(camera).double()).numpy()
    # float32 keeps seven digits, and a joint beside the camera's plane is millions of pixels away
    scale = np.maximum(1.0, np.abs(pixels).max(-1, keepdims=True) / 1000)
    assert (np.abs(pixels - hand["keypoints_2d"]) / scale).max() < 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_parameters_are_those_of_the_hand_model_of_that_side(side: str) -> None:
    processor = HandMIMImageProcessor(size=64)
    inputs = processor(ramp(), boxes=[20, 10, 90, 100], handedness=side)
    network = StubNetwork()
    outputs = network(inputs.pixel_values, inputs.intrinsics)
    (hand,) = processor.post_process_hand_mesh(outputs, inputs, network.hand_model.faces)
    tensors = {name: torch.from_numpy(hand[name])[None] for name in ("betas", "translation")}
    turns = [axis_angle_to_matrix(torch.from_numpy(hand[name]))[None] for name in ("global_orient", "hand_pose")]
    again = HandModel("open", side=side)(*turns, tensors["betas"], tensors["translation"])
    np.testing.assert_allclose(again.vertices[0], hand["vertices"], atol=2e-6)
    np.testing.assert_allclose(again.joints[0], hand["joints"], atol=2e-6)
    corners = hand["vertices"][hand["faces"]].astype(np.float64)
    volume = (corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])).sum()
    assert volume > 0  # faces seen counter-clockwise from outside
    assert hand["handedness"] == side and hand["score"] == pytest.approx(1 / (1 + np.exp(-1)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_done_to_a_hand_reaches_no_other(side: str) -> None:
    """Faces of right hands were the hand model's own, and every array held its whole batch."""
    processor, network = HandMIMImageProcessor(size=64), StubNetwork()
    inputs = processor(ramp(), boxes=[[20, 10, 90, 100]] * 3, handedness=side)
    faces = network.hand_model.faces.clone()
    first, second, _ = processor.post_process_hand_mesh(
        network(inputs.pixel_values, inputs.intrinsics), inputs, network.hand_model.faces
    )
    before = {name: value.copy() for name, value in second.items() if isinstance(value, np.ndarray)}
    for value in first.values():
        if isinstance(value, np.ndarray):
            value += 1
            assert value.base is None
    assert torch.equal(network.hand_model.faces, faces)
    for name, value in before.items():
        np.testing.assert_array_equal(second[name], value)


def test_without_a_score_head_there_is_no_score() -> None:
    processor = HandMIMImageProcessor(size=64)
    inputs = processor(ramp())
    outputs = StubNetwork()(inputs.pixel_values, inputs.intrinsics) | {"score_logits": None}
    assert processor.post_process_hand_mesh(outputs, inputs)[0]["score"] is None


def test_save_load_and_auto_class(tmp_path: Path) -> None:
    processor = HandMIMImageProcessor(size=48, box_scale=1.5, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(again, HandMIMImageProcessor)
    torch.testing.assert_close(again(picture()).pixel_values, processor(picture()).pixel_values)
    assert again.to_dict() == processor.to_dict()


def test_one_mean_for_all_channels() -> None:
    one, three = (HandMIMImageProcessor(size=32, image_mean=m, image_std=m) for m in (0.5, [0.5] * 3))
    box = [-40, -40, 60, 60]  # beyond the picture, where the mean is seen
    torch.testing.assert_close(one(picture(), box).pixel_values, three(picture(), box).pixel_values)


@pytest.mark.parametrize("typo", [{"boxs": [0, 0, 5, 5]}, {"box_scale": "big"}, {"size": {"height": 3, "width": 4}}])
def test_typing_errors_are_told(typo: dict) -> None:
    with pytest.raises((TypeError, ValueError, StrictDataclassFieldValidationError)):
        HandMIMImageProcessor(size=32)(picture(), **typo)


def test_arguments_must_fit_the_images() -> None:
    processor = HandMIMImageProcessor(size=32)
    with pytest.raises(InputError, match="each of the 2 images, got 1"):
        processor([picture(), picture()], boxes=[[0, 0, 9, 9]])
    with pytest.raises(InputError, match="each of the 2 boxes, got 3"):
        processor(picture(), boxes=[[0, 0, 9, 9], [1, 1, 8, 8]], handedness=["left"] * 3)


def test_the_camera_says_where_it_comes_from(tmp_path: Path) -> None:
    plain = Image.fromarray(picture())
    plain.save(tmp_path / "plain.jpg")
    exif = Image.Exif()
    exif[0x8769] = {0xA405: 50}  # FocalLengthIn35mmFilm
    plain.save(tmp_path / "exif.jpg", exif=exif)
    matrix, source = resolve_intrinsics(load_image(tmp_path / "plain.jpg"))
    assert source == "default" and matrix[0, 0] == pytest.approx(150) and matrix[0, 2] == 59.5
    matrix, source = resolve_intrinsics(load_image(tmp_path / "exif.jpg"))
    assert source == "exif" and matrix[0, 0] == pytest.approx(150 * 50 / 43.2666, rel=1e-4)
    assert resolve_intrinsics(load_image(plain), np.eye(3))[1] == "given"
