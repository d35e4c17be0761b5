"""What the model families share as transformers' models: flags, initialisation, saving and publishing."""

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import CONFIG_NAME

from .config_format import change_field
from .errors import InputError
from .hand_model import HandModel
from .hand_state import Correction
from .open_hand_file import copy_open_hand, find_open_hand, hub_access, is_remote_code, keep_remote_code


def build_hand_model(config: PreTrainedConfig, path: str | None) -> HandModel:
    """The right hand that a mesh model of this configuration poses; `path` is for MANO's file."""
    if config.hand_model == "open":
        path = find_open_hand(config.name_or_path) if is_remote_code() else None
    return HandModel(config.hand_model, side="right", path=path)


def score_layers(channels: int, hidden: int) -> nn.Module:
    """From features (B, C) to one logit (B, 1): linear, or with a hidden layer of `hidden` channels."""
    if not hidden:
        return nn.Linear(channels, 1)
    return nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, 1))


@contextmanager
def still_averages(module: nn.Module) -> Iterator[None]:
    """For a while the running averages of a module's batch norms stay as they are, whatever they normalise.

    By their momentum: without averages to update, fewer tensors would be kept for the gradient than the first time.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


# Arguments of `save_pretrained` that only its push takes.
PUSH_OPTIONS = (
    *("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags"),
    *("reports", "notes", "licence", "base_model", "datasets", "carry_code"),  # of publishing.push alone
)


class HandPreTrainedModel(PreTrainedModel):
    """Base of the families' own bases, which set `config_class` and initialise what is theirs."""

    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear and norm layers; also fills the hand model, whose buffers no checkpoint holds."""
        if isinstance(module, Correction):
            init.xavier_uniform_(module.weight, gain=0.01)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, HandModel):
            module.reset_buffers()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, **kwargs: Any
    ) -> None:
        """transformers' own, never with `use_reentrant`: that loses the gradients of blocks which take no tensor that
        needs one, as the first does, or which give dictionaries."""
        if getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            warnings.warn("use_reentrant=True would lose gradients of this network: it is passed over", stacklevel=4)
            options = gradient_checkpointing_func.keywords | {"use_reentrant": False}
            gradient_checkpointing_func = partial(gradient_checkpointing_func.func, **options)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)

    def compute_again(self, block: nn.Module, *inputs: Tensor) -> Any:
        """What a block gives, to be computed again for its gradient (gradient checkpointing).

        Its running averages have seen the batch by then: they move the first time only.
        """
        seen = False

        def run(*inputs: Tensor) -> Any:
            nonlocal seen
            again, seen = seen, True
            with still_averages(block) if again else nullcontext():
                return block(*inputs)

        compiled = torch.compiler.is_compiling()  # which computes again what has no side effects
        return self._gradient_checkpointing_func(block.__call__ if compiled else run, *inputs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> PreTrainedModel:
        """transformers' own; where this code came from the Hub, the open hand's file does in the same way."""
        with hub_access(kwargs):
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def set_image_size(self, image_size: int) -> None:
        """Expect crops of another size.

        Args:
            image_size: Side of the crops in pixels.

        Raises:
            ValueError: The network's strides do not divide it; nothing is changed.
        """
        change_field(self.config, "image_size", image_size)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *args: Any,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """transformers' own; a folder that gets the code (of a class that is marked for it) gets all of it, and, of a
        model with a hand, the open hand too."""
        for name in ("variant", "state_dict"):
            if push_to_hub and kwargs.get(name) is not None:
                raise InputError(
                    f"{name}= and push_to_hub=True do not go together: the model's own weights are published, as "
                    "model.safetensors. Save alone, and upload the folder with huggingface_hub"
                )
        hub = {name: kwargs.pop(name) for name in PUSH_OPTIONS if push_to_hub and name in kwargs}
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if self._auto_class is not None and is_main_process:
            if is_remote_code():
                keep_remote_code(save_directory, CONFIG_NAME)
            if hasattr(self, "hand_model") and self.config.hand_model == "open":
                copy_open_hand(save_directory, self.config.name_or_path)
        if push_to_hub and is_main_process:
            if "max_shard_size" in kwargs:
                hub["max_shard_size"] = kwargs["max_shard_size"]
            name = os.path.basename(os.path.normpath(save_directory))
            self.push_to_hub(hub.pop("repo_id", name), token=kwargs.get("token"), **hub)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Publish the model: weights, configurations, card, and the code to load it without the package.

        Args:
            repo_id: "organisation/name".
            kwargs: As transformers takes them (`private`, `token`, `revision`, `commit_message`, ...; `tags` are the
                card's own), and those of `publishing.push`: `reports`, `notes`, `licence`, `base_model`, `datasets`,
                `carry_code`.

        Returns:
            The commit, as transformers does.
        """
        if is_remote_code():  # without the package there is no card to write; transformers' own will do
            return super().push_to_hub(repo_id, **kwargs)
        return importlib.import_module(".publishing", __package__).push(repo_id, model=self, **kwargs)
