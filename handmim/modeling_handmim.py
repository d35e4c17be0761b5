"""HandMIM: a plain vision transformer and a mesh head with a keypoint feedback loop (section 2.5 of the paper)."""

import copy
import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_handmim import HandMIMConfig
from .fitting import fit_output
from .geometry import crop_cameras
from .hand_pretrained import HandPreTrainedModel, build_hand_model, score_layers
from .hand_state import NUM_KEYPOINTS, decode_hand, mean_state
from .layers_handmim import (
    STEMS,
    Rectifier,
    Regressor,
    Upsample,
    default_crop_intrinsics,
    normalise_pixels,
    sample_points,
    soft_argmax,
)
from .losses import (
    check_labels,
    heatmap_keypoint_loss,
    heatmap_loss,
    mesh_losses,
    score_loss,
)
from .open_hand_file import HUB_OPTIONS

# Distances from projection to soft-argmax are a few hundredths of the crop: brought to the scale of the other inputs.
RESIDUAL_SCALE = 10.0
# Larger ones, of hands at the edge of a wide picture, are beyond what the rectifiers have learned from: each corrected
# too far, so that hands became metres long.
MAX_RESIDUAL = 0.3


@dataclass
class HandMIMModelOutput(ModelOutput):
    """Tokens of the backbone.

    Attributes:
        last_hidden_state: (B, 1 + N, C) class token and N patch tokens in row-major order, after the last norm.
        pooler_output: (B, C) the class token of `last_hidden_state`.
        feature_maps: With `output_features`, for each layer of `config.feature_layers` its patch tokens
            (B, C, h, w) before the last norm.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    feature_maps: tuple[Tensor, ...] | None = None


@dataclass
class HandMIMMeshOutput(ModelOutput):
    """One right hand for each crop. Everything is float32.

    Attributes:
        loss: Weighted sum, with `labels`.
        losses: Each term, detached and unweighted, mean over the iterations, with `labels`.
        vertices: (B, V, 3) camera frame of the crop, metres.
        joints: (B, 21, 3) camera frame, metres.
        keypoints_2d: (B, 21, 2) projection of the joints, crop pixels (centre of the top-left pixel is 0, 0).
        global_orient: (B, 3, 3) rotation about the wrist, from the hand model's to the camera frame.
        hand_pose: (B, 15, 3, 3) rotation of each joint relative to its parent.
        betas: (B, 10) shape, standard deviations.
        camera: (B, 3) (s, tx, ty), see `geometry.camera_translation`.
        translation: (B, 3) metres; what is added to the hand model's output to bring it into the camera frame.
        score_logits: (B,) logit that the crop shows a right hand, with `config.score_head`.
        heatmaps: (B, 21, h, w) log-probabilities, with `config.heatmap_evidence`.
        iterations: With `return_all`, one dict for the first estimate and for each rectifier, with the fields from
            `vertices` to `translation`, before any fit.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    vertices: Tensor | None = None
    joints: Tensor | None = None
    keypoints_2d: Tensor | None = None
    global_orient: Tensor | None = None
    hand_pose: Tensor | None = None
    betas: Tensor | None = None
    camera: Tensor | None = None
    translation: Tensor | None = None
    score_logits: Tensor | None = None
    heatmaps: Tensor | None = None
    iterations: tuple[dict[str, Tensor], ...] | None = None


class HandMIMPreTrainedModel(HandPreTrainedModel):
    """Initialisation, loading and flags shared by the HandMIM models."""

    config_class = HandMIMConfig
    _no_split_modules = ["Block"]
    # of a pre-trained model everything but its `backbone`
    _keys_to_ignore_on_load_unexpected = [
        r"^student\.", r"^projector\.", r"^teacher_projector\.", r"^decoder\.", r"^(class|patch)_center$", r"^epoch$",
        r"mask_token$",
    ]  # fmt: skip

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """iBOT's initialisation."""
        std = self.config.initializer_range
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight[:, 0].numel() // 4
            init.trunc_normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, VisionTransformer):
            init.trunc_normal_(module.pos_embed, std=std)
            init.trunc_normal_(module.cls_token, std=std)
        elif isinstance(module, HandMIMModel) and module.mask_token is not None:
            init.zeros_(module.mask_token)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: Any = None,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> PreTrainedModel:
        """transformers' own; for crops of `image_size`, or of a `config` with another size than the checkpoint's, as by
        `set_image_size`. The second is how `AutoModel.from_pretrained(name, image_size=...)` asks for it."""
        if isinstance(config, HandMIMConfig):
            stored = _stored_image_size(pretrained_model_name_or_path, config, kwargs)
            if stored != config.image_size:
                image_size = config.image_size if image_size is None else image_size
                config = copy.deepcopy(config)
                config.image_size = stored
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        if image_size is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
            model.set_image_size(image_size)
        return loaded

    @torch.no_grad()
    def set_image_size(self, image_size: int) -> None:
        """Expect crops of another size; position embeddings are resampled (bicubic) once.

        Without it `forward` resamples for every batch of another size, and the embedding stays of its own.

        Args:
            image_size: Side of the crops in pixels, a multiple of `config.patch_size`.

        Raises:
            ValueError: It is no such multiple; nothing is changed.
        """
        super().set_image_size(image_size)
        for module in self.modules():
            if isinstance(module, VisionTransformer):
                module.set_input_size(img_size=image_size)


