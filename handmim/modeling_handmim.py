"""HandMIM: a plain vision transformer and a mesh head with a keypoint feedback loop (section 2.5 of the paper)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_handmim import MEAN_GLOBAL_ORIENT, HandMIMConfig
from .geometry import camera_translation, matrix_to_rot6d, project, rot6d_to_matrix
from .hand_model import HandModel
from .losses import (
    heatmap_keypoint_loss,
    heatmap_loss,
    mesh_losses,
    score_loss,
)

NUM_KEYPOINTS = 21
NUM_ROTATIONS = 16
NUM_BETAS = 10
# The head's state: 16 rotations in 6D, betas, and the camera as (log s, tx, ty).
STATE_SIZE = 6 * NUM_ROTATIONS + NUM_BETAS + 3
# Distances from projection to soft-argmax are a few hundredths of the crop: brought to the scale of the other inputs.
RESIDUAL_SCALE = 10.0
# exp keeps s positive; beyond these bounds the hand would be 1/20 or 20 times as large as the crop.
MAX_LOG_SCALE = 3.0
# Points are projected from at least this depth (metres), so that none behind the camera gives infinite pixels.
MIN_DEPTH = 0.02
# Focal length in crop sides when no intrinsics are given: a distant camera, close to the orthographic one of PyMAF.
DEFAULT_FOCAL = 5.0


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
            `vertices` to `translation`.
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


class ConvStem(nn.Module):
    """Stride-2 3x3 convolutions with norm and GELU, then a 1x1 projection (Xiao et al. 2021), for timm's `embed_layer`.

    Args:
        img_size: Side of the input, pixels.
        patch_size: Total stride, a power of two.
        in_chans: Channels of the input.
        embed_dim: Channels of the output; the convolutions have embed_dim / patch_size * 2, 4, ... channels.
        bias: Whether the projection has a bias.
    """

    def __init__(
        self, img_size: int, patch_size: int, in_chans: int = 3, embed_dim: int = 768, bias: bool = True, **_: Any
    ) -> None:
        super().__init__()
        self.img_size = (img_size, img_size)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        depth = patch_size.bit_length() - 1
        widths = [in_chans] + [max(8, embed_dim >> (depth - 1 - i)) for i in range(depth)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in zip(widths, widths[1:], strict=False)
        )
        # one group: independent of the batch, and on a CPU three times as fast as layer or batch norm
        self.norms = nn.ModuleList(nn.GroupNorm(1, width, eps=1e-6) for width in widths[1:])
        self.proj = nn.Linear(widths[-1], embed_dim, bias=bias)

    def feat_ratio(self) -> int:
        return self.patch_size[0]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, S / patch, S / patch, C)."""
        x = pixel_values.contiguous(memory_format=torch.channels_last)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(x)))
        return self.proj(x.permute(0, 2, 3, 1))


class HandMIMPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and flags shared by the HandMIM models."""

    config_class = HandMIMConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["Block"]
    _keys_to_ignore_on_load_unexpected = [
        r"^teacher\.", r"^teacher_head\.", r"^student_head\.", r"^projector\.", r"^decoder\.", r"mask_token$"
    ]  # fmt: skip

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """iBOT's initialisation; also fills the hand model, whose buffers no checkpoint holds."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight[:, 0].numel() // 4
            init.trunc_normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VisionTransformer):
            init.trunc_normal_(module.pos_embed, std=std)
            init.trunc_normal_(module.cls_token, std=std)
        elif isinstance(module, HandMIMModel) and module.mask_token is not None:
            init.zeros_(module.mask_token)
        elif isinstance(module, Regressor):
            # small first corrections, so that training starts from the mean hand (HMR, SPIN, PyMAF)
            init.xavier_uniform_(module.output.weight, gain=0.01)
        elif isinstance(module, HandModel):
            module.reset_buffers()


