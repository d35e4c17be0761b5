"""The package's own hand detector, and others of its kind. Nothing heavy is imported before one is loaded."""

import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .errors import InputError
from .hand_boxes import Detection, Side, clip_box, without_duplicates

EMBEDDED_DETECTOR = Path(__file__).parent / "assets" / "hand-detector-tiny-open"
# How much a mesh network's log odds that it sees a hand count beside the detector's own; and from which share of its
# least score on the detector names candidates. Chosen on rendered scenes (tests/benchmarks/README.md).
MESH_WEIGHT, CANDIDATE_SHARE = 0.15, 2 / 3
# By the longer side of a hand's box over the picture's: from where on hands are looked for at the coarse side, too, and
# up to where at the fine one.
LARGE, SMALL = 0.3, 0.15
FINE = 2  # the fine side over the checkpoint's own; what it and another one find is in the card
FineLook = Literal["if-small", "always", "never"]
_NAME_ENDINGS = {"if-small": "", "always": "-fine", "never": "-fast"}
SIDES: tuple[Side | None, ...] = ("left", "right", None)  # by label, see `image_processing_hand_detector`


class OpenHandDetector:
    """`HandDetectorForObjectDetection`: finds all hands of a picture at once, and says which hand each is.

    Args:
        source: folder or Hub id of the checkpoint; by default the one in the package.
        min_score: least score of a hand; None: what the checkpoint says.
        fine: when pictures larger than the checkpoint's own side are looked at once more, at twice that side, for small
            hands: "if-small", where the first look shows something small that may be a hand; "always"; or "never".
        device: where the network runs.

    The checkpoint is read at the first picture, unless `load` is called before.

    Raises:
        InputError: another `fine`.
        ModelError: by whatever reads it: there is no such checkpoint, it cannot be reached, or it is damaged.
    """

    refine = False
    # How often a mesh network refines its boxes: a third of them overlap the hand's own by less than three quarters.
    refinements = 1

    def __init__(
        self,
        source: str | os.PathLike = EMBEDDED_DETECTOR,
        min_score: float | None = None,
        fine: FineLook = "if-small",
        device: Any = "cpu",
    ) -> None:
        if fine not in _NAME_ENDINGS:
            raise InputError(f"fine must be one of {', '.join(get_args(FineLook))}, got {fine!r}")
        self.source, self.min_score, self.fine, self.device = os.fspath(source), min_score, fine, device
        self.name = ("open" if Path(source) == EMBEDDED_DETECTOR else self.source) + _NAME_ENDINGS[fine]

    @staticmethod
    def is_here() -> bool:
        """Whether this installation has the checkpoint: a Hub repository that carries the code has not."""
        return (EMBEDDED_DETECTOR / "model.safetensors").is_file()

    def load(self) -> "OpenHandDetector":
        """Itself, with the checkpoint read."""
        _ = self._network
        return self

    def to(self, device: Any) -> "OpenHandDetector":
        """Itself, with its network on a device."""
        self.device = device
        if "_network" in self.__dict__:
            self._network[0].to(device)
        return self

    def detect(self, image: np.ndarray) -> list[Detection]:
        """See `detection.HandDetector.detect`."""
        return [hand for hand in self.candidates(image) if hand.score >= self._least_score]

    def candidates(self, image: np.ndarray) -> list[Detection]:
        """The same, and what is a little less likely a hand; `accepts` tells which are hands.

        A hand that fills a large picture is more than the network's cells see, so that those are taken from a coarse
        look. A small one is too few pixels; it is looked for at a finer side, if the picture has more pixels at all.
        """
        _, processor = self._network
        unit = max(image.shape[:2])
        found = self._look(image, processor.size["height"])
        if processor.coarse_size is not None:
            found += _of_size(self._look(image, processor.coarse_size), LARGE * unit, unit)
        fine_side = min(FINE * processor.size["height"], 32 * math.ceil(unit / 32))
        if fine_side > processor.size["height"] and self._looks_closer(found, unit):
            found += _of_size(self._look(image, fine_side), 0, SMALL * unit)
        return without_duplicates(found, processor.overlap)[: processor.max_hands]

    def accepts(self, detection_score: float, hand_score: float) -> bool:
        """Whether a candidate is a hand, given what a mesh network says of its crop.

        Args:
            detection_score: of the candidate, in (0, 1).
            hand_score: of the mesh network: that the crop shows a hand of the side it is taken for, in [0, 1].
        """
        return _log_odds(detection_score) + MESH_WEIGHT * _log_odds(hand_score) >= _log_odds(self._least_score)

    @property
    def _least_score(self) -> float:
        return self._network[1].min_score if self.min_score is None else self.min_score

    def _looks_closer(self, found: list[Detection], unit: float) -> bool:
        """Whether small hands are worth a finer look: where there is one, there are others that are not seen yet."""
        return self.fine == "always" or (self.fine == "if-small" and bool(_of_size(found, 0, SMALL * unit)))

    def _look(self, image: np.ndarray, side: int) -> list[Detection]:
        """What the network takes for candidates in a picture that is `side` pixels large."""
        import torch

        model, processor = self._network
        processor = type(processor).from_dict(processor.to_dict() | {"size": {"height": side, "width": side}})
        with torch.inference_mode():
            outputs = model(processor(image, return_tensors="pt")["pixel_values"].to(self.device))
        least_score = CANDIDATE_SHARE * self._least_score
        (found,) = processor.post_process_object_detection(outputs, least_score, [image.shape[:2]])
        rows = zip(*(found[name].tolist() for name in ("boxes", "labels", "scores")), strict=True)
        detections = [(clip_box(np.array(box), image), SIDES[label], score) for box, label, score in rows]
        return [Detection(box, side, score) for box, side, score in detections if box is not None]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_network"}  # a worker reads it again

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        """Model and image processor."""
        from .acceleration import fold_norms
        from .hub_errors import checkpoint_errors
        from .image_processing_hand_detector import HandDetectorImageProcessor
        from .modeling_hand_detector import HandDetectorForObjectDetection

        with checkpoint_errors(self.source):
            model = HandDetectorForObjectDetection.from_pretrained(self.source, dtype="float32").eval()
            return fold_norms(model).to(self.device), HandDetectorImageProcessor.from_pretrained(self.source)


def is_open_detector(source: str | os.PathLike) -> bool:
    """Whether a folder or a repository on the Hub holds a checkpoint for `OpenHandDetector`; no if it cannot be had."""
    from transformers import PreTrainedConfig

    from .configuration_hand_detector import HandDetectorConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(source)
    except (OSError, TypeError):  # the second of older versions of transformers, where the file holds a list
        return False
    return isinstance(config, dict) and config.get("model_type") == HandDetectorConfig.model_type


def _of_size(found: list[Detection], least: float, most: float) -> list[Detection]:
    """Those of which the box's longer side is `least` to `most` pixels."""
    return [hand for hand in found if least <= (hand.box[2:] - hand.box[:2]).max() <= most]


def _log_odds(chance: float) -> float:
    chance = min(max(chance, 1e-6), 1 - 1e-6)
    return math.log(chance / (1 - chance))


__all__ = ["OpenHandDetector", "is_open_detector"]
