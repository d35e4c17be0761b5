"""Google's hand landmark models as a detector of hands, where mediapipe is installed. Importing this loads nothing."""

import os
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .errors import HandMIMError
from .hand_boxes import JOINT_MARGIN, Detection, Side, box_around, clip_box

Found = tuple[Any, Side, float]  # landmarks, side, score
TASK_FILE_VARIABLE = "HANDMIM_MEDIAPIPE_TASK"
TASK_FILE_NAME = "hand_landmarker.task"
TASK_FILE_PAGE = "https://ai.google.dev/edge/mediapipe/solutions/vision/hand_landmarker"


class DetectorUnavailableError(HandMIMError, ImportError):
    """A detector that needs a package or a model file which is not here; the message says what to install."""


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
        self.task_file = None if task_file is None and _carried_models() else find_task_file(task_file)
        self.max_hands, self.min_score, self.margin = max_hands, min_score, margin
        problem = mediapipe_problem(self.task_file)
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


def find_task_file(given: str | os.PathLike | None, strict: bool = True) -> Path | None:
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


def mediapipe_problem(task_file: Path | None) -> str | None:
    """Why MediaPipe cannot be used here, as one sentence; None if it can. Imports nothing."""
    if find_spec("mediapipe") is None:
        return "mediapipe is not installed; pip install handmim[detect]"
    if task_file is None and not _carried_models():
        return (
            f"this version of mediapipe carries no models; get {TASK_FILE_NAME} from {TASK_FILE_PAGE} and set "
            f"{TASK_FILE_VARIABLE} to its path"
        )
    return None


def why_no_mediapipe() -> str | None:
    """`mediapipe_problem` of this installation, with the task file that the environment names, if any."""
    return mediapipe_problem(find_task_file(None, strict=False))