class HandMIMModel(HandMIMPreTrainedModel):
    """The backbone: timm's vision transformer, with masked patches and intermediate features.

    Args:
        config: See [`HandMIMConfig`].
        use_mask_token: Whether there is a learned token for masked patches (pre-training only, so that a mesh model
            has no parameter without a gradient).
    """

    def __init__(self, config: HandMIMConfig, use_mask_token: bool = False) -> None:
        super().__init__(config)
        embed = {"embed_layer": ConvStem} if config.stem == "conv" else {}
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
        x = self.encoder._pos_embed(x)
        self._choose_attention(x)
        features = []
        for layer, block in enumerate(self.encoder.blocks, start=1):
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(block.__call__, x)
            else:
                x = block(x)
            if output_features and layer in self.config.feature_layers:
                features.append(x[:, 1:].transpose(1, 2).unflatten(2, grid))
        x = self.encoder.norm(x)
        return HandMIMModelOutput(x, x[:, 0], tuple(features) if output_features else None)

    def _choose_attention(self, x: Tensor) -> None:
        """Fused attention, unless `attn_implementation="eager"` or where it is slower: bfloat16 training on a CPU.

        There the backward pass of PyTorch's fused kernel takes six times as long as two batched products (65 tokens).
        """
        fused = self.config._attn_implementation != "eager"
        if x.device.type == "cpu" and torch.is_grad_enabled() and x.shape[1] <= 512:
            fused &= x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        for block in self.encoder.blocks:
            if block.attn.fused_attn != fused:
                block.attn.fused_attn = fused


