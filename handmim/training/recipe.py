"""Recipes: one YAML file a published number, with what a user's machine and wishes change in it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import HandMIMError

RECIPES = Path(__file__).parent / "recipes"
MAX_RECIPE_BYTES = 1 << 20
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number: YAML 1.1 wants 1.0e-4, and would train with a text.

    It has no aliases: a few lines of them make a recipe that fills the memory.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            problem = f"*{alias.anchor} is an alias: a recipe says everything in full"
            raise yaml.composer.ComposerError(None, None, problem, alias.start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class RecipeError(HandMIMError, ValueError):
    """A recipe that is wrong or does not fit its data; the message names the section and what to do."""


def load_recipe(path: str | os.PathLike) -> dict[str, Any]:
    """Read a recipe by path, or by the name of one that comes with the package.

    A recipe with `base: NAME` is another one (beside it, or in the package) with changes: mappings are merged, anything
    else is replaced.

    Raises:
        FileNotFoundError: Neither a file nor a known name; the message lists the names.
        RecipeError: Not a YAML mapping, or bases that lead back to the recipe.
    """
    return _load(Path(path), None, ())


def _load(path: Path, folder: Path | None, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = _find(path, folder)
    if path in seen:
        raise RecipeError(f"{path} is its own base, by way of {', '.join(step.name for step in seen[1:]) or 'itself'}")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path} is larger than {MAX_RECIPE_BYTES >> 20} MiB; a recipe is a short YAML file")
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not a YAML file: {error}") from error
    if not isinstance(recipe, dict):
        raise RecipeError(f"{path} must be a mapping of sections, got {type(recipe).__name__}")
    base = recipe.pop("base", None)
    return recipe if base is None else merge(_load(Path(str(base)), path.parent, (*seen, path)), recipe)


def _find(path: Path, folder: Path | None) -> Path:
    candidates = [path] if folder is None else [folder / path]
    candidates += [candidate.with_name(f"{candidate.name}.yaml") for candidate in candidates]
    for candidate in [*candidates, RECIPES / f"{path.name}.yaml"]:
        if candidate.is_file():
            return candidate.resolve()
    known = ", ".join(recipe_names())
    raise FileNotFoundError(f"no recipe {did_you_mean(str(path), recipe_names())}: give a file, or one of {known}")


def recipe_names() -> list[str]:
    """The recipes in the package; names with _ are what several of them share."""
    return sorted(path.stem for path in RECIPES.glob("[!_]*.yaml"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A name that is not known, with the nearest that is behind it if one is near."""
    near = difflib.get_close_matches(name, known, 1, 0.7)
    return f"{name} (did you mean {near[0]}?)" if near else name


def merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: mappings key by key, everything else replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def apply_settings(recipe: dict[str, Any], settings: Iterable[str]) -> None:
    """Change single values in place: "training.max_steps=4", "data.0.weight=2"; values are read as YAML.

    Raises:
        RecipeError: Not of that form, or a path that leads through something that is no mapping or list.
    """
    for setting in settings:
        path, separator, text = setting.partition("=")
        keys = path.split(".")
        if not separator or not all(keys):
            raise RecipeError(f"--set takes KEY.PATH=VALUE, got {setting!r}")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise RecipeError(f"the value of --set {setting!r} is not YAML: {error}") from error
        parent: Any = recipe
        for key in keys[:-1]:
            if isinstance(parent, dict):
                if parent.get(key) is None:  # also what a recipe takes from its base by null
                    parent[key] = {}
                parent = parent[key]
            else:
                parent = parent[_position(parent, key, setting)]
        if isinstance(parent, dict):
            parent[keys[-1]] = value
        else:
            parent[_position(parent, keys[-1], setting)] = value


def _position(parent: Any, key: str, setting: str) -> int:
    if not isinstance(parent, list) or not key.isdecimal() or int(key) >= len(parent):
        raise RecipeError(f"--set {setting}: there is no {key!r} in {parent!r}")
    return int(key)


def apply_roots(recipe: dict[str, Any], roots: Mapping[str, str]) -> None:
    """Put the folders of `--data NAME=ROOT` into every entry of `data_entries` with that name, in place.

    Raises:
        RecipeError: The recipe uses no data set of that name.
    """
    entries = [entry for entry in data_entries(recipe) if isinstance(entry, dict)]
    for name, root in roots.items():
        named = [entry for entry in entries if entry.get("name") == name]
        if not named:
            known = ", ".join(sorted({str(entry.get("name")) for entry in entries})) or "none"
            raise RecipeError(f"--data {name}={root}: the recipe uses no {name}, but {known}")
        for entry in named:
            entry["root"] = root


def data_entries(recipe: Mapping[str, Any]) -> list[Any]:
    """The entries of `data` and of a detector's `photos`, then that of `validation`."""
    entries = []
    for section in ("data", "photos"):
        found = recipe.get(section) or []
        entries += found if isinstance(found, list) else [found]
    validation = recipe.get("validation")
    return entries + ([validation] if validation else [])


def expand_variables(value: Any, where: str = "") -> Any:
    """A copy in which every `${NAME}` in a string is the environment variable of that name.

    Raises:
        RecipeError: A variable is not set; the message names it and the place in the recipe.
    """
    if isinstance(value, dict):
        return {key: expand_variables(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_variables(item, f"{where}.{position}") for position, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in os.environ:
            how = f"--set {where}=VALUE"
            if where.endswith(".root"):
                how = "--data NAME=FOLDER"
            raise RecipeError(f"{where} of the recipe is {value}: set the environment variable {name}, or give {how}")
    return _VARIABLE.sub(lambda match: os.environ[match[1]], value)
