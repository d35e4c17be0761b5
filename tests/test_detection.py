"""Detectors: boxes in the right frame, sides as the picture shows them, and clear words about what is missing."""

import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from handmim import detection, mediapipe_detector
from handmim.detection import (
    GivenBoxes,
    HandDetector,
    HubDetector,
    WholeImage,
    available_detectors,
    hand_labels,
    resolve_detector,
)
from handmim.errors import InputError
from handmim.hand_boxes import Detection, box_around, clip_box, overlap_of
from handmim.mediapipe_detector import DetectorUnavailableError, MediaPipeDetector
from handmim.open_detector import OpenHandDetector

IMAGE = np.zeros((60, 80, 3), np.uint8)
POINTS = [SimpleNamespace(x=0.25, y=0.5), SimpleNamespace(x=0.5, y=0.75)]


@pytest.fixture()
def no_mediapipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mediapipe_detector.TASK_FILE_VARIABLE, raising=False)
    monkeypatch.setattr(mediapipe_detector, "find_spec", lambda name: None)


@pytest.fixture()
def mediapipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """A stand-in for the package, with both of its interfaces, that sees one right hand in every picture."""
    module = types.ModuleType("mediapipe")
    module.__spec__ = ModuleSpec("mediapipe", None, origin=str(tmp_path / "mediapipe" / "__init__.py"))
    module.calls = []

    class Hands:
        def __init__(self, **options):
            module.calls.append(("solution", options))

        def process(self, image):
            side = SimpleNamespace(classification=[SimpleNamespace(label="Left", score=0.9)])  # as in a mirror
            return SimpleNamespace(multi_handedness=[side], multi_hand_landmarks=[SimpleNamespace(landmark=POINTS)])

    class HandLandmarker:
        @classmethod
        def create_from_options(cls, options):
            module.calls.append(("task", options))
            return cls()

        def detect(self, image):
            side = [SimpleNamespace(category_name="Right", score=0.9)]
            return SimpleNamespace(handedness=[side], hand_landmarks=[POINTS])

    python = types.ModuleType("mediapipe.tasks.python")
    python.BaseOptions = SimpleNamespace
    python.vision = SimpleNamespace(HandLandmarker=HandLandmarker, HandLandmarkerOptions=SimpleNamespace)
    module.solutions = SimpleNamespace(hands=SimpleNamespace(Hands=Hands))
    module.Image, module.ImageFormat = SimpleNamespace, SimpleNamespace(SRGB=1)
    for name, part in {
        "mediapipe": module,
        "mediapipe.tasks": types.ModuleType("mediapipe.tasks"),
        "mediapipe.tasks.python": python,
    }.items():
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setattr(mediapipe_detector, "find_spec", lambda name: module.__spec__)
    monkeypatch.delenv(mediapipe_detector.TASK_FILE_VARIABLE, raising=False)
    return module


def carry_models(module: types.ModuleType) -> None:
    """Turn the stand-in into an old wheel."""
    file = Path(module.__spec__.origin).parent / "modules" / "hand_landmark" / "hand_landmark_full.tflite"
    file.parent.mkdir(parents=True)
    file.touch()


