"""The pipeline: registration, batches, sides, refinement, and results that follow the picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stub_network import picture, ramp, stub_model
from torch.utils.data import IterableDataset
from transformers import pipeline

from handmim import HandMeshPipeline, HandMIM, InputError, ModelError
from handmim.checkpoints import EMBEDDED_CHECKPOINT
from handmim.hand_boxes import Detection
from handmim.pipeline_hand_mesh import distinct, hand_box
from handmim.synthesis import generate

WIDTH, HEIGHT = 160, 120
CAMERA = np.array([[180.0, 0, 70], [0, 180, 66], [0, 0, 1]])
corners = st.tuples(st.floats(5, 60), st.floats(5, 40), st.floats(20, 80), st.floats(20, 70))
hands = st.sampled_from(["left", "right"])


@pytest.fixture(scope="module")
def model() -> HandMIM:
    return stub_model()


def predict(model: HandMIM, image: np.ndarray, box: list[float], side: str, camera: np.ndarray) -> dict:
    (hand,) = model.pipeline(image, boxes=box, handedness=side, intrinsics=camera)
    return hand


def compare(found: dict, expected: dict, turn: np.ndarray, tolerance: float = 2e-3) -> None:
    """`found` must be `expected` with its camera frame turned by (3, 3) `turn`, up to the resampling of pixels."""
    for name in ("vertices", "joints"):
        np.testing.assert_allclose(found[name], expected[name] @ turn.T, atol=tolerance)


@settings(max_examples=15, deadline=None)
@given(corners, hands)
def test_mirrored_picture(model: HandMIM, box: tuple, side: str) -> None:
    x, y, w, h = box
    mirrored_camera = CAMERA.copy()
    mirrored_camera[0, 2] = WIDTH - 1 - CAMERA[0, 2]
    image = ramp(WIDTH, HEIGHT)
    one = predict(model, image, [x, y, x + w, y + h], side, CAMERA)
    other_side = {"left": "right", "right": "left"}[side]
    flipped = np.ascontiguousarray(image[:, ::-1])
    box = [WIDTH - 1 - x - w, y, WIDTH - 1 - x, y + h]
    two = predict(model, flipped, box, other_side, mirrored_camera)
    compare(two, one, np.diag([-1.0, 1, 1]))
    np.testing.assert_allclose(WIDTH - 1 - two["keypoints_2d"][:, 0], one["keypoints_2d"][:, 0], atol=1)
    np.testing.assert_allclose(two["hand_pose"] * [1, -1, -1], one["hand_pose"], atol=1e-5)
    assert two["handedness"] == other_side
    np.testing.assert_array_equal(two["faces"][:, ::-1], one["faces"])


@settings(max_examples=15, deadline=None)
@given(corners, hands, st.integers(0, 60), st.integers(0, 60))
def test_cut_picture(model: HandMIM, box: tuple, side: str, left: int, top: int) -> None:
    """The same hand in a picture with less around it: same place in space, pixels shifted."""
    x, y, w, h = box
    x, y = x + 40, y + 30
    wide = ramp(250, 220)
    one = predict(model, wide, [x, y, x + w, y + h], side, CAMERA)
    reach = 0.6 * max(w, h) + 5  # half the side of the crop, and what smoothing before shrinking looks at
    left, top = max(0, min(left, int(x + w / 2 - reach))), max(0, min(top, int(y + h / 2 - reach)))
    camera = CAMERA - [[0, 0, left], [0, 0, top], [0, 0, 0]]
    cut = np.ascontiguousarray(wide[top:, left:])
    two = predict(model, cut, [x - left, y - top, x + w - left, y + h - top], side, camera)
    compare(two, one, np.eye(3))
    np.testing.assert_allclose(two["keypoints_2d"] + [left, top], one["keypoints_2d"], atol=1)


@settings(max_examples=10, deadline=None)
@given(corners, hands, st.sampled_from([0.5, 2.0, 3.0]))
def test_scaled_picture(model: HandMIM, box: tuple, side: str, factor: float) -> None:
    x, y, w, h = box
    x, y = x + 40, y + 40  # the crop stays inside: at the border the two pictures differ by half a pixel
    wide = ramp(250, 220)
    one = predict(model, wide, [x, y, x + w, y + h], side, CAMERA)
    size = int(250 * factor), int(220 * factor)
    scaled = np.asarray(Image.fromarray(wide).resize(size, Image.Resampling.BOX))
    camera = CAMERA.copy()
    camera[:2] *= factor
    camera[:2, 2] += (factor - 1) / 2  # pixel centres: x -> factor (x + 1/2) - 1/2
    box = (np.array([x, y, x + w, y + h]) + 0.5) * factor - 0.5
    two = predict(model, scaled, box, side, camera)
    compare(two, one, np.eye(3), tolerance=5e-3)
    np.testing.assert_allclose((two["keypoints_2d"] + 0.5) / factor - 0.5, one["keypoints_2d"], atol=1)


@settings(max_examples=15, deadline=None)
@given(corners, hands, st.integers(1, 3))
def test_turned_picture(model: HandMIM, box: tuple, side: str, quarters: int) -> None:
    x, y, w, h = box
    image, camera = ramp(WIDTH, HEIGHT), CAMERA.copy()
    one = predict(model, image, [x, y, x + w, y + h], side, camera)
    points, turn = np.array([[x, y], [x + w, y + h], camera[:2, 2]]), np.eye(3)
    for _ in range(quarters):  # np.rot90: (x, y) -> (y, width - 1 - x)
        points = np.stack([points[:, 1], image.shape[1] - 1 - points[:, 0]], -1)
        turn = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) @ turn
        image = np.rot90(image)
    camera[:2, 2] = points[2]
    box = [*points[:2].min(0), *points[:2].max(0)]
    two = predict(model, np.ascontiguousarray(image), box, side, camera)
    compare(two, one, turn)


@settings(max_examples=10, deadline=None)
@given(corners, hands)
def test_mirroring_twice_is_the_identity(model: HandMIM, box: tuple, side: str) -> None:
    x, y, w, h = box
    image = ramp(WIDTH, HEIGHT)
    one = predict(model, image, [x, y, x + w, y + h], side, CAMERA)
    two = predict(model, np.ascontiguousarray(image[:, ::-1][:, ::-1]), [x, y, x + w, y + h], side, CAMERA)
    for name in ("vertices", "keypoints_2d", "global_orient", "hand_pose", "translation"):
        np.testing.assert_array_equal(one[name], two[name])


def test_side_is_found_by_the_score() -> None:
    """The "network" believes in a right hand where red grows to the right."""
    finder = stub_model(right=lambda pixels: 100 * pixels[:, 0].diff(dim=2).mean((1, 2)))
    image = ramp(WIDTH, HEIGHT)
    box = [20, 10, 100, 100]
    (right,) = finder.pipeline(image, boxes=box)
    (left,) = finder.pipeline(np.ascontiguousarray(image[:, ::-1]), boxes=box)
    assert (right["handedness"], left["handedness"]) == ("right", "left")
    assert right["score"] > 0.5 and left["score"] > 0.5
    (forced,) = finder.pipeline(image, boxes=box, handedness="left")
    assert forced["handedness"] == "left" and forced["score"] < 0.5


def test_batches_are_batched_and_equal_single_calls() -> None:
    one, many = stub_model(), stub_model()
    images = [picture(seed=seed) for seed in range(5)]
    boxes = [[[5, 5, 60, 60]], [[5, 5, 60, 60], [30, 20, 90, 80]], np.zeros((0, 4)), [10, 10, 50, 80], None]
    sides = ["left", ["right", "left"], None, None, "right"]
    together = many.pipeline(images, boxes=boxes, handedness=sides, batch_size=5)
    # 1 + 2 + 0 + 2 (both sides) + 1 crops at once, then the whole-image box twice more around its hand
    assert many.pipeline.model.batches == [6, 1, 1]
    assert [len(hands) for hands in together] == [1, 2, 0, 1, 1]
    for image, box, side, expected in zip(images, boxes, sides, together, strict=True):
        for found, hand in zip(one.pipeline(image, boxes=box, handedness=side), expected, strict=True):
            np.testing.assert_allclose(found["vertices"], hand["vertices"], atol=1e-6)


class Endless(IterableDataset):
    """Two pictures whose number nobody knows."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"image": picture(), "boxes": [[5, 5, 60, 60], [40, 10, 100, 80]]} for _ in range(2))


