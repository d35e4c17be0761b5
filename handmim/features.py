"""What a backbone sees in a crop: tokens, class-token attention, and pictures of both.

People judge pre-training by looking: parts of a hand should have colours of their own in the principal components of
the patch tokens, and the class token should look at the hand.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .errors import ModelError

PANEL = 256  # side of a picture's panels, px
MARGIN = 4
HEADS_A_ROW = 4


@dataclass(frozen=True, eq=False)
class Features:
    """Of one crop. Grids are h x w patches, row by row.

    Attributes:
        crop: (S, S, 3) uint8, what the network was shown.
        class_token: (C,) after the last norm.
        patch_tokens: (h, w, C) after the last norm.
        attention: (heads, h, w) share of the class token's attention in the last block that each patch gets; what is
            missing to 1 goes to the class token itself.
    """

    crop: np.ndarray
    class_token: Tensor
    patch_tokens: Tensor
    attention: Tensor

    def components(self, count: int = 3) -> Tensor:
        """(h, w, count) principal components of the patch tokens, each scaled to [0, 1]."""
        flat = self.patch_tokens.flatten(0, 1).float()
        centred = flat - flat.mean(0)
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        values = centred @ axes[:count].T
        # a component's sign is arbitrary: take the one in which the few stand out from the many
        values = values * torch.where((values**3).sum(0) < 0, -1.0, 1.0)
        low, high = values.quantile(0.02, dim=0), values.quantile(0.98, dim=0)
        values = ((values - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
        missing = count - values.shape[1]
        return torch.nn.functional.pad(values, (0, missing)).view(*self.patch_tokens.shape[:2], count)

    def picture(self) -> Image.Image:
        """The crop, the first three components as red, green and blue, the mean attention over the crop, each head."""
        crop = _panel(self.crop)
        colours = _panel((self.components() * 255).byte().numpy())
        heads = [_panel(_grey(head)) for head in self.attention]
        mean = _grey(self.attention.mean(0))
        lit = np.asarray(crop, np.float32) * (0.25 + 0.75 * np.asarray(_panel(mean), np.float32) / 255)
        panels = [[crop, colours, Image.fromarray(lit.astype(np.uint8))]]
        panels += [heads[row : row + HEADS_A_ROW] for row in range(0, len(heads), HEADS_A_ROW)]
        return _sheet(panels)


def load_backbone(name: str | os.PathLike, **hub_kwargs: Any) -> tuple[nn.Module, Any]:
    """The backbone of any HandMIM checkpoint (pre-trained, mesh model or bare), and its image processor.

    Raises:
        ModelError: No such checkpoint, a damaged one, or one without a vision transformer.
    """
    from transformers import AutoModel

    from . import register
    from .checkpoints import checkpoint_source, load_processor
    from .hub_errors import checkpoint_errors

    register()
    name = checkpoint_source(name)
    with checkpoint_errors(name, **hub_kwargs):
        model = AutoModel.from_pretrained(name, **hub_kwargs).eval()
    backbone = getattr(model, "backbone", model)
    if not hasattr(getattr(backbone, "encoder", None), "blocks"):
        raise ModelError(f"{name} is a {type(model).__name__}, which has no transformer to look into")
    return backbone, load_processor(name, model.config.image_size, **hub_kwargs)


@torch.no_grad()
def extract_features(
    backbone: nn.Module, processor: Any, image: Any, boxes: Any = None, handedness: Any = None
) -> list[Features]:
    """Features of the hands in one image.

    Args:
        backbone, processor: From `load_backbone`.
        image, boxes, handedness: As `HandMIMImageProcessor` takes them; without boxes the crop is the whole picture.

    Returns:
        One entry a box.

    Raises:
        ImageError, InputError: What was given cannot be used.
    """
    inputs = processor(image, boxes=boxes, handedness=handedness, return_tensors="pt")
    pixels = inputs["pixel_values"]
    attention, output = _with_attention(backbone, pixels)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    crops = ((pixels * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    patch = backbone.config.patch_size
    grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    tokens = output.last_hidden_state.float()
    return [
        Features(crop, row[0], row[1:].unflatten(0, grid), weights.unflatten(-1, grid))
        for crop, row, weights in zip(crops, tokens, attention, strict=True)
    ]


def _with_attention(backbone: nn.Module, pixels: Tensor) -> tuple[Tensor, Any]:
    """The class token's attention in the last block (B, heads, N patches), and the backbone's output."""
    layer = backbone.encoder.blocks[-1].attn
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        output = backbone(pixels)
    finally:
        hook.remove()
    (tokens,) = seen
    batch, count = tokens.shape[:2]
    query, key, _ = layer.qkv(tokens).view(batch, count, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    query, key = layer.q_norm(query), layer.k_norm(key)
    logits = (query[:, :, :1] * layer.scale) @ key.transpose(-2, -1)
    return logits.float().softmax(-1)[:, :, 0, 1:], output


def _grey(values: Tensor) -> np.ndarray:
    """(h, w) values -> (h, w, 3) uint8, the largest white."""
    scaled = values / values.max().clamp(min=1e-9)
    return (scaled[..., None].expand(-1, -1, 3) * 255).byte().numpy()


def _panel(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((PANEL, PANEL), Image.Resampling.BICUBIC)


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    step = PANEL + MARGIN
    sheet = Image.new("RGB", (step * max(map(len, rows)) + MARGIN, step * len(rows) + MARGIN), "white")
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            sheet.paste(panel, (MARGIN + column * step, MARGIN + row * step))
    return sheet