class Upsample(nn.Module):
    """Transposed convolution with stride 2, layer norm and GELU, on channels-last maps (B, h, w, C).

    PyMAF's layer with the norm and activation of the transformer: layer norm does not depend on the batch.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        padding = kernel_size // 2 - 1
        self.deconv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=2, padding=padding, bias=False)
        self.norm = nn.LayerNorm(out_channels, eps=1e-6)

    @property
    def is_pointwise(self) -> bool:
        """Whether every output cell depends on one input cell only (kernel 2)."""
        return self.deconv.kernel_size == (2, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_pointwise:
            x = self.expand_cells(x).transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, h, w, 2, 2, C) interleaved
        else:
            x = self.deconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return F.gelu(self.norm(x))

    def expand_cells(self, x: Tensor) -> Tensor:
        """Cells (..., C) -> (..., 2, 2, C'): kernel 2 has no overlap, so it is a matrix product."""
        weight = self.deconv.weight.permute(2, 3, 1, 0).reshape(-1, x.shape[-1])
        return F.linear(x, weight).unflatten(-1, (2, 2, -1))

    def sample(self, x: Tensor, points: Tensor) -> Tensor:
        """`sample_points(self(x), points)` without the rest of the map, for kernel 2."""
        batch, height, width, _ = x.shape
        row, column, weight = bilinear_cells(points, 2 * height, 2 * width)
        parents = gather_cells(x, row // 2, column // 2)  # (B, N, 4, C)
        children = self.expand_cells(parents).flatten(3, 4)  # (B, N, 4, 2 * 2, C')
        child = (row % 2 * 2 + column % 2)[..., None, None].expand(*row.shape, 1, children.shape[-1])
        cells = F.gelu(self.norm(children.gather(3, child).squeeze(3)))
        return (weight[..., None] * cells.float()).sum(2)


class Regressor(nn.Module):
    """Two hidden layers from evidence and the current state to a correction of the state (HMR's error feedback)."""

    def __init__(self, in_features: int, config: HandMIMConfig) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(in_features + STATE_SIZE, config.regressor_hidden_size)
        self.hidden2 = nn.Linear(config.regressor_hidden_size, config.regressor_hidden_size)
        self.output = nn.Linear(config.regressor_hidden_size, STATE_SIZE)
        self.dropout = nn.Dropout(config.regressor_dropout)

    def forward(self, evidence: list[Tensor], state: Tensor) -> Tensor:
        """Evidence [(B, ...), ...] and state (B, 109) -> the corrected state, float32."""
        dtype = self.hidden1.weight.dtype
        x = torch.cat([part.to(dtype) for part in [*evidence, state]], dim=1)
        x = self.dropout(F.gelu(self.hidden1(x)))
        x = self.dropout(F.gelu(self.hidden2(x)))
        return state + self.output(x).float()


class Rectifier(nn.Module):
    """Features at the projected keypoints, reduced point by point, then a correction (PyMAF, section 3.2)."""

    def __init__(self, channels: int, config: HandMIMConfig) -> None:
        super().__init__()
        hidden, final = config.point_channels
        self.reduce1 = nn.Linear(channels, hidden)
        self.reduce2 = nn.Linear(hidden, final)
        extra = 3 * NUM_KEYPOINTS if config.heatmap_evidence else 0
        self.regressor = Regressor(NUM_KEYPOINTS * final + extra, config)

    def forward(self, features: Tensor, evidence: list[Tensor], state: Tensor) -> Tensor:
        """Sampled features (B, 21, C), other evidence [(B, ...), ...], state (B, 109) -> the corrected state."""
        x = features.to(self.reduce1.weight.dtype)
        x = F.gelu(self.reduce2(F.gelu(self.reduce1(x))))
        return self.regressor([x.flatten(1), *evidence], state)


def sample_points(feature_map: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples, equal to `grid_sample(..., align_corners=False)` with zeros outside.

    Gathers touch 84 cells of a map; grid_sample would copy the whole map to float32 and to channels first.

    Args:
        feature_map: (B, h, w, C).
        points: (B, N, 2) x, y; -1 and 1 are the outer edges of the map. No gradient flows into them.

    Returns:
        (B, N, C) in float32.
    """
    row, column, weight = bilinear_cells(points, *feature_map.shape[1:3])
    return (weight[..., None] * gather_cells(feature_map, row, column).float()).sum(2)


def bilinear_cells(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The four cells around points (B, N, 2) in [-1, 1]: rows, columns, and weights (0 outside), each (B, N, 4)."""
    points = points.detach().float().nan_to_num().clamp(-4, 4)  # far outside everything is zero
    x = (points[..., 0, None, None] + 1) * (width / 2) - 0.5
    y = (points[..., 1, None, None] + 1) * (height / 2) - 0.5
    offset = torch.arange(2, device=x.device)
    column, row = torch.broadcast_tensors(x.floor().long() + offset, y.floor().long() + offset[:, None])
    weight = (1 - (x - column).abs()) * (1 - (y - row).abs())  # (B, N, 2, 2)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    weight = torch.where(inside, weight, 0.0)
    return row.clamp(0, height - 1).flatten(2), column.clamp(0, width - 1).flatten(2), weight.flatten(2)


def gather_cells(feature_map: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Cells of a map (B, h, w, C) at rows and columns (B, N, 4): (B, N, 4, C)."""
    batch, height, width, channels = feature_map.shape
    index = row * width + column + (torch.arange(batch, device=row.device) * (height * width)).view(-1, 1, 1)
    return F.embedding(index, feature_map.reshape(-1, channels))


def soft_argmax(log_probability: Tensor) -> Tensor:
    """Mean position under heat maps (B, K, h, w), log-softmax over h x w: (B, K, 2) in [-1, 1] crop coordinates."""
    probability = log_probability.exp()
    height, width = probability.shape[-2:]
    x = (torch.arange(width, device=probability.device) + 0.5) * (2 / width) - 1
    y = (torch.arange(height, device=probability.device) + 0.5) * (2 / height) - 1
    return torch.stack([probability.sum(-2) @ x, probability.sum(-1) @ y], dim=-1)


def ray_rotation(intrinsics: Tensor, size: int) -> Tensor:
    """The smallest rotation (B, 3, 3) that takes the optical axis to the ray through the centre of the crop."""
    centre = (size - 1) / 2
    slope = (centre - intrinsics[:, :2, 2]) / intrinsics[:, (0, 1), (0, 1)]
    x, y, z = F.normalize(F.pad(slope, (0, 1), value=1.0), dim=-1).unbind(-1)
    shared = -x * y / (1 + z)
    rows = [1 - x * x / (1 + z), shared, x, shared, 1 - y * y / (1 + z), y, -x, -y, z]
    return torch.stack(rows, -1).view(-1, 3, 3)


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
        kernel = config.upsample_kernel_size
        self.upsample = nn.ModuleList(Upsample(a, b, kernel) for a, b in zip(widths, widths[1:], strict=False))
        extra = 3 * NUM_KEYPOINTS if config.heatmap_evidence else 0
        self.initial = Regressor(config.hidden_size + extra, config)
        # the first rectifier reads the first upsampled map, and so on
        self.rectifiers = nn.ModuleList(Rectifier(channels, config) for channels in widths[1:])
        if config.heatmap_evidence:
            self.heatmap = nn.Linear(config.feature_channels[config.heatmap_level], NUM_KEYPOINTS)
        if config.score_head:
            self.score = nn.Linear(config.hidden_size, 1)
        self.hand_model = HandModel(config.hand_model, side="right", path=hand_model_path)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        intrinsics: Tensor | None = None,
        labels: dict[str, Tensor] | None = None,
        return_all: bool = False,
        **kwargs: Any,
    ) -> HandMIMMeshOutput:
        """Estimates the right hand in each crop.

        Args:
            pixel_values: (B, 3, S, S), RGB, normalised to [-1, 1].
            intrinsics: (B, 3, 3) of the crop, pixels. None: focal length 5 S, principal point at the crop's centre.
            labels: Any of global_orient (B, 3, 3), hand_pose (B, 15, 3, 3), betas (B, 10), vertices (B, V, 3) and
                joints (B, 21, 3) (camera frame, metres), keypoints_2d (B, 21, 2) (crop pixels), hand (B,) (1: a right
                hand, 0: not). NaN where a sample lacks one.
            return_all: Return every iteration, not only the last.

        Raises:
            ValueError: If the input is not square, or a label's shape does not fit the hand model.
        """
        size = pixel_values.shape[-1]
        if pixel_values.shape[-2] != size:
            raise ValueError(f"pixel_values must be square crops, got {tuple(pixel_values.shape)}")
        if intrinsics is None:
            intrinsics = default_crop_intrinsics(size, pixel_values.device).expand(len(pixel_values), 3, 3)
        intrinsics = intrinsics.float()
        backbone = self.backbone(pixel_values)
        pooled = backbone.pooler_output
        maps = self.feature_pyramid(backbone.last_hidden_state)  # [patch tokens, x2, x4, ...]
        log_heatmaps = keypoints = confidence = None
        if self.config.heatmap_evidence:
            log_heatmaps = self.log_heatmaps(maps[self.config.heatmap_level + 1])
            keypoints = soft_argmax(log_heatmaps)
            # a Gaussian target has this peak, so that a sure heat map gives about 1
            confidence = log_heatmaps.flatten(2).amax(2).exp() * (2 * math.pi * self.config.heatmap_sigma**2)

        evidence = [] if keypoints is None else [keypoints.flatten(1), confidence]
        state = self.initial([pooled, *evidence], self.mean_state(pixel_values.device).expand(len(pixel_values), -1))
        iterations = [self.decode(state, intrinsics, size)]
        for level, rectifier in enumerate(self.rectifiers):
            points = normalise_pixels(iterations[-1]["keypoints_2d"].detach(), size)
            evidence = [] if keypoints is None else [RESIDUAL_SCALE * (keypoints - points).flatten(1), confidence]
            # as in PyMAF each rectifier learns from its own correction only
            if level + 1 < len(maps):
                features = sample_points(maps[level + 1], points)
            else:
                features = self.upsample[level].sample(maps[-1], points)
            state = rectifier(features, evidence, state.detach())
            iterations.append(self.decode(state, intrinsics, size))

        output = HandMIMMeshOutput(**iterations[-1])
        if self.config.score_head:
            output.score_logits = self.score(pooled).squeeze(-1).float()
        if log_heatmaps is not None:
            output.heatmaps = log_heatmaps
        if return_all:
            output.iterations = tuple(iterations)
        if labels is not None:
            output.loss, output.losses = self.compute_loss(iterations, output, labels, size, log_heatmaps, keypoints)
        return output

    def feature_pyramid(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (B, 1 + h w, C) -> channels-last maps, each twice as fine as the one before.

        The last one is left out where its few cells can be computed when they are sampled.
        """
        side = math.isqrt(tokens.shape[1] - 1)
        maps = [tokens[:, 1:].unflatten(1, (side, side))]
        last = len(self.upsample) - 1
        for level, upsample in enumerate(self.upsample):
            needed = self.config.heatmap_evidence and self.config.heatmap_level == last
            if level < last or needed or not upsample.is_pointwise:
                maps.append(upsample(maps[-1]))
        return maps

    def log_heatmaps(self, feature_map: Tensor) -> Tensor:
        """Channels-last map (B, h, w, C) -> (B, 21, h, w) log-softmax over h x w, float32."""
        logits = self.heatmap(feature_map).permute(0, 3, 1, 2).float().contiguous()
        return F.log_softmax(logits.flatten(2), dim=-1).view(logits.shape)

    def mean_state(self, device: torch.device) -> Tensor:
        """(109,) flat hand, mean orientation, mean shape, mean camera: where the first estimate starts."""
        rotations = torch.eye(3, device=device).repeat(NUM_ROTATIONS, 1, 1)
        rotations[0] = torch.tensor(MEAN_GLOBAL_ORIENT, device=device)
        scale, x, y = self.config.mean_camera
        camera = torch.tensor([math.log(scale), x, y], device=device)
        return torch.cat([matrix_to_rot6d(rotations).flatten(), camera.new_zeros(NUM_BETAS), camera])

    def decode(self, state: Tensor, intrinsics: Tensor, size: int) -> dict[str, Tensor]:
        """State (B, 109) -> parameters, mesh and projection, by the hand model and the perspective camera, float32."""
        with torch.autocast(state.device.type, enabled=False):
            rot6d, betas, camera = state.float().split([6 * NUM_ROTATIONS, NUM_BETAS, 3], dim=1)
            rotmat = rot6d_to_matrix(rot6d.unflatten(1, (NUM_ROTATIONS, 6)))
            global_orient, hand_pose = rotmat[:, 0], rotmat[:, 1:]
            if self.config.orientation_frame == "ray":
                global_orient = ray_rotation(intrinsics, size) @ global_orient
            scale = camera[:, :1].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()
            camera = torch.cat([scale, camera[:, 1:]], dim=1)
            hand = self.hand_model(global_orient, hand_pose, betas)
            translation = camera_translation(camera, intrinsics, size) - hand.joints[:, 0]
            joints = hand.joints + translation[:, None]
            in_front = torch.cat([joints[..., :2], joints[..., 2:].clamp(min=MIN_DEPTH)], dim=-1)
            return {
                "vertices": hand.vertices + translation[:, None],
                "joints": joints,
                "keypoints_2d": project(in_front, intrinsics),
                "global_orient": global_orient,
                "hand_pose": hand_pose,
                "betas": betas,
                "camera": camera,
                "translation": translation,
            }

    def compute_loss(
        self,
        iterations: list[dict[str, Tensor]],
        output: HandMIMMeshOutput,
        labels: dict[str, Tensor],
        size: int,
        log_heatmaps: Tensor | None,
        keypoints: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 11 summed over the iterations, plus our terms; every term as far as its label is there.

        Returns:
            The weighted sum, and each term detached and unweighted (mean over the iterations).
        """
        weights = self.config.loss_weights
        with torch.autocast(output.joints.device.type, enabled=False):
            values = mesh_losses(iterations, labels, size, weights)
            factors = {name: weights[name] * len(iterations) for name in values}
            if log_heatmaps is not None and "keypoints_2d" in labels:
                target = normalise_pixels(labels["keypoints_2d"].to(keypoints), size)
                values["heatmap"] = heatmap_loss(log_heatmaps, target, self.config.heatmap_sigma)
                values["heatmap_keypoints"] = heatmap_keypoint_loss(keypoints, target)
            if output.score_logits is not None and "hand" in labels:
                values["score"] = score_loss(output.score_logits, labels["hand"])
        terms = [factors.get(name, weights[name]) * value for name, value in values.items()]
        # without any usable label: zero, but still part of the graph, so that a training step does not fail
        loss = torch.stack(terms).sum() if terms else 0.0 * output.joints.sum()
        return loss, {name: value.detach() for name, value in values.items()}


def normalise_pixels(pixels: Tensor, size: int) -> Tensor:
    """Crop pixels -> [-1, 1] crop coordinates: -0.5 and size - 0.5 are the edges."""
    return (pixels + 0.5) * (2 / size) - 1


def default_crop_intrinsics(size: int, device: torch.device) -> Tensor:
    """(3, 3) intrinsics assumed for a crop of unknown origin: a distant camera that looks at its centre."""
    focal, centre = DEFAULT_FOCAL * size, (size - 1) / 2
    return torch.tensor([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]], device=device)


__all__ = ["HandMIMForMeshEstimation", "HandMIMModel", "HandMIMPreTrainedModel"]