def test_streams_and_dicts(model: HandMIM) -> None:
    stream = ({"image": picture(), "boxes": [5, 5, 60, 60], "handedness": side} for side in ("left", "right"))
    assert [hands[0]["handedness"] for hands in model.pipeline(stream)] == ["left", "right"]
    assert model.pipeline({"image": picture(), "boxes": [5, 5, 60, 60], "handedness": "left"})[0]["score"]
    listed = [{"image": picture(), "boxes": [5, 5, 60, 60], "handedness": side} for side in ("left", "right")]
    assert [hands[0]["handedness"] for hands in model.pipeline([*listed, picture()])][:2] == ["left", "right"]
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        model.pipeline(listed, batch_size=0)
    assert model.pipeline([]) == []
    assert [len(hands) for hands in model.pipeline(Endless())] == [2, 2]
    with pytest.raises(InputError, match="'image'"):
        model.pipeline({"picture": picture()})
    for inputs in ((image for image in [picture()]), {"image": picture()}):
        with pytest.raises(InputError, match="a dict or a stream"):
            model.pipeline(inputs, boxes=[1, 2, 3, 4])
    with pytest.raises(TypeError):
        model.pipeline(picture(), handednes="left")


def test_whole_picture_is_refined_to_the_hand() -> None:
    finder, crops = stub_model(), []
    finder.model.register_forward_pre_hook(lambda *call: crops.append(call[-1]["pixel_values"][0]), with_kwargs=True)
    (hand,) = finder.pipeline(ramp(WIDTH, HEIGHT), handedness="right", intrinsics=CAMERA)
    # First the whole picture, 2.5 of its pixels in one of the crop: red is x from edge to edge, bars above and below.
    red = (crops[0][0] + 1) * 127.5
    np.testing.assert_allclose(red[20, [2, 61]], [5.75, 153.25], atol=0.1)
    assert (crops[0][:, :6] == 0).all() and (crops[0][:, -6:] == 0).all() and (crops[0][1, 10:-10] != 0).all()
    # Then twice around the hand, with a margin around its joints.
    assert len(crops) == 3
    x0, y0, x1, y1 = hand["box"]
    assert -0.5 <= x0 < x1 <= WIDTH - 0.5 and -0.5 <= y0 < y1 <= HEIGHT - 0.5
    assert (x1 - x0) * (y1 - y0) < 0.9 * WIDTH * HEIGHT
    assert finder.detector.name == "whole-image"


