"""The Trainers of handmim: transformers' own, plus what a run of days and a released checkpoint want.

`RunTrainer`, for every kind of training: layer-wise learning rates, randomness that survives a kill, a log of every
loss term, and a stop at the first loss that is not finite. `AveragingTrainer`, for what is released: an average of
weights. `HandMIMTrainer`, for mesh models: metrics in millimetres on held-out data.
"""

import json
import math
import os
import re
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging

from handmim.atomic_files import atomic_file
from handmim.errors import HandMIMError
from handmim.training.datasets.synthetic import render_on_device, sources
from handmim.training.ema import WeightAverage
from handmim.training.hub_push import PublishingTrainer
from handmim.training.optim import build_optimizer, is_decayed, parameter_groups
from handmim.training.validation_errors import all_errors, mean_errors

logger = logging.get_logger(__name__)

_NO_MEMORY = "can't allocate memory"  # of PyTorch on a CPU, which has no type for it
MAX_NAMES = 16  # samples that an error names; all of them go to a file
BAD_BATCH_FILE = "bad_batch.txt"


class NonFiniteLossError(HandMIMError, ArithmeticError):
    """A loss or gradient that is no number; the message names the step, the terms and the samples."""


class OutOfMemory(HandMIMError, MemoryError):
    """A step did not fit; the message says how to make it smaller."""


