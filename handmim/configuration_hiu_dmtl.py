"""Configuration of the HIU-DMTL network: every architectural number, with its source or its reason."""

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

TASKS = ("heatmaps", "mask", "pof")

# Blocks of an encoder level for each number of stacks: 1, 2 and 4 stacks then cost about the same (tables 2 and 5);
# the 8 stacks of table 3 are 1.75 times the cost of 4.
ENCODER_DEPTHS = {1: 13, 2: 5, 4: 1, 8: 1}

# Pixels of the input for a cell of a stem's coarsest map.
STEM_STRIDES = {"convolutions": 4, "efficientnet": 16}

DEFAULT_LOSS_WEIGHTS: dict[str, float] = {
    "heatmaps": 1.0,
    "heatmap_keypoints": 0.0,
    "mask": 1.0,
    "pof": 1.0,
    "bones": 1.0,
    "keypoints_2d": 2.0,
    "silhouette": 0.5,
    "global_orient": 0.0,
    "hand_pose": 0.0,
    "betas": 0.0,
    "joints": 0.0,
    "vertices": 0.0,
    "focal": 0.1,
    "shape_prior": 0.01,
    "pose_prior": 0.01,
    "score": 0.1,
    "self_mask": 0.0,
    "self_keypoints": 0.0,
}


