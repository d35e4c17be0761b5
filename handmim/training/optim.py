"""Parameter groups and optimisers."""

from typing import Any

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

# Embeddings and tokens have two dimensions or more, but decay would pull positions together: DeiT, iBOT exempt them.
NO_DECAY_NAMES = ("pos_embed", "cls_token", "mask_token")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices with decay; vectors, tokens and position embeddings without."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or name.endswith(NO_DECAY_NAMES)
            (plain if exempt else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        # use_fallback: optimisers for matrices (Muon) leave these to AdamW; the others ignore the key.
        {"params": plain, "weight_decay": 0.0, "use_fallback": True},
    ]


def build_optimizer(
    model: nn.Module, name: str, learning_rate: float, weight_decay: float, **options: Any
) -> Optimizer:
    """An optimiser of timm's collection by name ("adam", "adamw", "muon", "lamb", ...).

    Args:
        model: Whose trainable parameters are optimised.
        name: As ``timm.optim.list_optimizers()`` lists it.
        learning_rate: Base rate of every group.
        weight_decay: Of matrices; vectors and embeddings are exempt.
        **options: Further arguments of that optimiser.

    Raises:
        ValueError: timm has no optimiser of that name.
    """
    groups = parameter_groups(model, weight_decay)
    return create_optimizer_v2(groups, opt=name, lr=learning_rate, weight_decay=weight_decay, **options)
