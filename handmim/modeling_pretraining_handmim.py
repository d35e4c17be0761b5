"""HandMIM's pre-training network: student, teacher, shared projection and pixel decoder (sections 2.2 to 2.4)."""

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_handmim import HandMIMConfig
from .configuration_pretraining_handmim import HandMIMPreTrainingConfig
from .layers_handmim import Upsample
from .losses_pretraining import (
    align_points,
    contrastive_loss,
    entropy,
    patch_loss,
    pose_loss,
    reconstruction_loss,
    share_within,
    sharpen,
    spread,
    temperature_at,
    view_weights,
)
from .modeling_handmim import HandMIMModel, HandMIMModelOutput, HandMIMPreTrainedModel

SPREAD_VIEWS = 128  # whose patch tokens are looked at: of 2,048 in float32 they alone would be 600 MB


@dataclass
class HandMIMPreTrainingOutput(ModelOutput):
    """What a pre-training step gives. Everything is float32.

    Attributes:
        loss: Equation 10, the weighted sum of the terms.
        losses: Each term whose weight is not 0, detached and unweighted: "pose", "patch", "reconstruction".
        indicators: Detached scalars that show a collapse early. "feature_spread": of the class tokens over the batch
            (the teacher's where there is one), 0 all equal, about 1 healthy. "patch_share": share of the variance of
            its patch tokens that lies within the views; near 0 the patches of a view all say the same. "class_entropy",
            "patch_entropy": mean entropy of the teacher's distributions in nats; near log K the teacher says nothing.
            "class_kl", "patch_kl": divergence from them to the student's; 0 from the start means that there is nothing
            to learn. "class_usage": entropy of the teacher's mean class distribution; 0 means one output for all
            images.
        class_outputs: (B, 2, K) the student's class tokens as its loss sees them (aligned points, flat; similarities
            to prototypes; directions), before any temperature. None with `pose_weight` 0.
        reconstruction: With `output_reconstruction`, (B, 2, 3, S, S) the views with masked patches as reconstructed.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    indicators: dict[str, Tensor] | None = None
    class_outputs: Tensor | None = None
    reconstruction: Tensor | None = None


class ProjectionHead(nn.Module):
    """The shared MLP from tokens to the latent space, and iBOT's prototypes where there are any."""

    def __init__(self, config: HandMIMConfig) -> None:
        super().__init__()
        options = config.pretraining_config
        hidden = [options.projection_hidden_size] * (options.projection_layers - 1)
        widths = [config.hidden_size, *hidden, options.projection_size]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        shape = options.num_prototypes, options.projection_size
        self.prototypes = nn.Parameter(torch.zeros(shape)) if options.num_prototypes else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (M, C) -> latents (M, D), unit vectors where they are compared with prototypes."""
        x = tokens
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        x = self.layers[-1](x)
        return x if self.prototypes is None else F.normalize(x, dim=-1)

    def compare(self, latents: Tensor) -> Tensor:
        """Latents (M, D) -> what softmax sees (M, K): themselves, or similarities to the prototypes. Linear."""
        return latents if self.prototypes is None else latents @ F.normalize(self.prototypes, dim=-1).mT.to(latents)


class PixelDecoder(nn.Module):
    """The pyramid of equation 8: T_{i+1} = T-Conv(Linear(Concat[T_i, L_i])), from the second stage on.

    T_i has 2^i x 2^i cells where the transformer has one token, so that a token is shared by its cells. With kernel 2
    and stride 2 (the paper gives none) a patch's pixels depend on its own tokens only: masked patches are decoded and
    no others. The last block's tokens come through the encoder's last norm, the others through a norm of their own.
    """

    def __init__(self, config: HandMIMConfig) -> None:
        super().__init__()
        widths = config.pretraining_config.decoder_channels
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in widths[1:])
        before = [0, *widths[1:]]
        self.fuse = nn.ModuleList(nn.Linear(config.hidden_size + t, f) for t, f in zip(before, widths, strict=True))
        self.upsample = nn.ModuleList(Upsample(*pair) for pair in pairwise(widths))
        self.pixels = nn.Linear(widths[-1], 4 * config.num_channels)  # the last transposed convolution, as a product

    def forward(self, tokens: list[Tensor]) -> Tensor:
        """For each fused layer its tokens (M, C) -> (M, channels, patch, patch)."""
        normed = [norm(layer) for norm, layer in zip(self.norms, tokens[:-1], strict=True)] + [tokens[-1]]
        x = normed[0].new_zeros(len(normed[0]), 1, 1, 0)
        for stage, (fuse, layer) in enumerate(zip(self.fuse, normed, strict=True)):
            if stage:
                x = self.upsample[stage - 1](x)
            own, shared = fuse.weight.split([x.shape[-1], layer.shape[-1]], dim=1)
            fused = F.linear(layer, shared, fuse.bias)[:, None, None]  # the token's share, once for all its cells
            x = F.linear(x, own) + fused if stage else fused
        return F.pixel_shuffle(self.pixels(x).permute(0, 3, 1, 2), 2)


class HandMIMForPreTraining(HandMIMPreTrainedModel):
    """Self-supervised pre-training by HandMIM, and by the methods it is compared with (`pretraining_config`).

    `backbone` is the network that fine-tuning loads. With a teacher that is the teacher, whose weights iBOT and DINO
    evaluate and fine-tune too; the network that learns is then `student`. Without a teacher (PeCLR, pixels only)
    `backbone` itself learns. A training loop calls `update_teacher` after each optimiser step and `set_epoch` for the
    temperatures.

    Args:
        config: See [`HandMIMConfig`]; without `pretraining_config` it is HandMIM's.

    Raises:
        ValueError: If the pixel decoder does not fit the backbone.
    """

    _keys_to_ignore_on_load_unexpected = None

    def __init__(self, config: HandMIMConfig) -> None:
        if config.pretraining_config is None:
            config.pretraining_config = HandMIMPreTrainingConfig()
        super().__init__(config)
        options = config.pretraining_config
        if options.reconstruction_weight:
            check_decoder(config)
        if options.uses_teacher:
            still = copy.deepcopy(config)
            still.drop_path_rate = 0.0
            self.backbone = HandMIMModel(still)
            self.student = HandMIMModel(config, use_mask_token=options.mask_student)
        else:
            self.backbone = HandMIMModel(config, use_mask_token=options.mask_student)
        if options.uses_projection:
            self.projector = ProjectionHead(config)
        if options.uses_teacher:
            self.teacher_projector = ProjectionHead(config)
            self.register_buffer("epoch", torch.zeros((), dtype=torch.float32))
            self.register_buffer("class_center", torch.zeros(options.output_size, dtype=torch.float32))
            self.register_buffer("patch_center", torch.zeros(options.output_size, dtype=torch.float32))
        if options.reconstruction_weight:
            self.decoder = PixelDecoder(config)
        self.post_init()
        self.train(self.training)  # freezes the teacher

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The shared initialisation; then the student starts as a copy of the teacher, as in iBOT.

        Weights that a checkpoint brought are left alone, so that a backbone's checkpoint starts both.
        """
        super()._init_weights(module)
        if isinstance(module, ProjectionHead) and module.prototypes is not None:
            init.trunc_normal_(module.prototypes, std=self.config.initializer_range)
        elif isinstance(module, HandMIMForPreTraining) and module.config.pretraining_config.uses_teacher:
            for teacher, student in module.teacher_pairs():
                init.copy_(student, teacher)
            for buffer in (module.epoch, module.class_center, module.patch_center):
                init.zeros_(buffer)

    def train(self, mode: bool = True) -> "HandMIMForPreTraining":
        """As every module's; also freezes the teacher, since loading makes parameters that all want gradients."""
        if self.config.pretraining_config.uses_teacher:
            self.backbone.requires_grad_(False)
            self.teacher_projector.requires_grad_(False)
        return super().train(mode)

    @property
    def network(self) -> HandMIMModel:
        """The backbone that learns."""
        return self.student if self.config.pretraining_config.uses_teacher else self.backbone

    def teacher_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each parameter of the teacher and the student's counterpart; empty without a teacher."""
        if not self.config.pretraining_config.uses_teacher:
            return []
        student = dict(self.student.named_parameters())
        pairs = [(value, student[name]) for name, value in self.backbone.named_parameters()]
        return pairs + list(zip(self.teacher_projector.parameters(), self.projector.parameters(), strict=True))

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Moves the teacher towards the student: teacher = momentum teacher + (1 - momentum) student.

        Call it after every optimiser step. Without a teacher it does nothing.
        """
        if pairs := self.teacher_pairs():
            teacher, student = zip(*pairs, strict=True)
            torch._foreach_lerp_(teacher, student, 1 - momentum)

    def set_epoch(self, epoch: float) -> None:
        """Tells the temperature schedules how many epochs are done; a fraction counts. It is saved with the model."""
        if self.config.pretraining_config.uses_teacher:
            self.epoch.fill_(epoch)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        transforms: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        output_reconstruction: bool = False,
        **kwargs: Any,
    ) -> HandMIMPreTrainingOutput:
        """The losses of a batch of pairs of views.

        In training mode the running centres move, as a batch norm's statistics do.

        Args:
            pixel_values: (B, 2, 3, S, S) two views of each image, RGB: floating and normalised to [-1, 1], or uint8.
            transforms: (B, 2, 4) angle (radians), gamma, a, b of equation 3, see `losses_pretraining`. Needed to align
                points.
            bool_masked_pos: (B, 2, N) True where the student sees the mask token, row-major. Needed with
                `mask_student`; ignored without.
            output_reconstruction: Return the views with masked patches as reconstructed.

        Raises:
            ValueError: If an argument is missing or its shape does not fit.
        """
        options = self.config.pretraining_config
        views, mask = self._prepare(pixel_values, transforms, bool_masked_pos)
        index = weights = None
        if mask is not None:
            index, weights = mask.flatten().nonzero().squeeze(1), view_weights(mask)
        output = self.network(views, bool_masked_pos=mask, output_features=options.reconstruction_weight > 0)
        values, indicators, class_outputs, reconstruction = {}, {}, None, None
        if options.uses_teacher:
            distilled = self._distil(views, output.last_hidden_state, transforms, index, weights)
            values, indicators, class_outputs = distilled
        elif options.uses_projection:
            class_outputs = self._directions(output.pooler_output, transforms)
            values["pose"] = contrastive_loss(class_outputs, *_gather(class_outputs), options.contrastive_temperature)
        if options.reconstruction_weight:
            pixels = self.decoder(
                [*(_rows(f, index) for f in output.feature_maps[:-1]), _patches(output.last_hidden_state, index)]
            )
            with torch.autocast(views.device.type, enabled=False):
                target = _patchify(views, self.config.patch_size)[index]
                values["reconstruction"] = reconstruction_loss(pixels, target, weights)
            if output_reconstruction:
                reconstruction = _fill(views, pixels, index).unflatten(0, (-1, 2))
        if not options.uses_teacher:
            indicators |= _spreads(output)
        loss = sum(getattr(options, f"{name}_weight") * value for name, value in values.items())
        return HandMIMPreTrainingOutput(
            loss=loss,
            losses={name: value.detach() for name, value in values.items()},
            indicators=indicators,
            class_outputs=class_outputs,
            reconstruction=reconstruction,
        )

    def _prepare(
        self, pixel_values: Tensor, transforms: Tensor | None, bool_masked_pos: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Checks the arguments of `forward`; the views (2B, 3, S, S), normalised, and their masks (2B, N)."""
        options, shape = self.config.pretraining_config, tuple(pixel_values.shape)
        if len(shape) != 5 or shape[1] != 2:
            raise ValueError(f"pixel_values must be (B, 2, {self.config.num_channels}, S, S), got {shape}")
        if options.align_points and options.pose_weight and (transforms is None or transforms.shape != (*shape[:2], 4)):
            got = None if transforms is None else tuple(transforms.shape)
            raise ValueError(f"transforms must be {(*shape[:2], 4)} to align points, got {got}")
        views = pixel_values.flatten(0, 1)
        if views.dtype == torch.uint8:
            views = views.to(self.dtype) / 127.5 - 1
        if not options.mask_student:
            return views, None
        expected = (*shape[:2], (shape[3] // self.config.patch_size) * (shape[4] // self.config.patch_size))
        if bool_masked_pos is None or bool_masked_pos.shape != expected:
            got = None if bool_masked_pos is None else tuple(bool_masked_pos.shape)
            raise ValueError(f"bool_masked_pos must be {expected} for pixel_values {shape}, got {got}")
        return views, bool_masked_pos.flatten(0, 1).bool()

    def _project(
        self, head: ProjectionHead, hidden: Tensor, index: Tensor | None, transforms: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Class outputs (B, 2, K), aligned where the config says so, and latents (M, D) of the masked patches.

        None for what has no loss. Class tokens and patches go through the shared MLP in one product.
        """
        options = self.config.pretraining_config
        tokens = [hidden[:, 0]] if options.distils_class else []
        if options.patch_weight:
            tokens.append(_patches(hidden, index))
        latents = head(torch.cat(tokens))
        if not options.distils_class:
            return None, latents
        classes = head.compare(latents[: len(hidden)]).float().unflatten(0, (-1, 2))
        if options.align_points:
            classes = align_points(classes.unflatten(-1, (-1, 2)), transforms).flatten(-2)
        return classes, latents[len(hidden) :] if options.patch_weight else None

    def _distil(
        self, views: Tensor, hidden: Tensor, transforms: Tensor | None, index: Tensor | None, weights: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
        """Equations 5 to 7: losses and indicators of what the student learns from the teacher."""
        options = self.config.pretraining_config
        classes, patches = self._project(self.projector, hidden, index, transforms)
        with torch.no_grad():
            seen = self.backbone(views, return_dict=True)
            target_classes, target_patches = self._project(
                self.teacher_projector, seen.last_hidden_state, index, transforms
            )
            target_logits = None if target_patches is None else self.teacher_projector.compare(target_patches)
        losses, indicators = {}, _spreads(seen)
        # divided by the temperature before the product: M x 256 numbers instead of M x 8192
        logits = None if patches is None else self.projector.compare(patches / options.student_temperature)
        with torch.autocast(views.device.type, enabled=False):
            if classes is not None:
                target = sharpen(target_classes, self.class_center, self._temperature(options.teacher_temperature))
                losses["pose"] = pose_loss(target, classes / options.student_temperature)
                level = entropy(target).mean()
                indicators["class_entropy"], indicators["class_kl"] = level, losses["pose"].detach() - level
                indicators["class_usage"] = entropy(target.mean((0, 1)))
            if logits is not None:
                temperature = self._temperature(options.patch_teacher_temperature)
                target = sharpen(target_logits, self.patch_center, temperature)
                losses["patch"] = patch_loss(target, logits, weights)
                level = torch.dot(weights, entropy(target))
                indicators["patch_entropy"], indicators["patch_kl"] = level, losses["patch"].detach() - level
            if self.training:
                self._update_centers(target_classes, target_patches)
        return losses, indicators, None if classes is None else classes.detach()

    def _temperature(self, last: float) -> Tensor:
        """A teacher's temperature at the present epoch."""
        options = self.config.pretraining_config
        return temperature_at(self.epoch, options.warmup_teacher_temperature, last, options.temperature_warmup_epochs)

    @torch.no_grad()
    def _update_centers(self, classes: Tensor | None, patches: Tensor | None) -> None:
        """Moves the running centres towards the mean of the teacher's outputs over all processes.

        The patches' outputs are linear in their latents, so their mean is the output of the mean latent: with 8192
        prototypes that saves a pass over M x 8192 numbers.
        """
        momentum = self.config.pretraining_config.center_momentum
        if classes is not None:
            mean, _ = _mean_over_processes(classes.flatten(0, 1).float())
            self.class_center.lerp_(mean.to(self.class_center), 1 - momentum)
        if patches is not None:
            latent, count = _mean_over_processes(patches.float())
            mean = self.teacher_projector.compare(latent).to(self.patch_center)
            # a batch without any masked patch has no mean
            self.patch_center.lerp_(mean, (1 - momentum) * (count > 0).to(mean))

    def _directions(self, pooled: Tensor, transforms: Tensor | None) -> Tensor:
        """PeCLR's projections (B, 2, D): unit vectors as points, brought back to the original image.

        The projection's scale is free, so a translation is measured in half the extent of its points (PeCLR, section
        3.3). PeCLR's code turns points about their centre; here as in equation 4 about the view's.
        """
        latents = self.projector(pooled).float().unflatten(0, (-1, 2))
        if not self.config.pretraining_config.align_points:
            return latents
        points = F.normalize(latents, dim=-1).unflatten(-1, (-1, 2))
        extent = (points.amax(-2, keepdim=True) - points.amin(-2, keepdim=True)).mean(-1, keepdim=True).detach() / 2
        return align_points(points, transforms, extent).flatten(-2)


def check_decoder(config: HandMIMConfig) -> None:
    """Raises a ValueError unless each doubling of the resolution has a layer to fuse and a width."""
    stages = config.patch_size.bit_length() - 1
    if config.patch_size != 1 << stages:
        raise ValueError(f"patch_size must be a power of two for the pixel decoder, got {config.patch_size}")
    widths = config.pretraining_config.decoder_channels
    if len(widths) != stages:
        raise ValueError(
            f"decoder_channels must give {stages} widths, one for each doubling from a patch of {config.patch_size} "
            f"pixels, got {tuple(widths)}"
        )
    layers = tuple(config.feature_layers)
    if len(set(layers)) != stages or max(layers) != config.num_hidden_layers or list(layers) != sorted(layers):
        raise ValueError(
            f"feature_layers must be {stages} different layers in order, the last of them num_hidden_layers "
            f"({config.num_hidden_layers}), for the pixel decoder, got {layers}"
        )


@torch.no_grad()
def _spreads(output: HandMIMModelOutput) -> dict[str, Tensor]:
    """Indicators of what differs: class tokens between views, patch tokens within them."""
    patches = output.last_hidden_state[:SPREAD_VIEWS, 1:]
    return {"feature_spread": spread(output.pooler_output), "patch_share": share_within(patches)}


def _patches(hidden: Tensor, index: Tensor) -> Tensor:
    """Rows of the patch tokens of (V, 1 + N, C), by their index in V x N: (M, C)."""
    patches = hidden.shape[1] - 1
    return hidden.flatten(0, 1).index_select(0, index + index // patches + 1)


def _rows(feature_map: Tensor, index: Tensor) -> Tensor:
    """Cells of maps (V, C, h, w) by their index in V x h x w: (M, C)."""
    return feature_map.flatten(2).transpose(1, 2).flatten(0, 1).index_select(0, index)


def _patchify(views: Tensor, size: int) -> Tensor:
    """(V, C, S, S) -> (V N, C, size, size) patches, row-major."""
    cut = views.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (V, C, h, size, w, size)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _fill(views: Tensor, pixels: Tensor, index: Tensor) -> Tensor:
    """The views with the patches (M, C, p, p) at `index` replaced, without gradient, float32."""
    size, (height, width) = pixels.shape[-1], views.shape[-2:]
    cut = _patchify(views.float(), size).index_copy(0, index, pixels.detach().float())
    cut = cut.unflatten(0, (len(views), height // size, width // size))  # (V, h, w, C, size, size)
    return cut.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _mean_over_processes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of rows (n, K) over all processes, (K,), and their number; zeros where there is no row at all."""
    total = torch.cat([rows.sum(0), rows.new_tensor([float(len(rows))])])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
    return total[:-1] / total[-1].clamp(min=1), total[-1]


def _gather(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, with their gradient, and where this process's begin."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows, 0
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows)), dist.get_rank() * len(rows)


__all__ = ["HandMIMForPreTraining"]
