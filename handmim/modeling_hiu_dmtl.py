"""HIU-DMTL: cascaded multi-task blocks and a shared regressor (Zhang et al., ICCV 2021, section 3)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_hiu_dmtl import HIUDMTLConfig
from .criterion_hiu_dmtl import HandUnderstandingLoss
from .fitting import fit_output
from .geometry import crop_cameras
from .hand_pretrained import HandPreTrainedModel, build_hand_model, score_layers
from .hand_state import MAX_LOG_SCALE, STATE_SIZE, decode_hand, mean_state
from .layers_hiu_dmtl import (
    STEMS,
    HandRegressor,
    MapHead,
    MultiTaskBlock,
    evidence_size,
    map_evidence,
    regressor_inputs,
    soft_argmax,
)
from .targets_hiu_dmtl import BONES


@dataclass
class HIUDMTLModelOutput(ModelOutput):
    """What the stacks see, one entry a stack, the last the best.

    Attributes:
        features: (B, C, S/4, S/4) attended features.
        heatmaps: (B, 21, S/4, S/4) heights, about 1 at a keypoint; absent without that task, as the next two.
        mask: (B, S/4, S/4) logits of "this cell is hand".
        pof: (B, 20, 3, S/4, S/4) part orientation fields: unit direction in the picture, z of the unit one in space.
    """

    features: tuple[Tensor, ...] | None = None
    heatmaps: tuple[Tensor, ...] | None = None
    mask: tuple[Tensor, ...] | None = None
    pof: tuple[Tensor, ...] | None = None


@dataclass
class HIUDMTLOutput(ModelOutput):
    """One right hand for each crop, by the last stack. Everything is float32.

    Attributes:
        loss: Weighted sum, with `labels`.
        losses: Each term, detached and unweighted, mean over the stacks, with `labels`.
        heatmaps: (B, 21, S/4, S/4), height about 1 at a keypoint, with that task.
        mask: (B, S/4, S/4) probability that a cell is hand, with that task.
        pof: (B, 20, 3, S/4, S/4) part orientation fields (equation 2), with that task.
        heatmap_keypoints: (B, 21, 2) crop pixels by equation 1, with heat maps.
        vertices, joints, keypoints_2d, global_orient, hand_pose, betas, camera, translation: As in
            `HandMIMMeshOutput`, with `config.mesh`.
        intrinsics: (B, 3, 3) of the crop, pixels: as given, or with the estimated focal length (equation 5).
        score_logits: (B,) logit that the crop shows a right hand, with `config.score_head`.
        stacks: With `return_all`, one dict a stack with the fields from `heatmaps` to `translation`, before any fit.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    heatmaps: Tensor | None = None
    mask: Tensor | None = None
    pof: Tensor | None = None
    heatmap_keypoints: Tensor | None = None
    vertices: Tensor | None = None
    joints: Tensor | None = None
    keypoints_2d: Tensor | None = None
    global_orient: Tensor | None = None
    hand_pose: Tensor | None = None
    betas: Tensor | None = None
    camera: Tensor | None = None
    translation: Tensor | None = None
    intrinsics: Tensor | None = None
    score_logits: Tensor | None = None
    stacks: tuple[dict[str, Tensor], ...] | None = None


