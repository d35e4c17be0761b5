"""Parameter groups and optimisers."""

import re
from typing import Any

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

# Embeddings and tokens have two dimensions or more, but decay would pull positions together: DeiT exempts them. The
# pre-training of DINO and iBOT, which goes by the number of dimensions, does not.
NO_DECAY_NAMES = ("pos_embed", "cls_token", "mask_token")
_EMBEDDING = re.compile(r"(^|\.)(patch_embed\.|cls_token$|pos_embed$|mask_token$)")
_BLOCK = re.compile(r"(^|\.)encoder\.blocks\.(\d+)\.")


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float | None = None, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters by decay: matrices with it; vectors, tokens and position embeddings without.

    Args:
        model: Whose parameters they are.
        weight_decay: Of matrices.
        learning_rate: With `layer_decay`: rate of what comes after the transformer's blocks.
        layer_decay: Factor of the learning rate for each block further from the head (BEiT; iBOT fine-tunes with
            0.65 to 0.75); the patch embedding counts as one more. 1 makes no difference between layers.

    Returns:
        Groups for an optimiser: two, or with layer-wise rates up to two a layer, each with its `lr`.

    Raises:
        ValueError: Layer-wise rates of a model without a transformer.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    depth = 1 + max((layer_of(name, 0) for name, _ in model.named_parameters()), default=0)
    if layer_decay != 1 and depth == 1:
        raise ValueError(f"layer_decay is for transformers; {type(model).__name__} has no blocks: leave it at 1")
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for exempt in (False, True):
        for name, parameter in named:
            if exempt == is_decayed(name, parameter):
                continue
            layer = depth if layer_decay == 1 else layer_of(name, depth)
            group = {"params": [], "weight_decay": 0.0 if exempt else weight_decay}
            if exempt:  # optimisers for matrices (Muon) leave these to AdamW; the others ignore the key
                group["use_fallback"] = True
            if layer_decay != 1:
                group["lr"] = (learning_rate or 0.0) * layer_decay ** (depth - layer)
            groups.setdefault((layer, exempt), group)["params"].append(parameter)
    return list(groups.values())


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter decays: matrices do; vectors, tokens and position embeddings do not."""
    return parameter.ndim >= 2 and not name.endswith(NO_DECAY_NAMES)


def layer_of(name: str, head: int) -> int:
    """Depth of a parameter: 0 for the embeddings, 1 for the first block, ..., `head` for all that follows."""
    if _EMBEDDING.search(name):
        return 0
    block = _BLOCK.search(name)
    return head if block is None else int(block[2]) + 1


def build_optimizer(
    model: nn.Module, name: str, learning_rate: float, weight_decay: float, layer_decay: float = 1.0, **options: Any
) -> Optimizer:
    """An optimiser of timm's collection by name ("adam", "adamw", "muon", "lamb", ...).

    Args:
        model: Whose trainable parameters are optimised.
        name: As ``timm.optim.list_optimizers()`` lists it.
        learning_rate: Base rate of every group.
        weight_decay: Of matrices; vectors and embeddings are exempt.
        layer_decay: See :func:`parameter_groups`.
        **options: Further arguments of that optimiser.

    Raises:
        ValueError: timm has no optimiser of that name.
    """
    groups = parameter_groups(model, weight_decay, learning_rate, layer_decay)
    return create_optimizer_v2(groups, opt=name, lr=learning_rate, weight_decay=weight_decay, **options)
