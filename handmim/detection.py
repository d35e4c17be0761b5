"""Where are the hands in a picture: boxes given, our own detector, MediaPipe, any of the Hub, or the whole picture.

Nothing heavy is imported before a detector looks at its first picture. Boxes are xyxy in pixels, where (0, 0) is the
centre of the top-left pixel: a picture W wide covers x from -0.5 to W - 0.5.
"""

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .errors import InputError
from .hand_boxes import Detection, Side, clip_box, whole_box, without_duplicates
from .mediapipe_detector import DetectorUnavailableError, MediaPipeDetector, why_no_mediapipe

_HAND_LABEL = re.compile(r"(?<![a-z])(?:(?:left|right|human|person)[ _-]?)?(?:hands?|palms?)(?![a-z])", re.IGNORECASE)
# Words for our own detector, and when it looks closer for small hands.
OPEN_DETECTORS = {
    "open": "if-small",
    "hand-detector-tiny-open": "if-small",
    "open-fine": "always",
    "open-fast": "never",
}
_SIDE_LABEL = re.compile(r"(?<![a-z])(left|right)", re.IGNORECASE)


@runtime_checkable
class HandDetector(Protocol):
    """What finds hands.

    Attributes:
        name: what `resolve_detector` knows it by; for messages and reports.
        refine: whether its boxes only say where to start looking: then they are cut out as they are, without a margin,
            and the crop is refined. A detector without this attribute has found the hands. One whose boxes are rough
            may in addition have `refinements`, how often crops are moved to the hands that they show.

    One that may be mistaken can let a mesh network judge: `candidates(image)` gives more than `detect` does, and
    `accepts(detection_score, hand_score)` says which of them are hands, see `open_detector`. One with a network can let
    a pipeline take that to its own device: `to(device)`.
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

    def __init__(
        self, model: str | os.PathLike, min_score: float = 0.5, overlap: float = 0.7, **pipeline_kwargs: Any
    ) -> None:
        from safetensors import SafetensorError
        from transformers import pipeline

        self.name, self.min_score, self.overlap = os.fspath(model), min_score, overlap
        try:
            self._pipeline = pipeline("object-detection", model=self.name, **pipeline_kwargs)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"no object detector could be loaded from {self.name!r} ({reason})") from error
        self.labels = hand_labels(self._pipeline.model.config.id2label.values())
        if not self.labels:
            known = ", ".join(map(str, list(self._pipeline.model.config.id2label.values())[:8]))
            raise InputError(f"detector {self.name!r} knows no hands (its labels: {known}, ...); name another")

    def to(self, device: Any) -> "HubDetector":
        """Itself, with its network on a device."""
        self._pipeline.model.to(device)
        self._pipeline.device = self._pipeline.model.device
        return self

    def detect(self, image: np.ndarray) -> list[Detection]:
        """See `HandDetector.detect`."""
        from PIL import Image

        detections = []
        for found in self._pipeline(Image.fromarray(image), threshold=self.min_score):
            corners = np.array([found["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")], np.float64) - 0.5
            box = clip_box(corners, image)
            if found["label"] in self.labels and box is not None:
                detections.append(Detection(box, _side_of_label(found["label"]), float(found["score"])))
        return without_duplicates(detections, self.overlap)


def resolve_detector(choice: Any = "auto") -> HandDetector:
    """The detector a user asks for.

    Args:
        choice: "auto" (our own; where it is not, in code that came from the Hub, MediaPipe if it works there),
            "open" (our own, also by its checkpoint's name; it looks closer where hands are small, which takes four
            times as long), "open-fine" (it always does), "open-fast" (it never does), "mediapipe", "none" or
            "whole-image" (None too), the Hub id or folder of a detector of our own kind or of any object detector, or
            an object with a `detect` method.

    Raises:
        DetectorUnavailableError: what is asked for is not there.
        InputError: an unknown word, or an object that is no detector.
        ModelError: a checkpoint of our own kind that is damaged.
    """
    if choice is None or choice in ("none", "whole-image"):
        return WholeImage()
    if choice == "mediapipe":
        return MediaPipeDetector()
    if choice == "auto":
        return open_detector() or _second_choice()
    if choice in OPEN_DETECTORS:
        detector = open_detector(fine=OPEN_DETECTORS[choice])
        if detector is None:
            raise DetectorUnavailableError("our own detector comes with the package: pip install handmim")
        return detector
    if isinstance(choice, (str, os.PathLike)):
        name = os.fspath(choice)
        if "/" in name or Path(name).is_dir():
            return open_detector(name) or HubDetector(name)
        raise InputError(
            "detector must be 'auto', 'open', 'open-fine', 'open-fast', 'mediapipe', 'whole-image', a folder or the "
            f"Hub id of an object detector, got {name!r}"
        )
    if callable(getattr(choice, "detect", None)):
        return choice
    raise InputError(f"a detector must have a method detect(image), got {type(choice).__name__}")


def _second_choice() -> HandDetector:
    """What "auto" takes where our own detector is not."""
    problem = why_no_mediapipe()
    if not problem:
        return MediaPipeDetector()
    warnings.warn(f"each picture is taken to show one hand ({problem}): pass boxes=, or detector=", stacklevel=2)
    return WholeImage(reason=problem)


def available_detectors() -> list[str]:
    """Names that `resolve_detector` takes and that work in this installation, the one "auto" takes first."""
    return [
        *(["open", "open-fine", "open-fast"] if open_detector() else []),
        *([] if why_no_mediapipe() else ["mediapipe"]),
        "whole-image",
    ]


def open_detector(source: str | None = None, fine: str = "if-small") -> HandDetector | None:
    """Our own detector; None where it is not: a Hub repository carries the code of hand meshes alone.

    Args:
        source: folder or Hub id of a checkpoint, loaded at once; None, too, if it is of another kind. By default the
            one in the package.
        fine: when that one looks closer for small hands: "if-small", "always" or "never".
    """
    if __name__.startswith("transformers_modules."):
        return None
    # by name, so that repositories need not carry it: transformers copies what is imported by a statement
    module = import_module(".open_detector", __package__)
    if source is not None:
        return module.OpenHandDetector(source).load() if module.is_open_detector(source) else None
    return module.OpenHandDetector(fine=fine) if module.OpenHandDetector.is_here() else None


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def hand_labels(labels: Iterable[Any]) -> set[str]:
    """Which of a detector's labels name a hand; all if there is only one, which often is just "LABEL_0"."""
    labels = [str(label) for label in labels]
    if len(labels) == 1:
        return set(labels)
    return {label for label in labels if _HAND_LABEL.search(label)}


def _side_of_label(label: str) -> Side | None:
    found = _SIDE_LABEL.search(label)
    return found.group(1).lower() if found else None  # type: ignore[return-value]


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
