"""What every model of the package must pass, written once.

A test class derives from `ModelTests` and says how its model is made:

    class TestMyModel(ModelTests):
        model_class = MyModel
        output_names = ("vertices", "joints")

        def make_config(self): ...
        def make_inputs(self, config): ...  # with labels, so that the model returns a loss
"""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

REMOTE_SCRIPT = """
import sys, torch
from transformers import AutoModel
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules"), type(model)
case = torch.load(folder + "/case.pt")
with torch.no_grad():
    output = model(**case["inputs"])
for name, expected in case["outputs"].items():
    torch.testing.assert_close(output[name], expected, rtol=1e-4, atol=1e-5, msg=name)
assert "handmim" not in sys.modules
"""


def poison_memory() -> None:
    """Fills freed memory with NaN, so that a buffer nobody initialised shows."""
    blocks = [torch.full((size,), float("nan")) for size in [2**k for k in range(4, 22)] * 4]
    del blocks


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def enable_checkpointing(model: PreTrainedModel) -> Callable[..., None]:
    """transformers' method, under its name of now or, in older versions, of before."""
    return getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable


class ModelTests:
    """Forward, backward, saving and loading in every way, precision, checkpointing, Auto classes, remote code."""

    model_class: ClassVar[type[PreTrainedModel]]
    output_names: ClassVar[tuple[str, ...]]
    checkpointed_module: ClassVar[str] = ""  # qualified name of a module whose forward is recomputed
    bfloat16_tolerance: ClassVar[float] = 0.1

    def make_config(self) -> PreTrainedConfig:
        """A configuration that runs in milliseconds, with every option of the model on."""
        raise NotImplementedError

    def make_inputs(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Arguments of forward, with labels."""
        raise NotImplementedError

    @pytest.fixture()
    def model(self) -> PreTrainedModel:
        torch.manual_seed(0)
        return self.model_class(self.make_config()).eval()

    @pytest.fixture()
    def inputs(self, model: PreTrainedModel) -> dict[str, Any]:
        torch.manual_seed(1)
        return self.make_inputs(model.config)

    def run(self, model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """The compared outputs, without gradients or labels."""
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            output = model(**inputs)
        return {name: output[name] for name in self.output_names}

    def reload(self, folder: Path, **kwargs: Any) -> PreTrainedModel:
        poison_memory()
        return self.model_class.from_pretrained(folder, **kwargs).eval()

    def assert_same(self, first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 0.0) -> None:
        for name, expected in first.items():
            torch.testing.assert_close(
                second[name].float(),
                expected.float(),
                rtol=tolerance,
                atol=tolerance,
                msg=lambda m, n=name: f"{n}: {m}",
            )

    # -- forward and backward

    def test_outputs_are_finite_and_deterministic(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        first = self.run(model, inputs)
        assert all(value.isfinite().all() for value in first.values())
        self.assert_same(first, self.run(model, inputs))

    def test_samples_do_not_mix(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        batch = self.run(model, inputs)
        first = {name: value[:1] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        single = self.run(model, first)
        self.assert_same(single, {name: value[:1] for name, value in batch.items()}, tolerance=1e-4)

    def test_every_parameter_gets_a_finite_gradient(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        loss = model.train()(**inputs).loss
        loss.backward()
        assert loss.isfinite() and loss.dtype == torch.float32
        for name, parameter in trainable(model).items():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_return_dict_false_gives_a_tuple(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        output = model(**inputs, return_dict=False)
        assert isinstance(output, tuple) and torch.equal(output[0], model(**inputs).loss)

    def test_gradient_checkpointing_equals_plain(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        model.train()
        model.get_submodule(self.checkpointed_module).register_forward_pre_hook(count)
        other = copy.deepcopy(model)
        enable_checkpointing(other)()
        gradients = []
        for candidate, expected_calls in ((model, 1), (other, 2)):
            calls = 0
            torch.manual_seed(2)
            candidate(**inputs).loss.backward()
            gradients.append({name: parameter.grad for name, parameter in trainable(candidate).items()})
            assert calls == expected_calls
        self.assert_same(*gradients, tolerance=1e-6)
        averages = [dict(candidate.named_buffers()) for candidate in (model, other)]
        self.assert_same(*averages, tolerance=1e-6)  # of batch norms, which move once

    def test_reentrant_checkpointing_is_passed_over(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        """It would lose gradients without a word."""
        model.train()
        with pytest.warns(UserWarning, match="use_reentrant=True would lose gradients"):
            enable_checkpointing(model)({"use_reentrant": True})
        model(**inputs).loss.backward()
        assert all(parameter.grad is not None for parameter in trainable(model).values())

    # -- saving and loading

    def test_save_and_load_on_poisoned_memory(
        self, model: PreTrainedModel, inputs: dict[str, Any], tmp_path: Path
    ) -> None:
        expected = self.run(model, inputs)
        model.save_pretrained(tmp_path)
        self.assert_same(expected, self.run(self.reload(tmp_path), inputs))

    def test_missing_weights_are_initialised(
        self, model: PreTrainedModel, inputs: dict[str, Any], tmp_path: Path
    ) -> None:
        """A checkpoint without any of the model's weights gives a fresh model, not memory's content."""
        model.save_pretrained(tmp_path, state_dict={"unrelated": torch.zeros(1)})
        loaded = self.reload(tmp_path)
        for name, tensor in [*loaded.named_parameters(), *loaded.named_buffers()]:
            if tensor.is_floating_point() and tensor.numel():
                assert tensor.isfinite().all() and tensor.abs().max() < 100, name
        assert all(value.isfinite().all() for value in self.run(loaded, inputs).values())

    def test_loads_as_bfloat16(self, model: PreTrainedModel, inputs: dict[str, Any], tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        loaded = self.reload(tmp_path, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
        computed = {name: b for name, b in loaded.named_buffers() if name not in loaded.state_dict()}
        assert all(buffer.dtype != torch.bfloat16 for buffer in computed.values())
        self.assert_same(self.run(model, inputs), self.run(loaded, inputs), tolerance=self.bfloat16_tolerance)

    def test_float16_file_loads_as_float32(
        self, model: PreTrainedModel, inputs: dict[str, Any], tmp_path: Path
    ) -> None:
        expected = self.run(model, inputs)
        model.save_pretrained(tmp_path, state_dict={k: v.half() for k, v in model.state_dict().items()})
        loaded = self.reload(tmp_path, dtype=torch.float32)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        self.assert_same(expected, self.run(loaded, inputs), tolerance=0.02)

    def test_checkpoint_holds_no_hand_model_array(self, model: PreTrainedModel, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        assert not [name for name in saved if "hand_model" in name]
        arrays = {tuple(b.shape) for n, b in model.named_buffers() if "hand_model" in n and b.numel() > 200}
        assert arrays and not arrays & set(saved.values())

    def test_auto_model_loads_the_same(self, model: PreTrainedModel, inputs: dict[str, Any], tmp_path: Path) -> None:
        import handmim  # noqa: F401 - registers the classes

        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path).eval()
        assert type(loaded) is self.model_class
        self.assert_same(self.run(model, inputs), self.run(loaded, inputs))

    @pytest.fixture()
    def carries_code(self) -> Iterator[None]:
        """`register_for_auto_class` marks the classes for good; unmark them afterwards."""
        config_class = self.model_class.config_class
        before = self.model_class._auto_class, config_class._auto_class
        self.model_class.register_for_auto_class("AutoModel")
        config_class.register_for_auto_class()
        yield
        self.model_class._auto_class, config_class._auto_class = before

    def test_remote_code_gives_the_same(
        self, model: PreTrainedModel, inputs: dict[str, Any], tmp_path: Path, carries_code: None
    ) -> None:
        model.save_pretrained(tmp_path / "model")
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        torch.save({"inputs": inputs, "outputs": self.run(model, inputs)}, tmp_path / "model" / "case.pt")
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "cache"),
        }
        environment.pop("HF_MODULES_CACHE", None)
        result = subprocess.run(
            [sys.executable, "-c", REMOTE_SCRIPT, str(tmp_path / "model")],
            env=environment,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr[-3000:]

    # -- what other code relies on

    def test_flags(self, model: PreTrainedModel) -> None:
        assert model.accepts_loss_kwargs is False  # else gradient accumulation scales loss and gradient
        assert model.main_input_name == "pixel_values"
        assert model.supports_gradient_checkpointing and model._supports_sdpa

    def test_no_module_is_registered_twice(self, model: nn.Module) -> None:
        names = [id(module) for _, module in model.named_modules(remove_duplicate=False)]
        assert len(names) == len(set(names))
