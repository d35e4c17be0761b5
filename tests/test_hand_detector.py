"""The hand detector: a transformers model, boxes in the photo's pixels, and its way through the front door."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from model_tester import ModelTests
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

from handmim.acceleration import fold_norms
from handmim.checkpoints import embedded_checkpoints
from handmim.configuration_hand_detector import LABELS, HandDetectorConfig
from handmim.detection import available_detectors, resolve_detector
from handmim.errors import InputError, ModelError
from handmim.hand import HandMIM
from handmim.hand_boxes import Detection, overlap_of
from handmim.image_processing_hand_detector import EITHER, LEFT, RIGHT, HandDetectorImageProcessor
from handmim.losses_detection import cell_centres
from handmim.modeling_hand_detector import HandDetectorForObjectDetection, HandDetectorOutput
from handmim.open_detector import OpenHandDetector, is_open_detector

SMALL = {"image_size": 64, "neck_width": 8}


class TestModel(ModelTests):
    model_class = HandDetectorForObjectDetection
    output_names = ("logits", "pred_boxes", "side_logits")
    checkpointed_module = "backbone.layers.2.0.conv_pw"
    bfloat16_tolerance = 1.0  # pixels

    def make_config(self) -> HandDetectorConfig:
        return HandDetectorConfig(**SMALL)

    def make_inputs(self, config: HandDetectorConfig) -> dict[str, Any]:
        boxes = torch.tensor([[[4.0, 4.0, 40.0, 44.0], [40.0, 44.0, 62.0, 60.0]]]).repeat(2, 1, 1)
        labels = {"boxes": boxes, "right": torch.tensor([[1.0, 0.0]]).repeat(2, 1), "counted": torch.ones(2, 2) > 0}
        return {"pixel_values": torch.rand(2, 3, config.image_size, config.image_size) * 2 - 1, "labels": labels}

    def test_checkpoint_holds_no_hand_model_array(self, model: HandDetectorForObjectDetection, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert not [name for name in load_file(tmp_path / "model.safetensors") if "hand_model" in name]


def small_detector(seed: int = 0) -> HandDetectorForObjectDetection:
    torch.manual_seed(seed)
    return HandDetectorForObjectDetection(HandDetectorConfig(**SMALL))


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A checkpoint with random weights."""
    small_detector().save_pretrained(tmp_path / "detector")
    HandDetectorImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "detector")
    return tmp_path / "detector"


def answer(boxes: list, scores: list[float], right: list[float], side: int = 8) -> HandDetectorOutput:
    """What a network would say that finds these hands, each at the cell nearest to its centre."""
    output = HandDetectorOutput(
        logits=torch.full((1, side, side), -9.0),
        pred_boxes=torch.zeros(1, side, side, 4),
        side_logits=torch.zeros(1, side, side),
    )
    for box, score, chance in zip(boxes, scores, right, strict=True):
        box = torch.tensor(box)
        distance = (cell_centres(side, 8) - (box[:2] + box[2:]) / 2).norm(dim=-1)
        row, column = divmod(int(distance.argmin()), side)
        output.logits[0, row, column] = torch.logit(torch.tensor(score))
        output.side_logits[0, row, column] = torch.logit(torch.tensor(chance))
        output.pred_boxes[0, row, column] = box
    return output


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 100),
        ("neck_width", 0),
        ("score_prior", 0),
        ("box_unit", 0),
        ("loss_weights", {"sides": 1.0}),
        ("loss_weights", {"side": -1.0}),
    ],
)
def test_impossible_configurations_are_refused(field: str, value: object):
    with pytest.raises(StrictDataclassClassValidationError, match=field):
        HandDetectorConfig(**{field: value})


def test_names_of_the_labels_may_be_other_ones(tmp_path: Path):
    names = {0: "links", 1: "rechts", 2: "Hand"}
    HandDetectorConfig(id2label=names).save_pretrained(tmp_path)
    for config in (HandDetectorConfig(id2label=names), HandDetectorConfig.from_pretrained(tmp_path)):
        assert config.id2label == names and config.label2id == {"links": 0, "rechts": 1, "Hand": 2}
    assert HandDetectorConfig().label2id == {name: number for number, name in enumerate(LABELS)}


