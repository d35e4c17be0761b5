"""Exponential moving average of a model's weights: the weights that are evaluated and released."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

EMA_FILE = "ema.safetensors"


class WeightAverage:
    """A float32 shadow of every floating parameter and persistent buffer of a model.

    The decay warms up as ``(1 + step) / (10 + step)``, so that the average forgets the random start whatever the
    length of the run.

    Args:
        model: Whose weights are followed; the shadow starts as a copy of them.
        decay: Upper bound of the decay a step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.step = 0
        self.shadow = {name: value.detach().float().clone() for name, value in _followed(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the shadow towards the model's present weights; once after each optimiser step."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        current = _followed(model)
        shadow = [self.shadow[name] for name in current]
        torch._foreach_lerp_(shadow, [value.detach().float() for value in current.values()], 1 - decay)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state dict with every followed value replaced by its average, in the model's own dtypes."""
        state = model.state_dict()
        return {
            name: self.shadow[name].to(value.dtype) if name in self.shadow else value for name, value in state.items()
        }

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights for a while; its own come back bit for bit."""
        own = {name: value.detach().clone() for name, value in _followed(model).items()}
        self._copy(self.shadow, model)
        try:
            yield
        finally:
            self._copy(own, model)

    @staticmethod
    @torch.no_grad()
    def _copy(values: dict[str, Tensor], model: nn.Module) -> None:
        for name, value in _followed(model).items():
            value.copy_(values[name])

    def save(self, folder: str | os.PathLike) -> None:
        """Write the shadow and the step count into a checkpoint folder, all or nothing."""
        target = Path(folder) / EMA_FILE
        temporary = target.with_suffix(".tmp")
        save_file(self.shadow, temporary, metadata={"step": str(self.step)})
        os.replace(temporary, target)

    def load(self, folder: str | os.PathLike) -> None:
        """Read what :meth:`save` wrote; afterwards the average goes on exactly where it stopped.

        Raises:
            FileNotFoundError: The checkpoint was written without an average.
            ValueError: The average belongs to another architecture.
        """
        path = Path(folder) / EMA_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: this checkpoint was written by a run without ema_decay")
        shadow = load_file(path)
        unlike = {name for name in self.shadow.keys() | shadow.keys() if not _same_shape(self.shadow, shadow, name)}
        if unlike:
            raise ValueError(f"{path} is of another architecture: {sorted(unlike)[:3]} differ")
        self.step = _saved_step(path)
        self.shadow = {name: shadow[name].to(value.device) for name, value in self.shadow.items()}


def _followed(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def _same_shape(left: dict[str, Tensor], right: dict[str, Tensor], name: str) -> bool:
    return name in left and name in right and left[name].shape == right[name].shape


def _saved_step(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])