@pytest.mark.parametrize("best", [0, 1, 2])
def test_refinement_keeps_the_best_step(best: int) -> None:
    scores = iter(np.eye(3)[best])
    finder = stub_model(right=lambda pixels: torch.full((len(pixels),), next(scores)))
    (hand,) = finder.pipeline(ramp(WIDTH, HEIGHT), handedness="right", intrinsics=CAMERA)
    assert hand["score"] == pytest.approx(1 / (1 + np.exp(-1)))
    whole = [79.5 - 80 / 1.2, 59.5 - 60 / 1.2, 79.5 + 80 / 1.2, 59.5 + 60 / 1.2]
    assert np.allclose(hand["box"], whole, atol=1e-3) == (best == 0)
    (again,) = stub_model().pipeline(ramp(WIDTH, HEIGHT), boxes=hand["box"], handedness="right", intrinsics=CAMERA)
    np.testing.assert_allclose(again["vertices"], hand["vertices"], atol=1e-4)  # `box` is where it was looked for


def test_a_failed_estimate_does_not_move_the_crop() -> None:
    image, box = ramp(WIDTH, HEIGHT), np.array([20, 20, 60, 60], np.float32)
    points = np.array([[30, 30], [50, 40]], np.float32)
    for failed in (points * np.nan, points + 1000, points * 0 + 30):
        np.testing.assert_array_equal(hand_box({"box": box, "keypoints_2d": failed}, image), box)
    found = hand_box({"box": box, "keypoints_2d": points}, image)
    np.testing.assert_allclose(found, [27.6, 27.6, 52.4, 42.4], atol=1e-5)
    cut = hand_box({"box": box, "keypoints_2d": points - np.float32([32, 0])}, image)
    np.testing.assert_allclose(cut, [-0.5, 27.6, 20.4, 42.4], atol=1e-5)
    halved = hand_box({"box": np.float32([0, 0, 100, 100]), "keypoints_2d": points}, image)
    np.testing.assert_allclose(halved, [15, 35 - 25 * 14.8 / 24.8, 65, 35 + 25 * 14.8 / 24.8], atol=1e-5)


def test_detector_gives_boxes_and_sides() -> None:
    class Two:
        name, refine = "two", False

        def detect(self, image: np.ndarray) -> list[Detection]:
            return [Detection(np.array([5.0, 5, 50, 50]), "left"), Detection(np.array([40.0, 30, 90, 80]))]

    finder = stub_model(detector=Two(), right=lambda pixels: torch.arange(float(len(pixels))))
    found = finder.pipeline(picture())
    assert [hand["handedness"] for hand in found] == ["left", "left"]  # the last crop, a mirrored one, scores highest
    assert finder.pipeline.model.batches == [3]
    np.testing.assert_allclose(found[1]["box"], [40, 30, 90, 80])

    class Nothing(Two):
        def detect(self, image: np.ndarray) -> list[Detection]:
            return []

    assert stub_model(detector=Nothing()).pipeline(picture()) == []