def _stored_image_size(source: Any, config: HandMIMConfig, options: dict[str, Any]) -> int:
    """The size of crops that a checkpoint's own configuration names; that of `config` where there is none."""
    hub = {name: options[name] for name in (*HUB_OPTIONS, "revision", "subfolder") if options.get(name) is not None}
    try:
        stored, _ = config.get_config_dict(source, **hub)
    except (OSError, TypeError):  # weights alone; the second of older versions of transformers, for a file with a list
        return config.image_size
    return stored.get("image_size", config.image_size)


class HandMIMModel(HandMIMPreTrainedModel):
    """The backbone: timm's vision transformer, with masked patches and intermediate features.

    Args:
        config: See [`HandMIMConfig`].
        use_mask_token: Whether there is a learned token for masked patches (pre-training only, so that a mesh model
            has no parameter without a gradient).
    """

    def __init__(self, config: HandMIMConfig, use_mask_token: bool = False) -> None:
        super().__init__(config)
        embed = {"embed_layer": STEMS[config.stem]} if config.stem in STEMS else {}
        self.encoder = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            in_chans=config.num_channels,
            num_classes=0,
            global_pool="token",
            embed_dim=config.hidden_size,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=config.mlp_ratio,
            drop_path_rate=config.drop_path_rate,
            norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
            dynamic_img_size=True,
            weight_init="skip",
            **embed,
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_mask_token else None
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        output_features: bool = False,
        **kwargs: Any,
    ) -> HandMIMModelOutput:
        """Encodes crops.

        Args:
            pixel_values: (B, 3, S, S), normalised to [-1, 1], S a multiple of `config.patch_size`.
            bool_masked_pos: (B, N) True where a patch is replaced by the mask token.
            output_features: Return the patch tokens of `config.feature_layers`.

        Raises:
            ValueError: If the input's size does not fit, or patches are masked without a mask token.
        """
        height, width = pixel_values.shape[-2:]
        if height % self.config.patch_size or width % self.config.patch_size:
            raise ValueError(
                f"pixel_values must have sides that are multiples of {self.config.patch_size}, got {height} x {width}"
            )
        x = self.encoder.patch_embed(pixel_values.to(self.encoder.cls_token.dtype))  # (B, h, w, C)
        grid = x.shape[1:3]
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ValueError("bool_masked_pos needs a mask token: build the model with use_mask_token=True")
            x = torch.where(bool_masked_pos.view(*x.shape[:3], 1), self.mask_token.to(x.dtype), x)
        x = self._with_places(x)
        self._choose_attention(x)
        features = []
        for layer, block in enumerate(self.encoder.blocks, start=1):
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block.__call__, x)
            else:
                x = block(x)
            if output_features and layer in self.config.feature_layers:
                features.append(x[:, 1:].transpose(1, 2).unflatten(2, grid))
        x = self.encoder.norm(x)
        return HandMIMModelOutput(x, x[:, 0], tuple(features) if output_features else None)

    def get_input_embeddings(self) -> nn.Module:
        """What makes tokens of pixels."""
        return self.encoder.patch_embed

    def _with_places(self, patches: Tensor) -> Tensor:
        """Patch tokens (B, h, w, C) -> (B, 1 + h w, C), the class token first, with position embeddings of that grid.

        As timm's encoder does it in its own `forward`, also for a batch of nothing.
        """
        encoder = self.encoder
        places = resample_abs_pos_embed(
            encoder.pos_embed, list(patches.shape[1:3]), encoder.patch_embed.grid_size, num_prefix_tokens=1
        )
        # `shape`, since `len` would make an exported graph one of this batch size
        return torch.cat([encoder.cls_token.expand(patches.shape[0], -1, -1), patches.flatten(1, 2)], 1) + places

    def _choose_attention(self, x: Tensor) -> None:
        """Fused attention, unless `attn_implementation="eager"` or where it is slower: bfloat16 on a CPU.

        There PyTorch's fused kernel takes twice as long forward (65 to 257 tokens) and six times as long backward (65
        tokens) as two batched products.
        """
        fused = self.config._attn_implementation != "eager"
        if x.device.type == "cpu" and x.shape[1] <= 512:
            fused &= x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        for block in self.encoder.blocks:
            if block.attn.fused_attn != fused:
                block.attn.fused_attn = fused