@strict
class HIUDMTLConfig(PreTrainedConfig):
    """Configuration of [`HIUDMTLModel`] and [`HIUDMTLForHandUnderstanding`].

    Zhang et al., "Hand Image Understanding via Deep Multi-Task Learning", ICCV 2021. Its supplement, which gives the
    sizes of the layers, is not public: where the paper is silent the value is that of stacked hourglass networks
    (Newell et al., ECCV 2016), which the paper follows for its cascade, of SKNet (Li et al., CVPR 2019), which it
    follows for the task attention, or of the HandMIM family, whichever is named.

    Args:
        format_version: Of config.json; a newer one than this package knows is refused (`config_format`).
        image_size: Side of the square input in pixels; maps have a quarter of it (section 3.1: two convolutions of
            stride 2). A multiple of 4 * 2 ** `encoder_levels`, and of 16 with the stem "efficientnet".
        num_channels: Channels of the input, RGB.
        stem: "convolutions" are the paper's two. "efficientnet" is EfficientNet-Lite0 up to stride 16, its maps of
            strides 4, 8 and 16 brought together at stride 4; it can start from what it learned on ImageNet
            (`efficientnet_weights`), or on hands with the other family. Ours.
        hidden_size: Channels of every map (hourglass: 256; with half of it four stacks cost one and a half times what a
            ViT-S does).
        num_stacks: Multi-task blocks (table 2: 1, 2, 4; table 3: 8).
        encoder_depth: Residual blocks at each resolution of an encoder. None: 13, 5, 1, 1 for 1, 2, 4, 8 stacks, so
            that 1, 2 and 4 stacks have similar cost (section 4.4).
        encoder_levels: Times an encoder halves its map (hourglass: 4; 3 bring 64 to 8 cells, a hand's extent).
        tasks: Which of "heatmaps", "mask" and "pof" the blocks learn (table 4).
        mesh: Whether there is a regressor head; without it no hand mesh is estimated (table 4).
        task_attention: Whether features of the tasks are fused by attention (section 3.1); False is table 5's baseline,
            concatenation and a 3x3 convolution.
        attention_size: Width of the bottleneck of the attention. None: `hidden_size` / 16, at least 32 (SKNet).
        num_keypoints: Heat maps: 21, the joints of the hand models (section 3.1 leaves their number K open).
        heatmap_sigma: Standard deviation of the Gaussian targets, in cells (hourglass: 1 at 64 cells).
        bone_radius: Half the width of a bone in the part orientation field, in cells (equation 2 says "x in bone" and
            no more: 1 is about a finger's half width).
        hand_model: The parametric hand this network's parameters belong to; another one cannot read them.
        regressor_evidence: Whether the regressor also reads what the maps say in numbers: soft-argmax and height of
            each heat map, and each bone's orientation field averaged over the bone. Ours; the paper's regressor reads
            the attended features only.
        regressor_channels: Channels of the two strided convolutions before the regressor's pooling.
        regressor_hidden_size: Width of the regressor's two hidden layers (HMR, HandMIM's head: 1024).
        regressor_dropout: Dropout after each of them (HMR: 0.5; the deep supervision of every stack regularises: 0).
        mean_camera: First guess of (s, tx, ty), as in the HandMIM family.
        mean_focal: First guess of the focal length, in sides of the crop, where the caller gives no camera.
        score_head: Adds one logit, from what the regressor reads of the last stack: the crop shows a right hand. Ours,
            as in the HandMIM family; needs `mesh`.
        score_hidden_size: Width of a hidden layer, with GELU, before that logit; 0: there is none.
        fit_steps: Where the network is not training, each hand is fitted to its own maps (`fitting.fit_hands`) in
            so many steps a round; 3 suffice. Ours; 0, no fit, is the paper.
        fit_turn: How far the fit may turn a joint from the regressed angle, one standard deviation in radians: small
            where the regressor is good, large where only the maps are.
        initializer_range: Standard deviation of the truncated normal of linear layers.
        loss_weights: Weight of each term ("loss weights are ignored" in the paper): ours, chosen so that the terms are
            of one scale. `heatmaps`, `mask`, `pof`: the backbone's; `heatmap_keypoints`: equation 1 of the heat maps
            against the labels, which the paper does not use (0; integral regression, Sun et al., ECCV 2018): what a map
            says far from its keypoint then no longer draws the mean away; `bones`, `keypoints_2d`, `silhouette`: the
            regressor's; `global_orient`, `hand_pose`, `betas`, `joints`, `vertices`: full labels where a data set has
            them, which the paper does not use (0); `focal`: where the camera is known; `shape_prior`, `pose_prior`:
            keep samples without 3D labels plausible; `self_mask`, `self_keypoints`: the two consistencies of
            self-supervision (section 3.3), for samples that lack a mask or keypoints; 0 leaves it off, 0.5 and 1 suit.
    """

    model_type = "hiu_dmtl"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["losses", "stacks"]

    format_version: int = FORMAT_VERSION
    image_size: int = 256
    num_channels: int = 3
    stem: Literal["convolutions", "efficientnet"] = "convolutions"
    hidden_size: int = 128
    num_stacks: int = 4
    encoder_depth: int | None = None
    encoder_levels: int = 3
    tasks: list[str] | tuple[str, ...] = TASKS
    mesh: bool = True
    task_attention: bool = True
    attention_size: int | None = None
    num_keypoints: int = 21
    heatmap_sigma: float | int = 1.0
    bone_radius: float | int = 1.0
    hand_model: Literal["open", "mano"] = "open"
    regressor_evidence: bool = False
    regressor_channels: list[int] | tuple[int, ...] = (128, 128)
    regressor_hidden_size: int = 512
    regressor_dropout: float | int = 0.0
    mean_camera: list[float | int] | tuple[float | int, ...] = (1.1, 0.0, 0.6)
    mean_focal: float | int = 2.0
    score_head: bool = False
    score_hidden_size: int = 0
    fit_steps: int = 0
    fit_turn: float | int = 0.5
    initializer_range: float | int = 0.02
    loss_weights: dict[str, float | int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.loss_weights = DEFAULT_LOSS_WEIGHTS | (self.loss_weights or {})
        if self.encoder_depth is None:
            self.encoder_depth = ENCODER_DEPTHS.get(self.num_stacks, 1)
        if self.attention_size is None:
            self.attention_size = max(32, self.hidden_size // 16)
        if not type(self).__module__.startswith("transformers_modules."):
            # it sends those without the package to the repository's pipeline; with it, it would ask them for trust
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "HIUDMTLConfig":
        """As of every configuration; a newer format is told before any field is checked.

        Raises:
            ModelError: The format is newer than this package.
        """
        check_format_version(config_dict, kwargs.get("name_or_path"))
        config_dict, kwargs = overridden(cls, config_dict, kwargs)
        return super().from_dict(config_dict, **kwargs)

    @property
    def stride(self) -> int:
        """What the side of a crop is a multiple of: pixels for a cell of the coarsest map."""
        return max(STEM_STRIDES[self.stem], 4 * 2**self.encoder_levels)

    def validate_format(self) -> None:
        """Checks the version."""
        validate_format_version(self.format_version)

    def validate_sizes(self) -> None:
        """Checks that the numbers fit together."""
        if self.image_size < 1 or self.image_size % self.stride:
            raise ValueError(
                f"image_size must be a multiple of {self.stride}, the stride of the coarsest map with encoder_levels="
                f"{self.encoder_levels} and stem={self.stem!r}, got {self.image_size}"
            )
        if self.num_stacks < 1 or self.encoder_depth < 1 or self.encoder_levels < 1:
            raise ValueError(
                "num_stacks, encoder_depth and encoder_levels must be at least 1, "
                f"got {self.num_stacks}, {self.encoder_depth}, {self.encoder_levels}"
            )
        if not self.heatmap_sigma > 0:
            raise ValueError(f"heatmap_sigma must be above 0, got {self.heatmap_sigma}")
        if self.num_keypoints != 21:
            raise ValueError(f"num_keypoints must be 21, the joints of the hand models, got {self.num_keypoints}")
        if len(self.regressor_channels) != 2:
            raise ValueError(f"regressor_channels must be two widths, got {tuple(self.regressor_channels)}")
        if len(self.mean_camera) != 3 or self.mean_camera[0] <= 0 or self.mean_focal <= 0:
            raise ValueError(
                f"mean_camera must be (s > 0, tx, ty) and mean_focal > 0, got {self.mean_camera}, {self.mean_focal}"
            )

    def validate_tasks(self) -> None:
        """Checks that the tasks are known and there is something to learn."""
        if len(set(self.tasks)) != len(self.tasks) or set(self.tasks) - set(TASKS):
            raise ValueError(f"tasks must be some of {TASKS}, each once, got {tuple(self.tasks)}")
        if not self.tasks and not self.mesh:
            raise ValueError("a network without tasks needs mesh=True")

    def validate_score(self) -> None:
        """Checks that a score has what it reads, and a hidden layer of it something to give."""
        if self.score_head and not self.mesh:
            raise ValueError("score_head needs mesh=True: it reads what the mesh regressor does")
        validate_score(self.score_head, self.score_hidden_size)

    def validate_fit(self) -> None:
        """Checks that there is something to fit, and to fit to."""
        there = self.mesh and "heatmaps" in self.tasks
        validate_fit(self.fit_steps, self.fit_turn, there, "mesh and the task heatmaps")

    def validate_loss_weights(self) -> None:
        """Checks that no loss weight is misspelt or negative."""
        unknown = set(self.loss_weights) - set(DEFAULT_LOSS_WEIGHTS)
        if unknown:
            raise ValueError(f"loss_weights knows {sorted(DEFAULT_LOSS_WEIGHTS)}, got {sorted(unknown)}")
        if any(weight < 0 for weight in self.loss_weights.values()):
            raise ValueError(f"loss_weights must not be negative, got {self.loss_weights}")


__all__ = ["HIUDMTLConfig"]