def test_boxes_are_of_the_size_that_the_network_saw(folder: Path):
    """Whatever the processor's own is: a call may ask for another."""
    model, photo = small_detector().eval(), np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8)
    found = []
    for default in (64, 128):
        processor = HandDetectorImageProcessor(size=default)
        with torch.no_grad():
            outputs = model(processor(photo, size=128, return_tensors="pt")["pixel_values"])
        found.append(processor.post_process_object_detection(outputs, 0.0, [photo.shape[:2]])[0]["boxes"])
    assert len(found[0]) and torch.equal(*found)
    with pytest.raises(ValueError, match="one for each of the 1 pictures, got 2"):
        processor.post_process_object_detection(outputs, 0.0, [(120, 200)] * 2)


def test_forward_gives_a_grid_and_starts_without_hands():
    model = small_detector().eval()
    output = model(torch.zeros(2, 3, 64, 96)[..., :64])
    assert output.logits.shape == output.side_logits.shape == (2, 8, 8) and output.pred_boxes.shape == (2, 8, 8, 4)
    assert output.loss is None and output.logits.sigmoid().max() < 0.02
    boxes = output.pred_boxes
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert (boxes[..., 2:] > boxes[..., :2]).all() and (middle - cell_centres(8, 8)).abs().max() < 8
    assert model(torch.zeros(1, 3, 96, 96)).logits.shape == (1, 12, 12)
    for shape in ((1, 3, 64, 96), (1, 1, 64, 64), (1, 3, 60, 60)):
        with pytest.raises(ValueError, match="pixel_values"):
            model(torch.zeros(shape))


def test_weights_survive_a_file(folder: Path):
    model, loaded = small_detector(), AutoModelForObjectDetection.from_pretrained(folder)
    assert isinstance(loaded, HandDetectorForObjectDetection) and loaded.config.id2label == dict(enumerate(LABELS))
    for (name, value), (other, read) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other and torch.equal(value, read), name
    HandDetectorImageProcessor(size=64, side_certainty=0.6, overlap=0.4, max_hands=3).save_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert isinstance(processor, HandDetectorImageProcessor)
    assert (processor.side_certainty, processor.overlap, processor.max_hands) == (0.6, 0.4, 3)


def test_missing_weights_start_as_in_a_new_network(folder: Path, tmp_path: Path):
    model = small_detector()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("hands.1")}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    loaded = HandDetectorForObjectDetection.from_pretrained(tmp_path / "part")
    torch.testing.assert_close(loaded.hands[1].bias[:1].sigmoid(), torch.tensor([0.005]))
    assert loaded.hands[1].bias[1:].abs().max() == 0
    assert torch.equal(loaded.side[1].weight, model.side[1].weight)


def test_norms_fold_into_convolutions():
    model, picture = small_detector().train(), torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        for _ in range(3):  # norms that do something
            model(picture)
        expected = model.eval()(picture)
        folded = fold_norms(copy.deepcopy(model))
        found = folded(picture)
    for name in ("logits", "pred_boxes", "side_logits"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_it_learns_a_picture_by_heart():
    torch.manual_seed(0)
    model = small_detector()
    picture = torch.rand(1, 3, 64, 64) * 0.2 - 0.9
    picture[..., 10:40, 6:30] = 0.8
    labels = {
        "boxes": torch.tensor([[[5.5, 9.5, 29.5, 39.5]]]),
        "right": torch.ones(1, 1),
        "counted": torch.ones(1, 1, dtype=torch.bool),
    }
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        output = model(picture, labels)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert set(output.losses) == {"centre", "box", "side"}
    (found,) = HandDetectorImageProcessor(size=64).post_process_object_detection(output, 0.3)
    assert found["labels"].tolist() == [RIGHT]
    assert overlap_of(found["boxes"][0].detach().numpy(), np.array([5.5, 9.5, 29.5, 39.5])) > 0.8


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), st.data())
def test_boxes_come_back_to_the_photo(width: int, height: int, data: st.DataObject):
    x0, y0 = data.draw(st.floats(0, 0.5)) * width, data.draw(st.floats(0, 0.5)) * height
    box = np.array([x0, y0, x0 + width / 2.5, y0 + height / 2.5]) - 0.5
    processor = HandDetectorImageProcessor(size=64)
    inputs = processor(np.zeros((height, width, 3), np.uint8), return_tensors="pt")
    affine = inputs["crop_affine"][0].numpy()
    in_square = np.concatenate([affine[:, :2] @ box[:2] + affine[:, 2], affine[:, :2] @ box[2:] + affine[:, 2]])
    output = answer([in_square.tolist()], [0.9], [0.95])
    (found,) = processor.post_process_object_detection(output, 0.5, [(height, width)])
    np.testing.assert_allclose(found["boxes"][0], box, atol=1e-3 * max(width, height))