@dataclass
class RunArguments(TrainingArguments):
    """transformers' arguments with the package's defaults, and two of their own.

    Args:
        timm_optimizer: Name of an optimiser of timm's collection, used in place of ``optim``.
        layer_decay: Factor of the learning rate for each block further from the head; 1 treats all alike.
    """

    timm_optimizer: str | None = field(default=None, metadata={"help": "Optimiser by timm's name, in place of optim."})
    layer_decay: float = field(default=1.0, metadata={"help": "Factor of the learning rate a block, from the head."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Losses that are no numbers stop the run."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Data sets yield exactly what forward takes."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be finite and not negative, got {self.learning_rate}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}")
        if self.device.type == "cpu":  # pinned memory is for copies to a GPU; PyTorch warns
            self.dataloader_pin_memory = False
        if self.n_gpu > 1:  # transformers would use DataParallel, whose replicas lose what forward writes to buffers
            logger.warning(
                f"one of {self.n_gpu} GPUs is used; for all of them run torchrun, as the command's --help says"
            )
            self._n_gpu = 1

    @property
    def device(self) -> torch.device:
        """The device of this process. On CPU without the rank as index, which older versions cannot resume onto."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    def decide_place(self, choice: Literal["auto", "worker", "device"]) -> Literal["worker", "device"]:
        """Where pictures are made: as chosen, or for "auto" on the training device if that is a GPU."""
        if choice == "auto":
            return "worker" if self.device.type == "cpu" else "device"
        return choice


@dataclass
class HandMIMTrainingArguments(RunArguments):
    """Arguments of the training of a model that is released.

    Args:
        ema_decay: Decay a step of the average of weights that is evaluated and released; 0 keeps none.
        render_hands: Where synthetic hands of a recipe are rendered: by the loader's "worker"s, on the training
            "device", or "auto": on the device if that is a GPU. Plain CPU workers feed no GPU.
    """

    ema_decay: float = field(default=0.999, metadata={"help": "Decay a step of the released average of weights."})
    render_hands: Literal["auto", "worker", "device"] = field(default="auto", metadata={"help": "Who renders hands."})
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Name of the labels."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.render_hands not in ("auto", "worker", "device"):
            raise ValueError(f"render_hands must be auto, worker or device, got {self.render_hands!r}")

    @property
    def rendering_place(self) -> Literal["worker", "device"]:
        """`render_hands`, decided."""
        return self.decide_place(self.render_hands)


class RunTrainer(PublishingTrainer):
    """``transformers.Trainer`` that logs the terms of a model's loss, and stops at one that is no number.

    The model's output has `loss` and `losses`, the terms by name. Batches may name their samples as `sample_ids`.
    """

    args: RunArguments
    advice = "Go on from there with a smaller training.learning_rate"
    ids_key = "sample_ids"  # of a batch: what `sample_names` takes, and the model does not

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._terms: dict[str, Tensor] = {}
        self._terms_seen = 0
        self._part = (-1, 0)  # step, and which of its parts (gradient accumulation)
        self._recent_ids: deque[Any] = deque(maxlen=self.args.gradient_accumulation_steps)
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(SetEpoch(self.train_dataset))
        self.add_callback(_StopAtBadGradient(self))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """transformers' optimiser, or timm's where ``timm_optimizer`` names one; with layer-wise rates if asked for."""
        if self.optimizer is not None or (self.args.timm_optimizer is None and self.args.layer_decay == 1):
            return super().create_optimizer(model)
        model = self.model if model is None else model
        rates = (self.args.learning_rate, self.args.weight_decay)
        if self.args.timm_optimizer is not None:
            self.optimizer = build_optimizer(model, self.args.timm_optimizer, *rates, self.args.layer_decay)
        else:
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(model, rates[1], rates[0], self.args.layer_decay)
            self.optimizer = optimizer(groups, **options)
        return self.optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """What transformers' own optimiser lets decay; it would pull positions and tokens together, too."""
        return [name for name, parameter in model.named_parameters() if is_decayed(name, parameter)]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """transformers' own, which brings the rates and decays of the checkpoint; then those that are asked for now."""
        asked = [] if self.optimizer is None else [dict(group) for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        for number, now in enumerate(asked):
            group = self.optimizer.param_groups[number]
            before, rate = group.get("initial_lr"), now.get("initial_lr")
            if before != rate:
                group["lr"] = group["lr"] * rate / before if before else rate
                group["initial_lr"] = self.lr_scheduler.base_lrs[number] = rate
            if "weight_decay" in now:
                group["weight_decay"] = now["weight_decay"]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """A step whose dropout depends on (seed, step, part of the step, process) alone.

        Saved generator states would not do: how often a loader draws from the global generator depends on whether its
        workers outlive an epoch, which a resumed run's first loader does not.
        """
        step = self.state.global_step
        self._part = (step, self._part[1] + 1 if self._part[0] == step else 0)
        numbers = np.random.SeedSequence([self.args.seed, *self._part, self.args.process_index])
        torch.manual_seed(int(numbers.generate_state(1, np.uint64)[0]))
        try:
            return super().training_step(model, inputs, *args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and _NO_MEMORY not in str(error):
                raise
            raise self.out_of_memory(error) from error

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The model's own loss; its terms are summed up for the next log line.

        Raises:
            NonFiniteLossError: In training; nothing has been changed by this batch then.
        """
        inputs = dict(inputs)
        ids = inputs.pop(self.ids_key, None)
        outputs = model(**inputs)
        if model.training:
            self._recent_ids.append(ids)
            if not torch.isfinite(outputs.loss):
                bad = [name for name, value in outputs.losses.items() if not torch.isfinite(value)]
                raise self.not_finite(f"the loss is {outputs.loss.item()} ({', '.join(bad) or 'sum'})")
            self._remember(self.logged_terms(outputs))
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def not_finite(self, what: str) -> NonFiniteLossError:
        """The error that stops a run, with the samples of the batch and where the last checkpoint is."""
        ids = [name for batch in self._recent_ids if batch is not None for name in self.sample_names(batch)]
        named = ", ".join(ids[:MAX_NAMES]) if ids else "not named by the data set"
        if len(ids) > MAX_NAMES:
            path = Path(self.args.output_dir) / f"{self.args.process_index}_{BAD_BATCH_FILE}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(("\n".join(ids) + "\n").encode())
            named += f" and {len(ids) - MAX_NAMES} more, listed in {path}"
        last = last_checkpoint(self.args.output_dir)
        return NonFiniteLossError(
            f"step {self.state.global_step + 1}: {what}; the samples of this batch are {named}. "
            f"The last good checkpoint is {last or 'none: none was saved yet'}. {self.advice}"
        )

    def sample_names(self, ids: Any) -> list[str]:
        """The samples of a batch by name, for messages."""
        return list(ids)

    def logged_terms(self, outputs: Any) -> dict[str, Tensor]:
        """What of a step is averaged for the next log line, by name."""
        return {f"loss_{name}": value for name, value in outputs.losses.items()}

    def out_of_memory(self, error: BaseException) -> OutOfMemory:
        """The error of a step that did not fit, with what makes it smaller."""
        batch, parts = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        checkpointing = "" if self.args.gradient_checkpointing else ", or training.gradient_checkpointing=true"
        return OutOfMemory(
            f"no memory left for {batch} samples at once ({str(error).splitlines()[0][:120]}). Try --set "
            f"training.gradient_accumulation_steps={2 * parts}, which keeps the batch_size of a step (terms of labels "
            f"that few samples have weigh less then){checkpointing}"
        )

    def _remember(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0) + value.detach()
        self._terms_seen += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every term since the last line."""
        if "loss" in logs and self._terms_seen:
            logs |= {name: float(value) / self._terms_seen for name, value in self._terms.items()}
            self._terms, self._terms_seen = {}, 0
        super().log(logs, start_time)


class AveragingTrainer(RunTrainer):
    """Follows the weights by an average, which is what is evaluated and released."""

    args: HandMIMTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.average = WeightAverage(self.model, self.args.ema_decay) if self.args.ema_decay else None
        if self.average is not None:
            self.add_callback(_UpdateAverage(self.average))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """transformers' evaluation, of the averaged weights if there is an average."""
        model = self.accelerator.unwrap_model(self.model)
        with nullcontext() if self.average is None else self.average.applied_to(model):
            return super().evaluate(*args, **kwargs)

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

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None:
            self.average.load(self.state.best_model_checkpoint)

    def save_weights(self, folder: str | os.PathLike, dtype: torch.dtype = torch.float32) -> None:
        """Write the averaged weights, or the last ones without an average, for ``from_pretrained``.

        Args:
            folder: Where ``config.json`` and ``model.safetensors`` go.
            dtype: Of the stored floating values; float16 halves the file and changes vertices by micrometres.
        """
        model = self.accelerator.unwrap_model(self.model)
        state = model.state_dict() if self.average is None else self.average.state_dict(model)
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        model.save_pretrained(folder, state_dict=state)


class HandMIMTrainer(AveragingTrainer):
    """The Trainer of mesh models: measures hands.

    The model also trains under the plain ``Trainer``; this class and its base add what a released checkpoint wants.
    With an ``eval_dataset`` of items with joints it reports ``eval_pa_mpjpe``, ``eval_pa_mpvpe`` and ``eval_mpjpe``
    (relative to the wrist) in millimetres, with keypoints ``eval_mesh_2d`` (mean error of the mesh's, sides of the
    crop), of the averaged weights if there is an average; of HIU-DMTL also ``eval_heatmap_2d`` and ``eval_mask_iou``,
    as `map_errors` has them.
    """

    advice = (
        "Look at these samples' labels (handmim check-data), or go on from there with a smaller training.learning_rate"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("compute_metrics", mean_errors)
        super().__init__(*args, **kwargs)
        self._sources = sources(self.train_dataset)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """transformers' own, then what is left to be rendered."""
        inputs = super()._prepare_inputs(inputs)
        return render_on_device(inputs, self._sources, self.args.device) if "unrendered" in inputs else inputs

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss and errors of a batch: (B, 6), as `all_errors` has them; meshes are not gathered."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        errors = all_errors(outputs, inputs["labels"], inputs["pixel_values"].shape[-1])
        return loss.detach(), errors, errors.isfinite()


class _UpdateAverage(TrainerCallback):
    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any) -> None:
        self.average.update(model.module if hasattr(model, "module") else model)


class SetEpoch(TrainerCallback):
    """Tells a data set the epoch. Give it to a plain ``Trainer`` too: on several processes, and in the epoch a resumed
    run starts in, accelerate (1.15) tells only the sampler.

    Args:
        dataset: With ``set_epoch``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


class _StopAtBadGradient(TrainerCallback):
    """A finite loss can have a gradient that is no number: it must not reach the weights."""

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        if args.fp16:  # the scaler of losses overflows on purpose, and skips these steps itself
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if gradients and not torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all():
            raise self.trainer.not_finite("the gradient is not finite, though the loss is")


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """The newest whole checkpoint of a run; a run that was killed while it wrote one goes on from the one before."""
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and _is_whole(path):
            found.append((int(number[1]), str(path)))
    return max(found)[1] if found else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # written last
    except (OSError, ValueError):
        return False
    return True
