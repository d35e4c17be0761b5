"""What every run by a recipe shares: reading the recipe, its `training` section, and the programs for torchrun."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from transformers.integrations import is_tensorboard_available
from transformers.utils import logging

from ..acceleration import has_bfloat16_instructions
from ..atomic_files import atomic_file
from ..command_line import complain, one_sentence
from ..errors import HandMIMError
from ..memory_allocator import keep_freed_memory
from .recipe import RecipeError, apply_roots, apply_settings, did_you_mean, expand_variables, load_recipe
from .run_options import add_run_options, roots_of
from .trainer import RunArguments, RunTrainer

logger = logging.get_logger(__name__)

Arguments = TypeVar("Arguments", bound=RunArguments)

NOTES = ("description", "commands")
RELEASE_DTYPES = ("float32", "float16", "bfloat16")
# The sections that only one command's recipes have.
COMMANDS = {"pretraining": "handmim pretrain", "scenes": "handmim train-detector"}


def read_recipe(
    path: str | os.PathLike,
    roots: Mapping[str, str] | None = None,
    settings: Iterable[str] = (),
    *,
    required: Collection[str],
    optional: Collection[str],
) -> dict[str, Any]:
    """Read a recipe and put this machine's folders and this run's changes into it.

    Args:
        path: A YAML file, or the name of a recipe in the package.
        roots: Folder of each data set by name (``--data``).
        settings: Changes of single values (``--set``).
        required, optional: The sections that this kind of run knows, beside the name and what is for readers.

    Raises:
        FileNotFoundError, RecipeError: See `recipe`; or a recipe for another command.
    """
    recipe = load_recipe(path)
    apply_settings(recipe, settings)
    apply_roots(recipe, roots or {})
    known = {*NOTES, "name", "expected", *required, *optional}
    if recipe.keys() - known or not set(required) <= recipe.keys():
        other = [section for section in COMMANDS if (section in recipe) != (section in known)]
        hint = f" ({COMMANDS[other[0]]} is for recipes with the section {other[0]})" if other else ""
        raise RecipeError(
            f"{path} must have the sections {', '.join(required)}, and of {', '.join(sorted(known))} only; "
            f"got {', '.join(sorted(recipe))}{hint}"
        )
    return expand_variables({name: section for name, section in recipe.items() if name not in NOTES})


def arguments_of(kind: type[Arguments], section: Mapping[str, Any], output_dir: str | os.PathLike) -> Arguments:
    """The `training` section as arguments; `batch_size` is divided among processes and accumulation steps.

    `bf16` is for processors that have it: on a CPU without such instructions it is passed over, with a warning.

    Raises:
        RecipeError: An unknown or impossible value, or a logger that is not installed.
    """
    section = dict(section)
    fields = {field.name for field in dataclasses.fields(kind) if field.init}
    unknown = section.keys() - fields - {"batch_size"}
    if unknown:
        names = ", ".join(did_you_mean(name, sorted(fields | {"batch_size"})) for name in sorted(unknown))
        raise RecipeError(f"training has unknown fields {names}; see {kind.__name__}")
    total = section.pop("batch_size", None)
    if total is not None:
        shares = int(os.environ.get("WORLD_SIZE", "1")) * int(section.get("gradient_accumulation_steps", 1))
        if not isinstance(total, int) or total < 1 or total % shares:
            raise RecipeError(
                f"training.batch_size must be a multiple of {shares}, processes x accumulation, got {total}"
            )
        section["per_device_train_batch_size"] = total // shares
    if "LOCAL_RANK" not in os.environ:  # one process: transformers asks for a process group if it finds a backend
        section.pop("ddp_backend", None)
    if section.get("bf16") and _bfloat16_is_emulated(section):
        logger.warning(
            "training.bf16 is passed over: this CPU has no such instructions and would take many times as long"
        )
        section["bf16"] = False
    if "tensorboard" in str(section.get("report_to")) and not is_tensorboard_available():
        raise RecipeError(
            "training.report_to is tensorboard, which is not installed: pip install 'handmim[train]', or "
            "--set training.report_to=none"
        )
    try:
        return kind(output_dir=str(output_dir), **section)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training: {error}") from error


def release_section(recipe: Mapping[str, Any], *further: str) -> dict[str, Any]:
    """The `release` section, looked at before a run: after it a mistake would cost all that was learned.

    Args:
        recipe: Its `release` may be missing.
        further: Keys that this kind of run knows beside dtype; the caller looks at their values.

    Returns:
        dtype, of torch, by default float32; and those of the further keys that are given.

    Raises:
        RecipeError: Another key, or no such dtype.
    """
    section = recipe.get("release") or {}
    known = ("dtype", *further)
    if not isinstance(section, dict) or section.keys() - set(known):
        raise RecipeError(f"release must be a mapping of {', '.join(known)} only, got {section!r}")
    name = section.get("dtype", RELEASE_DTYPES[0])
    if name not in RELEASE_DTYPES:
        raise RecipeError(f"release.dtype must be one of {', '.join(RELEASE_DTYPES)}, got {name!r}")
    return section | {"dtype": getattr(torch, name)}


def _bfloat16_is_emulated(section: Mapping[str, Any]) -> bool:
    on_cpu = section.get("use_cpu") or not torch.accelerator.is_available()
    return bool(on_cpu) and not has_bfloat16_instructions()


def write_recipe(trainer: RunTrainer, recipe: Mapping[str, Any], output_dir: str | os.PathLike) -> None:
    """Keep the recipe as it is run beside the checkpoints."""
    if trainer.is_world_process_zero():
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with atomic_file(Path(output_dir) / "recipe.yaml") as file:
            file.write(yaml.safe_dump(dict(recipe), sort_keys=False).encode())


def run_as_program(
    module: str,
    description: str,
    prepare: Callable[..., dict[str, Any]],
    run: Callable[..., Any],
    argv: Sequence[str] | None = None,
) -> int:
    """The command line of a module, for torchrun; 0, or 1 after an error of the user's."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    add_run_options(parser)
    options = parser.parse_args(argv)
    keep_freed_memory()
    try:
        run(prepare(options.recipe, roots_of(options), options.settings), options.out)
    except (HandMIMError, OSError, ValueError) as error:
        if options.debug:
            raise
        complain(one_sentence(error))
        return 1
    finally:
        leave_process_group()
    return 0


def leave_process_group() -> None:
    """For the end of a program under torchrun: gloo's threads would outlive the interpreter and abort a good run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
