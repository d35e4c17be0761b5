"""Image processor of the hand detector: photos -> squares -> tensors, and what the network says -> lists of hands."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.processing_utils import Unpack

from .configuration_hand_detector import LABELS, STRIDE
from .image_processing_handmim import HandMIMImageProcessor, HandMIMImageProcessorKwargs

LEFT, RIGHT, EITHER = range(len(LABELS))


class HandDetectorImageProcessorKwargs(HandMIMImageProcessorKwargs, total=False):
    """Options beside those of `HandMIMImageProcessor`.

    min_score (`float`, *optional*, defaults to 0.3):
        Least score of a hand, where the caller names none.
    overlap (`float`, *optional*, defaults to 0.5):
        Of two boxes that share more of their union than this, the less certain is dropped.
    max_hands (`int`, *optional*, defaults to 16):
        Most hands of a picture.
    side_certainty (`float`, *optional*, defaults to 0.8):
        From which probability of a side on a hand is called left or right.
    coarse_size (`int`, *optional*):
        At which side `OpenHandDetector` looks a second time, for large hands; None: it does not.
    """

    min_score: float | int | None
    overlap: float | int | None
    max_hands: int | None
    side_certainty: float | int | None
    coarse_size: int | None


class HandDetectorImageProcessor(HandMIMImageProcessor):
    """Fits whole pictures into a square: scaled to its side, centred, grey beyond them.

    Args:
        size: {"height": S, "width": S}, or S: side of the square, pixels.
        image_mean, image_std: of RGB in [0, 1]; 0.5 and 0.5 map pixels to [-1, 1].
        min_score: least score of a hand, where the caller names none.
        overlap: of two boxes that share more of their union than this, the less certain is dropped.
        max_hands: most hands of a picture.
        side_certainty: from which probability of a side on a hand is called left or right.
        coarse_size: at which side `OpenHandDetector` looks a second time, for large hands; a multiple of 32. None: it
            does not.
    """

    valid_kwargs = HandDetectorImageProcessorKwargs
    size = {"height": 192, "width": 192}
    box_scale = 1.0
    min_score = 0.3
    overlap = 0.5
    max_hands = 16
    side_certainty = 0.8
    coarse_size = None

    def __init__(self, **kwargs: Unpack[HandDetectorImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)

    def post_process_object_detection(
        self, outputs: Any, threshold: float | None = None, target_sizes: Any = None
    ) -> list[dict[str, Tensor]]:
        """Lists of hands, as transformers' object detectors give them.

        Args:
            outputs: `HandDetectorOutput` of B pictures.
            threshold: least score; None: `min_score`.
            target_sizes: (B, 2) height and width of the pictures, pixels; None leaves boxes in the square's pixels.
                The square is that which the network saw, whatever `size` says.

        Returns:
            For every picture `scores` (N,), the most certain first, `labels` (N,), 0 for a left hand, 1 for a right
            one, 2 where that is not certain, `right` (N,), the probability of a right hand, and `boxes` (N, 4) xyxy,
            pixels, cut at the picture's border; (0, 0) is the top-left pixel's centre.

        Raises:
            ValueError: Another number of sizes than of pictures.
        """
        scores, right = (outputs[name].float().sigmoid().cpu() for name in ("logits", "side_logits"))
        boxes = outputs["pred_boxes"].float().cpu()
        if target_sizes is not None and len(target_sizes) != len(scores):
            raise ValueError(
                f"target_sizes must be one for each of the {len(scores)} pictures, got {len(target_sizes)}"
            )
        threshold = self.min_score if threshold is None else threshold
        side = STRIDE * scores.shape[-1]
        peak = scores == F.max_pool2d(scores[:, None], 3, 1, 1)[:, 0]
        results = []
        for index in range(len(scores)):
            chosen = torch.nonzero((peak[index] & (scores[index] > threshold)).flatten()).squeeze(1)
            chosen = chosen[scores[index].flatten()[chosen].argsort(descending=True, stable=True)]
            found = {"scores": scores[index].flatten()[chosen], "right": right[index].flatten()[chosen]}
            found["boxes"] = boxes[index].flatten(0, 1)[chosen]
            if target_sizes is not None:
                found["boxes"] = _in_picture(found["boxes"], side, *map(int, target_sizes[index]))
            kept = self._kept(found["boxes"])
            found = {name: value[kept] for name, value in found.items()}
            certain = torch.where(found["right"] > 0.5, RIGHT, LEFT)
            sure = (found["right"] - 0.5).abs() >= self.side_certainty - 0.5
            results.append(found | {"labels": torch.where(sure, certain, EITHER)})
        return results

    def _kept(self, boxes: Tensor) -> list[int]:
        """Rows of boxes (N, 4), the best first, without repeated and empty ones."""
        area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
        kept: list[int] = []
        for row in torch.nonzero(area >= 1).squeeze(1).tolist():
            if len(kept) == self.max_hands:
                break
            shared = torch.minimum(boxes[row, 2:], boxes[kept, 2:]) - torch.maximum(boxes[row, :2], boxes[kept, :2])
            shared = shared.clamp(min=0).prod(1)
            if (shared <= self.overlap * (area[row] + area[kept] - shared)).all():
                kept.append(row)
        return kept


def _in_picture(boxes: Tensor, side: int, height: int, width: int) -> Tensor:
    """(N, 4) pixels of a square -> of the picture it was made of, cut at its border."""
    scale = max(height, width) / side
    middle = torch.tensor([width - 1, height - 1], dtype=torch.float32).repeat(2) / 2
    limit = torch.tensor([width, height], dtype=torch.float32).repeat(2) - 0.5
    boxes = (boxes - (side - 1) / 2) * scale + middle
    return torch.minimum(boxes.clamp(min=-0.5), limit)


__all__ = ["HandDetectorImageProcessor"]
