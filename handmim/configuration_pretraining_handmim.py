"""Configuration of HandMIM's pre-training and of the methods it is compared with."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Every method of tables 3 and 5 as a change to HandMIM's configuration.
METHODS: dict[str, dict[str, Any]] = {
    "handmim": {},
    "handmim_without_pose": {"pose_weight": 0.0},
    "handmim_without_patch": {"patch_weight": 0.0},
    "handmim_without_reconstruction": {"reconstruction_weight": 0.0},
    # Zhou et al., ICLR 2022: 8192 prototypes shared by class and patch tokens, no keypoints, no pixels
    "ibot": {"align_points": False, "reconstruction_weight": 0.0, "num_prototypes": 8192},
    # Spurr et al., ICCV 2021: no masks, no teacher; two layers as the SimCLR head it uses
    "peclr": {
        "class_loss": "contrastive",
        "patch_weight": 0.0,
        "reconstruction_weight": 0.0,
        "mask_student": False,
        "projection_layers": 2,
    },
    # pixels only: MAE's task in SimMIM's form (mask tokens pass through the encoder)
    "mae": {"pose_weight": 0.0, "patch_weight": 0.0},
}


@strict
class HandMIMPreTrainingConfig(PreTrainedConfig):
    """How a [`HandMIMForPreTraining`] learns; `HandMIMConfig.pretraining_config` holds one.

    The defaults are HandMIM's (Liu et al. 2023, sections 2.2 to 2.4 and 3.1). Where the paper is silent the value is
    iBOT's (Zhou et al., ICLR 2022, ViT-S/16 and ViT-B/16), on whose framework the paper builds, unless said.

    How equations 4 and 6 are read. The shared MLP takes class and patch tokens to `projection_size` numbers, and these
    are the latent space: section 1 stresses that token recovery happens in the same space as the alignment, and no
    prototypes are named. The class token's 256 numbers are 128 points (x, y) in the view's normalised coordinates,
    [-1, 1] from edge to edge. Equation 4 takes them to the original image. Equation 6 compares the aligned points as
    two distributions: one softmax over all 256 coordinates. A softmax over the 128 x, and another over the 128 y,
    would not do: it does not change when all points move by (a, b), and the offset would be undone for nothing. With
    the joint softmax the teacher's centre is the mean of aligned points, one for class tokens; patch tokens are not
    points and have a centre of their own.

    Args:
        pose_weight: Weight of the class tokens' loss, L_pose (equations 6 and 10).
        patch_weight: Weight of L_patch (equation 7). A weight of 0 builds and computes nothing for its loss; without
            pose and patch distillation there is no teacher at all.
        reconstruction_weight: Weight of L_recon (equation 9), which is a mean absolute difference of pixels in [-1, 1].
        class_loss: "distillation" is equation 6. "contrastive" is PeCLR's NT-Xent between the two views, without a
            teacher, and so without L_patch.
        align_points: Whether class tokens are pseudo points that equation 4 aligns (section 2.2).
        mask_student: Whether the student sees masked images (equation 5).
        projection_layers: Linear layers of the shared MLP, with GELU between them (iBOT: 3).
        projection_hidden_size: Width between them (iBOT: 2048).
        projection_size: Width of the latent space (section 3.1: 128 points of 2 coordinates).
        num_prototypes: 0: the latent space itself is what softmax sees. Otherwise it is normalised and compared with
            so many unit vectors (iBOT: 8192, with the last layer's norm fixed).
        student_temperature: Divides the student's outputs (iBOT: 0.1).
        teacher_temperature: Divides the teacher's class outputs after the warm-up (iBOT: 0.07).
        patch_teacher_temperature: The same for patches (iBOT: 0.07).
        warmup_teacher_temperature: Both at the start (iBOT: 0.04).
        temperature_warmup_epochs: Length of the linear warm-up (iBOT: 30).
        center_momentum: Momentum of the running mean that is subtracted from the teacher's outputs (iBOT: 0.9). The
            patches' mean is over the masked ones, as in DINOv2: masks know nothing of the image, so it estimates the
            same mean as iBOT's over all patches, and the teacher's other patches need no projection.
        teacher_momentum: Momentum of the teacher's weights at the start of training, raised to 1 along a cosine
            (iBOT: 0.996).
        contrastive_temperature: Of NT-Xent (PeCLR: 0.5).
        decoder_channels: Width of each fusion in the pixel decoder, coarse to fine (equation 8; the paper gives none):
            halved while the resolution doubles. GELU follows each transposed convolution but the last, without which
            the decoder would be a single linear map.
    """

    model_type = "handmim_pretraining"

    pose_weight: float | int = 1.0
    patch_weight: float | int = 1.0
    reconstruction_weight: float | int = 1.0
    class_loss: Literal["distillation", "contrastive"] = "distillation"
    align_points: bool = True
    mask_student: bool = True
    projection_layers: int = 3
    projection_hidden_size: int = 2048
    projection_size: int = 256
    num_prototypes: int = 0
    student_temperature: float | int = 0.1
    teacher_temperature: float | int = 0.07
    patch_teacher_temperature: float | int = 0.07
    warmup_teacher_temperature: float | int = 0.04
    temperature_warmup_epochs: float | int = 30
    center_momentum: float | int = 0.9
    teacher_momentum: float | int = 0.996
    contrastive_temperature: float | int = 0.5
    decoder_channels: list[int] | tuple[int, ...] = (256, 128, 64, 32)

    @classmethod
    def from_method(cls, method: str, **overrides: Any) -> "HandMIMPreTrainingConfig":
        """Builds the configuration of a row of table 3 or 5.

        Args:
            method: "handmim", "handmim_without_pose", "handmim_without_patch", "handmim_without_reconstruction",
                "ibot", "peclr" or "mae".
            overrides: Any field.

        Raises:
            ValueError: If `method` is unknown.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {sorted(METHODS)}, got {method!r}")
        return cls(**(METHODS[method] | overrides))

    def to_dict(self) -> dict[str, Any]:
        """The fields of this class alone: those every configuration has would say nothing here."""
        known = {*type(self).__annotations__, "transformers_version"}  # the outer configuration removes the latter
        return {name: value for name, value in super().to_dict().items() if name in known}

    @property
    def uses_teacher(self) -> bool:
        """Whether any loss distils from a teacher."""
        return self.distils_class or self.patch_weight > 0

    @property
    def distils_class(self) -> bool:
        """Whether class tokens learn from a teacher."""
        return self.pose_weight > 0 and self.class_loss == "distillation"

    @property
    def uses_projection(self) -> bool:
        """Whether any loss compares projected tokens."""
        return self.pose_weight > 0 or self.patch_weight > 0

    @property
    def output_size(self) -> int:
        """Width of what softmax sees."""
        return self.num_prototypes or self.projection_size

    def validate_weights(self) -> None:
        """Checks that there is something to learn, and from what."""
        weights = (self.pose_weight, self.patch_weight, self.reconstruction_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):  # NaN fails every comparison
            raise ValueError(
                "pose_weight, patch_weight and reconstruction_weight must be finite, not negative and not all 0, got "
                f"{weights}"
            )
        if not self.mask_student and (self.patch_weight or self.reconstruction_weight):
            raise ValueError(
                "mask_student must be True with patch_weight or reconstruction_weight, whose losses are on masked "
                f"patches, got patch_weight={self.patch_weight}, reconstruction_weight={self.reconstruction_weight}"
            )

    def validate_projection(self) -> None:
        """Checks the shared MLP, what is done with its output, and the widths of the pixel decoder."""
        for name, least in (
            ("projection_layers", 1),
            ("projection_hidden_size", 1),
            ("projection_size", 1),
            ("num_prototypes", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not all(width >= 1 for width in self.decoder_channels):
            raise ValueError(f"decoder_channels must be at least 1 each, got {tuple(self.decoder_channels)}")
        if self.align_points and self.projection_size % 2:
            raise ValueError(f"projection_size must be even (x and y of each point), got {self.projection_size}")
        if self.align_points and self.num_prototypes:
            raise ValueError(
                f"num_prototypes must be 0 with align_points: prototypes are no points, got {self.num_prototypes}"
            )
        if self.class_loss == "contrastive" and self.num_prototypes:
            raise ValueError(f"num_prototypes must be 0 with class_loss='contrastive', got {self.num_prototypes}")
        if self.class_loss == "contrastive" and self.pose_weight and self.patch_weight:
            raise ValueError(
                "patch_weight must be 0 with class_loss='contrastive', which knows no teacher for patches to learn "
                f"from, got {self.patch_weight}"
            )

    def validate_schedules(self) -> None:
        """Checks temperatures and momenta."""
        for name in (
            "student_temperature",
            "teacher_temperature",
            "patch_teacher_temperature",
            "warmup_teacher_temperature",
            "contrastive_temperature",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.temperature_warmup_epochs < math.inf:
            raise ValueError(
                f"temperature_warmup_epochs must be finite and not negative, got {self.temperature_warmup_epochs}"
            )
        for name in ("center_momentum", "teacher_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


__all__ = ["HandMIMPreTrainingConfig"]
