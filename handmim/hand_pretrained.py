"""What the model families share as transformers' models: flags, and the initialisation of what all of them have."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .hand_model import HandModel
from .hand_state import Correction


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
