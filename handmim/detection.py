"""Where are the hands in a picture: boxes given, MediaPipe, any object detector of the Hub, or the whole picture.

Nothing heavy is imported before a detector looks at its first picture. Boxes are xyxy in pixels, where (0, 0) is the
centre of the top-left pixel: a picture W wide covers x from -0.5 to W - 0.5.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from .errors import HandMIMError, InputError

Side = Literal["left", "right"]
Found = tuple[Any, Side, float]  # landmarks, side, score
TASK_FILE_VARIABLE = "HANDMIM_MEDIAPIPE_TASK"
TASK_FILE_NAME = "hand_landmarker.task"
TASK_FILE_PAGE = "https://ai.google.dev/edge/mediapipe/solutions/vision/hand_landmarker"
# What a hand box has around the 21 joints, as a share of the longer side of theirs: flesh, and a little air.
JOINT_MARGIN = 0.12
_HAND_LABEL = re.compile(r"(?<![a-z])(?:(?:left|right|human|person)[ _-]?)?(?:hands?|palms?)(?![a-z])", re.IGNORECASE)
_SIDE_LABEL = re.compile(r"(?<![a-z])(left|right)", re.IGNORECASE)


class DetectorUnavailableError(HandMIMError, ImportError):
    """A detector that needs a package or a model file which is not here; the message says what to install."""


@dataclass(frozen=True, eq=False)
class Detection:
    """One hand found in a picture.

    Attributes:
        box: (4,) float64 xyxy, pixels.
        handedness: whose hand it is as the picture shows it, or None if the detector cannot tell.
        score: confidence in [0, 1].
    """

    box: np.ndarray
    handedness: Side | None = None
    score: float = 1.0


@runtime_checkable
class HandDetector(Protocol):
    """What finds hands.

    Attributes:
        name: what `resolve_detector` knows it by; for messages and reports.
        refine: whether its boxes only say where to start looking: then they are cut out as they are, without a margin,
            and the crop is refined. A detector without this attribute has found the hands.
    """

    name: str
    refine: bool

    def detect(self, image: np.ndarray) -> list[Detection]:
        """The hands in a picture, (H, W, 3) uint8 RGB in [0, 255], the most certain first."""
        ...


class GivenBoxes:
    """The same boxes for every picture, as the caller knows them.

    Args:
        boxes: (4,) or (N, 4) xyxy, pixels.
        handedness: "left", "right" or None, for all boxes or one for each.

    Raises:
        InputError: no boxes of four numbers with x0 < x1 and y0 < y1, or another number of sides.
    """

    name = "given"
    refine = False

    def __init__(self, boxes: Any, handedness: str | None | Sequence[str | None] = None) -> None:
        self.boxes = np.asarray(boxes, np.float64).reshape(-1, 4) if np.size(boxes) % 4 == 0 else np.zeros((0, 0))
        if self.boxes.shape[1] != 4 or not (self.boxes[:, :2] < self.boxes[:, 2:]).all():
            raise InputError(f"boxes must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {boxes!r}")
        one_for_all = handedness is None or isinstance(handedness, str)
        self.handedness = [handedness] * len(self.boxes) if one_for_all else list(handedness)
        if len(self.handedness) != len(self.boxes) or not set(self.handedness) <= {"left", "right", None}:
            raise InputError(f"handedness must be 'left', 'right' or None for each of the boxes, got {handedness!r}")

    def detect(self, image: np.ndarray) -> list[Detection]:
        """The boxes, whatever the picture."""
        return [Detection(box, side) for box, side in zip(self.boxes, self.handedness, strict=True)]


class WholeImage:
    """One hand somewhere in the picture: for pictures that show little else, and as the start of a refinement.

    Args:
        reason: why a better detector could not be had, one sentence; for messages.
    """

    name = "whole-image"
    refine = True

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason

    def detect(self, image: np.ndarray) -> list[Detection]:
        """The whole picture as one box of unknown side."""
        return [Detection(whole_box(image))]


class MediaPipeDetector:
    """Google's palm detector and landmark model (Zhang et al. 2020, arXiv 2006.10214), if `mediapipe` is installed.

    Wheels up to 0.10.21 carry the models. Later ones need the file hand_landmarker.task, found by argument or by the
    environment variable HANDMIM_MEDIAPIPE_TASK. Boxes surround the 21 landmarks and a margin for the flesh.

    The old interface names sides as if the picture were mirrored (a selfie camera), the new one as they are: measured
    on 70 labelled photographs with 0.10.21 (both interfaces) and 1.2.2.

    Args:
        task_file: hand_landmarker.task; None: the models in the wheel, or else the environment variable.
        max_hands: most hands in a picture.
        min_score: least confidence of the palm detector.
        margin: added on each side, as a share of the longer side of the landmarks' box.

    Raises:
        DetectorUnavailableError: mediapipe or the task file is missing.
    """

    name = "mediapipe"
    refine = False

    def __init__(
        self,
        task_file: str | os.PathLike | None = None,
        max_hands: int = 8,
        min_score: float = 0.3,
        margin: float = JOINT_MARGIN,
    ) -> None:
        self.task_file = None if task_file is None and _carried_models() else _find_task_file(task_file)
        self.max_hands, self.min_score, self.margin = max_hands, min_score, margin
        problem = _mediapipe_problem(self.task_file)
        if problem:
            raise DetectorUnavailableError(problem)

    def detect(self, image: np.ndarray) -> list[Detection]:
        """See `HandDetector.detect`."""
        height, width = image.shape[:2]
        detections = []
        for landmarks, side, score in self._landmarks(np.ascontiguousarray(image)):
            # MediaPipe measures in shares of the picture, from its outer edge.
            points = np.array([[point.x * width, point.y * height] for point in landmarks]) - 0.5
            box = clip_box(box_around(points, self.margin), image)
            if box is not None:
                detections.append(Detection(box, side, float(score)))
        return sorted(detections, key=lambda detection: -detection.score)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_landmarks"}  # not to be pickled

    @cached_property
    def _landmarks(self) -> Callable[[np.ndarray], list[Found]]:
        """Picture -> for each hand 21 landmarks, its side, and the side's score."""
        return self._task() if self.task_file else self._solution()

    def _solution(self) -> Callable[[np.ndarray], list[Found]]:
        """The interface of the wheels that carry models."""
        # by name: transformers wants every module installed that a Hub repository's code imports by a statement
        solutions = import_module("mediapipe").solutions
        hands = solutions.hands.Hands(
            static_image_mode=True, max_num_hands=self.max_hands, min_detection_confidence=self.min_score
        )

        def landmarks(image: np.ndarray) -> list[Found]:
            result = hands.process(image)
            sides = [entry.classification[0] for entry in result.multi_handedness or ()]
            found = [entry.landmark for entry in result.multi_hand_landmarks or ()]
            other = {"Left": "right", "Right": "left"}
            return [(points, other[side.label], side.score) for points, side in zip(found, sides, strict=True)]

        return landmarks

    def _task(self) -> Callable[[np.ndarray], list[Found]]:
        """The interface of later wheels."""
        mediapipe, python = import_module("mediapipe"), import_module("mediapipe.tasks.python")
        vision = import_module("mediapipe.tasks.python.vision") if not hasattr(python, "vision") else python.vision
        options = vision.HandLandmarkerOptions(
            base_options=python.BaseOptions(model_asset_path=str(self.task_file)),
            num_hands=self.max_hands,
            min_hand_detection_confidence=self.min_score,
        )
        landmarker = vision.HandLandmarker.create_from_options(options)

        def landmarks(image: np.ndarray) -> list[Found]:
            result = landmarker.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image))
            sides = [entry[0] for entry in result.handedness]
            found = zip(result.hand_landmarks, sides, strict=True)
            return [(points, side.category_name.lower(), side.score) for points, side in found]

        return landmarks