class HandMIMForMeshEstimation(HandMIMPreTrainedModel):
    """Backbone, first estimate from the class token, and rectifiers on a growing feature map.

    Args:
        config: See [`HandMIMConfig`].
        hand_model_path: Where MANO's file is, if `config.hand_model` is "mano"; looked up when None.
    """

    def __init__(self, config: HandMIMConfig, hand_model_path: str | None = None) -> None:
        super().__init__(config)
        self.backbone = HandMIMModel(config)
        widths = [config.hidden_size, *config.feature_channels]
        self.upsample = nn.ModuleList(Upsample(*pair) for pair in pairwise(widths))
        extra = 3 * NUM_KEYPOINTS if config.heatmap_evidence else 0
        self.initial = Regressor(config.hidden_size + extra, config)
        # the first rectifier reads the first upsampled map, and so on
        self.rectifiers = nn.ModuleList(Rectifier(channels, config) for channels in widths[1:])
        if config.heatmap_evidence:
            self.heatmap = nn.Linear(config.feature_channels[config.heatmap_level], NUM_KEYPOINTS)
        if config.score_head:
            self.score = score_layers(config.hidden_size, config.score_hidden_size)
        self.hand_model = build_hand_model(config, hand_model_path)
        self.post_init()

    @property
    def stem_layers(self) -> nn.Sequential:
        """The layers of a convolutional stem, from the picture on; none of another stem."""
        return getattr(self.backbone.encoder.patch_embed, "layers", nn.Sequential())

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """A checkpoint with a backbone and no part of the head is one to fine-tune: a fresh head is no fault then."""
        super()._adjust_missing_and_unexpected_keys(loading_info)
        head = {name for name in self.state_dict() if not name.startswith("backbone.")}
        if head <= loading_info.missing_keys and self.state_dict().keys() - loading_info.missing_keys:
            loading_info.missing_keys = loading_info.missing_keys - head

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        intrinsics: Tensor | None = None,
        labels: dict[str, Tensor] | None = None,
        return_all: bool = False,
        fit: bool = True,
        **kwargs: Any,
    ) -> HandMIMMeshOutput:
        """Estimates the right hand in each crop; with `config.fit_steps`, unless it trains, fits it to the heat maps.

        Args:
            pixel_values: (B, 3, S, S), RGB, normalised to [-1, 1].
            intrinsics: (B, 3, 3) of the crop, pixels. None: focal length 5 S, principal point at the crop's centre.
            labels: Any of global_orient (B, 3, 3), hand_pose (B, 15, 3, 3), betas (B, 10), vertices (B, V, 3) and
                joints (B, 21, 3) (camera frame, metres), keypoints_2d (B, 21, 2) (crop pixels), mask (B, S, S) (1 on
                the hand, 0 beside it), hand (B,) (1: a right hand, 0: not). NaN where a sample lacks one.
            return_all: Return every iteration, not only the last.
            fit: False leaves the estimate as it is, whatever `config.fit_steps` says.

        Raises:
            ValueError: If the input is not square, or a label's shape does not fit the hand model.
        """
        size = pixel_values.shape[-1]
        if pixel_values.shape[-2] != size:
            raise ValueError(f"pixel_values must be square crops, got {tuple(pixel_values.shape)}")
        if intrinsics is None:
            intrinsics = default_crop_intrinsics(size, pixel_values.device).expand(pixel_values.shape[0], 3, 3)
        intrinsics = crop_cameras(intrinsics, pixel_values.shape[0])
        backbone = self.backbone(pixel_values, return_dict=True)
        pooled = backbone.pooler_output
        maps = self.feature_pyramid(backbone.last_hidden_state)  # [patch tokens, x2, x4, ...]
        log_heatmaps = self.log_heatmaps(maps) if self.config.heatmap_evidence else None
        iterations = self.iterate(pooled, maps, log_heatmaps, intrinsics, size)
        score_logits = self.score(pooled).squeeze(-1).float() if self.config.score_head else None
        loss = losses = None
        if labels is not None:
            loss, losses = self.compute_loss(iterations, labels, size, log_heatmaps, score_logits, intrinsics)
        hand = iterations[-1]
        if fit and self.config.fit_steps and not self.training and not torch.compiler.is_exporting():
            hand = fit_output(self.config, self.hand_model, hand | {"heatmaps": log_heatmaps}, intrinsics, size)
        return HandMIMMeshOutput(
            loss=loss,
            losses=losses,
            **hand,
            score_logits=score_logits,
            heatmaps=log_heatmaps,
            iterations=tuple(iterations) if return_all else None,
        )

    def iterate(
        self, pooled: Tensor, maps: list[Tensor], log_heatmaps: Tensor | None, intrinsics: Tensor, size: int
    ) -> list[dict[str, Tensor]]:
        """The first estimate from the class token (B, C), then one decoded hand for each rectifier."""
        keypoints = confidence = None
        if log_heatmaps is not None:
            keypoints = soft_argmax(log_heatmaps)
            # a Gaussian target has this peak, so that a sure heat map gives about 1
            confidence = log_heatmaps.flatten(2).amax(2).exp() * (2 * math.pi * self.config.heatmap_sigma**2)
        evidence = [] if keypoints is None else [keypoints.flatten(1), confidence]
        state = self.initial([pooled, *evidence], self.mean_state(pooled.device).expand(pooled.shape[0], -1))
        iterations = [self.decode(state, intrinsics, size)]
        for level, rectifier in enumerate(self.rectifiers):
            points = normalise_pixels(iterations[-1]["keypoints_2d"].detach(), size)
            dense = min(level + 1, len(maps) - 1)
            features = sample_points(maps[dense], points, self.upsample[dense : level + 1])
            evidence = []
            if keypoints is not None:
                residual = (keypoints - points).clamp(-MAX_RESIDUAL, MAX_RESIDUAL)
                evidence = [RESIDUAL_SCALE * residual.flatten(1), confidence]
            # as in PyMAF each rectifier learns from its own correction only
            state = rectifier(features, evidence, state.detach())
            iterations.append(self.decode(state, intrinsics, size))
        return iterations

    def feature_pyramid(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (B, 1 + h w, C) -> channels-last maps, each twice as fine as the one before.

        Up to the one the heat maps are read from; of the others only the sampled cells are ever computed.
        """
        side = math.isqrt(tokens.shape[1] - 1)
        maps = [tokens[:, 1:].unflatten(1, (side, side))]
        for upsample in self.upsample[: self.config.heatmap_level + 1 if self.config.heatmap_evidence else 0]:
            maps.append(upsample(maps[-1]))
        return maps

    def log_heatmaps(self, maps: list[Tensor]) -> Tensor:
        """Maps of the pyramid -> (B, 21, h, w) log-softmax over h x w of one of them, float32."""
        logits = self.heatmap(maps[self.config.heatmap_level + 1])
        logits = logits.permute(0, 3, 1, 2).float().contiguous()  # softmax over the last axis is the fast one
        return F.log_softmax(logits.flatten(2), dim=-1).view(logits.shape)

    def mean_state(self, device: torch.device) -> Tensor:
        """(109,) where the first estimate starts."""
        return mean_state(self.config.mean_camera, device)

    def decode(self, state: Tensor, intrinsics: Tensor, size: int) -> dict[str, Tensor]:
        """State (B, 109) -> parameters, mesh and projection, float32; see `hand_state.decode_hand`."""
        along_ray = self.config.orientation_frame == "ray"
        return decode_hand(self.hand_model, state, intrinsics, size, along_ray)

    def compute_loss(
        self,
        iterations: list[dict[str, Tensor]],
        labels: dict[str, Tensor],
        size: int,
        log_heatmaps: Tensor | None = None,
        score_logits: Tensor | None = None,
        intrinsics: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 11 summed over the iterations, plus our terms; every term as far as its label is there.

        Returns:
            The weighted sum, and each term detached and unweighted (mean over the iterations).
        """
        weights = self.config.loss_weights
        joints = iterations[-1]["joints"]
        check_labels(labels, len(joints), weights)
        with torch.autocast(joints.device.type, enabled=False):
            values = mesh_losses(iterations, labels, size, weights, intrinsics)
            factors = {name: weights[name] * len(iterations) for name in values}
            unlabelled = [] if values else [iteration["joints"] for iteration in iterations]
            if log_heatmaps is not None and "keypoints_2d" in labels:
                target = normalise_pixels(labels["keypoints_2d"].to(log_heatmaps), size)
                values["heatmap"] = heatmap_loss(log_heatmaps, target, self.config.heatmap_sigma)
                values["heatmap_keypoints"] = heatmap_keypoint_loss(soft_argmax(log_heatmaps), target)
            if score_logits is not None and "hand" in labels:
                values["score"] = score_loss(score_logits, labels["hand"])
        unlabelled += [log_heatmaps] if log_heatmaps is not None and "heatmap" not in values else []
        unlabelled += [score_logits] if score_logits is not None and "score" not in values else []
        terms = [factors.get(name, weights[name]) * value for name, value in values.items()]
        # What has no usable label counts zero, but is part of the graph: every parameter has a gradient, for which the
        # other processes of a run wait, and a step without any label does not fail.
        terms += [0.0 * output.sum() for output in unlabelled]
        loss = torch.stack(terms).sum()
        return loss, {name: value.detach() for name, value in values.items()}


__all__ = ["HandMIMForMeshEstimation", "HandMIMModel", "HandMIMPreTrainedModel"]