def test_boxes_are_cut_at_the_border_and_sorted_and_labelled():
    processor = HandDetectorImageProcessor(size=64)
    boxes = [[-20.0, 4.0, 20.0, 28.0], [30.0, 30.0, 60.0, 60.0], [40.0, 2.0, 60.0, 20.0]]
    output = answer(boxes, [0.6, 0.9, 0.4], [0.02, 0.97, 0.5])
    (found,) = processor.post_process_object_detection(output, 0.3, torch.tensor([[64, 64]]))
    assert found["labels"].tolist() == [RIGHT, LEFT, EITHER]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.6, 0.4]))
    assert found["boxes"][1].tolist() == [-0.5, 4.0, 20.0, 28.0]
    assert len(processor.post_process_object_detection(output, 0.5)[0]["scores"]) == 2
    assert (
        len(HandDetectorImageProcessor(size=64, max_hands=1).post_process_object_detection(output, 0.3)[0]["scores"])
        == 1
    )


def test_a_hand_is_found_once():
    output = answer([[10.0, 10.0, 40.0, 40.0], [12.0, 26.0, 42.0, 46.0]], [0.9, 0.8], [0.9, 0.9])
    output.pred_boxes[output.logits > 0] = torch.tensor([10.0, 10.0, 40.0, 40.0])  # two cells, one hand
    (found,) = HandDetectorImageProcessor(size=64).post_process_object_detection(output, 0.3)
    assert len(found["boxes"]) == 1 and found["scores"][0] == pytest.approx(0.9)


def test_boxes_outside_the_picture_are_none():
    output = answer([[4.0, 1.0, 60.0, 14.0]], [0.9], [0.9])  # in the grey above a wide photo
    assert (
        len(HandDetectorImageProcessor(size=64).post_process_object_detection(output, 0.3, [(20, 64)])[0]["boxes"]) == 0
    )


def test_transformers_own_pipeline_runs_it(folder: Path):
    found = pipeline("object-detection", model=str(folder), threshold=0.0)(Image.new("RGB", (80, 60)))
    assert found and {hand["label"] for hand in found} <= set(LABELS)


def test_a_folder_is_a_detector(folder: Path):
    """One of our kind, whose candidates a mesh network judges as it does those of the one in the package."""
    detector = resolve_detector(folder)
    assert isinstance(detector, OpenHandDetector) and detector.name == str(folder)
    assert resolve_detector("open").name == OpenHandDetector().name == "open"
    picture = np.zeros((60, 80, 3), np.uint8)
    assert all(hand.score >= 0.3 for hand in detector.detect(picture))  # the checkpoint's least score
    detector.min_score = 0.0
    assert all(hand.box[2] <= 79.5 for hand in detector.candidates(picture))


