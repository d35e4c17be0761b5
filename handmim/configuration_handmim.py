"""Configuration of the HandMIM network: every architectural number, with its source or its reason."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_format import (
    FORMAT_VERSION,
    check_format_version,
    overridden,
    validate_fit,
    validate_format_version,
    validate_score,
)
from .configuration_pretraining_handmim import HandMIMPreTrainingConfig

# Backbone sizes are timm's vit_{tiny,small,base,large}_patch16 (the paper uses the last three). The head of "tiny" is
# ours: thin maps and no dropout, so that it trains from scratch on a CPU. The others keep PyMAF's published widths.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 192,
        "num_attention_heads": 3,
        "feature_channels": (64, 32, 32),
        "point_channels": (32, 16),
        "regressor_hidden_size": 256,
        "regressor_dropout": 0.0,
    },
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_attention_heads": 12},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "feature_layers": (6, 12, 18, 24),
    },
}

# Global orientation of the mean parameters, as a rotation matrix from the hand model's frame (fingers -x, back of the
# hand +y, thumb +z) to the camera's (x right, y down, z forward): fingers up, back of the hand towards the camera.
MEAN_GLOBAL_ORIENT: tuple[tuple[float, ...], ...] = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


@strict
class HandMIMConfig(PreTrainedConfig):
    """Configuration of [`HandMIMModel`] and the models built on it.

    The defaults are the paper's ViT-S with the PyMAF-style head of section 2.5. Where the paper (Liu et al., "HandMIM",
    2023) is silent the value is PyMAF's (Zhang et al., ICCV 2021) or iBOT's (Zhou et al., ICLR 2022) unless said.

    Args:
        format_version: Of config.json; a newer one than this package knows is refused (`config_format`).
        image_size: Side of the square input in pixels (section 3.2: 224). Other sizes run, with the position
            embedding resampled.
        num_channels: Channels of the input, RGB.
        patch_size: Side of a patch in pixels (section 2.4: 16; DINOv2 has 14). Pixel reconstruction needs a power of
            two.
        stem: "patch" is the paper's single strided projection. "residual" is a small residual network before the
            transformer (the hybrid of Dosovitskiy et al. 2021): from scratch it needs about half the samples, and no
            pre-trained ViT weights fit it. "efficientnet" is EfficientNet-Lite0 up to stride 16, which can start from
            what it learned on ImageNet (`efficientnet_weights`), and takes half the residual stem's time in training.
            Both only with `patch_size=16`.
        hidden_size: Width of a token.
        num_hidden_layers: Number of transformer blocks.
        num_attention_heads: Heads of each attention, 64 channels each in all four sizes.
        mlp_ratio: Width of a block's feed-forward network over `hidden_size` (ViT: 4).
        layer_norm_eps: Epsilon of layer normalisation (timm and iBOT: 1e-6).
        initializer_range: Standard deviation of the truncated normal for linear weights and embeddings (iBOT: 0.02).
        drop_path_rate: Stochastic depth, growing linearly with depth (the paper gives none: 0; iBOT fine-tunes with
            0.1).
        feature_layers: Blocks, counted from 1, whose tokens `output_features=True` returns (section 3.1: 3, 6, 9, 12,
            for whatever size; of ViT-L's 24 blocks the same shares: 6, 12, 18, 24).
        hand_model: The parametric hand this network's parameters belong to; another one cannot read them.
        num_feedback: Number of rectifiers after the first estimate (section 2.5: 3).
        feature_channels: Channels of the feature map each rectifier samples, one for each; every map has twice the
            resolution of the one before, starting from the patch tokens (PyMAF: 256 each). The transposed convolutions
            between them have kernel 2 (PyMAF: 4; the paper gives none): a sampled cell then depends on one token, and
            the maps need not be computed, which with kernel 4 cost as much as the whole backbone of ViT-S.
        point_channels: Per-point reduction of a sampled feature: hidden and final channels. PyMAF reduces 431 vertices
            to 5 channels (2,155 values); with 21 points, 64 then 32 keep a comparable 672.
        regressor_hidden_size: Width of the two hidden layers that predict a correction (PyMAF: 1024).
        regressor_dropout: Dropout after each of them (PyMAF: 0.5).
        mean_camera: First guess of (s, tx, ty): half-sides of the crop per decimetre, and the wrist in [-1, 1]. A hand
            box of 15 cm enlarged by 1.2 gives s = 1.1; fingers up puts the wrist low in the crop.
        orientation_frame: "camera" predicts the global orientation in the camera frame, as the paper. "ray" predicts
            it relative to the ray through the crop's centre and turns it by the known intrinsics: what a crop shows
            depends only on that (the ambiguity CLIFF, Li et al. 2022, describes). Ours.
        score_head: Adds one logit from the class token: the crop shows a right hand. Ours.
        score_hidden_size: Width of a hidden layer, with GELU, between the class token and that logit; 0: there is none.
            Ours; it tells left from right hands better (the card of handmim-tiny-open).
        heatmap_evidence: Adds 21 heat maps on feature map `heatmap_level`, supervised by 2D keypoints; their
            soft-argmax is fed to the first estimate and its distance to the projection to each rectifier. Ours (PyMAF
            has dense auxiliary supervision in the same place); off in the paper's configurations.
        heatmap_level: Index into `feature_channels` of the map the heat maps are read from; 1 is stride 4.
        heatmap_sigma: Standard deviation of the Gaussian targets in heat-map cells (1: SimpleBaseline uses 2 at
            64 cells; ours has 32 at 128 px).
        fit_steps: Where the network is not training, each hand is fitted to its own heat maps (`fitting.fit_hands`) in
            so many steps a round; 3 suffice. Ours; 0, no fit, is the paper.
        fit_turn: How far the fit may turn a joint from the regressed angle, one standard deviation in radians: small
            where the regressor is good, large where only the maps are.
        loss_weights: Weight of each loss term. Units bring the terms to one scale (about 0.03 to 0.1 each once
            trained): 3D distances are in decimetres, 2D ones in half-sides of the crop, rotations per matrix element;
            betas, in standard deviations, have 0.02 because single images hardly show them (SPIN: 0.001 of the
            pose weight). Beside the paper's terms, ours: "heatmap" and "heatmap_keypoints" (with `heatmap_evidence`),
            "score" (with `score_head`), "shape_prior" and "pose_prior" (off), and "mask" (off), for samples that have
            no other label.
        pretraining_config: How the network is, or was, pre-trained; a dict of [`HandMIMPreTrainingConfig`]'s fields
            will do. Only [`HandMIMForPreTraining`] uses it.
    """

    model_type = "handmim"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["losses", "iterations", "heatmaps", "indicators"]

    format_version: int = FORMAT_VERSION
    image_size: int = 224
    num_channels: int = 3
    patch_size: int = 16
    stem: Literal["patch", "residual", "efficientnet"] = "patch"
    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    mlp_ratio: float | int = 4
    layer_norm_eps: float | int = 1e-6
    initializer_range: float | int = 0.02
    drop_path_rate: float | int = 0.0
    feature_layers: list[int] | tuple[int, ...] = (3, 6, 9, 12)
    hand_model: Literal["open", "mano"] = "open"
    num_feedback: int = 3
    feature_channels: list[int] | tuple[int, ...] = (256, 256, 256)
    point_channels: list[int] | tuple[int, ...] = (64, 32)
    regressor_hidden_size: int = 1024
    regressor_dropout: float | int = 0.5
    mean_camera: list[float | int] | tuple[float | int, ...] = (1.1, 0.0, 0.6)
    orientation_frame: Literal["camera", "ray"] = "camera"
    score_head: bool = False
    score_hidden_size: int = 0
    heatmap_evidence: bool = False
    heatmap_level: int = 1
    heatmap_sigma: float | int = 1.0
    fit_steps: int = 0
    fit_turn: float | int = 0.2
    loss_weights: dict[str, float | int] | None = None
    pretraining_config: HandMIMPreTrainingConfig | dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        default = {
            "global_orient": 1.0,
            "hand_pose": 1.0,
            "betas": 0.02,
            "vertices": 1.0,
            "joints": 1.0,
            "keypoints_2d": 1.0,
            "heatmap": 0.1,
            "heatmap_keypoints": 1.0,
            "score": 0.1,
            "mask": 0.0,
            "shape_prior": 0.0,
            "pose_prior": 0.0,
        }
        self.loss_weights = default | (self.loss_weights or {})
        if isinstance(self.pretraining_config, dict):
            self.pretraining_config = HandMIMPreTrainingConfig(**self.pretraining_config)
        if not type(self).__module__.startswith("transformers_modules."):
            # it sends those without the package to the repository's pipeline; with it, it would ask them for trust
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "HandMIMConfig":
        """As of every configuration; a newer format is told before any field is checked.

        Raises:
            ModelError: The format is newer than this package.
        """
        check_format_version(config_dict, kwargs.get("name_or_path"))
        config_dict, kwargs = overridden(cls, config_dict, kwargs)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "HandMIMConfig":
        """Builds the configuration of one of the four sizes.

        Args:
            size: "tiny", "small", "base" or "large".
            overrides: Any other field.

        Raises:
            ValueError: If `size` is unknown.
        """
        if size not in SIZES:
            raise ValueError(f"size must be one of {sorted(SIZES)}, got {size!r}")
        return cls(**(SIZES[size] | overrides))

    def validate_format(self) -> None:
        """Checks the version."""
        validate_format_version(self.format_version)

    def validate_backbone(self) -> None:
        """Checks that the backbone's numbers fit together."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads ({self.num_attention_heads}), "
                f"got {self.hidden_size}"
            )
        if self.patch_size < 2:
            raise ValueError(f"patch_size must be at least 2, got {self.patch_size}")
        if self.stem != "patch" and self.patch_size != 16:
            raise ValueError(f"patch_size must be 16 with stem={self.stem!r}, got {self.patch_size}")
        if self.image_size < 1 or self.image_size % self.patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size ({self.patch_size}), got {self.image_size}")
        if any(not 1 <= layer <= self.num_hidden_layers for layer in self.feature_layers):
            raise ValueError(
                f"feature_layers count from 1 to num_hidden_layers ({self.num_hidden_layers}), "
                f"got {tuple(self.feature_layers)}"
            )

    def validate_head(self) -> None:
        """Checks that the mesh head's numbers fit together."""
        if len(self.feature_channels) != self.num_feedback:
            raise ValueError(
                f"feature_channels must give one width for each of the num_feedback ({self.num_feedback}) rectifiers, "
                f"got {tuple(self.feature_channels)}"
            )
        if len(self.point_channels) != 2:
            raise ValueError(f"point_channels must be (hidden, final), got {tuple(self.point_channels)}")
        if len(self.mean_camera) != 3 or self.mean_camera[0] <= 0:
            raise ValueError(f"mean_camera must be (s > 0, tx, ty), got {tuple(self.mean_camera)}")
        if not self.heatmap_sigma > 0:
            raise ValueError(f"heatmap_sigma must be above 0, got {self.heatmap_sigma}")
        if self.heatmap_evidence and not 0 <= self.heatmap_level < self.num_feedback:
            raise ValueError(
                f"heatmap_level must index one of the {self.num_feedback} feature maps, got {self.heatmap_level}"
            )

    def validate_score(self) -> None:
        """Checks that a hidden layer of the score has a score to give."""
        validate_score(self.score_head, self.score_hidden_size)

    def validate_fit(self) -> None:
        """Checks that there is something to fit to."""
        validate_fit(self.fit_steps, self.fit_turn, self.heatmap_evidence, "heatmap_evidence")

    def validate_loss_weights(self) -> None:
        """Checks that no loss weight is misspelt or negative."""
        known = {
            "global_orient", "hand_pose", "betas", "vertices", "joints", "keypoints_2d", "heatmap",
            "heatmap_keypoints", "score", "mask", "shape_prior", "pose_prior",
        }  # fmt: skip
        unknown = set(self.loss_weights or {}) - known
        if unknown:
            raise ValueError(f"loss_weights knows {sorted(known)}, got {sorted(unknown)}")
        if any(weight < 0 for weight in (self.loss_weights or {}).values()):
            raise ValueError(f"loss_weights must not be negative, got {self.loss_weights}")


__all__ = ["HandMIMConfig"]