class HIUDMTLPreTrainedModel(HandPreTrainedModel):
    """Initialisation, loading and flags shared by the HIU-DMTL models."""

    config_class = HIUDMTLConfig
    _no_split_modules = ["MultiTaskBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He et al. 2015 for convolutions, but for those that start near zero."""
        if isinstance(module, nn.Conv2d):
            if isinstance(module, MapHead):
                init.normal_(module.weight, std=0.001)
            else:
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class HIUDMTLModel(HIUDMTLPreTrainedModel):
    """The backbone: stem and cascaded multi-task blocks.

    Args:
        config: See [`HIUDMTLConfig`].
    """

    def __init__(self, config: HIUDMTLConfig) -> None:
        super().__init__(config)
        self.stem = STEMS[config.stem](config.num_channels, config.hidden_size)
        self.blocks = nn.ModuleList(MultiTaskBlock(config) for _ in range(config.num_stacks))
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """What makes features of pixels."""
        return self.stem

    @can_return_tuple
    def forward(self, pixel_values: Tensor, **kwargs: Any) -> HIUDMTLModelOutput:
        """Looks at crops.

        Args:
            pixel_values: (B, 3, S, S), normalised to [-1, 1].

        Raises:
            ValueError: If the side does not fit the strides of stem and encoder.
        """
        stride = self.config.stride
        if pixel_values.shape[-1] % stride or pixel_values.shape[-2] % stride:
            raise ValueError(
                f"pixel_values must have sides that are multiples of {stride}, "
                f"got {pixel_values.shape[-2]} x {pixel_values.shape[-1]}"
            )
        low = self.stem(pixel_values.to(self.dtype)).contiguous(memory_format=torch.channels_last)
        high = torch.zeros_like(low)  # section 3.1: nothing comes before the first block
        features: list[Tensor] = []
        maps: dict[str, list[Tensor]] = {task: [] for task in self.config.tasks}
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                high, seen = self.compute_again(block, low, high)
            else:
                high, seen = block(low, high)
            features.append(high)
            for task, value in seen.items():
                maps[task].append(_shaped(task, value))
        return HIUDMTLModelOutput(tuple(features), **{task: tuple(values) for task, values in maps.items()})


class HIUDMTLForHandUnderstanding(HIUDMTLPreTrainedModel):
    """2D pose, mask, part orientation fields and hand mesh of each crop.

    Args:
        config: See [`HIUDMTLConfig`].
        hand_model_path: Where MANO's file is, if `config.hand_model` is "mano"; looked up when None.
    """

    def __init__(self, config: HIUDMTLConfig, hand_model_path: str | None = None) -> None:
        super().__init__(config)
        self.backbone = HIUDMTLModel(config)
        if config.mesh:
            self.regressor = HandRegressor(config)
            if config.score_head:
                self.score = score_layers(regressor_inputs(config), config.score_hidden_size)
            self.hand_model = build_hand_model(config, hand_model_path)
        self.post_init()

    @property
    def stem_layers(self) -> nn.Sequential:
        """The layers of EfficientNet, from the picture on; none of the paper's stem."""
        return getattr(self.backbone.stem, "layers", nn.Sequential())

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        intrinsics: Tensor | None = None,
        labels: dict[str, Tensor] | None = None,
        return_all: bool = False,
        fit: bool = True,
        **kwargs: Any,
    ) -> HIUDMTLOutput:
        """Understands the right hand in each crop; with `config.fit_steps`, unless it trains, fits it to the maps.

        Args:
            pixel_values: (B, 3, S, S), RGB, normalised to [-1, 1].
            intrinsics: (B, 3, 3) of the crop, pixels. None: the principal point is the crop's centre and the focal
                length is estimated (equation 5).
            labels: Any of keypoints_2d (B, 21, 2) (crop pixels), joints (B, 21, 3) and vertices (B, V, 3) (camera
                frame, metres), mask (B, S, S) in [0, 1], global_orient (B, 3, 3), hand_pose (B, 15, 3, 3), betas
                (B, 10), hand (B,). NaN where a sample lacks one.
            return_all: Return every stack, not only the last.
            fit: False leaves the estimate as it is, whatever `config.fit_steps` says.

        Raises:
            ValueError: If the input is not square or its side does not fit, or a label's shape does not fit.
        """
        size = pixel_values.shape[-1]
        if pixel_values.shape[-2] != size:
            raise ValueError(f"pixel_values must be square crops, got {tuple(pixel_values.shape)}")
        seen = self.backbone(pixel_values, return_dict=True)
        stacks = [
            {task: getattr(seen, task)[stack].float() for task in self.config.tasks}
            for stack in range(self.config.num_stacks)
        ]
        score_logits = None
        if self.config.mesh:
            intrinsics = None if intrinsics is None else crop_cameras(intrinsics, pixel_values.shape[0])
            read = self.estimate_meshes(seen.features, stacks, intrinsics, size)
            if self.config.score_head:
                score_logits = self.score(read).squeeze(-1).float()
        loss = losses = None
        if labels is not None:
            faces = self.hand_model.faces if self.config.mesh else None
            criterion = HandUnderstandingLoss(self.config, faces, size)
            loss, losses = criterion(stacks, labels, intrinsics, score_logits)
        for stack in stacks:
            _finish(stack, size)
        fields = {name: value for name, value in stacks[-1].items() if name != "log_focal"}
        if fit and self.config.fit_steps and not self.training and not torch.compiler.is_exporting():
            fields |= fit_output(self.config, self.hand_model, fields, fields["intrinsics"], size)
        every = tuple(stacks) if return_all else None
        return HIUDMTLOutput(loss=loss, losses=losses, **fields, score_logits=score_logits, stacks=every)

    def estimate_meshes(
        self, features: tuple[Tensor, ...], stacks: list[dict[str, Tensor]], intrinsics: Tensor | None, size: int
    ) -> Tensor:
        """Adds each stack's hand to its dict, from coarse to fine: every estimate starts from the one before.

        Returns:
            What the regressor reads (B, I) of the last stack.
        """
        state = self.mean_state(features[0].device).expand(features[0].shape[0], -1)
        for feature, stack in zip(features, stacks, strict=True):
            evidence = None
            if evidence_size(self.config):
                maps = {task: value.flatten(1, 2) if task == "pof" else value for task, value in stack.items()}
                evidence = map_evidence(maps).detach()
            state, read = self.regressor(feature, evidence, state.detach())
            stack |= self.decode(state, intrinsics, size)
        return read

    def mean_state(self, device: torch.device) -> Tensor:
        """(110,) where the first stack starts: the mean hand, and the mean focal length."""
        focal = torch.tensor([math.log(self.config.mean_focal)], device=device)
        return torch.cat([mean_state(self.config.mean_camera, device), focal])

    def decode(self, state: Tensor, intrinsics: Tensor | None, size: int) -> dict[str, Tensor]:
        """State (B, 110) -> parameters, mesh and projection through the given or the estimated camera, float32."""
        log_focal = state[:, STATE_SIZE].float().clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)
        if intrinsics is None:
            intrinsics = centred_intrinsics(log_focal.exp() * size, size)
        # The network sees the crop as if its centre were the principal point; the true camera looks at it sideways.
        hand = decode_hand(self.hand_model, state[:, :STATE_SIZE], intrinsics, size, along_ray=True)
        return hand | {"intrinsics": intrinsics, "log_focal": log_focal}


def centred_intrinsics(focal: Tensor, size: int) -> Tensor:
    """Equation 5: focal lengths (B,) in pixels -> (B, 3, 3) with the principal point at the centre of the crop."""
    centre = torch.full_like(focal, (size - 1) / 2)
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    return torch.stack([focal, zero, centre, zero, focal, centre, zero, zero, one], -1).unflatten(-1, (3, 3))


def _shaped(task: str, maps: Tensor) -> Tensor:
    """A decoder's maps (B, c, h, w) in the shape they are returned in."""
    if task == "mask":
        return maps.squeeze(1)
    return maps.unflatten(1, (len(BONES), 3)) if task == "pof" else maps


def _finish(stack: dict[str, Tensor], size: int) -> None:
    """From what losses need to what users read: the mask as a probability, keypoints of the heat maps."""
    if "mask" in stack:
        stack["mask"] = stack["mask"].sigmoid()
    if "heatmaps" in stack:
        stack["heatmap_keypoints"] = (soft_argmax(stack["heatmaps"]) + 1) * (size / 2) - 0.5


__all__ = ["HIUDMTLForHandUnderstanding", "HIUDMTLModel", "HIUDMTLPreTrainedModel"]