def test_what_is_wrong_with_a_folder_is_said_at_once(folder: Path, tmp_path: Path):
    """Of our kind or not is read from its configuration; a damaged one is no reason to try it as another kind."""
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(ModelError, match=str(folder)):
        resolve_detector(folder)
    for text in ("[]", "{", '{"model_type": "yolos"}'):
        (folder / "config.json").write_text(text)
        assert not is_open_detector(folder)
        with pytest.raises(InputError, match="no object detector could be loaded"):
            resolve_detector(folder)
    assert not is_open_detector(tmp_path / "nothing")


def test_our_detector_reads_its_checkpoint_once_and_goes_to_workers(folder: Path):
    import pickle

    detector = OpenHandDetector(folder, min_score=0.0)
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    found = detector.detect(picture)
    assert found and all(0 <= hand.score <= 1 and hand.handedness in ("left", "right", None) for hand in found)
    assert [hand.score for hand in found] == sorted((hand.score for hand in found), reverse=True)
    again = pickle.loads(pickle.dumps(detector)).detect(picture)
    assert [hand.box.tolist() for hand in again] == [hand.box.tolist() for hand in found]


def test_its_network_can_be_moved(folder: Path):
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    detector = OpenHandDetector(folder, min_score=0.0, device="meta")
    assert detector._network[0].device.type == "meta"  # no picture can be looked at there: it holds no numbers
    assert OpenHandDetector(folder, min_score=0.0).load().to("meta")._network[0].device.type == "meta"
    assert OpenHandDetector(folder, min_score=0.0, device="meta").to("cpu").detect(picture)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_the_same(folder: Path):
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    here, there = (OpenHandDetector(folder, min_score=0.0, device=device).detect(picture) for device in ("cpu", "cuda"))
    np.testing.assert_allclose([hand.score for hand in there], [hand.score for hand in here], atol=1e-3)


def test_large_hands_are_looked_for_in_a_smaller_picture_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    picture = np.zeros((60, 80, 3), np.uint8)
    alone = OpenHandDetector(folder, min_score=0.0).candidates(picture)
    HandDetectorImageProcessor(size=64, coarse_size=32, max_hands=3).save_pretrained(folder)
    detector = OpenHandDetector(folder, min_score=0.0)
    coarse = [hand.box for hand in detector._look(picture, 32)]
    assert coarse and not any((box == hand.box).all() for box in coarse for hand in alone)

    def look(self: OpenHandDetector, image: np.ndarray, side: int) -> list[Detection]:
        near = [([0, 0, 40, 40], 0.9), ([50, 10, 60, 20], 0.5)]
        far = [([1, 0, 41, 40], 0.95), ([40, 20, 70, 58], 0.4), ([70, 0, 79, 9], 0.99), ([0, 40, 30, 59], 0.2)]
        rows = far if side == 32 else near
        return [Detection(np.array(box, float), None, score) for box, score in rows]

    monkeypatch.setattr(OpenHandDetector, "_look", look)
    found = detector.detect(picture)  # the surer box of a hand; no small hand of the smaller picture; three at most
    assert [(hand.box[0], hand.score) for hand in found] == [(1, 0.95), (50, 0.5), (40, 0.4)]


