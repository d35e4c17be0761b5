"""The Trainer of handmim: transformers' own, plus an average of weights and a log of every loss term."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from handmim.training.ema import WeightAverage
from handmim.training.optim import build_optimizer


@dataclass
class HandMIMTrainingArguments(TrainingArguments):
    """transformers' arguments with the package's defaults, and two of their own.

    Args:
        ema_decay: Decay a step of the average of weights that is released; 0 keeps none.
        timm_optimizer: Name of an optimiser of timm's collection, used in place of ``optim``.
    """

    ema_decay: float = field(default=0.999, metadata={"help": "Decay a step of the released average of weights."})
    timm_optimizer: str | None = field(default=None, metadata={"help": "Optimiser by timm's name, in place of optim."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Data sets yield exactly what forward takes."})
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Name of the labels."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})

    @property
    def device(self) -> torch.device:
        """The device of this process. On CPU without the rank as index, which older versions cannot resume onto."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


class HandMIMTrainer(Trainer):
    """``transformers.Trainer`` that follows the weights by an average and logs the terms of the loss.

    The model also trains under the plain ``Trainer``; this class adds what a released checkpoint wants.
    """

    args: HandMIMTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.average = WeightAverage(self.model, self.args.ema_decay) if self.args.ema_decay else None
        self._terms: dict[str, Tensor] = {}
        self._terms_seen = 0
        if self.average is not None:
            self.add_callback(_UpdateAverage(self.average))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """transformers' optimiser, or timm's where ``timm_optimizer`` names one."""
        if self.args.timm_optimizer is None:
            return super().create_optimizer(model)
        if self.optimizer is None:
            self.optimizer = build_optimizer(
                self.model if model is None else model,
                self.args.timm_optimizer,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The model's own loss; its terms are summed up for the next log line."""
        outputs = model(**inputs)
        if model.training:
            self._remember(outputs.losses)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _remember(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            self._terms[name] = self._terms.get(name, 0) + value.detach()
        self._terms_seen += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every loss term since the last line."""
        if "loss" in logs and self._terms_seen:
            logs |= {f"loss_{name}": float(value) / self._terms_seen for name, value in self._terms.items()}
            self._terms, self._terms_seen = {}, 0
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # The average goes first: a folder that holds trainer_state.json is then known to be whole.
        if self.average is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            self.average.save(folder)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str | os.PathLike, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(resume_from_checkpoint)

    def save_average(self, folder: str | os.PathLike, dtype: torch.dtype = torch.float32) -> None:
        """Write the averaged weights as a checkpoint that ``from_pretrained`` loads.

        Args:
            folder: Where ``config.json`` and ``model.safetensors`` go.
            dtype: Of the stored floating values; float16 halves the file and changes vertices by micrometres.
        """
        if self.average is None:
            raise ValueError("there is no average to save: this run was started with ema_decay=0")
        model = self.accelerator.unwrap_model(self.model)
        state = self.average.state_dict(model)
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        model.save_pretrained(folder, state_dict=state)


class _UpdateAverage(TrainerCallback):
    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any) -> None:
        self.average.update(model.module if hasattr(model, "module") else model)