def test_a_detector_by_name_runs_where_the_network_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Movable:
        name, refine = "movable", False

        def __init__(self) -> None:
            self.places: list[Any] = []

        def to(self, device: Any) -> None:
            self.places.append(device)

        def detect(self, image: np.ndarray) -> list[Detection]:
            return []

    ours, theirs = Movable(), Movable()
    monkeypatch.setattr(
        "handmim.pipeline_hand_mesh.resolve_detector", lambda choice: ours if choice == "open" else choice
    )
    pipe = stub_model(detector="open").pipeline
    assert pipe.detector is ours and ours.places == [pipe.device] and pipe.detector.places == [pipe.device]
    assert stub_model(detector=theirs).pipeline.detector is theirs and not theirs.places


def test_crops_are_as_large_as_the_network_expects() -> None:
    finder = stub_model()
    for size in (64, 96):
        finder.pipeline.model.config.image_size = size
        seen: list[int] = []
        finder.pipeline.model.right = lambda pixels, seen=seen: seen.append(pixels.shape[-1]) or torch.ones(len(pixels))
        finder.pipeline(picture(), boxes=[5, 5, 50, 50], handedness="right")
        assert seen == [size]


def test_rough_boxes_have_a_margin_and_a_second_look() -> None:
    class Rough:
        name, refine, refinements = "rough", False, 1

        def detect(self, image: np.ndarray) -> list[Detection]:
            return [Detection(np.array([20.0, 20, 90, 80]), "right")] * int(image[0, 0, 0] == 0)

    for best in (0, 1):
        scores = iter(np.eye(2)[best])
        finder = stub_model(detector=Rough(), right=lambda pixels, scores=scores: torch.full((1,), next(scores)))
        (hand,) = finder.pipeline(ramp(WIDTH, HEIGHT), intrinsics=CAMERA)
        assert len(finder.pipeline.model.batches) == 2
        assert np.allclose(hand["box"], [20, 20, 90, 80]) == (best == 0)
    both = [ramp(WIDTH, HEIGHT), np.full((40, 40, 3), 255, np.uint8)]  # a picture with a hand and one without
    found = stub_model(detector=Rough()).pipeline(both, batch_size=2)
    assert [len(hands) for hands in found] == [1, 0]


def test_the_network_judges_what_a_detector_doubts() -> None:
    class Doubtful:
        name, refine, refinements = "doubtful", False, 1

        def detect(self, image: np.ndarray) -> list[Detection]:
            return self.candidates(image)[:1]

        def candidates(self, image: np.ndarray) -> list[Detection]:
            boxes = np.array([[5.0, 5, 50, 50], [40, 30, 90, 80], [20, 20, 60, 60]])
            return [Detection(box, "right", score) for box, score in zip(boxes, (0.9, 0.4, 0.3), strict=True)]

        def accepts(self, detection_score: float, hand_score: float) -> bool:
            return detection_score + hand_score > 0.9

    def scores(pixels: torch.Tensor) -> torch.Tensor:
        return torch.tensor([-9.0, -9.0, 9.0])[: len(pixels)]

    finder = stub_model(detector=Doubtful(), right=scores)
    found = finder.pipeline(picture())
    np.testing.assert_allclose([hand["score"] for hand in found], [0, 1], atol=1e-3)
    np.testing.assert_allclose(found[1]["box"], [20, 20, 60, 60])
    assert finder.pipeline.model.batches == [3, 2]  # what is no hand is not looked at again
    assert len(finder.pipeline(picture(), handedness="right")) == 1
    unscored = stub_model(detector=Doubtful())
    unscored.pipeline.model.config.score_head = False
    assert len(unscored.pipeline(picture())) == 1