@pytest.fixture
def looks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sides at which a detector of 64 px has looked; it sees a large hand, and in light a small one."""
    HandDetectorImageProcessor(size=64, max_hands=3).save_pretrained(folder)
    seen = []

    def look(self: OpenHandDetector, image: np.ndarray, side: int) -> list[Detection]:
        seen.append(side)
        whole = [([0, 0, 90, 90], 0.9), ([150, 10, 170, 28], 0.5)]
        fine = [([2, 0, 90, 90], 0.95), ([151, 10, 170, 29], 0.8), ([100, 50, 111, 60], 0.4)]
        rows = (whole if image.any() else whole[:1]) if side == 64 else fine
        return [Detection(np.array(box, float), None, score) for box, score in rows]

    monkeypatch.setattr(OpenHandDetector, "_look", look)
    return seen


SHOWN, HIDDEN = np.ones((180, 200, 3), np.uint8), np.zeros((180, 200, 3), np.uint8)  # the small hand at first sight


def test_where_one_hand_is_small_others_are_looked_for_in_a_larger_picture(folder: Path, looks: list[int]):
    detector = OpenHandDetector(folder)
    found = detector.detect(SHOWN)  # the surer box of a small hand; a large one as it was
    assert [(hand.box[0], hand.score) for hand in found] == [(0, 0.9), (151, 0.8), (100, 0.4)]
    assert looks == [64, 128]
    looks.clear()
    assert [hand.score for hand in detector.detect(HIDDEN)] == [0.9] and looks == [64]


@pytest.mark.parametrize(
    ("fine", "picture", "sides"),
    [("always", HIDDEN, [64, 128]), ("never", SHOWN, [64]), ("if-small", SHOWN, [64, 128])],
)
def test_a_closer_look_can_be_had_always_or_never(
    folder: Path, looks: list[int], fine: Any, picture: np.ndarray, sides: list[int]
):
    OpenHandDetector(folder, fine=fine).detect(picture)
    assert looks == sides


@pytest.mark.parametrize(("size", "sides"), [((60, 64), [64]), ((90, 70), [64, 96]), ((300, 400), [64, 128])])
def test_no_look_is_closer_than_the_picture(folder: Path, looks: list[int], size: tuple[int, int], sides: list[int]):
    OpenHandDetector(folder, fine="always").detect(np.zeros((*size, 3), np.uint8))
    assert looks == sides


def test_each_way_of_looking_has_a_name(folder: Path):
    names = {"open": "open", "hand-detector-tiny-open": "open", "open-fine": "open-fine", "open-fast": "open-fast"}
    assert {choice: resolve_detector(choice).name for choice in names} == names
    assert OpenHandDetector(folder, fine="always").name == f"{folder}-fine"
    with pytest.raises(InputError, match="if-small, always, never"):
        OpenHandDetector(folder, fine="sometimes")


def test_a_detector_is_no_mesh_model(folder: Path):
    with pytest.raises((InputError, ValueError)):
        HandMIM.from_pretrained(folder)
    assert "hand-detector-tiny-open" not in embedded_checkpoints()


def test_a_mesh_network_may_speak_for_and_against_candidates(folder: Path):
    detector = OpenHandDetector(folder, min_score=0.3)
    assert detector.accepts(0.31, 0.5) and not detector.accepts(0.29, 0.5)  # a network that does not know says nothing
    assert detector.accepts(0.2, 0.99) and not detector.accepts(0.4, 0.01) and detector.accepts(0.999, 0.0)
    assert OpenHandDetector(folder).accepts(0.31, 0.5)  # the checkpoint's least score
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    certain = OpenHandDetector(folder, min_score=0.0).detect(picture)
    middle = float(np.median([hand.score for hand in certain]))
    detector = OpenHandDetector(folder, min_score=middle)
    scores = [hand.score for hand in detector.candidates(picture)]
    assert len(scores) > len(detector.detect(picture)) and min(scores) > middle * 2 / 3 - 1e-6


def test_the_detector_in_the_package_finds_a_rendered_hand():
    from handmim.synthesis import generate

    assert "open" in available_detectors()
    batch = generate(77, range(24), size=192, variety="plain")
    detector = resolve_detector("open")
    found = [detector.detect(image.numpy()) for image in batch.images]
    points = batch.labels["keypoints_2d"].numpy()
    overlaps = []
    for hands, hand in zip(found, points, strict=True):
        pad = 0.12 * (hand.max(0) - hand.min(0)).max()
        box = np.concatenate([hand.min(0) - pad, hand.max(0) + pad])
        overlaps.append(max((overlap_of(one.box, box) for one in hands), default=0.0))
    assert np.mean(np.array(overlaps) > 0.5) > 0.85


def test_what_stands_for_the_detector_bears_its_name() -> None:
    """Pipelines of transformers compare it with the model's class, and warned of one that they do not know."""
    from transformers import AutoModelForObjectDetection

    stand_in = AutoModelForObjectDetection._model_mapping[HandDetectorConfig]
    assert stand_in.__name__ == HandDetectorForObjectDetection.__name__
