"""What every run by a recipe shares: reading the recipe, its `training` section, and the programs for torchrun."""

from __future__ import annotations

import argparse
import dataclasses
import json
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
from .run_data import check_same_data, describe_run, keep_data
from .run_options import add_run_options, roots_of
from .trainer import RunArguments, RunTrainer, last_checkpoint

logger = logging.get_logger(__name__)

Arguments = TypeVar("Arguments", bound=RunArguments)

NOTES = ("description", "commands")
RELEASE_DTYPES = ("float32", "float16", "bfloat16")
# Arguments of which "no" is a value.
STRATEGIES = ("eval_strategy", "logging_strategy", "save_strategy")
RECIPE_FILE = "recipe.yaml"
# What a run may change when it goes on, and what of its `training` it may not.
CHANGEABLE = (*NOTES, "name", "expected", "training", "validation", "release")
OPTIMISERS = ("optim", "timm_optimizer")
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
    # YAML reads no without quotes as false.
    section = {key: "no" if key in STRATEGIES and value is False else value for key, value in section.items()}
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


def train(trainer: RunTrainer, recipe: Mapping[str, Any]) -> None:
    """Run the trainer's steps, from the last checkpoint in its folder if there is one, and keep the recipe there.

    Raises:
        RecipeError: The checkpoints there are of another recipe, other pictures or another seed; nothing is written.
    """
    folder, checkpoint = Path(trainer.args.output_dir), last_checkpoint(trainer.args.output_dir)
    data = describe_run(trainer.train_dataset, trainer.args)
    if checkpoint is not None:
        check_same_run(recipe, folder)
        check_same_data(data, folder)
    if trainer.is_world_process_zero():
        if checkpoint is not None:
            logger.warning(_going_on(Path(checkpoint), trainer.args))
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / RECIPE_FILE) as file:
            file.write(yaml.safe_dump(dict(recipe), sort_keys=False).encode())
        keep_data(data, folder)
    trainer.train(resume_from_checkpoint=checkpoint)


def _going_on(checkpoint: Path, arguments: RunArguments) -> str:
    """What a user is told of a run that is not at its beginning."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    longer = arguments.max_steps <= 0 and arguments.num_train_epochs > state["num_train_epochs"]
    if longer or state["global_step"] < (arguments.max_steps if arguments.max_steps > 0 else state["max_steps"]):
        return f"going on from {checkpoint}"
    return (
        f"nothing is left to train: {checkpoint} is the end of this run. More steps or epochs go on, another --out "
        "begins anew"
    )


def check_same_run(recipe: Mapping[str, Any], folder: Path) -> None:
    """Raises a RecipeError if the checkpoints in a folder are of another recipe than this one.

    How long and how fast it runs may change (`training`, apart from the optimiser; of the seed see `check_same_data`),
    what is measured and released (`validation`, `release`), and where files are.
    """
    try:
        before = yaml.safe_load((folder / RECIPE_FILE).read_bytes())
    except (OSError, yaml.YAMLError):
        return  # checkpoints of another program, or copied without it
    now = yaml.safe_load(yaml.safe_dump(dict(recipe)))
    changed = _differences(_lasting(before), _lasting(now)) if isinstance(before, dict) else []
    if changed:
        shown = "; ".join(f"{name} was {old!r:.60}, and is {new!r:.60} now" for name, old, new in changed[:3])
        raise RecipeError(
            f"{folder} holds checkpoints of another recipe: {shown}. Choose another folder with --out, or remove it; "
            "to go on with other data or another model, name its release as the start (model.checkpoint, "
            "model.pretrained)"
        )


def _lasting(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe a run keeps to its end."""
    sections = {name: section for name, section in recipe.items() if name not in CHANGEABLE}
    return sections | {name: (recipe.get("training") or {}).get(name) for name in OPTIMISERS}


def _differences(before: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, value before, value now) of what differs; paths do not count, which are those of a machine."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(key, before.get(key), now.get(key)) for key in dict.fromkeys([*before, *now])]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(key, *pair) for key, pair in enumerate(zip(before, now, strict=True))]
    else:
        moved = name.endswith(".root") or all(isinstance(value, str) and os.sep in value for value in (before, now))
        return [] if before == now or moved else [(name, before, now)]
    return [found for key, *values in pairs for found in _differences(*values, f"{name}.{key}".lstrip("."))]


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