def test_a_hand_is_given_once() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (21, 2)).astype(np.float32)
    moved = points + np.float32([10, 0])
    rows = [("right", 0.6, points), ("right", 0.9, moved), ("left", 0.2, points), ("right", 0.1, points + 80)]
    hands = [{"handedness": side, "score": score, "keypoints_2d": place} for side, score, place in rows]
    assert distinct(hands) == hands[1:]
    unscored = [hand | {"score": None} for hand in hands]
    assert distinct(unscored) == [unscored[0], *unscored[2:]] and distinct([]) == []
    lost = [hand | {"keypoints_2d": points * np.nan} for hand in hands[:2]]
    assert distinct(lost) == lost
    part = hands[1] | {"score": 0.5, "keypoints_2d": moved * 0.6 + 20}  # of a hand, in a box a third as large
    other = part | {"handedness": "left"}
    assert distinct([hands[1], part]) == [hands[1]] and distinct([hands[1], other]) == [hands[1], other]

    class Twice:
        name, refine = "twice", False

        def detect(self, image: np.ndarray) -> list[Detection]:
            return [Detection(np.array([20.0, 20, 90, 80]), "right")] * 2

    finder = stub_model(detector=Twice())
    assert len(finder.pipeline(picture())) == 1
    assert len(finder.pipeline(picture(), boxes=[[20, 20, 90, 80]] * 2)) == 2  # who asks twice is answered twice


def test_pipeline_function_knows_the_task(tiny_checkpoint: Path) -> None:
    task = pipeline("hand-mesh-estimation", model=str(tiny_checkpoint), detector="whole-image")
    assert isinstance(task, HandMeshPipeline)
    (hand,) = task(picture(), boxes=[10, 10, 80, 80])
    assert hand["vertices"].shape[1] == 3 and hand["hand_model"] == "open" and hand["intrinsics_source"] == "default"


def test_pipeline_function_has_a_default_model() -> None:
    """`KeyError: 'default'` says nothing to who tries it without a model first."""
    task = pipeline("hand-mesh-estimation", detector="whole-image")
    (hand,) = task(picture(), boxes=[10, 10, 80, 80])
    assert Path(task.model.name_or_path) == EMBEDDED_CHECKPOINT and hand["vertices"].shape[1] == 3


def test_a_model_without_a_mesh_is_refused() -> None:
    network = stub_model().model
    with pytest.raises(ModelError, match="image processor"):
        HandMeshPipeline(model=network, device="cpu")
    del network.hand_model
    with pytest.raises(ModelError, match="mesh head"):
        HandMeshPipeline(model=network, device="cpu")


@pytest.mark.parametrize("name", ["handmim-tiny-open", "hiu-dmtl-tiny-open"])
def test_a_model_in_training_predicts_as_it_will(name: str) -> None:
    """Batch norms took the statistics of the crops, kept them, and the fit was left out."""
    model = HandMIM.from_pretrained(name, device="cpu")
    (before,) = model(picture(240, 240), boxes=[20, 20, 200, 220], handedness="right")
    state = {key: value.clone() for key, value in model.model.state_dict().items()}
    model.model.train()
    frozen = next(part for part in model.model.modules() if isinstance(part, torch.nn.BatchNorm2d)).eval()
    (during,) = model(picture(240, 240), boxes=[20, 20, 200, 220], handedness="right")
    np.testing.assert_array_equal(during.vertices, before.vertices)
    assert all(torch.equal(value, state[key]) for key, value in model.model.state_dict().items())
    assert model.model.training and not frozen.training


@pytest.mark.parametrize("name", ["handmim-tiny-open", "hiu-dmtl-tiny-open"])
def test_networks_predict_in_double_precision_and_with_tuples(name: str) -> None:
    model = HandMIM.from_pretrained(name, device="cpu").model
    pixels = torch.zeros(1, 3, *[model.config.image_size] * 2)
    with torch.no_grad():
        expected = model(pixels)
        assert (model.double()(pixels.double()).joints - expected.joints).abs().max() < 1e-3
        model.float().config.return_dict = False
        assert isinstance(model(pixels), tuple)


@pytest.mark.usefixtures("small_bank")
@pytest.mark.parametrize("focal", [1000.0, 600.0, 400.0])
@pytest.mark.parametrize("corner", [(0, 0), (1700, 0), (0, 1220), (1700, 1220)])
def test_hands_in_the_corners_of_wide_pictures_stay_hands(focal: float, corner: tuple[int, int]) -> None:
    """From 55 degrees off the axis on each iteration went further astray: hands of 12 m, with a score of .99."""
    photo = np.full((1440, 1920, 3), 128, np.uint8)
    left, top = corner
    photo[top : top + 216, left : left + 216] = generate(5, range(1), size=216, negatives=0.0).images[0].numpy()
    camera = [[focal, 0, 959.5], [0, focal, 719.5], [0, 0, 1]]
    box = [left + 10, top + 10, left + 206, top + 206]
    (found,) = HandMIM.from_pretrained(device="cpu")(photo, boxes=box, handedness="right", intrinsics=camera)
    assert np.ptp(found.vertices, axis=0).max() < 0.3 and np.abs(found.betas).max() < 10
