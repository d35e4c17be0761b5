"""The Trainer of pre-training: its schedules, the teacher's update, and views that are made on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import logging

from ..modeling_pretraining_handmim import HandMIMForPreTraining
from .optim import build_optimizer, parameter_groups
from .trainer import RunArguments, RunTrainer
from .view_rendering import finish_on_device

logger = logging.get_logger(__name__)

# Spread of the features below which they count as collapsed: 1 is healthy, 0 is one output for all pictures.
COLLAPSED_SPREAD = 0.02
SCHEDULE_KWARGS = {"min_lr": 1.0e-6}


@dataclass
class PreTrainingArguments(RunArguments):
    """Arguments of pre-training. Where the paper (section 3.1) is silent the values are iBOT's.

    Args:
        learning_rate: At the end of the warm-up, for a step of `reference_batch_size` pictures; it is in proportion
            to the batch (section 3.1: 2e-3 at 1024, which is iBOT's 5e-4 at 256).
        reference_batch_size: 0: `learning_rate` is what it says, whatever the batch.
        lr_scheduler_type: Cosine down to `min_lr` of `lr_scheduler_kwargs` (iBOT: 1e-6).
        warmup_epochs: Linear warm-up of the learning rate from 0 (iBOT: 10); takes precedence over `warmup_steps`.
        weight_decay: At the start (iBOT: 0.04).
        final_weight_decay: At the end, along a cosine (iBOT: 0.4); None: no change.
        max_grad_norm: Norm to which a step's gradient is clipped (iBOT: 3.0, there parameter by parameter).
        frozen_prototype_epochs: For so long the prototypes, where there are any, keep their first values (iBOT: 1).
        render_views: Where the pixels of views are made: by the loader's "worker"s, on the training "device", or
            "auto": on the device if that is a GPU.
        broken_images: What to do about a picture that cannot be read: "skip" it, naming it in the log, or "fatal".
    """

    learning_rate: float = field(default=2e-3, metadata={"help": "Peak rate at reference_batch_size."})
    reference_batch_size: int = field(default=1024, metadata={"help": "Batch that learning_rate is for; 0: any."})
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "Schedule of the learning rate."})
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(default=None, metadata={"help": "Of that schedule."})
    warmup_epochs: float | None = field(default=None, metadata={"help": "Linear warm-up of the learning rate."})
    weight_decay: float = field(default=0.04, metadata={"help": "Weight decay at the start."})
    final_weight_decay: float | None = field(default=0.4, metadata={"help": "Weight decay at the end."})
    max_grad_norm: float = field(default=3.0, metadata={"help": "Gradients are clipped to this norm; 0: they are not."})
    frozen_prototype_epochs: float = field(default=1.0, metadata={"help": "Epochs without learning prototypes."})
    render_views: Literal["auto", "worker", "device"] = field(default="auto", metadata={"help": "Who makes views."})
    broken_images: Literal["skip", "fatal"] = field(default="skip", metadata={"help": "What to do about them."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Every step sees a whole batch."})
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "All processes compute the same."})

    def __post_init__(self) -> None:
        if self.lr_scheduler_kwargs is None and self.lr_scheduler_type == "cosine_with_min_lr":
            self.lr_scheduler_kwargs = dict(SCHEDULE_KWARGS)
        super().__post_init__()
        for name, known in (("render_views", ("auto", "worker", "device")), ("broken_images", ("skip", "fatal"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.learning_rate == 0:  # the schedule's least rate is a share of it
            raise ValueError("learning_rate must be above 0, got 0")
        for name in ("reference_batch_size", "frozen_prototype_epochs", "warmup_epochs", "final_weight_decay"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def step_batch_size(self) -> int:
        """Pictures in a step, of all processes and accumulation steps."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        scale = self.step_batch_size / self.reference_batch_size if self.reference_batch_size else 1.0
        return self.learning_rate * scale

    @property
    def rendering_place(self) -> Literal["worker", "device"]:
        """`render_views`, decided."""
        return self.decide_place(self.render_views)


def cosine_between(first: float, last: float, progress: float) -> float:
    """From `first` at progress 0 to `last` at 1 along half a cosine."""
    share = (1 - math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
    return first * (1 - share) + last * share


class PreTrainer(RunTrainer):
    """The Trainer of `HandMIMForPreTraining`, on batches of `ViewPairs`.

    Logs every loss term, the indicators of a collapse, and the schedules' values.
    """

    args: PreTrainingArguments
    advice = (
        "Look at these pictures, or go on from there with a smaller training.learning_rate, a longer "
        "training.warmup_epochs, or without training.bf16"
    )
    ids_key = "index"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._told_collapse = False
        self.add_callback(_FollowSchedules(self))

    @property
    def network(self) -> HandMIMForPreTraining:
        """The model without what accelerate and the compiler wrap around it."""
        return self.accelerator.unwrap_model(self.model)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """AdamW, or timm's where ``timm_optimizer`` names one, at the rate for this batch; the teacher is left out."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        rate, decay = self.args.peak_learning_rate, self.args.weight_decay
        if self.args.timm_optimizer is not None:
            self.optimizer = build_optimizer(model, self.args.timm_optimizer, rate, decay, self.args.layer_decay)
        else:
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(model, decay, rate, self.args.layer_decay)
            self.optimizer = optimizer(groups, **options | {"lr": rate})
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """transformers' schedule, with a warm-up in epochs."""
        if self.args.warmup_epochs is not None:
            steps = round(self.args.warmup_epochs * self.steps_per_epoch)
            self.args.warmup_steps = min(steps, num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    @property
    def steps_per_epoch(self) -> float:
        """Optimiser steps in an epoch, a fraction where pictures are left over; for any number of processes."""
        return len(self.train_dataset) / self.args.step_batch_size

    def get_train_dataloader(self) -> DataLoader:
        """transformers' loader; batches whose views are made on the device stay on the CPU until then."""
        loader = super().get_train_dataloader()
        if self.train_dataset.render == "device":
            loader.device = None
        return loader

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "images" in inputs:
            inputs = finish_on_device(inputs, self.args.device, self.train_dataset.augmentation.size)
        return super()._prepare_inputs(inputs)

    def sample_names(self, ids: Tensor) -> list[str]:
        """The pictures of a batch by index and name."""
        images = self.train_dataset.images
        return [f"{index} ({images.describe(index)})" for index in ids.tolist()]

    def logged_terms(self, outputs: Any) -> dict[str, Tensor]:
        """Losses and indicators of a collapse."""
        return super().logged_terms(outputs) | outputs.indicators

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means since the last line, and the schedules; tell once of features that collapse."""
        if "loss" in logs:
            logs |= self.schedule()
            if self.train_dataset.skipped:
                logs["skipped_images"] = float(self.train_dataset.skipped)
        super().log(logs, start_time)
        if logs.get("feature_spread", 1.0) < COLLAPSED_SPREAD and not self._told_collapse:
            self._told_collapse = True
            logger.warning(
                f"step {self.state.global_step}: the features of different pictures hardly differ (feature_spread "
                f"{logs['feature_spread']:.4f}): training has collapsed, or has not begun to tell them apart"
            )

    def schedule(self) -> dict[str, float]:
        """The values that change with the step, apart from the learning rate, as the coming step uses them."""
        args, step = self.args, self.state.global_step
        progress = step / max(self.state.max_steps, 1)
        values = {"weight_decay": args.weight_decay}
        if args.final_weight_decay is not None:
            values["weight_decay"] = cosine_between(args.weight_decay, args.final_weight_decay, progress)
        options = self.network.config.pretraining_config
        if options.uses_teacher:
            values["teacher_momentum"] = cosine_between(options.teacher_momentum, 1.0, progress)
        return values


class _FollowSchedules(TrainerCallback):
    """Everything that depends on the step: each value is a function of it alone, so that a resumed run has the same."""

    def __init__(self, trainer: PreTrainer) -> None:
        self.trainer = trainer
        self._momentum = 1.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        values = self.trainer.schedule()
        self._momentum = values.get("teacher_momentum", 1.0)
        self.trainer.network.set_epoch(state.global_step / self.trainer.steps_per_epoch)
        for group in self.trainer.optimizer.param_groups:
            if not group.get("use_fallback"):  # `parameter_groups` marks those without decay so
                group["weight_decay"] = values["weight_decay"]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """DINO and iBOT: while the prototypes are new, learning them too is unstable."""
        if state.global_step >= args.frozen_prototype_epochs * self.trainer.steps_per_epoch:
            return
        prototypes = getattr(getattr(self.trainer.network, "projector", None), "prototypes", None)
        if prototypes is not None:
            prototypes.grad = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.network.update_teacher(self._momentum)
