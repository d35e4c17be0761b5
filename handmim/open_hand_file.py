"""Where the open hand's file is: in the installed package, or in the repository that carries this code.

transformers copies a Hub repository's code, and nothing else, to its module cache. The hand's arrays lie in the same
repository: this module finds them there, of the same commit as the code. The file travels to Hub repositories.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from .errors import ModelError

OPEN_HAND_FILE = "open_hand.safetensors"
ENTRY = "hub_classes"  # of a repository: the file by which all of its classes are entered
# What of `from_pretrained`'s arguments says how the Hub is reached. The commit is the code's own.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
REMOTE_PACKAGE = "transformers_modules"
_HERE = Path(__file__).resolve().parent
_hub_options: ContextVar[dict[str, Any]] = ContextVar("_hub_options", default={})  # noqa: B039 - never changed


def is_remote_code() -> bool:
    """Whether this code came from a repository through `trust_remote_code`, rather than with the package."""
    return __name__.partition(".")[0] == REMOTE_PACKAGE


@contextmanager
def hub_access(options: dict[str, Any]) -> Iterator[None]:
    """Models that are built inside reach the Hub as their `from_pretrained` was told to."""
    token = _hub_options.set({name: options[name] for name in HUB_OPTIONS if options.get(name) is not None})
    try:
        yield
    finally:
        _hub_options.reset(token)


def find_open_hand(source: str | os.PathLike | None = None) -> Path:
    """The open hand's file.

    Args:
        source: Hub id or folder that the model was asked for; matters only where this code came from a repository.

    Raises:
        ModelError: It is not there.
    """
    for file in (_HERE / "assets" / OPEN_HAND_FILE, _HERE / OPEN_HAND_FILE):
        if file.is_file():
            return file
    if source and (Path(source) / OPEN_HAND_FILE).is_file():
        return Path(source) / OPEN_HAND_FILE
    repository = code_repository(_HERE) if is_remote_code() else None
    reason = f"neither beside {_HERE.name} nor in {source}"
    if repository is not None:
        try:
            return Path(cached_file(repository[0], OPEN_HAND_FILE, revision=repository[1], **_hub_options.get()))
        except (OSError, ValueError) as error:
            reason = f"not to be had from {repository[0]} at {repository[1]} ({str(error).splitlines()[0]})"
    raise ModelError(
        f"the open hand's file {OPEN_HAND_FILE} is {reason}; the checkpoint's repository should carry it. "
        "The package has it too: pip install handmim, then import handmim before loading"
    )


def code_repository(folder: Path) -> tuple[str, str] | None:
    """Hub id and commit of the code in a folder of transformers' module cache; None where a local folder was loaded.

    The cache names folders organisation/name/commit, with the characters that Python does not allow spelt out.
    """
    parts = folder.parts
    if REMOTE_PACKAGE not in parts or not re.fullmatch(r"[0-9a-f]{40}", parts[-1]):
        return None
    start = len(parts) - 1 - parts[::-1].index(REMOTE_PACKAGE)
    names = [part.replace("_hyphen_", "-").replace("_dot_", ".") for part in parts[start + 1 : -1]]
    return "/".join(re.sub(r"^_(?=\d)", "", name) for name in names), parts[-1]


def keep_remote_code(folder: str | os.PathLike, config: str) -> None:
    """Saves code that came from a repository with what was built by it, entered by the same file.

    transformers copies the file of the saved class and what that imports, and enters by it: the pipeline would be left
    out, or have another version of the classes that it shares with the model (see `hub_code`).

    Args:
        folder: Where `save_pretrained` has written.
        config: Name of the JSON file there that says where its classes are.
    """
    folder = Path(folder)
    if not (_HERE / f"{ENTRY}.py").is_file():
        return
    for file in _HERE.glob("*.py"):
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    values = json.loads((folder / config).read_text(encoding="utf-8"))
    values["auto_map"] = {
        auto: f"{ENTRY}.{place.rpartition('.')[2]}" for auto, place in values.get("auto_map", {}).items()
    }
    (folder / config).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy_open_hand(folder: str | os.PathLike, source: str | os.PathLike | None = None) -> Path:
    """The open hand's file as part of a folder that carries code; `source` as in `find_open_hand`."""
    target = Path(folder) / OPEN_HAND_FILE
    found = find_open_hand(source)
    if not target.exists() or not target.samefile(found):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, target)
    return target
