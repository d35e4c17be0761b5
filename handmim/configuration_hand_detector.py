"""Configuration of the hand detector: every architectural number, with its source or its reason."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_format import FORMAT_VERSION, check_format_version, overridden, validate_format_version

# What a detection is called; the third where the network cannot tell.
LABELS = ("left hand", "right hand", "hand")
STRIDE = 8  # pixels of the input a cell
DEFAULT_LOSS_WEIGHTS: dict[str, float] = {"centre": 1.0, "box": 5.0, "side": 0.5}


@strict
class HandDetectorConfig(PreTrainedConfig):
    """Configuration of [`HandDetectorForObjectDetection`].

    EfficientNet-Lite0 up to stride 32 (`efficientnet`; it can start from what it learned on ImageNet), with a feature
    pyramid (Lin et al., CVPR 2017) whose finest map says for each cell whether a hand is centred there (CenterNet: Zhou
    et al., "Objects as Points", arXiv 1904.07850), how far its box reaches (FCOS: Tian et al., ICCV 2019) and which
    hand it is. Sizes are ours: two CPU cores should see many pictures a second.

    Args:
        format_version: Of config.json; a newer one than this package knows is refused (`config_format`).
        image_size: Side of the square input in pixels, a multiple of 32: the longer side of a photo.
        num_channels: Channels of the input, RGB.
        neck_width: Channels of the pyramid.
        box_unit: A box side that the network predicts as 0, in pixels of the input (between the smallest and the
            largest hand: distances are predicted as logarithms).
        score_prior: What every cell's score is at first (RetinaNet, Lin et al., ICCV 2017: 0.01; a share of positive
            cells nearer to ours is 0.005).
        initializer_range: Standard deviation of the heads' last weights.
        loss_weights: Weight of each term: `centre` (focal), `box` (1 - GIoU; TTFNet, Liu et al., AAAI 2020: 5), `side`
            (cross-entropy; ours: a hand's side is harder to see than the hand and must not drown it).
    """

    model_type = "hand_detector"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["losses"]

    format_version: int = FORMAT_VERSION
    image_size: int = 192
    num_channels: int = 3
    neck_width: int = 64
    box_unit: float | int = 24.0
    score_prior: float | int = 0.005
    initializer_range: float | int = 0.01
    loss_weights: dict[str, float | int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.loss_weights = DEFAULT_LOSS_WEIGHTS | (self.loss_weights or {})
        if self.id2label is None:  # also what stands in a config.json of transformers' own making
            self.id2label = dict(enumerate(LABELS))
        self.label2id = {name: int(number) for number, name in self.id2label.items()}
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "HandDetectorConfig":
        """As of every configuration; a newer format is told before any field is checked.

        Raises:
            ModelError: The format is newer than this package.
        """
        check_format_version(config_dict, kwargs.get("name_or_path"))
        config_dict, kwargs = overridden(cls, config_dict, kwargs)
        return super().from_dict(config_dict, **kwargs)

    @property
    def stride(self) -> int:
        """Pixels of the input a cell."""
        return STRIDE

    def validate_format(self) -> None:
        """Checks the version."""
        validate_format_version(self.format_version)

    def validate_sizes(self) -> None:
        """Checks that the numbers fit together."""
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {self.image_size}")
        if self.neck_width < 1:
            raise ValueError(f"neck_width must be at least 1, got {self.neck_width}")
        if not 0 < self.score_prior < 1 or self.box_unit <= 0:
            raise ValueError(
                f"score_prior must be in (0, 1) and box_unit above 0, got {self.score_prior}, {self.box_unit}"
            )

    def validate_loss_weights(self) -> None:
        """Checks that no loss weight is misspelt or negative."""
        unknown = set(self.loss_weights) - set(DEFAULT_LOSS_WEIGHTS)
        if unknown:
            raise ValueError(f"loss_weights knows {sorted(DEFAULT_LOSS_WEIGHTS)}, got {sorted(unknown)}")
        if any(weight < 0 for weight in self.loss_weights.values()):
            raise ValueError(f"loss_weights must not be negative, got {self.loss_weights}")


__all__ = ["HandDetectorConfig"]
