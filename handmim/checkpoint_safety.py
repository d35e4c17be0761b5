"""What must not leave the machine with a checkpoint: hand-model arrays, pickles, and the paths of a person's folders.

`check_folder` is asked before anything is uploaded. It knows few kinds of files and refuses all others.
"""

import getpass
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import HandMIMError
from .hand_arrays import hand_array_in, hand_array_named, hand_array_shaped
from .open_hand_file import OPEN_HAND_FILE, find_open_hand

PICTURES = (".jpeg", ".jpg", ".png", ".webp")
TEXTS = (".json", ".md", ".py", ".yaml")
LICENCES = ("LICENSE", "LICENSE-code")
PICKLES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
# First bytes of a pickle (protocol 2 to 5), of what numpy and torch write, and of archives.
MAGIC = {b"\x80\x02": "a pickle", b"\x80\x03": "a pickle", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle"}
MAGIC |= {b"\x93NUMPY": "a numpy array", b"PK\x03\x04": "an archive", b"\x1f\x8b": "an archive"}
MAX_TEXT_BYTES = 64 << 20
MAX_TOLD = 8
TEXT_TOLERANCE = 1e-3  # of numbers that were written with four digits or more
_NUMBER = re.compile(r"-?\d+\.\d+(?:[eE][-+]?\d+)?")
_PLACES = "home|Users|root|mnt|media|data|tmp|scratch|work|workspace|private|var|opt|srv|Volumes"
# Of all other absolute paths two parts count. Not in addresses (a part or a slash stands before them), links of a site
# `](/a/b)`, `runs/*/a/b` and `\frac{a}/b`; nor places that all machines have, and what manuals write for them.
_KNOWN = "usr/(?:bin|lib|local|share|include)|path/to|api|v[0-9]+|bin|dev|etc|proc|sys"
_DEEP = rf"(?<![\w./)}}\]\\])(?<!/\*)(?<!\]\()/(?!(?:{_KNOWN})(?![\w.-]))(?:\w[\w.-]+/[\w.-]+|\w/[\w.-]{{3,}})"
_OF_HOME = r"(?<![\w/~])~(?:[A-Za-z][\w-]*)?/[\w-][\w.-]*/[\w.-]+"  # not ~/.cache/...
_OF_SERVER = r"(?<![^\s\"'`(=<])(?:\\\\|\\\\\\\\)[\w.-]{2,}\\{1,2}[\w$.-]{2,}"
_PATH_INSIDE = re.compile(
    rf"(?<![\w.:/])/(?:{_PLACES})/[\w.-]+|\b[A-Za-z]:[\\/]+\w|file://|{_DEEP}|{_OF_HOME}|{_OF_SERVER}"
)
_PATH_ALONE = re.compile(r"/[^/\s]+/?[^\n]*|~[\w.-]*[/\\][^\n]*|[A-Za-z]:[\\/][^\n]*|\\\\[^\n]*")


class UnsafeUploadError(HandMIMError, ValueError):
    """Something in a folder must not be published; the message names the file and what in it."""


def check_folder(folder: Path) -> None:
    """Looks at every file below a folder.

    Raises:
        UnsafeUploadError: Something must not be uploaded; all of it is named.
    """
    found = [fault for path in sorted(folder.rglob("*")) if not path.is_dir() for fault in faults(path, folder)]
    raise_faults(found)


def raise_faults(found: list[str]) -> None:
    """One error for all faults, if there are any."""
    if found:
        more = f"; and {len(found) - MAX_TOLD} more" if len(found) > MAX_TOLD else ""
        raise UnsafeUploadError(f"nothing was uploaded: {'; '.join(found[:MAX_TOLD])}{more}")


def faults(path: Path, folder: Path) -> Iterator[str]:
    """What is wrong with one file of a folder, in words."""
    name = path.relative_to(folder).as_posix()
    kind = "is a link; copy the file" if path.is_symlink() else kind_fault(path)
    if kind is not None:
        yield f"{name} {kind}"
    elif path.name == OPEN_HAND_FILE:
        if _checksum(path) != _checksum(find_open_hand()):
            yield f"{name} is not this package's open hand"
    elif path.suffix == ".safetensors":
        yield from (f"{name}: {fault}" for fault in tensor_faults(path))
    elif path.suffix not in PICTURES:
        yield from (f"{name}: {fault}" for fault in text_faults(path))


def kind_fault(path: Path) -> str | None:
    """What is wrong with a file's kind; None if it is one that a repository may hold."""
    with path.open("rb") as file:
        start = file.read(8)
    magic = next((kind for first, kind in MAGIC.items() if start.startswith(first)), None)
    if re.match(r"mano", path.name, re.IGNORECASE) and path.suffix != ".py":
        return "is named like MANO's licensed files; take it out of the folder"
    if path.suffix.lower() in PICKLES or magic:
        return f"is {magic or 'a file of pickles or arrays'}; only safetensors are published"
    if path.suffix not in (".safetensors", *TEXTS, *PICTURES) and path.name not in LICENCES:
        return "is of a kind that no checkpoint needs; take it out of the folder"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def tensor_faults(path: Path) -> Iterator[str]:
    """Tensors of a safetensors file that are a hand model's, or no numbers; or that the file is damaged."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            if _path_in(" ".join(map(str, (file.metadata() or {}).values()))):
                yield "its metadata holds a path of this machine"
            for name in file.keys():
                tensor = file.get_tensor(name)
                shaped = hand_array_shaped(tuple(tensor.shape))
                numbers = tensor.float().numpy()
                inside = hand_array_in(numbers)
                if inside:
                    yield f"{name} holds the hand model's array {inside!r}, which is not for a checkpoint"
                elif hand_array_named(name) or shaped:
                    why = f"the shape of {shaped!r}" if shaped else "the name"
                    yield f"{name} has {why} of a hand model's array, which is not for a checkpoint"
                elif tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    yield f"{name} holds values that are no numbers"
    except (SafetensorError, OSError, ValueError) as error:
        yield f"it is damaged ({str(error).splitlines()[0]}); save the model again"


# ---------------------------------------------------------------------------------------------------------------------
# Texts


def text_faults(path: Path) -> Iterator[str]:
    """Paths of this machine, its user's name, and arrays written as numbers, each with its key or line."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        yield f"it is larger than {MAX_TEXT_BYTES} bytes"
        return
    try:
        text = path.read_text(encoding="utf-8")
        entries = list(_entries(path.suffix, text))
    except (ValueError, RecursionError) as error:
        yield f"it cannot be read ({str(error).splitlines()[0]})"
        return
    if path.suffix != ".py":  # ours; example paths in comments are nobody's
        for where, value in entries:
            found = _path_in(value) or (path.suffix in (".json", ".yaml") and _path_alone(value))
            if found:
                yield f"{where} holds a path or name of this machine ({found})"
    inside = hand_array_in(np.array(_NUMBER.findall(text), np.float64), TEXT_TOLERANCE)
    if inside:
        yield f"its numbers are the hand model's array {inside!r}"


def _entries(suffix: str, text: str) -> Iterator[tuple[str, str]]:
    """Texts of a file, each with its key (JSON, YAML) or its line."""
    if suffix == ".json":
        yield from _leaves(json.loads(text), "")
    elif suffix == ".yaml":
        import yaml

        try:
            yield from _leaves(yaml.safe_load(text), "")
        except yaml.YAMLError as error:
            raise ValueError(error) from error
    else:
        yield from ((f"line {number}", line) for number, line in enumerate(text.splitlines(), 1))


def _leaves(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            place = f"{where}.{key}" if where else str(key)
            yield place, str(key)
            yield from _leaves(entry, place)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _leaves(entry, f"{where}[{index}]")
    elif isinstance(value, str):
        yield where or "it", value


def _path_in(text: str) -> str | None:
    """A path of somebody's machine inside a text, this machine's home directory, or this user at a machine."""
    home = str(Path.home())
    if len(home) > 1 and re.search(rf"{re.escape(home)}(?![\w.-])", text):
        return home
    user = _user()
    if user and re.search(rf"(?<!\w){re.escape(user)}@[\w-]+", text):
        return f"{user}@"
    found = _PATH_INSIDE.search(text)
    return found[0] if found else None


def _path_alone(text: str) -> str | None:
    """A text that is nothing but an absolute path."""
    return text[:80] if _PATH_ALONE.fullmatch(text.strip()) else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        return ""


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
