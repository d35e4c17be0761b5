"""The checkpoints of the zoo: what each is, how large, under which licence, and where it is to be had.

The table (`assets/zoo.json`) is written by `conversion/build_hub_configs.py` together with `hub_configs/`, whose files
build the models. It lies in the package so that an installed wheel can list it; torch is not needed to read it.
"""

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import ModelError

TABLE = Path(__file__).parent / "assets" / "zoo.json"


@dataclass(frozen=True)
class ZooEntry:
    """One checkpoint.

    Attributes:
        name: Its folder in `hub_configs/`.
        architecture: Public name of the model class.
        image_size: Side of the crop it takes, or, of a detector, of the photo, pixels.
        parameters: Learned numbers in the checkpoint. Of a pre-trained one: of the backbone, all that is released.
        flops: Of one such picture, two for each multiply-add, the fit included, the hand model's arithmetic not.
        licence: SPDX name. Weights that learned from data for research only carry that on.
        hand_model: "open" or "mano"; None where there is no mesh head.
        status: "in the wheel", "on the Hub", "recipe only" (train it yourself) or "config only" (no recipe yet).
        recipe: Name of the recipe that makes it, for `handmim pretrain`, `finetune` or `train-detector`; None: without.
    """

    name: str
    architecture: str
    image_size: int
    parameters: int
    flops: int
    licence: str
    hand_model: str | None
    status: str
    recipe: str | None


@cache
def zoo() -> dict[str, ZooEntry]:
    """All checkpoints by name, in the order of the table."""
    entries = json.loads(TABLE.read_text(encoding="utf-8"))["checkpoints"]
    return {entry["name"]: ZooEntry(**entry) for entry in entries}


def find(name: str) -> ZooEntry:
    """One checkpoint.

    Args:
        name: As in the table, or with an organisation before it ("org/handmim-base-freihand").

    Raises:
        ModelError: There is none of that name; the message lists the near ones.
    """
    short = name.rsplit("/", 1)[-1]
    if short not in zoo():
        near = ", ".join(near_names(name)) or ", ".join(zoo())
        raise ModelError(f"the zoo has no checkpoint {name!r}; did you mean {near}? `handmim info` lists them")
    return zoo()[short]


def near_names(name: str) -> list[str]:
    """Up to three names of the zoo that a misspelt one may mean, the nearest first."""
    return difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), zoo(), n=3, cutoff=0.6)