class HubDetector:
    """Any object detector that transformers' "object-detection" pipeline runs and that knows hands.

    Kept are labels that name a hand ("hand", "left_hand", "person hand", "palm", not "handbag"); a detector of a single
    class is taken to be one of hands. A label that names a side gives the handedness.

    Args:
        model: Hub id or folder.
        min_score: least confidence.
        overlap: of two boxes that share more of their union than this, the less certain is dropped.
        pipeline_kwargs: `device`, `revision`, `token`, `trust_remote_code`, ... of `transformers.pipeline`.

    Raises:
        InputError: the model cannot be loaded or its labels name no hand.
    """

    refine = False

    def __init__(self, model: str | os.PathLike, min_score: float = 0.5, overlap: float = 0.7, **pipeline_kwargs: Any):
        from transformers import pipeline

        self.name = os.fspath(model)
        self.min_score, self.overlap = min_score, overlap
        try:
            self._pipeline = pipeline("object-detection", model=self.name, **pipeline_kwargs)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"no object detector could be loaded from {self.name!r} ({reason})") from error
        self.labels = hand_labels(self._pipeline.model.config.id2label.values())
        if not self.labels:
            known = ", ".join(map(str, list(self._pipeline.model.config.id2label.values())[:8]))
            raise InputError(f"detector {self.name!r} knows no hands (its labels: {known}, ...); name another")

    def detect(self, image: np.ndarray) -> list[Detection]:
        """See `HandDetector.detect`."""
        from PIL import Image

        detections = []
        for found in self._pipeline(Image.fromarray(image), threshold=self.min_score):
            corners = np.array([found["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")], np.float64) - 0.5
            box = clip_box(corners, image)
            if found["label"] in self.labels and box is not None:
                detections.append(Detection(box, _side_of_label(found["label"]), float(found["score"])))
        return _without_duplicates(detections, self.overlap)


