"""The hand detector: a photo in, boxes and sides of its hands out; one small convolutional network.

What its numbers are and where they are from stands in `configuration_hand_detector`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_hand_detector import HandDetectorConfig
from .hand_pretrained import HandPreTrainedModel
from .layers_pyramid import ConvNorm, EfficientNetPyramid
from .losses_detection import box_loss, cell_centres, centre_loss, detection_targets, side_loss

# Logarithms of distances beyond this are no hand's, and would overflow in half precision.
MAX_LOG_DISTANCE = 4.0
# Of EfficientNet-Lite0's stages those whose maps are brought together, of strides 8, 16 and 32.
MAP_STAGES = (3, 5, 6)


@dataclass
class HandDetectorOutput(ModelOutput):
    """What every cell of the grid says; h = w = image_size / 8.

    Attributes:
        loss: scalar, the weighted sum of `losses`; only with labels.
        losses: {"centre", "box", "side"}, unweighted; only with labels.
        logits: (B, h, w), that a hand is centred there.
        pred_boxes: (B, h, w, 4) xyxy, pixels of the input, (0, 0) at the top-left pixel's centre.
        side_logits: (B, h, w), that it is a right hand.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    side_logits: Tensor | None = None


class CellOutput(nn.Conv2d):
    """The last, linear layer of a head; what it says starts near `start`.

    Args:
        width: Channels that come in.
        start: A number for each channel that goes out.
    """

    def __init__(self, width: int, start: tuple[float, ...]) -> None:
        super().__init__(width, len(start), 1)
        self.start = start


def cell_head(width: int, start: tuple[float, ...]) -> nn.Sequential:
    """What a cell says: a 3x3 convolution and a linear map of the result."""
    return nn.Sequential(ConvNorm(width, width), CellOutput(width, start))


class HandDetectorForObjectDetection(HandPreTrainedModel):
    """Finds hands: a square picture in, a score, a box and a side for every cell of a grid out.

    `HandDetectorImageProcessor` fits photos into the square and makes a list of hands of what comes out.

    Args:
        config: Sizes and loss weights.
    """

    config_class = HandDetectorConfig
    base_model_prefix = "detector"

    def __init__(self, config: HandDetectorConfig) -> None:
        super().__init__(config)
        neck = config.neck_width
        self.backbone = EfficientNetPyramid(config.num_channels, neck, MAP_STAGES)
        prior = math.log(config.score_prior / (1 - config.score_prior))
        self.hands = cell_head(neck, (prior, 0.0, 0.0, 0.0, 0.0))  # centre, log distances to the four sides
        self.side = cell_head(neck, (0.0,))
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # On layers that hold weights themselves: of others transformers asks nothing.
        if isinstance(module, CellOutput):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.copy_(module.bias, torch.tensor(module.start))
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> HandDetectorOutput:
        """Find hands.

        Args:
            pixel_values: (B, 3, S, S) in [-1, 1], S a multiple of 32.
            labels: boxes (B, N, 4), right (B, N) and counted (B, N), as in `losses_detection`.
            kwargs: Nothing; what transformers' Trainer adds is passed over.
        """
        side = pixel_values.shape[-1]
        if pixel_values.shape[1:] != (self.config.num_channels, side, side) or side % 32:
            raise ValueError(
                f"pixel_values must be (B, {self.config.num_channels}, S, S) with S a multiple of 32, "
                f"got {tuple(pixel_values.shape)}"
            )
        calls = {"call": self.compute_again} if self.gradient_checkpointing and self.training else {}
        x = self.backbone(pixel_values.to(self.dtype), **calls)
        found, side_logits = self.hands(x), self.side(x).squeeze(1)
        logits, boxes = found[:, 0], self._boxes(found[:, 1:])
        loss = losses = None
        if labels is not None:
            losses = self._losses(logits, boxes, side_logits, labels)
            loss = sum(self.config.loss_weights[name] * value for name, value in losses.items())
        return HandDetectorOutput(loss=loss, losses=losses, logits=logits, pred_boxes=boxes, side_logits=side_logits)

    def _boxes(self, log_distances: Tensor) -> Tensor:
        """(B, 4, h, w) logarithms of left, up, right, down over half the unit -> (B, h, w, 4) xyxy pixels, float32."""
        unit = self.config.box_unit / 2
        left, up, right, down = (log_distances.float().clamp(max=MAX_LOG_DISTANCE).exp() * unit).unbind(1)
        x, y = cell_centres(log_distances.shape[-1], self.config.stride, log_distances.device).unbind(-1)
        return torch.stack([x - left, y - up, x + right, y + down], -1)

    def _losses(
        self, logits: Tensor, boxes: Tensor, side_logits: Tensor, labels: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        cells = logits.shape[-1]
        target = detection_targets(labels["boxes"], labels["right"], labels["counted"], cells, self.config.stride)
        return {
            "centre": centre_loss(logits, target.centre, target.care),
            "box": box_loss(boxes, target.boxes, target.weight),
            "side": side_loss(side_logits, target.right, target.weight),
        }


__all__ = ["HandDetectorForObjectDetection", "HandDetectorOutput"]
