"""The package's own hand detector, and others of its kind. Nothing heavy is imported before one is loaded."""

import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any

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
FINE_SIZE = 768  # of "open-fine"; what it and another side find is in the card
SIDES: tuple[Side | None, ...] = ("left", "right", None)  # by label, see `image_processing_hand_detector`


class OpenHandDetector:
    """`HandDetectorForObjectDetection`: finds all hands of a picture at once, and says which hand each is.

    Args:
        source: folder or Hub id of the checkpoint; by default the one in the package.
        min_score: least score of a hand; None: what the checkpoint says.
        fine_size: px, a multiple of 32: at which side pictures larger than the checkpoint's own side are looked
            at once more, for small hands; None: they are not.

    The checkpoint is read at the first picture, unless `load` is called before.

    Raises:
        InputError: another `fine_size`.
        ModelError: by whatever reads it: there is no such checkpoint, it cannot be reached, or it is damaged.
    """

    refine = False
    # How often a mesh network refines its boxes: a third of them overlap the hand's own by less than three quarters.
    refinements = 1

    def __init__(
        self,
        source: str | os.PathLike = EMBEDDED_DETECTOR,
        min_score: float | None = None,
        fine_size: int | None = None,
    ) -> None:
        self.source, self.min_score, self.fine_size = os.fspath(source), min_score, fine_size
        self.name = "open" if Path(source) == EMBEDDED_DETECTOR else self.source
        if fine_size is not None:
            if fine_size < 32 or fine_size % 32:
                raise InputError(f"fine_size must be a multiple of 32, got {fine_size}")
            self.name += "-fine" if fine_size == FINE_SIZE else f"-{fine_size}"

    @staticmethod
    def is_here() -> bool:
        """Whether this installation has the checkpoint: a Hub repository that carries the code has not."""
        return (EMBEDDED_DETECTOR / "model.safetensors").is_file()

    def load(self) -> "OpenHandDetector":
        """Itself, with the checkpoint read."""
        _ = self._network
        return self

    def detect(self, image: np.ndarray) -> list[Detection]:
        """See `detection.HandDetector.detect`."""
        return self._find(image, self._least_score)

    def candidates(self, image: np.ndarray) -> list[Detection]:
        """The same, and what is a little less likely a hand; `accepts` tells which are hands."""
        return self._find(image, CANDIDATE_SHARE * self._least_score)

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

    def _find(self, image: np.ndarray, least_score: float) -> list[Detection]:
        """Hands that the network sees in the picture at its own side, and at those of `_further_looks`."""
        _, processor = self._network
        found, longer_side = self._look(image, least_score, processor), max(image.shape[:2])
        for side, least, most in self._further_looks(longer_side):
            for hand in self._look(image, least_score, self._resized(side)):
                if least * longer_side <= (hand.box[2:] - hand.box[:2]).max() <= most * longer_side:
                    found.append(hand)
        return without_duplicates(found, processor.overlap)[: processor.max_hands]

    def _further_looks(self, longer_side: int) -> list[tuple[int, float, float]]:
        """Sides, and least and most of a hand's share of the picture's `longer_side` for it to be taken from there.

        A hand that fills a large picture is more than the network's cells see; a small one in a small picture is too
        few pixels, of which a picture has no more than its own.
        """
        _, processor = self._network
        looks = [] if processor.coarse_size is None else [(processor.coarse_size, LARGE, 1.0)]
        fine = min(self.fine_size or 0, 32 * math.ceil(longer_side / 32))
        return [*looks, (fine, 0.0, SMALL)] if fine > processor.size["height"] else looks

    def _look(self, image: np.ndarray, least_score: float, processor: Any) -> list[Detection]:
        """What the network says of a picture in the processor's size."""
        import torch

        model, _ = self._network
        with torch.inference_mode():
            outputs = model(processor(image, return_tensors="pt")["pixel_values"])
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
            return fold_norms(model), HandDetectorImageProcessor.from_pretrained(self.source)

    def _resized(self, side: int) -> Any:
        """The image processor, at another side."""
        _, processor = self._network
        return type(processor).from_dict(processor.to_dict() | {"size": {"height": side, "width": side}})


def is_open_detector(source: str | os.PathLike) -> bool:
    """Whether a folder or a repository on the Hub holds a checkpoint for `OpenHandDetector`; no if it cannot be had."""
    from transformers import PreTrainedConfig

    from .configuration_hand_detector import HandDetectorConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(source)
    except (OSError, TypeError):  # the second of older versions of transformers, where the file holds a list
        return False
    return isinstance(config, dict) and config.get("model_type") == HandDetectorConfig.model_type


def _log_odds(chance: float) -> float:
    chance = min(max(chance, 1e-6), 1 - 1e-6)
    return math.log(chance / (1 - chance))


__all__ = ["OpenHandDetector", "is_open_detector"]