def test_importing_loads_nothing_heavy():
    code = """if True:
        import sys
        sys.argv[0] = "handmim"  # the command, which leaves the registration with transformers for later
        import handmim.detection
        print([m for m in ("torch", "transformers", "mediapipe") if m in sys.modules])
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_given_boxes_come_back_for_every_picture():
    detector = GivenBoxes([[1, 2, 30, 40], [5, 5, 9, 9]], ["left", None])
    found = detector.detect(IMAGE)
    assert [hand.handedness for hand in found] == ["left", None]
    np.testing.assert_array_equal(found[0].box, [1, 2, 30, 40])
    assert GivenBoxes([1, 2, 3, 4], "right").detect(IMAGE)[0].handedness == "right"
    assert GivenBoxes([]).detect(IMAGE) == []
    assert isinstance(detector, HandDetector) and not detector.refine


@pytest.mark.parametrize(
    ("boxes", "handedness"),
    [([1, 2, 3], None), ([3, 2, 1, 4], None), ([1, 2, 3, 4], "both"), ([1, 2, 3, 4], ["left", "left"])],
)
def test_given_boxes_refuse_nonsense(boxes: list, handedness: object):
    with pytest.raises(InputError, match="must be"):
        GivenBoxes(boxes, handedness)


def test_whole_image_covers_the_pixels_to_their_edges():
    (found,) = WholeImage().detect(IMAGE)
    np.testing.assert_array_equal(found.box, [-0.5, -0.5, 79.5, 59.5])
    assert found.handedness is None and WholeImage.refine


def test_mediapipe_of_old_wheels_mirrors_sides(mediapipe: types.ModuleType):
    carry_models(mediapipe)
    detector = resolve_detector("mediapipe")
    assert detector.name == "mediapipe" and mediapipe.calls == []  # loaded at the first picture
    (found,) = detector.detect(IMAGE)
    assert found.handedness == "right" and found.score == 0.9
    # x 0.25 to 0.5 of 80 px, y 0.5 to 0.75 of 60 px, less half a pixel; 12 % of the longer side (20) around it.
    np.testing.assert_allclose(found.box, [17.1, 27.1, 41.9, 46.9])
    detector.detect(IMAGE)
    assert [kind for kind, _ in mediapipe.calls] == ["solution"]


def test_mediapipe_of_new_wheels_needs_its_task_file(
    mediapipe: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert available_detectors() == ["open", "open-fine", "open-fast", "whole-image"]
    with pytest.raises(DetectorUnavailableError, match=mediapipe_detector.TASK_FILE_VARIABLE):
        MediaPipeDetector()
    with pytest.raises(DetectorUnavailableError, match="does not exist"):
        MediaPipeDetector(tmp_path / "absent.task")
    task = tmp_path / mediapipe_detector.TASK_FILE_NAME
    task.touch()
    monkeypatch.setenv(mediapipe_detector.TASK_FILE_VARIABLE, str(tmp_path))
    assert available_detectors() == ["open", "open-fine", "open-fast", "mediapipe", "whole-image"]
    (found,) = resolve_detector("mediapipe").detect(IMAGE)
    assert found.handedness == "right"
    ((kind, options),) = mediapipe.calls
    assert kind == "task" and options.base_options.model_asset_path == str(task)


def test_models_in_the_wheel_go_before_the_environment(
    mediapipe: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    carry_models(mediapipe)
    task = tmp_path / "other.task"
    task.touch()
    monkeypatch.setenv(mediapipe_detector.TASK_FILE_VARIABLE, str(task))
    assert MediaPipeDetector().task_file is None
    assert MediaPipeDetector(task).task_file == task
    task.unlink()
    assert resolve_detector("mediapipe").name == "mediapipe"


@pytest.mark.parametrize("installed", [False, True])
def test_auto_takes_our_own_whatever_else_is_installed(installed: bool, request: pytest.FixtureRequest):
    request.getfixturevalue("mediapipe" if installed else "no_mediapipe")
    assert isinstance(resolve_detector("auto"), OpenHandDetector) and isinstance(resolve_detector("open"), HandDetector)


def test_where_our_own_is_not_auto_takes_mediapipe(mediapipe: types.ModuleType, monkeypatch: pytest.MonkeyPatch):
    carry_models(mediapipe)
    monkeypatch.setattr(OpenHandDetector, "is_here", lambda: False)
    assert resolve_detector("auto").name == "mediapipe" and available_detectors() == ["mediapipe", "whole-image"]


def test_without_any_detector_auto_takes_the_whole_picture(no_mediapipe: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(OpenHandDetector, "is_here", lambda: False)
    assert available_detectors() == ["whole-image"]
    with pytest.raises(DetectorUnavailableError, match="comes with the package"):
        resolve_detector("open")
    with pytest.warns(UserWarning, match="taken to show one hand"):
        found = resolve_detector("auto")
    assert isinstance(found, WholeImage) and "pip install handmim[detect]" in found.reason
    assert resolve_detector("whole-image").reason is None
    with pytest.raises(DetectorUnavailableError, match=r"pip install handmim\[detect\]"):
        resolve_detector("mediapipe")


@pytest.mark.parametrize("choice", [None, "none", "whole-image"])
def test_whole_image_by_its_names(choice: str | None):
    assert resolve_detector(choice).name == "whole-image"


def test_objects_are_taken_as_they_are_and_nonsense_is_refused():
    detector = GivenBoxes([0, 0, 5, 5])
    assert resolve_detector(detector) is detector
    for nonsense in ("yolo", 7, object()):
        with pytest.raises(InputError, match="detector must"):
            resolve_detector(nonsense)


def test_labels_that_name_hands():
    labels = ["person", "handbag", "hand", "left_hand", "Person hand", "Human Hand", "palms", "secondhand", "handle"]
    assert hand_labels(labels) == {"hand", "left_hand", "Person hand", "Human Hand", "palms"}
    assert hand_labels(["LABEL_0"]) == {"LABEL_0"}
    assert detection._side_of_label("left_hand") == "left"
    assert detection._side_of_label("RightHand") == "right"
    assert detection._side_of_label("hand") is None


@pytest.fixture(scope="module")
def tiny_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained object detector of three labels, one of them a hand."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    folder = tmp_path_factory.mktemp("yolos")
    config = YolosConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[32, 32],
        patch_size=16, num_detection_tokens=5, id2label={0: "cat", 1: "right hand", 2: "dog"},
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_hub_detector_runs_any_object_detector(tiny_detector: Path):
    detector = resolve_detector(tiny_detector)
    assert detector.name == str(tiny_detector) and detector.labels == {"right hand"}
    assert HubDetector(tiny_detector).to("meta")._pipeline.device.type == "meta"
    detector.min_score, detector.overlap = 0.0, 1.0
    for found in detector.detect(IMAGE):
        assert found.handedness == "right" and 0 <= found.score <= 1
        assert (found.box >= -0.5).all() and (found.box <= [79.5, 59.5, 79.5, 59.5]).all()


def test_hub_detector_keeps_the_best_of_overlapping_hands(tiny_detector: Path):
    detector = HubDetector(tiny_detector)

    def answer(label: str, score: float, *corners: int) -> dict:
        return {
            "label": label,
            "score": score,
            "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)),
        }

    detector._pipeline = lambda picture, threshold: [
        answer("right hand", 0.6, 10, 10, 30, 30),
        answer("cat", 0.9, 0, 0, 50, 50),
        answer("right hand", 0.8, 11, 10, 30, 31),
        answer("right hand", 0.7, 50, 10, 70, 30),
        answer("right hand", 0.7, 200, 10, 270, 30),
    ]
    found = detector.detect(IMAGE)
    assert [hand.score for hand in found] == [0.8, 0.7]
    np.testing.assert_array_equal(found[0].box, [10.5, 9.5, 29.5, 30.5])


def test_hub_detector_explains_what_it_cannot_use(tiny_detector: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no object detector could be loaded"):
        HubDetector(tmp_path / "empty")
    text = (tiny_detector / "config.json").read_text()
    (tiny_detector / "config.json").write_text(text.replace("right hand", "handbag"))
    with pytest.raises(InputError, match="knows no hands"):
        HubDetector(tiny_detector)
    (tiny_detector / "config.json").write_text(text)


def test_boxes():
    np.testing.assert_allclose(box_around(np.array([[0.0, 0.0], [10.0, 20.0]]), 0.1), [-2, -2, 12, 22])
    np.testing.assert_allclose(clip_box(np.array([-9.0, 5, 200, 9]), IMAGE), [-0.5, 5, 79.5, 9])
    assert clip_box(np.array([90.0, 5, 200, 9]), IMAGE) is None
    box = np.array([0.0, 0, 2, 2])
    assert overlap_of(box, box) == 1 and overlap_of(box, box + 5) == 0
    assert overlap_of(box, box + [1, 0, 1, 0]) == pytest.approx(1 / 3)
    assert Detection(box).score == 1