def resolve_detector(choice: Any = "auto") -> HandDetector:
    """The detector a user asks for.

    Args:
        choice: "auto" (MediaPipe if it works here, otherwise the whole picture), "mediapipe", "none" or "whole-image"
            (None too), the Hub id or folder of an object detector, or an object with a `detect` method.

    Raises:
        DetectorUnavailableError: MediaPipe is asked for and not there.
        InputError: an unknown word, or an object that is no detector.
    """
    if choice is None or choice in ("none", "whole-image"):
        return WholeImage()
    if choice == "mediapipe":
        return MediaPipeDetector()
    if choice == "auto":
        problem = _mediapipe_problem(_find_task_file(None, strict=False))
        if not problem:
            return MediaPipeDetector()
        return WholeImage(reason=problem)
    if isinstance(choice, (str, os.PathLike)):
        name = os.fspath(choice)
        if "/" in name or Path(name).is_dir():
            return HubDetector(name)
        raise InputError(
            f"detector must be 'auto', 'mediapipe', 'whole-image' or the Hub id of an object detector, got {name!r}"
        )
    if callable(getattr(choice, "detect", None)):
        return choice
    raise InputError(f"a detector must have a method detect(image), got {type(choice).__name__}")


def available_detectors() -> list[str]:
    """Names that `resolve_detector` takes and that work in this installation, the one "auto" takes first."""
    problem = _mediapipe_problem(_find_task_file(None, strict=False))
    return [*([] if problem else ["mediapipe"]), "whole-image"]


# ---------------------------------------------------------------------------------------------------------------------
# Boxes


def box_around(points: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """(4,) xyxy that surrounds points (P, 2), widened on each side by `margin` times its longer side."""
    low, high = points.min(0), points.max(0)
    pad = margin * (high - low).max()
    return np.concatenate([low - pad, high + pad])


def clip_box(box: np.ndarray, image: np.ndarray) -> np.ndarray | None:
    """The part of a box (4,) inside a picture (H, W, 3); None if it is less than a pixel wide or high."""
    whole = whole_box(image)
    clipped = np.clip(box, np.tile(whole[:2], 2), np.tile(whole[2:], 2))
    return clipped if (clipped[2:] - clipped[:2]).min() >= 1 else None


def whole_box(image: np.ndarray) -> np.ndarray:
    """(4,) xyxy of a picture (H, W, 3)."""
    height, width = image.shape[:2]
    return np.array([-0.5, -0.5, width - 0.5, height - 0.5])


def overlap_of(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = float(np.prod(sides.clip(min=0)))
    union = float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / union if union > 0 else 0.0


def _without_duplicates(detections: list[Detection], overlap: float) -> list[Detection]:
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda one: -one.score):
        if all(overlap_of(detection.box, other.box) <= overlap for other in kept):
            kept.append(detection)
    return kept


# ---------------------------------------------------------------------------------------------------------------------
# Labels and installations


def hand_labels(labels: Iterable[Any]) -> set[str]:
    """Which of a detector's labels name a hand; all if there is only one, which often is just "LABEL_0"."""
    labels = [str(label) for label in labels]
    if len(labels) == 1:
        return set(labels)
    return {label for label in labels if _HAND_LABEL.search(label)}


def _side_of_label(label: str) -> Side | None:
    found = _SIDE_LABEL.search(label)
    return found.group(1).lower() if found else None  # type: ignore[return-value]


def _find_task_file(given: str | os.PathLike | None, strict: bool = True) -> Path | None:
    """The task file by argument or environment; None if neither names one.

    Raises:
        DetectorUnavailableError: a file is named that does not exist (only if `strict`).
    """
    named = given or os.environ.get(TASK_FILE_VARIABLE) or None
    if named is None:
        return None
    path = Path(named).expanduser()
    path = path / TASK_FILE_NAME if path.is_dir() else path
    if path.is_file():
        return path
    if strict:
        where = "" if given else f" (named by {TASK_FILE_VARIABLE})"
        raise DetectorUnavailableError(f"{path}{where} does not exist; get {TASK_FILE_NAME} from {TASK_FILE_PAGE}")
    return None


def _carried_models() -> bool:
    """Whether the installed mediapipe brings its hand models along. Imports nothing."""
    spec = find_spec("mediapipe")
    if spec is None or spec.origin is None:
        return False
    return (Path(spec.origin).parent / "modules" / "hand_landmark" / "hand_landmark_full.tflite").is_file()


def _mediapipe_problem(task_file: Path | None) -> str | None:
    """Why MediaPipe cannot be used here, as one sentence; None if it can. Imports nothing."""
    if find_spec("mediapipe") is None:
        return "mediapipe is not installed; pip install handmim[detect]"
    if task_file is None and not _carried_models():
        return (
            f"this version of mediapipe carries no models; get {TASK_FILE_NAME} from {TASK_FILE_PAGE} and set "
            f"{TASK_FILE_VARIABLE} to its path"
        )
    return None


__all__ = [
    "Detection",
    "DetectorUnavailableError",
    "GivenBoxes",
    "HandDetector",
    "HubDetector",
    "MediaPipeDetector",
    "WholeImage",
    "available_detectors",
    "resolve_detector",
]
