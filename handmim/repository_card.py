"""Which card a Hub repository has after an upload: no figures and no licence stay on weights of another checkpoint.

A card of ours ends with a comment: the fingerprints of the weights that it was made for, and of its own text. Where the
text still has its own, nobody has edited it, and it is ours to replace. Any other card is a person's: it stays on its
weights, and is neither thrown away nor laid on others.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import HandMIMError

WEIGHT_FILES = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
# What `publish` writes beside the card, of one checkpoint only.
OF_ONE_CARD = ["evaluation/*.json", "recipe.yaml", "LICENSE-code"]
LICENCE_FILES = "LICENSE*"
_MARK = re.compile(r"\n*<!-- handmim: weights ([0-9a-f]{16}|none), text ([0-9a-f]{16}) -->\s*$")
_METADATA = re.compile(r"---\s*\n(.*?)\n---\s*(\n|$)", re.DOTALL)


class PublishError(HandMIMError, ValueError):
    """A checkpoint that cannot be published, or a Hub that does not take it; the message says what to do."""


# ---------------------------------------------------------------------------------------------------------------------
# Fingerprints


def weights_fingerprint(checksums: Mapping[str, str]) -> str:
    """Of the weights' files among these, each by name with its SHA-256; "none" if there are no weights."""
    lines = sorted(f"{name} {value}" for name, value in checksums.items() if WEIGHT_FILES.fullmatch(name))
    return _digest("\n".join(lines)) if lines else "none"


def folder_fingerprint(folder: Path) -> str:
    """`weights_fingerprint` of a checkpoint's folder."""
    files = [path for path in folder.iterdir() if WEIGHT_FILES.fullmatch(path.name)]
    return weights_fingerprint({path.name: _file_checksum(path) for path in files})


def signed(text: str, weights: str) -> str:
    """A card that says which weights it was made for, and by which anybody sees whether it was edited."""
    return f"{text.rstrip()}\n\n<!-- handmim: weights {weights}, text {_text_digest(text)} -->\n"


def signature(card: str) -> tuple[str | None, bool]:
    """The fingerprint of the weights that a card was made for (None: it does not say), and whether it is untouched."""
    mark = _MARK.search(card)
    if mark is None:
        return None, False
    return mark[1], mark[2] == _text_digest(card[: mark.start()])


def _text_digest(text: str) -> str:
    """The same for line ends of any system."""
    return _digest("\n".join(text.rstrip().splitlines()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# What stays


def card_stays(there: str, new: str, *, told: Collection[str], weights_there: str) -> bool:
    """Whether a repository keeps its card when a checkpoint comes.

    Args:
        there: The repository's card.
        new: The signed card of the checkpoint.
        told: Which of "reports", "notes", "licence", "datasets" and "base_model" the user gave.
        weights_there: Fingerprint of the repository's weights, whose a card is that does not say.

    Raises:
        PublishError: A person edited it, and it is of other weights or says something else than the user.
    """
    if {"reports", "notes"} & set(told):
        return False
    made_for, untouched = signature(there)
    same = (made_for or weights_there) in ("none", signature(new)[0])
    other = contradictions(there, new, told)
    if same and not other:
        return True
    if untouched:
        return False
    why = f"says another {', '.join(other)} than you" if same else "belongs to other weights"
    raise PublishError(
        f"the repository's card was written or edited by hand and {why}; nothing was uploaded. Give --notes (notes=) "
        "or --report (reports=) to have a new card in its place, or edit or delete README.md there"
    )


def contradictions(there: str, new: str, told: Collection[str]) -> list[str]:
    """Which facts two cards state differently; of those that the user gave, and the licence if the new card has one."""
    ours, theirs = _stated(new), _stated(there)
    asked = [name for name in ours if name in told or (name == "licence" and ours[name])]
    return [name for name in asked if ours[name] != theirs[name]]


def stale_patterns(there: str | None, new: str) -> list[str]:
    """What an earlier card had beside it; its licence too, unless the new one is the same."""
    same_licence = there is not None and _stated(there)["licence"] == _stated(new)["licence"]
    return OF_ONE_CARD if same_licence else [*OF_ONE_CARD, LICENCE_FILES]


def _stated(card: str) -> dict[str, list[str]]:
    """Licence, data and origin in a card's metadata; nothing where somebody's metadata cannot be read."""
    import yaml

    block = _METADATA.match(card)
    try:
        values = yaml.safe_load(block[1]) if block else {}
    except yaml.YAMLError:
        values = {}
    values = values if isinstance(values, dict) else {}
    tags = [tag for tag in _words(values.get("tags")) if tag.startswith("trained-on-")]
    return {
        "licence": [*_words(values.get("license")), *_words(values.get("license_name"))],
        "datasets": sorted([*_words(values.get("datasets")), *tags]),
        "base_model": _words(values.get("base_model")),
    }


def _words(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(entry) for entry in (value if isinstance(value, Iterable) and not isinstance(value, str) else [value])]
