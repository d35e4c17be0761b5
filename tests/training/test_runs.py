"""What runs of recipes share: arguments that fit the machine."""

import logging
from pathlib import Path

import pytest

from handmim.training import runs
from handmim.training.recipe import RecipeError, apply_settings, load_recipe
from handmim.training.runs import arguments_of
from handmim.training.trainer import HandMIMTrainingArguments

SECTION = {"max_steps": 1, "use_cpu": True, "report_to": "none", "bf16": True}


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_for_processors_that_have_it(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runs, "has_bfloat16_instructions", lambda: native)
    monkeypatch.setattr(runs.logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger("handmim"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        arguments = arguments_of(HandMIMTrainingArguments, SECTION, tmp_path)
    assert arguments.bf16 is native
    assert ("bf16 is passed over" in caplog.text) is not native
    assert SECTION["bf16"]  # the recipe itself says what it said


def test_no_without_quotes_is_a_strategy(tmp_path: Path) -> None:
    """YAML reads it as false, of which transformers said that it must be one of no, steps and epoch."""
    (tmp_path / "recipe.yaml").write_text("training: {eval_strategy: no, use_cpu: true, report_to: none}")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    apply_settings(recipe, ["training.save_strategy=no", "training.logging_strategy=epoch"])
    arguments = arguments_of(HandMIMTrainingArguments, recipe["training"], tmp_path)
    assert (arguments.eval_strategy, arguments.save_strategy, arguments.logging_strategy) == ("no", "no", "epoch")
    with pytest.raises(RecipeError, match="training: True is not a valid"):
        arguments_of(HandMIMTrainingArguments, recipe["training"] | {"save_strategy": True}, tmp_path)


@pytest.mark.parametrize(
    ("use_cpu", "accelerator", "emulated"), [(True, True, True), (False, True, False), (False, False, True)]
)
def test_only_a_cpu_emulates(use_cpu: bool, accelerator: bool, emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "has_bfloat16_instructions", lambda: False)
    monkeypatch.setattr(runs.torch.accelerator, "is_available", lambda: accelerator)
    assert runs._bfloat16_is_emulated({"use_cpu": use_cpu}) is emulated
